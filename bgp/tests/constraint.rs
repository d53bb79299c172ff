//! Route target constraint (RFC 4684) with a peer made of raw octets: what is said in which order.

mod support;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Result, ensure};
use causeway_bgp::{Attributes, Interest, PeerConfig, Route};
use support::*;

const PLAIN: &str = "01 04 00190046 | 01 04 00010084 | 02 00 | 46 00 | 06 00 | 41 04 0000fde8";
const GRACEFUL: &str =
    "01 04 00190046 | 01 04 00010084 | 02 00 | 40 0a 403c 0019 46 80 0001 84 80 | 41 04 0000fde8";
/// End-of-RIB of memberships.
const ASKED: &str = "80 0f 03 0001 84";

fn of(host: u32, target: &str) -> Result<Route> {
    let route_targets = vec![target.parse()?];
    Ok(Route { attributes: Arc::new(Attributes { route_targets, ..attributes() }), ..route(host) })
}

/// An announcement of these memberships.
fn asks(nlri: &str) -> Vec<u8> {
    let length = 9 + hex(nlri).len();
    update(&format!(
        "80 0e {length:02x} 0001 84 04 0a630001 00 {nlri} | 40 01 01 00 | 40 02 00 | 40 05 04 00000064"
    ))
}

fn asks_no_more(nlri: &str) -> Vec<u8> {
    let length = 3 + hex(nlri).len();
    update(&format!("80 0f {length:02x} 0001 84 {nlri}"))
}

/// An UPDATE in short: "end" or "end rtc", or how many routes it announces or withdraws.
fn short(body: &[u8]) -> String {
    match body {
        [0, 0, 0, 6, 0x80, 15, 3, 0, 25, 70] => "end".to_owned(),
        [0, 0, 0, 6, 0x80, 15, 3, 0, 1, 132] => "end rtc".to_owned(),
        [0, 0, _, _, 0x80, 14, _, 0, 1, 132, ..] => "asks".to_owned(),
        [0, 0, _, _, 0x80, 15, _, 0, 1, 132, ..] => "asks no more".to_owned(),
        [0, 0, _, _, 0x80, 14, length, ..] => format!("+{}", (length - 9) / 39),
        [0, 0, _, _, 0x80, 15, length, ..] => format!("-{}", (length - 3) / 39),
        other => format!("{other:02x?}"),
    }
}

async fn next(raw: &mut Raw) -> Result<String> {
    Ok(short(&raw.expect(2).await?))
}

/// A speaker with three routes of two targets, and a session with what this peer is capable of.
async fn begin(number: u32, capabilities: &str) -> Result<(Running, Raw)> {
    let mut running = start(loopback(number), 65000, false).await?;
    let peer = loopback(number + 1);
    running.speaker.set_interest(Interest::Targets(BTreeSet::from(["65000:7".parse()?]))).await;
    running.speaker.replace(vec![of(1, "65000:110")?, of(2, "65000:110")?, of(3, "65000:111")?]).await;
    running.speaker.set_synced().await;
    let config = PeerConfig { route_target_constraint: true, ..passive(peer, 65000) };
    running.speaker.set_peers(vec![config]).await;
    let mut raw = Raw::connect(peer, running.address).await?;
    raw.establish(&open("fde8", 30, "0a630001", capabilities)).await?;
    running.wait_up().await?;
    Ok((running, raw))
}

#[tokio::test]
async fn memberships_first_then_what_was_asked_for_then_the_end() -> Result<()> {
    let (mut running, mut raw) = begin(0x30_00_00, GRACEFUL).await?;
    let own = raw.expect(2).await?;
    // Next hop: the speaker's own address on this session.
    let expected = format!(
        "0000 0027 80 0e 16 0001 84 04 {} 00 60 0000fde8 0002fde800000007 40 01 01 00 40 02 00 40 05 04 00000064",
        "7f300000"
    );
    ensure!(own == hex(&expected), "{own:02x?}");
    ensure!(next(&mut raw).await? == "end rtc");
    raw.send(&asks("60 0000fde8 0002fde80000006e")).await?;
    ensure!(next(&mut raw).await? == "+2");
    ensure!(raw.read(Duration::from_millis(200)).await? == Answer::Nothing, "it may ask for more");
    ensure!(!running.peer().await?.end_of_rib_out);
    raw.send(&update(ASKED)).await?;
    ensure!(next(&mut raw).await? == "end");
    let ticket = running.speaker.update(Vec::new()).await;
    running.wait_sent(ticket).await?;
    let peer = running.peer().await?;
    ensure!((peer.routes_out, peer.memberships) == (2, Some(1)), "{peer:?}");

    // Somebody else asks for the same: nothing new. Another target, all, and back again.
    raw.send(&asks("60 0000fde9 0002fde80000006e")).await?;
    raw.send(&asks("60 0000fde8 0002fde80000006f")).await?;
    ensure!(next(&mut raw).await? == "+1");
    raw.send(&asks_no_more("60 0000fde8 0002fde80000006e")).await?;
    raw.send(&asks_no_more("60 0000fde9 0002fde80000006e")).await?;
    ensure!(next(&mut raw).await? == "-2");
    raw.send(&asks("00")).await?;
    ensure!(next(&mut raw).await? == "+2");
    raw.send(&asks_no_more("00 60 0000fde8 0002fde80000006f")).await?;
    ensure!(next(&mut raw).await? == "-3");
    // An origin alone has no bits of a target; a prefix that ends within the target.
    raw.send(&asks("20 0000fde8")).await?;
    ensure!([next(&mut raw).await?, next(&mut raw).await?] == ["+2", "+1"]);
    raw.send(&asks_no_more("20 0000fde8")).await?;
    ensure!(next(&mut raw).await? == "-3");
    raw.send(&asks("5f 0000fde8 0002fde80000006e")).await?;
    ensure!(
        [next(&mut raw).await?, next(&mut raw).await?] == ["+2", "+1"],
        "110 and 111 differ in the last bit"
    );

    // A route that leaves what is asked for is withdrawn, one that comes into it announced.
    running.speaker.replace(vec![of(1, "65000:112")?, of(2, "65000:110")?, of(3, "65000:111")?]).await;
    ensure!(next(&mut raw).await? == "-1");
    running.speaker.replace(vec![of(1, "65000:110")?, of(2, "65000:110")?]).await;
    ensure!([next(&mut raw).await?, next(&mut raw).await?] == ["+1", "-1"]);

    // What we ask for changes.
    running.speaker.set_interest(Interest::All).await;
    ensure!([next(&mut raw).await?, next(&mut raw).await?] == ["asks no more", "asks"]);
    running.stop().await
}

#[tokio::test]
async fn a_peer_that_never_says_the_end_is_not_waited_for_long() -> Result<()> {
    let (mut running, mut raw) = begin(0x30_01_00, PLAIN).await?;
    ensure!([next(&mut raw).await?, next(&mut raw).await?] == ["asks", "end rtc"]);
    raw.send(&asks("00")).await?;
    ensure!([next(&mut raw).await?, next(&mut raw).await?] == ["+2", "+1"]);
    let ticket = running.speaker.update(Vec::new()).await;
    running.wait_sent(ticket).await?;
    ensure!(next(&mut raw).await? == "end");
    running.stop().await
}

#[tokio::test]
async fn a_peer_without_it_gets_everything_and_is_asked_nothing() -> Result<()> {
    let (running, mut raw) = begin(0x30_02_00, CAPABILITIES).await?;
    ensure!([next(&mut raw).await?, next(&mut raw).await?, next(&mut raw).await?] == ["+2", "+1", "end"]);
    // A question that was not agreed on is no reason to change anything.
    raw.send(&asks("60 0000fde8 0002fde80000006e")).await?;
    raw.send(&announcement(1)).await?;
    eventually("route", || async { running.keys_in().await.len() == 1 }).await?;
    let peer = running.peer().await?;
    ensure!((peer.routes_out, peer.memberships) == (3, None), "{peer:?}");
    ensure!(raw.read(Duration::from_millis(200)).await? == Answer::Nothing);
    running.stop().await
}
