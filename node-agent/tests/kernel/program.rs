//! The program itself in a namespace: dry run, headless start, end, cleanup.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_agent::journal::Journal;
use causeway_proto::v1;
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::host::{Host, PATIENCE, assert_settled, state};
use crate::netns::{Netns, wait_for};

#[tokio::test]
async fn headless_start_dry_run_end_and_cleanup() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    host.stop();
    let w5 = Netns::new("w5")?;
    let mut wanted = state(&host, 5, &w5, 6, "192.0.2.2");
    wanted.node = "h1".into();
    wanted.remotes.push(v1::RemoteMac { mac: "nonsense".into(), ..wanted.remotes[0].clone() });
    let dir = tempfile::tempdir()?;
    Journal::open(dir.path())?.0.write_snapshot(&wanted)?;
    let agent = env!("CARGO_BIN_EXE_causeway-agent");
    let flags = format!("--state-dir {}", dir.path().display());
    let start = format!("{agent} --node h1 --controllers 127.0.0.1:1 {flags}");

    let shown: serde_json::Value = serde_json::from_str(&host.netns.run(&format!("{agent} state {flags}"))?)?;
    ensure!(shown["ports"][0]["interface"] == "eth0", "{shown}");

    // Prints what it would do and touches nothing.
    let printed = host.netns.run(&format!("{start} --dry-run"))?;
    ensure!(printed.contains("ip link add name cwb100"), "{printed}");
    ensure!(printed.contains("# problem: remote MAC nonsense of VNI 100: mac: 'nonsense'"), "{printed}");
    ensure!(!host.netns.run("ip -o link")?.contains("cwb100"));

    // The printed commands are real: run by hand they leave the agent nothing but its announcement to do.
    for line in printed.lines().filter(|l| !l.starts_with('#') && !l.contains("arping")) {
        let line = line.replace('\'', "").replace(" neigh_forward_grat on", "");
        // iproute2 6.1 prints these two but cannot set the protocol of an address.
        let line = match line.contains("address add") {
            true => line.replace(" proto 77", ""),
            false => line,
        };
        host.netns.run(&line)?;
    }
    let left: Vec<String> = host.look(&wanted)?.ops.iter().map(ToString::to_string).collect();
    let known = |l: &&String| l.contains("neigh_forward_grat");
    ensure!(left.iter().all(|l| known(&l)), "left: {left:#?}");

    host.netns.run(&format!("{agent} cleanup"))?;
    ensure!(!host.look(&wanted)?.ops.is_empty());

    // Headless: only the state on disk, no controller.
    let mut child = host.netns.spawn(&start)?;
    wait_for("settled", PATIENCE, || Ok(assert_settled(&host.look(&wanted)?).is_ok())).await?;
    let stable = "ip -o link";
    let before = host.netns.run(stable)?;
    kill(Pid::from_raw(i32::try_from(child.id())?), Signal::SIGTERM)?;
    let ended = wait_for("end", Duration::from_secs(5), || Ok(child.try_wait()?.is_some())).await?;
    let status = child.wait()?;
    ensure!(status.success(), "{status}");
    eprintln!("ended {ended:?} after SIGTERM");
    ensure!(host.netns.run(stable)? == before, "the end touched the data plane");
    assert_settled(&host.look(&wanted)?)?;

    // Cleanup takes what is ours and nothing else.
    host.netns.run("ip link add br0 type bridge")?;
    let would = host.netns.run(&format!("{agent} cleanup --dry-run"))?;
    ensure!(would.lines().count() == 3, "{would}");
    ensure!(host.netns.run("ip -o link")?.contains("cwb100"), "a dry run touched something");
    ensure!(host.netns.run(&format!("{agent} cleanup"))? == would);
    let links = host.netns.run("ip -o link")?;
    ensure!(!links.contains("cw") && links.contains("br0"), "{links}");
    w5.run("ip link show dev lo").context("workload's namespace stays")?;
    ensure!(w5.run("ip link show dev eth0").is_err());
    ensure!(host.netns.run(&format!("{agent} cleanup"))?.is_empty());
    Ok(())
}
