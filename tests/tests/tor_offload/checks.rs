//! What needs no capture: readiness, pings, TCP, the controller's own words, logs.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_tests::{Lab, wait_for};

use crate::matrix::ping;
use crate::party::{Parties, Party};

const LEAVES: [&str; 3] = ["leaf1", "leaf2", "leaf3"];
/// Bytes of a TCP transfer: more than a few full segments.
const LOAD: usize = 40_000;

/// Sessions, tunnels, the other leaves' routers; then the controller's resources.
pub(crate) async fn fabric_is_up(lab: &Lab) -> Result<()> {
    lab.apply("ctl").await?;
    for leaf in LEAVES {
        wait_for(
            &format!("{leaf} has its tunnels and the type 5 prefixes"),
            Duration::from_secs(90),
            async || {
                let ask = "vtysh -c 'show evpn vni json'; ip route show vrf red; ip -6 route show vrf red";
                let said = lab.shell(leaf, ask).await?;
                for part in ["10010", "10020", "4001", "172.31.0.0/16", "fd31::/48"] {
                    ensure!(said.contains(part), "nothing of {part} in: {said}");
                }
                Ok(())
            },
        )
        .await?;
    }
    let established = wait_for("the controller's sessions", Duration::from_secs(60), async || {
        let peers = lab.json("ctl", &["causeway", "bgp", "peers", "-o", "json"]).await?;
        let text = peers.to_string();
        let count = text.matches("Established").count();
        ensure!(count == 2, "{text}");
        Ok(count)
    });
    established.await.map(drop)
}

/// A container on a bridge, one on a macvlan, a machine: each to the others, and how many packets that took.
pub(crate) async fn one_network(lab: &Lab, parties: &Parties) -> Result<()> {
    let three = [parties.get("b1")?, parties.get("m1")?, parties.get("bm1")?];
    let to: Vec<&str> = three.iter().flat_map(|p| p.addresses()).collect();
    let [a, b, c] = three;
    let (a, b, c) = tokio::join!(ping(lab, a, &to, 20), ping(lab, b, &to, 20), ping(lab, c, &to, 20));
    for (from, answers) in three.iter().zip([a, b, c]) {
        for (address, sent) in answers? {
            let sent = sent.with_context(|| format!("{} never reached {address}", from.name))?;
            println!("{} → {address}: {sent} sent", from.name);
        }
    }
    Ok(())
}

/// Every party listens on both families; every other sends it some full segments, and is seen under its own address.
pub(crate) async fn tcp(lab: &Lab, parties: &Parties) -> Result<()> {
    let all = ["b1", "m1", "bm1", "i1"].map(|name| parties.get(name));
    let all: Vec<&Party> = all.into_iter().collect::<Result<_>>()?;
    let mut servers = Vec::new();
    for party in &all {
        let listen = "nc -4 -klvn 5001 & nc -6 -klvn 5001 & wait";
        servers.push(lab.spawn(party.node, &["sh", "-c", &party.inside(listen)])?);
    }
    for (party, server) in all.iter().zip(&servers) {
        wait_for(&format!("{} listens", party.name), Duration::from_secs(20), async || {
            let count = server.log().matches("Listening on").count();
            ensure!(count == 2, "{}", server.log());
            Ok(())
        })
        .await?;
    }
    let clients = all.iter().map(|from| {
        let others = all.iter().filter(|to| to.name != from.name).flat_map(|to| to.addresses());
        let others: Vec<&str> = others.collect();
        let line = format!(
            "x=$(head -c {LOAD} /dev/zero | tr \"\\\\0\" x); for a in {}; do (echo {}-$a-$x | nc -N -n -w 20 $a 5001) & done; wait",
            others.join(" "),
            from.name,
        );
        (from, line)
    });
    for (from, line) in clients {
        lab.script(from.node, &from.inside(&line), Duration::from_secs(60)).await?;
    }
    for (to, server) in all.iter().zip(&servers) {
        wait_for(&format!("{} has everything", to.name), Duration::from_secs(20), async || {
            let log = server.log();
            let mut streams = 0;
            for from in all.iter().filter(|from| from.name != to.name) {
                for (source, target) in from.addresses().iter().zip(to.addresses()) {
                    let connection = format!("Connection received on {source} ");
                    ensure!(log.contains(&connection), "{} does not see {source} itself", to.name);
                    ensure!(log.contains(&format!("{}-{target}-x", from.name)), "{source} sent nothing");
                    streams += 1;
                }
            }
            // Two servers write to one log: what they write may be mixed, but nothing is lost.
            let (have, want) = (log.matches('x').count(), streams * LOAD);
            ensure!(have == want, "{} has {have} of {want} bytes", to.name);
            Ok(())
        })
        .await?;
    }
    Ok(())
}

/// The fabric is as intended, and a switch's blindness for its own next hop is explained.
pub(crate) async fn controller_says(lab: &Lab, parties: &Parties) -> Result<()> {
    let address = &parties.get("b1")?.ipv4;
    let said = lab.exec("ctl", &["causeway", "bgp", "explain", address, "--at", "leaf1"]).await?;
    println!("{said}");
    ensure!(said.contains("dropped at leaf1, martian or self next-hop"), "nothing of leaf1's own next hop");
    let elsewhere = lab.exec("ctl", &["causeway", "bgp", "explain", address, "--at", "leaf2"]).await?;
    println!("{elsewhere}");
    ensure!(elsewhere.contains("wins"), "leaf2 takes nothing");
    wait_for("every port is where it is meant to be", Duration::from_secs(20), async || {
        let diff = lab.json("ctl", &["causeway", "fabric", "diff", "-o", "json"]).await?;
        ensure!(diff["ports"] == 10, "{diff:#}");
        let findings = diff["findings"].as_array().context("no findings")?;
        // Machines have link-local addresses, which no port has: foreign, and rightly said to be.
        let odd: Vec<_> = findings.iter().filter(|f| f["presence"] != "foreign").collect();
        ensure!(odd.is_empty(), "{odd:#?}");
        println!("foreign: {}", findings.len());
        Ok(())
    })
    .await
}

/// No line that a human would have to look at.
pub(crate) async fn nobody_complains(lab: &Lab) -> Result<()> {
    for node in ["ctl", "host1", "host2"] {
        let lines = lab.complaints(node).await?;
        ensure!(lines.is_empty(), "{node}: {lines:#?}");
    }
    Ok(())
}
