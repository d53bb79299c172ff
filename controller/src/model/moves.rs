//! Records of moves between nodes, and of nodes that are kept out.

use std::fmt;

use causeway_proto::{Mac, Name, PortKey};
use serde::{Deserialize, Serialize};

use super::Binding;

/// How far a move is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum MovePhase {
    /// The target programs everything; the port answers at the source.
    Prepare,
    /// The source takes it down.
    Stop,
    /// The port is the target's; what that cost is measured.
    Verify,
    /// The source is kept, down, for a way back.
    Hold,
    /// The target takes it down, so that the source may have it again.
    Return,
    /// Over: the port is at its target.
    Done,
    /// Over: the port is where it was.
    Undone,
}

impl MovePhase {
    /// True for one that is over.
    pub fn is_over(self) -> bool {
        matches!(self, MovePhase::Done | MovePhase::Undone)
    }

    /// What has begun, for the history.
    pub fn told(self) -> &'static str {
        match self {
            MovePhase::Prepare => "the target prepares",
            MovePhase::Stop => "the source stops",
            MovePhase::Verify => "switched",
            MovePhase::Hold => "it is there, the source is kept",
            MovePhase::Return => "it goes back, the target stops",
            MovePhase::Done => "done",
            MovePhase::Undone => "undone",
        }
    }
}

impl fmt::Display for MovePhase {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            MovePhase::Prepare => "prepare",
            MovePhase::Stop => "stop",
            MovePhase::Verify => "verify",
            MovePhase::Hold => "hold",
            MovePhase::Return => "return",
            MovePhase::Done => "done",
            MovePhase::Undone => "undone",
        })
    }
}

/// A port's way from one node to another. One record a port: the last one stays when it is over.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Move {
    /// The port.
    pub port: PortKey,
    /// How far it is.
    pub phase: MovePhase,
    /// Where the port was, with the generation it had.
    pub from: Binding,
    /// Where it goes; from the switch on with the generation it has there.
    pub to: Binding,
    /// Who asked; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// When phases began, in Unix milliseconds.
    pub steps: Vec<(MovePhase, i64)>,
    /// How long the target may prepare, in milliseconds.
    pub prepare_ms: i64,
    /// How long the source is kept, in milliseconds.
    pub window_ms: i64,
    /// Largest loss allowed, in milliseconds.
    pub max_loss_ms: u32,
    /// Its MAC before and after, if the move changes it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub macs: Option<(Mac, Mac)>,
    /// Why it went back or ended; empty when all went well.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// What the switch cost, once it is measured.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cost: Option<MoveCost>,
    /// When earlier moves changed the port's place, in Unix milliseconds; the last few.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<i64>,
    /// Unix time in milliseconds of the last event that wrote this record.
    #[serde(default, skip_serializing_if = "super::is_zero64")]
    pub changed_ms: i64,
    /// Somebody said to go on although nobody hears from an agent.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub forced: bool,
}

/// What a switch cost.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveCost {
    /// From the order to stop until the report that the target forwards, in milliseconds.
    pub gap_ms: u32,
    /// Store revision of the switch.
    pub revision: u64,
    /// Other nodes, and how many milliseconds after the switch they had what follows from it.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub converged: Vec<(Name, u32)>,
    /// What probes saw.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub probes: Vec<MoveProbe>,
    /// The controllers that saw the switch are gone: what was lost nobody knows, and the gap includes their absence.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub unseen: bool,
}

/// What one node's probes saw.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct MoveProbe {
    /// The node that probed.
    pub node: Name,
    /// The address.
    pub address: std::net::IpAddr,
    /// Between two probes, in milliseconds.
    pub interval_ms: u32,
    /// Sent.
    pub sent: u32,
    /// Without an answer.
    pub lost: u32,
    /// Answered more than once.
    pub duplicates: u32,
    /// Longest time without an answer, in milliseconds.
    pub longest_gap_ms: u32,
}

impl MoveCost {
    /// How long traffic was lost, in milliseconds: as probes saw it, or else the bound that is known without them; 0 if
    /// nobody knows.
    pub fn loss_ms(&self) -> u32 {
        if self.unseen {
            return 0;
        }
        self.probes.iter().map(|probe| probe.longest_gap_ms).max().unwrap_or(self.gap_ms)
    }
}

impl Move {
    /// When the phase that it is in began, in Unix milliseconds.
    pub fn since_ms(&self) -> i64 {
        self.steps.last().map_or(0, |(_, at)| *at)
    }

    /// When a phase began the first time.
    pub fn began_ms(&self, phase: MovePhase) -> Option<i64> {
        self.steps.iter().find(|(of, _)| *of == phase).map(|(_, at)| *at)
    }
}

/// A node that is kept out of the fabric.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Fence {
    /// The node.
    pub node: Name,
    /// Why.
    pub reason: String,
    /// Who asked; may be empty.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub by: String,
    /// Since when, in Unix milliseconds.
    pub since_ms: i64,
}
