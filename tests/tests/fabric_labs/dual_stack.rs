//! `dual-stack`: IPv4 and IPv6 side by side, and a network with IPv6 alone.

use anyhow::{Result, ensure};
use causeway_tests::Lab;
use causeway_tests::fabric::{
    Machine, Parties, Party, Trial, Workload, as_intended, create, established, on, phase, reach, says, tcp,
};
use causeway_tests::lab::Switches;

use crate::{FEATURES, TUNNELS, machine};

const fn workload(name: &'static str, network: &'static str) -> Workload {
    Workload { name, node: "host1", attachment: "", network, options: "" }
}

const WORKLOADS: [Workload; 3] =
    [workload("c1", "red/web"), workload("c2", "red/db"), workload("c6", "red/six")];

const MACHINES: [Machine; 3] = [
    machine("bm1", "red/web", ("leaf1", "eth4"), "02:00:00:00:00:b1", ("10.10.0.100", "fd00:10::100")),
    machine("bm2", "red/db", ("leaf2", "eth2"), "02:00:00:00:00:b2", ("10.20.0.100", "fd00:20::100")),
    machine("bm3", "red/six", ("leaf2", "eth3"), "02:00:00:00:00:b3", ("", "fd00:66::100")),
];

async fn comes_up(lab: &Lab) -> Result<()> {
    lab.apply("ctl").await?;
    for leaf in ["leaf1", "leaf2"] {
        says(lab, leaf, TUNNELS, &["10020", "10066", "4001"]).await?;
    }
    established(lab, 1).await
}

/// What is behind the other switch, of both families; and of the network with IPv6 alone no trace of IPv4.
async fn known(lab: &Lab, parties: &Parties) -> Result<()> {
    let tables = "ip route show vrf red; ip -6 route show vrf red";
    let (c1, c6) = (parties.get("c1")?, parties.get("c6")?);
    says(lab, "leaf1", tables, &["10.20.0.100", "fd00:20::100", "fd00:66::100"]).await?;
    says(lab, "leaf2", tables, &["10.10.0.0/24", "fd00:10::/64", &c1.ipv4, &c1.ipv6, &c6.ipv6]).await?;
    ensure!(c6.ipv4.is_empty(), "c6 has {}", c6.ipv4);
    let inside = lab.shell(c6.node, &c6.inside("ip -4 address show dev eth0; ip -4 route")).await?;
    ensure!(inside.trim().is_empty(), "IPv4 in c6: {inside}");
    Ok(())
}

async fn whole(switches: Switches) -> Result<()> {
    let trial = Trial::begin("dual-stack", switches).await?;
    let lab = &trial.lab;
    phase("the fabric comes up", comes_up(lab)).await?;
    let parties = &phase("ports", create(lab, &WORKLOADS, &MACHINES)).await?;
    trial.part("the switches know of each other", known(lab, parties)).await;
    let all = parties.these(&["c1", "c2", "c6", "bm1", "bm2", "bm3"])?;
    trial
        .part("everybody reaches everybody at the first packet", reach(lab, &Party::all_to_all(&all), true))
        .await;
    trial.part("TCP over both", tcp(lab, &Party::all_to_all(&all))).await;
    trial.part("as intended", as_intended(lab, parties.ports)).await;
    trial.end(&["ctl", "host1"]).await
}

#[tokio::test]
async fn both_families_with_frr_8() -> Result<()> {
    on(&FEATURES, "dual_stack::both_families_with_frr_8", || whole(Switches::Frr8)).await
}

#[tokio::test]
async fn both_families_with_frr_10() -> Result<()> {
    on(&FEATURES, "dual_stack::both_families_with_frr_10", || whole(Switches::Frr10)).await
}
