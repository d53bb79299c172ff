//! Calls to etcd: their deadline, when they are tried again, and what their errors mean to us.

use std::time::Duration;

use causeway_proto::Revision;
use etcd_client::{Client, ConnectOptions, Error};
use tokio::sync::Mutex;
use tokio::time::Instant;
use tonic::{Code, ConnectError, Status};

use super::past::Past;
use crate::store::{LeaseId, StoreError, Txn, Write};

/// Longest time until a call ends.
pub(super) const DEADLINE: Duration = Duration::from_secs(4);
/// Pause before a call is tried again.
const PAUSE: Duration = Duration::from_millis(50);

/// A revision as etcd spells it.
pub(super) fn revision(n: i64) -> Revision {
    Revision(n.max(0).cast_unsigned())
}

/// The connection to etcd's members. It is made by the first call that gets so far (with a password that needs an
/// answer from etcd) and outlives failures of the network.
pub(super) struct Connection {
    pub(super) name: String,
    pub(super) endpoints: Vec<String>,
    pub(super) options: ConnectOptions,
    pub(super) client: Mutex<Option<Client>>,
    pub(super) past: Past,
}

impl Connection {
    async fn client(&self) -> Result<Client, Error> {
        let mut client = self.client.lock().await;
        if let Some(client) = client.as_ref() {
            return Ok(client.clone());
        }
        let new = Client::connect(&self.endpoints, Some(self.options.clone())).await?;
        Ok(client.insert(new).clone())
    }

    pub(super) fn unavailable(&self, reason: impl Into<String>) -> StoreError {
        StoreError::Unavailable { store: self.name.clone(), reason: reason.into() }
    }

    /// The client, or why there is none.
    pub(super) async fn client_now(&self) -> Result<Client, StoreError> {
        self.repeat(|client| std::future::ready(Ok(client))).await
    }

    /// A call that may be sent any number of times: it is repeated while etcd is not available, until the deadline.
    pub(super) async fn repeat<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.retry(call, |_| true).await
    }

    /// A call that must not be carried out twice: it is sent again only if it certainly never left.
    pub(super) async fn send_once<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        self.retry(call, never_left).await
    }

    async fn attempt<T, F>(&self, call: impl Fn(Client) -> F) -> Result<T, Error>
    where
        F: Future<Output = Result<T, Error>>,
    {
        call(self.client().await?).await
    }

    async fn retry<T, F>(
        &self,
        call: impl Fn(Client) -> F,
        may_repeat: impl Fn(&Error) -> bool,
    ) -> Result<T, StoreError>
    where
        F: Future<Output = Result<T, Error>>,
    {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let error = match tokio::time::timeout_at(deadline, self.attempt(&call)).await {
                Ok(Ok(value)) => return Ok(value),
                Ok(Err(error)) => error,
                Err(_) => return Err(self.unavailable(format!("no answer within {} s", DEADLINE.as_secs()))),
            };
            let meaning = classify(&self.name, &error);
            let again = matches!(meaning, StoreError::Unavailable { .. })
                && may_repeat(&error)
                && Instant::now() + PAUSE < deadline;
            if !again {
                return Err(meaning);
            }
            tokio::time::sleep(PAUSE).await;
        }
    }
}

/// True if there was no connection to send it on.
fn never_left(error: &Error) -> bool {
    let mut source: Option<&(dyn std::error::Error + 'static)> = match error {
        Error::GRpcStatus(status) => Some(status),
        Error::TransportError(error) => Some(error),
        _ => None,
    };
    while let Some(error) = source {
        if error.is::<ConnectError>() {
            return true;
        }
        source = error.source();
    }
    false
}

/// What an error means to us.
pub(super) fn classify(name: &str, error: &Error) -> StoreError {
    let unavailable = |reason: String| StoreError::Unavailable { store: name.to_owned(), reason };
    let internal = |reason: String| StoreError::Internal { store: name.to_owned(), reason };
    match error {
        Error::GRpcStatus(status) => classify_status(name, status),
        Error::TransportError(_) | Error::IoError(_) | Error::EndpointError(_) => unavailable(chain(error)),
        // What the client makes of an answer with a time to live of 0.
        Error::LeaseKeepAliveError(text) if text.contains("not found") => {
            StoreError::LeaseExpired(LeaseId(0))
        }
        other => internal(other.to_string()),
    }
}

fn classify_status(name: &str, status: &Status) -> StoreError {
    let mut text = status.message().to_owned();
    if let Some(source) = std::error::Error::source(status) {
        text = format!("{text}: {}", chain(source));
    }
    match status.code() {
        // The oldest revision that can be read is not in the error.
        Code::OutOfRange if status.message().contains("compacted") => {
            StoreError::Compacted { asked: Revision::default(), oldest: Revision::default() }
        }
        Code::NotFound if status.message().contains("lease") => StoreError::LeaseExpired(LeaseId(0)),
        // Unknown: what tonic makes of a connection that broke. ResourceExhausted: etcd's quota, or too many requests.
        Code::Unavailable
        | Code::DeadlineExceeded
        | Code::Cancelled
        | Code::Aborted
        | Code::Unknown
        | Code::ResourceExhausted => StoreError::Unavailable { store: name.to_owned(), reason: text },
        _ => StoreError::Internal { store: name.to_owned(), reason: text },
    }
}

/// An error and what caused it, each text once.
fn chain(error: &dyn std::error::Error) -> String {
    let (mut text, mut source) = (error.to_string(), error.source());
    while let Some(error) = source {
        let next = error.to_string();
        if !text.contains(&next) {
            text = format!("{text}: {next}");
        }
        source = error.source();
    }
    text
}

/// Which lease of a transaction is not there, if etcd says that one is not.
pub(super) fn name_lease(error: StoreError, txn: &Txn) -> StoreError {
    let lease = txn.writes.iter().find_map(|write| match write {
        Write::Put { lease, .. } => *lease,
        Write::Delete(_) => None,
    });
    match (error, lease) {
        (StoreError::LeaseExpired(_), Some(lease)) => StoreError::LeaseExpired(lease),
        (error, _) => error,
    }
}
