//! Everything the store holds, in memory, at one revision. Written by one task, read by everybody, never changed in
//! place: clones share their content, so that a reader keeps a consistent view for as long as it likes.

mod apply;
mod taken;

use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, PortName, Prefix, Revision};
use imbl::{OrdMap, OrdSet};

use crate::keys::RecordKey;
use crate::model::{Binding, Fence, Move, Network, Node, Peer, Port, Subnet, Vrf};

pub use apply::DecodeError;
pub use taken::{Runs, Taken};

/// A record and the revision of its last change.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Record<T> {
    /// The record.
    pub value: T,
    /// Revision of the transaction that wrote it: what a compare names. 0: not in the store (the VRF `default` before
    /// somebody declares it).
    pub revision: Revision,
}

/// The store's content at one revision.
#[derive(Debug, Clone)]
pub struct Snapshot {
    /// The revision.
    pub revision: Revision,
    /// VRFs by name; `default` is always there.
    pub vrfs: OrdMap<Name, Arc<Record<Vrf>>>,
    /// Networks.
    pub networks: OrdMap<NetworkKey, Arc<Record<Network>>>,
    /// Subnets by VRF and prefix. Those of one VRF never overlap.
    pub subnets: OrdMap<(Name, Prefix), Arc<Record<Subnet>>>,
    /// Nodes by name.
    pub nodes: OrdMap<Name, Arc<Record<Node>>>,
    /// BGP neighbours by address.
    pub peers: OrdMap<IpAddr, Arc<Record<Peer>>>,
    /// Ports, released ones included.
    pub ports: OrdMap<PortKey, Arc<Record<Port>>>,
    /// Bindings by port, unbound ones included.
    pub bindings: OrdMap<PortKey, Arc<Record<Binding>>>,
    /// The highest generation that a MAC had with ports that are gone: its next binding goes above it.
    pub ledger: OrdMap<(NetworkKey, Mac), Record<u64>>,
    /// Index: who has an address of a VRF.
    pub by_address: OrdMap<(Name, IpAddr), Arc<Record<Port>>>,
    /// The last move of each port.
    pub moves: OrdMap<PortKey, Arc<Record<Move>>>,
    /// Nodes that are kept out.
    pub fences: OrdMap<Name, Arc<Record<Fence>>>,
    /// Index: ports under way from or to a node.
    pub moving: OrdSet<(Name, PortKey)>,
    /// Index: who has a MAC of a network.
    pub by_mac: OrdMap<(NetworkKey, Mac), Arc<Record<Port>>>,
    /// Ports by the MAC that they have beside their own while a move changes it.
    pub spare_macs: OrdMap<(NetworkKey, Mac), Arc<Record<Port>>>,
    /// Index: ports actively bound to a node.
    pub by_node: OrdSet<(Name, PortKey)>,
    /// Index: quarantined ports of a network, in the order in which their quarantines began.
    pub quarantined: OrdSet<(NetworkKey, i64, PortKey)>,
    /// Index: hosts behind a switch.
    pub behind: OrdSet<(Name, Name)>,
    /// Index: nodes with a VTEP, own or shared.
    pub by_vtep: OrdSet<(IpAddr, Name)>,
    /// Index: which addresses of each subnet are taken.
    pub(crate) taken: OrdMap<(Name, Prefix), Taken>,
}

impl Default for Snapshot {
    fn default() -> Self {
        let mut snapshot = Snapshot {
            revision: Revision::default(),
            vrfs: OrdMap::new(),
            networks: OrdMap::new(),
            subnets: OrdMap::new(),
            nodes: OrdMap::new(),
            peers: OrdMap::new(),
            ports: OrdMap::new(),
            bindings: OrdMap::new(),
            ledger: OrdMap::new(),
            moves: OrdMap::new(),
            fences: OrdMap::new(),
            moving: OrdSet::new(),
            by_address: OrdMap::new(),
            by_mac: OrdMap::new(),
            spare_macs: OrdMap::new(),
            by_node: OrdSet::new(),
            quarantined: OrdSet::new(),
            behind: OrdSet::new(),
            by_vtep: OrdSet::new(),
            taken: OrdMap::new(),
        };
        snapshot.restore_default_vrf();
        snapshot
    }
}

impl Snapshot {
    /// Networks of a VRF, by name.
    pub fn networks_of<'a>(&'a self, vrf: &'a Name) -> impl Iterator<Item = &'a Arc<Record<Network>>> {
        let first = NetworkKey { vrf: vrf.clone(), network: Name::lowest() };
        self.networks.range(first..).map(|(_, record)| record).take_while(move |r| r.value.key.vrf == *vrf)
    }

    /// Subnets of a VRF, by prefix: IPv4 first.
    pub fn subnets_of_vrf<'a>(&'a self, vrf: &'a Name) -> impl Iterator<Item = &'a Arc<Record<Subnet>>> {
        let lowest = Prefix::host(Ipv4Addr::UNSPECIFIED.into());
        let first = (vrf.clone(), Prefix::containing(lowest.network(), 0).unwrap_or(lowest));
        self.subnets.range(first..).take_while(move |((v, _), _)| v == vrf).map(|(_, record)| record)
    }

    /// Subnets of a network, by prefix: IPv4 first.
    pub fn subnets_of<'a>(
        &'a self,
        network: &'a NetworkKey,
    ) -> impl Iterator<Item = &'a Arc<Record<Subnet>>> {
        self.subnets_of_vrf(&network.vrf).filter(move |record| record.value.network == *network)
    }

    /// The subnet of a VRF in which an address lies.
    pub fn subnet_at(&self, vrf: &Name, address: IpAddr) -> Option<&Arc<Record<Subnet>>> {
        let ((v, prefix), record) =
            self.subnets.range(..=(vrf.clone(), Prefix::host(address))).next_back()?;
        (v == vrf && prefix.contains(address)).then_some(record)
    }

    /// Ports of a network, by name, released ones included.
    pub fn ports_of<'a>(&'a self, network: &'a NetworkKey) -> impl Iterator<Item = &'a Arc<Record<Port>>> {
        let first = PortKey { network: network.clone(), name: PortName::lowest() };
        self.ports
            .range(first..)
            .take_while(move |(key, _)| key.network == *network)
            .map(|(_, record)| record)
    }

    /// The highest generation with which ports that are gone, or have another MAC now, were bound with this one; 0: none.
    pub fn remembered(&self, network: &NetworkKey, mac: Mac) -> u64 {
        self.ledger.get(&(network.clone(), mac)).map_or(0, |record| record.value)
    }

    /// The port of a VRF with this name whose network was chosen by labels.
    pub fn selected(&self, vrf: &Name, name: &PortName) -> Option<&Arc<Record<Port>>> {
        let key = |network: &Arc<Record<Network>>| PortKey {
            network: network.value.key.clone(),
            name: name.clone(),
        };
        let mut found = self.networks_of(vrf).filter_map(|network| self.ports.get(&key(network)));
        found.find(|port| !port.value.select.is_empty())
    }

    /// Active bindings at a node, by port.
    pub fn bindings_at<'a>(&'a self, node: &'a Name) -> impl Iterator<Item = &'a Arc<Record<Binding>>> {
        let network = NetworkKey { vrf: Name::lowest(), network: Name::lowest() };
        let first = (node.clone(), PortKey { network, name: PortName::lowest() });
        self.by_node
            .range(first..)
            .take_while(move |(n, _)| n == node)
            .filter_map(|(_, port)| self.bindings.get(port))
    }

    /// Ports under way from or to a node.
    pub fn moving_at<'a>(&'a self, node: &'a Name) -> impl Iterator<Item = &'a PortKey> {
        let network = NetworkKey { vrf: Name::lowest(), network: Name::lowest() };
        let first = (node.clone(), PortKey { network, name: PortName::lowest() });
        self.moving.range(first..).take_while(move |(n, _)| n == node).map(|(_, port)| port)
    }

    /// The port that has a MAC, be it only while a move changes it.
    pub fn mac_holder(&self, place: &(NetworkKey, Mac)) -> Option<&Arc<Record<Port>>> {
        self.by_mac.get(place).or_else(|| self.spare_macs.get(place))
    }

    /// The move of a port that is under way; `None` if it stays where it is.
    pub fn moving(&self, key: &PortKey) -> Option<&Arc<Record<Move>>> {
        self.moves.get(key).filter(|record| !record.value.phase.is_over())
    }

    /// Hosts with an uplink to a switch, by name.
    pub fn hosts_behind<'a>(&'a self, switch: &'a Name) -> impl Iterator<Item = &'a Arc<Record<Node>>> {
        let first = (switch.clone(), Name::lowest());
        let here = self.behind.range(first..).take_while(move |(name, _)| name == switch);
        here.filter_map(|(_, host)| self.nodes.get(host))
    }

    /// Nodes that have a VTEP, as their own or shared.
    pub fn nodes_at(&self, vtep: IpAddr) -> impl Iterator<Item = &Arc<Record<Node>>> {
        let here = self.by_vtep.range((vtep, Name::lowest())..).take_while(move |(ip, _)| *ip == vtep);
        here.filter_map(|(_, name)| self.nodes.get(name))
    }

    /// How many addresses of a subnet are taken, and how many of these by released ports.
    pub fn taken_in(&self, vrf: &Name, prefix: Prefix) -> (u64, u64) {
        self.taken.get(&(vrf.clone(), prefix)).map_or((0, 0), |t| (t.total(), t.released()))
    }

    /// Revision of a record's last change; `None` if there is no such record.
    pub fn revision_of(&self, key: &RecordKey) -> Option<Revision> {
        match key {
            RecordKey::Vrf(name) => self.vrfs.get(name).map(|r| r.revision),
            RecordKey::Network(key) => self.networks.get(key).map(|r| r.revision),
            RecordKey::Subnet(network, prefix) => {
                self.subnets.get(&(network.vrf.clone(), *prefix)).map(|r| r.revision)
            }
            RecordKey::Node(name) => self.nodes.get(name).map(|r| r.revision),
            RecordKey::Peer(address) => self.peers.get(address).map(|r| r.revision),
            RecordKey::Port(key) => self.ports.get(key).map(|r| r.revision),
            RecordKey::Binding(key) => self.bindings.get(key).map(|r| r.revision),
            RecordKey::Ledger(network, mac) => self.ledger.get(&(network.clone(), *mac)).map(|l| l.revision),
            RecordKey::Move(key) => self.moves.get(key).map(|r| r.revision),
            RecordKey::Fence(name) => self.fences.get(name).map(|r| r.revision),
        }
    }
}

#[cfg(test)]
mod tests;
