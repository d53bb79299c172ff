//! Steps that the kernel refuses each time, and says so with events.

use std::fmt::Write as _;
use std::io::Write as _;
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;

use crate::host::PATIENCE;
use crate::lan::{Wire, attached, host_state, reach, settle};
use crate::netns::Netns;

/// Ports of a bridge, at most (`BR_MAX_PORTS` less one).
const FULL: usize = 1023;

/// Makes others' pairs until the bridge takes no more.
fn fill(netns: &Netns, bridge: &str) -> Result<()> {
    let members = netns.run(&format!("ip -o link show master {bridge}"))?.lines().count();
    let mut lines = String::new();
    for n in members..FULL {
        writeln!(lines, "link add other{n} type veth peer name peer{n}\nlink set other{n} master {bridge}")?;
    }
    let mut command = Command::new("ip");
    command.args(["-n", &netns.name, "-batch", "-"]).stdin(Stdio::piped());
    let mut batch = command.spawn()?;
    batch.stdin.take().context("stdin")?.write_all(lines.as_bytes())?;
    let status = batch.wait()?;
    ensure!(status.success(), "ip -batch: {status}");
    Ok(())
}

/// The kernel makes the pair, finds no room for it in the bridge and deletes it: each attempt leaves events.
#[tokio::test]
async fn a_port_for_which_a_bridge_has_no_room_is_reported_and_not_tried_all_the_time() -> Result<()> {
    let mut wire = Wire::new()?;
    let (w5, w6) = (Netns::new("w5")?, Netns::new("w6")?);
    let ports = [attached(5, &w5, v1::Attachment::Bridge), attached(6, &w6, v1::Attachment::Bridge)];
    let state = host_state(1, ports[..1].to_vec());
    settle(&mut wire.a, &state).await?;
    wire.a.stop();
    fill(&wire.a.netns, "cwb100")?;
    wire.a.start()?;
    let state = v1::NodeState { revision: 2, ports: ports.to_vec(), ..state };
    wire.a.set(&state).await?;
    wire.a.wait_port("default/n100/p6", 1, "type veth").await?;
    let begin = Instant::now();
    let progress = &mut wire.a.plane()?.progress;
    // How many there were depends on how long the machine takes to look at a thousand links.
    let last = (progress.borrow().failures + 2).max(6);
    let failed = tokio::time::timeout(PATIENCE, progress.wait_for(|p| p.failures >= last)).await;
    failed.context("tried no more")??;
    // 100 ms after the first and twice as long after each, up to a quarter less.
    let least = Duration::from_millis(75) * (1 << (last - 2));
    let took = begin.elapsed();
    ensure!(took >= least, "attempt {last} after {took:?}");
    ensure!(progress.borrow().problems == 1, "{:?}", progress.borrow());
    // Room is made.
    wire.a.netns.run(&format!("ip link del other{}", FULL - 1))?;
    wire.a.wait_port("default/n100/p6", 1, "").await?;
    reach(&w6, "10.8.0.5", "fd00:8::5").await
}
