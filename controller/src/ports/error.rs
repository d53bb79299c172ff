//! Why a request about a port was refused.

use causeway_proto::{Name, NetworkKey, PortKey, Prefix};

use crate::store::StoreError;

/// Why a request about a port was refused.
#[derive(Debug, thiserror::Error)]
pub enum PortError {
    /// A field is wrong whatever the store holds.
    #[error("{field}: {reason}")]
    Field {
        /// Path inside the request, for example `addresses[1]`.
        field: String,
        /// What is wrong.
        reason: String,
    },
    /// The network does not exist.
    #[error("network {0} does not exist")]
    NoNetwork(NetworkKey),
    /// The node does not exist.
    #[error("node {0} does not exist")]
    NoNode(Name),
    /// The port does not exist.
    #[error("port {0} does not exist")]
    NoPort(PortKey),
    /// Somebody else has what was asked for, or the port exists and is different.
    #[error("{subject} is taken by {owner}")]
    Taken {
        /// What, for example `address 10.8.0.5`.
        subject: String,
        /// Who has it, for example `port default/web/db-1`.
        owner: String,
        /// What to do about it.
        hint: String,
    },
    /// No address is free.
    #[error("no free address in network {network}")]
    Exhausted {
        /// The network.
        network: NetworkKey,
        /// The subnets that were tried.
        subnets: Vec<Prefix>,
        /// How many addresses they can give.
        size: u64,
        /// How many of these are held by released ports.
        released: u64,
    },
    /// The port's or the network's state forbids it.
    #[error("{subject}: {reason}")]
    Precondition {
        /// What stands against it, for example `port default/web/db-1`.
        subject: String,
        /// Why.
        reason: String,
        /// Who is in the way, for example `node host2`; may be empty.
        owner: String,
        /// What to do about it.
        hint: String,
    },
    /// A node that had the port, and is there, has not yet said that the port is down.
    #[error("port {subject} is on its way off node {node}, which has not yet said that it is down")]
    Unconfirmed {
        /// Which port.
        subject: PortKey,
        /// The node.
        node: Name,
    },
    /// Others were faster again and again.
    #[error("{subject}: lost {tries} races with other requests")]
    Aborted {
        /// Which port.
        subject: PortKey,
        /// How many.
        tries: u32,
    },
    /// The store does not answer. The request may have been carried out: repeat it to know.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The controller is stopping.
    #[error("the controller is stopping")]
    Stopping,
    /// A fault of ours.
    #[error("{0}")]
    Internal(String),
}

impl PortError {
    /// True if the same request may succeed later without a change.
    pub fn retryable(&self) -> bool {
        match self {
            PortError::Aborted { .. } | PortError::Unconfirmed { .. } | PortError::Stopping => true,
            PortError::Store(error) => matches!(error, StoreError::Unavailable { .. }),
            _ => false,
        }
    }

    /// The next useful step; may be empty.
    pub fn hint(&self) -> String {
        match self {
            PortError::Taken { hint, .. } | PortError::Precondition { hint, .. } => hint.clone(),
            PortError::NoNetwork(key) => format!(
                "declare it: causeway apply -f FILE; known ones: causeway get networks (asked for {key})"
            ),
            PortError::NoNode(_) => {
                "declare it: causeway apply -f FILE; known ones: causeway get nodes".to_owned()
            }
            PortError::NoPort(key) => format!("create it: causeway port create {key}"),
            PortError::Exhausted { network, .. } => {
                format!(
                    "add a subnet to {network}, or give back released ports: causeway port release --forget PORT"
                )
            }
            PortError::Unconfirmed { node, .. } => {
                format!(
                    "repeat the request; if the node hangs, keep it out: causeway node fence {node} --reason …"
                )
            }
            PortError::Aborted { .. } | PortError::Stopping => "repeat the request".to_owned(),
            PortError::Store(_) => {
                "repeat the request; the same request never gives a second address".to_owned()
            }
            PortError::Field { .. } | PortError::Internal(_) => String::new(),
        }
    }
}
