//! One pass: what is dirty is compared, the steps are taken, and what they were for is read back.

use std::collections::BTreeSet;

use super::Reconciler;
use crate::kernel::{Dataplane, OpError};
use crate::model::Key;
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
        self.statuses.begin(&self.desired, &scope, &planned);
        // Names of namespaces are watched; what else keeps one shut is tried again.
        for key in planned.problems.keys().filter(|key| unreachable(observed, key)) {
            self.retries.failed(key);
        }
        let worked = self.work(planned);
        self.verify(worked);
        Looked { addresses }
    }

    /// Takes the steps. A failed step stops what else was planned for its key, and for all in its network.
    fn work(&mut self, planned: Plan) -> Worked {
        let mut worked = Worked::default();
        for chunk in planned.ops.chunks(CHUNK) {
            let mut rest = chunk;
            while !rest.is_empty() {
                let before = rest.len();
                let now: Vec<Op> = take_runnable(&mut rest, &worked.failed);
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
        let mut again: BTreeSet<Key> = worked.touched;
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
            let network_failed = key.base().is_some_and(|n| worked.failed.contains(&n));
            if worked.failed.contains(&key) || network_failed || self.retries.is_waiting(&key) {
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
}

/// Takes steps off the front: several entries at once, links one key at a time, so that a failure stops its key. Steps
/// that a failure has made pointless are dropped.
fn take_runnable(rest: &mut &[Op], failed: &BTreeSet<Key>) -> Vec<Op> {
    let mut taken = Vec::new();
    while let Some((op, behind)) = rest.split_first().filter(|(op, _)| op.is_guard()) {
        *rest = behind;
        if !failed.contains(&op.key()) {
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
        let after = op.after().cloned().or_else(|| key.base());
        if failed.contains(&key) || after.is_some_and(|n| failed.contains(&n)) {
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

fn unreachable(observed: &Observed, key: &Key) -> bool {
    let Key::Port(dev) = key else { return false };
    matches!(observed.insides.get(dev), Some(Inside::Unreachable(_)))
}
