//! Requests that share a transaction.

use std::collections::HashSet;
use std::ops::Range;

use crate::history::{self, Event};
use crate::keys;
use crate::ports::Job;
use crate::ports::plan::{Effect, Planned};
use crate::store::{Compare, Txn, Write};

/// Keys looked at to find out what a transaction lost to, at most.
const MOST_LOOKS: usize = 4;

/// A transaction in the making.
#[derive(Debug, Default)]
pub(super) struct Batch {
    /// When its events happen, in Unix milliseconds.
    now_ms: i64,
    /// What the history says of it: one record, however many there are.
    events: Vec<Event>,
    compares: Vec<Compare>,
    writes: Vec<Write>,
    /// What they write.
    keys: HashSet<String>,
    items: Vec<Item>,
}

fn written(write: &Write) -> &str {
    match write {
        Write::Put { key, .. } | Write::Delete(key) => key,
    }
}

/// One request in it.
#[derive(Debug)]
pub(super) struct Item {
    pub(super) effect: Effect,
    pub(super) job: Job,
    /// Its own compares.
    own: Range<usize>,
    /// Compares that it shares with others.
    shared: Vec<usize>,
}

impl Item {
    /// True if one of these compares is its own or shared by it.
    pub(super) fn fails(&self, failing: &[usize]) -> bool {
        failing.iter().any(|i| self.own.contains(i) || self.shared.contains(i))
    }
}

impl Batch {
    pub(super) fn new(now_ms: i64) -> Self {
        Batch { now_ms, ..Batch::default() }
    }

    pub(super) fn is_empty(&self) -> bool {
        self.items.is_empty()
    }

    /// True if it fits together with the events' record; the first always does.
    pub(super) fn has_room(&self, planned: &Planned) -> bool {
        let new = planned.shared.iter().filter(|c| !self.compares.contains(c)).count();
        self.compares.len() + new + planned.compares.len() <= Txn::MAX_OPS
            && self.writes.len() + planned.writes.len() < Txn::MAX_OPS
            && !self.writes_same(planned)
    }

    /// True if both write one key, which a transaction may not do twice: ports that are tied to each other.
    fn writes_same(&self, planned: &Planned) -> bool {
        planned.writes.iter().any(|write| self.keys.contains(written(write)))
    }

    pub(super) fn add(&mut self, planned: Planned, job: Job) {
        let mut shared = Vec::with_capacity(planned.shared.len());
        for compare in planned.shared {
            let at = self.compares.iter().position(|known| *known == compare).unwrap_or_else(|| {
                self.compares.push(compare);
                self.compares.len() - 1
            });
            shared.push(at);
        }
        let from = self.compares.len();
        self.compares.extend(planned.compares);
        self.keys.extend(planned.writes.iter().map(|write| written(write).to_owned()));
        self.writes.extend(planned.writes);
        let events = planned.event.into_iter().chain(planned.others);
        self.events.extend(events.map(|event| event.by(&job.by)));
        self.items.push(Item { effect: planned.effect, job, own: from..self.compares.len(), shared });
    }

    /// The transaction, with the events as one more write. `number` tells it from others of the same moment.
    pub(super) fn txn(&self, number: u64) -> Txn {
        let mut writes = self.writes.clone();
        match history::encode(&self.events) {
            Ok(value) if !self.events.is_empty() => {
                writes.push(Write::Put { key: keys::events(self.now_ms, number), value, lease: None });
            }
            Ok(_) => {}
            // They are text and numbers: whoever made one that is not JSON finds it in the log.
            Err(error) => tracing::error!(%error, "events cannot be written as JSON"),
        }
        Txn { compares: self.compares.clone(), writes }
    }

    pub(super) fn into_items(self) -> Vec<Item> {
        self.items
    }

    /// Keys of some of these compares: the first and the last ones.
    pub(super) fn paths(&self, failing: &[usize]) -> Vec<String> {
        let half = MOST_LOOKS / 2;
        let ends = failing.iter().take(half).chain(failing.iter().skip(half).rev().take(half));
        let path = |compare: &Compare| match compare {
            Compare::Absent(key)
            | Compare::Present(key)
            | Compare::Unchanged(key, _)
            | Compare::NoneBelow(key) => key.clone(),
        };
        ends.filter_map(|i| self.compares.get(*i)).map(path).collect()
    }
}
