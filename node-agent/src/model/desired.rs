//! The state of a node as the controller says it, and what can be asked of it.

mod receive;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::{Mac, PortKey, Vni};

use super::{Fabric, Item, Key, Lan, Network, Place, Port, Rejected, Remote};
use crate::dev::Dev;

/// All that the node shall be, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    revision: u64,
    node: String,
    pub(super) vtep: Option<IpAddr>,
    underlay_mtu: u32,
    lan: Option<Lan>,
    networks: BTreeMap<Vni, Network>,
    ports: BTreeMap<PortKey, Port>,
    remotes: BTreeMap<(Vni, Mac), Remote>,
    floods: BTreeSet<(Vni, IpAddr)>,
    /// Index: host side → ports that hash to it (more than one is a collision, which the first wins).
    devs: BTreeMap<Dev, BTreeSet<PortKey>>,
    /// Index: tap → ports whose it is (the first wins).
    taps: BTreeMap<Dev, BTreeSet<PortKey>>,
    /// Index: MAC → ports that claim it (the first wins).
    local_macs: BTreeMap<(Vni, Mac), BTreeSet<PortKey>>,
    /// Index: address → MACs that claim it (the lowest wins).
    neighbours: BTreeSet<(Vni, IpAddr, Mac)>,
    pub(super) fabric: Fabric,
    pub(super) rejected: BTreeMap<Item, Rejected>,
    /// Ports that wait until nobody else has their addresses: as if they were prepared.
    unchecked: BTreeSet<PortKey>,
}

impl Desired {
    /// Store revision that it was derived from.
    pub fn revision(&self) -> u64 {
        self.revision
    }

    /// The node's name as the controller says it.
    pub fn node(&self) -> &str {
        &self.node
    }

    /// The node's VTEP; `None` if the controller sent none that can be used: then nothing can be planned.
    pub fn vtep(&self) -> Option<IpAddr> {
        self.vtep
    }

    /// What a host behind switches works with; `None` for any other node.
    pub fn lan(&self) -> Option<&Lan> {
        self.lan.as_ref()
    }

    /// Names of the taps of this node's VMs.
    pub fn taps(&self) -> BTreeSet<Dev> {
        self.taps.keys().cloned().collect()
    }

    /// The port whose tap has this name.
    pub fn tap_at(&self, dev: &Dev) -> Option<&Port> {
        self.taps.get(dev).and_then(BTreeSet::first).and_then(|id| self.ports.get(id))
    }

    /// True if a tap with this alias is of a port that the controller sent but that could not be read.
    pub fn protects_alias(&self, alias: &str) -> bool {
        let id = alias.split_once(";port=").map_or("", |(_, id)| id);
        self.rejected.keys().any(|item| matches!(item, Item::Port(rejected) if rejected == id))
    }

    /// MTU of the underlay in bytes; 0: not said.
    pub fn underlay_mtu(&self) -> u32 {
        self.underlay_mtu
    }

    /// Networks by VNI.
    pub fn networks(&self) -> &BTreeMap<Vni, Network> {
        &self.networks
    }

    /// Ports by id.
    pub fn ports(&self) -> &BTreeMap<PortKey, Port> {
        &self.ports
    }

    /// True if it waits so.
    pub(crate) fn is_held(&self, id: &PortKey) -> bool {
        self.unchecked.contains(id)
    }

    /// True if a port lives here, or will as soon as it need not wait any more: one that waits for its turn lives elsewhere
    /// as yet.
    pub(crate) fn lives_here(&self, id: &PortKey) -> bool {
        self.ports.get(id).is_some_and(|port| port.stage.is_active() || self.is_held(id))
    }

    /// Remote MACs.
    pub fn remotes(&self) -> &BTreeMap<(Vni, Mac), Remote> {
        &self.remotes
    }

    /// Flood lists' entries.
    pub(crate) fn floods(&self) -> impl Iterator<Item = (Vni, IpAddr)> {
        self.floods.iter().copied()
    }

    /// Addresses of remote MACs.
    pub(crate) fn neighbour_addresses(&self) -> impl Iterator<Item = (Vni, IpAddr)> {
        self.neighbours.iter().map(|&(vni, ip, _)| (vni, ip))
    }

    /// Items that did not pass.
    pub fn rejected(&self) -> &BTreeMap<Item, Rejected> {
        &self.rejected
    }

    /// True if the controller sent this network but it could not be read: what the kernel has of it is left alone.
    pub fn protects_network(&self, vni: Vni) -> bool {
        self.rejected.contains_key(&Item::Network(vni.get()))
    }

    /// True if the controller sent the port of this host side but it could not be read.
    pub fn protects_port(&self, dev: &Dev) -> bool {
        let is = |id: &String| id.parse().is_ok_and(|id: PortKey| Dev::port(&id) == *dev);
        self.rejected.keys().any(|item| matches!(item, Item::Port(id) if is(id)))
    }

    /// The port whose host side has this name.
    pub fn port_at(&self, dev: &Dev) -> Option<&Port> {
        self.devs.get(dev).and_then(BTreeSet::first).and_then(|id| self.ports.get(id))
    }

    /// The port that lost the host side `Dev::port(id)` to another one, or its MAC, and to whom.
    pub fn conflict(&self, port: &Port) -> Option<(&'static str, &PortKey)> {
        let first = |set: Option<&'_ BTreeSet<PortKey>>| set.and_then(BTreeSet::first).cloned();
        if first(self.devs.get(&Dev::port(&port.id))).is_some_and(|id| id != port.id) {
            return self.devs.get(&Dev::port(&port.id))?.first().map(|id| ("host interface name", id));
        }
        let owner = self.local_macs.get(&(port.vni, port.mac))?.first()?;
        (*owner != port.id).then_some(("MAC", owner))
    }

    /// Where frames to this MAC shall go; `None`: nowhere known, or no such network. A workload here beats one elsewhere.
    pub fn place(&self, vni: Vni, mac: Mac) -> Option<Place> {
        self.networks.get(&vni)?;
        if let Some(id) = self.local_macs.get(&(vni, mac)).and_then(BTreeSet::first) {
            return self.ports.get(id).map(|port| Place::Local(port.host_side()));
        }
        self.remotes.get(&(vni, mac)).map(|remote| Place::Remote(remote.vtep))
    }

    /// True if the VTEP shall be in the network's flood list.
    pub fn floods_to(&self, vni: Vni, vtep: IpAddr) -> bool {
        self.networks.contains_key(&vni) && self.floods.contains(&(vni, vtep))
    }

    /// The MAC that a suppression neighbour shall have.
    pub fn neighbour(&self, vni: Vni, ip: IpAddr) -> Option<Mac> {
        // A gateway routes to workloads here without asking for them.
        if !self.networks.get(&vni)?.gateways.is_empty()
            && let Some(mac) = self.fabric.neighbour(vni, ip)
        {
            return Some(mac);
        }
        let low = (vni, ip, Mac::new([0; 6]));
        let (v, i, mac) = self.neighbours.range(low..).next()?;
        (*v == vni && *i == ip).then_some(*mac)
    }

    /// Every key that concerns a network, the network itself left out.
    pub fn keys_of(&self, vni: Vni) -> impl Iterator<Item = Key> {
        let macs = (vni, Mac::new([0; 6]))..=(vni, Mac::new([0xff; 6]));
        let lowest = IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED);
        let locals = self.local_macs.range(macs.clone());
        let ports = locals.clone().flat_map(|(_, ids)| ids).map(|id| Key::Port(Dev::port(id)));
        let remotes = self.remotes.range(macs).map(|(&(v, m), _)| Key::Mac(v, m));
        let floods = self.floods.range((vni, lowest)..).take_while(move |(v, _)| *v == vni);
        let neighbours = self.neighbours.range((vni, lowest, Mac::new([0; 6]))..);
        locals
            .map(|(&(v, m), _)| Key::Mac(v, m))
            .chain(ports)
            .chain(remotes)
            .chain(floods.map(|&(v, t)| Key::Flood(v, t)))
            .chain(neighbours.take_while(move |(v, ..)| *v == vni).map(|&(v, i, _)| Key::Neigh(v, i)))
            .chain(self.fabric.neighbours_of(vni).map(move |ip| Key::Neigh(vni, ip)))
    }

    /// Every key.
    pub fn keys(&self) -> BTreeSet<Key> {
        let networks = self.networks.keys().map(|&v| Key::Network(v));
        let ports = self.devs.keys().cloned().map(Key::Port);
        let macs = self.local_macs.keys().chain(self.remotes.keys()).map(|&(v, m)| Key::Mac(v, m));
        let floods = self.floods.iter().map(|&(v, t)| Key::Flood(v, t));
        let neighbours = self.neighbours.iter().map(|&(v, i, _)| Key::Neigh(v, i));
        let here = self.networks.keys();
        let here = here.flat_map(|&v| self.fabric.neighbours_of(v).map(move |ip| Key::Neigh(v, ip)));
        networks.chain(ports).chain(macs).chain(floods).chain(neighbours).chain(here).collect()
    }
}
