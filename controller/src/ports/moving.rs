//! Moves as they are asked for, their steps, and what is heard of the nodes that they concern.

use causeway_proto::{Mac, Name, Revision};

use super::Place;
use crate::model::Move;

/// A move that is asked for.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveOrder {
    /// Where to.
    pub to: Place,
    /// The MAC that it has there; `None`: its own.
    pub mac: Option<NewMac>,
    /// Largest loss allowed, in milliseconds.
    pub max_loss_ms: u32,
    /// How long the source is kept, in milliseconds.
    pub window_ms: i64,
    /// How long the target may prepare, in milliseconds.
    pub prepare_ms: i64,
    /// Although nobody hears from the source.
    pub force: bool,
    /// Who asks; may be empty.
    pub by: String,
}

/// A MAC that is asked for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum NewMac {
    /// This one.
    Given(Mac),
    /// The one that follows from the port's first address.
    Computed,
}

/// What is heard of a node, for whoever must know whether it still answers for a port.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Hearing {
    /// Its agent is connected to a controller.
    pub connected: bool,
    /// Its agent was connected once.
    pub known: bool,
    /// What it has programmed follows from this revision, or a later one.
    pub applied: Revision,
    /// Since when it has not been connected, in Unix milliseconds; `None`: longer than this controller knows.
    pub silent_ms: Option<i64>,
}

/// A step of a move, valid only as long as nothing has changed since it was decided.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct MoveStep {
    /// The move as it will be.
    pub next: Move,
    /// Revision of the move as it is.
    pub seen: Revision,
    /// Revision of the port's binding, if it has one.
    pub bound: Option<Revision>,
    /// Whose the port is afterwards.
    pub owner: Owner,
}

/// Whose a port is after a step of its move.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Owner {
    /// As before.
    AsItIs,
    /// The target's.
    Target,
    /// The source's.
    Source,
}

/// Says what is heard of a node.
pub type HearingOf = dyn Fn(&Name) -> Hearing + Send + Sync;
