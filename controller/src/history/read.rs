//! Reading the history from the store: by time, by port, by address.

use std::collections::{BTreeSet, BinaryHeap};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Mac, Name, PortKey, Revision};

use super::{Event, EventKind};
use crate::keys;
use crate::model::Port;
use crate::snapshot::Snapshot;
use crate::store::{KeyValue, Store, StoreError};

/// Records of the log read at once. One has the events of one transaction, some kilobytes at most.
const PAGE: usize = 256;
/// Ports that are gone, read at once.
const ENDS: usize = 1_000;

/// An event with its place in time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Told {
    /// Unix time in milliseconds, by the clock of the controller that wrote it.
    pub at_ms: i64,
    /// Revision of its transaction.
    pub revision: Revision,
    /// The event.
    pub event: Event,
}

/// Where a reading of the log goes on.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Cursor {
    first: String,
    end: String,
}

/// Who had an address at a time.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Holder {
    /// The port.
    pub port: PortKey,
    /// Its MAC.
    pub mac: Option<Mac>,
    /// Since when it had the address, in Unix milliseconds.
    pub from_ms: i64,
    /// Until when; `None`: it has it still.
    pub to_ms: Option<i64>,
    /// What it was: bound, released, … as the kind of the last event that says so; `None`: nobody knows any more.
    pub state: Option<EventKind>,
    /// Where it lived.
    pub node: Option<Name>,
    /// The last event at or before the time.
    pub last: Option<Told>,
    /// The first one after it.
    pub next: Option<Told>,
}

/// A port that has an address or had it, and where its events begin, read backwards.
#[derive(Debug, Clone)]
struct Tenant {
    port: PortKey,
    from_ms: i64,
    to_ms: Option<i64>,
    heads: Vec<i64>,
    /// When it ended, by the store, whatever clocks say; the greatest: it has not.
    ended: Revision,
}

/// Reads the history. Cheap to clone.
#[derive(Debug, Clone)]
pub struct History {
    store: Arc<dyn Store>,
}

impl Cursor {
    /// The whole log from one time up to another (Unix milliseconds), without the latter.
    pub fn between(since_ms: i64, until_ms: Option<i64>) -> Self {
        let end = until_ms.map_or_else(|| keys::after(keys::LOG), keys::events_at);
        Cursor { first: keys::events_at(since_ms), end }
    }
}

impl History {
    /// The history in a store.
    pub fn new(store: Arc<dyn Store>) -> Self {
        History { store }
    }

    /// The next events of the log, and where they go on; `None`: that was all.
    pub async fn page(&self, cursor: Cursor) -> Result<(Vec<Told>, Option<Cursor>), StoreError> {
        let listing = self.store.range(&cursor.first, &cursor.end, PAGE).await?;
        let full = listing.entries.len() == PAGE;
        // The key that follows another is that one and a zero byte.
        let next = listing.entries.last().filter(|_| full).map(|last| format!("{}\0", last.key));
        let told = listing.entries.iter().flat_map(read).collect();
        Ok((told, next.map(|first| Cursor { first, end: cursor.end })))
    }

    /// Events of one port, the latest first, not before `since_ms`, at most `most`; true if there are older ones.
    /// A port that is gone is found too, and those before it with the same key.
    pub async fn of_port(
        &self,
        snapshot: &Snapshot,
        key: &PortKey,
        since_ms: i64,
        most: usize,
    ) -> Result<(Vec<Told>, bool), StoreError> {
        let mut tenants: Vec<Tenant> = live(snapshot, key).into_iter().collect();
        let below = keys::ends_of_port(key);
        for entry in self.ends(format!("{below}{:013}", since_ms.max(0)), keys::after(&below)).await? {
            if let Some(at_ms) = keys::read_end_of_port(key, &entry.key) {
                tenants.push(gone(key.clone(), at_ms, &entry));
            }
        }
        self.walk_all(tenants, since_ms, most).await
    }

    /// Events of the ports that have or had an address, in the same way.
    pub async fn of_address(
        &self,
        snapshot: &Snapshot,
        vrf: &Name,
        address: IpAddr,
        since_ms: i64,
        most: usize,
    ) -> Result<(Vec<Told>, bool), StoreError> {
        let owner = snapshot.by_address.get(&(vrf.clone(), address));
        let mut tenants: Vec<Tenant> =
            owner.and_then(|record| live(snapshot, &record.value.key)).into_iter().collect();
        tenants.extend(self.former(vrf, address, since_ms).await?);
        self.walk_all(tenants, since_ms, most).await
    }

    /// Who had an address at a time; `None`: nobody that is known of.
    pub async fn holder(
        &self,
        snapshot: &Snapshot,
        vrf: &Name,
        address: IpAddr,
        at_ms: i64,
    ) -> Result<Option<Holder>, StoreError> {
        let owner = snapshot.by_address.get(&(vrf.clone(), address));
        let now = owner.and_then(|record| live(snapshot, &record.value.key));
        // What ended after that time had it then, if it had it at all. Where clocks differed by more than a tenancy there may
        // be two: the later one is believed.
        let former = self.former(vrf, address, at_ms.saturating_add(1)).await?;
        let tenants = former.into_iter().chain(now).filter(|tenant| tenant.from_ms <= at_ms);
        let Some(tenant) = tenants.max_by_key(|tenant| tenant.ended) else { return Ok(None) };
        let (told, _) = self.walk(&tenant, i64::MIN, Some(at_ms), usize::MAX).await?;
        Ok(Some(holder(snapshot, tenant, &told, at_ms)))
    }

    /// Ports that had an address and are gone since `since_ms` or later, in the order of their ends.
    async fn former(&self, vrf: &Name, address: IpAddr, since_ms: i64) -> Result<Vec<Tenant>, StoreError> {
        let below = keys::ends_of_address(vrf, address);
        let entries = self.ends(format!("{below}{:013}", since_ms.max(0)), keys::after(&below)).await?;
        let tenant = |entry: &KeyValue| {
            let (port, at_ms) = keys::read_end_of_address(&entry.key)?;
            Some(gone(port, at_ms, entry))
        };
        Ok(entries.iter().filter_map(tenant).collect())
    }

    async fn ends(&self, mut first: String, end: String) -> Result<Vec<KeyValue>, StoreError> {
        let mut all = Vec::new();
        loop {
            let page = self.store.range(&first, &end, ENDS).await?.entries;
            let Some(last) = page.last() else { return Ok(all) };
            first = format!("{}\0", last.key);
            let full = page.len() == ENDS;
            all.extend(page);
            if !full {
                return Ok(all);
            }
        }
    }

    /// Events of all these, the latest first.
    async fn walk_all(
        &self,
        mut tenants: Vec<Tenant>,
        since_ms: i64,
        most: usize,
    ) -> Result<(Vec<Told>, bool), StoreError> {
        tenants.sort_by_key(|tenant| std::cmp::Reverse(tenant.ended));
        let (mut all, mut truncated) = (Vec::new(), false);
        for tenant in tenants {
            if all.len() >= most {
                truncated = true;
                break;
            }
            let (told, more) = self.walk(&tenant, since_ms, None, most - all.len()).await?;
            all.extend(told);
            truncated |= more;
        }
        Ok((all, truncated))
    }

    /// Events of one tenant, the latest first: from where it was written last, back by what each says was before it.
    /// With `until` it ends at the first event at or before that time which says where the port is in its life.
    async fn walk(
        &self,
        tenant: &Tenant,
        since_ms: i64,
        until: Option<i64>,
        most: usize,
    ) -> Result<(Vec<Told>, bool), StoreError> {
        let mut times: BinaryHeap<i64> = tenant.heads.iter().copied().collect();
        let (mut seen, mut found) = (BTreeSet::new(), Vec::new());
        while let Some(at_ms) = times.pop() {
            if at_ms < since_ms || !seen.insert(at_ms) {
                continue;
            }
            if found.len() >= most {
                return Ok((newest_first(found, most), true));
            }
            let below = keys::events_at(at_ms);
            let entries = self.ends(below.clone(), keys::after(&below)).await?;
            let mine = |told: &Told| told.event.port.as_ref() == Some(&tenant.port);
            let told: Vec<Told> = entries.iter().flat_map(read).filter(mine).collect();
            times.extend(told.iter().flat_map(|told| told.event.before.iter().copied()));
            let says = told.iter().any(|told| told.event.kind.says_state());
            found.extend(told);
            if says && until.is_some_and(|until| at_ms <= until) {
                break;
            }
        }
        let more = found.len() > most;
        Ok((newest_first(found, most), more))
    }
}

fn newest_first(mut told: Vec<Told>, most: usize) -> Vec<Told> {
    told.sort_by_key(|told| std::cmp::Reverse(told.revision));
    told.truncate(most);
    told
}

/// The events of one record of the log. One that cannot be read is left out.
pub(crate) fn read(entry: &KeyValue) -> Vec<Told> {
    let Some(at_ms) = keys::events_time(&entry.key) else { return Vec::new() };
    let events: Vec<Event> = serde_json::from_slice(&entry.value).unwrap_or_else(|error| {
        tracing::warn!(key = entry.key, %error, "a record of the history cannot be read");
        Vec::new()
    });
    events.into_iter().map(|event| Told { at_ms, revision: entry.revision, event }).collect()
}

fn live(snapshot: &Snapshot, key: &PortKey) -> Option<Tenant> {
    let port: &Port = &snapshot.ports.get(key)?.value;
    let binding = snapshot.bindings.get(key).map(|record| record.value.changed_ms);
    let moved = snapshot.moves.get(key).map(|record| record.value.changed_ms);
    let others = binding.into_iter().chain(moved).filter(|ms| *ms != 0);
    let heads = [port.changed_ms()].into_iter().chain(others).collect();
    let ended = Revision(u64::MAX);
    Some(Tenant { port: key.clone(), from_ms: port.created_ms, to_ms: None, heads, ended })
}

fn gone(port: PortKey, at_ms: i64, entry: &KeyValue) -> Tenant {
    // What cannot be read was always there.
    let from_ms = serde_json::from_slice(&entry.value).unwrap_or_default();
    Tenant { port, from_ms, to_ms: Some(at_ms), heads: vec![at_ms], ended: entry.revision }
}

/// What the events around a time say; `told` has the latest first.
fn holder(snapshot: &Snapshot, tenant: Tenant, told: &[Told], at_ms: i64) -> Holder {
    let last = told.iter().find(|told| told.at_ms <= at_ms);
    let next = told.iter().rev().find(|told| told.at_ms > at_ms);
    let says = told.iter().find(|told| told.at_ms <= at_ms && told.event.kind.says_state());
    let mac = last.or(next).and_then(|told| told.event.mac);
    let record = snapshot.ports.get(&tenant.port).filter(|_| tenant.to_ms.is_none());
    let binding = snapshot.bindings.get(&tenant.port).filter(|b| record.is_some() && b.value.active);
    let (state, node) = match (says, next) {
        (Some(says), _) => (Some(says.event.kind), last.and_then(|told| told.event.node.clone())),
        // It was bound before that is known, and what came next says where it left.
        (None, Some(next)) => (None, next.event.from_node.clone()),
        (None, None) => (None, binding.map(|b| b.value.node.clone())),
    };
    Holder {
        mac: mac.or_else(|| record.map(|record| record.value.mac)),
        port: tenant.port,
        from_ms: tenant.from_ms,
        to_ms: tenant.to_ms,
        state,
        node,
        last: last.cloned(),
        next: next.cloned(),
    }
}

impl EventKind {
    /// True if one knows after it where the port is in its life.
    fn says_state(self) -> bool {
        !matches!(
            self,
            EventKind::Updated
                | EventKind::Repaired
                | EventKind::Moving
                | EventKind::Duplicate
                | EventKind::Held
                | EventKind::Unknown
        )
    }
}
