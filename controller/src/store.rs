//! The store: an ordered map of keys to values with revisions, transactions, watches and leases. It is the only lock
//! between controllers: uniqueness is a compare inside one transaction.

mod etcd;
mod file;

use std::time::Duration;

use causeway_proto::Revision;
use tokio::sync::mpsc;

pub use etcd::{EtcdOptions, EtcdStore};
pub use file::FileStore;

/// What a store cannot do now, or ever.
#[derive(Debug, thiserror::Error)]
pub enum StoreError {
    /// Not reachable, no quorum, disk full: try again later. The text says which store and why.
    #[error("store {store} is not available: {reason}")]
    Unavailable {
        /// Which store, for example "etcd 127.0.0.1:2379" or "file /var/lib/causeway/state.redb".
        store: String,
        /// What went wrong.
        reason: String,
    },
    /// A watch or list asked for a revision that was compacted away.
    #[error("revision {asked} is gone, the oldest known is {oldest}")]
    Compacted {
        /// The one asked for.
        asked: Revision,
        /// The oldest that can still be asked for.
        oldest: Revision,
    },
    /// The lease is unknown or has run out.
    #[error("lease {0:?} has expired")]
    LeaseExpired(LeaseId),
    /// More operations than one transaction takes ([`Txn::MAX_OPS`]).
    #[error("transaction of {0} operations is over the limit of {limit}", limit = Txn::MAX_OPS)]
    TooLarge(usize),
    /// A fault of the store or of our use of it.
    #[error("store {store}: {reason}")]
    Internal {
        /// Which store.
        store: String,
        /// What went wrong.
        reason: String,
    },
}

/// A key and its value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key: UTF-8 text with `/` between parts.
    pub key: String,
    /// The value.
    pub value: Vec<u8>,
    /// Revision of the transaction that wrote this value.
    pub revision: Revision,
}

/// A condition of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Compare {
    /// The key has no value.
    Absent(String),
    /// The key's value was written by the transaction of this revision.
    Unchanged(String, Revision),
    /// The key has a value, whichever.
    Present(String),
    /// No key with this prefix has a value.
    NoneBelow(String),
}

/// A write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Write {
    /// Sets a value.
    Put {
        /// The key.
        key: String,
        /// The value.
        value: Vec<u8>,
        /// The key vanishes with this lease.
        lease: Option<LeaseId>,
    },
    /// Removes a key; missing is fine.
    Delete(String),
}

/// All writes happen, at one revision, if all compares hold; else none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Txn {
    /// The conditions.
    pub compares: Vec<Compare>,
    /// The writes; no key twice.
    pub writes: Vec<Write>,
}

impl Txn {
    /// Compares or writes at most, each: etcd's default `--max-txn-ops`.
    pub const MAX_OPS: usize = 128;
}

/// What became of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum TxnOutcome {
    /// All writes are durable, at this revision.
    Committed(Revision),
    /// Nothing was written: these compares (by index, ascending, at least one) did not hold.
    Conflict(Vec<usize>),
}

/// A lease; keys put with it vanish when it is revoked or not kept alive.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct LeaseId(pub i64);

/// All changes of one revision below the watched prefix, in one message so that nobody sees half a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum WatchEvent {
    /// Changes of one transaction.
    Changes {
        /// Its revision.
        revision: Revision,
        /// Keys with new values (`Ok`) and keys that are gone (`Err`).
        changes: Vec<Result<KeyValue, String>>,
    },
    /// There was a gap (compaction): list again, then go on with the watch's later events.
    Relist,
    /// The connection to the store is lost; events resume later without a gap, or with `Relist`.
    Disconnected,
    /// The connection is back.
    Connected,
}

/// A consistent listing.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Listing {
    /// All keys below the prefix, ordered.
    pub entries: Vec<KeyValue>,
    /// The revision they show.
    pub revision: Revision,
}

/// A consistent listing in pieces: the revision that all of them show, and the pieces in the order of keys.
#[derive(Debug)]
pub struct Pages {
    /// The revision.
    pub revision: Revision,
    /// The pieces; it ends with an error if the rest could not be read, and closes at the end.
    pub pages: mpsc::Receiver<Result<Vec<KeyValue>, StoreError>>,
}

/// The two stores, etcd and an embedded file, do the same; one suite of tests says so.
#[tonic::async_trait]
pub trait Store: Send + Sync + std::fmt::Debug + 'static {
    /// Name for logs and errors.
    fn name(&self) -> String;

    /// One key's value.
    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError>;

    /// All keys with this prefix at one revision, in pieces: for listings too large to be held twice.
    async fn pages(&self, prefix: &str) -> Result<Pages, StoreError>;

    /// All keys with this prefix at one revision.
    async fn list(&self, prefix: &str) -> Result<Listing, StoreError> {
        let Pages { revision, mut pages } = self.pages(prefix).await?;
        let mut entries = Vec::new();
        while let Some(page) = pages.recv().await {
            entries.extend(page?);
        }
        Ok(Listing { entries, revision })
    }

    /// Keys from `first` up to `end`, without `end`, in order, at most `most` of them.
    async fn range(&self, first: &str, end: &str, most: usize) -> Result<Listing, StoreError>;

    /// Commits a transaction. After [`StoreError::Unavailable`] it is not known whether it was committed: it may have
    /// been, if the answer was lost.
    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError>;

    /// Events below `prefix` with revisions greater than `after`, in order, each revision once, until the receiver is
    /// dropped. The watch reconnects and resumes by itself; `after` compacted gives `Relist` first.
    async fn watch(&self, prefix: &str, after: Revision) -> Result<mpsc::Receiver<WatchEvent>, StoreError>;

    /// A lease that lives `ttl` after its last renewal.
    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError>;

    /// Renews a lease once.
    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// Ends a lease: its keys vanish now. Unknown is fine.
    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError>;

    /// The current revision.
    async fn revision(&self) -> Result<Revision, StoreError>;
}
