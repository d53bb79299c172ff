//! When to try again what failed: per key, 100 ms doubling up to a minute, with jitter.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::model::{Desired, Key};

/// What comes next for a failed key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Again {
    pub(super) attempt: u32,
    pub(super) wait: Duration,
}

#[derive(Debug)]
struct Waiting {
    attempt: u32,
    /// `None` once handed out, until it fails again.
    at: Option<Instant>,
}

#[derive(Debug)]
pub(super) struct Retries {
    limits: (Duration, Duration),
    waiting: BTreeMap<Key, Waiting>,
    observe: Option<Instant>,
}

impl Retries {
    pub(super) fn new(limits: (Duration, Duration)) -> Self {
        Retries { limits, waiting: BTreeMap::new(), observe: None }
    }

    pub(super) fn failed(&mut self, key: &Key) -> Again {
        let (first, longest) = self.limits;
        let waiting = self.waiting.entry(key.clone()).or_insert(Waiting { attempt: 0, at: None });
        waiting.attempt = waiting.attempt.saturating_add(1);
        let doubled = first.saturating_mul(1 << (waiting.attempt - 1).min(16));
        let wait = doubled.min(longest).mul_f64(rand::random_range(0.75..=1.0));
        waiting.at = Some(Instant::now() + wait);
        Again { attempt: waiting.attempt, wait }
    }

    pub(super) fn succeeded(&mut self, key: &Key) {
        self.waiting.remove(key);
    }

    pub(super) fn is_waiting(&self, key: &Key) -> bool {
        self.waiting.get(key).is_some_and(|w| w.at.is_some())
    }

    /// New desired state for these keys: tried at once, as if for the first time.
    pub(super) fn forget(&mut self, keys: &BTreeSet<Key>) {
        self.waiting.retain(|key, _| !keys.contains(key));
    }

    pub(super) fn clear(&mut self) {
        self.waiting.clear();
        self.observe = None;
    }

    /// The kernel could not be read at all.
    pub(super) fn failed_observe(&mut self) {
        self.observe = Some(Instant::now() + Duration::from_secs(1));
    }

    pub(super) fn waits_for_observe(&self) -> bool {
        self.observe.is_some()
    }

    pub(super) fn next_due(&self) -> Option<Instant> {
        self.waiting.values().filter_map(|w| w.at).chain(self.observe).min()
    }

    /// Keys whose time has come, with all that waits for a network.
    pub(super) fn take_due(&mut self, now: Instant, desired: &Desired) -> BTreeSet<Key> {
        if self.observe.is_some_and(|at| at <= now) {
            self.observe = None;
        }
        let mut due = BTreeSet::new();
        for (key, waiting) in &mut self.waiting {
            if waiting.at.is_some_and(|at| at <= now) {
                waiting.at = None;
                due.insert(key.clone());
                if let Key::Network(vni) = key {
                    due.extend(desired.keys_of(*vni));
                }
            }
        }
        due
    }
}
