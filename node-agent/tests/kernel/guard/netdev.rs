//! What passes no bridge: routed ports and macvlans.

use std::fmt::Write as _;

use anyhow::{Result, ensure};
use causeway_proto::v1;

use super::frames::{Ears, Mac, Wire as Raw};
use super::{Case, OWN, PEER, arrivals, arrivals_beside, legal, plain, spoofs};
use crate::host::{PATIENCE, assert_settled, dev};
use crate::lan::{Wire, attached, emptied, host_state, settle};
use crate::netns::{Netns, wait_for};
use crate::rate::{Stream, ensure_limited};

/// Nobody on the host has it.
const OUTSIDE: Mac = [2, 0xca, 0x0a, 8, 0, 0x55];

pub(super) fn guarded(port: v1::NodePort) -> v1::NodePort {
    v1::NodePort { guarded: true, ..port }
}

pub(super) fn show(columns: &[(&str, &[bool])], cases: &[Case]) -> Result<String> {
    let mut table = format!("{:<30}", "");
    columns.iter().try_for_each(|(name, _)| write!(table, " {name:>12}"))?;
    for (n, (name, _)) in cases.iter().enumerate() {
        write!(table, "\n{name:<30}")?;
        for (_, arrived) in columns {
            write!(table, " {:>12}", if arrived[n] { "passes" } else { "dropped" })?;
        }
    }
    Ok(table)
}

/// Spoofs, then legal frames; true: arrived.
pub(super) fn matrix(from: &Raw, to: &mut Ears) -> Result<(Vec<Case>, Vec<bool>, usize)> {
    let (spoofs, legal) = (spoofs(), legal());
    let count = spoofs.len();
    let cases = [spoofs, legal].concat();
    let arrived = arrivals(from, to, &plain(), &cases)?;
    Ok((cases, arrived, count))
}

pub(super) async fn switch_guard(wire: &mut Wire, state: &mut v1::NodeState, on: bool) -> Result<()> {
    state.revision += 1;
    state.ports[0].guarded = on;
    wire.a.set(state).await?;
    wire.a.wait_revision(state.revision).await?;
    repaired(wire, state, "switched").await
}

pub(super) async fn repaired(wire: &Wire, state: &v1::NodeState, damage: &str) -> Result<()> {
    wait_for(damage, PATIENCE, || Ok(assert_settled(&wire.a.look(state)?).is_ok())).await?;
    assert_settled(&wire.a.look(state)?)
}

/// A restart takes no step and makes no rule anew; without ports nothing is left, no table either.
async fn kept_and_removed(wire: &mut Wire, state: v1::NodeState) -> Result<()> {
    let before = wire.a.netns.run("nft -a list table netdev causeway")?;
    wire.a.stop();
    wire.a.start()?;
    settle(&mut wire.a, &state).await?;
    ensure!(wire.a.plane()?.progress.borrow().steps == 0, "a restart took steps");
    ensure!(wire.a.netns.run("nft -a list table netdev causeway")? == before, "rules were made again");
    wire.a.set(&v1::NodeState { revision: 99, ports: vec![], ..state }).await?;
    emptied(&wire.a).await?;
    let gone = || Ok(wire.a.netns.run("nft list table netdev causeway").is_err());
    wait_for("no table", PATIENCE, gone).await.map(|_| ())
}

#[tokio::test]
async fn routed_ports_drop_spoofs() -> Result<()> {
    let mut wire = Wire::new()?;
    wire.a.netns.run("ip address add 10.8.0.101/24 dev eth1")?;
    wire.a.netns.run("ip address add fd00:8::101/64 dev eth1 nodad")?;
    wire.a.netns.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
    let w5 = Netns::new("w5")?;
    let mut state = host_state(1, vec![guarded(attached(5, &w5, v1::Attachment::Routed))]);
    settle(&mut wire.a, &state).await?;
    let own = dev(5, 100)?;
    // A socket for one Ethernet type sees what the ingress hook has let pass.
    let ears = || Ears::by_type(&wire.a.netns, &own);
    let from = Raw::open(&w5)?;
    let (cases, on, spoofs) = matrix(&from, &mut ears()?)?;
    wait_for("ping", PATIENCE, || Ok(w5.pings("10.8.0.101"))).await?;

    switch_guard(&mut wire, &mut state, false).await?;
    ensure!(wire.a.netns.run("nft list table netdev causeway").is_err(), "nobody is guarded");
    let (_, off, _) = matrix(&from, &mut Ears::by_type(&wire.a.netns, &own)?)?;
    let table = show(&[("guarded", &on), ("unguarded", &off)], &cases)?;
    println!("{table}");
    ensure!(on[..spoofs].iter().all(|a| !a), "a spoof passes:\n{table}");
    ensure!(on[spoofs..].iter().all(|a| *a), "legal traffic is dropped:\n{table}");
    ensure!(off.iter().all(|a| *a), "an unguarded port drops:\n{table}");

    // Under a device of the same name that is made anew, too.
    switch_guard(&mut wire, &mut state, true).await?;
    wire.a.netns.run("nft add table netdev other")?;
    for damage in [
        format!("nft flush chain netdev causeway {own}"),
        format!("nft insert rule netdev causeway {own} accept"),
        "nft delete table netdev causeway".to_owned(),
        format!("ip link del {own}"),
    ] {
        wire.a.netns.run(&damage)?;
        repaired(&wire, &state, &damage).await?;
        let from = Raw::open(&w5)?;
        let (_, again, _) = matrix(&from, &mut Ears::by_type(&wire.a.netns, &own)?)?;
        ensure!(again == on, "after {damage}");
    }
    kept_and_removed(&mut wire, state).await?;
    wire.a.netns.run("nft list table netdev other").map(|_| ())
}

/// A filter would lead frames around the hook at ingress: the rules lead them to the device that limits them.
#[tokio::test]
async fn routed_ports_are_guarded_and_limited() -> Result<()> {
    let mut wire = Wire::new()?;
    wire.a.netns.run("ip address add 10.8.0.101/24 dev eth1")?;
    wire.a.netns.run("ip address add fd00:8::101/64 dev eth1 nodad")?;
    wire.a.netns.run("sysctl -qw net.ipv4.ip_forward=1 net.ipv6.conf.all.forwarding=1")?;
    let w5 = Netns::new("w5")?;
    let out_kbit = 20_000;
    let rate = Some(v1::RateLimit { in_kbit: 0, out_kbit });
    let port = v1::NodePort { rate, ..guarded(attached(5, &w5, v1::Attachment::Routed)) };
    let mut state = host_state(1, vec![port]);
    settle(&mut wire.a, &state).await?;
    let own = dev(5, 100)?;
    let shaper = own.replace("cwp", "cwi");
    let ears = |wire: &Wire| Ears::by_type(&wire.a.netns, &own);
    let passes = |arrived: &[bool], spoofs: usize| -> Result<()> {
        ensure!(arrived[..spoofs].iter().all(|a| !a), "a spoof passes: {arrived:?}");
        ensure!(arrived[spoofs..].iter().all(|a| *a), "legal traffic is dropped: {arrived:?}");
        Ok(())
    };
    let (_, limited, spoofs) = matrix(&Raw::open(&w5)?, &mut ears(&wire)?)?;
    passes(&limited, spoofs)?;
    wait_for("ping", PATIENCE, || Ok(w5.pings("10.8.0.101"))).await?;
    let stream = Stream::open(&w5, &wire.a.netns, "10.8.0.101")?.at(&shaper);
    ensure_limited("guarded and limited", &stream, out_kbit).await?;
    state.ports[0].rate = Some(v1::RateLimit { in_kbit: 0, out_kbit: out_kbit / 2 });
    switch_guard(&mut wire, &mut state, true).await?;
    ensure_limited("lowered under load", &stream, out_kbit / 2).await?;
    // Frames that are looked for must not be lost in its queue.
    drop(stream);

    // The guard goes and comes under the limit, and the limit under the guard.
    for (on, kbit) in [(false, out_kbit), (true, out_kbit), (true, 0), (true, out_kbit / 2)] {
        state.ports[0].rate = Some(v1::RateLimit { in_kbit: 0, out_kbit: kbit });
        switch_guard(&mut wire, &mut state, on).await?;
        let (_, arrived, _) = matrix(&Raw::open(&w5)?, &mut ears(&wire)?)?;
        if on {
            passes(&arrived, spoofs)?;
        } else {
            ensure!(arrived.iter().all(|a| *a), "an unguarded port drops: {arrived:?}");
        }
        let table = wire.a.netns.run("nft list table netdev causeway").unwrap_or_default();
        ensure!(table.contains(&format!("fwd to \"{shaper}\"")) == (on && kbit > 0), "{on} {kbit}: {table}");
    }

    for damage in [
        format!("nft flush chain netdev causeway {own}"),
        "nft delete table netdev causeway".to_owned(),
        format!("ip link del {shaper}"),
        format!("tc qdisc del dev {shaper} root"),
        format!("ip link del {own}"),
    ] {
        wire.a.netns.run(&damage)?;
        repaired(&wire, &state, &damage).await?;
        let (_, again, _) = matrix(&Raw::open(&w5)?, &mut ears(&wire)?)?;
        passes(&again, spoofs)?;
    }
    kept_and_removed(&mut wire, state).await
}

#[tokio::test]
async fn macvlans_drop_spoofs_to_each_other_and_to_the_wire() -> Result<()> {
    let mut wire = Wire::new()?;
    let (w5, w6) = (Netns::new("w5")?, Netns::new("w6")?);
    let macvlan = |n, netns| attached(n, netns, v1::Attachment::Macvlan);
    let mut state = host_state(1, vec![guarded(macvlan(5, &w5)), macvlan(6, &w6)]);
    settle(&mut wire.a, &state).await?;
    w6.run("ip link set eth0 promisc on")?;
    let from = Raw::open(&w5)?;
    let mut to = Ears::all(&w6, "eth0")?;
    let (cases, on, spoofs) = matrix(&from, &mut to)?;
    // A packet socket says of which type its frames are, whatever is in them: the kernel then finds no ports in them.
    let liar = Raw::of_type(&w5, "eth0", 0x88b5)?;
    let lies = arrivals_beside(&liar, &from, &mut to, &plain(), &cases[..spoofs])?;
    ensure!(lies.iter().all(|a| !a), "a spoof of another type passes: {lies:?}");
    switch_guard(&mut wire, &mut state, false).await?;
    ensure!(w5.run("nft list table netdev causeway").is_err(), "nobody is guarded");
    let (_, off, _) = matrix(&from, &mut to)?;
    switch_guard(&mut wire, &mut state, true).await?;

    // Drift outside and inside is repaired; a restart makes nothing new.
    let own = dev(5, 100)?;
    for (netns, damage) in [
        (&wire.a.netns, "nft delete table netdev causeway".to_owned()),
        (&wire.a.netns, format!("nft insert rule netdev causeway {own} accept")),
        (&w5, "nft delete table netdev causeway".to_owned()),
        (&w5, format!("nft flush chain netdev causeway {own}")),
        (&w5, "ip link del eth0".to_owned()),
    ] {
        netns.run(&damage)?;
        repaired(&wire, &state, &damage).await?;
        let (_, again, _) = matrix(&Raw::open(&w5)?, &mut to)?;
        ensure!(again == on, "after {damage}");
    }
    wire.a.stop();
    wire.a.start()?;
    settle(&mut wire.a, &state).await?;
    ensure!(wire.a.plane()?.progress.borrow().steps == 0, "a restart took steps");

    // A workload that removes the inner rules is held at the parent, but for frames from MACs that are nobody's there.
    wire.a.stop();
    w5.run("nft delete table netdev causeway")?;
    let outwards = |frame: Vec<u8>| match frame.strip_prefix(&PEER[..]) {
        Some(rest) => [&OUTSIDE[..], rest].concat(),
        None => frame,
    };
    let out_cases: Vec<Case> = cases.iter().map(|(name, frame)| (*name, outwards(frame.clone()))).collect();
    let mut switch = Ears::all(&wire.switch, "h1")?;
    let out = arrivals(&Raw::open(&w5)?, &mut switch, &outwards(plain()), &out_cases)?;
    let table = show(&[("guarded", &on), ("unguarded", &off), ("parent only", &out)], &cases)?;
    println!("{table}");
    ensure!(on[..spoofs].iter().all(|a| !a), "a spoof passes:\n{table}");
    ensure!(on[spoofs..].iter().all(|a| *a), "legal traffic is dropped:\n{table}");
    ensure!(off.iter().all(|a| *a), "an unguarded port drops:\n{table}");
    for (n, (name, frame)) in cases.iter().enumerate() {
        let stranger = frame[6..12] != OWN;
        ensure!(out[n] == (n >= spoofs || stranger), "{name} at the parent:\n{table}");
    }

    wire.a.start()?;
    settle(&mut wire.a, &state).await?;
    wire.a.set(&v1::NodeState { revision: 99, ports: vec![], ..state }).await?;
    for netns in [&wire.a.netns, &w5] {
        let gone = || Ok(netns.run("nft list table netdev causeway").is_err());
        wait_for("no table", PATIENCE, gone).await?;
    }
    Ok(())
}
