//! One controller's way to a store, which can be cut before or after a transaction, as a crash does.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::time::Duration;

use causeway_controller::store::{
    KeyValue, LeaseId, Listing, Pages, Store, StoreError, Txn, TxnOutcome, WatchEvent, Write,
};
use causeway_proto::Revision;
use tokio::sync::{Notify, mpsc};

/// When it is cut.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Death {
    /// At the so manieth transaction that writes a move; 1 is the first.
    pub(crate) at: usize,
    /// It is committed, and nobody learns it.
    pub(crate) after: bool,
}

/// A store as one controller sees it.
#[derive(Debug)]
pub(crate) struct MortalStore {
    inner: Arc<dyn Store>,
    death: Option<Death>,
    moves: AtomicUsize,
    dead: AtomicBool,
    died: Notify,
}

impl MortalStore {
    pub(crate) fn new(inner: Arc<dyn Store>, death: Option<Death>) -> Arc<MortalStore> {
        Arc::new(MortalStore {
            inner,
            death,
            moves: AtomicUsize::new(0),
            dead: AtomicBool::new(false),
            died: Notify::new(),
        })
    }

    /// Waits until it was cut.
    pub(crate) async fn died(&self) {
        self.died.notified().await;
    }

    fn die(&self) -> StoreError {
        self.dead.store(true, Ordering::SeqCst);
        self.died.notify_one();
        self.gone()
    }

    fn gone(&self) -> StoreError {
        StoreError::Unavailable { store: self.inner.name(), reason: "the controller died".into() }
    }

    fn check(&self) -> Result<(), StoreError> {
        if self.dead.load(Ordering::SeqCst) { Err(self.gone()) } else { Ok(()) }
    }
}

#[tonic::async_trait]
impl Store for MortalStore {
    fn name(&self) -> String {
        self.inner.name()
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.check()?;
        self.inner.get(key).await
    }

    async fn pages(&self, prefix: &str) -> Result<Pages, StoreError> {
        self.check()?;
        self.inner.pages(prefix).await
    }

    async fn range(&self, first: &str, end: &str, most: usize) -> Result<Listing, StoreError> {
        self.check()?;
        self.inner.range(first, end, most).await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        self.check()?;
        let moves = |write: &Write| match write {
            Write::Put { key, .. } => key.starts_with("intent/move/"),
            Write::Delete(_) => false,
        };
        let Some(death) = self.death.filter(|_| txn.writes.iter().any(moves)) else {
            return self.inner.txn(txn).await;
        };
        let count = self.moves.fetch_add(1, Ordering::SeqCst) + 1;
        if count == death.at && !death.after {
            return Err(self.die());
        }
        let outcome = self.inner.txn(txn).await;
        if count == death.at {
            return Err(self.die());
        }
        outcome
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<mpsc::Receiver<WatchEvent>, StoreError> {
        self.check()?;
        self.inner.watch(prefix, after).await
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.check()?;
        self.inner.grant_lease(ttl).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.check()?;
        self.inner.keep_alive(lease).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.check()?;
        self.inner.revoke_lease(lease).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.check()?;
        self.inner.revision().await
    }
}
