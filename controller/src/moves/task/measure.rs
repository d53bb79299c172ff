//! What a switch cost, as far as the controllers see it.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_proto::{Name, PortKey, Revision};

use super::probe::{Sight, Watchers};
use crate::agents::Agents;
use crate::derive::is_present;
use crate::model::{Move, MoveCost, MovePhase, NodeMode};
use crate::snapshot::{Record, Snapshot};

/// How long other nodes are waited for, from the moment that the target forwards, in milliseconds.
const OTHERS_MS: i64 = 1_000;

/// Measurements of switches, by port.
#[derive(Debug, Default)]
pub(crate) struct Measures {
    of: BTreeMap<PortKey, Measure>,
}

#[derive(Debug)]
struct Measure {
    switch: Revision,
    /// When the target was seen to forward, in Unix milliseconds.
    forwards_ms: i64,
    converged: BTreeMap<Name, u32>,
}

fn span(from: i64, to: i64) -> u32 {
    u32::try_from(to.saturating_sub(from).max(0)).unwrap_or(u32::MAX)
}

impl Measures {
    /// Forgets those of moves that are over.
    pub(super) fn keep(&mut self, moves: &[Arc<Record<Move>>]) {
        self.of.retain(|key, measure| {
            moves.iter().any(|m| m.value.port == *key && m.revision == measure.switch)
        });
    }

    /// The cost, once all that is to be seen was seen. `record` is that of the switch, whose target forwards.
    pub(super) fn cost(
        &mut self,
        agents: &Agents,
        snapshot: &Snapshot,
        record: &Record<Move>,
        watchers: &Watchers,
        now_ms: i64,
    ) -> Option<MoveCost> {
        let moving = &record.value;
        let new = Measure { switch: record.revision, forwards_ms: now_ms, converged: BTreeMap::new() };
        let measure = self.of.entry(moving.port.clone()).or_insert(new);
        let mut missing = false;
        for node in snapshot.nodes.values().map(|record| &record.value) {
            let told = matches!(node.mode, NodeMode::HostVtep | NodeMode::TorAgent);
            if !told
                || node.name == moving.to.node
                || measure.converged.contains_key(&node.name)
                || !is_present(snapshot, &node.name, &moving.port.network)
            {
                continue;
            }
            let hearing = agents.hearing(&node.name);
            if !hearing.connected {
                continue;
            }
            if hearing.applied >= record.revision {
                measure.converged.insert(node.name.clone(), span(moving.since_ms(), now_ms));
            } else {
                missing = true;
            }
        }
        if missing && now_ms.saturating_sub(measure.forwards_ms) < OTHERS_MS {
            return None;
        }
        let Sight { probes, unseen } = watchers.seen(moving, measure.forwards_ms, now_ms)?;
        let stopped = moving.began_ms(MovePhase::Stop).unwrap_or(moving.since_ms());
        Some(MoveCost {
            gap_ms: span(stopped, measure.forwards_ms),
            revision: record.revision.0,
            converged: measure.converged.iter().map(|(node, ms)| (node.clone(), *ms)).collect(),
            probes,
            unseen,
        })
    }
}
