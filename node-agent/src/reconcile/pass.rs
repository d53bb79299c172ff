//! One pass: what is dirty is compared, the steps are taken, and what they were for is read back.

use std::collections::BTreeSet;

use super::Reconciler;
use crate::kernel::{Dataplane, OpError};
use crate::model::{Key, Place};
use crate::netlink::NetlinkError;
use crate::observed::{Inside, Observed};
use crate::op::Op;
use crate::plan::{Plan, Scope, plan};

/// Steps taken before events are taken in again, so that a large change does not overflow the monitor.
const CHUNK: usize = 512;

impl<D: Dataplane> Reconciler<D> {
    /// Reads keys back; a failure makes the next pass look at everything.
    pub(super) fn refresh(&mut self, keys: &BTreeSet<Key>) {
        if keys.is_empty() {
            return;
        }
        let Some(observed) = &mut self.observed else { return };
        if let Err(error) = self.dataplane.refresh(keys, &self.desired, observed) {
            tracing::warn!(%error, "cannot read back, looking at everything");
            self.observed = None;
        }
    }

    fn hear(&mut self) -> bool {
        let Some(observed) = &mut self.observed else { return false };
        match self.dataplane.hear(&self.desired, observed) {
            Ok(heard) => {
                if heard.lost {
                    tracing::info!(cause = "overrun", "events were lost, looking at everything");
                    self.observed = None;
                }
                self.retries.heard(&heard.keys);
                self.mark(heard.keys);
                heard.addresses
            }
            Err(error) => {
                tracing::warn!(%error, "cannot take in events, looking at everything");
                self.observed = None;
                false
            }
        }
    }

    fn observe(&mut self) -> Result<(), NetlinkError> {
        self.progress.observed += 1;
        self.dirty = Scope::All;
        self.observed = Some(self.dataplane.observe(&self.desired)?);
        Ok(())
    }

    /// Compares what is dirty, takes the steps and looks at what came of them.
    pub(super) fn pass(&mut self) -> Looked {
        let mut addresses = self.hear();
        if self.observed.is_none() {
            if self.retries.waits_for_observe() {
                return Looked { addresses };
            }
            match self.observe() {
                // Events that arrived during the dumps correct them.
                Ok(()) => addresses |= self.hear(),
                Err(error) => {
                    tracing::error!(%error, "cannot read the kernel");
                    self.retries.failed_observe();
                    return Looked { addresses };
                }
            }
        }
        if let Some(observed) = &self.observed {
            self.firsts.review(&mut self.desired, observed, tokio::time::Instant::now());
        }
        let scope = std::mem::replace(&mut self.dirty, Scope::Keys(BTreeSet::new()));
        let Some(observed) = &self.observed else {
            self.dirty = Scope::All;
            self.retries.failed_observe();
            return Looked { addresses };
        };
        if scope == Scope::Keys(BTreeSet::new()) {
            return Looked { addresses };
        }
        // A host is compared as a whole.
        let scope = if self.desired.lan().is_some() { Scope::All } else { scope };
        self.progress.passes += 1;
        let planned = plan(&self.desired, observed, &scope);
        // Names of namespaces are watched; what else keeps one shut is tried again.
        for key in planned.problems.keys().filter(|key| unreachable(observed, key)) {
            if !self.retries.is_waiting(key) {
                self.retries.failed(key);
            }
        }
        let held = self.hold(&scope, &planned);
        self.statuses.begin(&self.desired, &scope, &planned, &held);
        let worked = self.work(planned, held);
        self.verify(worked);
        Looked { addresses }
    }

    /// What has failed and waits for its turn. The rest of what waited needs nothing any more: others have done it.
    fn hold(&mut self, scope: &Scope, planned: &Plan) -> BTreeSet<Key> {
        let waiting = self.retries.waiting();
        if waiting.is_empty() {
            return waiting;
        }
        let open: BTreeSet<Key> = planned.ops.iter().map(Op::key).collect();
        let compared = |key: &Key| match scope {
            Scope::All => true,
            Scope::Keys(keys) => keys.contains(key),
        };
        for key in waiting.iter().filter(|key| compared(key) && !open.contains(key)) {
            if !planned.problems.contains_key(key) {
                self.retries.succeeded(key);
            }
        }
        waiting.into_iter().filter(|key| open.contains(key)).collect()
    }

    /// Takes the steps. A failed step stops what else was planned for its key, and for all in its network; so does one
    /// that failed before and is not due.
    fn work(&mut self, planned: Plan, held: BTreeSet<Key>) -> Worked {
        let mut worked = Worked { held, ..Worked::default() };
        for chunk in planned.ops.chunks(CHUNK) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let before = rest.len();
                let observed = self.observed.as_ref();
                let now = take_runnable(&mut rest, |op| worked.stops(op) || lacks_device(op, observed));
                debug_assert!(rest.len() < before, "every turn takes something");
                let results = self.dataplane.apply(&now);
                for (op, result) in now.iter().zip(results) {
                    self.progress.steps += 1;
                    self.done(op, result, &mut worked);
                }
            }
            self.hear();
        }
        worked
    }

    fn done(&mut self, op: &Op, result: Result<(), OpError>, worked: &mut Worked) {
        let key = op.key();
        match result {
            Ok(()) => {
                tracing::debug!(command = %op, "done");
                if let Some(observed) = &mut self.observed {
                    observed.apply(op);
                }
                if key.is_structure() {
                    worked.touched.insert(key);
                }
            }
            Err(error) => {
                self.progress.failures += 1;
                let again = self.retries.failed(&key);
                if again.attempt == 1 {
                    tracing::warn!(command = %op, %error, retry_in = ?again.wait, "step failed");
                } else {
                    let attempt = again.attempt;
                    tracing::debug!(command = %op, %error, attempt, retry_in = ?again.wait, "step failed");
                }
                self.statuses.failed(&self.desired, &key, format!("{}: {error}", op.brief()));
                worked.failed.insert(key);
            }
        }
    }

    /// Reads networks and ports back that were worked on. What is still not as it should be is tried again later.
    fn verify(&mut self, worked: Worked) {
        let touched: BTreeSet<Key> = worked.touched.difference(&worked.failed).cloned().collect();
        let mut again: BTreeSet<Key> = worked.touched.clone();
        again.extend(worked.failed.iter().cloned());
        let again = again.into_iter().filter(Key::is_structure).collect();
        self.refresh(&again);
        let Some(observed) = &self.observed else { return };
        if touched.is_empty() {
            return;
        }
        let left = plan(&self.desired, observed, &Scope::Keys(touched.clone()));
        let open: BTreeSet<Key> = left.ops.iter().map(Op::key).collect();
        for key in &touched {
            if !open.contains(key) {
                self.retries.succeeded(key);
            }
        }
        for op in &left.ops {
            let key = op.key();
            if worked.stops(op) || self.retries.is_waiting(&key) {
                continue;
            }
            self.retries.failed(&key);
            self.statuses.failed(
                &self.desired,
                &key,
                format!("not as programmed when read back; next: {}", op.brief()),
            );
        }
        self.statuses.add_problems(&self.desired, left.problems);
    }
}

/// What a pass noticed by the way.
pub(super) struct Looked {
    pub(super) addresses: bool,
}

/// What became of a pass' steps.
#[derive(Debug, Default)]
struct Worked {
    touched: BTreeSet<Key>,
    failed: BTreeSet<Key>,
    /// Not tried, since they failed before.
    held: BTreeSet<Key>,
}

impl Worked {
    /// True if a step is pointless: its key has failed, or what it needs first.
    fn stops(&self, op: &Op) -> bool {
        let stopped = |key: &Key| self.failed.contains(key) || self.held.contains(key);
        let key = op.key();
        stopped(&key) || op.after().cloned().or_else(|| key.base()).is_some_and(|first| stopped(&first))
    }
}

/// Takes steps off the front: several entries at once, links one key at a time, so that a failure stops its key. Steps
/// that a failure has made pointless are dropped.
fn take_runnable(rest: &mut &[Op], pointless: impl Fn(&Op) -> bool) -> Vec<Op> {
    let mut taken = Vec::new();
    while let Some((op, behind)) = rest.split_first().filter(|(op, _)| op.is_guard()) {
        *rest = behind;
        if !pointless(op) {
            taken.push(op.clone());
        }
    }
    if !taken.is_empty() {
        return taken;
    }
    let mut first: Option<Key> = None;
    while let Some((op, behind)) = rest.split_first() {
        let key = op.key();
        let single = key.is_structure();
        match &first {
            Some(head) if (single || head.is_structure()) && *head != key => break,
            // Steps inside one namespace go together; on the host one by one.
            Some(_) if single && op.inside().is_none() => break,
            _ => {}
        }
        let host_step = single && op.inside().is_none();
        *rest = behind;
        if pointless(op) {
            continue;
        }
        taken.push(op.clone());
        if host_step {
            break;
        }
        first.get_or_insert(key);
    }
    taken
}

/// True for the entry of a MAC on a port that could not be made: what is wrong is said of the port.
fn lacks_device(op: &Op, observed: Option<&Observed>) -> bool {
    match op {
        Op::FdbSet { place: Place::Local(dev), .. } => {
            observed.is_some_and(|o| !o.ports.contains_key(dev) && !o.lan.links.contains_key(dev))
        }
        _ => false,
    }
}

fn unreachable(observed: &Observed, key: &Key) -> bool {
    let Key::Port(dev) = key else { return false };
    matches!(observed.insides.get(dev), Some(Inside::Unreachable(_)))
}
