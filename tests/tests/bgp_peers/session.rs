//! Coming up, staying up, going down.

use std::collections::HashMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_bgp::{Event, PeerConfig, PeerMode, SessionState};
use causeway_tests::netns::with_pair;
use causeway_tests::{process, wait_for};

use crate::against_every_peer;
use crate::peer::{Kind, Peer, Setup};
use crate::us::{ROUTES, SESSION, Us, config, host, peer_config};

against_every_peer!(
    we_connect,
    we_are_connected_to,
    ipv6_and_ebgp,
    both_connect_and_one_session_remains,
    md5_key_right_wrong_and_missing,
    gtsm_kept,
    gtsm_violated,
    hold_time_runs_out_at_both_ends,
    neighbour_restarts,
    keepalives_hold_a_session_without_routes,
);

/// Both sides say Established; an event says so too.
async fn up(us: &Us, peer: &Peer, setup: &Setup) -> Result<()> {
    let address = setup.addresses().1;
    let state = us.established(address, 1).await?;
    wait_for("the neighbour agrees", SESSION, async || peer.established().await).await?;
    ensure!(us.events().contains(&Event::PeerUp { peer: address }), "{:?}", us.events());
    ensure!(state.router_id == Some("10.9.0.2".parse()?), "{state:?}");
    ensure!(state.hold_time == Some(Duration::from_secs(setup.hold.into())), "{state:?}");
    Ok(())
}

fn we_connect(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup { passive: true, ..Setup::default() };
        let peer = Peer::start(kind, ns, &setup).await?;
        let config = causeway_bgp::SpeakerConfig { listen: Vec::new(), ..config(65000) };
        let us =
            Us::start(config, vec![PeerConfig { mode: PeerMode::Active, ..peer_config(&setup) }]).await?;
        up(&us, &peer, &setup).await?;
        us.stop().await
    })
}

fn we_are_connected_to(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup::default();
        let passive = PeerConfig { mode: PeerMode::Passive, ..peer_config(&setup) };
        let us = Us::start(config(65000), vec![passive]).await?;
        let peer = Peer::start(kind, ns, &setup).await?;
        up(&us, &peer, &setup).await?;
        us.stop().await
    })
}

fn ipv6_and_ebgp(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup { v6: true, our_asn: 4_200_000_001, asn: 65002, ..Setup::default() };
        let peer = Peer::start(kind, ns, &setup).await?;
        let us = Us::with(&setup).await?;
        up(&us, &peer, &setup).await?;
        us.speaker.replace(vec![host(1)]).await;
        wait_for("the route", ROUTES, async || peer.has(&host(1)).await).await?;
        us.stop().await
    })
}

/// Connections between the two that are Established for TCP, seen in our namespace.
async fn connections() -> Result<usize> {
    let shown =
        process::run(&["ss", "-tnH", "state", "established", "( sport = :179 or dport = :179 )"]).await?;
    Ok(shown.lines().count())
}

fn both_connect_and_one_session_remains(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup::default();
        let address = setup.addresses().1;
        let us = Us::with(&setup).await?;
        let peer = Peer::start(kind, ns, &setup).await?;
        up(&us, &peer, &setup).await?;
        // Both ends connect at once after every reset: most rounds have a collision.
        for round in 2..=6 {
            ensure!(us.speaker.reset_peer(address).await, "no peer to reset");
            us.established(address, round).await?;
            wait_for("one connection, used by both", SESSION, async || {
                peer.established().await?;
                let state = us.state(address).await?;
                ensure!(state.state == SessionState::Established, "{} ({:?})", state.state, state.last_error);
                let connections = connections().await?;
                ensure!(connections == 1, "{connections} connections");
                Ok(())
            })
            .await?;
        }
        us.stop().await
    })
}

/// TCP counters of the calling thread's namespace.
fn tcp_counters() -> Result<HashMap<String, u64>> {
    let text = std::fs::read_to_string("/proc/thread-self/net/netstat")?;
    let mut lines = text.lines().filter_map(|l| l.strip_prefix("TcpExt:"));
    let (names, values) = (lines.next().context("no names")?, lines.next().context("no values")?);
    let pairs = names.split_whitespace().zip(values.split_whitespace());
    pairs.map(|(name, value)| Ok((name.to_string(), value.parse()?))).collect()
}

/// Waits until our kernel has dropped segments for this reason, and checks that no session came of them.
async fn dropped(us: &Us, setup: &Setup, counter: &str) -> Result<()> {
    wait_for(&format!("{counter} counts"), SESSION, async || {
        let count = *tcp_counters()?.get(counter).with_context(|| format!("no counter {counter}"))?;
        ensure!(count >= 3, "{count}");
        Ok(())
    })
    .await?;
    let state = us.state(setup.addresses().1).await?;
    ensure!(state.counters.established == 0, "a session in spite of it: {state:?}");
    Ok(())
}

fn md5_key_right_wrong_and_missing(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup { password: Some("right"), ..Setup::default() };
        let peer = Peer::start(kind, ns, &setup).await?;
        let right = peer_config(&setup);
        let wrong = PeerConfig { md5_key: Some(b"wrong".to_vec()), ..right.clone() };
        let us = Us::start(config(65000), vec![wrong]).await?;
        dropped(&us, &setup, "TCPMD5Failure").await?;
        us.speaker.set_peers(vec![PeerConfig { md5_key: None, ..right.clone() }]).await;
        dropped(&us, &setup, "TCPMD5Unexpected").await?;
        us.speaker.set_peers(vec![right]).await;
        up(&us, &peer, &setup).await?;
        us.stop().await?;
        // The other way round: we have a key, the neighbour has none.
        let without = Setup { password: None, ..setup.clone() };
        drop(peer);
        let peer = Peer::start(kind, ns, &without).await?;
        let us = Us::with(&setup).await?;
        dropped(&us, &setup, "TCPMD5NotFound").await?;
        us.speaker.set_peers(vec![peer_config(&without)]).await;
        up(&us, &peer, &without).await?;
        us.stop().await
    })
}

fn gtsm_kept(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup { gtsm: true, our_asn: 65001, asn: 65002, ..Setup::default() };
        let peer = Peer::start(kind, ns, &setup).await?;
        let us = Us::with(&setup).await?;
        up(&us, &peer, &setup).await?;
        us.stop().await
    })
}

fn gtsm_violated(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        // Over eBGP both FRR and GoBGP send with TTL 1 unless told otherwise.
        let setup = Setup { our_asn: 65001, asn: 65002, ..Setup::default() };
        let peer = Peer::start(kind, ns, &setup).await?;
        let strict = PeerConfig { gtsm_hops: Some(1), ..peer_config(&setup) };
        let us = Us::start(config(65001), vec![strict]).await?;
        dropped(&us, &setup, "TCPMinTTLDrop").await?;
        us.speaker.set_peers(vec![peer_config(&setup)]).await;
        up(&us, &peer, &setup).await?;
        us.stop().await
    })
}

fn hold_time_runs_out_at_both_ends(kind: Kind) -> Result<()> {
    with_pair(async |us_ns, ns| {
        let setup = Setup { hold: 3, ..Setup::default() };
        let address = setup.addresses().1;
        let peer = Peer::start(kind, ns, &setup).await?;
        let us = Us::with(&setup).await?;
        up(&us, &peer, &setup).await?;
        peer.pause()?;
        let state = wait_for("our hold timer", Duration::from_secs(10), async || {
            let state = us.state(address).await?;
            ensure!(state.state != SessionState::Established, "still Established");
            Ok(state)
        })
        .await?;
        let why = state.last_error.unwrap_or_default();
        ensure!(why.to_lowercase().contains("hold"), "the reason given is '{why}'");
        let down = |e: &Event| matches!(e, Event::PeerDown { peer, .. } if *peer == address);
        ensure!(us.events().iter().any(down), "{:?}", us.events());
        peer.resume()?;
        us.established(address, 2).await?;
        // A cable pulled: nobody is told, both notice.
        us_ns.ip(&["link set eth0 down"]).await?;
        wait_for("both hold timers", Duration::from_secs(15), async || {
            ensure!(us.state(address).await?.state != SessionState::Established, "we are still Established");
            ensure!(peer.established().await.is_err(), "the neighbour is still Established");
            Ok(())
        })
        .await?;
        us_ns.ip(&["link set eth0 up"]).await?;
        us.established(address, 3).await?;
        us.stop().await
    })
}

fn neighbour_restarts(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup::default();
        let address = setup.addresses().1;
        let mut peer = Peer::start(kind, ns, &setup).await?;
        let us = Us::with(&setup).await?;
        us.speaker.replace(vec![host(1), host(2)]).await;
        us.speaker.set_synced().await;
        us.established(address, 1).await?;
        wait_for("the routes", ROUTES, async || peer.has(&host(2)).await).await?;
        for times in 2..=3 {
            peer.restart().await?;
            us.established(address, times).await?;
            wait_for("the routes are told again", ROUTES, async || {
                peer.has(&host(1)).await?;
                peer.has(&host(2)).await
            })
            .await?;
        }
        us.stop().await
    })
}

fn keepalives_hold_a_session_without_routes(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup { hold: 3, ..Setup::default() };
        let address = setup.addresses().1;
        let peer = Peer::start(kind, ns, &setup).await?;
        let us = Us::with(&setup).await?;
        up(&us, &peer, &setup).await?;
        let before = us.state(address).await?.counters;
        // Seven KEEPALIVEs of the neighbour take more than two hold times.
        wait_for("seven keepalives", Duration::from_secs(20), async || {
            let now = us.state(address).await?.counters;
            ensure!(now.messages_in >= before.messages_in + 7, "{} messages", now.messages_in);
            Ok(())
        })
        .await?;
        peer.established().await?;
        ensure!(us.state(address).await?.counters.established == 1, "the session was lost in between");
        us.stop().await
    })
}
