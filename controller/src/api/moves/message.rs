//! Moves as messages and in words.

use std::sync::Arc;

use causeway_proto::v1;

use crate::api::App;
use crate::api::port_message::{binding_message, key_message};
use crate::derive::place::vteps;
use crate::model::{Binding, Move, MoveCost, MovePhase, NodeMode, WorkloadKind};
use crate::moves;
use crate::snapshot::{Record, Snapshot};

/// What a move costs where none of its kind has been measured here, in milliseconds: the middle of what plain layer 2
/// with announcements takes, 32 to 56 ms.
const USUAL_GAP_MS: u32 = 45;

fn phase(phase: MovePhase) -> v1::MovePhase {
    match phase {
        MovePhase::Prepare => v1::MovePhase::Prepare,
        MovePhase::Stop => v1::MovePhase::Stop,
        MovePhase::Verify => v1::MovePhase::Verify,
        MovePhase::Hold => v1::MovePhase::Hold,
        MovePhase::Return => v1::MovePhase::Return,
        MovePhase::Done => v1::MovePhase::Done,
        MovePhase::Undone => v1::MovePhase::Undone,
    }
}

/// A move as it is now.
pub(super) fn of(app: &App, snapshot: &Snapshot, record: &Arc<Record<Move>>) -> v1::Move {
    let moving = &record.value;
    let waits = match moving.phase.is_over() {
        true => String::new(),
        false => moves::waits_for(moving, &app.mover.facts(snapshot, record)),
    };
    let hold = moving.steps.iter().rev().find(|(of, _)| *of == MovePhase::Hold).map(|(_, at)| *at);
    v1::Move {
        key: Some(key_message(&moving.port)),
        phase: phase(moving.phase).into(),
        from: Some(binding_message(&moving.from)),
        to: Some(binding_message(&moving.to)),
        by: moving.by.clone(),
        steps: moving
            .steps
            .iter()
            .map(|(of, at)| v1::MoveStep { phase: phase(*of).into(), at_ms: *at })
            .collect(),
        reason: if waits.is_empty() { moving.reason.clone() } else { waits },
        cost: moving.cost.as_ref().map(cost),
        window_until_ms: hold.map_or(0, |at| at.saturating_add(moving.window_ms)),
        max_loss_ms: moving.max_loss_ms,
        forced: moving.forced,
        old_mac: moving.macs.map_or_else(String::new, |(old, _)| old.to_string()),
        new_mac: moving.macs.map_or_else(String::new, |(_, new)| new.to_string()),
    }
}

fn cost(cost: &MoveCost) -> v1::MoveCost {
    let probe = |probe: &crate::model::MoveProbe| v1::MoveProbe {
        node: probe.node.to_string(),
        address: probe.address.to_string(),
        interval_ms: probe.interval_ms,
        sent: probe.sent,
        lost: probe.lost,
        duplicates: probe.duplicates,
        longest_gap_ms: probe.longest_gap_ms,
    };
    let convergence = cost.converged.iter();
    let convergence =
        convergence.map(|(node, ms)| v1::MoveConvergence { node: node.to_string(), after_ms: *ms });
    v1::MoveCost {
        gap_ms: cost.gap_ms,
        probes: cost.probes.iter().map(probe).collect(),
        convergence: convergence.collect(),
        revision: cost.revision,
        unseen: cost.unseen,
    }
}

/// What a move would do.
pub(super) fn plan(snapshot: &Snapshot, moving: &Move) -> v1::PlanMoveResponse {
    let port = snapshot.ports.get(&moving.port).map(|record| &record.value);
    let (expected_gap_ms, expected_from) = expected(snapshot, moving);
    v1::PlanMoveResponse {
        addresses: port.iter().flat_map(|p| &p.addresses).map(ToString::to_string).collect(),
        mac: port.map_or_else(String::new, |p| p.mac.to_string()),
        from: Some(binding_message(&moving.from)),
        to: Some(binding_message(&moving.to)),
        steps: steps(moving),
        expected_gap_ms,
        expected_from,
        warnings: warnings(snapshot, moving),
        new_mac: moving.macs.map_or_else(String::new, |(_, new)| new.to_string()),
    }
}

/// The gap of earlier moves between the same kinds, or what such a move usually takes.
fn expected(snapshot: &Snapshot, moving: &Move) -> (u32, String) {
    let kinds = |m: &Move| (m.from.kind, m.to.kind);
    let alike = snapshot.moves.values().filter(|record| kinds(&record.value) == kinds(moving));
    let mut gaps: Vec<u32> = alike
        .filter_map(|record| record.value.cost.as_ref().filter(|c| !c.unseen))
        .map(MoveCost::loss_ms)
        .collect();
    gaps.sort_unstable();
    match gaps.get(gaps.len() / 2) {
        Some(median) => {
            (*median, format!("the median of {} moves {} → {} here", gaps.len(), moving.from.kind, moving.to.kind))
        }
        None => (
            USUAL_GAP_MS,
            "published figures of planned moves with announcements (32 to 56 ms); none of this kind was measured here"
                .to_owned(),
        ),
    }
}

fn place(binding: &Binding) -> String {
    let attachment = binding.attachment.map_or_else(String::new, |a| format!(" {a}"));
    let inside = if binding.netns.is_empty() { String::new() } else { format!(" {}", binding.netns) };
    format!("{} ({}{attachment}{inside} {})", binding.node, binding.kind, binding.interface)
}

fn steps(moving: &Move) -> Vec<String> {
    let (from, to) = (&moving.from, &moving.to);
    let (old, new) = (from.generation.saturating_sub(1), to.generation.saturating_sub(1));
    let seconds = |ms: i64| ms / 1000;
    let mac = moving.macs.map_or_else(String::new, |(old, new)| format!("MAC {old} → {new}, "));
    let by_hand = |binding: &Binding| binding.kind == WorkloadKind::BareMetal;
    let announce = match by_hand(to) {
        true => format!("you: let the machine at {} answer now, with a gratuitous ARP first", to.node),
        false => format!(
            "gratuitous ARP and neighbour advertisements from {} at 0, 50, 200, 1100 and 3000 ms",
            to.node
        ),
    };
    let silence =
        if by_hand(to) { format!(", after you silenced the machine at {}", to.node) } else { String::new() };
    vec![
        match to.kind {
            WorkloadKind::BareMetal => {
                format!(
                    "you: have the machine at {} ready with the port's MAC and addresses, silent",
                    place(to)
                )
            }
            _ => format!(
                "prepare {}: everything programmed, down, not announced; within {} s",
                place(to),
                seconds(moving.prepare_ms)
            ),
        },
        match from.kind {
            WorkloadKind::BareMetal => {
                format!("you: silence the machine at {}, which nobody else can", from.node)
            }
            _ => format!("stop {}: its link goes down, all else stays", place(from)),
        },
        format!(
            "switch, in one transaction: node {}, {mac}mobility sequence {old} → {new}; routes, FDB entries and neighbours \
             follow; {announce}",
            to.node
        ),
        format!("verify: more than {} ms lost, and it goes back", moving.max_loss_ms),
        format!(
            "hold {} for {} s: causeway port rollback {}{silence}",
            from.node,
            seconds(moving.window_ms),
            moving.port
        ),
    ]
}

fn warnings(snapshot: &Snapshot, moving: &Move) -> Vec<String> {
    let mut warnings = Vec::new();
    if moving.from.kind == WorkloadKind::BareMetal {
        warnings
            .push("a bare-metal machine is not ours to stop: silence it before, or both answer".to_owned());
    }
    if moving.to.kind == WorkloadKind::BareMetal {
        warnings.push(
            "a bare-metal machine reports nothing: what the move costs only probes from other nodes show, and on the way \
             back nobody waits for its silence"
                .to_owned(),
        );
    }
    let switches = [&moving.from, &moving.to].into_iter().flat_map(|binding| {
        let node = snapshot.nodes.get(&binding.node).filter(|_| binding.kind == WorkloadKind::BareMetal);
        node.into_iter().flat_map(|node| vteps(snapshot, &node.value))
    });
    for switch in switches.filter(|switch| switch.mode == NodeMode::TorStatic) {
        let name = &switch.name;
        warnings.push(format!(
            "nobody programs {name}: load its state after the switch: causeway node config {name}"
        ));
    }
    if moving.from.kind != moving.to.kind {
        let stay = if moving.macs.is_none() { "addresses and MAC stay" } else { "addresses stay" };
        warnings.push(format!(
            "{} → {}: {stay}, what runs behind them is yours to move; its connections break unless its \
             state moves too",
            moving.from.kind, moving.to.kind
        ));
    }
    let learns = |node: &causeway_proto::Name| {
        let node = snapshot.nodes.get(node).map(|record| &record.value);
        let place = node.and_then(|node| crate::derive::place::place(snapshot, node));
        place.is_some_and(|place| place.mode == NodeMode::TorEvpn)
    };
    if learns(&moving.from.node) || learns(&moving.to.node) {
        warnings.push(
            "switches there learn by themselves and stop following a MAC that moves 5 times within 180 s"
                .to_owned(),
        );
    }
    if moving.macs.is_some() {
        warnings.push(
            "neighbours that do not listen to gratuitous ARP and neighbour advertisements keep the old MAC until they ask \
             again: 30 to 60 s for Linux"
                .to_owned(),
        );
    }
    if moving.forced {
        warnings.push(format!("by force: node {} may still answer for the port", moving.from.node));
    }
    warnings
}
