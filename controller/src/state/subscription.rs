//! Changes to subscribers: each has one slot in which changes are merged until it fetches them. A slow subscriber thus
//! costs neither memory nor the others' time, and never misses anything.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError, Weak};

use tokio::sync::{Notify, watch};

use super::{Changes, SnapshotChange};
use crate::snapshot::Snapshot;

/// More changed records than this are told as "everything".
const MOST_RECORDS: usize = 100_000;

#[derive(Debug, Default)]
struct Slot {
    pending: Mutex<Pending>,
    news: Notify,
}

#[derive(Debug, Default)]
struct Pending {
    changes: Option<Changes>,
    closed: bool,
}

/// All slots.
#[derive(Debug, Default)]
pub(super) struct Subscribers(Mutex<Vec<Weak<Slot>>>);

/// One subscriber's view of the changes. Dropping it ends the subscription.
#[derive(Debug)]
pub struct Subscription {
    slot: Arc<Slot>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// Nothing that holds these locks can leave the content half changed.
fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Subscribers {
    pub(super) fn add(&self, snapshot: watch::Receiver<Arc<Snapshot>>) -> Subscription {
        let slot = Arc::new(Slot::default());
        lock(&slot.pending).changes = Some(Changes::Everything);
        let mut all = lock(&self.0);
        all.retain(|slot| slot.strong_count() > 0);
        all.push(Arc::downgrade(&slot));
        Subscription { slot, snapshot }
    }

    /// Tells everybody. The snapshot that shows the changes has been published before.
    pub(super) fn publish(&self, changes: &Changes) {
        for slot in self.slots() {
            lock(&slot.pending).merge(changes);
            slot.news.notify_one();
        }
    }

    /// There will be no more changes.
    pub(super) fn close(&self) {
        for slot in self.slots() {
            lock(&slot.pending).closed = true;
            slot.news.notify_one();
        }
    }

    fn slots(&self) -> Vec<Arc<Slot>> {
        lock(&self.0).iter().filter_map(Weak::upgrade).collect()
    }
}

impl Pending {
    fn merge(&mut self, new: &Changes) {
        match (&mut self.changes, new) {
            (Some(Changes::Everything), _) => {}
            (Some(Changes::Records(known)), Changes::Records(new)) => {
                known.extend(new.iter().cloned());
                if known.len() > MOST_RECORDS {
                    self.changes = Some(Changes::Everything);
                }
            }
            (changes, new) => *changes = Some(new.clone()),
        }
    }
}

impl Subscription {
    /// The next change; `None` when the controller stops. What happens while nobody asks is merged into one message.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Option<SnapshotChange> {
        loop {
            let (changes, closed) = {
                let mut pending = lock(&self.slot.pending);
                (pending.changes.take(), pending.closed)
            };
            if let Some(changes) = changes {
                let snapshot = self.snapshot.borrow().clone();
                return Some(SnapshotChange { snapshot, changes });
            }
            if closed || self.snapshot.has_changed().is_err() {
                return None;
            }
            self.slot.news.notified().await;
        }
    }
}
