//! From checked records to transactions.

mod delete;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_proto::{Name, Revision, v1};

use super::check::{self, Item, Owners, owner_name};
use super::message::{self, Declared};
use super::{Action, Applied, Intent, IntentError, Outcome, Violation, diff};
use crate::history::{self, By, Event, EventKind};
use crate::keys::{self, RecordKey};
use crate::model::CONNECTED_WAYS;
use crate::snapshot::Snapshot;
use crate::store::{Compare, StoreError, Txn, TxnOutcome, Write};

pub(super) use delete::delete;

/// Records in one request at most.
const MOST_RECORDS: usize = 1_000;
/// Longest text of a change in the history, in characters.
const LONGEST_CAUSE: usize = 256;
/// References of one record that are compared.
const MOST_REFERENCES: usize = 32;
/// Tries when others write at the same time.
const TRIES: u32 = 5;
/// Longest wait for the snapshot to show what was written.
const CATCH_UP: Duration = Duration::from_secs(2);

/// One record's share of the transactions.
#[derive(Debug)]
struct Step {
    index: usize,
    /// Compares of this record.
    compares: Vec<Compare>,
    /// Records that it refers to.
    references: Vec<Compare>,
    writes: Vec<Write>,
    /// The VRF whose guard it takes.
    guard: Option<Name>,
    /// What the history says of it.
    event: Event,
}

/// Checked records as transactions would write them.
#[derive(Debug)]
struct Prepared {
    outcomes: Vec<Outcome>,
    steps: Vec<Step>,
}

/// Guards of VRFs: the revision at which each was seen, `None` if nobody took it yet.
type Guards = BTreeMap<Name, Option<Revision>>;

pub(super) async fn apply(
    intent: &Intent,
    resources: &[v1::Resource],
    dry_run: bool,
) -> Result<Applied, IntentError> {
    let items = read(resources)?;
    let mut first: Option<Vec<Outcome>> = None;
    for _ in 0..TRIES {
        let (guards, snapshot) = look(intent, &items).await?;
        let prepared = prepare(&items, &snapshot, intent.asn)?;
        if dry_run {
            return Ok(Applied { outcomes: prepared.outcomes, revision: snapshot.revision });
        }
        // A later try finds what an earlier one wrote; the answer tells what the request did as a whole.
        let outcomes = match first.take() {
            None => prepared.outcomes,
            Some(earlier) => merge(earlier, prepared.outcomes),
        };
        match commit(intent, prepared.steps, guards).await? {
            Some(revision) => {
                let revision = revision.unwrap_or(snapshot.revision);
                catch_up(intent, revision).await;
                return Ok(Applied { outcomes, revision });
            }
            None => first = Some(outcomes),
        }
    }
    Err(IntentError::Aborted(TRIES))
}

/// What is wrong with the messages themselves, all of it; then in the order of kinds.
fn read(resources: &[v1::Resource]) -> Result<Vec<Item>, IntentError> {
    if resources.len() > MOST_RECORDS {
        let reason = format!("has {} records, at most {MOST_RECORDS} are allowed", resources.len());
        return Err(IntentError::Invalid(vec![Violation { field: "resources".to_owned(), reason }]));
    }
    let (mut items, mut wrong): (Vec<Item>, Vec<Violation>) = (Vec::new(), Vec::new());
    let mut names: BTreeMap<(i32, String), usize> = BTreeMap::new();
    for (index, resource) in resources.iter().enumerate() {
        let at = format!("resources[{index}]");
        match message::parse(resource, &at) {
            Err(more) => wrong.extend(more),
            Ok(record) => {
                let name = (record.kind() as i32, record.name());
                if let Some(other) = names.get(&name) {
                    let reason = format!("{} is in resources[{other}] already", owner_name(&record));
                    wrong.push(Violation { field: at, reason });
                }
                names.insert(name, index);
                items.push(Item { index, record });
            }
        }
    }
    if !wrong.is_empty() {
        return Err(IntentError::Invalid(wrong));
    }
    items.sort_by_key(|item| item.record.kind() as i32);
    Ok(items)
}

/// The guards of the VRFs to which subnets are added, and a snapshot that shows everything written under them.
async fn look(intent: &Intent, items: &[Item]) -> Result<(Guards, std::sync::Arc<Snapshot>), IntentError> {
    let vrfs: BTreeSet<Name> = items
        .iter()
        .filter_map(|item| match &item.record {
            Declared::Subnet(subnet) => Some(subnet.network.vrf.clone()),
            _ => None,
        })
        .collect();
    let mut guards = Guards::new();
    let mut newest = Revision::default();
    for vrf in vrfs {
        let guard = intent.store.get(&keys::subnets_guard(&vrf)).await?.map(|entry| entry.revision);
        newest = newest.max(guard.unwrap_or_default());
        guards.insert(vrf, guard);
    }
    match tokio::time::timeout(CATCH_UP, intent.state.wait_for(newest)).await {
        Ok(snapshot) => Ok((guards, snapshot.map_err(|_| IntentError::Stopping)?)),
        Err(_) => {
            let reason = format!("its changes up to revision {newest} have not arrived");
            Err(IntentError::Store(StoreError::Unavailable { store: intent.store.name(), reason }))
        }
    }
}

/// Checks all records together and says what would be written.
fn prepare(items: &[Item], snapshot: &Snapshot, asn: u32) -> Result<Prepared, IntentError> {
    let mut owners = Owners::of(snapshot);
    let mut all = snapshot.clone();
    let mut complete = Vec::with_capacity(items.len());
    for item in items {
        let record = with_rd(&item.record, snapshot, &owners)?;
        owners.add(&record);
        let json = encode(&record)?;
        let revision = snapshot.revision_of(&record.key()).unwrap_or_default();
        all.apply(&record.key().path(), Some((&json, revision)))
            .map_err(|e| internal(format!("{} cannot be read back: {e}", owner_name(&record))))?;
        complete.push((Item { index: item.index, record }, json));
    }
    let mut outcomes: BTreeMap<usize, Outcome> = BTreeMap::new();
    let mut steps = Vec::new();
    for (item, json) in complete {
        check::check(&item, snapshot, &all, &owners, asn)?;
        let old = item.record.stored(snapshot);
        let changes = diff::changes(old.as_ref().map(|(record, _)| record), &item.record);
        let action = match &old {
            None => Action::Create,
            Some(_) if changes.is_empty() => Action::Unchanged,
            Some(_) => Action::Update,
        };
        let event = event(&item.record, action, &changes);
        let (kind, name) = (item.record.kind(), item.record.name());
        outcomes.insert(item.index, Outcome { kind, name, action, changes });
        // A VRF of before controllers routed gets its number with the next apply, though no field differs.
        let same = old.as_ref().is_some_and(|(record, _)| *record == item.record);
        if action != Action::Unchanged || !same {
            steps.push(step(&item, old, json, snapshot, event));
        }
    }
    Ok(Prepared { outcomes: outcomes.into_values().collect(), steps })
}

/// Networks and VRFs keep the numbers of their route distinguishers, or get free ones.
fn with_rd(record: &Declared, snapshot: &Snapshot, owners: &Owners) -> Result<Declared, IntentError> {
    let mut free = owners.free_rds();
    let mut number = |known: Option<u16>| {
        known.filter(|number| *number != 0).or_else(|| free.next()).ok_or_else(|| IntentError::Exhausted {
            subject: owner_name(record),
            reason: "all 65535 route distinguishers are in use".to_owned(),
        })
    };
    Ok(match record {
        Declared::Network(network) => {
            let old = snapshot.networks.get(&network.key).map(|old| old.value.rd_number);
            Declared::Network(crate::model::Network { rd_number: number(old)?, ..network.clone() })
        }
        Declared::Vrf(vrf) => {
            let old = snapshot.vrfs.get(&vrf.name).map(|old| &old.value);
            let rd_number = number(old.map(|old| old.rd_number))?;
            let mut connected_rds = old.map(|old| old.connected_rds.clone()).unwrap_or_default();
            if vrf.l3_vni.is_some() {
                // One less than ways: the first has the VRF's own number.
                let missing = (CONNECTED_WAYS - 1).saturating_sub(connected_rds.len());
                connected_rds.extend(free.take(missing));
            }
            Declared::Vrf(crate::model::Vrf { rd_number, connected_rds, ..vrf.clone() })
        }
        other => other.clone(),
    })
}

fn encode(record: &Declared) -> Result<Vec<u8>, IntentError> {
    record.to_json().map_err(|e| internal(format!("{} cannot be written: {e}", owner_name(record))))
}

fn internal(reason: String) -> IntentError {
    IntentError::Store(StoreError::Internal { store: "intent".to_owned(), reason })
}

/// What the history says of a record.
fn event(record: &Declared, action: Action, changes: &[super::FieldChange]) -> Event {
    let cause = match action {
        Action::Create => "new".to_owned(),
        Action::Update | Action::Unchanged => {
            let words =
                changes.iter().map(|c| format!("{}: {} -> {}", c.field, or_none(&c.old), or_none(&c.new)));
            words.collect::<Vec<_>>().join(", ").chars().take(LONGEST_CAUSE).collect()
        }
    };
    Event::of_record(EventKind::Declared, owner_name(record), cause)
}

fn or_none(value: &str) -> &str {
    if value.is_empty() { "none" } else { value }
}

/// One more write: what the history says of a transaction.
fn tell(txn: &mut Txn, events: Vec<Event>, by: &By) -> Result<(), IntentError> {
    if events.is_empty() {
        return Ok(());
    }
    let events: Vec<Event> = events.into_iter().map(|event| event.by(by)).collect();
    let value =
        history::encode(&events).map_err(|e| internal(format!("its history cannot be written: {e}")))?;
    let key = keys::events(crate::ports::now_ms(), rand::random());
    txn.writes.push(Write::Put { key, value, lease: None });
    Ok(())
}

fn step(
    item: &Item,
    old: Option<(Declared, Revision)>,
    json: Vec<u8>,
    snapshot: &Snapshot,
    event: Event,
) -> Step {
    let record = &item.record;
    let key = record.key();
    let mut step = Step {
        index: item.index,
        compares: Vec::new(),
        references: Vec::new(),
        writes: vec![Write::Put { key: key.path(), value: json, lease: None }],
        guard: None,
        event,
    };
    // Revision 0: shown without being in the store.
    let seen = old.as_ref().map(|(_, revision)| *revision).filter(|revision| revision.0 > 0);
    let before = old.map(|(record, _)| record);
    match (&before, seen) {
        (Some(before), Some(at)) => {
            step.compares.push(Compare::Unchanged(before.key().path(), at));
            // A subnet that moves to another network lies elsewhere then.
            if before.key() != key {
                step.compares.push(Compare::Absent(key.path()));
                step.writes.push(Write::Delete(before.key().path()));
            }
        }
        _ => step.compares.push(Compare::Absent(key.path())),
    }
    let had = before.as_ref().map(check::claims).unwrap_or_default();
    let has = check::claims(record);
    for claim in has.iter().filter(|claim| !had.contains(claim)) {
        step.compares.push(Compare::Absent(claim.clone()));
        let value = owner_name(record).into_bytes();
        step.writes.push(Write::Put { key: claim.clone(), value, lease: None });
    }
    step.writes.extend(had.into_iter().filter(|claim| !has.contains(claim)).map(Write::Delete));
    add_guards(&mut step, record, before.as_ref(), snapshot);
    step
}

/// Compares with which nothing can come between the check and the write.
fn add_guards(step: &mut Step, record: &Declared, before: Option<&Declared>, snapshot: &Snapshot) {
    match record {
        Declared::Network(network) => {
            let vrf = RecordKey::Vrf(network.key.vrf.clone());
            // `default` exists without being in the store.
            if snapshot.revision_of(&vrf) != Some(Revision::default()) {
                step.references.push(Compare::Present(vrf.path()));
            }
            let renumbered = matches!(before, Some(Declared::Network(old)) if old.vni != network.vni);
            if renumbered {
                step.compares.push(Compare::NoneBelow(keys::ports_of(&network.key)));
            }
        }
        Declared::Subnet(subnet) => {
            step.references.push(Compare::Present(RecordKey::Network(subnet.network.clone()).path()));
            let vrf = &subnet.network.vrf;
            step.guard = Some(vrf.clone());
            let moved = matches!(before, Some(Declared::Subnet(old)) if old.network != subnet.network);
            if moved {
                step.compares.push(Compare::NoneBelow(keys::addresses_of(vrf, subnet.prefix)));
            }
            let old_gateway = match before {
                Some(Declared::Subnet(old)) => old.gateway,
                _ => None,
            };
            if let Some(gateway) = subnet.gateway.filter(|gateway| Some(*gateway) != old_gateway) {
                step.compares.push(Compare::Absent(keys::address(vrf, subnet.prefix, gateway)));
            }
        }
        Declared::Vrf(vrf) => {
            let nodes = vrf.routes.iter().map(|route| RecordKey::Node(route.node.clone()));
            add_references(step, nodes, snapshot);
        }
        Declared::Node(node) => {
            let switches = node.uplinks.iter().map(|uplink| RecordKey::Node(uplink.switch.clone()));
            let networks = node.networks.iter().map(|key| RecordKey::Network(key.clone()));
            add_references(step, switches.chain(networks), snapshot);
            let old = match before {
                Some(Declared::Node(old)) => (old.vtep, old.anycast_vtep),
                _ => (None, None),
            };
            // A VTEP is one node's own or shared, never both.
            if let Some(vtep) = node.vtep.filter(|vtep| old.0 != Some(*vtep)) {
                step.compares.push(Compare::NoneBelow(keys::sharers_of(vtep)));
            }
            if let Some(vtep) = node.anycast_vtep.filter(|vtep| old.1 != Some(*vtep)) {
                step.compares.push(Compare::Absent(keys::vtep(vtep)));
            }
        }
        Declared::Peer(_) => {}
    }
}

/// References to records of later kinds, or to many: those that exist already, as many as leave room in a transaction.
/// What is derived copes with one that is gone.
fn add_references(step: &mut Step, keys: impl Iterator<Item = RecordKey>, snapshot: &Snapshot) {
    let known: BTreeSet<RecordKey> = keys.filter(|key| snapshot.revision_of(key).is_some()).collect();
    let compares = known.into_iter().take(MOST_REFERENCES).map(|key| Compare::Present(key.path()));
    step.references.extend(compares);
}

/// Writes the steps in as few transactions as they fit in. `None`: lost a race, look again; else the revision of the
/// last write, if there was one.
async fn commit(
    intent: &Intent,
    steps: Vec<Step>,
    mut guards: Guards,
) -> Result<Option<Option<Revision>>, IntentError> {
    let mut last = None;
    let mut steps = steps.into_iter().peekable();
    while steps.peek().is_some() {
        let (mut txn, mut taken, mut events) = (Txn::default(), BTreeSet::new(), Vec::new());
        let mut written: BTreeSet<String> = BTreeSet::new();
        while let Some(next) = steps.next_if(|next| fits(&txn, next)) {
            // What this very transaction makes need not be there before.
            let references = next.references.into_iter().filter(|compare| match compare {
                Compare::Present(key) => !written.contains(key) && !txn.compares.contains(compare),
                _ => true,
            });
            let references: Vec<Compare> = references.collect();
            txn.compares.extend(references);
            txn.compares.extend(next.compares);
            written.extend(next.writes.iter().filter_map(|write| match write {
                Write::Put { key, .. } => Some(key.clone()),
                Write::Delete(_) => None,
            }));
            txn.writes.extend(next.writes);
            events.push(next.event);
            if let Some(vrf) = next.guard
                && taken.insert(vrf.clone())
            {
                take_guard(&mut txn, &vrf, &guards, next.index);
            }
        }
        tell(&mut txn, events, &intent.by)?;
        let compares = txn.compares.clone();
        match intent.store.txn(txn).await? {
            TxnOutcome::Committed(at) => {
                last = Some(at);
                guards.extend(taken.into_iter().map(|vrf| (vrf, Some(at))));
            }
            TxnOutcome::Conflict(failing) => {
                lost(intent, &compares, &failing).await?;
                return Ok(None);
            }
        }
    }
    Ok(Some(last))
}

/// True if the step still fits, its references, its guard and the events included; the first one always does.
fn fits(txn: &Txn, step: &Step) -> bool {
    let compares = txn.compares.len() + step.compares.len() + step.references.len() + 1;
    let writes = txn.writes.len() + step.writes.len() + 2;
    txn.writes.is_empty() || (compares <= Txn::MAX_OPS && writes <= Txn::MAX_OPS)
}

fn take_guard(txn: &mut Txn, vrf: &Name, guards: &Guards, index: usize) {
    let key = keys::subnets_guard(vrf);
    txn.compares.push(match guards.get(vrf).copied().flatten() {
        Some(seen) => Compare::Unchanged(key.clone(), seen),
        None => Compare::Absent(key.clone()),
    });
    // Only its revision matters.
    txn.writes.push(Write::Put { key, value: index.to_string().into_bytes(), lease: None });
}

/// Waits until the snapshot shows what a transaction lost to.
async fn lost(intent: &Intent, compares: &[Compare], failing: &[usize]) -> Result<(), IntentError> {
    let mut newest = Revision::default();
    for compare in failing.iter().filter_map(|i| compares.get(*i)).take(4) {
        let (Compare::Absent(key)
        | Compare::Present(key)
        | Compare::Unchanged(key, _)
        | Compare::NoneBelow(key)) = compare;
        if let Some(entry) = intent.store.get(key).await? {
            newest = newest.max(entry.revision);
        }
    }
    catch_up(intent, newest).await;
    Ok(())
}

/// Whoever asks this controller next finds what was written.
async fn catch_up(intent: &Intent, revision: Revision) {
    if tokio::time::timeout(CATCH_UP, intent.state.wait_for(revision)).await.is_err() {
        tracing::debug!(%revision, "the snapshot does not show yet what was written");
    }
}

/// What the request did as a whole: what the first try wrote, later ones find unchanged.
fn merge(earlier: Vec<Outcome>, later: Vec<Outcome>) -> Vec<Outcome> {
    let both = earlier.into_iter().zip(later);
    both.map(|(old, new)| if new.action == Action::Unchanged { old } else { new }).collect()
}
