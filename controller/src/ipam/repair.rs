//! Confirming findings and repairing what they say, each in one transaction.

use std::sync::Arc;

use super::{Act, Books, Finding, check};
use crate::history::{self, By, Event};
use crate::keys;
use crate::ports::{PortError, Ports, now_ms};
use crate::store::{Store, StoreError, Txn, TxnOutcome, Write};

/// Findings that are confirmed or repaired in one check; each costs a transaction.
const MOST: usize = 1_000;

/// Checks the books of a store.
#[derive(Debug, Clone)]
pub struct Checker {
    store: Arc<dyn Store>,
    ports: Ports,
    by: By,
}

/// What a check says.
#[derive(Debug, Default)]
pub struct Checked {
    /// Findings that hold, and whether each was repaired.
    pub findings: Vec<(Finding, bool)>,
    /// Further ones that were not looked at, or whose repair was overtaken by another change.
    pub more: usize,
    /// The books, for their numbers.
    pub books: Books,
}

/// What became of one finding.
enum Outcome {
    Holds,
    Repaired,
    /// It does not hold any more.
    Gone,
}

impl Checker {
    /// `ports` and `by`: in whose name repairs are made.
    pub fn new(store: Arc<dyn Store>, ports: Ports, by: By) -> Self {
        Checker { store, ports: ports.on_behalf(by.clone()), by }
    }

    /// Checks, and with `fix` repairs.
    pub async fn run(&self, fix: bool) -> Result<Checked, StoreError> {
        let books = Books::read(self.store.as_ref()).await?;
        // Records say when their last event happened, which is where that is looked for.
        let at_ms = now_ms();
        // Many records are looked at: not on a thread that serves others.
        let looked = tokio::task::spawn_blocking(move || {
            let found = check(&books, at_ms);
            (books, found)
        });
        let (books, mut found) = looked.await.map_err(|error| StoreError::Internal {
            store: self.store.name(),
            reason: format!("the check ended: {error}"),
        })?;
        let mut checked = Checked { more: found.len().saturating_sub(MOST), books, ..Checked::default() };
        found.truncate(MOST);
        for finding in found {
            match self.settle(&finding, fix, at_ms).await? {
                Outcome::Holds => checked.findings.push((finding, false)),
                Outcome::Repaired => {
                    tracing::warn!(
                        subject = finding.subject,
                        found = finding.text,
                        "the books were corrected"
                    );
                    checked.findings.push((finding, true));
                }
                // A change was under way; or a repair before it changed what it rests on.
                Outcome::Gone => checked.more += usize::from(fix && finding.repair.is_some()),
            }
        }
        Ok(checked)
    }

    async fn settle(&self, finding: &Finding, fix: bool, at_ms: i64) -> Result<Outcome, StoreError> {
        let mut txn = Txn { compares: finding.evidence.clone(), writes: Vec::new() };
        let act = finding.repair.as_ref().filter(|_| fix).map(|repair| &repair.act);
        if let Some(Act::Write(writes, events)) = act {
            txn.writes.clone_from(writes);
            txn.writes.extend(self.log(events, at_ms));
        }
        if txn.writes.len().max(txn.compares.len()) > Txn::MAX_OPS {
            return Ok(Outcome::Holds);
        }
        if let TxnOutcome::Conflict(_) = self.store.txn(txn).await? {
            return Ok(Outcome::Gone);
        }
        let answers = match act {
            None => return Ok(Outcome::Holds),
            Some(Act::Write(..)) => return Ok(Outcome::Repaired),
            Some(Act::EndQuarantine(key)) => {
                let keys = std::slice::from_ref(key);
                self.ports.end_quarantine(keys, "its quarantine was overdue").await
            }
            Some(Act::Expire(key)) => self.ports.expire(&[(key.clone(), now_ms())]).await,
        };
        match answers.into_iter().next() {
            Some(Ok(_)) => Ok(Outcome::Repaired),
            Some(Err(PortError::Precondition { .. })) => Ok(Outcome::Gone),
            Some(Err(PortError::Store(error))) => Err(error),
            Some(Err(error)) => {
                tracing::warn!(subject = finding.subject, %error, "not repaired");
                Ok(Outcome::Holds)
            }
            None => Ok(Outcome::Holds),
        }
    }

    /// The record of the history.
    fn log(&self, events: &[Event], at_ms: i64) -> Option<Write> {
        let events: Vec<Event> = events.iter().cloned().map(|event| event.by(&self.by)).collect();
        let value = history::encode(&events).ok()?;
        Some(Write::Put { key: keys::events(at_ms, rand::random()), value, lease: None })
    }
}
