//! A store for one test.

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_controller::store::{
    Compare, EtcdOptions, EtcdStore, FileStore, Store, Txn, TxnOutcome, WatchEvent, Write,
};
use causeway_proto::Revision;
use causeway_tests::Etcd;
use causeway_tests::etcd::EtcdVersion;
use tokio::sync::mpsc;

/// Longest wait for something that should happen soon.
pub(crate) const SOON: Duration = Duration::from_secs(20);

/// Where a store is.
pub(crate) enum Rig {
    File(tempfile::TempDir),
    Etcd(Box<Etcd>),
}

impl Rig {
    pub(crate) fn file() -> Result<Rig> {
        Ok(Rig::File(tempfile::tempdir()?))
    }

    pub(crate) async fn etcd(version: EtcdVersion) -> Result<Rig> {
        Ok(Rig::Etcd(Box::new(Etcd::start(version).await?)))
    }

    /// A handle of its own where the store can have several.
    pub(crate) async fn open(&self) -> Result<Arc<dyn Store>> {
        Ok(match self {
            Rig::File(directory) => Arc::new(FileStore::open(directory.path().join("state")).await?),
            Rig::Etcd(etcd) => Arc::new(EtcdStore::new(EtcdOptions::new([etcd.endpoint()])).await?),
        })
    }

    /// Two handles on keys that no other case uses.
    pub(crate) async fn open_case(&self, case: u32) -> Result<[Arc<dyn Store>; 2]> {
        Ok(match self {
            Rig::File(directory) => {
                let store: Arc<dyn Store> =
                    Arc::new(FileStore::open(directory.path().join(format!("case-{case}"))).await?);
                [store.clone(), store]
            }
            Rig::Etcd(etcd) => {
                let options =
                    EtcdOptions { prefix: format!("/case-{case}/"), ..EtcdOptions::new([etcd.endpoint()]) };
                [Arc::new(EtcdStore::new(options.clone()).await?), Arc::new(EtcdStore::new(options).await?)]
            }
        })
    }

    /// So many handles: clones of one where the store can only have one.
    pub(crate) async fn open_many(&self, n: usize) -> Result<Vec<Arc<dyn Store>>> {
        let mut stores = vec![self.open().await?];
        while stores.len() < n {
            stores.push(match self {
                Rig::File(_) => stores[0].clone(),
                Rig::Etcd(_) => self.open().await?,
            });
        }
        Ok(stores)
    }
}

pub(crate) fn put(key: &str, value: impl AsRef<[u8]>) -> Write {
    Write::Put { key: key.to_owned(), value: value.as_ref().to_vec(), lease: None }
}

pub(crate) fn delete(key: &str) -> Write {
    Write::Delete(key.to_owned())
}

pub(crate) fn txn(compares: Vec<Compare>, writes: Vec<Write>) -> Txn {
    Txn { compares, writes }
}

/// Writes without conditions.
pub(crate) async fn write(store: &dyn Store, writes: Vec<Write>) -> Result<Revision> {
    match store.txn(txn(Vec::new(), writes)).await? {
        TxnOutcome::Committed(at) => Ok(at),
        TxnOutcome::Conflict(at) => bail!("a transaction without compares lost to {at:?}"),
    }
}

/// The next event, soon.
pub(crate) async fn event(events: &mut mpsc::Receiver<WatchEvent>) -> Result<WatchEvent> {
    let next = tokio::time::timeout(SOON, events.recv()).await.context("no event came")?;
    next.context("the watch ended")
}

/// The next changes: revision, keys with values as text, and deleted keys in brackets.
pub(crate) async fn changes(events: &mut mpsc::Receiver<WatchEvent>) -> Result<(Revision, Vec<String>)> {
    match event(events).await? {
        WatchEvent::Changes { revision, changes } => {
            let text = |change: &Result<causeway_controller::store::KeyValue, String>| match change {
                Ok(entry) => format!("{}={}", entry.key, String::from_utf8_lossy(&entry.value)),
                Err(key) => format!("[{key}]"),
            };
            Ok((revision, changes.iter().map(text).collect()))
        }
        other => bail!("{other:?} came and not changes"),
    }
}
