//! Everything the store holds, in memory, at one revision. Written by one task, read by everybody, never changed in
//! place: clones share their content, so that a reader keeps a consistent view for as long as it likes.

use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, Prefix, Revision};
use imbl::{OrdMap, OrdSet};

use crate::model::{Binding, Network, Node, Peer, Port, Subnet, Vrf};

/// A record and the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<T> {
    /// The record.
    pub value: T,
    /// Revision of the transaction that wrote it: what a compare names.
    pub revision: Revision,
}

/// The store's content at one revision.
#[derive(Debug, Clone, Default)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// VRFs by name.
    pub vrfs: OrdMap<Name, Arc<Record<Vrf>>>,
    /// Networks.
    pub networks: OrdMap<NetworkKey, Arc<Record<Network>>>,
    /// Subnets by VRF and prefix.
    pub subnets: OrdMap<(Name, Prefix), Arc<Record<Subnet>>>,
    /// Nodes by name.
    pub nodes: OrdMap<Name, Arc<Record<Node>>>,
    /// BGP neighbours by address.
    pub peers: OrdMap<IpAddr, Arc<Record<Peer>>>,
    /// Ports.
    pub ports: OrdMap<PortKey, Arc<Record<Port>>>,
    /// Bindings by port, unbound ones included.
    pub bindings: OrdMap<PortKey, Arc<Record<Binding>>>,
    /// Index: who has an address of a VRF.
    pub by_address: OrdMap<(Name, IpAddr), PortKey>,
    /// Index: who has a MAC of a network.
    pub by_mac: OrdMap<(NetworkKey, Mac), PortKey>,
    /// Index: ports actively bound to a node.
    pub by_node: OrdSet<(Name, PortKey)>,
}
