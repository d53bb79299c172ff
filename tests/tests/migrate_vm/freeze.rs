//! Why ports move three times within 180 s at most: what a switch does that is told to freeze a MAC that moves five times.

use anyhow::{Result, ensure};
use causeway_tests::lab::Switches;
use causeway_tests::moving::{Home, Moving, VTEPS};
use causeway_tests::wait_for;
use std::time::Duration;

const FREEZE: &str = "vtysh -c 'configure terminal' -c 'router bgp 65000' -c 'address-family l2vpn evpn' \
     -c 'dup-addr-detection max-moves 5 time 180' -c 'dup-addr-detection freeze permanent'";

/// FRR freezes the entries of the switches that took part in the moves, and keeps them until it is told otherwise: a
/// machine behind such a switch loses the port when it moves away from it, all others follow what the controller announces.
async fn stops_following(switches: Switches) -> Result<()> {
    let _turn = crate::TURN.lock().await;
    let fabric = Moving::up(switches).await?;
    for (leaf, _) in VTEPS {
        fabric.lab.shell(leaf, FREEZE).await?;
    }
    let vm = fabric.place().await?;
    let frozen = async |leaf: &str| {
        Ok::<_, anyhow::Error>(fabric.zebra(leaf).await?[&fabric.mac]["isDuplicate"] == true)
    };
    let other = fabric.pings(&fabric.ipv4).await?.remove(0);
    let (mut home, mut moves) = (Home::Vm1, 0);
    // Until both are frozen, and the port is where bm1's switch is not.
    while !(home == Home::Vm1 && frozen("leaf2").await? && frozen("leaf1").await?) {
        ensure!(moves < 12, "{moves} moves, and nothing is frozen");
        home = if home == Home::Vm1 { Home::Container2 } else { Home::Vm1 };
        fabric.migrate(home, std::slice::from_ref(&other)).await?;
        moves += 1;
        ensure!(
            moves > 3 || !(frozen("leaf1").await? || frozen("leaf2").await?),
            "frozen after {moves} moves"
        );
    }
    println!("both switches are frozen after {moves} moves");
    let ping = ["ping", "-n", "-c", "3", "-i", "0.2", "-W", "1", &fabric.ipv4];
    ensure!(fabric.lab.exec("bm1", &ping).await.is_err(), "bm1's switch follows what it has frozen");
    let entry = fabric.lab.shell("leaf2", &format!("bridge fdb show | grep {}", fabric.mac)).await?;
    ensure!(entry.contains("dev eth3 master br100"), "leaf2 has {entry}");
    ensure!(!frozen("leaf3").await?, "leaf3 has only ever heard of it");

    // What heals it: told to forget, a switch takes what it has heard last, and the next move settles the rest.
    for (leaf, _) in VTEPS {
        fabric.lab.exec(leaf, &["vtysh", "-c", "clear evpn dup-addr vni all"]).await?;
    }
    let words = ["causeway", "port", "migrate", "web/db-1", "--to", "host2:container", "--netns"];
    let more = ["/run/netns/db-1", "--force", "--max-loss", "20s", "--window", "1s"];
    fabric.lab.exec("ctl", &[&words[..], &more].concat()).await?;
    wait_for("all follow again", Duration::from_secs(30), async || fabric.answers().await).await?;
    fabric.nothing_is_stale(Home::Container2).await?;
    drop((other, vm));
    crate::end(fabric).await
}

#[tokio::test]
async fn a_switch_that_freezes_stops_following_after_five_moves_on_frr_8() -> Result<()> {
    stops_following(Switches::Frr8).await
}

#[tokio::test]
async fn a_switch_that_freezes_stops_following_after_five_moves_on_frr_10() -> Result<()> {
    stops_following(Switches::Frr10).await
}
