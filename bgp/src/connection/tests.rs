//! Two connections talking to each other, or one to made-up octets, at made-up times.

use std::net::IpAddr;

use super::*;
use crate::testing::hex;

fn speaker(id: u8) -> SpeakerConfig {
    SpeakerConfig { router_id: [10, 0, 0, id].into(), asn: 65000, listen: Vec::new(), restarting: false }
}

fn peer(id: u8, hold: u64) -> PeerConfig {
    PeerConfig {
        hold_time: Duration::from_secs(hold),
        ..PeerConfig::new(IpAddr::from([10, 0, 0, id]), 65000)
    }
}

fn start(own: u8, other: u8, hold: u64, now: Instant) -> Connection {
    Connection::start(&speaker(own), &peer(other, hold), false, now)
}

/// Carries what `from` has to say to `to`.
fn carry(from: &mut Connection, to: &mut Connection, now: Instant) -> usize {
    let output = from.take_output();
    for octets in &output {
        to.buffer().extend_from_slice(octets);
    }
    to.received(now);
    output.len()
}

fn established(hold: (u64, u64), now: Instant) -> (Connection, Connection) {
    let (mut a, mut b) = (start(1, 2, hold.0, now), start(2, 1, hold.1, now));
    while carry(&mut a, &mut b, now) + carry(&mut b, &mut a, now) > 0 {}
    assert_eq!((a.state(), b.state()), (SessionState::Established, SessionState::Established));
    (a, b)
}

fn end(connection: &mut Connection) -> Option<End> {
    connection.take_happened().into_iter().find_map(|happened| match happened {
        Happened::Ended(end) => Some(end),
        _ => None,
    })
}

#[test]
fn opens_agree_on_the_smaller_hold_time_and_all_capabilities() {
    let (mut a, _) = established((90, 9), Instant::now());
    let agreed = a.take_happened().into_iter().find_map(|happened| match happened {
        Happened::Established(agreed) => Some(agreed),
        _ => None,
    });
    let agreed = agreed.unwrap();
    assert_eq!(agreed.hold_time, Duration::from_secs(9));
    assert!(agreed.extended_message && agreed.refresh && agreed.enhanced_refresh && agreed.four_octet_as);
    assert!(agreed.peer_graceful && agreed.notification_graceful);
    let restart = agreed.restart.unwrap();
    assert!(restart.forwarding && !restart.restarted && restart.time == Duration::from_secs(120));
}

#[test]
fn keepalives_hold_the_session_for_ever_and_silence_ends_it() {
    let mut now = Instant::now();
    let (mut a, mut b) = established((9, 9), now);
    for _ in 0..1000 {
        now += Duration::from_secs(1);
        a.on_time(now);
        b.on_time(now);
        carry(&mut a, &mut b, now);
        carry(&mut b, &mut a, now);
    }
    assert_eq!(a.state(), SessionState::Established);
    a.take_output();
    // b falls silent: nothing happens before the hold time is over, and then everything at once.
    for _ in 0..6 {
        now += Duration::from_secs(1);
        a.on_time(now);
    }
    assert_eq!(a.state(), SessionState::Established);
    a.take_output();
    now += Duration::from_secs(4);
    a.on_time(now);
    let end = end(&mut a).unwrap();
    assert_eq!((end.reason.as_str(), end.graceful), ("hold timer expired", Graceful::WithNotification));
    assert_eq!(a.take_output().last().unwrap()[..], hex("M 0015 03 04 00"));
    assert_eq!(a.deadline(), None);
    // It is over: nothing brings it back.
    carry(&mut b, &mut a, now);
    a.on_time(now + Duration::from_secs(1000));
    assert!(a.take_output().is_empty() && a.take_happened().is_empty());
}

#[test]
fn a_peer_that_never_sends_its_open_is_given_up() {
    let now = Instant::now();
    let mut a = start(1, 2, 9, now);
    assert_eq!(a.deadline(), Some(now + Duration::from_secs(240)));
    a.on_time(now + Duration::from_secs(240));
    assert!(end(&mut a).is_some());
}

#[test]
fn hold_time_zero_has_no_timers() {
    let now = Instant::now();
    let mut a = start(1, 2, 9, now);
    a.buffer().extend_from_slice(&hex(
        "M 002d 01 04 fde8 0000 0a000002 10 02 0e 01 04 00190046 02 00 41 04 0000fde8 M 0013 04",
    ));
    a.received(now);
    assert_eq!(a.state(), SessionState::Established);
    a.on_time(now + Duration::from_secs(100_000));
    assert_eq!((a.state(), a.deadline()), (SessionState::Established, None));
}

#[test]
fn a_peer_that_reads_nothing_is_closed_and_one_that_reads_slowly_is_not() {
    let mut now = Instant::now();
    let (mut a, mut b) = established((9, 9), now);
    let alive = |a: &mut Connection, b: &mut Connection, now| {
        b.on_time(now);
        carry(b, a, now);
        a.on_time(now);
        carry(a, b, now);
    };
    for _ in 0..2000 {
        now += Duration::from_secs(1);
        a.wrote(1, true, now);
        alive(&mut a, &mut b, now);
    }
    assert_eq!(a.state(), SessionState::Established, "an octet a second is progress");
    for _ in 0..479 {
        now += Duration::from_secs(1);
        a.wrote(0, true, now);
        alive(&mut a, &mut b, now);
    }
    assert_eq!(a.state(), SessionState::Established);
    now += Duration::from_secs(2);
    alive(&mut a, &mut b, now);
    assert!(end(&mut a).unwrap().reason.contains("send hold timer"));
}

#[test]
fn every_message_in_every_state() {
    let now = Instant::now();
    let open = start(2, 1, 9, now).take_output()[0].to_vec();
    let messages: [(&str, Vec<u8>); 5] = [
        ("OPEN", open.clone()),
        ("KEEPALIVE", hex("M 0013 04")),
        ("UPDATE", hex("M 001d 02 0000 0006 80 0f 03 0019 46")),
        ("REFRESH", hex("M 0017 05 0019 00 46")),
        ("NOTIFICATION", hex("M 0015 03 06 02")),
    ];
    // The state it leads to; "Idle": over, with a NOTIFICATION if that is what the peer is to be told.
    let table = [
        (SessionState::OpenSent, ["OpenConfirm", "5", "5", "5", "silent"]),
        (SessionState::OpenConfirm, ["5", "Established", "5", "5", "silent"]),
        (SessionState::Established, ["5", "Established", "Established", "Established", "silent"]),
    ];
    for (state, wanted) in table {
        for ((name, message), wanted) in messages.iter().zip(wanted) {
            let mut a = start(1, 2, 9, now);
            if state >= SessionState::OpenConfirm {
                a.buffer().extend_from_slice(&open);
            }
            if state == SessionState::Established {
                a.buffer().extend_from_slice(&hex("M 0013 04"));
            }
            a.received(now);
            assert_eq!(a.state(), state);
            a.take_output();
            a.buffer().extend_from_slice(message);
            a.received(now);
            let said = a.take_output().last().map(|octets| (octets[18], octets.get(19).copied()));
            let got = match (a.state(), said) {
                (SessionState::Idle, Some((3, Some(code)))) => code.to_string(),
                (SessionState::Idle, None) => "silent".to_owned(),
                (state, _) => state.to_string(),
            };
            assert_eq!(got, wanted, "{name} in {state}");
        }
    }
}

#[test]
fn goodbyes_say_what_they_mean_for_graceful_restart() {
    let now = Instant::now();
    for (notification, graceful) in [
        (Notification::cease(2), Graceful::WithNotification),
        (Notification::hard_reset(Notification::cease(3)), Graceful::Never),
    ] {
        let (mut a, mut b) = established((9, 9), now);
        a.stop(&notification, "stop");
        carry(&mut a, &mut b, now);
        assert_eq!(end(&mut a).unwrap().graceful, graceful);
        assert_eq!(end(&mut b).unwrap().graceful, graceful);
    }
    let (mut a, _) = established((9, 9), now);
    a.closed("cut", now);
    assert_eq!(end(&mut a), Some(End { reason: "cut".to_owned(), graceful: Graceful::Always }));
    assert!(a.take_output().iter().all(|octets| octets[18] != 3));
}
