//! Whether the books are right. What makes an address unique are claims (`index/`) that transactions compare; what
//! everything else is derived from are records (`intent/`). Every transaction writes both, so they agree, unless
//! somebody wrote to the store by hand, restored a part of it, or we have a fault. This finds out, and repairs.
//!
//! ```text
//! Store ─ read ─▶ Books ─ check (pure) ─▶ findings, each with what it rests on
//!                                           └─ confirm or repair: one transaction that compares just that
//! ```
//!
//! Claims and records are listed one after the other, so that a change between the two looks like a fault. Hence every
//! finding names the revisions that it rests on: they are compared in one transaction, without writes to confirm it, with
//! writes to repair it. What does not hold any more was under way, and is not told.
//!
//! A repair never takes anything from a port that is in use.

mod check;
mod read;
mod repair;
mod thing;

use causeway_proto::{PortKey, Revision};

use crate::history::Event;
use crate::leaks::Leak;
use crate::snapshot::Snapshot;
use crate::store::{Compare, Write};

pub use check::check;
pub use repair::{Checked, Checker, Fix};

/// What is wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Problem {
    /// A claim names a port that does not exist or does not have it.
    ClaimWithoutOwner,
    /// A port has what is not claimed for it.
    OwnerWithoutClaim,
    /// Two ports have the same.
    Duplicate,
    /// An address lies where its network may give none.
    OutsideSubnet,
    /// A quarantine or reservation that should have ended long ago.
    Overdue,
    /// A binding or move of nothing, or to nowhere.
    StrayBinding,
    /// A VIP and the ports that answer for it do not say the same.
    VipHolder,
    /// A port whose agent does not find its workload.
    Leaked,
    /// A value that cannot be read.
    Unreadable,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Finding {
    /// What is wrong.
    pub problem: Problem,
    /// With what, for example `address 10.8.0.5 of VRF default`.
    pub subject: String,
    /// What was found, in words.
    pub text: String,
    /// The next step by hand; may be empty.
    pub hint: String,
    /// What it rests on.
    pub evidence: Vec<Compare>,
    /// What would mend it; `None`: nothing does by itself.
    pub repair: Option<Repair>,
}

/// What mends a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Repair {
    /// In words.
    pub words: String,
    /// What is done.
    pub act: Act,
}

/// What is done to mend a finding.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Act {
    /// These writes with these events, in the transaction that compares the evidence.
    Write(Vec<Write>, Vec<Event>),
    /// The end of a quarantine, as it should have come.
    EndQuarantine(PortKey),
    /// The end of a reservation.
    Expire(PortKey),
    /// The end of a port that leaked.
    Collect(Leak),
}

/// A claim on an address or MAC.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Claim {
    /// Its key in the store.
    pub path: String,
    /// Whom it names; `None`: nobody that could be read.
    pub owner: Option<PortKey>,
    /// Revision of its value.
    pub revision: Revision,
}

/// A record that cannot be read.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Unreadable {
    /// Its key in the store.
    pub path: String,
    /// Revision of its value.
    pub revision: Revision,
    /// Why not.
    pub reason: String,
}

/// What the store holds of addresses.
#[derive(Debug, Clone, Default)]
pub struct Books {
    /// The records that can be read.
    pub snapshot: Snapshot,
    /// All claims.
    pub claims: Vec<Claim>,
    /// The records that cannot.
    pub unreadable: Vec<Unreadable>,
}

#[cfg(test)]
mod tests;
