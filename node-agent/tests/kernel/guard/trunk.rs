//! Ports of a VLAN-aware bridge, in a guest where this kernel has none.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_labs::guest::test::{TestGuest, in_guest_instead};
use causeway_proto::v1;

use super::frames::{Ears, Wire as Raw};
use super::netdev::{guarded, matrix, repaired, show, switch_guard};
use super::{arrivals, plain, spoofs};
use crate::host::{PATIENCE, dev, mac};
use crate::lan::{Wire, attached, emptied, host_state, settle};
use crate::netns::{Netns, wait_for};

/// True if a port of the bridge has the MAC in the VLAN by a fixed entry, and nobody else has it there.
fn seated(wire: &Wire, n: u8, vlan: u16) -> Result<bool> {
    let table = wire.a.netns.run("bridge fdb show br cwtrunk")?;
    let of_mac = |line: &&str| line.starts_with(&mac(n)) && line.contains("vlan");
    let found: Vec<&str> = table.lines().filter(of_mac).collect();
    let [only] = found[..] else { return Ok(false) };
    let place = format!("dev {} vlan {vlan} ", dev(n, 100)?);
    Ok(only.contains(&place) && only.contains("sticky") && only.contains("static"))
}

#[tokio::test]
async fn ports_of_a_vlan_aware_bridge_are_locked_and_drop_spoofs() -> Result<()> {
    let wishes = TestGuest { limit: Duration::from_secs(400), ..TestGuest::default() };
    let name = "guard::trunk::ports_of_a_vlan_aware_bridge_are_locked_and_drop_spoofs";
    if in_guest_instead(&["8021q", "vlan_filtering"], name, &wishes)? {
        return Ok(());
    }
    let mut wire = Wire::new()?;
    let (w5, w6, w7) = (Netns::new("w5")?, Netns::new("w6")?, Netns::new("w7")?);
    let bridged = |n, netns| attached(n, netns, v1::Attachment::Bridge);
    let mut state = host_state(1, vec![guarded(bridged(5, &w5)), bridged(6, &w6), bridged(7, &w7)]);
    state.host_bridge = v1::HostBridge::VlanAware.into();
    state.networks[0].vlan = 10;
    settle(&mut wire.a, &state).await?;
    for address in ["10.8.0.6", "10.8.0.7"] {
        wait_for("ping", PATIENCE, || Ok(w5.pings(address))).await?;
    }
    let mut to = Ears::all(&w6, "eth0")?;
    let (cases, on, count) = matrix(&Raw::open(&w5)?, &mut to)?;
    for n in [5, 6, 7] {
        ensure!(seated(&wire, n, 10)?, "{n}: {}", wire.a.netns.run("bridge fdb show br cwtrunk")?);
    }

    // Without the rules the lock still holds MACs, and nothing else.
    wire.a.stop();
    wire.a.netns.run("nft delete table bridge causeway")?;
    let locked = arrivals(&Raw::open(&w5)?, &mut to, &plain(), &spoofs()[..3])?;
    ensure!(locked == [false, false, true], "locked alone: {locked:?}");
    wire.a.start()?;
    settle(&mut wire.a, &state).await?;

    switch_guard(&mut wire, &mut state, false).await?;
    let (_, off, _) = matrix(&Raw::open(&w5)?, &mut to)?;
    let table = show(&[("guarded", &on), ("unguarded", &off)], &cases)?;
    println!("{table}");
    ensure!(on[..count].iter().all(|a| !a), "a spoof passes:\n{table}");
    ensure!(on[count..].iter().all(|a| *a), "legal traffic is dropped:\n{table}");
    // What else than the guard drops: the bridge's own VLAN, and 802.1D.
    for (n, (name, _)) in cases.iter().enumerate() {
        ensure!(off[n] || name.contains("ag") || *name == "STP", "{name} is dropped unguarded:\n{table}");
    }
    ensure!(seated(&wire, 7, 10)?, "the neighbour's entry moved");

    // Drift is repaired, and the entry follows the network's VLAN.
    switch_guard(&mut wire, &mut state, true).await?;
    let own = dev(5, 100)?;
    for damage in [
        format!("bridge link set dev {own} locked off"),
        format!("bridge fdb del {} dev {own} master vlan 10", mac(5)),
        format!("bridge fdb replace {} dev {own} master static vlan 10", mac(7)),
        format!("bridge vlan del dev {own} vid 10"),
    ] {
        wire.a.netns.run(&damage).with_context(|| damage.clone())?;
        repaired(&wire, &state, &damage).await?;
        ensure!(seated(&wire, 5, 10)? && seated(&wire, 7, 10)?, "after {damage}");
        let again = arrivals(&Raw::open(&w5)?, &mut to, &plain(), &spoofs()[..3])?;
        ensure!(again.iter().all(|a| !a), "after {damage}: {again:?}");
    }
    state.networks[0].vlan = 20;
    state.revision += 1;
    wire.a.set(&state).await?;
    wait_for("moved to VLAN 20", PATIENCE, || Ok(seated(&wire, 5, 20)? && seated(&wire, 7, 20)?)).await?;
    repaired(&wire, &state, "another VLAN").await?;
    wait_for("ping in VLAN 20", PATIENCE, || Ok(w5.pings("10.8.0.7"))).await?;
    wire.a.stop();
    wire.a.start()?;
    settle(&mut wire.a, &state).await?;
    ensure!(wire.a.plane()?.progress.borrow().steps == 0, "a restart took steps");
    wire.a.set(&v1::NodeState { revision: 99, ports: vec![], ..state }).await?;
    emptied(&wire.a).await
}
