//! The store in one file, for a single controller: nothing else needs to be installed. One thread owns the file; what
//! waits for it is committed together, so that many requests share one flush to disk.
//!
//! ```text
//! get, pages ─> read transactions of their own (blocking threads)
//! txn, watch, leases ─> queue ─> worker thread ─> one durable commit a round ─> replies, history ─> watchers
//! ```

mod disk;
mod history;
mod leases;
mod worker;

use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use causeway_proto::Revision;
use tokio::sync::{Semaphore, mpsc, oneshot};

use super::{KeyValue, LeaseId, Listing, Pages, Store, StoreError, Txn, TxnOutcome, WatchEvent};
use disk::Disk;
use worker::Command;

/// Requests that wait for the worker; more wait outside.
const QUEUE: usize = 4_096;
/// Keys in one page of a listing.
const PAGE: usize = 4_000;
/// Watch events that wait for their reader; later ones wait in the history.
const WATCH_QUEUE: usize = 1024;

/// A store in a file. Dropping the last handle closes it.
#[derive(Debug)]
pub struct FileStore {
    name: String,
    disk: Arc<Disk>,
    room: Arc<Semaphore>,
    commands: Option<std::sync::mpsc::Sender<Command>>,
    worker: Mutex<Option<JoinHandle<()>>>,
}

impl FileStore {
    /// Opens the file, or makes it. Fails if another process has it open, or if it is not such a file.
    pub async fn open(path: impl AsRef<Path>) -> Result<FileStore, StoreError> {
        let path = path.as_ref().to_path_buf();
        let name = format!("file {}", path.display());
        let opened = tokio::task::spawn_blocking({
            let name = name.clone();
            move || {
                let disk = Arc::new(Disk::open(name, path)?);
                worker::Worker::new(disk.clone()).map(|worker| (disk, worker))
            }
        });
        let failed = |reason: String| StoreError::Internal { store: name.clone(), reason };
        let (disk, worker) = opened.await.map_err(|e| failed(format!("cannot open: {e}")))??;
        let (commands, queue) = std::sync::mpsc::channel();
        let thread = std::thread::Builder::new().name("file-store".to_owned());
        let thread = thread.spawn(move || worker.run(&queue));
        let worker = thread.map_err(|e| failed(format!("cannot start its thread: {e}")))?;
        Ok(FileStore {
            name,
            disk,
            room: Arc::new(Semaphore::new(QUEUE)),
            commands: Some(commands),
            worker: Mutex::new(Some(worker)),
        })
    }

    async fn ask<T>(
        &self,
        command: impl FnOnce(oneshot::Sender<Result<T, StoreError>>) -> Command,
    ) -> Result<T, StoreError> {
        let stopped = || StoreError::Internal { store: self.name.clone(), reason: "it is closed".to_owned() };
        let _room = self.room.acquire().await.map_err(|_| stopped())?;
        let (reply, answer) = oneshot::channel();
        let commands = self.commands.as_ref().ok_or_else(stopped)?;
        commands.send(command(reply)).map_err(|_| stopped())?;
        answer.await.map_err(|_| stopped())?
    }

    /// Reads in a blocking thread.
    async fn read<T: Send + 'static>(
        &self,
        read: impl FnOnce(&Disk) -> Result<T, StoreError> + Send + 'static,
    ) -> Result<T, StoreError> {
        let disk = self.disk.clone();
        let done = tokio::task::spawn_blocking(move || read(&disk)).await;
        done.map_err(|e| StoreError::Internal { store: self.name.clone(), reason: e.to_string() })?
    }
}

impl Drop for FileStore {
    fn drop(&mut self) {
        drop(self.commands.take());
        let worker = self.worker.lock().unwrap_or_else(PoisonError::into_inner).take();
        if let Some(worker) = worker
            && worker.join().is_err()
        {
            tracing::error!(store = self.name, "the store's thread panicked");
        }
    }
}

#[tonic::async_trait]
impl Store for FileStore {
    fn name(&self) -> String {
        self.name.clone()
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let key = key.to_owned();
        self.read(move |disk| disk.get(&key)).await
    }

    async fn pages(&self, prefix: &str) -> Result<Pages, StoreError> {
        let (send, pages) = mpsc::channel(2);
        let (opened, revision) = oneshot::channel();
        let (disk, prefix) = (self.disk.clone(), prefix.to_owned());
        tokio::task::spawn_blocking(move || match disk.reading() {
            Err(error) => drop(opened.send(Err(error))),
            Ok((reader, revision)) => {
                // A failed send means that the caller went away.
                let _ = opened.send(Ok(revision));
                let _ = reader.pages(&prefix, PAGE, |page| send.blocking_send(page).is_ok());
            }
        });
        let stopped =
            || StoreError::Internal { store: self.name.clone(), reason: "reading stopped".to_owned() };
        Ok(Pages { revision: revision.await.map_err(|_| stopped())??, pages })
    }

    async fn range(&self, first: &str, end: &str, most: usize) -> Result<Listing, StoreError> {
        let (first, end) = (first.to_owned(), end.to_owned());
        self.read(move |disk| {
            let (reader, revision) = disk.reading()?;
            Ok(Listing { entries: reader.range(&first, &end, most)?, revision })
        })
        .await
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let most = txn.compares.len().max(txn.writes.len());
        if most > Txn::MAX_OPS {
            return Err(StoreError::TooLarge(most));
        }
        self.ask(|reply| Command::Txn { txn, reply }).await
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<mpsc::Receiver<WatchEvent>, StoreError> {
        let (events, receiver) = mpsc::channel(WATCH_QUEUE);
        let prefix = prefix.to_owned();
        self.ask(|reply| Command::Watch { prefix, after, events, reply }).await?;
        Ok(receiver)
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        self.ask(|reply| Command::Grant { ttl, reply }).await
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Command::KeepAlive { lease, reply }).await
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        self.ask(|reply| Command::Revoke { lease, reply }).await
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        self.read(|disk| disk.reading().map(|(_, revision)| revision)).await
    }
}
