//! Taking a port to another node, and back.

use causeway_proto::PortKey;

use super::place::{self, existing};
use super::{Context, Part, Plan, Planned, Refusal, as_seen, new_mac};
use crate::derive::place::place as enters;
use crate::history::EventKind;
use crate::keys::RecordKey;
use crate::model::{Binding, Move, MovePhase, WorkloadKind};
use crate::moves::{self, ledger};
use crate::ports::overlay::View;
use crate::ports::{MoveOrder, MoveStep, Owner, PortError};

/// Why a port without a place cannot be moved.
pub(crate) fn bound_nowhere(key: &PortKey, node: &str) -> PortError {
    let hint = format!("bind it there: causeway port bind {key} --node {node} …");
    PortError::refused(key, "is bound nowhere: there is nothing to move".to_owned(), hint)
}

/// Begins a move. The same again while it is under way changes nothing.
pub(super) fn start(
    view: &View<'_>,
    key: &PortKey,
    order: &MoveOrder,
    context: Context<'_>,
) -> Result<Plan, Refusal> {
    let mut planned = Planned::new(key);
    match begin(view, key, order, context, &mut planned)? {
        None => Ok(Plan::Done(Box::new(planned.effect))),
        Some(moving) => {
            put(view, &mut planned, moving, context.now_ms)?;
            Ok(Plan::Write(Box::new(planned)))
        }
    }
}

/// Adds the move's record, and what the history says of it.
fn put(view: &View<'_>, planned: &mut Planned, moving: Move, now_ms: i64) -> Result<(), PortError> {
    let record = RecordKey::Move(moving.port.clone());
    planned.moved_ms = view.snapshot.moves.get(&moving.port).map(|last| last.value.changed_ms);
    if moving.phase.is_over()
        && let Some(port) = planned.effect.port.as_ref().map(|part| part.value.clone())
    {
        new_mac::set_spare(view, planned, &port, None)?;
    }
    // An undone move has rolled back, be it that the port had to come back or that it never left.
    let kind = if moving.phase == MovePhase::Undone { EventKind::RolledBack } else { EventKind::Moving };
    // A switch is told as what it is for the port: it has moved.
    let switches = moving.phase == MovePhase::Verify;
    planned.kind = (!switches).then_some(kind);
    let force = if moving.forced { ", by force" } else { "" };
    let why = if moving.reason.is_empty() { String::new() } else { format!(": {}", moving.reason) };
    planned.cause =
        format!("move {} → {}: {}{force}{why}", moving.from.node, moving.to.node, moving.phase.told());
    planned.put(record.path(), &Move { changed_ms: now_ms, ..moving })
}

/// The move that an order begins; `None` if it is under way.
pub(super) fn begin(
    view: &View<'_>,
    key: &PortKey,
    order: &MoveOrder,
    context: Context<'_>,
    planned: &mut Planned,
) -> Result<Option<Move>, Refusal> {
    let (port, at) = existing(view, key)?;
    let record = RecordKey::Binding(key.clone());
    let bound = view.binding(key).filter(|(binding, _)| binding.active && port.released_ms.is_none());
    let Some((from, seen)) = bound else {
        let error = bound_nowhere(key, order.to.node.as_str());
        return Err(Refusal::seen(error, &record, view.binding(key).map(|(_, at)| at)));
    };
    place::check(&order.to, "to")?;
    planned.effect.port = Some(Part { value: port.clone(), revision: Some(at) });
    planned.effect.binding = view.binding_part(key);
    let seen_refusal = |error| Refusal::seen(error, &record, Some(seen));
    if let Some(moving) = view.snapshot.moving(key).filter(|r| moves::holds(&r.value, from)) {
        let same = place::same_place(view, &moving.value.to, &order.to)
            && new_mac::is_same(&moving.value, port, order.mac);
        if same && !matches!(moving.value.phase, MovePhase::Return) {
            return Ok(None);
        }
        let Move { phase, to, .. } = &moving.value;
        let hint = match phase {
            MovePhase::Hold => format!(
                "take it back, or wait until the window of that move is over: causeway port rollback {key}"
            ),
            _ => "wait until that move is over: causeway port moves".to_owned(),
        };
        let reason = format!("is moving to node {} already (phase {phase})", to.node);
        let error = PortError::Precondition {
            subject: format!("port {key}"),
            reason,
            owner: format!("node {}", to.node),
            hint,
        };
        return Err(Refusal::seen(error, &RecordKey::Move(key.clone()), Some(moving.revision)));
    }
    if from.node == order.to.node {
        let reason = format!("is on node {} already", from.node);
        let hint = "to change how it is attached there: causeway port unbind, then bind".to_owned();
        return Err(seen_refusal(PortError::refused(key, reason, hint)));
    }
    if let Some(error) = unheard(view, key, from, order, context) {
        return Err(seen_refusal(error));
    }
    if let Some(why) = too_often(view, key, from, order, context.now_ms) {
        return Err(seen_refusal(why));
    }
    planned.compares.push(place::port_as_seen(key, at));
    planned.compares.push(as_seen(&record, Some(seen)));
    let to = place::target(view, planned, port, &order.to, from.generation, context.heard)?;
    let fence = RecordKey::Fence(to.node.clone());
    if let Some(fenced) = view.snapshot.fences.get(&to.node) {
        let reason = format!("is fenced: {}", fenced.value.reason);
        let hint = format!("let it in first: causeway node unfence {}", to.node);
        let (subject, owner) = (format!("node {}", to.node), String::new());
        let error = PortError::Precondition { subject, reason, owner, hint };
        return Err(Refusal::seen(error, &fence, Some(fenced.revision)));
    }
    let mac = new_mac::resolve(view, port, &to, order.mac, context.now_ms)?;
    new_mac::set_spare(view, planned, port, mac)?;
    let last = RecordKey::Move(key.clone());
    planned.compares.push(as_seen(&last, view.snapshot.revision_of(&last)));
    Ok(Some(Move {
        port: key.clone(),
        phase: MovePhase::Prepare,
        from: from.clone(),
        to,
        by: order.by.clone(),
        steps: vec![(MovePhase::Prepare, context.now_ms)],
        prepare_ms: order.prepare_ms,
        window_ms: order.window_ms,
        max_loss_ms: order.max_loss_ms,
        macs: mac.map(|new| (port.mac, new)),
        reason: String::new(),
        cost: None,
        before: view.snapshot.moves.get(key).map_or_else(Vec::new, |last| recent(&last.value)),
        changed_ms: 0,
        forced: order.force,
    }))
}

/// As many changes of place as matter.
fn recent(last: &Move) -> Vec<i64> {
    let mut changes = last.changes();
    let old = changes.len().saturating_sub(ledger::MOST_CHANGES);
    changes.split_off(old)
}

/// Why the source cannot be told to stop.
fn unheard(
    view: &View<'_>,
    key: &PortKey,
    from: &Binding,
    order: &MoveOrder,
    context: Context<'_>,
) -> Option<PortError> {
    let fenced = view.snapshot.fences.contains_key(&from.node);
    let hearing = (context.hearing)(&from.node);
    if from.kind == WorkloadKind::BareMetal || hearing.connected || fenced || order.force {
        return None;
    }
    Some(place::silent(key, &from.node, hearing, context.now_ms))
}

/// Switches that learn by themselves count a MAC's changes of place, and stop following one that changes too often.
fn too_often(
    view: &View<'_>,
    key: &PortKey,
    from: &Binding,
    order: &MoveOrder,
    now_ms: i64,
) -> Option<PortError> {
    let snapshot = view.snapshot;
    let learns = |name| {
        let node = snapshot.nodes.get(name)?;
        Some(enters(snapshot, &node.value)?.mode == crate::model::NodeMode::TorEvpn)
    };
    if order.force || ![&from.node, &order.to.node].into_iter().any(|name| learns(name) == Some(true)) {
        return None;
    }
    let last = snapshot.moves.get(key)?;
    let free = ledger::next_change_ms(&last.value.changes(), now_ms)?;
    let seconds = (free - now_ms + 999) / 1000;
    let reason = format!(
        "has changed its place {} times within {} s; switches that learn by themselves stop following a MAC that \
         changes 5 times within 180 s",
        ledger::MOST_CHANGES,
        ledger::WINDOW_MS / 1000
    );
    Some(PortError::refused(key, reason, format!("wait {seconds} s, or insist: --force")))
}

/// Takes a port back to where its last move took it from.
pub(super) fn turn_back(
    view: &View<'_>,
    key: &PortKey,
    reason: &str,
    force: bool,
    now_ms: i64,
) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    let record = RecordKey::Move(key.clone());
    let mut planned = Planned::new(key);
    planned.effect.port = Some(Part { value: port.clone(), revision: Some(at) });
    planned.effect.binding = view.binding_part(key);
    let moving = view.snapshot.moving(key);
    let holds = |m: &Move| view.binding(key).is_some_and(|(binding, _)| moves::holds(m, binding));
    let Some(moving) = moving.filter(|record| holds(&record.value)) else {
        let known = view.snapshot.moves.get(key);
        let reason = match known.map(|record| record.value.phase) {
            None => "has not been moved",
            Some(MovePhase::Undone) => "is back where it was already",
            Some(_) => "can be taken back no more: the window of its move is over",
        };
        let hint = "move it: causeway port migrate".to_owned();
        let error = PortError::refused(key, reason.to_owned(), hint);
        return Err(Refusal::seen(error, &record, known.map(|record| record.revision)));
    };
    let next = moves::turn_back(&moving.value, reason, force, now_ms);
    if next == moving.value {
        return Ok(Plan::Done(Box::new(planned.effect)));
    }
    planned.compares.push(as_seen(&record, Some(moving.revision)));
    put(view, &mut planned, next, now_ms)?;
    Ok(Plan::Write(Box::new(planned)))
}

/// Takes a step of a move that is still as it was when the step was decided.
pub(super) fn advance(view: &View<'_>, step: &MoveStep, context: Context<'_>) -> Result<Plan, Refusal> {
    let key = &step.next.port;
    let (record, binding) = (RecordKey::Move(key.clone()), RecordKey::Binding(key.clone()));
    let now = view.binding(key);
    if view.snapshot.revision_of(&record) != Some(step.seen) || now.map(|(_, at)| at) != step.bound {
        return Err(PortError::Aborted { subject: key.clone(), tries: 1 }.into());
    }
    let (port, at) = existing(view, key)?;
    let mut planned = Planned::new(key);
    planned.effect.port = Some(Part { value: port.clone(), revision: Some(at) });
    planned.effect.binding = view.binding_part(key);
    planned.compares.push(as_seen(&record, Some(step.seen)));
    planned.compares.push(as_seen(&binding, step.bound));
    let mut next = step.next.clone();
    let place = match step.owner {
        Owner::AsItIs => None,
        Owner::Target => Some(&next.to),
        Owner::Source => Some(&next.from),
    };
    if let (Some(place), Some((now, _))) = (place, now) {
        let missing = || Refusal::from(PortError::NoNode(place.node.clone()));
        let node = view.snapshot.nodes.get(&place.node).ok_or_else(missing)?;
        planned.shared.push(as_seen(&RecordKey::Node(place.node.clone()), Some(node.revision)));
        let port = new_mac::exchange(view, &mut planned, port)?;
        let ledger = view.snapshot.remembered(&key.network, port.mac);
        let elsewhere = place::sequence_elsewhere(view.snapshot, &port, &node.value, context.heard);
        let generation = ledger::next_generation(now.generation, ledger, elsewhere);
        let forced = match next.forced {
            true => format!("by {}: a move by force", next.by),
            false => String::new(),
        };
        planned.put_binding(Binding { generation, active: true, forced, ..place.clone() })?;
        if step.owner == Owner::Target {
            next.to.generation = generation;
        }
    }
    put(view, &mut planned, next, context.now_ms)?;
    Ok(Plan::Write(Box::new(planned)))
}
