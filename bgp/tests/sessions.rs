//! Sessions between two of our speakers over loopback.

mod support;

use std::collections::BTreeSet;
use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_bgp::{Attributes, Event, PeerConfig, PeerMode, Route, RouteChange, RouteFilter, SessionState};
use support::*;

/// Two speakers that know each other.
async fn pair(number: u32, modes: (PeerMode, PeerMode), asns: (u32, u32)) -> Result<(Running, Running)> {
    let a = start(loopback(number), asns.0, false).await?;
    let b = start(loopback(number + 1), asns.1, false).await?;
    a.speaker.set_peers(vec![towards(&a, &b, asns.1, modes.0)]).await;
    b.speaker.set_peers(vec![towards(&b, &a, asns.0, modes.1)]).await;
    Ok((a, b))
}

#[tokio::test]
async fn routes_go_both_ways_and_end_with_end_of_rib() -> Result<()> {
    let (mut a, mut b) = pair(0x01_00_01, (PeerMode::Active, PeerMode::Passive), (65000, 65000)).await?;
    let ticket = a.speaker.replace(routes(0..1000)).await;
    a.speaker.set_synced().await;
    b.speaker.update(vec![RouteChange::Announce(route(5000))]).await;
    b.speaker.set_synced().await;
    a.wait_up().await?;
    a.wait_sent(ticket).await?;
    b.wait_end_of_rib().await?;
    ensure!(b.keys_in().await.len() == 1000);
    a.wait_end_of_rib().await?;
    ensure!(a.keys_in().await == [key(5000)]);
    let state = a.peer().await?;
    ensure!(state.state == SessionState::Established && state.router_id == Some([127, 1, 0, 2].into()));
    ensure!(state.routes_out == 1000 && state.queue == 0 && state.end_of_rib_out && state.routes_in == 1);
    ensure!(state.counters.established == 1 && state.counters.announced_in[&2] == 1);
    ensure!(
        state.capabilities.contains(&"extended-message") && state.hold_time == Some(Duration::from_secs(9))
    );

    // Only what changes is told: one withdrawal, one replacement.
    let changed = Route { attributes: Arc::new(Attributes { sequence: 3, ..attributes() }), ..route(1) };
    let mut all = routes(1..1000);
    all[0] = changed.clone();
    let ticket = a.speaker.replace(all.clone()).await;
    let changes = b
        .wait("changes", |event| match event {
            Event::Received { changes, .. } => Some(changes.clone()),
            _ => None,
        })
        .await?;
    let wanted = [RouteChange::Announce(changed), RouteChange::Withdraw(key(0))];
    ensure!(changes.len() == 2 && wanted.iter().all(|change| changes.contains(change)), "{changes:?}");
    a.wait_sent(ticket).await?;
    let before = a.peer().await?.counters.updates_out;
    let ticket = a.speaker.replace(all).await;
    a.wait_sent(ticket).await?;
    ensure!(a.peer().await?.counters.updates_out == before, "nothing to tell");

    ensure!(a.speaker.routes_out(&RouteFilter { limit: 10, ..Default::default() }).await.len() == 10);
    b.stop().await?;
    a.wait_down().await?;
    a.stop().await
}

#[tokio::test]
async fn a_collision_leaves_one_session_whoever_has_the_higher_identifier() -> Result<()> {
    for round in 0..6 {
        let base = 0x02_00_00 + round * 16;
        let a = start_as(loopback(base + 1), 65000, if round % 2 == 0 { 1 } else { 9 }, false).await?;
        let b = start_as(loopback(base + 2), 65000, 5, false).await?;
        a.speaker.replace(routes(0..10)).await;
        a.speaker.set_peers(vec![towards(&a, &b, 65000, PeerMode::Both)]).await;
        b.speaker.set_peers(vec![towards(&b, &a, 65000, PeerMode::Both)]).await;
        eventually("one session, stable", || async {
            let (Ok(at_a), Ok(at_b)) = (a.peer().await, b.peer().await) else { return false };
            at_a.state == SessionState::Established
                && at_b.state == SessionState::Established
                && at_b.routes_in == 10
        })
        .await?;
        // The other connection is over at both ends, and has not taken the session with it: it still carries routes.
        eventually("one connection", || async {
            open_sockets(a.address.ip(), b.address.ip()).is_ok_and(|open| open == 2)
        })
        .await?;
        a.speaker.replace(routes(0..11)).await;
        b.speaker.replace(routes(20..21)).await;
        eventually("routes both ways", || async {
            a.peer().await.is_ok_and(|peer| peer.routes_in == 1)
                && b.peer().await.is_ok_and(|peer| peer.routes_in == 11)
        })
        .await?;
        for end in [&a, &b] {
            ensure!(end.peer().await?.counters.established == 1, "{:?}", end.peer().await?);
        }
        a.stop().await?;
        b.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn ebgp_keeps_the_next_hop() -> Result<()> {
    let (a, mut b) = pair(0x03_00_01, (PeerMode::Active, PeerMode::Passive), (4_200_000_001, 65001)).await?;
    a.speaker.replace(routes(0..2)).await;
    a.speaker.set_synced().await;
    b.wait_end_of_rib().await?;
    let received = b.speaker.routes_in(&RouteFilter::default()).await;
    ensure!(received.len() == 2 && received[0].route.attributes.next_hop == attributes().next_hop);
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn ipv6_transport_and_next_hops() -> Result<()> {
    let localhost: IpAddr = "::1".parse()?;
    let a = start_as(localhost, 65000, 1, false).await?;
    let mut b = start_as(localhost, 65000, 2, false).await?;
    let next_hop = "2001:db8::1".parse()?;
    let vtep = Route { attributes: Arc::new(Attributes { next_hop, ..attributes() }), ..route(1) };
    a.speaker.replace(vec![vtep.clone()]).await;
    a.speaker.set_synced().await;
    a.speaker
        .set_peers(vec![PeerConfig { gtsm_hops: Some(1), ..towards(&a, &b, 65000, PeerMode::Active) }])
        .await;
    b.speaker.set_peers(vec![PeerConfig { gtsm_hops: Some(1), ..passive(localhost, 65000) }]).await;
    b.wait_end_of_rib().await?;
    ensure!(b.speaker.routes_in(&RouteFilter::default()).await[0].route == vtep);
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn end_of_rib_waits_for_the_first_complete_snapshot() -> Result<()> {
    let (mut a, mut b) = pair(0x05_00_01, (PeerMode::Active, PeerMode::Passive), (65000, 65000)).await?;
    a.speaker.update(routes(0..10).into_iter().map(RouteChange::Announce).collect()).await;
    a.wait_up().await?;
    let ticket = a.speaker.update(routes(10..20).into_iter().map(RouteChange::Announce).collect()).await;
    a.wait_sent(ticket).await?;
    b.wait("routes", |event| matches!(event, Event::Received { .. }).then_some(())).await?;
    ensure!(!b.peer().await?.end_of_rib_in && !a.peer().await?.end_of_rib_out);
    a.speaker.replace(routes(0..50_000)).await;
    a.speaker.set_synced().await;
    b.wait_end_of_rib().await?;
    ensure!(b.keys_in().await.len() == 50_000, "all routes came before it");
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn md5_right_wrong_and_none() -> Result<()> {
    let base = 0x06_00_00;
    for (number, own, other, works) in [
        (1, Some("secret"), Some("secret"), true),
        (2, Some("secret"), Some("guess"), false),
        (3, Some("secret"), None, false),
        (4, None, Some("secret"), false),
    ] {
        let a = start(loopback(base + number * 16 + 1), 65000, false).await?;
        let b = start(loopback(base + number * 16 + 2), 65000, false).await?;
        let keyed = |peer: PeerConfig, key: Option<&str>| PeerConfig {
            md5_key: key.map(|key| key.as_bytes().to_vec()),
            ..peer
        };
        b.speaker.set_peers(vec![keyed(towards(&b, &a, 65000, PeerMode::Passive), other)]).await;
        let refused = md5_refusals()?;
        a.speaker.set_peers(vec![keyed(towards(&a, &b, 65000, PeerMode::Active), own)]).await;
        if works {
            eventually("up", || async { a.peer().await.is_ok_and(|p| p.state == SessionState::Established) })
                .await?;
        } else {
            eventually("an attempt that the kernel refuses", || async {
                a.peer().await.is_ok_and(|p| p.state == SessionState::Connect)
                    && md5_refusals().is_ok_and(|now| now > refused)
            })
            .await?;
            let peer = a.peer().await?;
            ensure!(
                peer.state == SessionState::Connect && peer.counters.established == 0,
                "{own:?} {other:?}"
            );
            // The right key, set later, heals it.
            b.speaker.set_peers(vec![keyed(towards(&b, &a, 65000, PeerMode::Passive), own)]).await;
            eventually("healed", || async {
                a.peer().await.is_ok_and(|p| p.state == SessionState::Established)
            })
            .await?;
        }
        a.stop().await?;
        b.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn peers_are_changed_without_touching_the_others() -> Result<()> {
    let mut a = start(loopback(0x07_00_01), 65000, false).await?;
    let mut b = start(loopback(0x07_00_02), 65000, false).await?;
    let mut c = start(loopback(0x07_00_03), 65000, false).await?;
    b.speaker.set_peers(vec![towards(&b, &a, 65000, PeerMode::Passive)]).await;
    c.speaker.set_peers(vec![towards(&c, &a, 65000, PeerMode::Passive)]).await;
    let (to_b, to_c) = (towards(&a, &b, 65000, PeerMode::Active), towards(&a, &c, 65000, PeerMode::Active));
    a.speaker.replace(routes(0..3)).await;
    a.speaker.set_peers(vec![to_b.clone(), to_c.clone()]).await;
    b.wait_up().await?;
    c.wait_up().await?;
    a.wait_up().await?;
    a.wait_up().await?;
    // c goes: its routes from us go at once although graceful restart was agreed, b does not notice.
    c.wait("routes", |event| matches!(event, Event::Received { .. }).then_some(())).await?;
    a.speaker.set_peers(vec![to_b.clone()]).await;
    let reason = c.wait_down().await?;
    ensure!(reason.contains("Hard Reset"), "{reason}");
    c.wait("withdrawals", |event| match event {
        Event::Received { changes, .. } => (changes.len() == 3
            && changes.iter().all(|c| matches!(c, RouteChange::Withdraw(_))))
        .then_some(()),
        _ => None,
    })
    .await?;
    ensure!(a.speaker.peers().await.len() == 1 && b.peer().await?.state == SessionState::Established);
    // b changed: restarted with Cease/6.
    a.speaker.set_peers(vec![PeerConfig { hold_time: Duration::from_secs(12), ..to_b }]).await;
    let reason = b.wait_down().await?;
    ensure!(reason.contains("6/6"), "{reason}");
    b.wait_up().await?;
    ensure!(b.peer().await?.counters.established == 2);
    // Reset on demand.
    ensure!(a.speaker.reset_peer(b.address.ip()).await && !a.speaker.reset_peer(loopback(1)).await);
    b.wait_down().await?;
    b.wait_up().await?;
    for running in [a, b, c] {
        running.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_restart_keeps_routes_until_end_of_rib_and_a_flush_takes_them() -> Result<()> {
    let (a, mut b) = pair(0x08_00_01, (PeerMode::Active, PeerMode::Passive), (65000, 65000)).await?;
    a.speaker.replace(routes(0..100)).await;
    a.speaker.set_synced().await;
    b.wait_end_of_rib().await?;
    let address = a.address;
    a.stop().await?;
    b.wait_down().await?;
    let state = b.peer().await?;
    ensure!((state.routes_in, state.routes_stale) == (100, 100), "kept: {state:?}");

    // It comes back with half of them, under the same address: the rest goes at End-of-RIB, not before.
    let config = causeway_bgp::SpeakerConfig {
        router_id: [127, 8, 0, 1].into(),
        asn: 65000,
        listen: vec![address],
        restarting: true,
    };
    let cancel = tokio_util::sync::CancellationToken::new();
    let (speaker, events, task) = causeway_bgp::Speaker::start(config, cancel.clone()).await?;
    let a = Running { speaker, events, task, cancel, address };
    a.speaker.set_peers(vec![towards(&a, &b, 65000, PeerMode::Active)]).await;
    let ticket = a.speaker.replace(routes(0..50)).await;
    let mut a = a;
    a.wait_sent(ticket).await?;
    eventually("half confirmed", || async {
        b.peer().await.is_ok_and(|p| (p.routes_in, p.routes_stale) == (100, 50))
    })
    .await?;
    a.speaker.set_synced().await;
    let swept = b
        .wait("sweep", |event| match event {
            Event::StaleSwept { routes, .. } => Some(*routes),
            _ => None,
        })
        .await?;
    ensure!(swept == 50 && b.peer().await?.routes_in == 50);

    a.speaker.flush().await;
    let reason = b.wait_down().await?;
    ensure!(reason.contains("Hard Reset"), "{reason}");
    ensure!(b.peer().await?.routes_in == 0);
    tokio::time::timeout(DEADLINE, a.task).await??;
    b.stop().await
}

#[tokio::test]
async fn a_refresh_brings_everything_again() -> Result<()> {
    let (a, mut b) = pair(0x09_00_01, (PeerMode::Active, PeerMode::Passive), (65000, 65000)).await?;
    a.speaker.replace(routes(0..5000)).await;
    a.speaker.set_synced().await;
    b.wait_end_of_rib().await?;
    ensure!(b.peer().await?.counters.announced_in[&2] == 5000);
    ensure!(b.speaker.request_refresh(a.address.ip()).await);
    eventually("again, and confirmed", || async {
        b.peer().await.is_ok_and(|p| p.counters.announced_in[&2] == 10_000 && p.routes_stale == 0)
    })
    .await?;
    ensure!(a.peer().await?.counters.refreshes_in == 1 && b.peer().await?.routes_in == 5000);
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn a_slow_owner_loses_nothing() -> Result<()> {
    let (mut a, mut b) = pair(0x0a_00_01, (PeerMode::Active, PeerMode::Passive), (65000, 65000)).await?;
    a.wait_up().await?;
    // b's events are not read while the same hosts change over and over, far more often than events fit the channel.
    for round in 0..200 {
        let attributes = Arc::new(Attributes { sequence: round, ..attributes() });
        let changes = (0..100).map(|host| Route { key: key(host), attributes: Arc::clone(&attributes) });
        let ticket = a.speaker.update(changes.map(RouteChange::Announce).collect()).await;
        a.wait_sent(ticket).await?;
    }
    a.speaker.update((0..50).map(|host| RouteChange::Withdraw(key(host))).collect()).await;
    a.speaker.set_synced().await;
    eventually("all is there", || async { b.peer().await.is_ok_and(|p| p.end_of_rib_in) }).await?;
    let mut left = BTreeSet::new();
    let mut received = 0;
    loop {
        match b.events.recv().await {
            Some(Event::Received { changes, .. }) => {
                received += changes.len();
                for change in changes {
                    match change {
                        RouteChange::Announce(route) => left.insert(route),
                        RouteChange::Withdraw(key) => {
                            left.retain(|route: &Route| route.key != key);
                            true
                        }
                    };
                }
            }
            Some(Event::EndOfRib { .. }) => break,
            Some(_) => {}
            None => anyhow::bail!("the speaker has stopped"),
        }
    }
    let last: BTreeSet<_> =
        left.iter().filter(|route| route.attributes.sequence == 199).map(|r| r.key).collect();
    ensure!(last == (50..100).map(key).collect(), "{last:?}");
    ensure!(received < 20_000, "changes were merged: {received}");
    a.stop().await?;
    b.stop().await
}

#[tokio::test]
async fn connections_of_strangers_are_refused_and_bad_configuration_is_told() -> Result<()> {
    let a = start(loopback(0x0b_00_01), 65000, false).await?;
    let mut raw = Raw::connect(loopback(0x0b_00_09), a.address).await?;
    ensure!(raw.read(DEADLINE).await? == Answer::Closed);
    let config = |asn, router_id: [u8; 4], listen| causeway_bgp::SpeakerConfig {
        router_id: router_id.into(),
        asn,
        listen,
        restarting: false,
    };
    for bad in [
        config(0, [1, 1, 1, 1], vec![]),
        config(u32::MAX, [1, 1, 1, 1], vec![]),
        config(1, [0, 0, 0, 0], vec![]),
        config(1, [1, 1, 1, 1], vec![a.address]),
    ] {
        let error = causeway_bgp::Speaker::start(bad, Default::default()).await.err();
        let text = error.map(|error| error.to_string()).unwrap_or_default();
        ensure!(text.contains("speaker") || text.contains(&a.address.to_string()), "{text}");
    }
    a.stop().await
}
