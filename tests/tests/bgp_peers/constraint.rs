//! Route target constraint (RFC 4684): GoBGP has it, FRR does not.

use std::collections::BTreeSet;
use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use causeway_bgp::{Attributes, Interest, Route, RouteTarget};
use causeway_tests::gobgp::GoBgp;
use causeway_tests::netns::with_pair;
use causeway_tests::wait_for;

use crate::against_every_peer;
use crate::peer::{GoBgpVersion, Kind, Peer, Setup};
use crate::us::{ROUTES, Us, attributes, config, host, peer_config};

against_every_peer!(asked_for_and_no_more, asked_for_over_a_restart);

/// Host `n`, with this target.
fn of(n: u32, target: u32) -> Route {
    let route_targets = vec![RouteTarget::new(65000, target).unwrap()];
    Route { attributes: Arc::new(Attributes { route_targets, ..attributes() }), ..host(n) }
}

fn targets(numbers: &[u32]) -> Interest {
    let targets: BTreeSet<RouteTarget> =
        numbers.iter().map(|n| RouteTarget::new(65000, *n).unwrap()).collect();
    Interest::Targets(targets)
}

/// GoBGP asks for what its VRFs import.
async fn ask(gobgp: &GoBgp, target: u32) -> Result<()> {
    let (name, text) = (format!("v{target}"), format!("65000:{target}"));
    gobgp.cli(&["vrf", "add", &name, "rd", &text, "rt", "both", &text]).await?;
    Ok(())
}

async fn ask_no_more(gobgp: &GoBgp, target: u32) -> Result<()> {
    gobgp.cli(&["vrf", "del", &format!("v{target}")]).await?;
    Ok(())
}

/// GoBGP announces a MAC with this target.
async fn say(gobgp: &GoBgp, mac: &str, target: u32) -> Result<()> {
    let target = format!("65000:{target}");
    let line = [
        "global",
        "rib",
        "add",
        "-a",
        "evpn",
        "macadv",
        mac,
        "172.30.0.1",
        "etag",
        "0",
        "label",
        "100",
        "rd",
        "10.9.0.2:1",
        "rt",
        &target,
        "encap",
        "vxlan",
        "nexthop",
        "10.9.0.2",
    ];
    gobgp.cli(&line).await?;
    Ok(())
}

/// A speaker with these routes that asks for the target 200.
async fn begin(setup: &Setup, routes: &[Route]) -> Result<Us> {
    let us = Us::start(config(setup.our_asn), Vec::new()).await?;
    us.speaker.set_interest(targets(&[200])).await;
    us.speaker.replace(routes.to_vec()).await;
    us.speaker.set_synced().await;
    us.speaker.set_peers(vec![peer_config(setup)]).await;
    Ok(us)
}

/// Waits until the peer has exactly these hosts of ours.
async fn has_hosts(peer: &Peer, all: &[Route], wanted: &[usize]) -> Result<()> {
    wait_for(&format!("hosts {wanted:?}"), ROUTES, async || {
        for (at, route) in all.iter().enumerate() {
            if wanted.contains(&at) { peer.has(route).await? } else { peer.lacks(route).await? }
        }
        Ok(())
    })
    .await
}

/// Waits until we have exactly these MACs of the peer.
async fn hears(us: &Us, wanted: &[&str]) -> Result<()> {
    wait_for(&format!("MACs {wanted:?}"), ROUTES, async || {
        let mut macs: Vec<String> = Vec::new();
        for received in us.speaker.routes_in(&Default::default()).await {
            if let causeway_bgp::RouteKey::MacIp { mac, .. } = received.route.key {
                macs.push(mac.to_string());
            }
        }
        ensure!(macs == wanted, "we have {macs:?}");
        Ok(())
    })
    .await
}

fn asked_for_and_no_more(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        // Without graceful restart GoBGP never says that it has asked for everything.
        let setup = Setup { constraint: true, ..Setup::default() };
        let address = setup.addresses().1;
        let peer = Peer::start(kind, ns, &setup).await?;
        let all = [of(0, 100), of(1, 100), of(2, 101)];
        let us = begin(&setup, &all).await?;
        let state = us.established(address, 1).await?;
        let agreed = state.capabilities.contains(&"route-target-constraint");
        let Some(gobgp) = peer.gobgp() else {
            // The capability does no harm to those who do not have it: they get everything.
            ensure!(!agreed && state.memberships.is_none(), "{state:?}");
            has_hosts(&peer, &all, &[0, 1, 2]).await?;
            return us.stop().await;
        };
        ensure!(agreed, "{state:?}");
        wait_for("our End-of-RIB", ROUTES, async || {
            let state = us.state(address).await?;
            ensure!(state.end_of_rib_out && state.routes_out == 0, "{state:?}");
            Ok(())
        })
        .await?;
        has_hosts(&peer, &all, &[]).await?;

        ask(gobgp, 100).await?;
        has_hosts(&peer, &all, &[0, 1]).await?;
        ensure!(us.speaker.holders(all[0].key).await == [address]);
        ensure!(us.speaker.holders(all[2].key).await.is_empty());
        ask(gobgp, 101).await?;
        has_hosts(&peer, &all, &[0, 1, 2]).await?;
        ask_no_more(gobgp, 100).await?;
        has_hosts(&peer, &all, &[2]).await?;
        // A route moves out of what is asked for, and into it.
        us.speaker.replace(vec![of(0, 101), of(1, 100), of(2, 102)]).await;
        has_hosts(&peer, &[of(0, 101), all[1].clone(), all[2].clone()], &[0]).await?;

        // The other way round: it sends what we ask for.
        say(gobgp, "02:bb:00:00:00:01", 200).await?;
        say(gobgp, "02:bb:00:00:00:02", 201).await?;
        hears(&us, &["02:bb:00:00:00:01"]).await?;
        us.speaker.set_interest(targets(&[200, 201])).await;
        hears(&us, &["02:bb:00:00:00:01", "02:bb:00:00:00:02"]).await?;
        us.speaker.set_interest(targets(&[201])).await;
        hears(&us, &["02:bb:00:00:00:02"]).await?;
        if kind == Kind::GoBgp(GoBgpVersion::Debian) {
            // GoBGP 3.10 crashes when it reads the default membership.
            return us.stop().await;
        }
        us.speaker.set_interest(Interest::All).await;
        hears(&us, &["02:bb:00:00:00:01", "02:bb:00:00:00:02"]).await?;
        us.stop().await
    })
}

fn asked_for_over_a_restart(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup { constraint: true, graceful: true, ..Setup::default() };
        let address = setup.addresses().1;
        let mut peer = Peer::start(kind, ns, &setup).await?;
        let all = [of(0, 100), of(1, 101)];
        let us = begin(&setup, &all).await?;
        us.established(address, 1).await?;
        if peer.gobgp().is_none() {
            // The family is in our graceful-restart capability too, and nobody minds.
            return has_hosts(&peer, &all, &[0, 1]).await;
        }
        for session in 1..=2 {
            us.established(address, session).await?;
            ask(peer.gobgp().context("GoBGP")?, 100).await?;
            has_hosts(&peer, &all, &[0]).await?;
            wait_for("both tables complete", ROUTES, async || {
                let state = us.state(address).await?;
                ensure!(state.end_of_rib_out && state.end_of_rib_in, "{state:?}");
                ensure!((state.routes_out, state.memberships) == (1, Some(1)), "{state:?}");
                Ok(())
            })
            .await?;
            if session == 1 {
                peer.restart().await?;
            }
        }
        us.stop().await
    })
}
