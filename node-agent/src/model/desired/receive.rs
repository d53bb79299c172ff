//! What the controller sends, whole or as changes, on its way into the state. An item that does not pass is noted.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_proto::{Mac, PortKey, Vni, v1};

use super::Desired;
use crate::dev::Dev;
use crate::model::convert::{self, ItemError};
use crate::model::{Attach, Item, Key, Lan, Port, Rejected, Remote, Stage};

impl Desired {
    /// Converts a complete state. Of an item that does not pass, what `previous` had stays: what works is not torn
    /// down because its successor is unreadable.
    pub fn from_state(state: &v1::NodeState, previous: &Desired) -> Desired {
        let mut desired = Desired {
            revision: state.revision,
            node: state.node.clone(),
            underlay_mtu: state.underlay_mtu,
            ..Desired::default()
        };
        if state.mode == i32::from(v1::NodeMode::Host) {
            desired.set_lan(state);
        }
        match convert::vtep(&state.vtep) {
            // A host behind switches has none.
            _ if desired.lan.is_some() => {}
            Ok(vtep) => desired.vtep = Some(vtep),
            Err(error) => {
                desired.vtep = previous.vtep;
                desired.reject(Item::State, 0, &error);
            }
        }
        for network in &state.networks {
            desired.set_network(network, previous);
        }
        for port in &state.ports {
            desired.set_port(port, previous);
        }
        for remote in &state.remotes {
            desired.set_remote(remote, previous);
        }
        for flood in &state.floods {
            desired.set_flood(flood);
        }
        desired.set_fabric(state, previous);
        desired
    }

    /// Applies changes, deletions first. Returns what to look at.
    pub fn apply_delta(&mut self, delta: &v1::NodeDelta) -> BTreeSet<Key> {
        let mut dirty = BTreeSet::new();
        self.revision = delta.revision;
        for &vni in &delta.deleted_networks {
            self.rejected.remove(&Item::Network(vni));
            if let Ok(vni) = Vni::try_from(vni) {
                self.networks.remove(&vni);
                dirty.insert(Key::Network(vni));
            }
        }
        for id in &delta.deleted_ports {
            self.rejected.remove(&Item::Port(id.clone()));
            if let Ok(id) = id.parse() {
                self.remove_port(&id, &mut dirty);
            }
        }
        for remote in &delta.deleted_remotes {
            self.rejected.remove(&Item::Remote(remote.vni, remote.mac.clone()));
            if let (Ok(vni), Ok(mac)) = (Vni::try_from(remote.vni), remote.mac.parse()) {
                self.remove_remote(vni, mac, &mut dirty);
            }
        }
        for flood in &delta.deleted_floods {
            self.rejected.remove(&Item::Flood(flood.vni, flood.vtep.clone()));
            if let (Ok(vni), Ok(vtep)) = (Vni::try_from(flood.vni), flood.vtep.parse()) {
                self.floods.remove(&(vni, vtep));
                dirty.insert(Key::Flood(vni, vtep));
            }
        }
        self.delete_fabric(delta, &mut dirty);
        self.insert_delta(delta, &mut dirty);
        self.insert_fabric(delta, &mut dirty);
        crate::fabric::plan::translate(self, dirty)
    }

    fn insert_delta(&mut self, delta: &v1::NodeDelta, dirty: &mut BTreeSet<Key>) {
        let nothing = Desired::default();
        for network in &delta.networks {
            if let Some(vni) = self.set_network(network, &nothing) {
                dirty.insert(Key::Network(vni));
            }
        }
        for port in &delta.ports {
            let Some(port) = self.checked_port(port) else { continue };
            self.remove_port(&port.id, dirty);
            dirty.extend([Key::Port(Dev::port(&port.id)), Key::Mac(port.vni, port.mac)]);
            dirty.extend(port.addresses.iter().map(|a| Key::Neigh(port.vni, a.ip)));
            self.insert_port(port);
        }
        for remote in &delta.remotes {
            let Some((vni, mac, remote)) = self.checked_remote(remote) else { continue };
            self.remove_remote(vni, mac, dirty);
            dirty.insert(Key::Mac(vni, mac));
            dirty.extend(remote.addresses.iter().map(|&ip| Key::Neigh(vni, ip)));
            self.insert_remote(vni, mac, remote);
        }
        for flood in &delta.floods {
            if let Some((vni, vtep)) = self.set_flood(flood) {
                dirty.insert(Key::Flood(vni, vtep));
            }
        }
    }

    pub(in crate::model) fn reject(&mut self, item: Item, generation: u64, error: &ItemError) {
        self.rejected.insert(item, Rejected { reason: error.to_string(), generation });
    }

    fn set_lan(&mut self, state: &v1::NodeState) {
        let mut uplinks = Vec::new();
        for uplink in &state.uplinks {
            match convert::interface(&uplink.interface) {
                Ok(dev) => uplinks.push(dev),
                Err(error) => self.reject(Item::Uplink(uplink.interface.clone()), 0, &error),
            }
        }
        let aware = state.host_bridge == i32::from(v1::HostBridge::VlanAware);
        self.lan = Some(Lan { uplinks, aware, move_addresses: state.move_addresses });
    }

    fn set_network(&mut self, network: &v1::NodeNetwork, previous: &Desired) -> Option<Vni> {
        let item = Item::Network(network.vni);
        match convert::network(network) {
            Ok((vni, network)) => {
                self.rejected.remove(&item);
                self.networks.insert(vni, network);
                Some(vni)
            }
            Err(error) => {
                self.reject(item, 0, &error);
                let vni = Vni::try_from(network.vni).ok()?;
                let kept = previous.networks.get(&vni)?;
                self.networks.insert(vni, kept.clone());
                None
            }
        }
    }

    fn checked_port(&mut self, port: &v1::NodePort) -> Option<Port> {
        let item = Item::Port(port.id.clone());
        match convert::port(port, self.lan.is_some()) {
            Ok(converted) => {
                self.rejected.remove(&item);
                Some(converted)
            }
            Err(error) => {
                self.reject(item, port.generation, &error);
                None
            }
        }
    }

    fn set_port(&mut self, port: &v1::NodePort, previous: &Desired) {
        let kept = || {
            let id: PortKey = port.id.parse().ok()?;
            let kept = previous.ports.get(&id)?.clone();
            let stage = if previous.is_held(&id) { Stage::Active } else { kept.stage };
            Some(Port { stage, ..kept })
        };
        if let Some(port) = self.checked_port(port).or_else(kept) {
            self.remove_port(&port.id.clone(), &mut BTreeSet::new());
            self.insert_port(port);
        }
    }

    /// An active port waits as if it were only prepared.
    pub(crate) fn hold(&mut self, id: &PortKey) {
        if self.restage(id, Stage::Active, Stage::Prepared) {
            self.unchecked.insert(id.clone());
        }
    }

    /// It need not wait any more. Returns what to look at.
    pub(crate) fn let_go(&mut self, id: &PortKey) -> BTreeSet<Key> {
        let mut dirty = BTreeSet::new();
        if self.is_held(id)
            && self.restage(id, Stage::Prepared, Stage::Active)
            && let Some(port) = self.ports.get(id)
        {
            dirty.extend([Key::Port(Dev::port(id)), Key::Mac(port.vni, port.mac)]);
            dirty.extend(port.addresses.iter().map(|a| Key::Neigh(port.vni, a.ip)));
        }
        crate::fabric::plan::translate(self, dirty)
    }

    fn restage(&mut self, id: &PortKey, from: Stage, to: Stage) -> bool {
        let Some(port) = self.ports.get(id).filter(|port| port.stage == from).cloned() else { return false };
        self.remove_port(id, &mut BTreeSet::new());
        self.insert_port(Port { stage: to, ..port });
        true
    }

    fn insert_port(&mut self, port: Port) {
        self.devs.entry(Dev::port(&port.id)).or_default().insert(port.id.clone());
        if port.attach == Attach::Tap {
            self.taps.entry(port.interface.clone()).or_default().insert(port.id.clone());
        }
        // While a port does not take part, its MAC and addresses are elsewhere; those of an adopted one are on others' links.
        if port.stage.is_active() && port.attach != Attach::Adopted {
            self.local_macs.entry((port.vni, port.mac)).or_default().insert(port.id.clone());
            self.fabric.add_addresses(port.vni, port.mac, port.addresses.iter().map(|a| a.ip));
        }
        self.ports.insert(port.id.clone(), port);
    }

    fn remove_port(&mut self, id: &PortKey, dirty: &mut BTreeSet<Key>) {
        let Some(port) = self.ports.remove(id) else { return };
        self.unchecked.remove(id);
        if port.stage.is_active() {
            self.fabric.remove_addresses(port.vni, port.mac, port.addresses.iter().map(|a| a.ip));
        }
        dirty.extend(port.addresses.iter().map(|a| Key::Neigh(port.vni, a.ip)));
        let dev = Dev::port(id);
        if let Some(ids) = self.devs.get_mut(&dev) {
            ids.remove(id);
            if ids.is_empty() {
                self.devs.remove(&dev);
            }
        }
        if let Some(ids) = self.local_macs.get_mut(&(port.vni, port.mac)) {
            ids.remove(id);
            // Those who lost the MAC to this one have it now.
            dirty.extend(ids.iter().map(|id| Key::Port(Dev::port(id))));
            if ids.is_empty() {
                self.local_macs.remove(&(port.vni, port.mac));
            }
        }
        if let Some(ids) = self.taps.get_mut(&port.interface).filter(|_| port.attach == Attach::Tap) {
            ids.remove(id);
            dirty.extend(ids.iter().map(|id| Key::Port(Dev::port(id))));
            if ids.is_empty() {
                self.taps.remove(&port.interface);
            }
        }
        dirty.extend([Key::Port(port.host_side()), Key::Port(dev), Key::Mac(port.vni, port.mac)]);
    }

    fn checked_remote(&mut self, remote: &v1::RemoteMac) -> Option<(Vni, Mac, Remote)> {
        let item = Item::Remote(remote.vni, remote.mac.clone());
        match convert::remote(remote, self.vtep) {
            Ok(converted) => {
                self.rejected.remove(&item);
                Some(converted)
            }
            Err(error) => {
                self.reject(item, 0, &error);
                None
            }
        }
    }

    fn set_remote(&mut self, remote: &v1::RemoteMac, previous: &Desired) {
        let kept = || {
            let key = (Vni::try_from(remote.vni).ok()?, remote.mac.parse().ok()?);
            previous.remotes.get(&key).map(|kept| (key.0, key.1, kept.clone()))
        };
        if let Some((vni, mac, remote)) = self.checked_remote(remote).or_else(kept) {
            self.remove_remote(vni, mac, &mut BTreeSet::new());
            self.insert_remote(vni, mac, remote);
        }
    }

    fn insert_remote(&mut self, vni: Vni, mac: Mac, remote: Remote) {
        self.neighbours.extend(remote.addresses.iter().map(|&ip| (vni, ip, mac)));
        self.remotes.insert((vni, mac), remote);
    }

    fn remove_remote(&mut self, vni: Vni, mac: Mac, dirty: &mut BTreeSet<Key>) {
        let Some(remote) = self.remotes.remove(&(vni, mac)) else { return };
        for ip in remote.addresses {
            self.neighbours.remove(&(vni, ip, mac));
            dirty.insert(Key::Neigh(vni, ip));
        }
        dirty.insert(Key::Mac(vni, mac));
    }

    fn set_flood(&mut self, flood: &v1::FloodTarget) -> Option<(Vni, IpAddr)> {
        let item = Item::Flood(flood.vni, flood.vtep.clone());
        match convert::flood(flood, self.vtep) {
            Ok(key) => {
                self.rejected.remove(&item);
                self.floods.insert(key);
                Some(key)
            }
            Err(error) => {
                self.reject(item, 0, &error);
                None
            }
        }
    }
}
