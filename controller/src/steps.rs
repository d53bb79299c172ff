//! When ports went through the steps that no transaction tells of: what this controller itself saw, in memory and bounded.
//! It costs the store nothing, and a timeline without it only says less.

use std::collections::{BTreeMap, VecDeque};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::{SystemTime, UNIX_EPOCH};

use causeway_proto::PortKey;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use tokio_util::sync::CancellationToken;

use crate::agents::{Agents, PortProgress};
use crate::fabric::{Fabric, PortNews};
use crate::state::State;

/// Ports that are remembered; the one that was bound longest ago is forgotten first.
const MOST: usize = 20_000;

/// Unix time in milliseconds with its fraction.
pub(crate) fn now() -> f64 {
    millis(SystemTime::now())
}

/// A moment as Unix time in milliseconds with its fraction.
pub(crate) fn millis(at: SystemTime) -> f64 {
    at.duration_since(UNIX_EPOCH).map_or(0.0, |since| since.as_secs_f64() * 1000.0)
}

/// What was seen of one binding; times are Unix milliseconds.
#[derive(Debug, Clone, Copy, Default, PartialEq)]
pub(crate) struct Seen {
    /// Of the binding.
    pub(crate) generation: u64,
    /// When the request for it came here; `None`: it went to another controller.
    pub(crate) requested: Option<f64>,
    /// When the store had committed it.
    pub(crate) committed: Option<f64>,
    /// When its node's kernel was programmed and read back.
    pub(crate) programmed: Option<f64>,
    /// When its routes had been sent to every established peer.
    pub(crate) advertised: Option<f64>,
}

/// What was seen. Cheap to clone.
#[derive(Debug, Clone, Default)]
pub(crate) struct Steps(Arc<Mutex<Table>>);

#[derive(Debug, Default)]
struct Table {
    ports: BTreeMap<PortKey, Seen>,
    /// In the order in which they were first seen.
    order: VecDeque<PortKey>,
}

impl Table {
    /// What is known of this binding; what is known of an older one is forgotten. `None`: a newer one is known.
    fn of(&mut self, key: &PortKey, generation: u64) -> Option<&mut Seen> {
        if !self.ports.contains_key(key) {
            while self.order.len() >= MOST
                && let Some(oldest) = self.order.pop_front()
            {
                self.ports.remove(&oldest);
            }
            self.order.push_back(key.clone());
        }
        let seen = self.ports.entry(key.clone()).or_default();
        if seen.generation < generation {
            *seen = Seen { generation, ..Seen::default() };
        }
        (seen.generation == generation).then_some(seen)
    }
}

impl Steps {
    fn table(&self) -> MutexGuard<'_, Table> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// What was seen of a binding.
    pub(crate) fn of(&self, key: &PortKey, generation: u64) -> Seen {
        let table = self.table();
        table.ports.get(key).filter(|seen| seen.generation == generation).copied().unwrap_or_default()
    }

    /// A binding was committed that was asked for here.
    pub(crate) fn committed(&self, key: &PortKey, generation: u64, requested: f64) {
        if let Some(seen) = self.table().of(key, generation) {
            (seen.requested, seen.committed) = (Some(requested), Some(now()));
        }
    }

    fn programmed(&self, key: &PortKey, generation: u64) {
        if let Some(seen) = self.table().of(key, generation) {
            seen.programmed.get_or_insert_with(now);
        }
    }

    fn advertised(&self, key: &PortKey, generation: u64) {
        if let Some(seen) = self.table().of(key, generation) {
            seen.advertised.get_or_insert_with(now);
        }
    }

    /// Takes down what the agents and the fabric tell, until `cancel`.
    pub(crate) async fn follow(
        self,
        state: State,
        agents: Agents,
        fabric: Fabric,
        cancel: CancellationToken,
    ) {
        let (mut nodes, mut routes) = (agents.news(), fabric.news());
        let work = async {
            loop {
                let (programmed, ports) = tokio::select! {
                    ports = next(&mut nodes) => (true, ports),
                    ports = next(&mut routes) => (false, ports),
                };
                let Some(ports) = ports else { return };
                let snapshot = state.snapshot();
                for key in ports.iter() {
                    let Some(binding) = snapshot.bindings.get(key).filter(|b| b.value.active) else {
                        continue;
                    };
                    let generation = binding.value.generation;
                    if !programmed {
                        if fabric.is_advertised(key) {
                            self.advertised(key, generation);
                        }
                    } else if agents.port_progress(&binding.value, binding.revision)
                        == PortProgress::Programmed
                    {
                        self.programmed(key, generation);
                    }
                }
            }
        };
        cancel.run_until_cancelled(work).await;
    }
}

/// The next news; what was missed because there was too much stays unknown. `None`: there will be none.
async fn next(news: &mut Receiver<PortNews>) -> Option<PortNews> {
    loop {
        match news.recv().await {
            Ok(ports) => return Some(ports),
            Err(RecvError::Lagged(_)) => {}
            Err(RecvError::Closed) => return None,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_new_binding_begins_anew_and_an_old_one_changes_nothing() {
        let (steps, key): (Steps, PortKey) = (Steps::default(), "web/a".parse().unwrap());
        steps.programmed(&key, 1);
        let first = steps.of(&key, 1).programmed;
        steps.programmed(&key, 1);
        assert!(first.is_some() && steps.of(&key, 1).programmed == first, "the first time counts");
        steps.committed(&key, 2, 5.0);
        assert_eq!(steps.of(&key, 1), Seen::default());
        let second = steps.of(&key, 2);
        assert_eq!((second.requested, second.programmed), (Some(5.0), None));
        steps.advertised(&key, 1);
        assert_eq!(steps.of(&key, 2), second);
    }

    #[test]
    fn what_is_remembered_is_bounded() {
        let steps = Steps::default();
        let key = |n: usize| format!("web/p{n}").parse::<PortKey>().unwrap();
        for n in 0..MOST + 10 {
            steps.programmed(&key(n), 1);
        }
        let sizes = |table: &Table| (table.ports.len(), table.order.len());
        assert_eq!(sizes(&steps.table()), (MOST, MOST));
        assert_eq!(steps.of(&key(9), 1), Seen::default());
        assert!(steps.of(&key(10), 1).programmed.is_some());
    }
}
