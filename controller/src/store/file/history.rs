//! The latest changes, and who watches them.

use std::collections::VecDeque;
use std::sync::Arc;

use causeway_proto::Revision;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use crate::store::{KeyValue, WatchEvent};

/// Changed keys that are remembered, at least those of the latest transaction.
const MOST_CHANGES: usize = 20_000;

type Changes = Arc<Vec<Result<KeyValue, String>>>;

/// Transactions in order: revisions are consecutive.
#[derive(Debug, Default)]
pub(super) struct History {
    entries: VecDeque<(Revision, Changes)>,
    changes: usize,
    watchers: Vec<Watcher>,
}

#[derive(Debug)]
struct Watcher {
    prefix: String,
    /// First revision not told yet.
    next: Revision,
    events: mpsc::Sender<WatchEvent>,
}

impl History {
    /// Remembers a transaction.
    pub(super) fn push(&mut self, revision: Revision, changes: Vec<Result<KeyValue, String>>) {
        self.changes += changes.len();
        self.entries.push_back((revision, Arc::new(changes)));
        while self.changes > MOST_CHANGES && self.entries.len() > 1 {
            if let Some((_, gone)) = self.entries.pop_front() {
                self.changes -= gone.len();
            }
        }
    }

    pub(super) fn watch(&mut self, prefix: String, after: Revision, events: mpsc::Sender<WatchEvent>) {
        self.watchers.push(Watcher { prefix, next: Revision(after.0 + 1), events });
    }

    /// Tells watchers what they have room for; true if one of them has to be told more later. `current` is the
    /// store's revision.
    pub(super) fn tell(&mut self, current: Revision) -> bool {
        let oldest = self.entries.front().map_or(Revision(current.0 + 1), |(revision, _)| *revision);
        let entries = &self.entries;
        let mut behind = false;
        self.watchers.retain_mut(|watcher| match watcher.catch_up(entries, oldest) {
            Told::All => !watcher.events.is_closed(),
            Told::Part => {
                behind = true;
                true
            }
            Told::Gone => false,
        });
        behind
    }
}

enum Told {
    All,
    Part,
    Gone,
}

impl Watcher {
    fn catch_up(&mut self, entries: &VecDeque<(Revision, Changes)>, oldest: Revision) -> Told {
        if self.next < oldest {
            match self.events.try_send(WatchEvent::Relist) {
                Ok(()) => self.next = oldest,
                Err(TrySendError::Full(_)) => return Told::Part,
                Err(TrySendError::Closed(_)) => return Told::Gone,
            }
        }
        let skip = usize::try_from(self.next.0 - oldest.0).unwrap_or(usize::MAX);
        for (revision, changes) in entries.iter().skip(skip) {
            let here = |change: &&Result<KeyValue, String>| match change {
                Ok(entry) => entry.key.starts_with(&self.prefix),
                Err(key) => key.starts_with(&self.prefix),
            };
            let mine: Vec<_> = changes.iter().filter(here).cloned().collect();
            if !mine.is_empty() {
                match self.events.try_send(WatchEvent::Changes { revision: *revision, changes: mine }) {
                    Ok(()) => {}
                    Err(TrySendError::Full(_)) => return Told::Part,
                    Err(TrySendError::Closed(_)) => return Told::Gone,
                }
            }
            self.next = Revision(revision.0 + 1);
        }
        Told::All
    }
}
