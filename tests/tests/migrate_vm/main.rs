//! A port that is now a VM, now a container, now a server of its own, behind switches that learn by themselves: the lab `migrate`, on both FRRs.

mod freeze;
mod live;
mod metal;
mod unplanned;

use anyhow::{Result, ensure};
use causeway_tests::lab::{Switches, leftovers};
use causeway_tests::moving::{Home, Moving, VTEPS};

/// There and back.
const MOVES: usize = 25;
/// One lab at a time: what moves cost on a machine that runs two is nobody's measure.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Takes the lab down and looks for what it left.
async fn end(fabric: Moving) -> Result<()> {
    let name = fabric.lab.name().to_string();
    fabric.lab.down().await?;
    ensure!(leftovers(&name)?.is_empty(), "left behind: {:#?}", leftovers(&name)?);
    Ok(())
}

async fn there_and_back(switches: Switches) -> Result<()> {
    let _turn = TURN.lock().await;
    let fabric = Moving::up(switches).await?;
    let vm = fabric.place().await?;
    let pings = fabric.pings(&fabric.ipv4).await?;
    let (mut silent, mut sequence, mut home) = (Vec::new(), 0, Home::Vm1);
    for number in 1..=MOVES {
        home = if home == Home::Vm1 { Home::Container2 } else { Home::Vm1 };
        let moved = fabric.migrate(home, &pings).await?;
        println!("move {number} to {home:?}: {:.0} ms, {} lost", moved.silent_ms(), moved.lost());
        ensure!(moved.duplicates() == 0, "two answered: {moved:?}");
        silent.push(moved.silent_ms());
        // Each planned move is newer than all before, for all who announce it.
        let now = fabric.routes().await?.iter().map(|r| r.sequence).max().unwrap_or_default();
        ensure!(now > sequence, "move {number}: sequence {sequence}, then {now}");
        sequence = now;
    }
    let sequence = fabric.nothing_is_stale(home).await?;
    ensure!(sequence < 2 * MOVES as u32 + 2, "somebody fights: {MOVES} moves have come to {sequence}");
    silent.sort_by(f64::total_cmp);
    let at = |percent: usize| silent[(silent.len() - 1) * percent / 100];
    println!("{MOVES} moves, {switches:?}: p50 {:.0} ms, p99 {:.0}, max {:.0}", at(50), at(99), at(100));
    // FRR itself takes 65 ms; that none is far from that says whether anything was waited for or found out again.
    ensure!(at(50) <= 200.0 && at(90) <= 500.0, "moves cost too much: {silent:?}");

    // As FRR comes it detects so many moves in 180 s as a duplicate, says so, and follows all the same.
    let mut flagged = 0;
    for (leaf, _) in VTEPS {
        flagged += usize::from(fabric.zebra(leaf).await?[&fabric.mac]["isDuplicate"] == true);
    }
    println!("{flagged} switches call it a duplicate");
    fabric.answers().await?;
    // Without force that is not reached.
    let said = fabric.refused(Home::Vm1).await?;
    ensure!(said.contains("times within 180 s") && said.contains("--force"), "{said}");
    drop((pings, vm));
    end(fabric).await
}

#[tokio::test]
async fn a_vm_becomes_a_container_and_back_25_times_on_frr_8() -> Result<()> {
    there_and_back(Switches::Frr8).await
}

#[tokio::test]
async fn a_vm_becomes_a_container_and_back_25_times_on_frr_10() -> Result<()> {
    there_and_back(Switches::Frr10).await
}
