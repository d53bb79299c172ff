//! The snapshot's writer.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;

use causeway_proto::Revision;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use super::{Changes, Shared};
use crate::keys::{INTENT, RecordKey};
use crate::snapshot::Snapshot;
use crate::store::{KeyValue, Pages, Store, StoreError, WatchEvent};

/// Pause before the store is listed again when that failed.
const RETRY: Duration = Duration::from_millis(250);
/// Revisions taken up at most before the snapshot is published, while more wait.
const BATCH: usize = 64;

/// Owner of the snapshot.
#[derive(Debug)]
pub(super) struct Follower {
    store: Arc<dyn Store>,
    shared: Arc<Shared>,
    events: mpsc::Receiver<WatchEvent>,
    snapshot: Snapshot,
    publish: watch::Sender<Arc<Snapshot>>,
    /// Keys whose values cannot be read, with the revision of the value that was logged.
    unread: BTreeMap<String, Revision>,
}

/// What a batch of events asks for.
enum Step {
    Changed(BTreeSet<RecordKey>),
    Relist,
    Ended,
}

impl Follower {
    pub(super) async fn start(
        store: Arc<dyn Store>,
        shared: Arc<Shared>,
    ) -> Result<(Follower, watch::Receiver<Arc<Snapshot>>), StoreError> {
        let (events, snapshot, unread) = begin(store.as_ref()).await?;
        let (publish, receiver) = watch::channel(Arc::new(snapshot.clone()));
        shared.connected.store(true, Ordering::Relaxed);
        shared.undecodable.store(unread.len(), Ordering::Relaxed);
        Ok((Follower { store, shared, events, snapshot, publish, unread }, receiver))
    }

    pub(super) async fn run(mut self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.follow()).await;
        self.shared.subscribers.close();
    }

    async fn follow(&mut self) {
        loop {
            match self.step().await {
                Step::Changed(records) if records.is_empty() => self.publish_revision(),
                Step::Changed(records) => self.publish(Changes::Records(records)),
                Step::Relist => self.relist().await,
                Step::Ended => self.restart().await,
            }
        }
    }

    /// Takes up what waits, at least one event.
    async fn step(&mut self) -> Step {
        let mut changed = BTreeSet::new();
        let mut next = self.events.recv().await;
        for _ in 0..BATCH {
            match next {
                Some(WatchEvent::Changes { revision, changes }) => {
                    self.take_up(revision, changes, &mut changed);
                }
                Some(WatchEvent::Relist) => return Step::Relist,
                Some(WatchEvent::Disconnected) => self.set_connected(false),
                Some(WatchEvent::Connected) => self.set_connected(true),
                None => return Step::Ended,
            }
            match self.events.try_recv() {
                Ok(event) => next = Some(event),
                Err(mpsc::error::TryRecvError::Empty) => break,
                // What was taken up so far is told first; the next step finds the end again.
                Err(mpsc::error::TryRecvError::Disconnected) => break,
            }
        }
        Step::Changed(changed)
    }

    fn take_up(
        &mut self,
        revision: Revision,
        changes: Vec<Result<KeyValue, String>>,
        changed: &mut BTreeSet<RecordKey>,
    ) {
        // Events that the listing already showed.
        if revision <= self.snapshot.revision {
            return;
        }
        for change in changes {
            let record = match &change {
                Ok(entry) => take_up(&mut self.snapshot, &mut self.unread, entry),
                Err(key) => {
                    self.unread.remove(key);
                    self.snapshot.apply(key, None).ok()
                }
            };
            changed.extend(record);
        }
        self.snapshot.revision = revision;
    }

    fn set_connected(&self, connected: bool) {
        if self.shared.connected.swap(connected, Ordering::Relaxed) != connected {
            let store = self.store.name();
            if connected {
                tracing::info!(store, "store is back");
            } else {
                tracing::warn!(store, "connection to the store is lost, the last content is used");
            }
        }
    }

    fn publish(&mut self, changes: Changes) {
        self.publish_revision();
        self.shared.subscribers.publish(&changes);
    }

    fn publish_revision(&mut self) {
        self.shared.undecodable.store(self.unread.len(), Ordering::Relaxed);
        if self.publish.borrow().revision != self.snapshot.revision {
            self.publish.send_replace(Arc::new(self.snapshot.clone()));
        }
    }

    /// After a gap: the events that follow on the same watch are those after the gap.
    async fn relist(&mut self) {
        tracing::info!(store = self.store.name(), "changes were missed, the store is read anew");
        (self.snapshot, self.unread) = loop {
            match list(self.store.as_ref()).await {
                Ok(listed) => break listed,
                Err(error) => {
                    tracing::warn!(%error, "store cannot be listed, trying again");
                    tokio::time::sleep(RETRY).await;
                }
            }
        };
        self.publish(Changes::Everything);
    }

    /// The watch itself ended, which it should not.
    async fn restart(&mut self) {
        self.set_connected(false);
        loop {
            tokio::time::sleep(RETRY).await;
            match begin(self.store.as_ref()).await {
                Ok((events, snapshot, unread)) => {
                    (self.events, self.snapshot, self.unread) = (events, snapshot, unread);
                    self.set_connected(true);
                    return self.publish(Changes::Everything);
                }
                Err(error) => tracing::warn!(%error, "store cannot be watched, trying again"),
            }
        }
    }
}

type Begin = (mpsc::Receiver<WatchEvent>, Snapshot, BTreeMap<String, Revision>);

/// Watch first, then list: nothing falls between the two.
async fn begin(store: &dyn Store) -> Result<Begin, StoreError> {
    let after = store.revision().await?;
    let events = store.watch(INTENT, after).await?;
    let (snapshot, unread) = list(store).await?;
    Ok((events, snapshot, unread))
}

/// The store's content, built piece by piece: text and records of a million ports are never held at the same time.
async fn list(store: &dyn Store) -> Result<(Snapshot, BTreeMap<String, Revision>), StoreError> {
    let Pages { revision, mut pages } = store.pages(INTENT).await?;
    let mut snapshot = Snapshot::default();
    let mut unread = BTreeMap::new();
    while let Some(page) = pages.recv().await {
        for entry in page? {
            take_up(&mut snapshot, &mut unread, &entry);
        }
    }
    snapshot.revision = revision;
    Ok((snapshot, unread))
}

/// One entry into the snapshot. A value that cannot be read is logged once and left out.
fn take_up(
    snapshot: &mut Snapshot,
    unread: &mut BTreeMap<String, Revision>,
    entry: &KeyValue,
) -> Option<RecordKey> {
    match snapshot.apply(&entry.key, Some((&entry.value, entry.revision))) {
        Ok(record) => {
            unread.remove(&entry.key);
            Some(record)
        }
        Err(error) => {
            if unread.insert(entry.key.clone(), entry.revision) != Some(entry.revision) {
                tracing::error!(key = entry.key, revision = %entry.revision, %error, "record left out");
            }
            None
        }
    }
}
