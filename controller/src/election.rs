//! One leader among controllers, for work that must not be done twice: a key that is put with a lease if it is absent.
//! Whoever's lease it hangs on leads. Leading ends before the lease can run out, not after.

use std::sync::Arc;
use std::time::Duration;

use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::store::{Compare, LeaseId, Store, StoreError, Txn, TxnOutcome, Write};

/// How long a leader's key outlives it.
const TTL: Duration = Duration::from_secs(10);
/// How often the lease is renewed. A leader that could not renew it for [`TTL`] less this stops to lead.
const RENEW: Duration = Duration::from_secs(3);
/// How often the others try.
const CAMPAIGN: Duration = Duration::from_secs(2);

/// An election that this controller takes part in.
#[derive(Debug, Clone)]
pub struct Election {
    leading: watch::Receiver<bool>,
}

impl Election {
    /// Takes part in the election of this name, as `candidate`, until `cancel`; then the lease is given back, so that
    /// another one leads at once.
    pub fn start(store: Arc<dyn Store>, name: &str, candidate: &str, cancel: CancellationToken) -> Election {
        let (tell, leading) = watch::channel(false);
        let campaign =
            Campaign { store, key: format!("election/{name}"), candidate: candidate.to_owned(), tell };
        tokio::spawn(campaign.run(cancel));
        Election { leading }
    }

    /// True while this controller leads.
    pub fn is_leading(&self) -> bool {
        *self.leading.borrow()
    }

    /// Waits until this controller leads; false when it will not any more.
    pub async fn lead(&mut self) -> bool {
        self.leading.wait_for(|leading| *leading).await.is_ok()
    }

    /// Waits until this controller does not lead.
    pub async fn lose(&mut self) {
        // An ended campaign does not lead either.
        let _ = self.leading.wait_for(|leading| !*leading).await;
    }
}

struct Campaign {
    store: Arc<dyn Store>,
    key: String,
    candidate: String,
    tell: watch::Sender<bool>,
}

impl Campaign {
    async fn run(self, cancel: CancellationToken) {
        loop {
            let held = cancel.run_until_cancelled(self.campaign()).await;
            let Some(held) = held else { return };
            let lease = match held {
                Ok(Some(lease)) => lease,
                Ok(None) | Err(_) => {
                    if cancel.run_until_cancelled(tokio::time::sleep(CAMPAIGN)).await.is_none() {
                        return;
                    }
                    continue;
                }
            };
            tracing::info!(election = self.key, candidate = self.candidate, "leading");
            self.tell.send_replace(true);
            let stopped = cancel.run_until_cancelled(self.hold(lease)).await.is_none();
            self.tell.send_replace(false);
            tracing::info!(election = self.key, candidate = self.candidate, "not leading any more");
            if stopped {
                // If it fails the lease ends by itself.
                let _ = tokio::time::timeout(RENEW, self.store.revoke_lease(lease)).await;
                return;
            }
        }
    }

    /// One try; the lease if it was won.
    async fn campaign(&self) -> Result<Option<LeaseId>, StoreError> {
        if self.store.get(&self.key).await?.is_some() {
            return Ok(None);
        }
        let lease = self.store.grant_lease(TTL).await?;
        let txn = Txn {
            compares: vec![Compare::Absent(self.key.clone())],
            writes: vec![Write::Put {
                key: self.key.clone(),
                value: self.candidate.clone().into_bytes(),
                lease: Some(lease),
            }],
        };
        match self.store.txn(txn).await {
            Ok(TxnOutcome::Committed(_)) => Ok(Some(lease)),
            other => {
                // Lost, or not known: without the lease the key cannot be ours.
                self.store.revoke_lease(lease).await?;
                other.map(|_| None)
            }
        }
    }

    /// Renews the lease until that fails for so long that it may have run out.
    async fn hold(&self, lease: LeaseId) {
        let mut renewed = Instant::now();
        loop {
            tokio::time::sleep(RENEW).await;
            let asked = Instant::now();
            let ends = renewed + TTL - RENEW;
            match tokio::time::timeout_at(ends, self.store.keep_alive(lease)).await {
                Ok(Ok(())) => renewed = asked,
                Ok(Err(StoreError::LeaseExpired(_))) => return,
                Ok(Err(error)) => {
                    tracing::warn!(election = self.key, %error, "lease could not be renewed");
                    if Instant::now() >= ends {
                        return;
                    }
                }
                Err(_) => return,
            }
        }
    }
}
