//! The store in etcd. Connections come back by themselves; every call ends within [`DEADLINE`]; a watch resumes where
//! it was and says when it could not, also when etcd was restored from an older copy meanwhile.

mod call;
mod past;
mod watch;

use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::Revision;
use etcd_client::{
    Certificate, Client, Compare as EtcdCompare, CompareOp, ConnectOptions, GetOptions, Identity, PutOptions,
    TlsOptions, Txn as EtcdTxn, TxnOp, TxnOpResponse,
};
use tokio::sync::{Mutex, mpsc};

use super::{
    Compare, KeyValue, LeaseId, Listing, Pages, Store, StoreError, Txn, TxnOutcome, WatchEvent, Write,
};
use call::{Connection, revision};
use past::Past;

/// Keys in one page of a listing.
const PAGE: i64 = 4_000;
/// Largest message read: a page of full values, or the changes of many transactions at once.
const LARGEST_MESSAGE: usize = 256 << 20;
/// Longest wait for a TCP and TLS connection.
const CONNECT: Duration = Duration::from_secs(2);
/// HTTP/2 pings: a silent connection is found dead after the sum of both.
const PING: (Duration, Duration) = (Duration::from_secs(5), Duration::from_secs(3));
/// How often a transaction is tried again whose compares failed and hold when looked at.
const FLAPS: usize = 3;
/// Watch events that wait for their reader before the watch stops reading.
const WATCH_QUEUE: usize = 1024;

/// How to reach etcd.
#[derive(Clone)]
pub struct EtcdOptions {
    /// URLs of the members, for example `http://127.0.0.1:2379`; `https` with TLS.
    pub endpoints: Vec<String>,
    /// What all keys begin with; `/causeway/v1/` by default.
    pub prefix: String,
    /// File with the certificates (PEM) that may sign the members'; `None`: not TLS, or none but the given ones.
    pub ca_file: Option<PathBuf>,
    /// Files with our certificate and its key (PEM), for members that ask for one.
    pub identity_files: Option<(PathBuf, PathBuf)>,
    /// User and password.
    pub user: Option<(String, String)>,
}

impl EtcdOptions {
    /// These members, without TLS and password, under the default prefix.
    pub fn new(endpoints: impl IntoIterator<Item = impl Into<String>>) -> Self {
        EtcdOptions {
            endpoints: endpoints.into_iter().map(Into::into).collect(),
            prefix: "/causeway/v1/".to_owned(),
            ca_file: None,
            identity_files: None,
            user: None,
        }
    }
}

/// The password stays out.
impl std::fmt::Debug for EtcdOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdOptions")
            .field("endpoints", &self.endpoints)
            .field("prefix", &self.prefix)
            .field("ca_file", &self.ca_file)
            .field("identity_files", &self.identity_files)
            .field("user", &self.user.as_ref().map(|(name, _)| name))
            .finish()
    }
}

/// A store in etcd.
pub struct EtcdStore {
    prefix: String,
    connection: Arc<Connection>,
}

impl std::fmt::Debug for EtcdStore {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("EtcdStore")
            .field("name", &self.connection.name)
            .field("prefix", &self.prefix)
            .finish()
    }
}

impl EtcdStore {
    /// Prepares a store; etcd need not run yet. Fails if the options are wrong or a file cannot be read.
    pub async fn new(options: EtcdOptions) -> Result<Self, StoreError> {
        let name = format!("etcd {}", options.endpoints.join(","));
        let wrong = |reason: String| StoreError::Internal { store: name.clone(), reason };
        if options.endpoints.is_empty() {
            return Err(wrong("no endpoint is given".to_owned()));
        }
        let read = async |path: &PathBuf| {
            let text = tokio::fs::read(path).await;
            text.map_err(|e| wrong(format!("cannot read {}: {e}", path.display())))
        };
        let mut connect = ConnectOptions::new()
            .with_connect_timeout(CONNECT)
            .with_keep_alive(PING.0, PING.1)
            .with_keep_alive_while_idle(true)
            .with_require_leader(true)
            .with_auto_token_refresh(options.user.is_some());
        let encrypted = options.endpoints.iter().any(|e| e.starts_with("https://"));
        if !encrypted && (options.ca_file.is_some() || options.identity_files.is_some()) {
            return Err(wrong("certificates are given, but no endpoint begins with https://".to_owned()));
        }
        if encrypted {
            let mut tls = TlsOptions::new();
            if let Some(ca) = &options.ca_file {
                tls = tls.ca_certificate(Certificate::from_pem(read(ca).await?));
            }
            if let Some((certificate, key)) = &options.identity_files {
                tls = tls.identity(Identity::from_pem(read(certificate).await?, read(key).await?));
            }
            connect = connect.with_tls(tls);
        }
        if let Some((user, password)) = options.user {
            connect = connect.with_user(user, password);
        }
        let endpoints = options.endpoints;
        let connection =
            Connection { name, endpoints, options: connect, client: Mutex::new(None), past: Past::default() };
        Ok(EtcdStore { prefix: options.prefix, connection: Arc::new(connection) })
    }

    fn path(&self, key: &str) -> String {
        format!("{}{key}", self.prefix)
    }

    /// What etcd calls a compare.
    fn compare(&self, compare: &Compare) -> EtcdCompare {
        match compare {
            Compare::Absent(key) => EtcdCompare::create_revision(self.path(key), CompareOp::Equal, 0),
            Compare::Unchanged(key, at) => {
                EtcdCompare::mod_revision(self.path(key), CompareOp::Equal, at.0.cast_signed())
            }
            Compare::Present(key) => EtcdCompare::create_revision(self.path(key), CompareOp::Greater, 0),
            // It must hold for each key of the range, and none that exists was created at revision 0.
            Compare::NoneBelow(prefix) => {
                EtcdCompare::create_revision(self.path(prefix), CompareOp::Equal, 0).with_prefix()
            }
        }
    }

    fn write(&self, write: &Write) -> TxnOp {
        match write {
            Write::Put { key, value, lease } => {
                let options = lease.map(|lease| PutOptions::new().with_lease(lease.0));
                TxnOp::put(self.path(key), value.clone(), options)
            }
            Write::Delete(key) => TxnOp::delete(self.path(key), None),
        }
    }

    /// Which compares do not hold now. Reads in the transaction itself would say exactly why it failed, but would make
    /// every transaction larger that does not fail.
    async fn failing(&self, compares: &[Compare]) -> Result<Vec<usize>, StoreError> {
        let look = |compare: &Compare| match compare {
            Compare::Absent(key) | Compare::Present(key) | Compare::Unchanged(key, _) => {
                TxnOp::get(self.path(key), Some(GetOptions::new().with_keys_only()))
            }
            Compare::NoneBelow(prefix) => TxnOp::get(
                self.path(prefix),
                Some(GetOptions::new().with_prefix().with_keys_only().with_limit(1)),
            ),
        };
        let looks: Vec<TxnOp> = compares.iter().map(look).collect();
        let response = self.connection.repeat(|client| {
            let looks = EtcdTxn::new().and_then(looks.clone());
            async move { client.kv_client().txn(looks).await }
        });
        let response = response.await?;
        let answers = response.op_responses();
        let fails = |compare: &Compare, answer: &TxnOpResponse| {
            let TxnOpResponse::Get(got) = answer else { return true };
            let found = got.kvs().first().map(|kv| kv.mod_revision());
            match compare {
                Compare::Absent(_) | Compare::NoneBelow(_) => found.is_some(),
                Compare::Present(_) => found.is_none(),
                Compare::Unchanged(_, at) => found.unwrap_or(0) != at.0.cast_signed(),
            }
        };
        let all = compares.iter().zip(&answers).enumerate();
        Ok(all.filter(|(_, (compare, answer))| fails(compare, answer)).map(|(i, _)| i).collect())
    }

    /// A key and value of ours; `None` if it is not text.
    fn entry(&self, kv: &etcd_client::KeyValue) -> Option<KeyValue> {
        Some(KeyValue {
            key: self.strip(kv.key())?,
            value: kv.value().to_vec(),
            revision: revision(kv.mod_revision()),
        })
    }

    /// The key without the prefix. A key that is not UTF-8 is not ours.
    fn strip(&self, key: &[u8]) -> Option<String> {
        Some(std::str::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.to_owned())
    }
}

#[tonic::async_trait]
impl Store for EtcdStore {
    fn name(&self) -> String {
        self.connection.name.clone()
    }

    async fn get(&self, key: &str) -> Result<Option<KeyValue>, StoreError> {
        let path = self.path(key);
        let response = self.connection.repeat(|client| {
            let path = path.clone();
            async move { client.kv_client().get(path, None).await }
        });
        let response = response.await?;
        Ok(response.kvs().first().and_then(|kv| self.entry(kv)))
    }

    async fn pages(&self, prefix: &str) -> Result<Pages, StoreError> {
        let reader = PageReader { connection: self.connection.clone(), prefix: self.prefix.clone() };
        let path = self.path(prefix);
        let (first, revision) = reader.page(&path, None, None).await?;
        let (send, pages) = mpsc::channel(2);
        tokio::spawn(reader.run(path, first, revision, send));
        Ok(Pages { revision, pages })
    }

    async fn range(&self, first: &str, end: &str, most: usize) -> Result<Listing, StoreError> {
        // etcd takes 0 as no limit, and an empty end as one key.
        if most == 0 || first >= end {
            return Ok(Listing { entries: Vec::new(), revision: self.revision().await? });
        }
        let (from, most) = (self.path(first), i64::try_from(most).unwrap_or(i64::MAX));
        let options = GetOptions::new().with_range(self.path(end)).with_limit(most);
        let response = self.connection.repeat(|client| {
            let (from, options) = (from.clone(), options.clone());
            let mut kv = client.kv_client().max_decoding_message_size(LARGEST_MESSAGE);
            async move { kv.get(from, Some(options)).await }
        });
        let response = response.await?;
        let entries = response.kvs().iter().filter_map(|kv| self.entry(kv)).collect();
        let at = response.header().map_or(0, |h| h.revision());
        Ok(Listing { entries, revision: self.connection.past.saw(at) })
    }

    async fn txn(&self, txn: Txn) -> Result<TxnOutcome, StoreError> {
        let most = txn.compares.len().max(txn.writes.len());
        if most > Txn::MAX_OPS {
            return Err(StoreError::TooLarge(most));
        }
        let request = EtcdTxn::new()
            .when(txn.compares.iter().map(|c| self.compare(c)).collect::<Vec<_>>())
            .and_then(txn.writes.iter().map(|w| self.write(w)).collect::<Vec<_>>());
        for _ in 0..FLAPS {
            let response = self.connection.send_once(|client| {
                let request = request.clone();
                async move { client.kv_client().txn(request).await }
            });
            let response = response.await.map_err(|error| call::name_lease(error, &txn))?;
            if response.succeeded() {
                let at = response.header().map_or(0, |h| h.revision());
                return Ok(TxnOutcome::Committed(self.connection.past.saw(at)));
            }
            // When what stood against it is gone again, nothing was written and all compares hold: once more.
            let failing = self.failing(&txn.compares).await?;
            if !failing.is_empty() {
                return Ok(TxnOutcome::Conflict(failing));
            }
        }
        Ok(TxnOutcome::Conflict((0..txn.compares.len()).collect()))
    }

    async fn watch(&self, prefix: &str, after: Revision) -> Result<mpsc::Receiver<WatchEvent>, StoreError> {
        let (send, events) = mpsc::channel(WATCH_QUEUE);
        let watch = watch::Watch {
            client: self.connection.client_now().await?,
            turns: self.connection.past.turns(),
            relist: false,
            connection: self.connection.clone(),
            strip: self.prefix.clone(),
            path: self.path(prefix),
            next: after.0.cast_signed().saturating_add(1),
            events: send,
        };
        tokio::spawn(watch.run());
        Ok(events)
    }

    async fn grant_lease(&self, ttl: Duration) -> Result<LeaseId, StoreError> {
        let seconds = i64::try_from(ttl.as_millis().div_ceil(1000)).unwrap_or(i64::MAX).max(1);
        let grant = |client: Client| async move { client.lease_client().grant(seconds, None).await };
        Ok(LeaseId(self.connection.repeat(grant).await?.id()))
    }

    async fn keep_alive(&self, lease: LeaseId) -> Result<(), StoreError> {
        // It ends with the answer to the first renewal, which is the one asked for.
        let renew = |client: Client| async move { client.lease_client().keep_alive(lease.0).await.map(drop) };
        self.connection.repeat(renew).await.map_err(|error| match error {
            StoreError::LeaseExpired(_) => StoreError::LeaseExpired(lease),
            error => error,
        })
    }

    async fn revoke_lease(&self, lease: LeaseId) -> Result<(), StoreError> {
        let revoke = |client: Client| async move { client.lease_client().revoke(lease.0).await };
        match self.connection.repeat(revoke).await {
            Ok(_) | Err(StoreError::LeaseExpired(_)) => Ok(()),
            Err(error) => Err(error),
        }
    }

    async fn revision(&self) -> Result<Revision, StoreError> {
        let now = self.connection.now(&self.path("")).await?;
        Ok(self.connection.past.saw(now))
    }
}

/// Reads a listing page by page.
struct PageReader {
    connection: Arc<Connection>,
    prefix: String,
}

impl PageReader {
    /// One page of the keys that begin with `path`, after the key `last`, at a revision or now; with the revision.
    async fn page(
        &self,
        path: &str,
        last: Option<&str>,
        at: Option<Revision>,
    ) -> Result<(Vec<KeyValue>, Revision), StoreError> {
        // The key that follows `last` is `last` and a zero byte.
        let from = match last {
            Some(last) => format!("{}{last}\0", self.prefix),
            None => path.to_owned(),
        };
        let mut options = GetOptions::new().with_range(range_end(path)).with_limit(PAGE);
        if let Some(at) = at {
            options = options.with_revision(at.0.cast_signed());
        }
        let got = self.connection.repeat(|client| {
            let (from, options) = (from.clone(), options.clone());
            let mut kv = client.kv_client().max_decoding_message_size(LARGEST_MESSAGE);
            async move { kv.get(from, Some(options)).await }
        });
        let mut got = got.await?;
        let entry = |kv: etcd_client::KeyValue| {
            let at = revision(kv.mod_revision());
            let (key, value) = kv.into_key_value();
            let key = String::from_utf8(key).ok()?.strip_prefix(&self.prefix)?.to_owned();
            Some(KeyValue { key, value, revision: at })
        };
        let now = self.connection.past.saw(got.header().map_or(0, |h| h.revision()));
        Ok((got.take_kvs().into_iter().filter_map(entry).collect(), at.unwrap_or(now)))
    }

    async fn run(
        self,
        path: String,
        first: Vec<KeyValue>,
        at: Revision,
        send: mpsc::Sender<Result<Vec<KeyValue>, StoreError>>,
    ) {
        let mut page = first;
        while let Some(last) = page.last().map(|entry| entry.key.clone()) {
            let full = page.len() as i64 >= PAGE;
            if send.send(Ok(page)).await.is_err() || !full {
                return;
            }
            match self.page(&path, Some(&last), Some(at)).await {
                Ok((next, _)) => page = next,
                Err(error) => {
                    // Nobody reads any more: nothing to tell.
                    let _ = send.send(Err(error)).await;
                    return;
                }
            }
        }
    }
}

/// The first key after all keys that begin with `path`.
fn range_end(path: &str) -> Vec<u8> {
    let mut end = path.as_bytes().to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end;
        }
    }
    vec![0]
}
