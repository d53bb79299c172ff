//! When to try again what failed: per key, 100 ms doubling up to a minute, with jitter.
//!
//! What happens meanwhile may have removed the obstacle, so that waiting on would be idle: then it is tried sooner. But a
//! failed attempt makes something happen too, such as a link that came and went, and must not call for the next one.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use tokio::time::Instant;

use crate::fabric::Thing;
use crate::model::{Desired, Key};

/// What is heard so soon after an attempt may come of it: the kernel tells of a carrier up to a second later.
const OWN_NOISE: Duration = Duration::from_secs(2);
/// Others' doings shorten a wait to this part of it, no further: they may go on for ever.
const SHORTENED: u32 = 8;

/// What comes next for a failed key.
#[derive(Debug, Clone, Copy)]
pub(super) struct Again {
    pub(super) attempt: u32,
    pub(super) wait: Duration,
}

#[derive(Debug)]
struct Waiting {
    attempt: u32,
    /// Last attempt.
    since: Instant,
    wait: Duration,
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
        let since = Instant::now();
        let fresh = Waiting { attempt: 0, since, wait: first, at: None };
        let waiting = self.waiting.entry(key.clone()).or_insert(fresh);
        waiting.attempt = waiting.attempt.saturating_add(1);
        let doubled = first.saturating_mul(1 << (waiting.attempt - 1).min(16));
        let wait = doubled.min(longest).mul_f64(rand::random_range(0.75..=1.0));
        (waiting.since, waiting.wait, waiting.at) = (since, wait, Some(since + wait));
        Again { attempt: waiting.attempt, wait }
    }

    pub(super) fn succeeded(&mut self, key: &Key) {
        self.waiting.remove(key);
    }

    pub(super) fn is_waiting(&self, key: &Key) -> bool {
        self.waiting.get(key).is_some_and(|w| w.at.is_some())
    }

    /// All whose time has not come.
    pub(super) fn waiting(&self) -> BTreeSet<Key> {
        let waiting = self.waiting.iter().filter(|(_, w)| w.at.is_some());
        waiting.map(|(key, _)| key.clone()).collect()
    }

    /// New desired state for these keys, or a new place: tried at once, as if for the first time.
    pub(super) fn forget(&mut self, keys: &BTreeSet<Key>) {
        self.waiting.retain(|key, _| !keys.iter().any(|changed| concerns(changed, key)));
    }

    /// Something happened to these keys.
    pub(super) fn heard(&mut self, keys: &BTreeSet<Key>) {
        let now = Instant::now();
        let concerned = self.waiting.iter_mut().filter(|(key, _)| keys.iter().any(|k| concerns(k, key)));
        for (_, waiting) in concerned.filter(|(_, w)| now >= w.since + OWN_NOISE) {
            let sooner = now.max(waiting.since + waiting.wait / SHORTENED);
            waiting.at = waiting.at.map(|at| at.min(sooner));
        }
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

/// True if what was changed may be what `waiting` waits for.
fn concerns(changed: &Key, waiting: &Key) -> bool {
    match (changed, waiting) {
        (Key::Lan, _) | (Key::Network(_), Key::Port(_)) => true,
        (Key::Fabric(thing), Key::Fabric(_)) if *thing == Thing::structure() => true,
        _ => changed == waiting || waiting.base().as_ref() == Some(changed),
    }
}
