//! Claims against ports.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_proto::PortKey;

use super::super::thing::Thing;
use super::super::{Act, Books, Claim, Finding, Problem, Repair};
use super::{as_read, event, put, seen, told_of_port};
use crate::history::{self, Event, EventKind};
use crate::keys::RecordKey;
use crate::model::Port;
use crate::snapshot::{Record, Snapshot};
use crate::store::{Compare, Write};

type Found<'a> = &'a Arc<Record<Port>>;

/// Claims that lie where they should, by what they are on.
type Claims<'a> = BTreeMap<Thing, &'a Claim>;

pub(super) fn check(books: &Books, now_ms: i64, found: &mut Vec<Finding>) {
    let snapshot = &books.snapshot;
    let mut claims = Claims::new();
    for claim in &books.claims {
        match Thing::at(&claim.path) {
            None => found.push(unreadable(claim)),
            Some(thing) if thing.path(snapshot).as_ref() == Some(&claim.path) => {
                claims.insert(thing, claim);
            }
            Some(thing) => {
                found.push(ownerless(snapshot, &thing, claim, "lies where its claim does not belong"))
            }
        }
    }
    for (thing, claim) in &claims {
        let owned = claim.owner.as_ref().is_some_and(|owner| thing.held_by(snapshot, owner).is_some());
        if owned {
            continue;
        }
        match thing.holder(snapshot) {
            Some(port) => found.push(unclaimed(thing, port, Some(claim), &claim.path, now_ms)),
            None => found.push(ownerless(snapshot, thing, claim, "no port has it")),
        }
    }
    for port in snapshot.ports.values() {
        for thing in Thing::of(&port.value) {
            of_port(books, &claims, &thing, port, now_ms, found);
        }
    }
}

/// One thing of one port, where its claim does not name it.
fn of_port(
    books: &Books,
    claims: &Claims<'_>,
    thing: &Thing,
    port: Found<'_>,
    now_ms: i64,
    found: &mut Vec<Finding>,
) {
    let (snapshot, key) = (&books.snapshot, &port.value.key);
    let claim = claims.get(thing).copied();
    let named = claim.and_then(|claim| claim.owner.as_ref());
    if named == Some(key) {
        return;
    }
    let named = named.and_then(|owner| thing.held_by(snapshot, owner));
    let rival = named.or_else(|| thing.holder(snapshot).filter(|other| other.value.key != *key));
    match rival {
        Some(rival) => found.push(duplicate(books, thing, (port, rival), claim, now_ms)),
        None => {
            // A wrong claim has been told of, and an address outside all subnets is.
            if let Some(path) = thing.path(snapshot).filter(|_| claim.is_none()) {
                found.push(unclaimed(thing, port, None, &path, now_ms));
            }
        }
    }
}

fn unreadable(claim: &Claim) -> Finding {
    Finding {
        problem: Problem::Unreadable,
        subject: format!("key {}", claim.path),
        text: "is no claim on an address or MAC".to_owned(),
        hint: "delete the key".to_owned(),
        evidence: vec![Compare::Unchanged(claim.path.clone(), claim.revision)],
        repair: None,
    }
}

/// A claim that keeps something from everybody.
fn ownerless(snapshot: &Snapshot, thing: &Thing, claim: &Claim, why: &str) -> Finding {
    let mut evidence = vec![Compare::Unchanged(claim.path.clone(), claim.revision)];
    let named = match &claim.owner {
        None => "nobody that can be read".to_owned(),
        Some(owner) => {
            evidence.push(as_read(snapshot, &RecordKey::Port(owner.clone())));
            let known = snapshot.ports.contains_key(owner);
            format!("port {owner}{}", if known { "" } else { ", which does not exist" })
        }
    };
    let text = format!("is claimed for {named}; {why}");
    let told = event(None, &format!("claim on {thing}"), &format!("removed: it {text}"), Vec::new());
    Finding {
        problem: Problem::ClaimWithoutOwner,
        subject: thing.to_string(),
        text,
        hint: String::new(),
        evidence,
        repair: Some(Repair {
            words: "remove the claim".to_owned(),
            act: Act::Write(vec![Write::Delete(claim.path.clone())], vec![told]),
        }),
    }
}

/// A port has what somebody else might be given.
fn unclaimed(thing: &Thing, port: Found<'_>, claim: Option<&Claim>, path: &str, now_ms: i64) -> Finding {
    let key = &port.value.key;
    let (text, as_read) = match claim {
        None => (
            format!("port {key} has it, and it is not claimed: it could be given to another one"),
            Compare::Absent(path.to_owned()),
        ),
        Some(claim) => {
            let named = match &claim.owner {
                Some(owner) => format!("port {owner}, which has it not"),
                None => "nobody that can be read".to_owned(),
            };
            let text = format!("port {key} has it, and it is claimed for {named}");
            (text, Compare::Unchanged(claim.path.clone(), claim.revision))
        }
    };
    let (told, event) = told_of_port(&port.value, &format!("{thing} is claimed for it again"), now_ms);
    let claim = Write::Put { key: path.to_owned(), value: owner_text(key), lease: None };
    Finding {
        problem: Problem::OwnerWithoutClaim,
        subject: thing.to_string(),
        text,
        hint: String::new(),
        evidence: vec![seen(port), as_read],
        repair: told.map(|told| Repair {
            words: "claim it for the port".to_owned(),
            act: Act::Write(vec![told, claim], vec![event]),
        }),
    }
}

fn owner_text(key: &PortKey) -> Vec<u8> {
    key.to_string().into_bytes()
}

/// Two ports have the same. If one of them only has it reserved, that one can go.
fn duplicate(
    books: &Books,
    thing: &Thing,
    (port, rival): (Found<'_>, Found<'_>),
    claim: Option<&Claim>,
    now_ms: i64,
) -> Finding {
    let idle = |port: Found<'_>| port.value.released_ms.is_some();
    let (stays, goes) = if idle(rival) && !idle(port) { (port, rival) } else { (rival, port) };
    let (a, b) = (&stays.value.key, &goes.value.key);
    let how = |port: Found<'_>| if idle(port) { "released" } else { "in use" };
    let mut evidence = vec![seen(stays), seen(goes)];
    evidence.extend(claim.map(|claim| Compare::Unchanged(claim.path.clone(), claim.revision)));
    let repair = (idle(goes) && !idle(stays))
        .then(|| remove(books, thing, stays, goes, claim, &mut evidence, now_ms))
        .flatten();
    Finding {
        problem: Problem::Duplicate,
        subject: thing.to_string(),
        text: format!("port {a} ({}) and port {b} ({}) both have it", how(stays), how(goes)),
        hint: match &repair {
            Some(_) => String::new(),
            None => format!(
                "find out who answers (causeway bgp explain), end the other one's workload, release it \
                 (causeway port release {b}), then repair"
            ),
        },
        evidence,
        repair,
    }
}

/// A released port goes, with all claims that name it; what it shared is the other one's.
fn remove(
    books: &Books,
    thing: &Thing,
    stays: Found<'_>,
    goes: Found<'_>,
    claim: Option<&Claim>,
    evidence: &mut Vec<Compare>,
    now_ms: i64,
) -> Option<Repair> {
    let (snapshot, key) = (&books.snapshot, &goes.value.key);
    let mut writes = vec![Write::Delete(RecordKey::Port(key.clone()).path())];
    let shared = claim.map(|claim| claim.path.clone()).or_else(|| thing.path(snapshot))?;
    let mine = books.claims.iter().filter(|claim| claim.owner.as_ref() == Some(key) && claim.path != shared);
    for claim in mine {
        evidence.push(Compare::Unchanged(claim.path.clone(), claim.revision));
        writes.push(Write::Delete(claim.path.clone()));
    }
    let records = [RecordKey::Binding(key.clone()), RecordKey::Move(key.clone())];
    for record in records {
        evidence.push(as_read(snapshot, &record));
        writes.extend(snapshot.revision_of(&record).map(|_| Write::Delete(record.path())));
    }
    if claim.is_none() {
        evidence.push(Compare::Absent(shared.clone()));
    }
    writes.push(Write::Put { key: shared, value: owner_text(&stays.value.key), lease: None });
    let cause = format!("{thing} is that of port {}, which is in use", stays.value.key);
    let freed = Event {
        kind: EventKind::Freed,
        addresses: goes.value.addresses.clone(),
        mac: Some(goes.value.mac),
        ..event(Some(key), "", &cause, vec![goes.value.changed_ms()])
    };
    for path in history::index_of(&freed, now_ms) {
        writes.push(put(path, &goes.value.created_ms)?);
    }
    Some(Repair { words: format!("remove the released port {key}"), act: Act::Write(writes, vec![freed]) })
}
