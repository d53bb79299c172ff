//! ipvlans, in a guest where this kernel has none.

use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_labs::guest::test::{TestGuest, in_guest_instead};
use causeway_proto::v1;

use super::frames::{Ears, Wire as Raw, udp4};
use super::netdev::{guarded, repaired, show, switch_guard};
use super::{ALL, Case, IP, OWN, PEER, PEER_IP, arrivals, arrivals_beside, legal, plain, spoofs};
use crate::host::{PATIENCE, dev};
use crate::lan::{Wire, attached, host_state, settle};
use crate::netns::{Netns, wait_for};

/// All ipvlans of a parent have its MAC, which the host has too: each is known by its addresses.
#[tokio::test]
async fn ipvlans_drop_spoofs_to_each_other_and_to_the_wire() -> Result<()> {
    let wishes = TestGuest { limit: Duration::from_secs(400), ..TestGuest::default() };
    let name = "guard::ipvlan::ipvlans_drop_spoofs_to_each_other_and_to_the_wire";
    if in_guest_instead(&["ipvlan"], name, &wishes)? {
        return Ok(());
    }
    let mut wire = Wire::new()?;
    // So that frames from "its own MAC" are.
    let mac: String = OWN.map(|b| format!("{b:02x}")).join(":");
    wire.a.netns.run("ip link set eth1 down")?;
    wire.a.netns.run(&format!("ip link set eth1 address {mac}"))?;
    wire.a.netns.run("ip link set eth1 up")?;
    let (w5, w6) = (Netns::new("w5")?, Netns::new("w6")?);
    let ipvlan = |n, netns| attached(n, netns, v1::Attachment::Ipvlan);
    let mut state = host_state(1, vec![guarded(ipvlan(5, &w5)), ipvlan(6, &w6)]);
    settle(&mut wire.a, &state).await?;
    wait_for("ping", PATIENCE, || Ok(w5.pings("10.8.0.6"))).await?;

    let count = spoofs().len();
    let cases = [spoofs(), legal()].concat();
    // An ipvlan hands over frames to many from a queue, later than others: the last one must be such a frame, too.
    let last = udp4(OWN, ALL, (IP, PEER_IP), (4000, 4001));
    // What goes to the wire is seen there whatever it is; an ipvlan is handed only what is for its addresses.
    let far = |wire: &Wire| arrivals(&Raw::open(&w5)?, &mut Ears::all(&wire.switch, "h1")?, &last, &cases);
    // Beside: frames to the common MAC never get to the wire.
    let beside: Vec<Case> = cases
        .iter()
        .filter(|(_, frame)| frame.starts_with(&PEER))
        .map(|(name, frame)| (*name, [&OWN[..], &frame[6..]].concat()))
        .collect();
    let sure = [&OWN[..], &plain()[6..]].concat();
    let near = |w5: &Netns| arrivals(&Raw::open(w5)?, &mut Ears::all(&w6, "eth0")?, &sure, &beside);
    let (far_on, near_on) = (far(&wire)?, near(&w5)?);
    let liar = Raw::of_type(&w5, "eth0", 0x88b5)?;
    let mut to = Ears::all(&wire.switch, "h1")?;
    let lies = arrivals_beside(&liar, &Raw::open(&w5)?, &mut to, &last, &cases[..count])?;
    ensure!(lies.iter().all(|a| !a), "a spoof of another type passes: {lies:?}");

    switch_guard(&mut wire, &mut state, false).await?;
    ensure!(w5.run("nft list table netdev causeway").is_err(), "nobody is guarded");
    let (far_off, near_off) = (far(&wire)?, near(&w5)?);
    let table = show(&[("guarded", &far_on), ("unguarded", &far_off)], &cases)?;
    let near_table = show(&[("guarded", &near_on), ("unguarded", &near_off)], &beside)?;
    println!("{table}\n\nto an ipvlan beside:\n{near_table}");
    ensure!(far_on[..count].iter().all(|a| !a), "a spoof passes:\n{table}");
    ensure!(far_on[count..].iter().all(|a| *a), "legal traffic is dropped:\n{table}");
    ensure!(far_off.iter().all(|a| *a), "an unguarded port drops:\n{table}");
    let spoofed = |case: &Case| cases[..count].iter().any(|(name, _)| *name == case.0);
    for (n, case) in beside.iter().enumerate() {
        ensure!(!spoofed(case) || !near_on[n], "{} passes to an ipvlan beside", case.0);
        ensure!(spoofed(case) || near_on[n] == near_off[n], "{} is dropped", case.0);
    }
    let tried = beside.iter().zip(&near_off).filter(|(case, arrived)| spoofed(case) && **arrived).count();
    ensure!(tried > 5, "hardly a spoof would have reached an ipvlan beside:\n{near_table}");

    switch_guard(&mut wire, &mut state, true).await?;
    let own = dev(5, 100)?;
    for damage in [
        "nft delete table netdev causeway".to_owned(),
        format!("nft flush chain netdev causeway {own}"),
        "ip link del eth0".to_owned(),
    ] {
        w5.run(&damage)?;
        repaired(&wire, &state, &damage).await?;
        ensure!(far(&wire)? == far_on, "after {damage}");
    }
    wire.a.set(&v1::NodeState { revision: 99, ports: vec![], ..state }).await?;
    let gone = || Ok(w5.run("nft list table netdev causeway").is_err());
    wait_for("no table", PATIENCE, gone).await.map(|_| ())
}
