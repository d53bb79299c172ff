//! Ports that leaked: bound to a node whose agent is connected, has all its ports, and does not find their workload. A
//! container that was removed without a word to its scheduler's plug-in leaves such a port, and nobody would ever
//! release it.
//!
//! A port is leaked when that was seen at least twice, with the grace period between, and at no look in between was it
//! otherwise: an agent that is away says nothing of its ports, which begins the count anew. All controllers look; the
//! one that leads gives leaked ports up, if it is told to, in a transaction that compares what its agent last said.
//! Whoever has such a port again by its name, within the quarantine, has the same addresses.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_proto::{Name, PortKey, Revision};
use prometheus_client::metrics::gauge::Gauge;
use tokio::time::Instant;

use crate::agents::{Absent, Agents, absence};
use crate::config::{LeakedAction, LeakedPorts};
use crate::election::Election;
use crate::ports::{PortError, Ports};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::store::Store;

/// Between two looks, at most; with a short grace period half of that.
const PERIOD: Duration = Duration::from_secs(15);
/// Looks that must agree.
const LOOKS: u32 = 2;
/// Ports given up after one look.
const ROUND: usize = 1_000;

/// A port whose workload is not there.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The port.
    pub port: PortKey,
    /// Where it is bound.
    pub node: Name,
    /// Generation of its binding.
    pub generation: u64,
    /// What the agent says.
    pub problem: String,
    /// For how long that has been seen.
    pub since: Duration,
}

#[derive(Debug, Clone)]
struct Sighting {
    absent: Absent,
    first: Duration,
    last: Duration,
    looks: u32,
}

/// What was seen.
#[derive(Debug, Default)]
pub(crate) struct Sightings {
    seen: BTreeMap<PortKey, Sighting>,
}

impl Sightings {
    /// A look at `now`, any time that only grows: these are the ports whose workloads are not there.
    pub(crate) fn look(&mut self, snapshot: &Snapshot, absent: Vec<Absent>, now: Duration) {
        let mut seen = BTreeMap::new();
        for absent in absent.into_iter().filter(|absent| is_there(snapshot, absent)) {
            let same =
                |s: &Sighting| s.absent.node == absent.node && s.absent.generation == absent.generation;
            let before = self.seen.remove(&absent.port).filter(same);
            let (first, looks) = before.map_or((now, 0), |s| (s.first, s.looks));
            seen.insert(
                absent.port.clone(),
                Sighting { absent, first, last: now, looks: looks.saturating_add(1) },
            );
        }
        self.seen = seen;
    }

    /// Those that leaked.
    pub(crate) fn leaked(&self, grace: Duration) -> Vec<Leak> {
        let over = |s: &&Sighting| s.looks >= LOOKS && s.last.saturating_sub(s.first) >= grace;
        let leak = |s: &Sighting| Leak {
            port: s.absent.port.clone(),
            node: s.absent.node.clone(),
            generation: s.absent.generation,
            problem: s.absent.problem.clone(),
            since: s.last.saturating_sub(s.first),
        };
        self.seen.values().filter(over).map(leak).collect()
    }
}

/// True if the store has the port there, as the agent speaks of it, and it is not on its way elsewhere.
fn is_there(snapshot: &Snapshot, absent: &Absent) -> bool {
    let bound = snapshot.bindings.get(&absent.port).is_some_and(|record| {
        let binding = &record.value;
        binding.active && binding.node == absent.node && binding.generation == absent.generation
    });
    let in_use = snapshot.ports.get(&absent.port).is_some_and(|port| port.value.released_ms.is_none());
    bound && in_use && snapshot.moving(&absent.port).is_none()
}

/// Finds leaked ports, and gives them up. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Leaks {
    store: Arc<dyn Store>,
    ports: Ports,
    settings: LeakedPorts,
    sightings: Arc<Mutex<Sightings>>,
}

impl Leaks {
    pub(crate) fn new(store: Arc<dyn Store>, ports: Ports, settings: LeakedPorts) -> Self {
        Leaks { store, ports, settings, sightings: Arc::default() }
    }

    /// Those that leaked, as far as this controller has seen.
    pub(crate) fn leaked(&self) -> Vec<Leak> {
        self.sightings().leaked(Duration::from_secs(self.settings.grace_seconds.into()))
    }

    /// Looks again and again, until it is dropped.
    pub(crate) async fn follow(self, state: State, agents: Agents, election: Election, leaked: Gauge) {
        let begun = Instant::now();
        let period = PERIOD.min(Duration::from_secs(self.settings.grace_seconds.into()) / 2);
        loop {
            self.sightings().look(&state.snapshot(), agents.absent(), begun.elapsed());
            let found = self.leaked();
            leaked.set(i64::try_from(found.len()).unwrap_or(i64::MAX));
            if self.settings.action == LeakedAction::Collect && election.is_leading() {
                for leak in found.iter().take(ROUND) {
                    match self.collect(&self.ports, leak).await {
                        Ok(Some(_)) => {
                            tracing::warn!(port = %leak.port, node = %leak.node, "leaked port given up")
                        }
                        Ok(None) => {}
                        Err(error) => tracing::warn!(port = %leak.port, %error, "leaked port not given up"),
                    }
                }
            }
            tokio::time::sleep(period).await;
        }
    }

    /// Gives one up, in the name of `ports`; `None` if it is not leaked any more.
    pub(crate) async fn collect(&self, ports: &Ports, leak: &Leak) -> Result<Option<Revision>, PortError> {
        let Some(evidence) = absence(self.store.as_ref(), &leak.node, &leak.port, leak.generation).await?
        else {
            return Ok(None);
        };
        let cause = format!(
            "leaked: node {} has not found its workload for {} s: {}",
            leak.node,
            leak.since.as_secs(),
            leak.problem
        );
        match ports.collect(leak.port.clone(), leak.generation, evidence, cause).await {
            Ok(revision) => Ok(Some(revision)),
            // Its agent said something since, or somebody else changed it: the next look tells.
            Err(PortError::Precondition { .. } | PortError::Aborted { .. }) => Ok(None),
            Err(error) => Err(error),
        }
    }

    fn sightings(&self) -> std::sync::MutexGuard<'_, Sightings> {
        self.sightings.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

#[cfg(test)]
mod tests;
