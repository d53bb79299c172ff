//! A peer made of raw octets against a listening speaker: every kind of bad input, each followed by a clean session (the
//! canary).

mod support;

use anyhow::{Context, Result, ensure};
use causeway_bgp::{Event, RouteChange, SessionState};
use support::*;

/// What must come of a case.
#[derive(Debug, Clone, Copy)]
enum Wanted {
    /// NOTIFICATION with this code, and this subcode unless 255.
    Notification(u8, u8),
    /// The session goes on: a route announced afterwards arrives.
    Stays,
}

use Wanted::{Notification, Stays};

const GOOD: &str = "80 0e 30 0019 46 04 0a620001 00
    02 25 0001 0a630001 006e 00000000000000000000 00000000 30 020000000055 20 0a000a37 00006e";
const TAIL: &str = "40 01 01 00 | 40 02 00 | 40 05 04 00000064 | c0 10 10 0002fde80000006e 030c000000000008";
const ANY: u8 = 255;

fn with(capabilities: &str) -> Vec<u8> {
    open("fde8", 30, "0a630001", capabilities)
}

/// Sent instead of our OPEN.
fn instead_of_open() -> Vec<(&'static str, Vec<u8>, Wanted)> {
    let changed = |at: usize, octet: u8| {
        let mut octets = with(CAPABILITIES);
        octets[at] = octet;
        octets
    };
    vec![
        ("marker of zeros", [vec![0; 16], hex("0013 04")].concat(), Notification(1, 1)),
        ("one bit of the marker", changed(7, 0xfe), Notification(1, 1)),
        ("length 18", hex("M 0012 01"), Notification(1, 2)),
        ("length 0", hex("M 0000 01"), Notification(1, 2)),
        ("OPEN of 28 octets", hex("M 001c 01 04 fde8 001e 0a6300"), Notification(1, 2)),
        ("OPEN of 4097 octets", hex("M 1001 01"), Notification(1, 2)),
        ("OPEN of 65535 octets", hex("M ffff 01"), Notification(1, 2)),
        ("message type 0", hex("M 0013 00"), Notification(1, 3)),
        ("message type 6", hex("M 0013 06"), Notification(1, 3)),
        ("message type 255", hex("M 0013 ff"), Notification(1, 3)),
        ("KEEPALIVE of 20 octets", hex("M 0014 04 00"), Notification(1, 2)),
        ("UPDATE of 22 octets", hex("M 0016 02 000000"), Notification(1, 2)),
        ("NOTIFICATION of 20 octets", hex("M 0014 03 06"), Notification(1, 2)),
        ("ROUTE-REFRESH of 22 octets", hex("M 0016 05 001900"), Notification(1, 2)),
        ("version 3", changed(19, 3), Notification(2, 1)),
        ("version 5", changed(19, 5), Notification(2, 1)),
        ("AS in the capability", with(&CAPABILITIES.replace("0000fde8", "0000fde9")), Notification(2, 2)),
        ("AS without the capability", open("fde9", 30, "0a630001", "01 04 00190046"), Notification(2, 2)),
        ("AS 0", open("0000", 30, "0a630001", "01 04 00190046"), Notification(2, 2)),
        ("AS 0 in the capability", with(&CAPABILITIES.replace("0000fde8", "00000000")), Notification(2, 2)),
        ("identifier 0", open("fde8", 30, "00000000", CAPABILITIES), Notification(2, 3)),
        ("hold time 1", open("fde8", 1, "0a630001", CAPABILITIES), Notification(2, 6)),
        ("hold time 2", open("fde8", 2, "0a630001", CAPABILITIES), Notification(2, 6)),
        ("parameters longer than the message", changed(28, 0xfe), Notification(2, ANY)),
        ("parameters shorter than the message", changed(28, 2), Notification(2, ANY)),
        ("a parameter longer than all of them", changed(30, 0xfe), Notification(2, ANY)),
        ("a capability longer than its parameter", with("01 09 00190046"), Notification(2, ANY)),
        ("a capability cut in its header", with("01 04 00190046 41"), Notification(2, ANY)),
        ("unknown parameter type", changed(29, 9), Notification(2, ANY)),
        ("our family missing", with("01 04 00010001 41 04 0000fde8"), Notification(2, 7)),
        ("no capability at all", with(""), Notification(2, 7)),
        ("KEEPALIVE first", hex(KEEPALIVE), Notification(5, ANY)),
        ("UPDATE first", update(END_OF_RIB), Notification(5, ANY)),
        ("bad UPDATE first", hex("M 0017 02 ffff ffff"), Notification(5, ANY)),
        ("ROUTE-REFRESH first", hex("M 0017 05 0019 00 46"), Notification(5, ANY)),
    ]
}

/// OPENs that are unusual, and accepted.
fn good_opens() -> Vec<(&'static str, Vec<u8>)> {
    let parameters = |parts: &[&str]| {
        let mut body = hex("04 fde8 001e 0a630001");
        let all: Vec<u8> = parts
            .iter()
            .flat_map(|part| {
                let part = hex(part);
                [vec![2, part.len() as u8], part].concat()
            })
            .collect();
        body.push(all.len() as u8);
        body.extend(all);
        message(1, &body)
    };
    vec![
        ("hold time 0", open("fde8", 0, "0a630001", CAPABILITIES)),
        ("hold time 65535", open("fde8", 65535, "0a630001", CAPABILITIES)),
        ("unknown capability", with(&format!("{CAPABILITIES} c8 03 010203 | fe 00"))),
        ("a parameter for each capability", parameters(&["01 04 00190046", "02 00", "41 04 0000fde8"])),
        ("the family twice", with(&format!("01 04 00190046 {CAPABILITIES}"))),
        ("other families too", with(&format!("01 04 00010001 01 04 00020001 {CAPABILITIES}"))),
        ("no four-octet AS", with("01 04 00190046 02 00")),
        ("only the family", with("01 04 00190046")),
        ("ADD-PATH to receive", with(&format!("{CAPABILITIES} 45 04 0019 46 01"))),
        ("graceful restart without family", with(&format!("{CAPABILITIES} 40 02 c078"))),
    ]
}

/// Sent in OpenConfirm.
fn in_open_confirm() -> Vec<(&'static str, Vec<u8>, Wanted)> {
    vec![
        ("second OPEN", with(CAPABILITIES), Notification(5, ANY)),
        ("UPDATE before KEEPALIVE", update(END_OF_RIB), Notification(5, ANY)),
        ("bad type before KEEPALIVE", hex("M 0013 07"), Notification(1, 3)),
    ]
}

/// Sent in an Established session.
fn when_established() -> Vec<(&'static str, Vec<u8>, Wanted)> {
    let attributes = |more: &str| update(&format!("{GOOD} {TAIL} {more}"));
    let replaced = |from: &str, to: &str| update(&format!("{GOOD} {TAIL}").replace(from, to));
    vec![
        ("second OPEN", with(CAPABILITIES), Notification(5, ANY)),
        ("marker", [vec![0; 16], hex("0013 04")].concat(), Notification(1, 1)),
        ("type 9", hex("M 0013 09"), Notification(1, 3)),
        ("withdrawn routes overrun", hex("M 0017 02 0005 0000"), Notification(3, 1)),
        ("attributes overrun", hex("M 0017 02 0000 0005"), Notification(3, 1)),
        ("unusual: nothing at all", hex("M 0017 02 0000 0000"), Stays),
        ("unusual: End-of-RIB twice", [update(END_OF_RIB), update(END_OF_RIB)].concat(), Stays),
        ("unusual: MP_REACH last", update(&format!("{TAIL} {GOOD}")), Stays),
        (
            "unusual: IPv4 route in the body",
            hex("M 0029 02 0000 000e 40010100 400200 400304 0a000001 18 0a0000"),
            Stays,
        ),
        (
            "unusual: another family",
            update(&format!("80 0e 0d 0001 01 04 0a620001 00 18 0a0000 {TAIL}")),
            Stays,
        ),
        ("unusual: type 7", update(&format!("80 0e 0d 0019 46 04 0a620001 00 07 02 0000 {TAIL}")), Stays),
        (
            "unusual: withdrawal of the unknown",
            update(
                "90 0f 0026 0019 46 02 21 0001 0a620001 0002 00000000000000000000 00000000 30 020000000001 00 000000",
            ),
            Stays,
        ),
        ("unusual: refresh", hex("M 0017 05 0019 00 46"), Stays),
        ("unusual: refresh of another family", hex("M 0017 05 0001 00 01"), Stays),
        ("unusual: unknown refresh", hex("M 0017 05 0019 09 46"), Stays),
        ("unusual: unknown attributes", attributes("c0 63 02 0102 80 64 00 e0 65 01 00"), Stays),
        (
            "unusual: many communities",
            attributes(&format!("d0 20 0180 {}", "000000010000000200000003".repeat(32))),
            Stays,
        ),
        ("ORIGIN 9", replaced("40 01 01 00", "40 01 01 09"), Stays),
        ("ORIGIN of 2 octets", replaced("40 01 01 00", "40 01 02 0000"), Stays),
        ("ORIGIN with wrong flags", replaced("40 01 01 00", "c0 01 01 00"), Stays),
        ("ORIGIN twice", attributes("40 01 01 00"), Stays),
        ("ORIGIN missing", replaced("40 01 01 00", ""), Stays),
        ("AS_PATH missing", replaced("40 02 00", ""), Stays),
        ("AS_PATH overrun", replaced("40 02 00", "40 02 02 02 05"), Stays),
        ("AS_PATH segment type", replaced("40 02 00", "40 02 06 09 01 0000fde8"), Stays),
        ("AS_PATH empty segment", replaced("40 02 00", "40 02 02 02 00"), Stays),
        ("AS_PATH one octet", replaced("40 02 00", "40 02 01 02"), Stays),
        ("LOCAL_PREF of 5 octets", replaced("40 05 04 00000064", "40 05 05 0000006400"), Stays),
        ("LOCAL_PREF missing", replaced("40 05 04 00000064", ""), Stays),
        ("MED of 3 octets", attributes("80 04 03 000000"), Stays),
        ("communities of 3 octets", attributes("c0 08 03 000000"), Stays),
        (
            "extended communities of 7 octets",
            replaced("c0 10 10 0002fde80000006e 030c000000000008", "c0 10 07 0002fde8000000"),
            Stays,
        ),
        (
            "extended communities of 0 octets",
            replaced("c0 10 10 0002fde80000006e 030c000000000008", "c0 10 00"),
            Stays,
        ),
        ("PMSI of 4 octets", attributes("c0 16 04 00060000"), Stays),
        ("CLUSTER_LIST of 3 octets", attributes("80 0a 03 000000"), Stays),
        ("ORIGINATOR_ID of 5 octets", attributes("80 09 05 0000000000"), Stays),
        ("unrecognised well-known attribute", attributes("40 63 01 00"), Stays),
        ("last attribute overruns", attributes("c0 63 09 00"), Stays),
        ("last attribute cut in its header", attributes("c0"), Stays),
        ("first attribute overruns", update("40 01 ff 00"), Notification(3, 1)),
        ("next hop 0.0.0.0", replaced("0a620001", "00000000"), Stays),
        ("next hop 224.0.0.1", replaced("0a620001", "e0000001"), Stays),
        (
            "next hop of 5 octets",
            replaced("0e 30 0019 46 04 0a620001", "0e 31 0019 46 05 0a62000100"),
            Notification(3, ANY),
        ),
        (
            "next hop longer than the attribute",
            replaced("46 04 0a620001", "46 ff 0a620001"),
            Notification(3, ANY),
        ),
        ("MP_REACH of 3 octets", update(&format!("80 0e 03 0019 46 {TAIL}")), Notification(3, ANY)),
        ("MP_REACH of 0 octets", update(&format!("80 0e 00 {TAIL}")), Notification(3, ANY)),
        ("MP_REACH without a route", update(&format!("80 0e 09 0019 46 04 0a620001 00 {TAIL}")), Stays),
        ("MP_REACH twice", update(&format!("{GOOD} {GOOD} {TAIL}")), Notification(3, 1)),
        ("MP_REACH with wrong flags", replaced("80 0e", "40 0e"), Notification(3, ANY)),
        ("MP_UNREACH of 2 octets", update("80 0f 02 0019"), Notification(3, ANY)),
        ("MP_UNREACH twice", update(&format!("{END_OF_RIB} {END_OF_RIB}")), Notification(3, 1)),
        ("type 2 of length 0", replaced("02 25 0001", "02 00 0001"), Notification(3, ANY)),
        ("type 2 longer than the attribute", replaced("02 25 0001", "02 ff 0001"), Notification(3, ANY)),
        (
            "type 2 cut in the RD",
            update(&format!("80 0e 0f 0019 46 04 0a620001 00 02 04 0001 0a63 {TAIL}")),
            Notification(3, ANY),
        ),
        ("type 2 with MAC length 47", replaced("30 020000000055", "2f 020000000055"), Notification(3, ANY)),
        (
            "type 2 with IP length 128 and 4 octets",
            replaced("20 0a000a37", "80 0a000a37"),
            Notification(3, ANY),
        ),
        ("type 2 with IP length 33", replaced("20 0a000a37", "21 0a000a37"), Notification(3, ANY)),
        (
            "type 3 cut",
            update(&format!(
                "80 0e 1b 0019 46 04 0a620001 00 03 10 0001 0a630064 006e 00000000 20 0a6200 {TAIL}"
            )),
            Notification(3, ANY),
        ),
        (
            "type 5 with length 33",
            update(&format!(
                "80 0e 2d 0019 46 04 0a620001 00 05 22 0001 0a000001 0064 00000000000000000000 00000000 21 c000020a 00000000 000fa1 {TAIL}"
            )),
            Notification(3, ANY),
        ),
    ]
}

async fn canary(running: &mut Running, peer: std::net::IpAddr) -> Result<Raw> {
    let mut raw = Raw::connect(peer, running.address).await?;
    raw.establish(&with(CAPABILITIES)).await?;
    running.wait_up().await?;
    Ok(raw)
}

async fn check(name: &str, wanted: Wanted, mut raw: Raw, running: &mut Running, before: u64) -> Result<()> {
    match wanted {
        Notification(code, subcode) => {
            let got = raw.expect_notification().await.with_context(|| name.to_owned())?;
            ensure!(got.0 == code && (subcode == ANY || got.1 == subcode), "{name}: {got:?}");
        }
        Stays => {
            raw.send(&announcement(0x77)).await?;
            running
                .wait(name, |event| match event {
                    Event::Received { changes, .. } => changes
                        .iter()
                        .any(|c| matches!(c, RouteChange::Announce(route) if host(&route.key) == 0x77))
                        .then_some(()),
                    _ => None,
                })
                .await?;
            let peer = running.peer().await?;
            ensure!(peer.state == SessionState::Established, "{name}: {peer:?}");
            ensure!(peer.counters.established == before, "{name}: reset on the way");
        }
    }
    Ok(())
}

#[tokio::test]
async fn bad_openings_are_answered_and_the_next_session_comes_up() -> Result<()> {
    let mut running = start(loopback(0x11_00_01), 65000, false).await?;
    let peer = loopback(0x11_00_02);
    running.speaker.set_peers(vec![passive(peer, 65000)]).await;
    for (name, octets, wanted) in instead_of_open() {
        let mut raw = Raw::connect(peer, running.address).await?;
        raw.send(&octets).await?;
        check(name, wanted, raw, &mut running, 0).await?;
        drop(canary(&mut running, peer).await.with_context(|| format!("canary after {name}"))?);
        running.wait_down().await?;
    }
    for (name, octets, wanted) in in_open_confirm() {
        let mut raw = Raw::connect(peer, running.address).await?;
        raw.send(&with(CAPABILITIES)).await?;
        raw.expect(4).await?;
        raw.send(&octets).await?;
        check(name, wanted, raw, &mut running, 0).await?;
        drop(canary(&mut running, peer).await.with_context(|| format!("canary after {name}"))?);
        running.wait_down().await?;
    }
    for (name, octets) in good_opens() {
        let mut raw = Raw::connect(peer, running.address).await?;
        raw.establish(&octets).await.with_context(|| name.to_owned())?;
        running.wait_up().await.with_context(|| name.to_owned())?;
        drop(raw);
        running.wait_down().await?;
    }
    running.stop().await
}

#[tokio::test]
async fn bad_updates_end_the_session_only_where_they_must() -> Result<()> {
    let mut running = start(loopback(0x12_00_01), 65000, false).await?;
    let peer = loopback(0x12_00_02);
    running.speaker.set_peers(vec![passive(peer, 65000)]).await;
    for (name, octets, wanted) in when_established() {
        let mut raw = canary(&mut running, peer).await.with_context(|| format!("before {name}"))?;
        let before = running.peer().await?.counters.established;
        raw.send(&octets).await?;
        check(name, wanted, raw, &mut running, before).await?;
        running.wait_down().await?;
    }
    let counters = running.peer().await?.counters;
    ensure!(counters.treat_as_withdraw.len() >= 8 && counters.missing_local_pref >= 1, "{counters:?}");
    ensure!(counters.unknown_types[&7] == 1 && counters.refreshes_in == 1, "{counters:?}");
    running.stop().await
}

#[tokio::test]
async fn any_segmentation_is_invisible() -> Result<()> {
    let (mut running, mut raw) = established(0x13_00_01, CAPABILITIES).await?;
    let mut stream = Vec::new();
    for number in 0..50 {
        stream.extend(announcement(number));
    }
    // A large UPDATE of 4,096 octets: the rest is an unknown attribute.
    let padding = 4096 - announcement(50).len() - 4;
    let mut large = announcement(50);
    large.extend([0xd0, 0x63]);
    large.extend((padding as u16).to_be_bytes());
    large.resize(4096, 0);
    let length = (large.len() as u16).to_be_bytes();
    large[16..18].copy_from_slice(&length);
    let attributes = ((large.len() - 23) as u16).to_be_bytes();
    large[21..23].copy_from_slice(&attributes);
    stream.extend(large);
    for part in stream.chunks(7) {
        raw.send(part).await?;
        tokio::task::yield_now().await;
    }
    raw.send(&update(END_OF_RIB)).await?;
    running.wait_end_of_rib().await?;
    ensure!(running.keys_in().await.iter().map(host).eq(0..=50));
    running.stop().await
}

#[tokio::test]
async fn extended_messages_only_where_agreed() -> Result<()> {
    for (number, capabilities, works) in
        [(1, CAPABILITIES.to_owned(), true), (2, CAPABILITIES.replace("06 00 |", ""), false)]
    {
        let (mut running, mut raw) = established(0x14_00_00 + number * 16, &capabilities).await?;
        let mut body = vec![0; 4];
        let mut attributes = announcement(1)[23..].to_vec();
        attributes.extend([0xd0, 0x63, 0x27, 0x10]);
        attributes.resize(attributes.len() + 10_000, 0);
        body[2..4].copy_from_slice(&(attributes.len() as u16).to_be_bytes());
        body.extend(attributes);
        raw.send(&message(2, &body)).await?;
        if works {
            running.wait("route", |e| matches!(e, Event::Received { .. }).then_some(())).await?;
        } else {
            ensure!(raw.expect_notification().await?.0 == 1);
        }
        // And of ours none is longer than the peer takes; the length is checked as it is read.
        if works {
            running.speaker.replace(routes(0..5000)).await;
            let body = raw.expect_update().await?;
            ensure!(body.len() > 4096 - 19, "packed to the agreed size: {}", body.len());
        }
        running.stop().await?;
    }
    Ok(())
}

#[tokio::test]
async fn without_extended_messages_ours_stay_short() -> Result<()> {
    let (running, mut raw) = established(0x15_00_01, &CAPABILITIES.replace("06 00 |", "")).await?;
    running.speaker.replace(routes(0..5000)).await;
    running.speaker.set_synced().await;
    let mut messages = 0;
    loop {
        let body = raw.expect_update().await?;
        ensure!(body.len() + 19 <= 4096);
        messages += 1;
        if body == hex("0000 0006 80 0f 03 0019 46") {
            break;
        }
    }
    ensure!(messages == 5000_usize.div_ceil(103) + 1, "{messages}");
    running.stop().await
}
