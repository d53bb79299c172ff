//! `vrf`: two VRFs with the same addresses, what they leak to each other and what not, and a given prefix.

use anyhow::{Context, Result, ensure};
use causeway_tests::Lab;
use causeway_tests::fabric::{
    Machine, Parties, Party, Trial, as_intended, create, established, on, phase, ping, reach, says, tcp,
};
use causeway_tests::lab::Switches;

use crate::{FEATURES, TUNNELS, machine};

const ONE: (&str, &str) = ("10.10.0.101", "fd00:a::101");
const TWO: (&str, &str) = ("10.10.0.102", "fd00:a::102");

/// Of each pair red and blue have the same addresses.
const MACHINES: [Machine; 6] = [
    machine("red1", "red/red-web", ("leaf1", "eth2"), "02:00:00:00:00:11", ONE),
    machine("blue1", "blue/blue-web", ("leaf1", "eth3"), "02:00:00:00:01:11", ONE),
    machine("app", "red/red-app", ("leaf1", "eth4"), "02:00:00:00:00:a0", ("10.11.0.100", "fd00:b::100")),
    machine("red2", "red/red-web", ("leaf2", "eth2"), "02:00:00:00:00:12", TWO),
    machine("blue2", "blue/blue-web", ("leaf2", "eth3"), "02:00:00:00:01:12", TWO),
    machine("db", "blue/blue-db", ("leaf2", "eth4"), "02:00:00:00:00:d0", ("10.12.0.100", "fd00:c::100")),
];

/// Behind red2, as the lab's VRF says: `routes=`.
const GIVEN: (&str, &str) = ("172.30.0.1", "fd30::1");

/// Who reaches whom: its own VRF, and what this one takes up of the other.
const WAYS: [(&str, &[&str]); 6] = [
    ("red1", &["red2", "app"]),
    ("red2", &["red1", "app"]),
    ("app", &["red1", "red2", "db"]),
    ("blue1", &["blue2", "db"]),
    ("blue2", &["blue1", "db"]),
    ("db", &["blue1", "blue2", "app"]),
];

async fn comes_up(lab: &Lab) -> Result<()> {
    lab.apply("ctl").await?;
    for leaf in ["leaf1", "leaf2"] {
        says(lab, leaf, TUNNELS, &["11010", "12010", "4001", "4002"]).await?;
    }
    // What lies behind red2 is its switch's business; that it is told of, the controller's.
    lab.shell("red2", "ip address add 172.30.0.1/32 dev lo; ip address add fd30::1/128 dev lo nodad").await?;
    let routes = "ip route add 172.30.0.0/16 via 10.10.0.102 vrf red; ip -6 route add fd30::/48 via fd00:a::102 vrf red";
    lab.shell("leaf2", routes).await?;
    established(lab, 1).await
}

/// Subnets of the other switch and the given prefix in the tables of leaf1; every port's neighbour entry.
async fn known(lab: &Lab) -> Result<()> {
    let tables = |vrf| format!("ip route show vrf {vrf}; ip -6 route show vrf {vrf}");
    says(
        lab,
        "leaf1",
        &tables("red"),
        &["10.12.0.0/24", "fd00:c::/64", "172.30.0.0/16", "fd30::/48", "10.10.0.102"],
    )
    .await?;
    says(lab, "leaf1", &tables("blue"), &["10.12.0.0/24", "fd00:c::/64", "10.11.0.0/24", "10.10.0.102"])
        .await?;
    says(lab, "leaf2", &tables("blue"), &["10.11.0.0/24", "fd00:b::/64", "10.10.0.101"]).await?;
    says(lab, "leaf2", &tables("red"), &["10.11.0.0/24", "fd00:b::/64", "10.10.0.101"]).await?;
    for (leaf, ways) in [("leaf1", ["red2", "blue2"]), ("leaf2", ["red1", "blue1"])] {
        let machines = MACHINES.iter().filter(|machine| ways.contains(&machine.name));
        let macs: Vec<&str> = machines.map(|machine| machine.mac).collect();
        says(lab, leaf, "ip neigh; ip -6 neigh", &macs).await?;
    }
    Ok(())
}

/// The same address is another machine in the other VRF: seen by its MAC.
async fn same_addresses(lab: &Lab, parties: &Parties) -> Result<()> {
    for (name, other) in [("red1", "red2"), ("blue1", "blue2"), ("red2", "red1"), ("blue2", "blue1")] {
        let (from, to) = (parties.get(name)?, parties.get(other)?);
        let mac = MACHINES.iter().find(|m| m.name == other).context("a machine")?.mac;
        let said = lab.shell(from.node, "ip neigh").await?;
        for address in to.addresses() {
            let right = |line: &str| line.starts_with(&format!("{address} ")) && line.contains(mac);
            ensure!(said.lines().any(right), "{name} takes {address} for another than {mac}: {said}");
        }
    }
    Ok(())
}

/// The prefix behind red2 is reached from its VRF, and from where the VRF leaks to; not by whom it would answer elsewhere.
async fn given_prefix(lab: &Lab, parties: &Parties) -> Result<()> {
    let given = Party::alone("given", GIVEN.0, GIVEN.1);
    let from = parties.these(&["red1", "app", "db"])?;
    let rows: Vec<(&Party, Vec<&Party>)> = from.into_iter().map(|from| (from, vec![&given])).collect();
    reach(lab, &rows, false).await
}

/// What is in both VRFs stays at home: it reaches neither what the other has, nor what lies behind that.
async fn nothing_else(lab: &Lab, parties: &Parties) -> Result<()> {
    let (app, db) = (parties.get("app")?, parties.get("db")?);
    let (red, blue) = (db.addresses(), [app.addresses(), vec![GIVEN.0, GIVEN.1]].concat());
    let rows = [("red1", &red), ("red2", &red), ("blue1", &blue), ("blue2", &blue)];
    // One after the other: what answers one of two machines with the same address goes to the other, which would take it
    // for its own if it waits as well.
    let mut reached = Vec::new();
    for (name, to) in rows {
        let answers = ping(lab, parties.get(name)?, to, 2).await?;
        let answers = answers.into_iter().filter(|(_, sent)| sent.is_some());
        reached.extend(answers.map(|(address, _)| format!("{name} reaches {address}")));
    }
    ensure!(reached.is_empty(), "{reached:#?}");
    Ok(())
}

async fn whole(switches: Switches) -> Result<()> {
    let trial = Trial::begin("vrf", switches).await?;
    let lab = &trial.lab;
    phase("the fabric comes up", comes_up(lab)).await?;
    let parties = &phase("ports", create(lab, &[], &MACHINES)).await?;
    trial.part("the switches know of each other", known(lab)).await;
    trial.part("each VRF and its leak at the first packet", reach(lab, &parties.rows(&WAYS)?, true)).await;
    trial.part("the same address is another machine", same_addresses(lab, parties)).await;
    trial.part("TCP ends at the right one", tcp(lab, &parties.rows(&WAYS)?)).await;
    trial.part("a given prefix", given_prefix(lab, parties)).await;
    trial.part("nothing else is reached", nothing_else(lab, parties)).await;
    trial.part("as intended", as_intended(lab, parties.ports)).await;
    trial.end(&["ctl"]).await
}

#[tokio::test]
async fn same_addresses_and_leaks_with_frr_8() -> Result<()> {
    on(&FEATURES, "vrf::same_addresses_and_leaks_with_frr_8", || whole(Switches::Frr8)).await
}

#[tokio::test]
async fn same_addresses_and_leaks_with_frr_10() -> Result<()> {
    on(&FEATURES, "vrf::same_addresses_and_leaks_with_frr_10", || whole(Switches::Frr10)).await
}
