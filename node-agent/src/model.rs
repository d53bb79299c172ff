//! What a node shall be: the controller's state, checked and converted once, at the edge, into types in which a bad
//! value cannot be spelled. An item that does not pass is reported and left out; the others go on.

mod convert;
pub mod fabric;

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use causeway_proto::{Mac, NetworkKey, PortKey, VlanId, Vni, v1};

use crate::dev::Dev;

pub use convert::ItemError;
pub use fabric::{Fabric, Mode};

use crate::fabric::Thing;

/// A network on this node: one bridge with one VXLAN port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Network {
    /// For names and logs.
    pub name: NetworkKey,
    /// MTU of bridge and VXLAN device, bytes.
    pub mtu: u32,
    /// MAC of the bridge.
    pub bridge_mac: Mac,
    /// 802.1Q id on links between hosts and switches.
    pub vlan: Option<VlanId>,
    /// Anycast gateway addresses; empty: this node does not route here.
    pub gateways: BTreeSet<IfAddr>,
    /// MAC of the anycast gateway, if there is one.
    pub gateway_mac: Option<Mac>,
}

impl Network {
    /// MAC of the device that has the network's gateways, if it routes, or else stands for this node in it.
    pub fn own_mac(&self) -> Mac {
        self.gateway_mac.unwrap_or(self.bridge_mac)
    }
}

/// What a host behind switches works with; a node with a VTEP has none.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Lan {
    /// Links to switches, in the order of preference.
    pub uplinks: Vec<Dev>,
    /// One VLAN-aware bridge instead of one bridge a network.
    pub aware: bool,
    /// The host's own addresses may move from an uplink to the bridge that takes it as a port.
    pub move_addresses: bool,
}

/// How macvlans on one parent reach each other.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum MacvlanMode {
    /// Directly on the host.
    Bridge,
    /// Never.
    Private,
    /// Through the switch, which must reflect frames.
    Vepa,
    /// The only one on its parent, whose MAC it takes over.
    Passthru,
}

/// A link that shares its parent's wire without a bridge between.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Child {
    /// With a MAC of its own.
    Macvlan(MacvlanMode),
    /// In L2 mode, with the parent's MAC.
    Ipvlan,
}

/// How a port hangs on the node.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Attach {
    /// A veth into the bridge of a network with a VXLAN port.
    VxlanBridge,
    /// A veth into a bridge with the uplink, or a VLAN of it, as the other port.
    Bridge,
    /// A macvlan or ipvlan in the workload's namespace.
    Child(Child),
    /// A veth with single addresses; the node routes and answers ARP and ND for it.
    Routed,
    /// A tap in the bridge in which a container of this node would be.
    Tap,
    /// A machine of its own: nothing is programmed.
    BareMetal,
}

/// An address on an interface.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct IfAddr {
    /// The address.
    pub ip: IpAddr,
    /// Prefix length in bits.
    pub length: u8,
}

/// Where a network namespace is found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum NetnsRef {
    /// A bind mount or `/proc/…/ns/net`.
    Path(PathBuf),
    /// The namespace of a process.
    Pid(u32),
    /// The node's own: where a tap is.
    Node,
}

/// A workload's place on this node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Port {
    /// The port.
    pub id: PortKey,
    /// Its network.
    pub vni: Vni,
    /// MAC of the interface inside.
    pub mac: Mac,
    /// Addresses of the interface inside.
    pub addresses: BTreeSet<IfAddr>,
    /// Default gateways, at most one a family.
    pub gateways: BTreeSet<IpAddr>,
    /// MTU of both sides, bytes.
    pub mtu: u32,
    /// The workload's namespace.
    pub netns: NetnsRef,
    /// Interface name inside.
    pub interface: Dev,
    /// Generation of the binding.
    pub generation: u64,
    /// How it is attached.
    pub attach: Attach,
    /// It may send only what is its own.
    pub guarded: bool,
    /// How fast it may be.
    pub rate: Rate,
}

/// How fast a port may be, in kbit/s; 0: as fast as it can.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Rate {
    /// Towards the workload.
    pub in_kbit: u64,
    /// From the workload.
    pub out_kbit: u64,
}

/// A workload behind another VTEP.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Remote {
    /// The VTEP.
    pub vtep: IpAddr,
    /// Its addresses, for ARP and ND suppression.
    pub addresses: BTreeSet<IpAddr>,
}

/// Where frames to a MAC go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Place {
    /// To a workload here.
    Local(Dev),
    /// Through the tunnel to this VTEP.
    Remote(IpAddr),
}

/// One thing that is planned, observed and retried by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Key {
    /// What a host's networks share: uplinks and the VLAN-aware bridge.
    Lan,
    /// Bridge and VXLAN device of a network.
    Network(Vni),
    /// A workload's veth pair and all inside its namespace, by the name of the host side.
    Port(Dev),
    /// FDB entries of a MAC.
    Mac(Vni, Mac),
    /// A flood list entry.
    Flood(Vni, IpAddr),
    /// A suppression neighbour.
    Neigh(Vni, IpAddr),
    /// A thing of switching and routing.
    Fabric(Thing),
}

impl Key {
    /// True for what other keys depend on: one step at a time, and read back afterwards.
    pub(crate) fn is_structure(&self) -> bool {
        match self {
            Key::Lan | Key::Network(_) | Key::Port(_) => true,
            Key::Mac(..) | Key::Flood(..) | Key::Neigh(..) => false,
            Key::Fabric(thing) => thing.is_structure(),
        }
    }

    /// What must be there first.
    pub(crate) fn base(&self) -> Option<Key> {
        match self {
            Key::Mac(vni, _) | Key::Flood(vni, _) | Key::Neigh(vni, _) => Some(Key::Network(*vni)),
            Key::Lan | Key::Network(_) | Key::Port(_) => None,
            Key::Fabric(thing) => match thing.dev().and_then(Dev::role) {
                Some(crate::dev::Role::Bridge(vni)) => Some(Key::Network(vni)),
                _ => thing.base().filter(|base| base != thing).map(Key::Fabric),
            },
        }
    }
}

/// An item of the controller's state as it named it, for problems.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Item {
    /// The state as a whole.
    State,
    /// A host's link to a switch, by its interface.
    Uplink(String),
    /// A network by VNI.
    Network(u32),
    /// A port by id.
    Port(String),
    /// A remote MAC by VNI and text.
    Remote(u32, String),
    /// A flood target by VNI and text.
    Flood(u32, String),
    /// A routing domain by name.
    Vrf(String),
    /// A route by routing domain and prefix.
    Route(String, String),
    /// A switch port by interface.
    SwitchPort(String),
    /// A MAC behind a switch port, by VNI and text.
    Local(u32, String),
}

/// A refused item: why, and for ports the generation that was refused.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Rejected {
    /// Field and reason.
    pub reason: String,
    /// Generation of a refused port; 0 for all else.
    pub generation: u64,
}

/// All that the node shall be, at one revision.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Desired {
    revision: u64,
    node: String,
    vtep: Option<IpAddr>,
    underlay_mtu: u32,
    lan: Option<Lan>,
    networks: BTreeMap<Vni, Network>,
    ports: BTreeMap<PortKey, Port>,
    remotes: BTreeMap<(Vni, Mac), Remote>,
    floods: BTreeSet<(Vni, IpAddr)>,
    /// Index: host side → ports that hash to it (more than one is a collision, which the first wins).
    devs: BTreeMap<Dev, BTreeSet<PortKey>>,
    /// Index: MAC → ports that claim it (the first wins).
    local_macs: BTreeMap<(Vni, Mac), BTreeSet<PortKey>>,
    /// Index: address → MACs that claim it (the lowest wins).
    neighbours: BTreeSet<(Vni, IpAddr, Mac)>,
    fabric: Fabric,
    rejected: BTreeMap<Item, Rejected>,
}

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
        let taps = self.ports.values().filter(|p| p.attach == Attach::Tap);
        taps.map(|p| p.interface.clone()).collect()
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
            return Some(Place::Local(Dev::port(id)));
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

    fn reject(&mut self, item: Item, generation: u64, error: &ItemError) {
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
        let kept = || port.id.parse().ok().and_then(|id: PortKey| previous.ports.get(&id)).cloned();
        if let Some(port) = self.checked_port(port).or_else(kept) {
            self.remove_port(&port.id.clone(), &mut BTreeSet::new());
            self.insert_port(port);
        }
    }

    fn insert_port(&mut self, port: Port) {
        self.devs.entry(Dev::port(&port.id)).or_default().insert(port.id.clone());
        self.local_macs.entry((port.vni, port.mac)).or_default().insert(port.id.clone());
        self.fabric.add_addresses(port.vni, port.mac, port.addresses.iter().map(|a| a.ip));
        self.ports.insert(port.id.clone(), port);
    }

    fn remove_port(&mut self, id: &PortKey, dirty: &mut BTreeSet<Key>) {
        let Some(port) = self.ports.remove(id) else { return };
        self.fabric.remove_addresses(port.vni, port.mac, port.addresses.iter().map(|a| a.ip));
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
        dirty.extend([Key::Port(dev), Key::Mac(port.vni, port.mac)]);
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

impl fmt::Display for IfAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.ip, self.length)
    }
}

impl fmt::Debug for IfAddr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for NetnsRef {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            NetnsRef::Path(path) => path.display().fmt(f),
            NetnsRef::Pid(pid) => write!(f, "pid:{pid}"),
            NetnsRef::Node => f.write_str("of the node"),
        }
    }
}

impl Attach {
    /// True if there is an end in the workload's namespace.
    pub fn has_inside(self) -> bool {
        !matches!(self, Attach::Tap | Attach::BareMetal)
    }
}

impl NetnsRef {
    /// The file that names the namespace.
    pub fn file(&self) -> PathBuf {
        match self {
            NetnsRef::Path(path) => path.clone(),
            NetnsRef::Pid(pid) => PathBuf::from(format!("/proc/{pid}/ns/net")),
            NetnsRef::Node => PathBuf::from("/proc/thread-self/ns/net"),
        }
    }
}

impl fmt::Display for Item {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Item::State => f.write_str("state"),
            Item::Uplink(interface) => write!(f, "uplink {interface}"),
            Item::Network(vni) => write!(f, "network with VNI {vni}"),
            Item::Port(id) => write!(f, "port {id}"),
            Item::Remote(vni, mac) => write!(f, "remote MAC {mac} of VNI {vni}"),
            Item::Flood(vni, vtep) => write!(f, "flood target {vtep} of VNI {vni}"),
            Item::Vrf(name) => write!(f, "VRF {name}"),
            Item::Route(vrf, prefix) => write!(f, "route {prefix} of VRF {vrf}"),
            Item::SwitchPort(interface) => write!(f, "switch port {interface}"),
            Item::Local(vni, mac) => write!(f, "MAC {mac} of VNI {vni} behind a switch port"),
        }
    }
}

#[cfg(test)]
pub(crate) mod tests;
