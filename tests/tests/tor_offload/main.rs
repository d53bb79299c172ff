//! Switches do VXLAN, hosts send plain or 802.1Q frames: the lab `tor-offload` on both FRRs, with everything asked of it
//! that a packet capture, a ping, a TCP connection and the command line can answer.

mod checks;
mod matrix;
mod party;
mod wire;

use anyhow::Result;
use causeway_tests::Lab;
use causeway_tests::fabric::{self, Parties, Party, Trial, on, phase};
use causeway_tests::lab::Switches;

/// What the lab's set-up and the attachments need of the kernel.
const FEATURES: [&str; 6] = ["8021q", "vlan_filtering", "vrf", "macvlan", "ipvlan", "ifb"];

async fn whole(switches: Switches) -> Result<()> {
    let trial = Trial::begin("tor-offload", switches).await?;
    let lab = &trial.lab;
    phase("the fabric comes up", checks::fabric_is_up(lab)).await?;
    let parties = &phase("ports", party::create(lab)).await?;
    trial.part("one network on three leaves", checks::one_network(lab, parties)).await;
    trial.part("what is on the wire", wire::tags_and_tunnels(lab, parties)).await;
    trial.part("a silent machine, and nobody", wire::silent_and_unknown(lab, parties)).await;
    trial.part("every attachment against every place", matrix::matrix(lab, parties)).await;
    trial.part("TCP, with the sender's own address", tcp(lab, parties)).await;
    trial.part("what the controller says of it", checks::controller_says(lab, parties)).await;
    trial.end(&["ctl", "host1", "host2"]).await
}

/// A container on a bridge, a macvlan, an ipvlan, a routed one, and a machine.
async fn tcp(lab: &Lab, parties: &Parties) -> Result<()> {
    let all = parties.these(&["b1", "m1", "bm1", "i1", "r1"])?;
    fabric::tcp(lab, &Party::all_to_all(&all)).await
}

#[tokio::test]
async fn switches_do_the_tunnels_on_frr_8() -> Result<()> {
    on(&FEATURES, "switches_do_the_tunnels_on_frr_8", || whole(Switches::Frr8)).await
}

#[tokio::test]
async fn switches_do_the_tunnels_on_frr_10() -> Result<()> {
    on(&FEATURES, "switches_do_the_tunnels_on_frr_10", || whole(Switches::Frr10)).await
}
