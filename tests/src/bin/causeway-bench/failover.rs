//! What a failure costs: pings between hosts of the forty-host lab go on while a controller, an agent, a leaf's sessions
//! and a spine die. The controller and the agents are not in the way of packets: their loss must cost none.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use causeway_tests::lab::{Lab, Switches};
use causeway_tests::traffic::Pings;
use causeway_tests::wait_for;

use crate::report::{Aim, Report};

const INTERVAL: Duration = Duration::from_millis(10);
/// Answers in a row after which a failure is over.
const SETTLED: usize = 300;
const SOON: Duration = Duration::from_secs(120);
const HOSTS: usize = 40;
/// Hosts between which pings go, each pair behind two leaves.
const PAIRS: [(usize, usize); 4] = [(1, 11), (12, 22), (23, 33), (34, 4)];
/// Names of our processes, of which the kernel keeps 15 bytes.
const CONTROLLER: &str = "causeway-contro";
const AGENT: &str = "causeway-agent";

pub(crate) async fn run(report: &mut Report) -> Result<()> {
    let start = Instant::now();
    let lab = Lab::up("scale-40", Switches::Frr10).await?;
    report.add("scale-40: lab up", start.elapsed().as_secs_f64(), "s", Aim::Below(180.0));
    lab.apply("ctl").await?;
    let start = Instant::now();
    workloads(&lab).await?;
    let seconds = start.elapsed().as_secs_f64();
    report.add("scale-40: 40 ports, from the request until all are advertised", seconds, "s", Aim::None);
    let pairs = addresses(&lab).await?;

    measure(report, &lab, &pairs, "the controller dies (kill -9) and returns", Aim::Below(1.0), async || {
        kill(&lab, "ctl", CONTROLLER).await?;
        let run =
            "setsid -f causeway-controller --config /etc/causeway/controller.yaml >> /tmp/again.log 2>&1";
        lab.shell("ctl", run).await?;
        wait_for("the controller's sessions", SOON, async || {
            let peers = lab.json("ctl", &["causeway", "bgp", "peers", "-o", "json"]).await?;
            let peers = peers["peers"].as_array().context("no peers")?;
            let up = peers.iter().filter(|p| p["state"] == "Established" && p["queue"] == 0).count();
            ensure!(up == peers.len() && up > 0, "{up} of {}", peers.len());
            Ok(())
        })
        .await
    })
    .await?;
    measure(report, &lab, &pairs, "host1's agent dies (kill -9) and returns", Aim::Below(1.0), async || {
        let environment = lab
            .shell("host1", "tr '\\0' '\\n' < /proc/1/environ | grep ^CAUSEWAY_ || env | grep ^CAUSEWAY_")
            .await?;
        kill(&lab, "host1", AGENT).await?;
        let set: Vec<&str> = environment.lines().filter(|l| l.starts_with("CAUSEWAY_")).collect();
        let run =
            format!("{} CAUSEWAY_NODE=host1 setsid -f causeway-agent >> /tmp/again.log 2>&1", set.join(" "));
        lab.shell("host1", &run).await?;
        agents(&lab, HOSTS).await
    })
    .await?;
    measure(
        report,
        &lab,
        &pairs,
        "leaf2's bgpd dies (kill -9) and watchfrr starts it again",
        Aim::None,
        async || {
            kill(&lab, "leaf2", "bgpd").await?;
            sessions(&lab, "leaf2", 2).await
        },
    )
    .await?;
    measure(report, &lab, &pairs, "leaf1 clears its sessions", Aim::None, async || {
        lab.exec("leaf1", &["vtysh", "-c", "clear bgp *"]).await?;
        sessions(&lab, "leaf1", 2).await
    })
    .await?;
    measure(report, &lab, &pairs, "a spine loses power", Aim::None, async || {
        let nodes = lab.inspect().await?;
        let spine = nodes.iter().find(|n| n["name"].as_str().is_some_and(|n| n.ends_with("-spine1")));
        let pid = spine.and_then(|n| n["container_id"].as_str()).context("no spine1")?;
        let pid = nix::unistd::Pid::from_raw(pid.parse().context("no process number")?);
        nix::sys::signal::kill(pid, nix::sys::signal::Signal::SIGKILL)?;
        sessions(&lab, "leaf1", 1).await
    })
    .await?;
    lab.down().await
}

/// One workload a host, all advertised.
async fn workloads(lab: &Lab) -> Result<()> {
    for host in 1..=HOSTS {
        lab.exec(&format!("host{host}"), &["ip", "netns", "add", "w"]).await?;
    }
    agents(lab, HOSTS).await?;
    let creates = (1..=HOSTS).map(|host| {
        format!("causeway port create web/w{host} --bind-node host{host} --netns /run/netns/w > /dev/null")
    });
    lab.shell("ctl", &format!("set -e; {}", creates.collect::<Vec<_>>().join("; "))).await?;
    wait_for("all ports are advertised", SOON, async || {
        let ports = lab.json("ctl", &["causeway", "port", "list", "-o", "json"]).await?;
        let ports = ports.as_array().context("no list")?;
        let there = ports.iter().filter(|p| p["state"] == "advertised").count();
        ensure!(there == HOSTS, "{there} of {HOSTS}");
        Ok(())
    })
    .await
}

async fn agents(lab: &Lab, wanted: usize) -> Result<()> {
    wait_for("all agents are connected", SOON, async || {
        let nodes = lab.json("ctl", &["causeway", "node", "list", "-o", "json"]).await?;
        let nodes = nodes["nodes"].as_array().or(nodes.as_array()).context("no nodes")?;
        let there = nodes.iter().filter(|n| n["connected"] == true).count();
        ensure!(there == wanted, "{there} of {wanted}");
        Ok(())
    })
    .await
}

async fn addresses(lab: &Lab) -> Result<Vec<(String, String)>> {
    let mut pairs = Vec::new();
    for (from, to) in PAIRS {
        let port = lab.json("ctl", &["causeway", "get", "port", &format!("web/w{to}"), "-o", "json"]).await?;
        let address = port["addresses"][0].as_str().context("no address")?;
        pairs.push((format!("host{from}"), address.to_owned()));
    }
    Ok(pairs)
}

async fn kill(lab: &Lab, node: &str, process: &str) -> Result<()> {
    lab.exec(node, &["pkill", "-KILL", "-x", process]).await.map(drop)
}

/// So many of a switch's EVPN sessions are established.
async fn sessions(lab: &Lab, node: &str, wanted: usize) -> Result<()> {
    wait_for(&format!("{wanted} sessions of {node}"), SOON, async || {
        let summary = lab.json(node, &["vtysh", "-c", "show bgp l2vpn evpn summary json"]).await?;
        let peers = summary["peers"].as_object().context("no peers")?;
        let up = peers.values().filter(|p| p["state"] == "Established").count();
        ensure!(up == wanted, "{up} are established");
        Ok(())
    })
    .await
}

/// Pings while `event` happens and until all is well again; the worst pair counts.
async fn measure(
    report: &mut Report,
    lab: &Lab,
    pairs: &[(String, String)],
    what: &str,
    aim: Aim,
    event: impl AsyncFnOnce() -> Result<()>,
) -> Result<()> {
    let mut pings = Vec::new();
    for (host, target) in pairs {
        pings.push(Pings::start(lab, host, "w", target, INTERVAL).await?);
    }
    for ping in &pings {
        ping.settle(SETTLED / 3).await?;
    }
    event().await?;
    let (mut lost, mut gap) = (0, Duration::ZERO);
    for ping in &pings {
        ping.settle(SETTLED).await?;
        let loss = ping.loss()?;
        println!(
            "  {}: {} answered, {} lost, longest gap {} ms",
            ping.who(),
            loss.answered,
            loss.lost,
            loss.gap.as_millis()
        );
        lost = lost.max(loss.lost);
        gap = gap.max(loss.gap);
    }
    report.add(&format!("{what}: lost by the worst of {} flows", pings.len()), lost as f64, "packets", aim);
    report.add(&format!("{what}: longest gap"), gap.as_secs_f64() * 1e3, "ms", Aim::None);
    Ok(())
}
