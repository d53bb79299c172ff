//! Moves of ports between nodes. A move is a record of the store, and what happens next follows from that record, the
//! port's binding and what the two nodes say ([`step`]); every controller with a session of one of them sees it at once,
//! and whoever's transaction comes first has done it. So a controller may die at any point.
//!
//! ```text
//!            target ready         source down          target forwards        window over
//! Prepare ───────────────▶ Stop ──────────────▶ Verify ───────────────▶ Hold ─────────────▶ Done
//!    │ late, failed          │ late               │ late, lossy, asked    │ asked
//!    ▼                       ▼                    ▼                       │
//!  Undone ◀──────────────────┘                  Return ◀──────────────────┘
//!    ▲                                            │ target down
//!    └────────────────────────────────────────────┘
//! ```
//!
//! One side has to say that it is down before the other one is told to come up, in both directions: the gap is longer by
//! one way to the store and back, and at no time do both answer. Who does not say so for want of a connection has to be
//! fenced, or somebody has to take that on himself (`forced`).

pub mod ledger;
pub(crate) mod restored;
pub(crate) mod task;

use crate::model::{Binding, Move, MoveCost, MovePhase, WorkloadKind};

/// How long a source may take to stop before the port stays where it is, in milliseconds: it answers nothing meanwhile.
pub const STOP_MS: i64 = 2_000;
/// How long a target may take to forward before the port goes back, in milliseconds.
pub const VERIFY_MS: i64 = 5_000;

/// How long an agent may take to find another controller when its own is gone, in milliseconds: it is not lost before.
pub const LOST_MS: i64 = 5_000;

/// True if the move is of this very binding: if not, somebody unbound the port or bound it anew, and the move is void.
pub fn holds(moving: &Move, binding: &Binding) -> bool {
    let (place, other) = match moving.phase {
        MovePhase::Prepare | MovePhase::Stop | MovePhase::Undone => (&moving.from, &moving.to),
        _ => (&moving.to, &moving.from),
    };
    binding.active
        && binding.node == place.node
        && binding.generation == place.generation
        && place.node != other.node
}

/// What one side of a move says.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Side {
    /// Its agent is connected to a controller.
    pub connected: bool,
    /// It has not been for longer than agents take to find the next controller when theirs is gone.
    pub lost: bool,
    /// It is kept out of the fabric: whatever runs there reaches nobody.
    pub fenced: bool,
    /// What it says of the port since this phase began.
    pub said: Said,
}

/// What a node says of a port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Said {
    /// Nothing yet.
    Nothing,
    /// That it is as it shall be.
    Done,
    /// Why it cannot be.
    Failed(String),
}

/// What a step is decided by, besides the record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Facts {
    /// Unix time in milliseconds.
    pub now_ms: i64,
    /// The binding is the one that the move is about.
    pub holds: bool,
    /// The source.
    pub from: Side,
    /// The target.
    pub to: Side,
    /// Whoever measures the loss has begun, or cannot.
    pub watched: bool,
    /// What the switch cost, once that is known.
    pub cost: Option<MoveCost>,
}

/// What to do.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Step {
    /// Nothing before this time, in Unix milliseconds, unless a fact changes; `None`: unless a fact changes.
    Wait(Option<i64>),
    /// The record changes, and nothing else.
    Write(Box<Move>),
    /// The binding becomes the target's, in the same transaction.
    Switch(Box<Move>),
    /// The binding becomes the source's again, in the same transaction.
    SwitchBack(Box<Move>),
}

fn enter(moving: &Move, phase: MovePhase, now_ms: i64, reason: impl Into<String>) -> Move {
    let mut next = moving.clone();
    next.phase = phase;
    // A clock that was set back does not make a phase older than the one before.
    next.steps.push((phase, now_ms.max(moving.since_ms())));
    let reason = reason.into();
    if !reason.is_empty() {
        next.reason = reason;
    }
    next
}

/// What to do about a move.
pub fn step(moving: &Move, facts: &Facts) -> Step {
    let go = |phase, reason: String| Step::Write(Box::new(enter(moving, phase, facts.now_ms, reason)));
    let elapsed = facts.now_ms.saturating_sub(moving.since_ms());
    let until = |limit: i64| Step::Wait(Some(moving.since_ms().saturating_add(limit)));
    let (from, to) = (&moving.from.node, &moving.to.node);
    if moving.phase.is_over() {
        return Step::Wait(None);
    }
    if !facts.holds {
        let over = match moving.phase {
            MovePhase::Prepare | MovePhase::Stop => MovePhase::Undone,
            _ => MovePhase::Done,
        };
        return go(over, "the port was unbound, released or bound anew meanwhile".to_owned());
    }
    let source_is_known = facts.from.connected || facts.from.fenced || moving.forced;
    match moving.phase {
        MovePhase::Prepare => match (&facts.to.said, source_is_known) {
            _ if facts.to.fenced => go(MovePhase::Undone, format!("node {to} is fenced")),
            (Said::Failed(why), _) => go(MovePhase::Undone, format!("node {to}: {why}")),
            (_, false) if facts.from.lost => {
                go(MovePhase::Undone, format!("nobody hears from the agent of node {from} any more"))
            }
            (Said::Done, true) if facts.to.connected && facts.watched => go(MovePhase::Stop, String::new()),
            _ if elapsed >= moving.prepare_ms => {
                let why = match (facts.to.connected, moving.to.kind) {
                    (true, _) => "has not prepared the port",
                    (false, WorkloadKind::BareMetal) => "hangs on a switch whose agent is not connected",
                    (false, _) => "has no agent connected",
                };
                go(MovePhase::Undone, format!("node {to} {why}, for {} s", moving.prepare_ms / 1000))
            }
            _ => until(moving.prepare_ms),
        },
        MovePhase::Stop => {
            let unheard = facts.from.fenced || (moving.forced && !facts.from.connected);
            match (&facts.from.said, &facts.to.said) {
                _ if !facts.to.connected || facts.to.fenced => {
                    go(MovePhase::Undone, format!("node {to} was lost before the switch"))
                }
                (_, Said::Failed(why)) => go(MovePhase::Undone, format!("node {to}: {why}")),
                (Said::Done, _) => switch(moving, facts.now_ms),
                _ if unheard => switch(moving, facts.now_ms),
                (Said::Failed(why), _) => go(MovePhase::Undone, format!("node {from} did not stop: {why}")),
                _ if elapsed >= STOP_MS => {
                    go(MovePhase::Undone, format!("node {from} did not stop within {} s", STOP_MS / 1000))
                }
                _ => until(STOP_MS),
            }
        }
        MovePhase::Verify => match (&facts.to.said, &facts.cost) {
            (Said::Failed(why), _) => go(MovePhase::Return, format!("node {to}: {why}")),
            (_, Some(cost)) => {
                let lossy = cost.loss_ms() > moving.max_loss_ms;
                let why = format!("{} ms were lost, {} ms are allowed", cost.loss_ms(), moving.max_loss_ms);
                let (phase, why) = if lossy {
                    (MovePhase::Return, why)
                } else {
                    (MovePhase::Hold, answered_twice(moving, cost))
                };
                let next = enter(moving, phase, facts.now_ms, why);
                Step::Write(Box::new(Move { cost: Some(cost.clone()), ..next }))
            }
            (Said::Done, None) => Step::Wait(None),
            (Said::Nothing, None) if elapsed >= VERIFY_MS => {
                go(MovePhase::Return, format!("node {to} did not take over within {} s", VERIFY_MS / 1000))
            }
            (Said::Nothing, None) => until(VERIFY_MS),
        },
        MovePhase::Hold if elapsed >= moving.window_ms => go(MovePhase::Done, String::new()),
        MovePhase::Hold => until(moving.window_ms),
        MovePhase::Return => {
            let down = facts.to.said == Said::Done || facts.to.fenced || moving.forced;
            match facts.from.connected && !facts.from.fenced {
                // Where nobody programs it, it would be nowhere.
                false if facts.to.connected && !facts.to.fenced => {
                    if !facts.from.lost && !facts.from.fenced {
                        return Step::Wait(None);
                    }
                    let why = format!("{}; it stays: node {from} has no agent connected", moving.reason);
                    go(MovePhase::Done, why)
                }
                _ if down => {
                    Step::SwitchBack(Box::new(enter(moving, MovePhase::Undone, facts.now_ms, String::new())))
                }
                _ => Step::Wait(None),
            }
        }
        MovePhase::Done | MovePhase::Undone => Step::Wait(None),
    }
}

/// That two answered after the switch, in words; empty if none was seen to.
fn answered_twice(moving: &Move, cost: &MoveCost) -> String {
    let twice: u32 = cost.probes.iter().map(|probe| probe.duplicates).fold(0, u32::saturating_add);
    match (twice, moving.from.kind) {
        (0, _) => String::new(),
        (_, WorkloadKind::BareMetal) => {
            format!("{twice} probes were answered twice: silence the machine at {}", moving.from.node)
        }
        _ => format!("{twice} probes were answered twice: look who answers besides node {}", moving.to.node),
    }
}

fn switch(moving: &Move, now_ms: i64) -> Step {
    Step::Switch(Box::new(enter(moving, MovePhase::Verify, now_ms, String::new())))
}

/// The move, told to go back.
pub fn turn_back(moving: &Move, reason: &str, force: bool, now_ms: i64) -> Move {
    let mut next = match moving.phase {
        MovePhase::Prepare | MovePhase::Stop => enter(moving, MovePhase::Undone, now_ms, reason),
        MovePhase::Return => moving.clone(),
        _ => enter(moving, MovePhase::Return, now_ms, reason),
    };
    next.forced |= force;
    next
}

/// What a move waits for, in words; empty if it is only time.
pub fn waits_for(moving: &Move, facts: &Facts) -> String {
    let silent = |side: &Side| !side.connected && !side.fenced;
    match moving.phase {
        MovePhase::Return if silent(&facts.to) => format!(
            "nobody hears from node {0}, which may still answer for the port: causeway node fence {0}",
            moving.to.node
        ),
        _ => String::new(),
    }
}

#[cfg(test)]
mod tests;
