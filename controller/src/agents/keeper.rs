//! Keeps the store and the board in step: the lease under claims, reports out, others' reports and claims in.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::{Name, Revision};
use tokio::sync::{Notify, watch};
use tokio::time::timeout;
use tokio_util::sync::CancellationToken;

use super::Agents;
use super::board::ClaimRecord;
use super::claim::{CLAIMS, REPORTS};
use crate::ports::now_ms;
use crate::store::{KeyValue, LeaseId, Store, StoreError, Txn, WatchEvent, Write};

/// How long claims outlive their controller.
const LEASE_TTL: Duration = Duration::from_secs(10);
/// How often the lease is renewed: three times in its life.
const RENEW: Duration = Duration::from_secs(3);
/// Between two attempts to reach the store.
const RETRY: Duration = Duration::from_millis(500);
/// Between two writes of reports: what happens meanwhile goes into one.
const WRITE_PAUSE: Duration = Duration::from_millis(250);
/// Reports in one transaction.
const WRITE_BATCH: usize = 32;

/// Keeps one lease alive, takes another when it is lost, and gives it back at the end.
pub(super) async fn hold_lease(
    store: Arc<dyn Store>,
    lease: watch::Sender<Option<LeaseId>>,
    lost: Arc<Notify>,
    cancel: CancellationToken,
) {
    loop {
        let held = *lease.borrow();
        let pause = match held {
            None => match store.grant_lease(LEASE_TTL).await {
                Ok(granted) => {
                    lease.send_replace(Some(granted));
                    RENEW
                }
                Err(error) => {
                    tracing::debug!(%error, "no lease yet");
                    RETRY
                }
            },
            Some(held) => match store.keep_alive(held).await {
                Ok(()) => RENEW,
                Err(StoreError::LeaseExpired(_)) => {
                    tracing::warn!("the lease under the agents' claims has expired, taking another");
                    lease.send_replace(None);
                    continue;
                }
                Err(error) => {
                    tracing::debug!(%error, "lease not renewed");
                    RETRY
                }
            },
        };
        let waited = cancel.run_until_cancelled(timeout(pause, lost.notified())).await;
        match waited {
            None => break,
            // Under the same lease, but the claims may not be in the store any more.
            Some(Ok(())) => lease.send_modify(|_| ()),
            Some(Err(_)) => {}
        }
    }
    let held = *lease.borrow();
    if let Some(held) = held {
        // Without an answer it runs out by itself.
        let _ = tokio::time::timeout(Duration::from_secs(1), store.revoke_lease(held)).await;
    }
}

/// Writes reports that changed, some at a time, off every request's way.
pub(super) async fn write(agents: Agents, store: Arc<dyn Store>) {
    loop {
        let reports = {
            let mut board = agents.shared.board.write().unwrap_or_else(std::sync::PoisonError::into_inner);
            board.take_dirty(WRITE_BATCH)
        };
        if reports.is_empty() {
            agents.shared.dirty.notified().await;
            continue;
        }
        let put = |(node, report): &(Name, super::NodeReport)| Write::Put {
            key: format!("{REPORTS}{node}"),
            value: serde_json::to_vec(report).unwrap_or_default(),
            lease: None,
        };
        let writes = reports.iter().map(put).collect();
        agents.shared.metrics.status_writes.inc();
        let pause = match store.txn(Txn { compares: Vec::new(), writes }).await {
            Ok(_) => WRITE_PAUSE,
            Err(error) => {
                agents.shared.metrics.status_write_errors.inc();
                tracing::debug!(%error, nodes = reports.len(), "statuses not written");
                agents.change_board(|board| {
                    board.put_back(reports.into_iter().map(|(node, _)| node));
                    Vec::new()
                });
                RETRY
            }
        };
        tokio::time::sleep(pause).await;
    }
}

/// Follows what other controllers write.
pub(super) async fn read(agents: Agents, store: Arc<dyn Store>) {
    loop {
        if let Err(error) = follow(&agents, &store).await {
            tracing::debug!(%error, "statuses cannot be read");
        }
        tokio::time::sleep(RETRY).await;
    }
}

async fn follow(agents: &Agents, store: &Arc<dyn Store>) -> Result<(), StoreError> {
    let after = list(agents, store).await?;
    let mut events = store.watch("status/", after).await?;
    while let Some(event) = events.recv().await {
        match event {
            WatchEvent::Changes { changes, .. } => {
                for change in changes {
                    match change {
                        Ok(entry) => take(agents, &entry.key, Some(&entry)),
                        Err(key) => take(agents, &key, None),
                    }
                }
            }
            WatchEvent::Relist => {
                list(agents, store).await?;
                // An older copy may lack what was claimed since.
                agents.shared.lost.notify_one();
            }
            WatchEvent::Disconnected | WatchEvent::Connected => {}
        }
    }
    Ok(())
}

async fn list(agents: &Agents, store: &Arc<dyn Store>) -> Result<Revision, StoreError> {
    let listing = store.list("status/").await?;
    let seen: BTreeSet<&str> = listing.entries.iter().map(|entry| entry.key.as_str()).collect();
    let known = agents.board().remote_nodes();
    for node in known {
        for path in [format!("{CLAIMS}{node}"), format!("{REPORTS}{node}")] {
            if !seen.contains(path.as_str()) {
                take(agents, &path, None);
            }
        }
    }
    for entry in &listing.entries {
        take(agents, &entry.key, Some(entry));
    }
    agents.change_board(|board| {
        board.read();
        Vec::new()
    });
    Ok(listing.revision)
}

/// Takes up one key.
fn take(agents: &Agents, path: &str, entry: Option<&KeyValue>) {
    let value = entry.map(|entry| entry.value.as_slice());
    if let Some(node) = path.strip_prefix(CLAIMS).and_then(|name| name.parse::<Name>().ok()) {
        let claim: Option<ClaimRecord> = value.and_then(|value| serde_json::from_slice(value).ok());
        let elsewhere = claim.as_ref().is_some_and(|c| c.controller != agents.shared.claims.controller());
        if let Some(entry) = entry.filter(|_| elsewhere) {
            agents.evict(&node, entry.revision);
        }
        agents.change_board(|board| {
            board.claimed(&node, claim, now_ms());
            Vec::new()
        });
    } else if let Some(node) = path.strip_prefix(REPORTS).and_then(|name| name.parse::<Name>().ok()) {
        let report = value.and_then(|value| serde_json::from_slice(value).ok());
        let snapshot = agents.snapshot();
        agents.change_board(|board| board.heard(&snapshot, &node, report));
    }
}
