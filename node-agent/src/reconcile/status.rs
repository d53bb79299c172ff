//! What to tell the controller: per port and for the node as a whole, only what changed.

use std::collections::{BTreeMap, BTreeSet};

use causeway_proto::v1;
use tokio::sync::mpsc;
use tokio::sync::mpsc::error::TrySendError;

use super::first::{self, Firsts};
use crate::acd::Evidence;
use crate::dev::Dev;
use crate::local::{Local, LocalNetwork, LocalPort};
use crate::model::{Attach, Desired, Item, Key, Port, Stage};
use crate::netns::identify;
use crate::plan::{Plan, Scope};

/// More node problems than this are counted, not listed.
const LISTED: usize = 20;

#[derive(Debug, Clone, PartialEq, Eq)]
struct PortState {
    generation: u64,
    stage: v1::PortStage,
    problem: Option<String>,
    duplicate: Option<Evidence>,
    /// Its namespace does not exist.
    absent: bool,
}

#[derive(Debug)]
pub(super) struct Statuses {
    out: mpsc::Sender<v1::AgentStatus>,
    /// Keys that are not at their desired state.
    problems: BTreeMap<Key, String>,
    node: Vec<String>,
    reported: BTreeMap<String, PortState>,
    reported_node: Option<(u64, Vec<String>)>,
}

impl Statuses {
    pub(super) fn new(out: mpsc::Sender<v1::AgentStatus>) -> Self {
        Statuses {
            out,
            problems: BTreeMap::new(),
            node: Vec::new(),
            reported: BTreeMap::new(),
            reported_node: None,
        }
    }

    pub(super) fn problem_count(&self) -> usize {
        self.problems.len()
    }

    pub(super) fn report_all(&mut self) {
        self.reported.clear();
        self.reported_node = None;
    }

    /// Says of a port what there is to say, even if that was said before.
    pub(super) fn renew(&mut self, id: &str) {
        self.reported.remove(id);
    }

    pub(super) fn set_node_problems(&mut self, problems: Vec<String>) {
        for problem in problems.iter().filter(|p| !self.node.contains(p)) {
            tracing::warn!(%problem, "node problem");
        }
        self.node = problems;
    }

    /// A pass over `scope` begins: what was known of it is void but for what is `held`, what the plan could not solve is
    /// known.
    pub(super) fn begin(&mut self, desired: &Desired, scope: &Scope, planned: &Plan, held: &BTreeSet<Key>) {
        let old = match scope {
            Scope::All => std::mem::take(&mut self.problems),
            Scope::Keys(keys) => {
                let macs = keys.iter().filter_map(|key| match key {
                    Key::Port(dev) => desired.port_at(dev).map(|p| Key::Mac(p.vni, p.mac)),
                    _ => None,
                });
                // A device of switching or routing is compared with all that is on it.
                let whole = keys.iter().any(|k| matches!(k, Key::Fabric(t) if t.is_structure()));
                let fabric = self.problems.keys().filter(|k| whole && matches!(k, Key::Fabric(_)));
                let keys: BTreeSet<Key> = macs.chain(keys.iter().cloned()).chain(fabric.cloned()).collect();
                let mut old = BTreeMap::new();
                for key in keys {
                    if let Some((key, problem)) = self.problems.remove_entry(&key) {
                        old.insert(key, problem);
                    }
                }
                old
            }
        };
        let kept = old.iter().filter(|(key, _)| held.contains(key));
        self.problems.extend(kept.map(|(key, problem)| (key.clone(), problem.clone())));
        for (key, problem) in &planned.problems {
            if old.get(key) != Some(problem) {
                tracing::warn!(subject = %subject(desired, key), %problem, "cannot be programmed");
            }
            self.problems.insert(key.clone(), problem.clone());
        }
    }

    pub(super) fn failed(&mut self, desired: &Desired, key: &Key, problem: String) {
        tracing::debug!(subject = %subject(desired, key), %problem, "failed");
        self.problems.insert(key.clone(), problem);
    }

    pub(super) fn add_problems(&mut self, desired: &Desired, problems: BTreeMap<Key, String>) {
        for (key, problem) in problems {
            if self.problems.get(&key) != Some(&problem) {
                tracing::warn!(subject = %subject(desired, &key), %problem, "cannot be programmed");
                self.problems.insert(key, problem);
            }
        }
    }

    fn port_state(&self, desired: &Desired, firsts: &Firsts, port: &Port) -> PortState {
        // The cause before what follows from it.
        let keys =
            [Key::Lan, Key::Network(port.vni), Key::Port(Dev::port(&port.id)), Key::Mac(port.vni, port.mac)];
        let problem = keys.iter().find_map(|key| self.problems.get(key)).cloned();
        // Only what is in a namespace can be known to be gone: a VM that does not run keeps its tap.
        let absent = problem.is_some() && port.attach != Attach::Tap && identify(&port.netns).is_none();
        let found = firsts.evidence(&port.id).filter(|_| desired.is_held(&port.id));
        match found {
            Some(found) if problem.is_none() => PortState {
                generation: port.generation,
                stage: v1::PortStage::Active,
                problem: Some(first::words(found, port)),
                duplicate: Some(found.clone()),
                absent: false,
            },
            _ => PortState {
                generation: port.generation,
                stage: stage(port.stage),
                problem,
                duplicate: None,
                absent,
            },
        }
    }

    /// Sends what changed since the last time, if anything.
    pub(super) fn send(&mut self, desired: &Desired, firsts: &Firsts) {
        let states = self.states(desired, firsts);
        let changed = states.iter().filter(|(id, state)| self.reported.get(*id) != Some(state));
        let ports: Vec<v1::PortStatus> = changed.map(|(id, state)| message(id, state)).collect();
        let node = (desired.revision(), self.node_problems(desired));
        if ports.is_empty() && self.reported_node.as_ref() == Some(&node) {
            return;
        }
        let (revision, problems) = node.clone();
        match self.out.try_send(v1::AgentStatus { revision, ports, problems }) {
            Ok(()) => {
                self.log_changes(&states);
                self.reported = states;
                self.reported_node = Some(node);
            }
            // Nobody takes them off: whoever comes asks for all. Tried again with the next change or check.
            Err(TrySendError::Full(_) | TrySendError::Closed(_)) => {}
        }
    }

    fn states(&self, desired: &Desired, firsts: &Firsts) -> BTreeMap<String, PortState> {
        let state = |port: &Port| (port.id.to_string(), self.port_state(desired, firsts, port));
        let mut states: BTreeMap<String, PortState> = desired.ports().values().map(state).collect();
        for (item, rejected) in desired.rejected() {
            if let Item::Port(id) = item {
                let problem = Some(rejected.reason.clone());
                let stage = v1::PortStage::Unspecified;
                let generation = rejected.generation;
                states.insert(
                    id.clone(),
                    PortState { generation, stage, problem, duplicate: None, absent: false },
                );
            }
        }
        states
    }

    /// What lives here, for others.
    pub(super) fn local(&self, desired: &Desired, firsts: &Firsts) -> Local {
        let problem = |port: &Port| {
            let waits = || "its network is asked whether somebody has its addresses".to_owned();
            let problem = self.port_state(desired, firsts, port).problem;
            problem.or_else(|| desired.is_held(&port.id).then(waits))
        };
        let port = |port: &Port| LocalPort {
            vni: port.vni,
            mac: port.mac,
            addresses: port.addresses.clone(),
            netns: port.netns.clone(),
            interface: port.interface.clone(),
            attach: port.attach,
            generation: port.generation,
            problem: problem(port),
        };
        let rejected = desired.rejected().iter().filter_map(|(item, why)| match item {
            Item::Port(id) => Some((id.parse().ok()?, (why.generation, why.reason.clone()))),
            _ => None,
        });
        Local {
            node: desired.node().to_owned(),
            networks: LocalNetwork::all(desired),
            ports: desired
                .ports()
                .iter()
                .filter(|(id, _)| desired.lives_here(id))
                .map(|(id, found)| (id.clone(), port(found)))
                .collect(),
            rejected: rejected.collect(),
        }
    }

    fn log_changes(&self, states: &BTreeMap<String, PortState>) {
        for (port, state) in states {
            if self.reported.get(port) != Some(state) && state.problem.is_none() {
                let stage = state.stage.as_str_name();
                tracing::info!(%port, generation = state.generation, stage, "port programmed");
            }
        }
    }

    fn node_problems(&self, desired: &Desired) -> Vec<String> {
        let rejected = desired.rejected().iter().filter(|(item, _)| !matches!(item, Item::Port(_)));
        let rejected = rejected.map(|(item, why)| format!("{item}: {}", why.reason));
        let others = self.problems.iter().filter(|(key, _)| match key {
            Key::Port(_) => false,
            Key::Mac(vni, mac) => !matches!(desired.place(*vni, *mac), Some(crate::model::Place::Local(_))),
            _ => true,
        });
        let others = others.map(|(key, why)| format!("{}: {why}", subject(desired, key)));
        let mut all: Vec<String> = self.node.iter().cloned().chain(rejected).chain(others).collect();
        if all.len() > LISTED {
            let more = all.len() - LISTED;
            all.truncate(LISTED);
            all.push(format!("and {more} more"));
        }
        all
    }
}

fn message(id: &str, state: &PortState) -> v1::PortStatus {
    v1::PortStatus {
        port: id.to_owned(),
        generation: state.generation,
        programmed: state.problem.is_none(),
        problem: state.problem.clone().unwrap_or_default(),
        stage: state.stage.into(),
        duplicate: state.duplicate.as_ref().map(|found| v1::Duplicate {
            address: found.address.to_string(),
            mac: found.mac.to_string(),
            interface: found.interface.to_string(),
            seen_ms: found.seen_ms,
        }),
        absent: state.absent,
    }
}

fn stage(stage: Stage) -> v1::PortStage {
    match stage {
        Stage::Active => v1::PortStage::Active,
        Stage::Prepared => v1::PortStage::Prepared,
        Stage::Held => v1::PortStage::Held,
    }
}

/// A key in words of the controller.
fn subject(desired: &Desired, key: &Key) -> String {
    match key {
        Key::Lan => "uplinks".to_owned(),
        Key::Network(vni) => match desired.networks().get(vni) {
            Some(network) => format!("network {} (VNI {vni})", network.name),
            None => format!("VNI {vni}"),
        },
        Key::Port(dev) => match desired.port_at(dev) {
            Some(port) => format!("port {}", port.id),
            None => format!("interface {dev}"),
        },
        Key::Mac(vni, mac) => format!("MAC {mac} of VNI {vni}"),
        Key::Flood(vni, vtep) => format!("flood target {vtep} of VNI {vni}"),
        Key::Neigh(vni, ip) => format!("neighbour {ip} of VNI {vni}"),
        Key::Fabric(thing) => thing.to_string(),
    }
}
