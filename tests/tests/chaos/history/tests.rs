//! Bad histories, each with what must be said of it.

use causeway_proto::v1::{Binding, MoveStep, PortKey};

use super::*;

fn key(name: &str) -> Option<PortKey> {
    Some(PortKey { vrf: "default".into(), network: "web".into(), name: name.into() })
}

/// Port `name` with the address 10.0.0.`last`.
fn event(revision: u64, kind: EventKind, name: &str, last: u8, node: &str, generation: u64) -> Event {
    Event {
        revision,
        time_ms: i64::try_from(revision).unwrap() * 10,
        kind: kind.into(),
        port: key(name),
        addresses: vec![format!("10.0.0.{last}")],
        mac: format!("02:ca:0a:00:00:{last:02x}"),
        node: node.into(),
        generation,
        ..Event::default()
    }
}

fn port(name: &str, last: u8, node: &str, generation: u64, revision: u64, state: PortState) -> Port {
    let binding = Binding { node: node.into(), generation, ..Binding::default() };
    Port {
        key: key(name),
        addresses: vec![format!("10.0.0.{last}")],
        mac: format!("02:ca:0a:00:00:{last:02x}"),
        binding: (!node.is_empty()).then_some(binding),
        revision,
        state: state.into(),
        ..Port::default()
    }
}

fn ack(port: &str, done: Done) -> Ack {
    Ack { call: "a call".into(), port: port.into(), done }
}

fn ms(n: u64) -> At {
    At::from_millis(n)
}

fn presence(node: &str, device: &str, from: (u64, u64), to: Option<(u64, u64)>) -> Presence {
    Presence {
        node: node.into(),
        device: device.into(),
        mac: "m".into(),
        from: Between(ms(from.0), ms(from.1)),
        to: to.map(|(a, b)| Between(ms(a), ms(b))),
    }
}

/// A port that is made, moves, is given up, and whose address goes to another one.
fn good() -> History {
    use EventKind::{Bound, Created, Freed, Moved, Moving, Quarantined, Released, TakenBack, Unbound};
    let told = vec![
        event(1, Created, "a", 1, "h1", 1),
        event(2, Created, "b", 2, "", 0),
        event(3, Moving, "a", 1, "h1", 1),
        event(4, Moved, "a", 1, "h2", 2),
        event(5, Unbound, "a", 1, "", 2),
        event(6, Released, "a", 1, "", 2),
        event(7, TakenBack, "a", 1, "h3", 3),
        event(8, Quarantined, "a", 1, "", 3),
        event(9, Freed, "a", 1, "", 3),
        event(10, Created, "c", 1, "", 0),
        event(11, Bound, "b", 2, "h2", 1),
        event(12, Bound, "c", 1, "h1", 4),
    ];
    let made = port("a", 1, "h1", 1, 1, PortState::Bound);
    let began = Move { steps: vec![MoveStep { phase: 1, at_ms: 30 }], ..Move::default() };
    let acks = vec![
        ack("a", Done::Port(Box::new(made), Some("h1".into()))),
        ack("a", Done::Moving(Box::new(began))),
        ack("a", Done::Unbound(Box::new(port("a", 1, "", 0, 5, PortState::Reserved)))),
        ack("a", Done::Released { revision: 6, forgotten: false }),
        ack("a", Done::Released { revision: 8, forgotten: true }),
        ack("b", Done::Port(Box::new(port("b", 2, "h2", 1, 11, PortState::Bound)), Some("h2".into()))),
    ];
    let seen = vec![
        presence("h1", "cwp1", (10, 12), Some((30, 31))),
        presence("h2", "cwp1", (30, 33), Some((50, 52))),
        presence("h3", "cwp2", (51, 60), None),
    ];
    let last =
        vec![port("b", 2, "h2", 1, 11, PortState::Bound), port("c", 1, "h1", 4, 12, PortState::Programmed)];
    History { told, acks, seen, last, ..History::default() }
}

#[test]
fn a_good_history_is_left_alone_in_any_order() {
    let mut history = good();
    assert_eq!(complaints(&history), Vec::<String>::new());
    history.told.reverse();
    history.acks.reverse();
    history.seen.reverse();
    assert_eq!(complaints(&history), Vec::<String>::new());
}

/// Spoils a good history, and expects exactly one complaint with these words.
#[track_caller]
fn spoiled(spoil: impl FnOnce(&mut History), words: &str) {
    let mut history = good();
    spoil(&mut history);
    let found = complaints(&history);
    assert!(found.iter().any(|complaint| complaint.contains(words)), "'{words}' is not in {found:#?}");
}

#[test]
fn an_address_with_two_owners_in_the_books_is_found() {
    spoiled(|h| h.told[9].revision = 8, "is port c's and a's");
    spoiled(|h| h.told[1].mac.clone_from(&good().told[0].mac), "02:ca:0a:00:00:01 is port b's and a's");
    spoiled(|h| h.told[4].addresses = vec!["10.0.0.9".into()], "has other addresses");
}

#[test]
fn a_generation_that_falls_or_serves_twice_is_found() {
    spoiled(|h| h.told[6].generation = 1, "port a has generation 1 after 2");
    spoiled(|h| h.told[3].generation = 1, "port a has generation 1 after 1");
    // The next owner of the MAC goes on counting, unless the one before was bound once only.
    let mut history = good();
    let once = [(13, EventKind::Freed, "b", ""), (14, EventKind::Created, "d", "h3")];
    history.told.extend(
        once.map(|(at, kind, name, node)| event(at, kind, name, 2, node, u64::from(!node.is_empty()))),
    );
    history.last[0] = port("d", 2, "h3", 1, 14, PortState::Bound);
    assert_eq!(complaints(&history), Vec::<String>::new());
    spoiled(|h| h.told[11].generation = 1, "port c has generation 1 after 3");
}

#[test]
fn an_acknowledged_call_without_effect_is_found() {
    spoiled(|h| drop(h.told.remove(0)), "but it is not there");
    spoiled(|h| h.told[10].node = "h3".into(), "but it lives at 'h3'");
    spoiled(
        |h| {
            h.acks[5].done =
                Done::Port(Box::new(port("b", 2, "h2", 1, 11, PortState::Bound)), Some("h4".into()))
        },
        "it lives at 'h2'",
    );
    spoiled(|h| h.told[4].node = "h2".into(), "it lives at 'h2'");
    spoiled(|h| h.told[5].kind = EventKind::Updated.into(), "a call was acknowledged, but it is Told");
    spoiled(|h| h.told[7].kind = EventKind::Released.into(), "quarantined: false");
    spoiled(|h| h.told[2].time_ms = 31, "no event tells of it at 30 ms");
    // An answer with another address than the store has.
    spoiled(
        |h| h.acks[0].done = Done::Port(Box::new(port("a", 7, "h1", 1, 1, PortState::Bound)), None),
        "it has [\"10.0.0.1\"]",
    );
}

#[test]
fn a_limit_that_is_not_kept_is_found() {
    let limited = |kbit: u64| {
        let rate = Some(causeway_proto::v1::RateLimit { in_kbit: kbit, out_kbit: 0 });
        Port { rate, ..port("b", 2, "h2", 1, 13, PortState::Bound) }
    };
    let update = |h: &mut History| {
        h.told.push(event(13, EventKind::Updated, "b", 2, "h2", 1));
        h.acks.push(ack("b", Done::Limited(Box::new(limited(7)), 7)));
        h.last[0] = limited(7);
    };
    let mut history = good();
    update(&mut history);
    assert_eq!(complaints(&history), Vec::<String>::new());
    let spoil = |spoil: fn(&mut History), words| {
        spoiled(
            |h| {
                update(h);
                spoil(h);
            },
            words,
        );
    };
    spoil(|h| h.last[0].rate = None, "at the end it has 0 kbit/s");
    spoil(|h| h.acks[6].done = Done::Limited(Box::new(h.last[0].clone()), 8), "its limit is 7 kbit/s");
    // Who changed it afterwards may not have been told so.
    update(&mut history);
    history.told.push(event(14, EventKind::Updated, "b", 2, "h2", 1));
    history.last[0].rate = None;
    assert_eq!(complaints(&history), Vec::<String>::new());
}

#[test]
fn what_is_lost_or_came_by_itself_is_found() {
    spoiled(|h| drop(h.last.remove(0)), "port b is lost");
    spoiled(|h| h.last.push(port("a", 1, "h1", 1, 1, PortState::Bound)), "port a is there, and was freed");
    spoiled(|h| h.last.push(port("z", 9, "", 0, 1, PortState::Reserved)), "no event tells of port z");
    spoiled(|h| h.last[0] = port("b", 2, "h5", 1, 11, PortState::Bound), "port b is Port");
    spoiled(|h| h.last[0].set_state(PortState::Quarantined), "is told as");
}

#[test]
fn a_mac_at_two_places_is_found_where_it_is_beyond_doubt() {
    // h1 was seen until 30 ms, h2 from 29 ms on at the latest.
    spoiled(
        |h| h.seen[1].from = Between(ms(20), ms(29)),
        "m was at h1 (cwp1) and at h2 (cwp1) from 29 ms on, for 1 ms",
    );
    spoiled(|h| h.seen[1].to = None, "for ever");
    // Two devices of one host are two places as well.
    spoiled(|h| h.seen[1] = presence("h1", "cwp9", (20, 21), Some((40, 41))), "h1 (cwp9)");
    // The same device that went down and up is one place, and what overlaps only perhaps is no complaint.
    let mut history = good();
    history.seen[1] = presence("h1", "cwp1", (20, 21), Some((40, 41)));
    assert_eq!(complaints(&history), Vec::<String>::new());
    let mut history = good();
    history.seen[1].from = Between(ms(1), ms(30));
    assert_eq!(complaints(&history), Vec::<String>::new());
}
