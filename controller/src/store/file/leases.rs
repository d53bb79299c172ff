//! Leases: how long each lives and which keys hang on it.

use std::collections::{BTreeMap, BTreeSet};
use std::time::{Duration, Instant};

use crate::store::LeaseId;

#[derive(Debug)]
struct Lease {
    ttl: Duration,
    ends: Instant,
    keys: BTreeSet<String>,
}

/// All leases.
#[derive(Debug, Default)]
pub(super) struct Leases {
    leases: BTreeMap<LeaseId, Lease>,
    by_key: BTreeMap<String, LeaseId>,
}

impl Leases {
    pub(super) fn add(&mut self, lease: LeaseId, ttl: Duration, now: Instant) {
        self.leases.insert(lease, Lease { ttl, ends: now + ttl, keys: BTreeSet::new() });
    }

    pub(super) fn contains(&self, lease: LeaseId) -> bool {
        self.leases.contains_key(&lease)
    }

    /// False if there is no such lease.
    pub(super) fn renew(&mut self, lease: LeaseId, now: Instant) -> bool {
        match self.leases.get_mut(&lease) {
            Some(lease) => {
                lease.ends = now + lease.ttl;
                true
            }
            None => false,
        }
    }

    /// The key hangs on this lease from now on, or on none.
    pub(super) fn attach(&mut self, key: &str, lease: Option<LeaseId>) {
        if let Some(old) = self.by_key.remove(key)
            && let Some(old) = self.leases.get_mut(&old)
        {
            old.keys.remove(key);
        }
        if let Some(id) = lease
            && let Some(lease) = self.leases.get_mut(&id)
        {
            lease.keys.insert(key.to_owned());
            self.by_key.insert(key.to_owned(), id);
        }
    }

    /// Keys that hang on a lease.
    pub(super) fn keys(&self, lease: LeaseId) -> Vec<String> {
        self.leases.get(&lease).map(|l| l.keys.iter().cloned().collect()).unwrap_or_default()
    }

    pub(super) fn remove(&mut self, lease: LeaseId) {
        for key in self.leases.remove(&lease).map(|l| l.keys).unwrap_or_default() {
            self.by_key.remove(&key);
        }
    }

    /// Leases that have run out.
    pub(super) fn ended(&self, now: Instant) -> Vec<LeaseId> {
        self.leases.iter().filter(|(_, lease)| lease.ends <= now).map(|(id, _)| *id).collect()
    }

    /// When the next one runs out.
    pub(super) fn next_end(&self) -> Option<Instant> {
        self.leases.values().map(|lease| lease.ends).min()
    }
}
