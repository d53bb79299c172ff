//! The file: tables, their encoding, and opening it again after a failure. A failed write leaves redb unusable until
//! the file is opened anew, which shows the last commit.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};

use causeway_proto::Revision;
use redb::{
    Database, DatabaseError, ReadTransaction, ReadableDatabase, ReadableTable, Table, TableDefinition,
    TableError, WriteTransaction,
};

use crate::store::{KeyValue, LeaseId, StoreError};

/// Keys to revision, lease and value.
const DATA: TableDefinition<'static, &'static str, &'static [u8]> = TableDefinition::new("data");
/// Counters by name.
const META: TableDefinition<'static, &'static str, u64> = TableDefinition::new("meta");
/// Leases to their time to live in milliseconds.
const LEASES: TableDefinition<'static, i64, u64> = TableDefinition::new("leases");
/// Name of the revision counter.
const REVISION: &str = "revision";
/// Name of the lease counter.
const LAST_LEASE: &str = "last-lease";
/// Memory for pages of the file.
const CACHE: usize = 16 << 20;
/// Bytes before the value: revision and lease, little-endian.
const HEADER: usize = 16;

/// The file.
#[derive(Debug)]
pub(super) struct Disk {
    name: String,
    path: PathBuf,
    /// `None` between a failure and the next attempt to open it.
    database: Mutex<Option<Arc<Database>>>,
}

/// A consistent view.
pub(super) struct Reader {
    name: String,
    read: ReadTransaction,
}

/// A value with what goes with it.
#[derive(Debug, Clone)]
pub(super) struct Stored {
    pub(super) revision: Revision,
    pub(super) lease: Option<LeaseId>,
    pub(super) value: Vec<u8>,
}

/// What is counted and remembered besides the data.
#[derive(Debug, Default)]
pub(super) struct Remembered {
    pub(super) revision: Revision,
    pub(super) last_lease: i64,
    /// Leases with their time to live in milliseconds.
    pub(super) leases: Vec<(LeaseId, u64)>,
    /// Keys that hang on leases.
    pub(super) leased: Vec<(LeaseId, String)>,
}

impl Disk {
    /// Opens or makes the file.
    pub(super) fn open(name: String, path: PathBuf) -> Result<Disk, StoreError> {
        let disk = Disk { name, path, database: Mutex::new(None) };
        let database = disk.open_database()?;
        *disk.slot() = Some(Arc::new(database));
        Ok(disk)
    }

    fn slot(&self) -> std::sync::MutexGuard<'_, Option<Arc<Database>>> {
        self.database.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn open_database(&self) -> Result<Database, StoreError> {
        let opened = redb::Builder::new().set_cache_size(CACHE).create(&self.path);
        let database = opened.map_err(|error| match error {
            DatabaseError::DatabaseAlreadyOpen => {
                self.unavailable("another process has it open; only one controller may use a file")
            }
            error => fault(&self.name, error.into()),
        })?;
        // Tables must exist before they can be read.
        let write = database.begin_write().map_err(|e| fault(&self.name, e.into()))?;
        for made in [
            write.open_table(DATA).map(drop),
            write.open_table(META).map(drop),
            write.open_table(LEASES).map(drop),
        ] {
            made.map_err(|e| fault(&self.name, e.into()))?;
        }
        write.commit().map_err(|e| fault(&self.name, e.into()))?;
        Ok(database)
    }

    fn unavailable(&self, reason: &str) -> StoreError {
        StoreError::Unavailable { store: self.name.clone(), reason: reason.to_owned() }
    }

    pub(super) fn name(&self) -> &str {
        &self.name
    }

    /// The open file; after a failure it is opened again here.
    fn database(&self) -> Result<Arc<Database>, StoreError> {
        let mut slot = self.slot();
        match slot.as_ref() {
            Some(database) => Ok(database.clone()),
            None => Ok(slot.insert(Arc::new(self.open_database()?)).clone()),
        }
    }

    /// After a failed write: the next use opens the file again.
    pub(super) fn close(&self) {
        *self.slot() = None;
    }

    /// One key's value.
    pub(super) fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let (reader, _) = self.reading()?;
        let table = reader.read.open_table(DATA).map_err(|e| fault(&self.name, e.into()))?;
        let found = table.get(key).map_err(|e| fault(&self.name, e.into()))?;
        found.map(|bytes| Ok(entry(key, decode(&self.name, bytes.value())?))).transpose()
    }

    /// A consistent view and its revision.
    pub(super) fn reading(&self) -> Result<(Reader, Revision), StoreError> {
        let read = self.database()?.begin_read().map_err(|e| fault(&self.name, e.into()))?;
        let reader = Reader { name: self.name.clone(), read };
        let meta = reader.read.open_table(META).map_err(|e| fault(&self.name, e.into()))?;
        let revision = counter(&meta, REVISION).map_err(|e| fault(&self.name, e))?;
        Ok((reader, Revision(revision)))
    }

    /// What is remembered from earlier runs.
    pub(super) fn remembered(&self) -> Result<Remembered, StoreError> {
        let (reader, _) = self.reading()?;
        reader.remembered().map_err(|e| fault(&self.name, e))
    }

    /// Runs `change` in one durable transaction: all of it is written, or nothing and the reason is returned.
    pub(super) fn write<T>(
        &self,
        change: impl FnOnce(&mut Writer<'_>) -> Result<T, redb::Error>,
    ) -> Result<T, StoreError> {
        let database = self.database()?;
        let done = database.begin_write().map_err(redb::Error::from).and_then(|write| {
            let result = Writer::new(&write).and_then(|mut writer| change(&mut writer))?;
            write.commit()?;
            Ok(result)
        });
        done.map_err(|error| {
            drop(database);
            self.close();
            fault(&self.name, error)
        })
    }
}

impl Reader {
    /// Keys with this prefix, in pages, until `send` says that nobody reads any more.
    pub(super) fn pages(
        &self,
        prefix: &str,
        size: usize,
        mut send: impl FnMut(Result<Vec<KeyValue>, StoreError>) -> bool,
    ) -> Result<(), ()> {
        let mut page = Vec::with_capacity(size.min(1024));
        let outcome = self.each(prefix, |entry| {
            page.push(entry);
            page.len() < size || send(Ok(std::mem::take(&mut page)))
        });
        match outcome {
            Err(error) => send(Err(error)),
            Ok(()) => page.is_empty() || send(Ok(page)),
        }
        .then_some(())
        .ok_or(())
    }

    /// Keys from `first` up to `end`, without it, at most `most`.
    pub(super) fn range(&self, first: &str, end: &str, most: usize) -> Result<Vec<KeyValue>, StoreError> {
        let failed = |e: redb::Error| fault(&self.name, e);
        let mut found = Vec::new();
        // The table panics at a range that ends before it begins.
        if first >= end {
            return Ok(found);
        }
        let table = self.read.open_table(DATA).map_err(|e| failed(e.into()))?;
        for item in table.range(first..end).map_err(|e| failed(e.into()))?.take(most) {
            let (key, bytes) = item.map_err(|e| failed(e.into()))?;
            found.push(entry(key.value(), decode(&self.name, bytes.value())?));
        }
        Ok(found)
    }

    fn each(&self, prefix: &str, mut take: impl FnMut(KeyValue) -> bool) -> Result<(), StoreError> {
        let failed = |e: redb::Error| fault(&self.name, e);
        let table = self.read.open_table(DATA).map_err(|e| failed(e.into()))?;
        for item in table.range(prefix..).map_err(|e| failed(e.into()))? {
            let (key, bytes) = item.map_err(|e| failed(e.into()))?;
            if !key.value().starts_with(prefix) {
                break;
            }
            if !take(entry(key.value(), decode(&self.name, bytes.value())?)) {
                break;
            }
        }
        Ok(())
    }

    fn remembered(&self) -> Result<Remembered, redb::Error> {
        let meta = self.read.open_table(META)?;
        let mut remembered = Remembered {
            revision: Revision(counter(&meta, REVISION)?),
            last_lease: counter(&meta, LAST_LEASE)?.cast_signed(),
            ..Remembered::default()
        };
        for item in self.read.open_table(LEASES)?.iter()? {
            let (lease, ttl) = item?;
            remembered.leases.push((LeaseId(lease.value()), ttl.value()));
        }
        if remembered.leases.is_empty() {
            return Ok(remembered);
        }
        for item in self.read.open_table(DATA)?.iter()? {
            let (key, bytes) = item?;
            if let Ok(Stored { lease: Some(lease), .. }) = decode(&self.name, bytes.value()) {
                remembered.leased.push((lease, key.value().to_owned()));
            }
        }
        Ok(remembered)
    }
}

/// The tables within a write transaction.
pub(super) struct Writer<'t> {
    data: Table<'t, &'static str, &'static [u8]>,
    meta: Table<'t, &'static str, u64>,
    leases: Table<'t, i64, u64>,
}

impl<'t> Writer<'t> {
    fn new(write: &'t WriteTransaction) -> Result<Self, redb::Error> {
        let open = || -> Result<Self, TableError> {
            Ok(Writer {
                data: write.open_table(DATA)?,
                meta: write.open_table(META)?,
                leases: write.open_table(LEASES)?,
            })
        };
        Ok(open()?)
    }

    /// Revision and lease of a key's value.
    pub(super) fn header(&self, key: &str) -> Result<Option<(Revision, Option<LeaseId>)>, redb::Error> {
        let found = self.data.get(key)?;
        Ok(found.and_then(|bytes| header(bytes.value()).map(|(revision, lease, _)| (revision, lease))))
    }

    /// True if a key with this prefix has a value.
    pub(super) fn any_below(&self, prefix: &str) -> Result<bool, redb::Error> {
        match self.data.range(prefix..)?.next() {
            None => Ok(false),
            Some(item) => Ok(item?.0.value().starts_with(prefix)),
        }
    }

    pub(super) fn put(&mut self, key: &str, stored: &Stored) -> Result<(), redb::Error> {
        let mut bytes = Vec::with_capacity(HEADER + stored.value.len());
        bytes.extend(stored.revision.0.to_le_bytes());
        bytes.extend(stored.lease.map_or(0, |lease| lease.0).to_le_bytes());
        bytes.extend(&stored.value);
        self.data.insert(key, bytes.as_slice())?;
        Ok(())
    }

    /// True if there was a value.
    pub(super) fn delete(&mut self, key: &str) -> Result<bool, redb::Error> {
        Ok(self.data.remove(key)?.is_some())
    }

    pub(super) fn set_revision(&mut self, revision: Revision) -> Result<(), redb::Error> {
        self.meta.insert(REVISION, revision.0)?;
        Ok(())
    }

    pub(super) fn put_lease(&mut self, lease: LeaseId, ttl_ms: u64) -> Result<(), redb::Error> {
        self.leases.insert(lease.0, ttl_ms)?;
        self.meta.insert(LAST_LEASE, lease.0.cast_unsigned())?;
        Ok(())
    }

    pub(super) fn delete_lease(&mut self, lease: LeaseId) -> Result<(), redb::Error> {
        self.leases.remove(lease.0)?;
        Ok(())
    }
}

fn counter(meta: &impl ReadableTable<&'static str, u64>, name: &str) -> Result<u64, redb::Error> {
    Ok(meta.get(name)?.map_or(0, |n| n.value()))
}

fn header(bytes: &[u8]) -> Option<(Revision, Option<LeaseId>, &[u8])> {
    let (revision, rest) = bytes.split_first_chunk::<8>()?;
    let (lease, value) = rest.split_first_chunk::<8>()?;
    let lease = Some(i64::from_le_bytes(*lease)).filter(|n| *n != 0).map(LeaseId);
    Some((Revision(u64::from_le_bytes(*revision)), lease, value))
}

fn decode(name: &str, bytes: &[u8]) -> Result<Stored, StoreError> {
    let (revision, lease, value) = header(bytes).ok_or_else(|| StoreError::Internal {
        store: name.to_owned(),
        reason: "a value is cut off: the file is damaged".to_owned(),
    })?;
    Ok(Stored { revision, lease, value: value.to_vec() })
}

fn entry(key: &str, stored: Stored) -> KeyValue {
    KeyValue { key: key.to_owned(), value: stored.value, revision: stored.revision }
}

/// What an error of redb means: I/O may work again later, the rest will not.
fn fault(name: &str, error: redb::Error) -> StoreError {
    let store = name.to_owned();
    match error {
        redb::Error::Io(_) | redb::Error::PreviousIo | redb::Error::DatabaseClosed => {
            StoreError::Unavailable { store, reason: error.to_string() }
        }
        error => StoreError::Internal { store, reason: error.to_string() },
    }
}
