//! What controllers tell each other of proofs, through the store.

use std::collections::BTreeSet;
use std::time::Duration;

use causeway_proto::{Name, PortKey, Revision};
use serde::{Deserialize, Serialize};
use tokio::time::Instant;

use super::Ready;
use crate::ports::now_ms;
use crate::store::{KeyValue, StoreError, Txn, WatchEvent, Write};

/// Below it lie proofs.
pub(super) const PROVEN: &str = "status/proven/";
/// Below it lie requests to those who have an agent that can prove.
pub(super) const PROVE: &str = "status/prove/";
/// Between two attempts to reach the store.
const RETRY: Duration = Duration::from_millis(500);
/// How long others may try at most, whatever the request says.
const LONGEST: Duration = Duration::from_secs(600);

/// That a port was proven, or how it is going.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Proof {
    /// Of this binding.
    pub(crate) generation: u64,
    /// False: not yet.
    #[serde(default)]
    pub(crate) proven: bool,
    /// The node that probed.
    pub(crate) from: Name,
    /// How, or why not yet, in words.
    pub(crate) text: String,
    /// Unix milliseconds.
    pub(crate) at_ms: i64,
}

/// A controller wants a port proven, and has no agent for it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(super) struct Request {
    /// Who.
    pub(super) controller: String,
    /// Until then, in Unix milliseconds.
    pub(super) until_ms: i64,
}

/// Writes changes of records; what fails is written again with the next change of the same port, or not at all: a
/// proof that is lost is proven again.
pub(super) async fn write(ready: &Ready, writes: Vec<Write>) {
    for chunk in writes.chunks(32) {
        if let Err(error) = ready.shared.store.txn(Txn { compares: Vec::new(), writes: chunk.to_vec() }).await
        {
            tracing::debug!(%error, "proofs not written");
        }
    }
}

/// The write of a proof.
pub(super) fn put_proof(port: &PortKey, proof: &Proof) -> Write {
    let value = serde_json::to_vec(proof).unwrap_or_default();
    Write::Put { key: format!("{PROVEN}{port}"), value, lease: None }
}

/// The write of a request.
pub(super) fn put_request(port: &PortKey, request: &Request) -> Write {
    let value = serde_json::to_vec(request).unwrap_or_default();
    Write::Put { key: format!("{PROVE}{port}"), value, lease: None }
}

/// Follows the records.
pub(super) async fn read(ready: Ready) {
    loop {
        if let Err(error) = follow(&ready).await {
            tracing::debug!(%error, "proofs cannot be read");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(ready: &Ready) -> Result<(), StoreError> {
    let after = list(ready).await?;
    let mut events = ready.shared.store.watch("status/prove", after).await?;
    while let Some(event) = events.recv().await {
        match event {
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    match change {
                        Ok(entry) => take(ready, &entry.key, Some(&entry)),
                        Err(key) => take(ready, &key, None),
                    }
                }
            }
            WatchEvent::Relist => {
                list(ready).await?;
            }
            WatchEvent::Disconnected | WatchEvent::Connected => {}
        }
    }
    Ok(())
}

async fn list(ready: &Ready) -> Result<Revision, StoreError> {
    let listing = ready.shared.store.list("status/prove").await?;
    let seen: BTreeSet<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    let known: Vec<PortKey> = {
        let proofs = ready.shared.proofs.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        proofs.keys().cloned().collect()
    };
    for port in known {
        let path = format!("{PROVEN}{port}");
        if !seen.contains(path.as_str()) {
            take(ready, &path, None);
        }
    }
    for entry in &listing.entries {
        take(ready, &entry.key, Some(entry));
    }
    Ok(listing.revision)
}

/// Takes up one key.
fn take(ready: &Ready, path: &str, entry: Option<&KeyValue>) {
    if let Some(port) = path.strip_prefix(PROVEN).and_then(|port| port.parse::<PortKey>().ok()) {
        ready.learn(&port, entry.and_then(|entry| serde_json::from_slice(&entry.value).ok()));
    } else if let Some(port) = path.strip_prefix(PROVE).and_then(|port| port.parse::<PortKey>().ok()) {
        let request: Option<Request> = entry.and_then(|entry| serde_json::from_slice(&entry.value).ok());
        let Some(request) = request.filter(|request| request.controller != ready.shared.name) else { return };
        let left = u64::try_from(request.until_ms.saturating_sub(now_ms())).unwrap_or(0);
        if left > 0 {
            ready.add_want(&port, Instant::now() + Duration::from_millis(left).min(LONGEST), true);
        }
    }
}
