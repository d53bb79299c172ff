//! The mobility ledger as it is shown.

use std::collections::BTreeMap;

use causeway_proto::{Mac, NetworkKey, v1};

use super::super::App;
use super::super::parse;
use super::super::port_message::key_message;
use super::super::status::Refusal;
use crate::derive::{self, View, evpn};
use crate::model::Port;
use crate::moves::ledger::WINDOW_MS;
use crate::ports::now_ms;
use crate::snapshot::Snapshot;

/// Entries of an answer, when the client says nothing, and at most.
const LIMITS: (usize, usize) = (1_000, 100_000);

type Alarms = BTreeMap<(NetworkKey, Mac), Vec<String>>;

pub(super) async fn list(
    app: &App,
    request: v1::ListLedgerRequest,
) -> Result<v1::ListLedgerResponse, Refusal> {
    let mac: Option<Mac> = match request.mac.as_str() {
        "" => None,
        mac => Some(parse::text("mac", mac)?),
    };
    let limit = match request.limit as usize {
        0 => LIMITS.0,
        n if n <= LIMITS.1 => n,
        _ => return Err(Refusal::field("limit", format!("is more than {}", LIMITS.1))),
    };
    let wanted = |(network, of): &(NetworkKey, Mac)| {
        let name = |asked: &str, is: &str| asked.is_empty() || asked == is;
        name(&request.vrf, network.vrf.as_str())
            && name(&request.network, network.network.as_str())
            && mac.is_none_or(|mac| mac == *of)
    };
    let snapshot = app.snapshot().await;
    let view = app.view(&snapshot);
    let mut alarms = Alarms::new();
    for alarm in app.fabric.alarms().0 {
        let place = (alarm.subject.network.clone(), alarm.subject.mac);
        let told = alarms.entry(place).or_default();
        if !told.contains(&alarm.finding.text) {
            told.push(alarm.finding.text);
        }
    }
    let ports = snapshot.by_mac.iter().filter(|(place, _)| wanted(place));
    let mut entries: Vec<v1::LedgerEntry> =
        ports.map(|(place, port)| of_port(&view, &alarms, place, &port.value)).collect();
    let gone =
        snapshot.ledger.iter().filter(|(place, _)| wanted(place) && !snapshot.by_mac.contains_key(*place));
    entries.extend(gone.map(|(place, record)| of_nobody(&view, &alarms, place, record.value)));
    entries.retain(|entry| !request.active || entry.changes > 0 || !entry.alarms.is_empty());
    let key = |e: &v1::LedgerEntry| (e.vrf.clone(), e.network.clone(), e.mac.clone());
    entries.sort_by_cached_key(key);
    let more = entries.len().saturating_sub(limit) as u64;
    entries.truncate(limit);
    Ok(v1::ListLedgerResponse { entries, more })
}

fn of_port(view: &View, alarms: &Alarms, place: &(NetworkKey, Mac), port: &Port) -> v1::LedgerEntry {
    let snapshot: &Snapshot = &view.snapshot;
    let binding = snapshot.bindings.get(&port.key).map(|record| &record.value);
    let bound = derive::bound(snapshot, &port.key);
    let verdict = bound.as_ref().map(|bound| derive::mobility(view, bound));
    let given = binding.map_or(0, |binding| binding.generation);
    let remembered = snapshot.remembered(&place.0, place.1);
    let announced = verdict.and_then(|verdict| verdict.announce);
    let now = now_ms();
    let changes = snapshot.moves.get(&port.key).map(|record| record.value.changes()).unwrap_or_default();
    let recent = changes.iter().filter(|at| now.saturating_sub(**at) < WINDOW_MS).count();
    v1::LedgerEntry {
        port: Some(key_message(&port.key)),
        sequence: announced.unwrap_or_else(|| evpn::sequence(given.max(remembered))),
        announced: announced.is_some(),
        node: binding.map(|binding| binding.node.to_string()).unwrap_or_default(),
        vtep: bound.map(|bound| bound.place.vtep.to_string()).unwrap_or_default(),
        changes: u32::try_from(recent).unwrap_or(u32::MAX),
        changed_ms: changes.into_iter().max().unwrap_or_default(),
        ..of_nobody(view, alarms, place, 0)
    }
}

/// What is known of a MAC whosever it is.
fn of_nobody(view: &View, alarms: &Alarms, place: &(NetworkKey, Mac), generation: u64) -> v1::LedgerEntry {
    let heard = view.imports.macs.get(place);
    v1::LedgerEntry {
        vrf: place.0.vrf.to_string(),
        network: place.0.network.to_string(),
        mac: place.1.to_string(),
        sequence: evpn::sequence(generation),
        heard: heard.iter().flat_map(|h| &h.sequences).map(|(vtep, n)| format!("{vtep}={n}")).collect(),
        alarms: alarms.get(place).cloned().unwrap_or_default(),
        ..v1::LedgerEntry::default()
    }
}
