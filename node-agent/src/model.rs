//! What a node shall be: the controller's state, checked and converted once, at the edge, into types in which a bad
//! value cannot be spelled. An item that does not pass is reported and left out; the others go on.

mod convert;
mod desired;
pub mod fabric;

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;
use std::path::PathBuf;

use causeway_proto::{Mac, NetworkKey, PortKey, VlanId, Vni};

use crate::dev::Dev;

pub use convert::ItemError;
pub use desired::Desired;
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
    /// An interface that others made, in the workload's namespace: it is looked at, and nothing is programmed.
    Adopted,
}

/// Whether a port takes part in its network.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Stage {
    /// It does.
    #[default]
    Active,
    /// It will: all is programmed, but its link is down.
    Prepared,
    /// It did, and may again: down, and nothing else taken away.
    Held,
}

impl Stage {
    /// True if its MAC and addresses are here.
    pub fn is_active(self) -> bool {
        self == Stage::Active
    }
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
    /// Their MAC, of a routed port whose host need not ask for it.
    pub gateway_mac: Option<Mac>,
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
    /// Whether it takes part.
    pub stage: Stage,
    /// Milliseconds for which its addresses are asked for before their first use here; 0: not at all.
    pub address_check_ms: u32,
    /// Pairs of queues of a tap that is made.
    pub queues: u32,
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

impl Port {
    /// The link of the node that its frames pass; what a macvlan or ipvlan, which has none, would have.
    pub fn host_side(&self) -> Dev {
        if self.attach == Attach::Tap { self.interface.clone() } else { Dev::port(&self.id) }
    }
}

impl Attach {
    /// True if there is an end in the workload's namespace.
    pub fn has_inside(self) -> bool {
        !matches!(self, Attach::Tap | Attach::BareMetal)
    }
}

impl Port {
    /// Alias of its host side as it shall be: names the generation that has been announced, of a port that does not
    /// take part none, so that it is announced when it does.
    pub(crate) fn alias(&self) -> String {
        let announced = if self.stage.is_active() { self.generation } else { 0 };
        crate::dev::port_alias(&self.id, announced)
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
