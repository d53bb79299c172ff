//! Takes the steps of moves under way: each controller for all moves, as far as it knows what they wait for. A step is
//! one transaction that compares the move and the binding, so that of several controllers one takes it.

mod measure;
mod probe;

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::{PortKey, Revision};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::{Facts, LOST_MS, Said, Side, Step, holds, step};
use crate::agents::{Agents, PortProgress};
use crate::clock::{Ages, Clock};
use crate::derive::imports::Imports;
use crate::derive::place::vteps;
use crate::history::By;
use crate::model::{Binding, Move, MovePhase, NodeMode, WorkloadKind};
use crate::ports::{MoveStep, Owner, PortError, Ports, now_ms};
use crate::snapshot::{Record, Snapshot};
use crate::state::State;
use measure::Measures;
use probe::Watchers;

/// Between two looks when nothing is said to have changed.
const PERIOD: Duration = Duration::from_millis(500);
/// Between two looks while nothing answers, or somebody measures.
const HURRY: Duration = Duration::from_millis(5);
/// How long a step that failed is left alone.
const AGAIN: Duration = Duration::from_millis(50);

/// What moves need.
#[derive(Debug, Clone)]
pub(crate) struct Mover {
    /// Changes ports.
    pub(crate) ports: Ports,
    pub(crate) state: State,
    pub(crate) agents: Agents,
    pub(crate) heard: watch::Receiver<Imports>,
    pub(crate) clock: Clock,
    /// Since when agents can find this controller, in Unix milliseconds of the machine's clock.
    pub(crate) begun_ms: i64,
}

/// A step that was taken.
struct Taken {
    key: PortKey,
    outcome: Result<Revision, PortError>,
}

impl Mover {
    /// Runs until `cancel`.
    pub(crate) async fn run(self, cancel: CancellationToken) {
        cancel.run_until_cancelled(self.work()).await;
    }

    async fn work(self) {
        let mut news = self.agents.news();
        let (mut measures, mut watchers) = (Measures::default(), Watchers::default());
        let mut under_way: JoinSet<Taken> = JoinSet::new();
        let (begun, mut ages) = (Instant::now(), Ages::new());
        // Until the snapshot shows the step that was taken, or for a while after one failed, a move is left alone.
        let mut resting: BTreeMap<PortKey, Rest> = BTreeMap::new();
        loop {
            let snapshot = self.state.snapshot();
            resting.retain(|_, rest| rest.holds(snapshot.revision));
            let moves: Vec<Arc<Record<Move>>> = under_way_in(&snapshot);
            measures.keep(&moves);
            let there = |(port, at): &(PortKey, Revision)| {
                snapshot.moving(port).is_some_and(|record| record.revision == *at)
            };
            watchers.keep(&moves);
            let mut pause = PERIOD;
            for record in &moves {
                if !matches!(record.value.phase, MovePhase::Hold) {
                    pause = HURRY;
                }
                if resting.contains_key(&record.value.port) {
                    continue;
                }
                let mut facts = self.facts(&snapshot, record);
                // Whoever began this phase may have another idea of the time.
                let (since, seen) = (record.value.since_ms(), (record.value.port.clone(), record.revision));
                facts.now_ms = since.saturating_add(ages.age_ms(&seen, since, facts.now_ms, begun.elapsed()));
                self.observe(&snapshot, record, &mut facts, &mut measures, &mut watchers);
                let (next, owner) = match step(&record.value, &facts) {
                    Step::Wait(until) => {
                        let left = until.map(|at| at.saturating_sub(facts.now_ms).max(1));
                        let left = left.and_then(|ms| u64::try_from(ms).ok()).map(Duration::from_millis);
                        pause = left.map_or(pause, |left| left.min(pause));
                        continue;
                    }
                    Step::Write(next) => (next, Owner::AsItIs),
                    Step::Switch(next) => (next, Owner::Target),
                    Step::SwitchBack(next) => (next, Owner::Source),
                };
                let (phase, reason) = (next.phase, next.reason.as_str());
                tracing::info!(port = %next.port, from = %next.from.node, to = %next.to.node, %phase, reason, "move");
                let bound = snapshot.bindings.get(&next.port).map(|binding| binding.revision);
                let step = MoveStep { next: *next, seen: record.revision, bound, owner };
                let by = By { actor: record.value.by.clone(), ..By::default() };
                let (ports, key) = (self.ports.on_behalf(by), record.value.port.clone());
                resting.insert(key.clone(), Rest::UnderWay);
                under_way.spawn(async move { Taken { key, outcome: ports.step(step).await } });
            }
            ages.keep(there);
            tokio::select! {
                _ = self.state.wait_after(snapshot.revision) => {}
                _ = news.recv() => {}
                Some(taken) = under_way.join_next(), if !under_way.is_empty() => {
                    if let Ok(taken) = taken {
                        let (key, rest) = rest_after(taken);
                        resting.insert(key, rest);
                    }
                }
                () = tokio::time::sleep(pause) => {}
            }
        }
    }

    /// What is known of a move, what it cost aside.
    pub(crate) fn facts(&self, snapshot: &Snapshot, record: &Record<Move>) -> Facts {
        let moving = &record.value;
        let at = record.revision;
        let binding = snapshot.bindings.get(&moving.port);
        Facts {
            now_ms: self.clock.now_ms(),
            holds: binding.is_some_and(|binding| holds(moving, &binding.value)),
            from: self.side(snapshot, &moving.from, at),
            to: match moving.to.kind {
                WorkloadKind::BareMetal => self.wire(snapshot, moving, at),
                _ => self.side(snapshot, &moving.to, at),
            },
            watched: true,
            cost: None,
        }
    }

    /// Adds what is seen from elsewhere: whether somebody looks, and what the switch cost.
    fn observe(
        &self,
        snapshot: &Snapshot,
        record: &Record<Move>,
        facts: &mut Facts,
        measures: &mut Measures,
        watchers: &mut Watchers,
    ) {
        if facts.to.said != Said::Done {
            return;
        }
        let moving = &record.value;
        match moving.phase {
            MovePhase::Prepare => {
                facts.watched = watchers.begin(&self.agents, snapshot, moving, facts.now_ms)
            }
            MovePhase::Verify => {
                watchers.catch_up(&self.agents, snapshot, moving, facts.now_ms);
                facts.cost = measures.cost(&self.agents, snapshot, record, watchers, facts.now_ms);
            }
            _ => {}
        }
    }

    fn side(&self, snapshot: &Snapshot, place: &Binding, at: Revision) -> Side {
        let fenced = snapshot.fences.contains_key(&place.node);
        if !snapshot.nodes.contains_key(&place.node) {
            let gone = Said::Failed("the node was deleted".to_owned());
            return Side { connected: false, lost: true, fenced, said: gone };
        }
        // A machine of its own has no agent that could say anything, and nobody can stop it.
        if place.kind == WorkloadKind::BareMetal {
            return Side { connected: true, lost: false, fenced, said: Said::Done };
        }
        let said = match self.agents.progress(&place.node, &place.port, place.generation, at) {
            PortProgress::Waiting => Said::Nothing,
            PortProgress::Programmed => Said::Done,
            PortProgress::Failed(why) => Said::Failed(why),
        };
        let hearing = self.agents.hearing(&place.node);
        // Nobody has seen it go: it may be on its way here since we began.
        let since = hearing.silent_ms.unwrap_or(self.begun_ms).max(self.begun_ms);
        let lost = !hearing.connected && now_ms().saturating_sub(since) >= LOST_MS;
        Side { connected: hearing.connected, lost, fenced, said }
    }

    /// A target that is a machine of its own: what is programmed for it is done by the agents of its switches, where these
    /// have any. On its way back nothing is waited for: it is silenced by hand, and no agent knows whether it is.
    fn wire(&self, snapshot: &Snapshot, moving: &Move, at: Revision) -> Side {
        let mut side = self.side(snapshot, &moving.to, at);
        let node = snapshot.nodes.get(&moving.to.node).filter(|_| moving.phase != MovePhase::Return);
        let switches = node.iter().flat_map(|node| vteps(snapshot, &node.value));
        for switch in switches.filter(|switch| switch.mode == NodeMode::TorAgent) {
            let hearing = self.agents.hearing(&switch.name);
            side.connected &= hearing.connected;
            if hearing.applied < at && side.said == Said::Done {
                side.said = Said::Nothing;
            }
        }
        side
    }
}

/// Moves under way, each once.
fn under_way_in(snapshot: &Snapshot) -> Vec<Arc<Record<Move>>> {
    let mut keys: Vec<&PortKey> = snapshot.moving.iter().map(|(_, key)| key).collect();
    keys.sort_unstable();
    keys.dedup();
    keys.into_iter().filter_map(|key| snapshot.moving(key).cloned()).collect()
}

#[derive(Debug, Clone, Copy)]
enum Rest {
    UnderWay,
    Shown(Revision),
    Until(tokio::time::Instant),
}

impl Rest {
    fn holds(&self, shown: Revision) -> bool {
        match self {
            Rest::UnderWay => true,
            Rest::Shown(at) => shown < *at,
            Rest::Until(at) => tokio::time::Instant::now() < *at,
        }
    }
}

fn rest_after(taken: Taken) -> (PortKey, Rest) {
    let later = || Rest::Until(tokio::time::Instant::now() + AGAIN);
    let rest = match taken.outcome {
        Ok(at) => Rest::Shown(at),
        // Another controller was faster, or the binding changed: the snapshot will show it.
        Err(PortError::Aborted { .. }) => later(),
        Err(error) => {
            tracing::warn!(port = %taken.key, %error, "a move's step is not in the store, trying again");
            later()
        }
    };
    (taken.key, rest)
}
