//! Controllers and agents are restarted, killed and replaced while traffic flows: nobody may notice. Counted in the kernel
//! of every leaf (netlink events of the FDB) and by pings every 20 ms.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_tests::lab::{Lab, Switches};
use causeway_tests::process::Daemon;
use causeway_tests::traffic::Pings;
use causeway_tests::wait_for;

const SOON: Duration = Duration::from_secs(30);
const LEAVES: [&str; 2] = ["leaf1", "leaf2"];
/// Names of our processes, of which the kernel keeps 15 bytes.
const CONTROLLER: &str = "causeway-contro";
const AGENT: &str = "causeway-agent";
/// Pings answered after a controller is back, 20 ms apart: what its return sets off late must show.
const AFTER: usize = 250;
/// The bare-metal server behind leaf2's own VTEP: traffic to it crosses the leaf's FDB.
const SERVER: &str = "10.100.0.250";

/// A lab with one workload a host, everybody known everywhere.
async fn bring_up(lab: &str, switches: Switches, controller: &str) -> Result<Lab> {
    let lab = Lab::up(lab, switches).await?;
    lab.apply(controller).await?;
    for (node, workload) in [("host1", "web-1"), ("host2", "db-1")] {
        lab.exec(node, &["ip", "netns", "add", workload]).await?;
        let (port, netns) = (format!("web/{workload}"), format!("/run/netns/{workload}"));
        let create =
            ["port", "create", &port, "--bind-node", node, "--netns", &netns, "--wait", "advertised"];
        lab.exec(controller, &[&["causeway"], &create[..]].concat()).await?;
        wait_for(&format!("{workload} reaches the server"), SOON, async || {
            lab.exec(node, &["ip", "netns", "exec", workload, "ping", "-c", "1", "-W", "1", SERVER]).await
        })
        .await?;
    }
    Ok(lab)
}

/// What is counted while something is done to a controller.
struct Watch {
    fdb: Vec<(&'static str, Daemon)>,
    pings: Vec<Pings>,
}

impl Watch {
    async fn start(lab: &Lab) -> Result<Watch> {
        let mut fdb = Vec::new();
        for leaf in LEAVES {
            fdb.push((leaf, lab.spawn(leaf, &["stdbuf", "-oL", "bridge", "monitor", "fdb"])?));
        }
        let mut pings = Vec::new();
        for (node, workload) in [("host1", "web-1"), ("host2", "db-1")] {
            pings.push(Pings::start(lab, node, workload, SERVER, Duration::from_millis(20)).await?);
        }
        Ok(Watch { fdb, pings })
    }

    /// Ends it, some seconds later: no FDB entry was deleted on any leaf and no ping lost.
    async fn nothing_happened(self) -> Result<()> {
        for pings in &self.pings {
            pings.settle(AFTER).await?;
            let loss = pings.loss()?;
            println!("{}: {loss:?}", pings.who());
            ensure!(loss.lost == 0, "{}: {loss:?}", pings.who());
        }
        for (leaf, monitor) in &self.fdb {
            let log = monitor.log();
            let deleted: Vec<_> = log.lines().filter(|l| l.starts_with("Deleted")).collect();
            println!("{leaf}: {} FDB deletions", deleted.len());
            ensure!(deleted.is_empty(), "{leaf} deleted FDB entries: {deleted:#?}");
        }
        Ok(())
    }
}

async fn stop(lab: &Lab, node: &str, process: &str, signal: &str) -> Result<()> {
    lab.exec(node, &["pkill", signal, "-x", process]).await?;
    wait_for(&format!("{process} on {node} is gone"), SOON, async || {
        let left = lab.shell(node, &format!("pgrep -x {process} || true")).await?;
        ensure!(left.trim().is_empty(), "still there: {left}");
        Ok(())
    })
    .await
}

/// Starts the controller again, from another copy of the program where `upgrade` is asked for, and waits until the
/// fabric has its routes from it and nothing is left from before.
async fn start(lab: &Lab, controller: &str, upgrade: bool) -> Result<()> {
    let program = if upgrade { "/usr/local/bin/next/causeway-controller" } else { "causeway-controller" };
    let copy = "mkdir -p /usr/local/bin/next && cp $(command -v causeway-controller) /usr/local/bin/next/";
    let run = format!("setsid -f {program} --config /etc/causeway/controller.yaml >> /tmp/again.log 2>&1");
    lab.shell(controller, &format!("{copy} && {run}")).await?;
    wait_for(&format!("the controller on {controller} is back in the fabric"), SOON, async || {
        let peers = lab.json(controller, &["causeway", "bgp", "peers", "-o", "json"]).await?;
        let peer = &peers["peers"][0];
        ensure!(peer["state"] == "Established" && peer["queue"] == 0, "{peer}");
        ensure!(peer["routes_sent"].as_u64() > Some(0), "{peer}");
        Ok(())
    })
    .await?;
    wait_for("no route on the spine is stale", SOON, async || {
        let routes = lab.exec("spine1", &["vtysh", "-c", "show bgp l2vpn evpn"]).await?;
        let stale =
            routes.lines().filter(|l| l.trim_start().starts_with("S ") || l.starts_with("S*")).count();
        ensure!(stale == 0, "{stale} stale routes");
        Ok(())
    })
    .await
}

/// FRR 10.6 and newer keep EVPN routes over a graceful restart: a lone controller may go and come back.
#[tokio::test]
async fn a_lone_controller_restarts_without_a_trace_on_frr_10() -> Result<()> {
    let lab = bring_up("quickstart", Switches::Frr10, "ctl").await?;
    for (what, signal, upgrade) in
        [("restart", "-TERM", false), ("kill -9", "-KILL", false), ("upgrade", "-TERM", true)]
    {
        println!("== {what}");
        let watch = Watch::start(&lab).await?;
        stop(&lab, "ctl", CONTROLLER, signal).await?;
        start(&lab, "ctl", upgrade).await?;
        watch.nothing_happened().await?;
    }
    Ok(())
}

/// FRR 8.4 forgets the routes of a peer that is gone, so there are two of them, with the same routes under their own
/// route distinguishers.
async fn either_of_two_controllers_may_die(switches: Switches) -> Result<()> {
    let lab = bring_up("two-controllers", switches, "ctl1").await?;
    for (killed, other) in [("ctl1", "ctl2"), ("ctl2", "ctl1")] {
        println!("== kill -9 of {killed}");
        let watch = Watch::start(&lab).await?;
        stop(&lab, killed, CONTROLLER, "-KILL").await?;
        wait_for("the spine has noticed", SOON, async || {
            let summary = lab.json("spine1", &["vtysh", "-c", "show bgp l2vpn evpn summary json"]).await?;
            let peers = summary["peers"].as_object().context("no peers")?;
            let down = peers.values().filter(|p| p["state"] != "Established").count();
            ensure!(down == 1, "{down} sessions are down");
            Ok(())
        })
        .await?;
        // The one that is left serves the API.
        lab.exec(other, &["causeway", "port", "create", &format!("web/after-{killed}")]).await?;
        start(&lab, killed, false).await?;
        watch.nothing_happened().await?;
    }
    Ok(())
}

#[tokio::test]
async fn either_of_two_controllers_may_die_on_frr_8() -> Result<()> {
    either_of_two_controllers_may_die(Switches::Frr8).await
}

#[tokio::test]
async fn either_of_two_controllers_may_die_on_frr_10() -> Result<()> {
    either_of_two_controllers_may_die(Switches::Frr10).await
}

/// Everything an agent has programmed outlives it, and nothing is made again when it is back.
#[tokio::test]
async fn an_agent_may_die_and_return() -> Result<()> {
    let lab = bring_up("quickstart", Switches::Frr8, "ctl").await?;
    let links = "ip -o link show group 77 | cut -d: -f1 | sort";
    for signal in ["-TERM", "-KILL"] {
        println!("== {signal}");
        let before = lab.shell("host1", links).await?;
        ensure!(before.lines().count() >= 3, "bridge, VXLAN and port are not there: {before}");
        let watch = Watch::start(&lab).await?;
        stop(&lab, "host1", AGENT, signal).await?;
        wait_for("the controller misses the agent", SOON, async || connected(&lab, false).await).await?;
        let start = "CAUSEWAY_NODE=host1 CAUSEWAY_CONTROLLERS=http://10.254.0.9:7480 \
                     setsid -f causeway-agent >> /tmp/again.log 2>&1";
        lab.shell("host1", start).await?;
        wait_for("the agent is back", SOON, async || connected(&lab, true).await).await?;
        watch.nothing_happened().await?;
        let after = lab.shell("host1", links).await?;
        ensure!(before == after, "links were made again: {before} {after}");
    }
    Ok(())
}

async fn connected(lab: &Lab, wanted: bool) -> Result<()> {
    let nodes = lab.json("ctl", &["causeway", "node", "list", "-o", "json"]).await?;
    let list = nodes["nodes"].as_array().or(nodes.as_array()).context("no nodes")?;
    let host = list.iter().find(|n| n["node"]["name"] == "host1").context("no host1")?;
    ensure!(host["connected"] == wanted, "{host}");
    Ok(())
}
