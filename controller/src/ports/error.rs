//! Why a request about a port was refused.

use std::collections::BTreeMap;

use causeway_proto::{Name, NetworkKey, PortKey, Prefix};

use crate::store::StoreError;

/// A network without a free address.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Pool {
    /// The network.
    pub network: NetworkKey,
    /// Its subnets of the family that lacks an address.
    pub subnets: Vec<Prefix>,
    /// How many addresses they can give.
    pub size: u64,
    /// How many are taken there.
    pub taken: u64,
    /// How many of these by released ports.
    pub released: u64,
}

/// `KEY=VALUE,…`.
pub(crate) fn show_labels(labels: &BTreeMap<String, String>) -> String {
    labels.iter().map(|(key, value)| format!("{key}={value}")).collect::<Vec<_>>().join(",")
}

fn show_pools(pools: &[Pool]) -> String {
    let one = |pool: &Pool| match pool.released {
        0 => format!("{} has {} of {} taken", pool.network, pool.taken, pool.size),
        n => format!(
            "{} has {} of {} taken, {n} of them by released ports",
            pool.network, pool.taken, pool.size
        ),
    };
    pools.iter().map(one).collect::<Vec<_>>().join("; ")
}

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
    /// No network has the labels that were asked for.
    #[error("no network of VRF {vrf} has the labels {}", show_labels(labels))]
    NoMatch {
        /// The VRF.
        vrf: Name,
        /// The labels.
        labels: BTreeMap<String, String>,
        /// Networks that have labels, with them.
        labelled: Vec<String>,
    },
    /// All networks with the labels that were asked for are full.
    #[error("no free address in any network with the labels {}: {}", show_labels(labels), show_pools(pools))]
    Full {
        /// The labels.
        labels: BTreeMap<String, String>,
        /// The networks.
        pools: Vec<Pool>,
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
    /// The port's own state forbids it; nobody else is in the way.
    pub(crate) fn refused(key: &PortKey, reason: impl Into<String>, hint: impl Into<String>) -> Self {
        PortError::Precondition {
            subject: format!("port {key}"),
            reason: reason.into(),
            owner: String::new(),
            hint: hint.into(),
        }
    }

    /// True if the same request may succeed later without a change.
    pub fn retryable(&self) -> bool {
        match self {
            PortError::Aborted { .. } | PortError::Unconfirmed { .. } | PortError::Stopping => true,
            PortError::Store(error) => matches!(error, StoreError::Unavailable { .. }),
            _ => false,
        }
    }

    /// The pools that lack an address, each with its network and subnets.
    pub(super) fn pools(&self) -> Vec<(&NetworkKey, &[Prefix])> {
        match self {
            PortError::Exhausted { network, subnets, .. } => vec![(network, subnets.as_slice())],
            PortError::Full { pools, .. } => {
                pools.iter().map(|pool| (&pool.network, pool.subnets.as_slice())).collect()
            }
            _ => Vec::new(),
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
            PortError::NoMatch { .. } => {
                "label a network: causeway apply -f FILE; known ones: causeway get networks".to_owned()
            }
            PortError::Full { .. } => {
                "add a subnet to one of them, label a further network, or give back released ports: causeway port release \
                 --forget PORT"
                    .to_owned()
            }
            PortError::Aborted { .. } | PortError::Stopping => "repeat the request".to_owned(),
            PortError::Store(_) => {
                "repeat the request; the same request never gives a second address".to_owned()
            }
            PortError::Field { .. } | PortError::Internal(_) => String::new(),
        }
    }
}
