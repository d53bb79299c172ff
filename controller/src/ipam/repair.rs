//! Confirming findings and repairing what they say, each in one transaction.

use std::sync::Arc;

use causeway_proto::Revision;

use super::{Act, Books, Finding, Problem, Repair, check};
use crate::history::{self, By, Event};
use crate::keys::{self, RecordKey};
use crate::leaks::{Leak, Leaks};
use crate::ports::{PortError, Ports, now_ms};
use crate::store::{Compare, Store, StoreError, Txn, TxnOutcome, Write};

/// Findings that are confirmed or repaired in one check; each costs a transaction.
const MOST: usize = 1_000;

/// Checks the books of a store.
#[derive(Debug, Clone)]
pub struct Checker {
    store: Arc<dyn Store>,
    ports: Ports,
    by: By,
    leaks: Option<Leaks>,
}

/// What is repaired.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Fix {
    /// All that takes nothing from a port in use.
    pub books: bool,
    /// Leaked ports.
    pub leaked: bool,
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
    /// Revision of the last repair that changed a record, if one did.
    pub changed: Option<Revision>,
}

/// What became of one finding.
enum Outcome {
    Holds,
    /// With the revision, if a record was changed and not a claim alone.
    Repaired(Option<Revision>),
    /// It does not hold any more.
    Gone,
}

impl Checker {
    /// `ports` and `by`: in whose name repairs are made.
    pub fn new(store: Arc<dyn Store>, ports: Ports, by: By) -> Self {
        Checker { store, ports: ports.on_behalf(by.clone()), by, leaks: None }
    }

    /// The same, telling of leaked ports too.
    pub(crate) fn with_leaks(self, leaks: Leaks) -> Self {
        Checker { leaks: Some(leaks), ..self }
    }

    /// Checks, and repairs what is asked for.
    pub async fn run(&self, fix: Fix) -> Result<Checked, StoreError> {
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
        found.extend(self.leaks.iter().flat_map(Leaks::leaked).map(leaked));
        let mut checked = Checked { more: found.len().saturating_sub(MOST), books, ..Checked::default() };
        found.truncate(MOST);
        for finding in found {
            match self.settle(&finding, fix, at_ms).await? {
                Outcome::Holds => checked.findings.push((finding, false)),
                Outcome::Repaired(at) => {
                    checked.changed = checked.changed.max(at);
                    tracing::warn!(
                        subject = finding.subject,
                        found = finding.text,
                        "the books were corrected"
                    );
                    checked.findings.push((finding, true));
                }
                // A change was under way; or a repair before it changed what it rests on.
                Outcome::Gone => checked.more += usize::from(fix.books && finding.repair.is_some()),
            }
        }
        Ok(checked)
    }

    async fn settle(&self, finding: &Finding, fix: Fix, at_ms: i64) -> Result<Outcome, StoreError> {
        let mut txn = Txn { compares: finding.evidence.clone(), writes: Vec::new() };
        let act = finding.repair.as_ref().map(|repair| &repair.act).filter(|act| match act {
            Act::Collect(_) => fix.leaked,
            _ => fix.books,
        });
        if let Some(Act::Write(writes, events)) = act {
            txn.writes.clone_from(writes);
            txn.writes.extend(self.log(events, at_ms));
        }
        if txn.writes.len().max(txn.compares.len()) > Txn::MAX_OPS {
            return Ok(Outcome::Holds);
        }
        let changes = txn.writes.iter().any(is_record);
        let TxnOutcome::Committed(at) = self.store.txn(txn).await? else { return Ok(Outcome::Gone) };
        let answers = match act {
            None => return Ok(Outcome::Holds),
            Some(Act::Write(..)) => return Ok(Outcome::Repaired(changes.then_some(at))),
            Some(Act::EndQuarantine(key)) => {
                let keys = std::slice::from_ref(key);
                self.ports.end_quarantine(keys, "its quarantine was overdue").await
            }
            Some(Act::Collect(leak)) => vec![self.collect(leak).await],
            Some(Act::Expire(key)) => self.ports.expire(&[(key.clone(), now_ms())]).await,
        };
        match answers.into_iter().next() {
            Some(Ok(at)) => Ok(Outcome::Repaired(Some(at))),
            Some(Err(PortError::Precondition { .. })) => Ok(Outcome::Gone),
            Some(Err(PortError::Store(error))) => Err(error),
            Some(Err(error)) => {
                tracing::warn!(subject = finding.subject, %error, "not repaired");
                Ok(Outcome::Holds)
            }
            None => Ok(Outcome::Holds),
        }
    }

    async fn collect(&self, leak: &Leak) -> Result<Revision, PortError> {
        let collected = match &self.leaks {
            Some(leaks) => leaks.collect(&self.ports, leak).await?,
            None => None,
        };
        collected.ok_or_else(|| PortError::refused(&leak.port, "is not leaked any more", ""))
    }

    /// The record of the history.
    fn log(&self, events: &[Event], at_ms: i64) -> Option<Write> {
        let events: Vec<Event> = events.iter().cloned().map(|event| event.by(&self.by)).collect();
        let value = history::encode(&events).ok()?;
        Some(Write::Put { key: keys::events(at_ms, rand::random()), value, lease: None })
    }
}

/// A leaked port as a finding. What it rests on is compared when it is given up.
fn leaked(leak: Leak) -> Finding {
    let Leak { port, node, problem, since, .. } = &leak;
    Finding {
        problem: Problem::Leaked,
        subject: format!("port {port}"),
        text: format!(
            "is bound to node {node}, whose agent has not found its workload for {} s: {problem}",
            since.as_secs()
        ),
        hint: format!("causeway port release {port}, or causeway ipam check --fix-leaked"),
        evidence: vec![Compare::Present(RecordKey::Port(port.clone()).path())],
        repair: Some(Repair {
            words: "unbind it and quarantine its addresses".to_owned(),
            act: Act::Collect(leak),
        }),
    }
}

/// Whether controllers follow it: they do not follow claims.
fn is_record(write: &Write) -> bool {
    let (Write::Put { key, .. } | Write::Delete(key)) = write;
    key.starts_with(keys::INTENT)
}
