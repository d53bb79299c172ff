//! History: which port had which address, where and when, who asked and why. Events are written in the transaction of
//! the change that they tell of, one record a transaction whatever the number of its ports, so that they cost next to
//! nothing; they are read from the store when somebody asks, and never kept in memory.
//!
//! ```text
//! history/log/TIME/NUMBER               the events of one transaction
//! history/address/VRF/ADDRESS/TIME/…    a port that had the address is gone since
//! history/port/VRF/NETWORK/NAME/TIME    the same by its key
//! ```
//!
//! Who looks for one port's events needs no index of them: a port's and a binding's record say when they were written, that
//! is where the event lies, and each event says where those before it lie. An index is needed for what is gone.

mod read;
mod tell;
mod trim;

use std::net::IpAddr;

use causeway_proto::{Mac, Name, PortKey};
use serde::{Deserialize, Serialize};

pub(crate) use read::read;
pub use read::{Cursor, History, Holder, Told};
pub(crate) use tell::{index_of, tell};
pub use trim::trim;

/// Who asked for a change, and why.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct By {
    /// What they call themselves; else the address that they called from, or `controller NAME`.
    pub actor: String,
    /// Where the call came from, if they named themselves.
    pub peer: String,
    /// Their reason; may be empty.
    pub reason: String,
}

impl By {
    /// A controller, by itself.
    pub fn controller(name: &str) -> Self {
        By { actor: format!("controller {name}"), ..By::default() }
    }

    /// The same with a reason, if one is given.
    #[must_use]
    pub fn because(mut self, reason: &str) -> Self {
        if !reason.is_empty() {
            reason.clone_into(&mut self.reason);
        }
        self
    }
}

/// What happened.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum EventKind {
    /// A port was made and got its addresses.
    Created,
    /// A released or quarantined port came back with what it had.
    TakenBack,
    /// It lives on a node now.
    Bound,
    /// It lives nowhere.
    Unbound,
    /// It lives elsewhere, or otherwise, without having lived nowhere.
    Moved,
    /// It was released; the addresses stay reserved.
    Released,
    /// Its addresses go back to the pool when the quarantine is over.
    Quarantined,
    /// It is gone, its addresses are free.
    Freed,
    /// Something else of it changed.
    Updated,
    /// It was taken over as it was found running.
    Adopted,
    /// A declared record was made or changed.
    Declared,
    /// A declared record was deleted.
    Deleted,
    /// A move was undone.
    RolledBack,
    /// A node was taken as dead.
    Fenced,
    /// The books were corrected.
    Repaired,
    /// A move of it went on, and it lives where it did.
    Moving,
    /// Somebody else answered for an address of it.
    Duplicate,
    /// Another port answers for this VIP, or none any more.
    Held,
    /// One that a later version wrote.
    #[serde(other)]
    Unknown,
}

/// One event, as stored.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Event {
    /// What happened.
    pub kind: EventKind,
    /// The port; `None` for a declared record.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub port: Option<PortKey>,
    /// The declared record, for example `network default/web`.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub record: String,
    /// The port's addresses.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<IpAddr>,
    /// The port's MAC.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub mac: Option<Mac>,
    /// Where it lives afterwards.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub node: Option<Name>,
    /// Where it lived before, if elsewhere.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub from_node: Option<Name>,
    /// Generation of its binding; 0: it never had one.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub generation: u64,
    /// Why, in our words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub cause: String,
    /// Who asked.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub actor: String,
    /// Where they called from.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub peer: String,
    /// Why, in their words.
    #[serde(default, skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// Unix times in milliseconds of the events that wrote what this one replaced.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub before: Vec<i64>,
}

impl Event {
    /// One about a declared record.
    pub fn of_record(kind: EventKind, record: String, cause: String) -> Self {
        Event {
            kind,
            port: None,
            record,
            addresses: Vec::new(),
            mac: None,
            node: None,
            from_node: None,
            generation: 0,
            cause,
            actor: String::new(),
            peer: String::new(),
            reason: String::new(),
            before: Vec::new(),
        }
    }

    /// The same with who asked for it.
    #[must_use]
    pub fn by(mut self, by: &By) -> Self {
        by.actor.clone_into(&mut self.actor);
        by.peer.clone_into(&mut self.peer);
        by.reason.clone_into(&mut self.reason);
        self
    }
}

/// The value of a record of the log.
pub fn encode(events: &[Event]) -> Result<Vec<u8>, serde_json::Error> {
    serde_json::to_vec(events)
}

fn is_zero(n: &u64) -> bool {
    *n == 0
}

#[cfg(test)]
mod tests;
