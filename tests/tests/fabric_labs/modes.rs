//! `mixed-modes`: one switch each of tor-evpn, tor-agent and tor-static, and a host that is a VTEP.

use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_tests::Lab;
use causeway_tests::fabric::{
    Machine, Parties, Party, Trial, Workload, as_intended, caught_up, create, established, on, phase, reach,
    says, tcp,
};
use causeway_tests::lab::Switches;

use crate::{FEATURES, TUNNELS, machine};

const fn workload(name: &'static str, node: &'static str, network: &'static str) -> Workload {
    Workload { name, node, attachment: "", network, options: "" }
}

/// Behind the switch that speaks EVPN, and in the host that is a VTEP: one in each network.
const WORKLOADS: [Workload; 4] = [
    workload("c1", "host1", "red/web"),
    workload("c2", "host1", "red/db"),
    workload("v1", "host4", "red/web"),
    workload("v2", "host4", "red/db"),
];

/// Behind the switch that our agent programs, and behind the one that nobody does.
const MACHINES: [Machine; 3] = [
    machine("bm2", "red/web", ("leaf2", "eth2"), "02:00:00:00:00:b2", ("10.10.0.100", "fd00:10::100")),
    machine("db2", "red/db", ("leaf2", "eth3"), "02:00:00:00:00:d2", ("10.20.0.100", "fd00:20::100")),
    machine("bm3", "red/web", ("leaf3", "eth2"), "02:00:00:00:00:b3", ("10.10.0.101", "fd00:10::101")),
];

async fn comes_up(lab: &Lab) -> Result<()> {
    lab.apply("ctl").await?;
    says(lab, "leaf1", TUNNELS, &["10010", "10020", "4001"]).await?;
    established(lab, 1).await
}

/// The text of the switch that nobody programs live, as its owner would bring it there. Twice: it may be run again.
async fn text_of_the_static_switch(lab: &Lab) -> Result<()> {
    let text = lab.exec("ctl", &["causeway", "node", "config", "leaf3"]).await?;
    ensure!(text.contains("node leaf3, VTEP 10.255.0.4") && !text.contains("Not in here"), "{text}");
    lab.script("leaf3", &text, Duration::from_secs(120)).await.map(drop)
}

/// The switch that speaks EVPN has taken up every port that is not behind itself.
async fn known_at_leaf1(lab: &Lab, parties: &[&Party]) -> Result<()> {
    let others = parties.iter().filter(|party| party.node != "host1");
    let addresses: Vec<String> =
        others.flat_map(|party| party.addresses()).map(|address| format!("{address} ")).collect();
    let parts: Vec<&str> = addresses.iter().map(String::as_str).collect();
    says(lab, "leaf1", "ip neigh show proto zebra; ip -6 neigh show proto zebra", &parts).await.map(drop)
}

/// What the switch that speaks EVPN makes of routes for which controllers speak.
async fn explained(lab: &Lab, parties: &Parties) -> Result<()> {
    for (name, place) in
        [("bm2", "leaf2 (10.255.0.3)"), ("bm3", "leaf3 (10.255.0.4)"), ("v1", "host4 (10.255.0.6)")]
    {
        let address = &parties.get(name)?.ipv4;
        let said = lab.exec("ctl", &["causeway", "bgp", "explain", address, "--at", "leaf1"]).await?;
        ensure!(said.contains(place) && said.contains("wins") && !said.contains("conflict"), "{said}");
    }
    Ok(())
}

async fn whole(switches: Switches) -> Result<()> {
    let trial = Trial::begin("mixed-modes", switches).await?;
    let lab = &trial.lab;
    phase("the fabric comes up", comes_up(lab)).await?;
    let parties = &phase("ports", create(lab, &WORKLOADS, &MACHINES)).await?;
    trial.part("the static switch gets its text", text_of_the_static_switch(lab)).await;
    let all = parties.these(&["c1", "c2", "v1", "v2", "bm2", "db2", "bm3"])?;
    trial.part("the agents have caught up", caught_up(lab, &["leaf2", "host4"])).await;
    trial.part("leaf1 knows everybody", known_at_leaf1(lab, &all)).await;
    trial
        .part("everybody reaches everybody at the first packet", reach(lab, &Party::all_to_all(&all), true))
        .await;
    trial.part("TCP, with the sender's own address", tcp(lab, &Party::all_to_all(&all))).await;
    trial.part("as intended", as_intended(lab, parties.ports)).await;
    trial.part("explained", explained(lab, parties)).await;
    trial.end(&["ctl", "host1", "host4", "leaf2"]).await
}

#[tokio::test]
async fn all_modes_with_frr_8() -> Result<()> {
    on(&FEATURES, "modes::all_modes_with_frr_8", || whole(Switches::Frr8)).await
}

#[tokio::test]
async fn all_modes_with_frr_10() -> Result<()> {
    on(&FEATURES, "modes::all_modes_with_frr_10", || whole(Switches::Frr10)).await
}
