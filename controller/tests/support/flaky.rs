//! A store that goes away and comes back when a test says so.

use std::sync::Arc;
use std::time::Duration;

use causeway_controller::store::{
    FileStore, KeyValue, LeaseId, Listing, Pages, Store, StoreError, Txn, TxnOutcome, WatchEvent,
};
use causeway_proto::Revision;
use tokio::sync::{mpsc, watch};

/// The embedded store behind a switch.
#[derive(Debug)]
pub(crate) struct FlakyStore {
    inner: FileStore,
    up: watch::Sender<bool>,
}

impl FlakyStore {
    pub(crate) fn new(inner: FileStore) -> Arc<FlakyStore> {
        Arc::new(FlakyStore { inner, up: watch::channel(true).0 })
    }

    pub(crate) fn set_up(&self, up: bool) {
        self.up.send_replace(up);
    }

    fn check(&self) -> Result<(), StoreError> {
        if *self.up.borrow() {
            return Ok(());
        }
        Err(StoreError::Unavailable { store: "flaky".into(), reason: "the test took it away".into() })
    }
}

#[tonic::async_trait]
impl Store for FlakyStore {
    fn name(&self) -> String {
        "flaky".into()
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
        self.inner.txn(txn).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<mpsc::Receiver<WatchEvent>, StoreError> {
        self.check()?;
        let mut events = self.inner.watch(prefix, after).await?;
        let (sender, receiver) = mpsc::channel(16);
        let mut up = self.up.subscribe();
        tokio::spawn(async move {
            loop {
                let event = tokio::select! {
                    _ = up.changed() => match *up.borrow_and_update() {
                        true => WatchEvent::Connected,
                        false => WatchEvent::Disconnected,
                    },
                    event = events.recv(), if *up.borrow() => match event {
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
