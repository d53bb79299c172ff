//! The claim of a node: a leased key that says which agent is connected, to which controller.

use std::sync::Arc;
use std::time::Duration;

use causeway_proto::{Name, Revision};
use tokio::sync::watch;
use tokio::time::timeout;

use super::board::ClaimRecord;
use crate::api::status::Refusal;
use crate::state::State;
use crate::store::{Compare, LeaseId, Store, StoreError, Txn, TxnOutcome, Write};

/// Below it lie the claims.
pub(super) const CLAIMS: &str = "status/agent/";
/// Below it lie the reports.
pub(super) const REPORTS: &str = "status/node/";
/// How long the store may take before a session goes on without it.
const PATIENCE: Duration = Duration::from_secs(2);
/// Races lost to others before the agent is asked to try again.
const TRIES: usize = 5;

/// Whether the store knows of a claim.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Claimed {
    /// Written by the transaction of this revision.
    At(Revision),
    /// The store is away: valid here, to be written when it is back.
    Unwritten,
}

/// Writes claims.
#[derive(Debug, Clone)]
pub(super) struct Claims {
    controller: String,
    store: Arc<dyn Store>,
    state: State,
    lease: watch::Receiver<Option<LeaseId>>,
}

/// The refusal of a second agent.
pub(super) fn refused(node: &Name, instance: &str, controller: &str) -> Refusal {
    Refusal::taken(
        format!("node {node} has an agent already"),
        format!("node {node}"),
        format!("agent {instance}, connected to controller {controller}"),
    )
}

impl Claims {
    pub(super) fn new(
        controller: String,
        store: Arc<dyn Store>,
        state: State,
        lease: watch::Receiver<Option<LeaseId>>,
    ) -> Self {
        Claims { controller, store, state, lease }
    }

    /// Name of this controller.
    pub(super) fn controller(&self) -> &str {
        &self.controller
    }

    /// Tells when the lease is another one: claims then have to be written again.
    pub(super) fn lease(&self) -> watch::Receiver<Option<LeaseId>> {
        self.lease.clone()
    }

    /// What is written.
    pub(super) fn record(&self, instance: &str) -> ClaimRecord {
        ClaimRecord { instance: instance.to_owned(), controller: self.controller.clone() }
    }

    /// Claims a node for an agent, refusing when another one has it. A store that does not answer keeps nobody out:
    /// agents get their state from the snapshot also while it is away.
    pub(super) async fn claim(&self, node: &Name, instance: &str) -> Result<Claimed, Refusal> {
        if !self.state.is_connected() {
            return Ok(Claimed::Unwritten);
        }
        match timeout(PATIENCE, self.try_claim(node, instance)).await {
            Err(_) => Ok(Claimed::Unwritten),
            Ok(result) => result,
        }
    }

    async fn try_claim(&self, node: &Name, instance: &str) -> Result<Claimed, Refusal> {
        let path = format!("{CLAIMS}{node}");
        let mut lease = self.lease.clone();
        for _ in 0..TRIES {
            let Ok(granted) = lease.wait_for(Option::is_some).await.map(|lease| *lease) else {
                return Ok(Claimed::Unwritten);
            };
            let known = match self.store.get(&path).await {
                Ok(known) => known,
                Err(StoreError::Unavailable { .. }) => return Ok(Claimed::Unwritten),
                Err(error) => return Err(error.into()),
            };
            let compare = match known {
                None => Compare::Absent(path.clone()),
                Some(known) => {
                    let other = serde_json::from_slice::<ClaimRecord>(&known.value).ok();
                    if let Some(other) = other.filter(|claim| claim.instance != instance) {
                        return Err(refused(node, &other.instance, &other.controller));
                    }
                    Compare::Unchanged(path.clone(), known.revision)
                }
            };
            let value = serde_json::to_vec(&self.record(instance)).unwrap_or_default();
            let put = Write::Put { key: path.clone(), value, lease: granted };
            match self.store.txn(Txn { compares: vec![compare], writes: vec![put] }).await {
                Ok(TxnOutcome::Committed(revision)) => return Ok(Claimed::At(revision)),
                Ok(TxnOutcome::Conflict(_)) => {}
                Err(StoreError::Unavailable { .. }) => return Ok(Claimed::Unwritten),
                Err(StoreError::LeaseExpired(_)) => {
                    if lease.changed().await.is_err() {
                        return Ok(Claimed::Unwritten);
                    }
                }
                Err(error) => return Err(error.into()),
            }
        }
        Err(Refusal::aborted(format!("claim of node {node}: lost {TRIES} races")))
    }

    /// Ends if the store is at an older revision than this one: it was set back.
    pub(super) async fn store_is_behind(&self, revision: Revision) {
        match self.store.revision().await {
            Ok(at) if at < revision => {}
            _ => std::future::pending().await,
        }
    }

    /// Gives a claim back if it is still the one written then. False: the store did not answer, try again.
    pub(super) async fn release(&self, node: &Name, at: Revision) -> bool {
        let path = format!("{CLAIMS}{node}");
        let compares = vec![Compare::Unchanged(path.clone(), at)];
        let done =
            timeout(PATIENCE, self.store.txn(Txn { compares, writes: vec![Write::Delete(path)] })).await;
        !matches!(done, Err(_) | Ok(Err(StoreError::Unavailable { .. })))
    }
}
