//! The loop that keeps the kernel at the desired state.
//!
//! It owns desired and observed state. It wakes on a command, on an event of the kernel, when a namespace comes or goes,
//! when a retry is due, and on a period; then it compares what is dirty, takes the steps, reads ports and networks back
//! and reports. A single change among 100,000 entries compares only its own keys.

mod retry;
mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::fabric::Thing;
use crate::kernel::Dataplane;
use crate::local::Local;
use crate::model::{Desired, Key};
use crate::netlink::NetlinkError;
use crate::observed::{Inside, Observed};
use crate::op::Op;
use crate::plan::{Plan, Scope, plan};
use retry::Retries;
use status::Statuses;

/// What the reconciler is told.
#[derive(Debug, Clone)]
pub enum Command {
    /// A complete state.
    Snapshot(Arc<v1::NodeState>),
    /// Changes to it.
    Delta(Arc<v1::NodeDelta>),
    /// Somebody new listens: report everything.
    ReportAll,
}

/// How often what is done.
#[derive(Debug, Clone)]
pub struct Timing {
    /// Between full comparisons.
    pub observe: Duration,
    /// Between looks at the names of workloads' namespaces.
    pub namespaces: Duration,
    /// Between looks at the node as a whole.
    pub checks: Duration,
    /// First and longest wait before a failed step is tried again.
    pub retry: (Duration, Duration),
}

impl Default for Timing {
    fn default() -> Self {
        Timing {
            observe: Duration::from_secs(300),
            namespaces: Duration::from_millis(250),
            checks: Duration::from_secs(5),
            retry: (Duration::from_millis(100), Duration::from_secs(60)),
        }
    }
}

/// What the reconciler has done, for tests, metrics and `READY=1`.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Progress {
    /// Revision that was compared last; 0: none.
    pub revision: u64,
    /// Steps taken.
    pub steps: u64,
    /// Steps that failed.
    pub failures: u64,
    /// Full looks at the kernel.
    pub observed: u64,
    /// Keys that are not at their desired state.
    pub problems: usize,
    /// Passes over something dirty.
    pub passes: u64,
}

/// Steps taken before events are taken in again, so that a large change does not overflow the monitor.
const CHUNK: usize = 512;

/// The loop and all it knows.
#[derive(Debug)]
pub struct Reconciler<D> {
    dataplane: D,
    timing: Timing,
    desired: Desired,
    /// A complete state has been given: before that nothing is touched.
    complete: bool,
    observed: Option<Observed>,
    dirty: Scope,
    retries: Retries,
    statuses: Statuses,
    progress: Progress,
    publish: watch::Sender<Progress>,
    local: watch::Sender<Arc<Local>>,
    checks: fn(&Desired) -> Vec<String>,
}

impl<D: Dataplane> Reconciler<D> {
    /// One that has not begun. `checks` looks at the node as a whole.
    pub fn new(
        dataplane: D,
        timing: Timing,
        statuses: mpsc::Sender<v1::AgentStatus>,
        publish: watch::Sender<Progress>,
        checks: fn(&Desired) -> Vec<String>,
    ) -> Self {
        Reconciler {
            dataplane,
            retries: Retries::new(timing.retry),
            timing,
            desired: Desired::default(),
            complete: false,
            observed: None,
            dirty: Scope::Keys(BTreeSet::new()),
            statuses: Statuses::new(statuses),
            progress: Progress::default(),
            publish,
            local: watch::Sender::default(),
            checks,
        }
    }

    /// What lives on this node, from now on.
    pub fn local(&self) -> watch::Receiver<Arc<Local>> {
        self.local.subscribe()
    }

    /// Runs until cancelled or until nobody can give commands any more. The data plane stays as it is.
    pub async fn run(mut self, mut commands: mpsc::Receiver<Command>, stop: CancellationToken) {
        let now = Instant::now();
        let mut next_observe = now + self.timing.observe;
        let mut next_namespaces = now + self.timing.namespaces;
        let mut next_checks = now;
        loop {
            let work = self.has_work().then(Instant::now);
            let due =
                [Some(next_observe), Some(next_namespaces), Some(next_checks), self.retries.next_due(), work];
            let due = due.into_iter().flatten().min().unwrap_or(next_observe);
            let was_complete = self.complete;
            tokio::select! {
                biased;
                () = stop.cancelled() => return,
                command = commands.recv() => match command {
                    Some(command) => {
                        self.take(command);
                        while let Ok(command) = commands.try_recv() {
                            self.take(command);
                        }
                    }
                    None => return,
                },
                () = self.dataplane.wait() => {}
                () = sleep_until(due) => {}
            }
            if !self.complete {
                // Nothing to compare with: what is heard meanwhile is covered by the first full look.
                next_namespaces = Instant::now() + self.timing.namespaces;
                next_checks = Instant::now() + self.timing.checks;
                next_observe = Instant::now() + self.timing.observe;
                continue;
            }
            let now = Instant::now();
            if !was_complete {
                next_checks = now;
            }
            if now >= next_observe {
                tracing::debug!(cause = "period", "full observe");
                self.observed = None;
                next_observe = now + self.timing.observe;
            }
            if now >= next_namespaces {
                let changed = self.dataplane.changed_namespaces(&self.desired);
                self.refresh(&changed);
                self.mark(changed);
                next_namespaces = now + self.timing.namespaces;
            }
            let due = self.retries.take_due(now, &self.desired);
            self.refresh(&due);
            self.mark(due);
            let looked = self.pass();
            if now >= next_checks || looked.addresses {
                self.look_again();
                self.statuses.set_node_problems((self.checks)(&self.desired));
                next_checks = now + self.timing.checks;
            }
            if self.has_compared_ports() {
                self.statuses.send(&self.desired);
                self.publish_local();
            }
            self.publish_progress();
        }
    }

    /// What keeps a host's ports from being programmed may be a setting, whose change nobody announces.
    fn look_again(&mut self) {
        if self.desired.lan().is_some() && self.statuses.problem_count() > 0 {
            let host = BTreeSet::from([Key::Lan]);
            self.refresh(&host);
            self.mark(host);
        }
    }

    /// Something became dirty while the last pass worked.
    fn has_work(&self) -> bool {
        let dirty = self.observed.is_none() || self.dirty != Scope::Keys(BTreeSet::new());
        self.complete && dirty && !self.retries.waits_for_observe()
    }

    /// Every port has been compared with the kernel: what is not, is not reported as programmed.
    fn has_compared_ports(&self) -> bool {
        let open = match &self.dirty {
            Scope::All => true,
            Scope::Keys(keys) => keys.iter().any(Key::is_structure),
        };
        self.observed.is_some() && !open
    }

    fn publish_local(&self) {
        let local = self.statuses.local(&self.desired);
        self.local.send_if_modified(|old| {
            let changed = **old != local;
            if changed {
                *old = Arc::new(local);
            }
            changed
        });
    }

    fn publish_progress(&mut self) {
        self.progress.revision = self.desired.revision();
        self.progress.problems = self.statuses.problem_count();
        let progress = self.progress.clone();
        self.publish.send_if_modified(|old| {
            let changed = *old != progress;
            *old = progress;
            changed
        });
    }

    fn take(&mut self, command: Command) {
        match command {
            Command::Snapshot(state) => {
                self.desired = Desired::from_state(&state, &self.desired);
                if self.desired.vtep().is_none() && self.desired.lan().is_none() {
                    tracing::error!(vtep = %state.vtep, "state has no usable VTEP, nothing is programmed");
                }
                self.complete = true;
                self.retries.clear();
                self.dirty = Scope::All;
                // Ports may be new: their namespaces have not been looked into.
                self.observed = None;
            }
            Command::Delta(delta) => {
                let keys = self.desired.apply_delta(&delta);
                // What is not ours is looked at only when it is asked for: workloads' namespaces, interfaces that become
                // switch ports.
                let asked = |key: &&Key| match key {
                    Key::Port(_) => true,
                    Key::Fabric(thing) => *thing == Thing::structure(),
                    _ => false,
                };
                let fresh: BTreeSet<Key> = keys.iter().filter(asked).cloned().collect();
                self.retries.forget(&keys);
                self.refresh(&fresh);
                self.mark(keys);
            }
            Command::ReportAll => self.statuses.report_all(),
        }
    }

    fn mark(&mut self, keys: BTreeSet<Key>) {
        if let Scope::Keys(dirty) = &mut self.dirty {
            dirty.extend(keys);
        }
    }

    /// Reads keys back; a failure makes the next pass look at everything.
    fn refresh(&mut self, keys: &BTreeSet<Key>) {
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

    fn pass(&mut self) -> Looked {
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

    fn done(&mut self, op: &Op, result: Result<(), crate::kernel::OpError>, worked: &mut Worked) {
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
struct Looked {
    addresses: bool,
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

#[cfg(test)]
mod tests;
