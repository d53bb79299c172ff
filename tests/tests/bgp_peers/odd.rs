//! Neighbours that are not what we were told, and what we say about them.

use std::net::SocketAddr;
use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_bgp::{PeerConfig, PeerMode, SessionState};
use causeway_tests::netns::{Netns, with_pair};
use causeway_tests::wait_for;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpListener;

use crate::against_every_peer;
use crate::peer::{Kind, Peer, Setup};
use crate::us::{SESSION, Us, config, peer_config};

against_every_peer!(we_expect_another_as, the_neighbour_expects_another_as);

/// Waits until the session has failed for a reason that contains all words.
async fn fails(us: &Us, setup: &Setup, words: &[&str]) -> Result<()> {
    let address = setup.addresses().1;
    wait_for(&format!("a reason with {words:?}"), SESSION, async || {
        let state = us.state(address).await?;
        ensure!(state.counters.established == 0 && state.state != SessionState::Established, "it is up");
        let why = state.last_error.unwrap_or_default();
        for word in words {
            ensure!(why.contains(word), "no '{word}' in '{why}'");
        }
        println!("last error: {why}");
        Ok(())
    })
    .await
}

fn we_expect_another_as(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup::default();
        let _peer = Peer::start(kind, ns, &setup).await?;
        let us = Us::start(config(65000), vec![PeerConfig { asn: 65009, ..peer_config(&setup) }]).await?;
        fails(&us, &setup, &["AS", "65000", "65009"]).await?;
        us.speaker.set_peers(vec![peer_config(&setup)]).await;
        us.established(setup.addresses().1, 1).await?;
        us.stop().await
    })
}

fn the_neighbour_expects_another_as(kind: Kind) -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup { our_asn: 65001, asn: 65002, ..Setup::default() };
        let _peer = Peer::start(kind, ns, &setup).await?;
        let us = Us::start(config(65003), vec![peer_config(&setup)]).await?;
        // The neighbour's NOTIFICATION: OPEN message error, bad peer AS.
        fails(&us, &setup, &["AS"]).await?;
        us.stop().await
    })
}

/// A listener at 10.9.0.9:179 in our own namespace that sends each connection these bytes.
async fn talker(ns: &Netns, bytes: &'static [u8]) -> Result<PeerConfig> {
    ns.ip(&["addr add 10.9.0.9/32 dev lo"]).await?;
    let address: SocketAddr = "10.9.0.9:179".parse()?;
    let listener = TcpListener::bind(address).await?;
    tokio::spawn(async move {
        while let Ok((mut stream, _)) = listener.accept().await {
            tokio::spawn(async move {
                let _ = stream.write_all(bytes).await;
                // Whatever is said back is read, until the other side closes.
                let mut sink = [0; 4096];
                while matches!(stream.read(&mut sink).await, Ok(n) if n > 0) {}
            });
        }
    });
    Ok(PeerConfig {
        mode: PeerMode::Active,
        connect_retry: Duration::from_secs(1),
        ..PeerConfig::new(address.ip(), 65000)
    })
}

fn garbage(bytes: &'static [u8], word: &str) -> Result<()> {
    with_pair(async |ns, _| {
        let peer = talker(ns, bytes).await?;
        let address = peer.address;
        let us = Us::start(config(65000), vec![peer]).await?;
        wait_for("a reason", SESSION, async || {
            let state = us.state(address).await?;
            let why = state.last_error.unwrap_or_default();
            ensure!(why.to_lowercase().contains(word), "'{why}'");
            println!("last error: {why}");
            Ok(())
        })
        .await?;
        ensure!(us.state(address).await?.counters.established == 0, "a session with garbage");
        us.stop().await
    })
}

#[test]
fn another_protocol_answers() -> Result<()> {
    garbage(b"HTTP/1.1 400 Bad Request\r\nContent-Length: 0\r\n\r\n", "marker")
}

#[test]
fn a_length_that_cannot_be() -> Result<()> {
    garbage(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x01", "length")
}

#[test]
fn an_open_of_another_version() -> Result<()> {
    garbage(
        b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x1d\x01\x03\xfd\xe8\x00\x5a\x0a\x09\x00\x09\x00",
        "version",
    )
}

#[test]
fn a_keepalive_before_any_open() -> Result<()> {
    garbage(b"\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\xff\x00\x13\x04", "keepalive")
}

#[test]
fn silence_after_the_connection() -> Result<()> {
    with_pair(async |ns, _| {
        let peer = talker(ns, b"").await?;
        let address = peer.address;
        let us = Us::start(config(65000), vec![peer]).await?;
        wait_for("OpenSent", SESSION, async || {
            let state = us.state(address).await?.state;
            ensure!(state == SessionState::OpenSent, "{state}");
            Ok(())
        })
        .await?;
        us.stop().await
    })
}

#[test]
fn strangers_are_not_let_in() -> Result<()> {
    with_pair(async |_, ns| {
        let setup = Setup::default();
        // Configured is another address than the one that connects.
        let other =
            PeerConfig { address: "10.9.0.66".parse()?, mode: PeerMode::Passive, ..peer_config(&setup) };
        let us = Us::start(config(65000), vec![other]).await?;
        // nc ends when the other side closes: at once, without a byte.
        let said = ns
            .run(&["timeout", "10", "bash", "-c", "exec 3<>/dev/tcp/10.9.0.1/179 && cat <&3 | wc -c"])
            .await?;
        ensure!(said.trim() == "0", "a stranger was told {said} bytes");
        us.stop().await
    })
}
