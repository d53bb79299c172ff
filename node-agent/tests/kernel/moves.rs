//! The host's own addresses move to the bridge, and back when nobody can be reached.

use std::process::{Child, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_agent::journal::Journal;
use causeway_proto::v1;

use crate::lan::{Wire, attached, host_state, reach};
use crate::netns::{Netns, wait_for};

/// Longer than a move is given.
const TRIAL: Duration = Duration::from_secs(25);

/// Something that accepts connections in a namespace, as a controller would.
struct Listener(Child);

impl Listener {
    fn start(netns: &Netns) -> Result<Self> {
        let script =
            "import socket\ns=socket.create_server(('10.8.0.102',7480))\nwhile True: s.accept()[0].close()";
        let child = std::process::Command::new("ip")
            .args(["netns", "exec", &netns.name, "python3", "-c", script])
            .stdout(Stdio::null())
            .spawn()?;
        Ok(Listener(child))
    }
}

impl Drop for Listener {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// The agent's program in a namespace.
struct Agent(Child);

impl Drop for Agent {
    fn drop(&mut self) {
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

struct Site {
    wire: Wire,
    workload: Netns,
    dir: tempfile::TempDir,
    listener: Option<Listener>,
}

impl Site {
    /// Host `a` with addresses and a default route on its uplink, and what stands for a controller on `b`.
    async fn new() -> Result<Self> {
        let mut wire = Wire::new()?;
        wire.a.stop();
        wire.b.stop();
        for (n, host) in [(101, &wire.a.netns), (102, &wire.b.netns)] {
            host.run(&format!("ip address add 10.8.0.{n}/24 dev eth1"))?;
            host.run(&format!("ip address add fd00:8::{n}/64 dev eth1 nodad"))?;
        }
        wire.a.netns.run("ip route add default via 10.8.0.102 metric 77")?;
        wire.a.netns.run("ip -6 route add default via fd00:8::102")?;
        let listener = Some(Listener::start(&wire.b.netns)?);
        let a = wire.a.netns.name.clone();
        let probe = "import socket; socket.create_connection(('10.8.0.102',7480),1)";
        wait_for("listener", Duration::from_secs(20), || {
            let probe = std::process::Command::new("ip")
                .args(["netns", "exec", &a, "python3", "-c", probe])
                .stderr(Stdio::null())
                .status()?;
            Ok(probe.success())
        })
        .await?;
        Ok(Site { wire, workload: Netns::new("w5")?, dir: tempfile::tempdir()?, listener })
    }

    fn state(&self) -> v1::NodeState {
        let ports = vec![attached(5, &self.workload, v1::Attachment::Bridge)];
        v1::NodeState { node: "h1".into(), move_addresses: true, ..host_state(1, ports) }
    }

    fn start(&self, state: &v1::NodeState) -> Result<Agent> {
        Journal::open(self.dir.path())?.0.write_snapshot(state)?;
        let dir = self.dir.path().display().to_string();
        let child = std::process::Command::new("ip")
            .args(["netns", "exec", &self.wire.a.netns.name, env!("CARGO_BIN_EXE_causeway-agent")])
            .args(["--node", "h1", "--controllers", "10.8.0.102:7480", "--state-dir", &dir])
            .stderr(Stdio::null())
            .spawn()?;
        Ok(Agent(child))
    }

    fn file(&self, name: &str) -> bool {
        self.dir.path().join(name).exists()
    }

    /// On which link the host's addresses and routes are.
    fn addresses_on(&self, dev: &str) -> Result<bool> {
        let host = &self.wire.a.netns;
        let own = host.run("ip -o address")?;
        let on = |ip: &str| own.lines().any(|l| l.contains(ip) && l.contains(&format!(" {dev} ")));
        let v4 = host.run("ip route show default")?.contains(&format!("via 10.8.0.102 dev {dev} metric 77"));
        let v6 = host.run("ip -6 route show default")?.contains(&format!("via fd00:8::102 dev {dev}"));
        Ok(on("10.8.0.101/24") && on("fd00:8::101/64") && v4 && v6)
    }

    async fn wait_on(&self, dev: &str) -> Result<()> {
        let what = format!("addresses on {dev}");
        let waited = wait_for(&what, TRIAL, || self.addresses_on(dev)).await;
        waited.map(|_| ()).with_context(|| self.wire.a.netns.run("ip -o address").unwrap_or_default())
    }
}

#[tokio::test]
async fn addresses_move_for_good_when_a_controller_answers_and_come_back_with_the_last_port() -> Result<()> {
    let site = Site::new().await?;
    let ping = site.wire.b.netns.spawn("ping -n -i 0.01 -c 300 10.8.0.101")?;
    let agent = site.start(&site.state())?;
    site.wait_on("cwb100").await?;
    wait_for("confirmed", TRIAL, || Ok(!site.file("move.pending"))).await?;
    let pinged = String::from_utf8(ping.wait_with_output()?.stdout)?;
    ensure!(pinged.contains(" 0% packet loss"), "{pinged}");
    eprintln!("{}", pinged.lines().filter(|l| l.contains("loss")).collect::<String>());
    ensure!(!site.file("move.failed") && site.addresses_on("cwb100")?);
    // The host, its container and the other host.
    reach(&site.wire.a.netns, "10.8.0.5", "fd00:8::5").await?;
    reach(&site.workload, "10.8.0.101", "fd00:8::101").await?;
    reach(&site.wire.b.netns, "10.8.0.5", "fd00:8::5").await?;
    reach(&site.wire.b.netns, "10.8.0.101", "fd00:8::101").await?;
    drop(agent);
    ensure!(site.addresses_on("cwb100")?, "the end of the agent changes nothing");
    // The last port goes.
    let ping = site.wire.b.netns.spawn("ping -n -i 0.01 -c 300 10.8.0.101")?;
    let _agent = site.start(&v1::NodeState { ports: vec![], revision: 2, ..site.state() })?;
    site.wait_on("eth1").await?;
    wait_for("bridge gone", TRIAL, || Ok(site.wire.a.netns.run("ip link show dev cwb100").is_err())).await?;
    let pinged = String::from_utf8(ping.wait_with_output()?.stdout)?;
    // A port that leaves its bridge is deaf for a moment.
    let received = pinged.split(" received").next().and_then(|t| t.rsplit(' ').next()).unwrap_or("0");
    ensure!(received.parse::<u32>()? >= 298, "{pinged}");
    reach(&site.wire.b.netns, "10.8.0.101", "fd00:8::101").await
}

#[tokio::test]
async fn addresses_come_back_when_no_controller_answers() -> Result<()> {
    let mut site = Site::new().await?;
    let agent = site.start(&site.state())?;
    // As soon as the move is on record, nobody answers any more.
    wait_for("record", TRIAL, || Ok(site.file("move.pending"))).await?;
    site.listener = None;
    site.wait_on("cwb100").await?;
    site.wait_on("eth1").await?;
    wait_for("failure on record", TRIAL, || Ok(site.file("move.failed"))).await?;
    reach(&site.wire.b.netns, "10.8.0.101", "fd00:8::101").await?;
    // It is said, and not tried again, also by the next agent.
    drop(agent);
    site.listener = Some(Listener::start(&site.wire.b.netns)?);
    let problem = |host: &Netns, dir: &str| {
        host.run(&format!(
            "{} --node h1 --controllers 10.8.0.102:7480 --state-dir {dir} --dry-run",
            env!("CARGO_BIN_EXE_causeway-agent")
        ))
    };
    let dir = site.dir.path().display().to_string();
    let said = problem(&site.wire.a.netns, &dir)?;
    ensure!(
        said.contains("were moved to cwb100 and back again: no controller answered within 10 s"),
        "{said}"
    );
    let _agent = site.start(&site.state())?;
    ensure!(site.addresses_on("eth1")?);
    Ok(())
}

#[tokio::test]
async fn addresses_come_back_when_the_agent_is_killed() -> Result<()> {
    let mut site = Site::new().await?;
    let agent = site.start(&site.state())?;
    wait_for("record", TRIAL, || Ok(site.file("move.pending"))).await?;
    // Otherwise it might be confirmed before the agent is dead.
    site.listener = None;
    site.wait_on("cwb100").await?;
    drop(agent);
    // Nothing of the agent is left but the child that waits for its end.
    site.wait_on("eth1").await?;
    wait_for("failure on record", TRIAL, || Ok(site.file("move.failed"))).await?;
    reach(&site.wire.b.netns, "10.8.0.101", "fd00:8::101").await
}
