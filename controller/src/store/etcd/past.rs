//! Whether etcd still holds what it held before the connection was lost. It may have been restored from an older copy: its
//! revisions then begin again at the copy's, and everything that compares revisions (whoever waits for one, caches, agents)
//! would take the old for the new. So they are made to go on above every revision that was seen here, by writes that change
//! nothing, the ambiguous ones are compacted away, and every watch asks its reader to list anew.
//!
//! `etcdutl snapshot restore --bump-revision N --mark-compacted` does the same at once, however far the copy is behind.

use std::sync::atomic::{AtomicI64, Ordering};
use std::sync::{Mutex, PoisonError};

use causeway_proto::Revision;
use etcd_client::GetOptions;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::timeout;

use super::call::{Connection, DEADLINE, classify, revision};
use crate::store::StoreError;

/// The key that is written, behind the prefix.
const RAISED: &str = "raised";
/// Writes under way at once while revisions are raised.
const AT_ONCE: i64 = 256;

/// A value that etcd had at a revision.
#[derive(Debug, Clone)]
struct Known {
    key: Vec<u8>,
    value: Vec<u8>,
    revision: i64,
}

/// What is known of etcd's past.
#[derive(Debug)]
pub(super) struct Past {
    /// The highest revision that etcd has told.
    seen: AtomicI64,
    /// The last value that a watch has told.
    last: Mutex<Option<Known>>,
    /// Counts how often etcd turned out to be another one.
    turns: watch::Sender<u64>,
    /// One looks at a time.
    looking: tokio::sync::Mutex<()>,
}

impl Default for Past {
    fn default() -> Self {
        Past {
            seen: AtomicI64::new(0),
            last: Mutex::default(),
            turns: watch::Sender::new(0),
            looking: tokio::sync::Mutex::default(),
        }
    }
}

impl Past {
    /// Notes a revision that etcd is at.
    pub(super) fn saw(&self, at: i64) -> Revision {
        self.seen.fetch_max(at, Ordering::Relaxed);
        revision(at)
    }

    /// Notes a value that a watch has told.
    pub(super) fn saw_value(&self, key: &[u8], value: &[u8], revision: i64) {
        let known = Known { key: key.to_vec(), value: value.to_vec(), revision };
        *self.last.lock().unwrap_or_else(PoisonError::into_inner) = Some(known);
    }

    /// Tells when etcd turned out to be another one.
    pub(super) fn turns(&self) -> watch::Receiver<u64> {
        self.turns.subscribe()
    }

    fn last(&self) -> Option<Known> {
        self.last.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Connection {
    /// To be called after a loss: looks whether etcd is still what it was, and if not, raises its revisions and tells all
    /// watches. Gives the revision that it is at then.
    pub(super) async fn look_back(&self, prefix: &str) -> Result<i64, StoreError> {
        let _one = self.past.looking.lock().await;
        let (seen, last) = (self.past.seen.load(Ordering::Relaxed), self.past.last());
        let now = self.now(prefix).await?;
        let same = match last {
            _ if now < seen => false,
            Some(last) => self.still_has(last).await?,
            None => true,
        };
        if same {
            return Ok(now);
        }
        tracing::warn!(
            store = self.name,
            revision = now,
            seen,
            "the store was restored from an older copy: its revisions are made to go on above those seen"
        );
        let now = self.raise(prefix, seen, now).await?;
        *self.past.last.lock().unwrap_or_else(PoisonError::into_inner) = None;
        self.past.turns.send_modify(|turns| *turns += 1);
        Ok(now)
    }

    /// The revision that etcd is at, as its members agree.
    pub(super) async fn now(&self, prefix: &str) -> Result<i64, StoreError> {
        let count = |client: etcd_client::Client| {
            let prefix = prefix.to_owned();
            async move { client.kv_client().get(prefix, Some(GetOptions::new().with_count_only())).await }
        };
        Ok(self.repeat(count).await?.header().map_or(0, |header| header.revision()))
    }

    /// Of what was compacted nothing can be said: the watch itself finds that.
    async fn still_has(&self, known: Known) -> Result<bool, StoreError> {
        let then = GetOptions::new().with_revision(known.revision);
        let got = self.repeat(|client| {
            let (key, then) = (known.key.clone(), then.clone());
            async move { client.kv_client().get(key, Some(then)).await }
        });
        match got.await {
            Ok(got) => Ok(got
                .kvs()
                .first()
                .is_some_and(|kv| kv.mod_revision() == known.revision && kv.value() == known.value)),
            Err(StoreError::Compacted { .. }) => Ok(true),
            Err(error) => Err(error),
        }
    }

    /// Writes until etcd is at a revision above `seen`, and forgets what came before.
    async fn raise(&self, prefix: &str, seen: i64, mut now: i64) -> Result<i64, StoreError> {
        while now <= seen {
            let mut writes = JoinSet::new();
            for _ in 0..(seen.saturating_sub(now).saturating_add(1)).min(AT_ONCE) {
                let (client, key) = (self.client_now().await?, format!("{prefix}{RAISED}"));
                writes.spawn(async move { client.kv_client().put(key, seen.to_string(), None).await });
            }
            let all = timeout(DEADLINE, writes.join_all()).await;
            let all = all.map_err(|_| self.unavailable("its revisions cannot be raised in time"))?;
            for written in all {
                written.map_err(|error| classify(&self.name, &error))?;
            }
            now = self.now(prefix).await?;
        }
        // Revisions up to here speak of two pasts: whoever wants to go on from one has to list.
        let compact = self.repeat(|client| async move { client.kv_client().compact(now, None).await });
        match compact.await {
            Ok(_) | Err(StoreError::Compacted { .. }) => {}
            Err(error) => tracing::warn!(store = self.name, %error, "not compacted after a restore"),
        }
        self.past.saw(now);
        Ok(now)
    }
}
