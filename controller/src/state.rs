//! The task that keeps the snapshot: it watches first, then lists, then takes up one revision after the other; after a
//! gap it lists again. It is the only writer; readers get an immutable snapshot that is whole at its revision.
//!
//! ```text
//! Store.watch ─> task ─> watch<Arc<Snapshot>> ─> snapshot(), wait_for()
//!                  └──> one slot a subscriber, merged until it is fetched ─> Subscription::next()
//! ```

mod follow;
mod subscription;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};

use causeway_proto::Revision;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use crate::keys::RecordKey;
use crate::snapshot::Snapshot;
use crate::store::{Store, StoreError};

pub use subscription::Subscription;

/// Which records may differ from what a subscriber saw last.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Changes {
    /// Any: the first message, and after a gap.
    Everything,
    /// These and no others.
    Records(BTreeSet<RecordKey>),
}

/// A newer snapshot and what changed in it since the message before.
#[derive(Debug, Clone)]
pub struct SnapshotChange {
    /// The store's content now. It may already show changes that the next message names.
    pub snapshot: Arc<Snapshot>,
    /// What to look at.
    pub changes: Changes,
}

/// The waited-for revision did not come: the store's task has ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("the controller is stopping")]
pub struct Stopped;

/// The current snapshot, kept up to date until the token given to [`State::start`] is cancelled. Cheap to clone.
#[derive(Debug, Clone)]
pub struct State {
    shared: Arc<Shared>,
    snapshot: watch::Receiver<Arc<Snapshot>>,
}

/// What the task tells besides the snapshot.
#[derive(Debug, Default)]
struct Shared {
    connected: AtomicBool,
    undecodable: AtomicUsize,
    subscribers: subscription::Subscribers,
}

impl State {
    /// Reads the whole store once, then follows it in a task of its own. Fails if the store cannot be read now: start
    /// again later.
    pub async fn start(store: Arc<dyn Store>, cancel: CancellationToken) -> Result<State, StoreError> {
        let shared = Arc::new(Shared::default());
        let (follower, snapshot) = follow::Follower::start(store, shared.clone()).await?;
        tokio::spawn(follower.run(cancel));
        Ok(State { shared, snapshot })
    }

    /// The store's content as last seen.
    pub fn snapshot(&self) -> Arc<Snapshot> {
        self.snapshot.borrow().clone()
    }

    /// Changes from now on; the first message says [`Changes::Everything`].
    pub fn subscribe(&self) -> Subscription {
        self.shared.subscribers.add(self.snapshot.clone())
    }

    /// A snapshot that shows this revision or a later one. The revision must be that of a transaction that wrote a
    /// record: others are not followed. Set a deadline around it: the store may be away.
    pub async fn wait_for(&self, revision: Revision) -> Result<Arc<Snapshot>, Stopped> {
        let mut snapshot = self.snapshot.clone();
        let seen = snapshot.wait_for(|s| s.revision >= revision).await;
        seen.map(|s| s.clone()).map_err(|_| Stopped)
    }

    /// A snapshot later than the one of `revision`.
    pub async fn wait_after(&self, revision: Revision) -> Result<Arc<Snapshot>, Stopped> {
        self.wait_for(Revision(revision.0 + 1)).await
    }

    /// False while the connection to the store is lost: the snapshot may be old.
    pub fn is_connected(&self) -> bool {
        self.shared.connected.load(Ordering::Relaxed)
    }

    /// How many values of the store cannot be read. They are logged and left out.
    pub fn undecodable(&self) -> usize {
        self.shared.undecodable.load(Ordering::Relaxed)
    }
}
