//! The loop that keeps the kernel at the desired state.
//!
//! It owns desired and observed state. It wakes on a command, on an event of the kernel, when a namespace comes or goes,
//! when a retry is due, and on a period; then it compares what is dirty, takes the steps, reads ports and networks back
//! and reports. A single change among 100,000 entries compares only its own keys.

mod first;
mod pass;
mod retry;
mod status;

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::{PortKey, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep_until};
use tokio_util::sync::CancellationToken;

use crate::acd::{self, Detector, Question};
use crate::fabric::Thing;
use crate::kernel::Dataplane;
use crate::local::Local;
use crate::model::{Desired, Key};
use crate::observed::Observed;
use crate::plan::Scope;
use first::Firsts;
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
    firsts: Firsts,
    detector: Detector,
}

impl<D: Dataplane> Reconciler<D> {
    /// One that has not begun. `checks` looks at the node as a whole, `detector` asks who else has an address.
    pub fn new(
        dataplane: D,
        timing: Timing,
        statuses: mpsc::Sender<v1::AgentStatus>,
        publish: watch::Sender<Progress>,
        checks: fn(&Desired) -> Vec<String>,
        detector: Detector,
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
            firsts: Firsts::default(),
            detector,
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
            let due = [
                Some(next_observe),
                Some(next_namespaces),
                Some(next_checks),
                self.retries.next_due(),
                self.firsts.next_due(),
                work,
            ];
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
                Some(answer) = self.detector.answers.recv() => {
                    let keys = self.firsts.answer(answer, &mut self.desired, Instant::now());
                    self.mark(keys);
                }
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
                self.retries.forget(&changed);
                self.refresh(&changed);
                self.mark(changed);
                next_namespaces = now + self.timing.namespaces;
            }
            let due = self.retries.take_due(now, &self.desired);
            self.refresh(&due);
            self.mark(due);
            let looked = self.pass();
            self.ask();
            if now >= next_checks || looked.addresses {
                self.look_again();
                self.statuses.set_node_problems((self.checks)(&self.desired));
                next_checks = now + self.timing.checks;
            }
            if self.has_compared_ports() {
                self.statuses.send(&self.desired, &self.firsts);
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
        let local = self.statuses.local(&self.desired, &self.firsts);
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
                // Whoever sent them waits for an answer, also if it is the same as before.
                delta.ports.iter().for_each(|port| self.statuses.renew(&port.id));
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
        self.forget_local();
    }

    /// What is to leave is not ready from now on, however long it takes to be gone.
    fn forget_local(&self) {
        let stays = |id: &PortKey| self.desired.lives_here(id);
        self.local.send_if_modified(|local| {
            let leave = !local.ports.keys().all(stays);
            if leave {
                Arc::make_mut(local).ports.retain(|id, _| stays(id));
            }
            leave
        });
    }

    /// Has networks asked for the addresses of ports that wait for it. Their networks have been looked at by then.
    fn ask(&mut self) {
        let now = Instant::now();
        for id in self.firsts.due(now) {
            let Some((port, observed)) = self.desired.ports().get(&id).zip(self.observed.as_ref()) else {
                self.firsts.not_yet(&id, now);
                continue;
            };
            let Some(wires) = acd::wires(&self.desired, observed, port) else {
                self.firsts.not_yet(&id, now);
                continue;
            };
            let (vni, wait) = (port.vni, Duration::from_millis(port.address_check_ms.into()));
            let addresses = port.addresses.iter().map(|address| address.ip).collect();
            if wires.is_empty() {
                let keys = self.firsts.skip(&id, &mut self.desired);
                self.mark(keys);
                continue;
            }
            let Ok(room) = self.detector.questions.try_reserve() else {
                self.firsts.not_yet(&id, now);
                continue;
            };
            if let Some(serial) = self.firsts.asked(&id) {
                room.send(Question { serial, port: id, vni, addresses, wires, wait });
            }
        }
    }

    fn mark(&mut self, keys: BTreeSet<Key>) {
        if let Scope::Keys(dirty) = &mut self.dirty {
            dirty.extend(keys);
        }
    }
}

#[cfg(test)]
mod tests;
