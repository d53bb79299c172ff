//! Graceful restart (RFC 4724, RFC 8538): our speaker goes away and comes back.

use std::net::IpAddr;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_bgp::SpeakerConfig;
use causeway_tests::frr::FrrVersion;
use causeway_tests::netns::{Netns, with_pair};
use causeway_tests::wait_for;

use crate::peer::{Kind, Peer, Setup};
use crate::us::{ROUTES, Us, config, host, hosts, peer_config};

const COUNT: u32 = 20;

/// A speaker whose routes FRR has, complete.
async fn started(ns: &Netns, which: FrrVersion) -> Result<(Us, Peer, Setup)> {
    // The hold time is long: what happens here happens by itself.
    let setup = Setup { hold: 90, ..Setup::default() };
    let peer = Peer::start(Kind::Frr(which), ns, &setup).await?;
    let us = Us::with(&setup).await?;
    us.speaker.replace(hosts(COUNT)).await;
    us.speaker.set_synced().await;
    us.established(setup.addresses().1, 1).await?;
    count(&peer, COUNT).await?;
    Ok((us, peer, setup))
}

/// Our routes in FRR's table, stale ones included.
async fn in_table(peer: &Peer) -> Result<u32> {
    let routes = peer.routes().await?;
    Ok(u32::try_from(routes.keys().filter(|k| k.starts_with("10.9.0.1:100:")).count())?)
}

async fn count(peer: &Peer, wanted: u32) -> Result<()> {
    wait_for(&format!("{wanted} routes in FRR"), ROUTES, async || {
        let count = in_table(peer).await?;
        ensure!(count == wanted, "{count}");
        Ok(())
    })
    .await
}

/// Waits until FRR has noticed that we are gone.
async fn noticed(peer: &Peer) -> Result<()> {
    wait_for("FRR sees the session end", ROUTES, async || {
        ensure!(peer.established().await.is_err(), "still Established");
        Ok(())
    })
    .await
}

fn again(setup: &Setup) -> SpeakerConfig {
    SpeakerConfig { restarting: true, ..config(setup.our_asn) }
}

#[test]
fn frr_10_keeps_our_routes_until_we_have_told_all() -> Result<()> {
    with_pair(async |_, ns| {
        let (us, peer, setup) = started(ns, FrrVersion::Newest).await?;
        us.stop().await?;
        noticed(&peer).await?;
        count(&peer, COUNT).await?;
        let us = Us::start(again(&setup), vec![peer_config(&setup)]).await?;
        let address = setup.addresses().1;
        us.established(address, 1).await?;
        // No End-of-RIB before the owner says that its routes are complete: half of them is not enough.
        us.speaker.replace(hosts(COUNT / 2)).await;
        wait_for("half is told", ROUTES, async || {
            let state = us.state(address).await?;
            ensure!(state.routes_out == COUNT as usize / 2 && state.queue == 0, "{state:?}");
            Ok(())
        })
        .await?;
        ensure!(!us.state(address).await?.end_of_rib_out, "End-of-RIB before the table is complete");
        ensure!(in_table(&peer).await? == COUNT, "FRR has dropped routes before the End-of-RIB");
        us.speaker.replace(hosts(COUNT)).await;
        us.speaker.set_synced().await;
        wait_for("End-of-RIB sent", ROUTES, async || {
            ensure!(us.state(address).await?.end_of_rib_out, "not yet");
            Ok(())
        })
        .await?;
        none_stale(&peer).await?;
        ensure!(in_table(&peer).await? == COUNT, "routes are lost after the End-of-RIB");
        us.stop().await
    })
}

/// Waits until FRR has none of our routes marked as stale.
async fn none_stale(peer: &Peer) -> Result<()> {
    wait_for("nothing stale in FRR", ROUTES, async || {
        let routes = peer.routes().await?;
        let stale: Vec<_> =
            routes.iter().filter(|(_, text)| text.contains("stale")).map(|(key, _)| key).collect();
        ensure!(stale.is_empty(), "{stale:?}");
        Ok(())
    })
    .await
}

#[test]
fn frr_10_drops_what_we_no_longer_have() -> Result<()> {
    with_pair(async |_, ns| {
        let (us, peer, setup) = started(ns, FrrVersion::Newest).await?;
        us.stop().await?;
        noticed(&peer).await?;
        let us = Us::start(again(&setup), vec![peer_config(&setup)]).await?;
        us.speaker.replace(hosts(COUNT / 2)).await;
        us.speaker.set_synced().await;
        count(&peer, COUNT / 2).await?;
        peer.has(&host(0)).await?;
        peer.lacks(&host(COUNT - 1)).await?;
        us.stop().await
    })
}

#[test]
fn frr_10_drops_all_when_we_flush() -> Result<()> {
    with_pair(async |_, ns| {
        let (us, peer, _) = started(ns, FrrVersion::Newest).await?;
        // Cease/9, hard reset: graceful restart does not apply.
        us.speaker.flush().await;
        count(&peer, 0).await?;
        us.stop().await
    })
}

#[test]
fn frr_10_drops_all_when_we_stay_away() -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup { hold: 90, ..Setup::default() };
        let peer = Peer::start(Kind::Frr(FrrVersion::Newest), ns, &setup).await?;
        let mut ours = peer_config(&setup);
        ours.restart_time = Some(Duration::from_secs(3));
        let us = Us::start(config(65000), vec![ours]).await?;
        us.speaker.replace(hosts(COUNT)).await;
        us.speaker.set_synced().await;
        count(&peer, COUNT).await?;
        us.stop().await?;
        noticed(&peer).await?;
        ensure!(in_table(&peer).await? == COUNT, "FRR has not waited for our restart time");
        count(&peer, 0).await
    })
}

#[test]
fn frr_8_keeps_nothing_and_is_told_all_again() -> Result<()> {
    with_pair(async |_, ns| {
        let (us, peer, setup) = started(ns, FrrVersion::Debian).await?;
        us.stop().await?;
        count(&peer, 0).await?;
        let us = Us::start(again(&setup), vec![peer_config(&setup)]).await?;
        us.speaker.replace(hosts(COUNT)).await;
        us.speaker.set_synced().await;
        count(&peer, COUNT).await?;
        us.stop().await
    })
}

/// FRR's own routes, which we keep while it restarts if it says that it may.
#[test]
fn we_keep_the_routes_of_a_restarting_neighbour() -> Result<()> {
    with_pair(async |_, ns| {
        let (us, mut peer, setup) = started(ns, FrrVersion::Newest).await?;
        let address: IpAddr = setup.addresses().1;
        peer.frr()?
            .configure(&[
                "router bgp 65000",
                "bgp graceful-restart",
                "bgp graceful-restart preserve-fw-state",
            ])
            .await?;
        ns.ip(&[
            "link add br100 type bridge stp_state 0",
            "link add vx100 type vxlan id 100 local 10.9.0.2 dstport 4789 nolearning",
            "link set vx100 master br100",
            "link set br100 up",
            "link set vx100 up",
        ])
        .await?;
        // The capability is said in the OPEN: a new session is needed.
        us.speaker.reset_peer(address).await;
        us.established(address, 2).await?;
        wait_for("FRR's type 3", ROUTES, async || {
            ensure!(us.state(address).await?.routes_in > 0, "none");
            Ok(())
        })
        .await?;
        let capabilities = us.state(address).await?.capabilities;
        if !capabilities.contains(&"graceful-restart") {
            bail!("graceful restart was not agreed on: {capabilities:?}");
        }
        let before = us.speaker.routes_in(&causeway_bgp::RouteFilter::default()).await;
        peer.restart().await.context("FRR starts again")?;
        us.established(address, 3).await?;
        wait_for("its routes, confirmed", ROUTES * 4, async || {
            let now = us.speaker.routes_in(&causeway_bgp::RouteFilter::default()).await;
            ensure!(!now.is_empty() && now.iter().all(|r| !r.stale), "{now:?}");
            ensure!(now.len() == before.len(), "{} routes, before {}", now.len(), before.len());
            Ok(())
        })
        .await?;
        us.stop().await
    })
}
