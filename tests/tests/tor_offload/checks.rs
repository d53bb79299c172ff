//! What needs no capture: readiness, pings, TCP, the controller's own words, logs.

use anyhow::{Context, Result, ensure};
use causeway_tests::Lab;
use causeway_tests::fabric::{Parties, as_intended, established, ping, says};

const LEAVES: [&str; 3] = ["leaf1", "leaf2", "leaf3"];

/// Sessions, tunnels, the other leaves' routers; then the controller's resources.
pub(crate) async fn fabric_is_up(lab: &Lab) -> Result<()> {
    lab.apply("ctl").await?;
    for leaf in LEAVES {
        let ask = "vtysh -c 'show evpn vni json'; ip route show vrf red; ip -6 route show vrf red";
        says(lab, leaf, ask, &["10010", "10020", "4001", "172.31.0.0/16", "fd31::/48"]).await?;
    }
    established(lab, 2).await
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

/// The fabric is as intended, and a switch's blindness for its own next hop is explained.
pub(crate) async fn controller_says(lab: &Lab, parties: &Parties) -> Result<()> {
    let address = &parties.get("b1")?.ipv4;
    let said = lab.exec("ctl", &["causeway", "bgp", "explain", address, "--at", "leaf1"]).await?;
    println!("{said}");
    ensure!(said.contains("dropped at leaf1, martian or self next-hop"), "nothing of leaf1's own next hop");
    let elsewhere = lab.exec("ctl", &["causeway", "bgp", "explain", address, "--at", "leaf2"]).await?;
    println!("{elsewhere}");
    ensure!(elsewhere.contains("wins"), "leaf2 takes nothing");
    as_intended(lab, parties.ports).await
}
