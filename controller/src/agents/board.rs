//! What nodes say of themselves: this controller's own sessions to the last detail, others' by their records.

use std::collections::{BTreeMap, BTreeSet};

use causeway_proto::{Name, PortKey, Revision};
use serde::{Deserialize, Serialize};

use crate::derive::Stage;
use crate::model::Binding;
use crate::ports::Hearing;
use crate::snapshot::Snapshot;

/// Failed ports that a record names; more are counted in words. Keeps the record far below what a store takes.
const FAILED_LIMIT: usize = 1000;

/// What a node last said, as all controllers know it.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct NodeReport {
    /// Version of its agent.
    #[serde(default)]
    pub(crate) version: String,
    /// Up to this revision every port is programmed or named in `failed`.
    #[serde(default)]
    pub(crate) applied: Revision,
    /// Ports that could not be programmed.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) failed: Vec<FailedPort>,
    /// What is wrong with the node as a whole.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub(crate) problems: Vec<String>,
}

/// A port that its node could not program.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct FailedPort {
    pub(crate) port: PortKey,
    pub(crate) generation: u64,
    pub(crate) problem: String,
    /// Its workload is not there.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub(crate) absent: bool,
}

/// Who is connected as a node, and to which controller.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct ClaimRecord {
    /// The agent's instance id.
    pub(crate) instance: String,
    /// Name of the controller that has the session.
    pub(crate) controller: String,
}

/// How far a bound port is on its node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum PortProgress {
    /// The node has not said yet.
    Waiting,
    /// Programmed and read back.
    Programmed,
    /// Why not.
    Failed(String),
}

/// A port that was sent to an agent which has not answered for it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Pending {
    generation: u64,
    stage: Stage,
    bound_at: Revision,
    /// Revision of the state that was sent.
    told: Revision,
}

/// Why a port is not programmed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) generation: u64,
    pub(super) problem: String,
    pub(super) absent: bool,
}

/// A port whose agent does not find its workload.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Absent {
    pub(crate) node: Name,
    pub(crate) port: PortKey,
    pub(crate) generation: u64,
    pub(crate) problem: String,
}

#[derive(Debug, Default)]
struct Entry {
    claim: Option<ClaimRecord>,
    version: String,
    problems: Vec<String>,
    failed: BTreeMap<PortKey, Failure>,
    /// What its record says, or what the agent said last.
    applied: Revision,
    local: Option<Local>,
    /// Since when its agent has not been connected, in Unix milliseconds, if that was seen.
    silent_ms: Option<i64>,
}

/// What only the controller with the session knows.
#[derive(Debug, Default)]
struct Local {
    told: Revision,
    /// Up to here there was something to tell: an agent that has done that has done everything it was told.
    sent: Revision,
    pending: BTreeMap<PortKey, Pending>,
    /// What the agent has said to be programmed, in this session.
    said: BTreeMap<PortKey, (u64, Stage)>,
}

/// A port as it was sent to a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortTold {
    pub(super) port: PortKey,
    pub(super) generation: u64,
    pub(super) stage: Stage,
    /// Revision of the change that made it so.
    pub(super) at: Revision,
}

/// How much an agent was sent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Sent {
    /// All that its node shall be.
    All,
    /// What changed.
    Some,
    /// Nothing: nothing changed for it.
    Nothing,
}

/// All nodes.
#[derive(Debug, Default)]
pub(super) struct Board {
    /// What the store says of them has been read once.
    is_read: bool,
    nodes: BTreeMap<Name, Entry>,
    dirty: BTreeSet<Name>,
}

/// What an agent says of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct PortSaid {
    pub(super) port: PortKey,
    pub(super) generation: u64,
    pub(super) stage: Stage,
    /// `Err`: why it is not programmed.
    pub(super) result: Result<(), String>,
    /// Its workload is not there.
    pub(super) absent: bool,
}

impl FailedPort {
    fn split(self) -> (PortKey, Failure) {
        let FailedPort { port, generation, problem, absent } = self;
        (port, Failure { generation, problem, absent })
    }
}

impl Board {
    /// How far a port is; `bound_at` is the revision of its binding.
    pub(super) fn port_progress(&self, binding: &Binding, bound_at: Revision) -> PortProgress {
        self.progress(&binding.node, &binding.port, binding.generation, bound_at)
    }

    /// How far a node is with a port that shall be as some change at `bound_at` made it.
    pub(super) fn progress(
        &self,
        node: &Name,
        key: &PortKey,
        generation: u64,
        bound_at: Revision,
    ) -> PortProgress {
        let Some(entry) = self.nodes.get(node) else { return PortProgress::Waiting };
        if let Some(failure) = entry.failed.get(key)
            && failure.generation == generation
        {
            return PortProgress::Failed(failure.problem.clone());
        }
        let programmed = match &entry.local {
            Some(local) => bound_at <= local.told && !local.pending.contains_key(key),
            None => bound_at <= entry.applied,
        };
        if programmed { PortProgress::Programmed } else { PortProgress::Waiting }
    }

    pub(super) fn node(&self, node: &Name) -> (NodeReport, bool) {
        match self.nodes.get(node) {
            Some(entry) => (entry.report(), entry.claim.is_some()),
            None => (NodeReport::default(), false),
        }
    }

    /// Ports whose workloads are not there, as connected agents say.
    pub(super) fn absent(&self) -> Vec<Absent> {
        let connected = self.nodes.iter().filter(|(_, entry)| entry.claim.is_some());
        let ports = connected.flat_map(|(node, entry)| entry.failed.iter().map(move |failed| (node, failed)));
        ports
            .filter(|(_, (_, failure))| failure.absent)
            .map(|(node, (port, failure))| Absent {
                node: node.clone(),
                port: port.clone(),
                generation: failure.generation,
                problem: failure.problem.clone(),
            })
            .collect()
    }

    /// What the store says was read.
    pub(super) fn read(&mut self) {
        self.is_read = true;
    }

    /// What is heard of a node.
    pub(super) fn hearing(&self, node: &Name) -> Hearing {
        let Some(entry) = self.nodes.get(node) else {
            // Before the store was read once, nobody can say that a node never had an agent.
            return Hearing { known: !self.is_read, ..Hearing::default() };
        };
        Hearing {
            connected: entry.claim.is_some(),
            known: entry.claim.is_some() || !entry.version.is_empty() || entry.applied > Revision::default(),
            applied: entry.applied_for_others(),
            silent_ms: entry.silent_ms,
        }
    }

    /// A session of this controller begins.
    pub(super) fn begin(&mut self, node: &Name, claim: ClaimRecord, version: String) -> Vec<PortKey> {
        let entry = self.nodes.entry(node.clone()).or_default();
        entry.claim = Some(claim);
        entry.silent_ms = None;
        entry.version = version;
        // Until the agent has said something of its own, what is known of it holds.
        entry.local = Some(Local { told: entry.applied, ..Local::default() });
        self.dirty.insert(node.clone());
        Vec::new()
    }

    /// A session of this controller ends.
    pub(super) fn end(&mut self, node: &Name, now_ms: i64) -> Vec<PortKey> {
        let Some(entry) = self.nodes.get_mut(node) else { return Vec::new() };
        entry.applied = entry.applied_for_others();
        let pending = entry.local.take().map(|local| local.pending).unwrap_or_default();
        entry.claim = None;
        entry.silent_ms = Some(now_ms);
        self.dirty.insert(node.clone());
        pending.into_keys().collect()
    }

    /// The agent was told everything up to a revision: what is new or different is open until it answers. `sent`: there
    /// was something to tell, or nothing; all its ports, or some.
    pub(super) fn told(
        &mut self,
        node: &Name,
        revision: Revision,
        sent: Sent,
        set: impl Iterator<Item = PortTold>,
        gone: &BTreeSet<PortKey>,
    ) -> Vec<PortKey> {
        let Some(entry) = self.nodes.get_mut(node) else { return Vec::new() };
        let Some(local) = &mut entry.local else { return Vec::new() };
        let (all, something) = (sent == Sent::All, sent != Sent::Nothing);
        let known = local.told;
        let mut changed = Vec::new();
        let mut kept = BTreeSet::new();
        if something {
            local.sent = revision;
        }
        for PortTold { port: key, generation, stage, at: bound_at } in set {
            kept.insert(key.clone());
            let failed = entry.failed.get(&key).is_some_and(|f| f.generation == generation);
            // A whole state names ports that are long since programmed.
            if !all || (bound_at > known && !failed) {
                let pending = Pending { generation, stage, bound_at, told: revision };
                local.pending.insert(key.clone(), pending);
                changed.push(key);
            }
        }
        let is_gone = |key: &PortKey| if all { !kept.contains(key) } else { gone.contains(key) };
        local.pending.retain(|key, _| !is_gone(key));
        local.said.retain(|key, _| !is_gone(key));
        entry.failed.retain(|key, _| !is_gone(key));
        local.told = local.told.max(revision);
        self.dirty.insert(node.clone());
        changed
    }

    /// What the agent says.
    pub(super) fn said(
        &mut self,
        node: &Name,
        revision: Revision,
        ports: Vec<PortSaid>,
        problems: Vec<String>,
    ) -> Vec<PortKey> {
        let Some(entry) = self.nodes.get_mut(node) else { return Vec::new() };
        let Some(local) = &mut entry.local else { return Vec::new() };
        let mut changed = Vec::new();
        for PortSaid { port, generation, stage, result, absent } in ports {
            match result {
                Ok(()) => {
                    entry.failed.remove(&port);
                    local.said.insert(port.clone(), (generation, stage));
                }
                Err(problem) => {
                    entry.failed.insert(port.clone(), Failure { generation, problem, absent });
                    local.said.remove(&port);
                }
            }
            // An answer for an older binding, or for another stage, does not close the newer one.
            let closes =
                |p: &Pending| p.generation < generation || (p.generation == generation && p.stage == stage);
            if local.pending.get(&port).is_some_and(closes) {
                local.pending.remove(&port);
            }
            changed.push(port);
        }
        // It names only what is different from what it said last. A rate is nothing that it says; and what came and went
        // again before it could say so it never names.
        let said = &local.said;
        let as_it_was = |port: &PortKey, open: &Pending| {
            open.told <= revision && said.get(port) == Some(&(open.generation, open.stage))
        };
        let closed = local.pending.extract_if(.., |port, open| as_it_was(port, open));
        changed.extend(closed.map(|(port, _)| port));
        entry.applied = revision.min(local.told);
        entry.problems = problems;
        self.dirty.insert(node.clone());
        changed
    }

    /// Another controller's record of a node. Says which ports' state that may change.
    pub(super) fn heard(
        &mut self,
        snapshot: &Snapshot,
        node: &Name,
        report: Option<NodeReport>,
    ) -> Vec<PortKey> {
        let entry = self.nodes.entry(node.clone()).or_default();
        if entry.local.is_some() {
            return Vec::new();
        }
        let report = report.unwrap_or_default();
        let (before, applied) = (entry.applied, report.applied);
        let mut changed: BTreeSet<PortKey> = entry.failed.keys().cloned().collect();
        entry.applied = applied;
        entry.version = report.version;
        entry.problems = report.problems;
        entry.failed = report.failed.into_iter().map(FailedPort::split).collect();
        changed.extend(entry.failed.keys().cloned());
        let between = before.min(applied)..=before.max(applied);
        let moved = snapshot.bindings_at(node).filter(|binding| between.contains(&binding.revision));
        changed.extend(moved.map(|binding| binding.value.port.clone()));
        changed.extend(snapshot.moving_at(node).cloned());
        changed.into_iter().collect()
    }

    /// Another controller's claim, or the end of one.
    pub(super) fn claimed(&mut self, node: &Name, claim: Option<ClaimRecord>, now_ms: i64) {
        let entry = self.nodes.entry(node.clone()).or_default();
        if entry.local.is_none() {
            entry.silent_ms = match &claim {
                Some(_) => None,
                None if entry.claim.is_some() => Some(now_ms),
                None => entry.silent_ms,
            };
            entry.claim = claim;
        }
    }

    /// Nodes that are known here from claims of others: for what a new listing does not show any more.
    pub(super) fn remote_nodes(&self) -> Vec<Name> {
        self.nodes.iter().filter(|(_, entry)| entry.local.is_none()).map(|(name, _)| name.clone()).collect()
    }

    /// The node is gone.
    pub(super) fn forget(&mut self, node: &Name) {
        self.nodes.remove(node);
        self.dirty.remove(node);
    }

    /// Reports to write, each once.
    pub(super) fn take_dirty(&mut self, limit: usize) -> Vec<(Name, NodeReport)> {
        let names: Vec<Name> = self.dirty.iter().take(limit).cloned().collect();
        let mut reports = Vec::new();
        for name in names {
            self.dirty.remove(&name);
            reports.extend(self.nodes.get(&name).map(|entry| (name, entry.report())));
        }
        reports
    }

    /// They were not written.
    pub(super) fn put_back(&mut self, names: impl Iterator<Item = Name>) {
        self.dirty.extend(names);
    }
}

impl Entry {
    /// The revision up to which everything is answered.
    fn applied_for_others(&self) -> Revision {
        let open = self.local.iter().flat_map(|local| local.pending.values().map(|p| p.bound_at)).min();
        let applied = match &self.local {
            // What happened since does not concern it.
            Some(local) if self.applied >= local.sent => self.applied.max(local.told),
            _ => self.applied,
        };
        match open {
            Some(open) => applied.min(Revision(open.0.saturating_sub(1))),
            None => applied,
        }
    }

    fn report(&self) -> NodeReport {
        let mut problems = self.problems.clone();
        if self.failed.len() > FAILED_LIMIT {
            problems.push(format!("{} more ports failed", self.failed.len() - FAILED_LIMIT));
        }
        let failed = self.failed.iter().take(FAILED_LIMIT).map(|(port, failure)| FailedPort {
            port: port.clone(),
            generation: failure.generation,
            problem: failure.problem.clone(),
            absent: failure.absent,
        });
        NodeReport {
            version: self.version.clone(),
            applied: self.applied_for_others(),
            failed: failed.collect(),
            problems,
        }
    }
}

#[cfg(test)]
mod tests;
