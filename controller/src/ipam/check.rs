//! Finding what is wrong: a pure function of the books.

mod bindings;
mod claims;
mod vips;

use causeway_proto::PortKey;
use serde::Serialize;

use super::thing::Thing;
use super::{Act, Books, Finding, Problem, Repair};
use crate::alloc;
use crate::history::{Event, EventKind};
use crate::keys::RecordKey;
use crate::model::Port;
use crate::ports::plan::{expires_ms, quarantine_ends_ms};
use crate::snapshot::{Record, Snapshot};
use crate::store::{Compare, Write};

/// How long after its end a quarantine or reservation is overdue, beside its own length again: whoever sees one begin
/// counts it from then, also after a restart.
const PATIENCE_MS: i64 = 60_000;

/// All that is wrong with the books at `now_ms` (Unix milliseconds), in the order of problems and subjects.
pub fn check(books: &Books, now_ms: i64) -> Vec<Finding> {
    let mut found = Vec::new();
    claims::check(books, now_ms, &mut found);
    bindings::check(&books.snapshot, now_ms, &mut found);
    vips::check(&books.snapshot, now_ms, &mut found);
    for port in books.snapshot.ports.values() {
        outside(&books.snapshot, port, &mut found);
        overdue(&books.snapshot, port, now_ms, &mut found);
    }
    for value in &books.unreadable {
        found.push(Finding {
            problem: Problem::Unreadable,
            subject: format!("key {}", value.path),
            text: format!("cannot be read and is left out of everything: {}", value.reason),
            hint: "put it back from a copy of the store, or delete the key".to_owned(),
            evidence: vec![Compare::Unchanged(value.path.clone(), value.revision)],
            repair: None,
        });
    }
    found.sort_by(|a, b| (a.problem, &a.subject).cmp(&(b.problem, &b.subject)));
    found
}

/// Addresses that no subnet of the port's network may give.
fn outside(snapshot: &Snapshot, port: &Record<Port>, found: &mut Vec<Finding>) {
    let Port { key, addresses, .. } = &port.value;
    for &address in addresses {
        let subnet = snapshot.subnet_at(&key.network.vrf, address).map(|record| &record.value);
        let why = match subnet {
            None => "lies in no subnet".to_owned(),
            Some(subnet) if subnet.network != key.network => {
                format!("lies in subnet {} of network {}", subnet.prefix, subnet.network)
            }
            Some(subnet) => match alloc::refusal(subnet, address) {
                Some(reason) => format!("{reason} {}", subnet.prefix),
                None => continue,
            },
        };
        found.push(Finding {
            problem: Problem::OutsideSubnet,
            subject: Thing::Address(key.network.vrf.clone(), address).to_string(),
            text: format!("port {key} has it, and it {why}"),
            hint: format!(
                "declare the subnet as it was: causeway apply -f FILE; or give the port up: causeway port release \
                 --forget {key}"
            ),
            evidence: vec![seen(port)],
            repair: None,
        });
    }
}

/// Quarantines and reservations that nobody ended.
fn overdue(snapshot: &Snapshot, port: &Record<Port>, now_ms: i64, found: &mut Vec<Finding>) {
    let key = &port.value.key;
    let network = snapshot.networks.get(&key.network).map(|record| &record.value);
    let quarantine = quarantine_ends_ms(&port.value, network).zip(port.value.quarantined_ms);
    let sticky = network.map_or(0, |network| network.sticky_seconds);
    let reservation = expires_ms(&port.value, sticky).zip(port.value.released_ms);
    let (what, (end, begin), act) = match (quarantine, reservation) {
        (Some(times), _) => ("quarantine", times, Act::EndQuarantine(key.clone())),
        (None, Some(times)) => ("reservation", times, Act::Expire(key.clone())),
        (None, None) => return,
    };
    let late = now_ms.saturating_sub(end);
    if late <= end.saturating_sub(begin).saturating_add(PATIENCE_MS) {
        return;
    }
    found.push(Finding {
        problem: Problem::Overdue,
        subject: format!("port {key}"),
        text: format!("its {what} should have ended {} s ago", late / 1000),
        hint: "see whether a controller leads, and whether the clocks of the controllers agree".to_owned(),
        evidence: vec![seen(port)],
        repair: Some(Repair { words: format!("end the {what}"), act }),
    });
}

/// The compare that a port is as it was read.
fn seen(port: &Record<Port>) -> Compare {
    Compare::Unchanged(RecordKey::Port(port.value.key.clone()).path(), port.revision)
}

/// The compare that a record is as it was read, or was not there.
fn as_read(snapshot: &Snapshot, record: &RecordKey) -> Compare {
    match snapshot.revision_of(record) {
        Some(at) => Compare::Unchanged(record.path(), at),
        None => Compare::Absent(record.path()),
    }
}

/// The event of a repair.
fn event(port: Option<&PortKey>, record: &str, cause: &str, before: Vec<i64>) -> Event {
    Event {
        port: port.cloned(),
        before,
        ..Event::of_record(EventKind::Repaired, record.to_owned(), cause.to_owned())
    }
}

/// The event of a repair of a port's own, and the port's record that leads to it.
fn told_of_port(port: &Port, cause: &str, now_ms: i64) -> (Option<Write>, Event) {
    let told = Port { changed_ms: now_ms, ..port.clone() };
    let event = Event {
        addresses: port.addresses.clone(),
        mac: Some(port.mac),
        ..event(Some(&port.key), "", cause, vec![port.changed_ms()])
    };
    (put(RecordKey::Port(port.key.clone()).path(), &told), event)
}

/// A write of a record. They are all text and numbers: JSON can say them.
fn put(key: String, value: &impl Serialize) -> Option<Write> {
    Some(Write::Put { key, value: serde_json::to_vec(value).ok()?, lease: None })
}
