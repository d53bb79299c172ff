//! How a snapshot takes up one change of the store, indexes included.

use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Name, PortKey, Prefix, Revision};
use serde::de::DeserializeOwned;

use crate::alloc::{choosable, number};
use crate::keys::RecordKey;
use crate::model::{Binding, Fence, Move, Network, Node, Peer, Port, Subnet, Vrf};

use super::{Record, Snapshot, Taken};

/// Why a value of the store was not taken up.
#[derive(Debug, thiserror::Error)]
pub enum DecodeError {
    /// Not a key of a record.
    #[error("{0} is not the key of a record")]
    Key(String),
    /// Not the JSON of such a record.
    #[error("value of {key} cannot be read: {source}")]
    Value {
        /// The key.
        key: String,
        /// Where and why.
        source: serde_json::Error,
    },
    /// The record says that it is another one than its key does.
    #[error("value of {0} is the record of another key")]
    Identity(String),
}

impl Snapshot {
    /// Takes up one key of the store: its new value and that value's revision, or `None` when it is gone. Says which
    /// record changed. A value that cannot be read leaves the record as it was before.
    pub fn apply(&mut self, path: &str, change: Option<(&[u8], Revision)>) -> Result<RecordKey, DecodeError> {
        let key = RecordKey::parse(path).ok_or_else(|| DecodeError::Key(path.to_owned()))?;
        match change {
            Some((value, revision)) => self.put(path, &key, value, revision)?,
            None => self.remove(&key),
        }
        Ok(key)
    }

    fn put(&mut self, path: &str, key: &RecordKey, value: &[u8], at: Revision) -> Result<(), DecodeError> {
        fn read<T: DeserializeOwned>(path: &str, value: &[u8]) -> Result<T, DecodeError> {
            serde_json::from_slice(value)
                .map_err(|source| DecodeError::Value { key: path.to_owned(), source })
        }
        let same = |same: bool| same.then_some(()).ok_or_else(|| DecodeError::Identity(path.to_owned()));
        match key {
            RecordKey::Vrf(name) => {
                let vrf: Vrf = read(path, value)?;
                same(vrf.name == *name)?;
                self.vrfs.insert(name.clone(), record(vrf, at));
            }
            RecordKey::Network(key) => {
                let network: Network = read(path, value)?;
                same(network.key == *key)?;
                self.networks.insert(key.clone(), record(network, at));
            }
            RecordKey::Subnet(network, prefix) => {
                let subnet: Subnet = read(path, value)?;
                same(subnet.network == *network && subnet.prefix == *prefix)?;
                self.put_subnet(subnet, at);
            }
            RecordKey::Node(name) => {
                let node: Node = read(path, value)?;
                same(node.name == *name)?;
                self.put_node(node, at);
            }
            RecordKey::Peer(address) => {
                let peer: Peer = read(path, value)?;
                same(peer.address == *address)?;
                self.peers.insert(*address, record(peer, at));
            }
            RecordKey::Port(key) => {
                let port: Port = read(path, value)?;
                same(port.key == *key)?;
                self.put_port(port, at);
            }
            RecordKey::Binding(key) => {
                let binding: Binding = read(path, value)?;
                same(binding.port == *key)?;
                self.put_binding(binding, at);
            }
            RecordKey::Ledger(network, mac) => {
                let value = read(path, value)?;
                self.ledger.insert((network.clone(), *mac), Record { value, revision: at });
            }
            RecordKey::Move(key) => {
                let value: Move = read(path, value)?;
                same(value.port == *key)?;
                self.put_move(value, at);
            }
            RecordKey::Fence(name) => {
                let fence: Fence = read(path, value)?;
                same(fence.node == *name)?;
                self.fences.insert(name.clone(), record(fence, at));
            }
        }
        Ok(())
    }

    fn remove(&mut self, key: &RecordKey) {
        match key {
            RecordKey::Vrf(name) => {
                self.vrfs.remove(name);
                self.restore_default_vrf();
            }
            RecordKey::Network(key) => {
                self.networks.remove(key);
            }
            RecordKey::Subnet(network, prefix) => {
                let key = (network.vrf.clone(), *prefix);
                // Moved to another network in one transaction: the new record may come before the old one's end.
                if self.subnets.get(&key).is_some_and(|r| r.value.network == *network) {
                    self.subnets.remove(&key);
                    self.taken.remove(&key);
                }
            }
            RecordKey::Node(name) => {
                if let Some(old) = self.nodes.remove(name) {
                    self.unindex_node(&old.value);
                }
            }
            RecordKey::Peer(address) => {
                self.peers.remove(address);
            }
            RecordKey::Port(key) => {
                if let Some(old) = self.ports.remove(key) {
                    self.unindex_port(&old.value);
                }
            }
            RecordKey::Binding(key) => {
                if let Some(old) = self.bindings.remove(key) {
                    self.by_node.remove(&(old.value.node.clone(), key.clone()));
                }
            }
            RecordKey::Ledger(network, mac) => {
                self.ledger.remove(&(network.clone(), *mac));
            }
            RecordKey::Move(key) => {
                if let Some(old) = self.moves.remove(key) {
                    self.unindex_move(&old.value);
                }
            }
            RecordKey::Fence(name) => {
                self.fences.remove(name);
            }
        }
    }

    /// The VRF `default` always exists, declared or not.
    pub(super) fn restore_default_vrf(&mut self) {
        let name = Name::default_vrf();
        if !self.vrfs.contains_key(&name) {
            let vrf = Vrf {
                name: name.clone(),
                l3_vni: None,
                export_targets: Vec::new(),
                import_targets: Vec::new(),
                routes: Vec::new(),
                no_connected: false,
                rd_number: 0,
                connected_rds: Vec::new(),
            };
            self.vrfs.insert(name, record(vrf, Revision::default()));
        }
    }

    fn put_node(&mut self, node: Node, at: Revision) {
        if let Some(old) = self.nodes.remove(&node.name) {
            self.unindex_node(&old.value);
        }
        for uplink in &node.uplinks {
            self.behind.insert((uplink.switch.clone(), node.name.clone()));
        }
        for vtep in node.vtep.into_iter().chain(node.anycast_vtep) {
            self.by_vtep.insert((vtep, node.name.clone()));
        }
        self.nodes.insert(node.name.clone(), record(node, at));
    }

    fn unindex_node(&mut self, node: &Node) {
        for uplink in &node.uplinks {
            self.behind.remove(&(uplink.switch.clone(), node.name.clone()));
        }
        for vtep in node.vtep.into_iter().chain(node.anycast_vtep) {
            self.by_vtep.remove(&(vtep, node.name.clone()));
        }
    }

    fn put_subnet(&mut self, subnet: Subnet, at: Revision) {
        let key = (subnet.network.vrf.clone(), subnet.prefix);
        let mut taken = match self.taken.get(&key) {
            Some(taken) => taken.clone(),
            None => self.count_taken(&key.0, key.1),
        };
        taken.set_choosable(choosable(&subnet));
        self.taken.insert(key.clone(), taken);
        self.subnets.insert(key, record(subnet, at));
    }

    /// What is taken of a prefix, from the index of addresses: for a subnet that was not known when its ports were.
    fn count_taken(&self, vrf: &Name, prefix: Prefix) -> Taken {
        let mut taken = Taken::default();
        let range = (vrf.clone(), prefix.network())..=(vrf.clone(), prefix.last());
        for ((_, address), port) in self.by_address.range(range) {
            taken.insert(number(*address), port.value.released_ms.is_some());
        }
        taken
    }

    fn put_port(&mut self, mut port: Port, at: Revision) {
        let old = self.ports.remove_with_key(&port.key);
        match old {
            Some((key, old)) => {
                self.unindex_port(&old.value);
                port.key = key;
            }
            None => port.key = self.shared_key(port.key),
        }
        port.addresses.shrink_to_fit();
        let key = port.key.clone();
        let port = record(port, at);
        for address in &port.value.addresses {
            let released = port.value.released_ms.is_some();
            self.change_taken(&key.network.vrf, *address, |taken, n| taken.insert(n, released));
            self.by_address.insert((key.network.vrf.clone(), *address), port.clone());
        }
        self.by_mac.insert((key.network.clone(), port.value.mac), port.clone());
        if let Some(spare) = port.value.spare_mac {
            self.spare_macs.insert((key.network.clone(), spare), port.clone());
        }
        if let Some(since_ms) = port.value.quarantined_ms {
            self.quarantined.insert((key.network.clone(), since_ms, key.clone()));
        }
        self.ports.insert(key, port);
    }

    /// The same key, made of names that other records hold already: a million ports would else carry a million copies
    /// of their network's name.
    fn shared_key(&self, key: PortKey) -> PortKey {
        let known = self.ports.get_key_value(&key).map(|(known, _)| known);
        if let Some(known) = known.or_else(|| self.bindings.get_key_value(&key).map(|(known, _)| known)) {
            return known.clone();
        }
        // In a listing bindings come before networks.
        let network = match self.networks.get_key_value(&key.network) {
            Some((network, _)) => Some(network),
            None => self.bindings.get_prev(&key).map(|(near, _)| &near.network),
        };
        match network {
            Some(network) if *network == key.network => PortKey { network: network.clone(), name: key.name },
            _ => key,
        }
    }

    /// The same name of a node, as others hold it already.
    fn shared_node(&self, name: Name) -> Name {
        if let Some((known, _)) = self.nodes.get_key_value(&name) {
            return known.clone();
        }
        let bound = self.bindings_at(&name).next().map(|binding| binding.value.node.clone());
        bound.unwrap_or(name)
    }

    fn unindex_port(&mut self, old: &Port) {
        if let Some(since_ms) = old.quarantined_ms {
            self.quarantined.remove(&(old.key.network.clone(), since_ms, old.key.clone()));
        }
        let vrf = &old.key.network.vrf;
        for address in &old.addresses {
            let key = (vrf.clone(), *address);
            // Another port may have taken it since: in a listing or after a gap, order is not that of the changes.
            if self.by_address.get(&key).is_some_and(|owner| owner.value.key == old.key) {
                self.by_address.remove(&key);
                let released = old.released_ms.is_some();
                self.change_taken(vrf, *address, |taken, n| taken.remove(n, released));
            }
        }
        for (index, mac) in [(&mut self.by_mac, Some(old.mac)), (&mut self.spare_macs, old.spare_mac)] {
            let Some(mac) = mac else { continue };
            let key = (old.key.network.clone(), mac);
            if index.get(&key).is_some_and(|owner| owner.value.key == old.key) {
                index.remove(&key);
            }
        }
    }

    fn change_taken(&mut self, vrf: &Name, address: IpAddr, change: impl FnOnce(&mut Taken, u128)) {
        let Some(subnet) = self.subnet_at(vrf, address) else { return };
        let key = (vrf.clone(), subnet.value.prefix);
        if let Some(taken) = self.taken.get_mut(&key) {
            change(taken, number(address));
        }
    }

    fn put_move(&mut self, value: Move, at: Revision) {
        let key = self.shared_key(value.port.clone());
        if let Some(old) = self.moves.remove(&key) {
            self.unindex_move(&old.value);
        }
        if !value.phase.is_over() {
            for place in [&value.from, &value.to] {
                self.moving.insert((place.node.clone(), key.clone()));
            }
        }
        self.moves.insert(key, record(value, at));
    }

    fn unindex_move(&mut self, old: &Move) {
        for place in [&old.from, &old.to] {
            self.moving.remove(&(place.node.clone(), old.port.clone()));
        }
    }

    fn put_binding(&mut self, mut binding: Binding, at: Revision) {
        binding.port = self.shared_key(binding.port);
        binding.node = self.shared_node(binding.node);
        binding.netns.shrink_to_fit();
        binding.interface.shrink_to_fit();
        let key = binding.port.clone();
        if let Some(old) = self.bindings.get(&key) {
            self.by_node.remove(&(old.value.node.clone(), key.clone()));
        }
        if binding.active {
            self.by_node.insert((binding.node.clone(), key.clone()));
        }
        self.bindings.insert(key, record(binding, at));
    }
}

fn record<T>(value: T, revision: Revision) -> Arc<Record<T>> {
    Arc::new(Record { value, revision })
}
