//! A store behind a gate: it goes away and comes back when a test says so, or is cut at a transaction, as one that
//! crashes there sees it.

use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::Duration;

use causeway_controller::store::{
    KeyValue, LeaseId, Listing, Pages, Store, StoreError, Txn, TxnOutcome, WatchEvent, Write,
};
use causeway_proto::Revision;
use tokio::sync::{mpsc, watch};

/// A transaction at which the gate shuts by itself.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Cut {
    /// At the so manieth transaction that writes a move; 1 is the first.
    pub(crate) at: usize,
    /// It is committed, and nobody learns it.
    pub(crate) after: bool,
}

/// A store as one controller, or some, see it.
#[derive(Debug)]
pub(crate) struct GatedStore {
    inner: Arc<dyn Store>,
    open: watch::Sender<bool>,
    deaf: watch::Sender<bool>,
    slow: watch::Sender<bool>,
    kept: watch::Sender<usize>,
    cut: Option<Cut>,
    moves: AtomicUsize,
}

impl GatedStore {
    pub(crate) fn new(inner: Arc<dyn Store>) -> Arc<GatedStore> {
        GatedStore::cut_at(inner, None)
    }

    /// One that shuts at a transaction.
    pub(crate) fn cut_at(inner: Arc<dyn Store>, cut: Option<Cut>) -> Arc<GatedStore> {
        Arc::new(GatedStore {
            inner,
            open: watch::channel(true).0,
            deaf: watch::channel(false).0,
            slow: watch::channel(false).0,
            kept: watch::channel(0).0,
            cut,
            moves: AtomicUsize::new(0),
        })
    }

    pub(crate) fn set_open(&self, open: bool) {
        self.open.send_replace(open);
    }

    /// Everything can be asked and written, but nothing is heard of changes until it is over.
    pub(crate) fn set_deaf(&self, deaf: bool) {
        self.deaf.send_replace(deaf);
    }

    /// Answers about single keys are kept back, as they are when asked, until it is over.
    pub(crate) fn set_slow(&self, slow: bool) {
        self.slow.send_replace(slow);
    }

    /// Waits until an answer is kept back.
    pub(crate) async fn keeps_back(&self) {
        // The sender is ours: it does not end.
        let _ = self.kept.subscribe().wait_for(|kept| *kept > 0).await;
    }

    /// Waits until it is shut.
    pub(crate) async fn shut(&self) {
        // The sender is ours: it does not end.
        let _ = self.open.subscribe().wait_for(|open| !open).await;
    }

    fn gone(&self) -> StoreError {
        StoreError::Unavailable { store: self.inner.name(), reason: "the test took it away".into() }
    }

    fn check(&self) -> Result<(), StoreError> {
        if *self.open.borrow() { Ok(()) } else { Err(self.gone()) }
    }

    fn shut_now(&self) -> StoreError {
        self.set_open(false);
        self.gone()
    }
}

#[tonic::async_trait]
impl Store for GatedStore {
    fn name(&self) -> String {
        self.inner.name()
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        self.check()?;
        let entry = self.inner.get(key).await;
        if *self.slow.borrow() {
            self.kept.send_modify(|kept| *kept += 1);
            let _ = self.slow.subscribe().wait_for(|slow| !slow).await;
            self.kept.send_modify(|kept| *kept -= 1);
        }
        entry
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
        let Some(cut) = self.cut.filter(|_| txn.writes.iter().any(moves)) else {
            return self.inner.txn(txn).await;
        };
        let count = self.moves.fetch_add(1, Ordering::SeqCst) + 1;
        if count == cut.at && !cut.after {
            return Err(self.shut_now());
        }
        let outcome = self.inner.txn(txn).await;
        if count == cut.at {
            return Err(self.shut_now());
        }
        outcome
    }

    /// What happens while the gate is shut comes when it opens.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<mpsc::Receiver<WatchEvent>, StoreError> {
        self.check()?;
        let mut events = self.inner.watch(prefix, after).await?;
        let (sender, receiver) = mpsc::channel(16);
        let (mut open, mut deaf) = (self.open.subscribe(), self.deaf.subscribe());
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    changed = open.changed() => match changed.map(|()| *open.borrow_and_update()) {
                        Ok(true) => WatchEvent::Connected,
                        Ok(false) => WatchEvent::Disconnected,
                        Err(_) => return,
                    },
                    changed = deaf.changed() => match changed {
                        Ok(()) => continue,
                        Err(_) => return,
                    },
                    event = events.recv(), if *open.borrow() && !*deaf.borrow() => match event {
                        Some(event) => event,
                        None => return,
                    },
                };
                if sender.send(event).await.is_err() {
                    return;
                }
            }
        });
        Ok(receiver)
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
