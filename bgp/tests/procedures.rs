//! Procedures that need a peer made of raw octets: restarts, refreshes, silence, distance.

mod support;

use std::time::Duration;

use anyhow::{Result, bail, ensure};
use causeway_bgp::{Event, SessionState};
use support::*;

fn with(capabilities: &str) -> Vec<u8> {
    open("fde8", 30, "0a630001", capabilities)
}

const GRACEFUL: &str = "01 04 00190046 | 02 00 | 46 00 | 06 00 | 40 06 403c 0019 46 80 | 41 04 0000fde8";

#[tokio::test]
async fn routes_of_a_restarting_peer() -> Result<()> {
    // How the session ends, what the peer says when it is back, and what is left of two routes: stale, then at the end.
    let not_kept = GRACEFUL.replace("46 80", "46 00");
    let without_n = GRACEFUL.replace("403c", "003c");
    let cease = || message(3, &[6, 2]);
    let hard = || message(3, &[6, 9, 6, 3]);
    let cases = [
        ("connection lost", GRACEFUL, None, 2, GRACEFUL, 1),
        ("Cease with the N bit", GRACEFUL, Some(cease()), 2, GRACEFUL, 1),
        ("Cease without the N bit", without_n.as_str(), Some(cease()), 0, GRACEFUL, 1),
        ("hard reset", GRACEFUL, Some(hard()), 0, GRACEFUL, 1),
        ("forwarding state lost", GRACEFUL, None, 2, &not_kept, 1),
        ("no capability afterwards", GRACEFUL, None, 2, CAPABILITIES, 1),
        ("no capability before", CAPABILITIES, None, 0, GRACEFUL, 1),
    ];
    for (number, (name, before, goodbye, kept, after, left)) in (0..).zip(cases) {
        let (mut running, mut raw) = established(0x16_00_00 + number * 16, before).await?;
        raw.send(&[announcement(1), announcement(2)].concat()).await?;
        eventually("routes", || async { running.keys_in().await.len() == 2 }).await?;
        if let Some(goodbye) = goodbye {
            raw.send(&goodbye).await?;
        }
        let from = raw.stream.local_addr()?.ip();
        drop(raw);
        running.wait_down().await?;
        let peer = running.peer().await?;
        ensure!((peer.routes_in, peer.routes_stale) == (kept, kept), "{name}: {peer:?}");

        let mut raw = Raw::connect(from, running.address).await?;
        raw.establish(&with(after)).await?;
        running.wait_up().await?;
        let stale = if after == GRACEFUL { kept } else { 0 };
        ensure!(running.peer().await?.routes_stale == stale, "{name}");
        raw.send(&[announcement(1), update(END_OF_RIB)].concat()).await?;
        running.wait_end_of_rib().await?;
        let peer = running.peer().await?;
        ensure!((peer.routes_in, peer.routes_stale) == (left, 0), "{name}: {peer:?}");
        running.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_peer_that_does_not_come_back_is_forgotten() -> Result<()> {
    let (mut running, mut raw) = established(0x17_00_01, &GRACEFUL.replace("403c", "4001")).await?;
    raw.send(&announcement(1)).await?;
    eventually("route", || async { running.keys_in().await.len() == 1 }).await?;
    drop(raw);
    running.wait_down().await?;
    let lost = tokio::time::Instant::now();
    ensure!(running.keys_in().await.len() == 1);
    running.wait("sweep", |e| matches!(e, Event::StaleSwept { routes: 1, .. }).then_some(())).await?;
    let after = lost.elapsed();
    ensure!(after > Duration::from_millis(900) && after < Duration::from_secs(3), "{after:?}");
    ensure!(running.keys_in().await.is_empty());
    running.stop().await
}

#[tokio::test]
async fn a_new_connection_replaces_a_dead_one_only_with_graceful_restart() -> Result<()> {
    for (number, capabilities, replaces) in [(1, GRACEFUL, true), (2, CAPABILITIES, false)] {
        let (mut running, old) = established(0x18_00_00 + number * 16, capabilities).await?;
        let mut old = old;
        old.send(&announcement(1)).await?;
        eventually("route", || async { running.keys_in().await.len() == 1 }).await?;
        // The old connection stays open and silent, as one to a host that has lost power.
        let mut new = Raw::connect(old.stream.local_addr()?.ip(), running.address).await?;
        if replaces {
            new.establish(&with(capabilities)).await?;
            running.wait_down().await?;
            running.wait_up().await?;
            let peer = running.peer().await?;
            ensure!((peer.routes_in, peer.routes_stale) == (1, 1), "{peer:?}");
            ensure!(old.read(DEADLINE).await? != Answer::Nothing);
        } else {
            new.send(&with(capabilities)).await?;
            let (code, subcode, _) = new.expect_notification().await?;
            ensure!((code, subcode) == (6, 7));
            ensure!(running.peer().await?.counters.established == 1);
        }
        running.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn refreshes_are_framed_where_agreed() -> Result<()> {
    for (number, capabilities, framed) in
        [(1, CAPABILITIES.to_owned(), true), (2, CAPABILITIES.replace("46 00 |", ""), false)]
    {
        let (mut running, mut raw) = established(0x19_00_00 + number * 16, &capabilities).await?;
        let ticket = running.speaker.replace(routes(0..3)).await;
        running.wait_sent(ticket).await?;
        raw.expect_update().await?;
        raw.send(&hex("M 0017 05 0019 00 46")).await?;
        let mut kinds = Vec::new();
        let wanted: &[u8] = if framed { &[5, 2, 5] } else { &[2] };
        while kinds.len() < wanted.len() {
            match raw.read(DEADLINE).await? {
                Answer::Message(4, _) => {}
                Answer::Message(kind, body) => {
                    ensure!(kind != 5 || body[2] == if kinds.is_empty() { 1 } else { 2 });
                    kinds.push(kind);
                }
                other => bail!("{other:?}"),
            }
        }
        ensure!(kinds == wanted, "{kinds:?}");
        running.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn a_framed_refresh_of_the_peer_sweeps_what_it_leaves_out() -> Result<()> {
    let (mut running, mut raw) = established(0x1a_00_01, CAPABILITIES).await?;
    raw.send(&[announcement(1), announcement(2)].concat()).await?;
    eventually("routes", || async { running.keys_in().await.len() == 2 }).await?;
    ensure!(running.speaker.request_refresh(loopback(0x1a_00_02)).await);
    ensure!(raw.expect(5).await? == hex("0019 00 46"));
    raw.send(&[hex("M 0017 05 0019 01 46"), announcement(2), hex("M 0017 05 0019 02 46")].concat()).await?;
    running.wait("sweep", |e| matches!(e, Event::StaleSwept { routes: 1, .. }).then_some(())).await?;
    ensure!(running.keys_in().await.iter().map(host).eq([2]));
    running.stop().await
}

#[tokio::test]
async fn silence_ends_the_session_when_the_hold_time_is_over() -> Result<()> {
    let mut running = start(loopback(0x1b_00_01), 65000, false).await?;
    let peer = loopback(0x1b_00_02);
    running.speaker.set_peers(vec![passive(peer, 65000)]).await;
    let mut raw = Raw::connect(peer, running.address).await?;
    raw.establish(&open("fde8", 3, "0a630001", CAPABILITIES)).await?;
    running.wait_up().await?;
    let start = tokio::time::Instant::now();
    // Our own KEEPALIVEs come every second meanwhile.
    let mut keepalives = 0;
    let body = loop {
        match raw.read(DEADLINE).await? {
            Answer::Message(4, _) => keepalives += 1,
            Answer::Message(3, body) => break body,
            other => bail!("{other:?}"),
        }
    };
    ensure!(body == [4, 0] && keepalives >= 2, "{body:?} {keepalives}");
    let after = start.elapsed();
    ensure!(after > Duration::from_millis(2900) && after < Duration::from_secs(5), "{after:?}");
    running.wait_down().await?;
    running.stop().await
}

#[tokio::test]
async fn a_stop_says_nothing_and_a_flush_says_hard_reset() -> Result<()> {
    let (running, mut raw) = established(0x1c_00_01, GRACEFUL).await?;
    running.stop().await?;
    loop {
        match raw.read(DEADLINE).await? {
            Answer::Message(3, body) => bail!("NOTIFICATION {body:?}"),
            Answer::Message(..) => {}
            Answer::Closed => break,
            Answer::Nothing => bail!("still open"),
        }
    }
    let (running, mut raw) = established(0x1c_00_11, GRACEFUL).await?;
    let flush = running.speaker.clone();
    let (_, got) = tokio::join!(flush.flush(), raw.expect_notification());
    ensure!(got? == (6, 9, vec![6, 2]));
    running.stop().await
}

#[tokio::test]
async fn the_first_open_after_a_restart_says_so() -> Result<()> {
    let running = start(loopback(0x1d_00_01), 65000, true).await?;
    let peer = loopback(0x1d_00_02);
    running.speaker.set_peers(vec![passive(peer, 65000)]).await;
    let restart_flags = |body: Vec<u8>| {
        let at = body.windows(2).position(|pair| pair == [0x40, 6]);
        at.and_then(|at| body.get(at + 2).copied()).map(|octet| octet & 0xc0)
    };
    let mut raw = Raw::connect(peer, running.address).await?;
    ensure!(restart_flags(raw.expect(1).await?) == Some(0xc0));
    drop(raw);
    let mut raw = Raw::connect(peer, running.address).await?;
    ensure!(restart_flags(raw.expect(1).await?) == Some(0xc0), "until a session was up");
    raw.send(&with(GRACEFUL)).await?;
    raw.expect(4).await?;
    raw.send(&hex(KEEPALIVE)).await?;
    eventually("up", || async { running.peer().await.is_ok_and(|p| p.state == SessionState::Established) })
        .await?;
    drop(raw);
    let mut raw = Raw::connect(peer, running.address).await?;
    ensure!(restart_flags(raw.expect(1).await?) == Some(0x40));
    running.stop().await
}

#[tokio::test]
async fn packets_from_too_far_away_are_dropped() -> Result<()> {
    let running = start(loopback(0x1e_00_01), 65000, false).await?;
    let peer = loopback(0x1e_00_02);
    let near = causeway_bgp::PeerConfig { gtsm_hops: Some(1), ..passive(peer, 65000) };
    running.speaker.set_peers(vec![near.clone()]).await;
    for (ttl, heard) in [(254, false), (64, false), (255, true)] {
        let mut raw = Raw::connect(peer, running.address).await?;
        raw.expect(1).await?;
        socket2::SockRef::from(&raw.stream).set_ttl_v4(ttl)?;
        raw.send(&with(CAPABILITIES)).await?;
        let answer = raw.read(Duration::from_millis(if heard { 20_000 } else { 400 })).await?;
        ensure!(matches!(answer, Answer::Message(4, _)) == heard, "TTL {ttl}: {answer:?}");
        ensure!(heard || answer == Answer::Nothing, "TTL {ttl}: {answer:?}");
    }
    let far = causeway_bgp::PeerConfig { gtsm_hops: Some(3), ..near };
    running.speaker.set_peers(vec![far]).await;
    let mut raw = Raw::connect(peer, running.address).await?;
    raw.expect(1).await?;
    socket2::SockRef::from(&raw.stream).set_ttl_v4(253)?;
    raw.send(&with(CAPABILITIES)).await?;
    raw.expect(4).await?;
    running.stop().await
}
