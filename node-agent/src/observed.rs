//! What the kernel is like: read back and mapped to the model's terms, so that a plan is a comparison. Messages of the
//! kernel are never compared.

mod effect;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::{Mac, Vni};

use crate::dev::Dev;
use crate::fabric::Seen;
use crate::guard::{Chain, Guards};
use crate::lan::seen::Seen as Lan;
use crate::model::{Child, IfAddr, Key};
use crate::rate::Shaping;
use crate::rate::lead::Diverted;

/// Flags of a bridge port that we care about.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct PortFlags {
    /// Learns source MACs.
    pub learning: bool,
    /// Answers ARP and ND for known neighbours instead of flooding to this port.
    pub neigh_suppress: bool,
    /// Floods gratuitous ARP and unsolicited NA to this port in spite of suppression; `None`: this kernel cannot.
    pub forward_gratuitous: Option<bool>,
    /// Takes only frames from MACs that the bridge has at this port.
    pub locked: bool,
}

impl Default for PortFlags {
    /// What the kernel gives a new port.
    fn default() -> Self {
        PortFlags { learning: true, neigh_suppress: false, forward_gratuitous: None, locked: false }
    }
}

/// What all links of ours have.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Link {
    /// Bytes.
    pub mtu: u32,
    /// Empty: none.
    pub alias: String,
    /// Is in our link group.
    pub grouped: bool,
    /// Administratively up.
    pub up: bool,
    /// Makes no IPv6 link-local address of its own.
    pub addrgen_none: bool,
    /// Bridge that it is a port of.
    pub master: Option<Dev>,
}

/// Bridge of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Bridge {
    /// Common part.
    pub link: Link,
    /// Its address.
    pub mac: Mac,
    /// Listens to router advertisements.
    pub accept_ra: bool,
}

/// VXLAN device of a network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vxlan {
    /// Common part.
    pub link: Link,
    /// VNI that it was made with.
    pub vni: u32,
    /// Source address of tunnel packets.
    pub local: Option<IpAddr>,
    /// UDP port.
    pub port: u16,
    /// Learns VTEPs from packets.
    pub learning: bool,
    /// Its flags as bridge port.
    pub flags: PortFlags,
}

/// Host side of a workload's veth pair, or a VM's tap.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct HostSide {
    /// Common part.
    pub link: Link,
    /// Its flags as bridge port.
    pub flags: PortFlags,
    /// A VM's tap.
    pub tap: bool,
}

/// What is found in a workload's namespace under the wanted interface name.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Inside {
    /// The namespace cannot be entered, and why.
    Unreachable(String),
    /// No interface of that name, and no peer of our host side.
    Absent,
    /// An interface of that name that is not the peer of our host side.
    Foreign,
    /// The peer of our host side.
    Present(Peer),
}

/// A macvlan or ipvlan, seen from inside.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ChildOf {
    /// Which.
    pub child: Child,
    /// The link of the host that it is on; `None`: not one of this host.
    pub parent: Option<Dev>,
}

/// The workload's interface: one side of a veth pair, a macvlan or an ipvlan.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Peer {
    /// `None`: the peer of our host side.
    pub child: Option<ChildOf>,
    /// Its alias; empty: none.
    pub alias: String,
    /// Neighbours of ours on it.
    pub neighbours: BTreeMap<IpAddr, Mac>,
    /// Its address.
    pub mac: Mac,
    /// Bytes.
    pub mtu: u32,
    /// Administratively up.
    pub up: bool,
    /// Loopback of the namespace is up.
    pub loopback_up: bool,
    /// Listens to router advertisements.
    pub accept_ra: bool,
    /// Addresses, and whether they carry our protocol number.
    pub addresses: BTreeMap<IfAddr, bool>,
    /// Gateways of default routes through it, and whether they carry our protocol number.
    pub gateways: BTreeMap<IpAddr, bool>,
    /// Its guard in the namespace.
    pub guard: Option<Chain>,
}

impl Peer {
    /// One that was just made: down, and with nothing.
    pub(crate) fn made(mac: Mac, mtu: u32) -> Self {
        Peer {
            child: None,
            alias: String::new(),
            neighbours: BTreeMap::new(),
            mac,
            mtu,
            up: false,
            loopback_up: false,
            accept_ra: true,
            addresses: BTreeMap::new(),
            gateways: BTreeMap::new(),
            guard: None,
        }
    }
}

/// Port that an entry of a bridge's FDB points to.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum FdbPort {
    /// The network's VXLAN device.
    Vxlan,
    /// A workload's host side.
    Port(Dev),
    /// A device that is not ours.
    Other,
}

/// How an entry of a bridge's FDB behaves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FdbKind {
    /// Frames are for the host itself (NUD_PERMANENT).
    Local,
    /// Does not age.
    Static,
    /// Set by a control plane; does not age.
    Extern,
    /// Learned; ages.
    Dynamic,
}

/// Entry of a bridge's FDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FdbEntry {
    /// Where frames go.
    pub port: FdbPort,
    /// How it behaves.
    pub kind: FdbKind,
    /// Cannot be moved by a frame.
    pub sticky: bool,
}

/// Entry of a VXLAN device's FDB.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct TunnelEntry {
    /// The VTEP.
    pub vtep: Option<IpAddr>,
    /// Does not age.
    pub lasting: bool,
}

/// Neighbour on a bridge of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Neighbour {
    /// Its MAC; `None` while it is being resolved.
    pub mac: Option<Mac>,
    /// Does not age and does not count against the table limit.
    pub lasting: bool,
    /// Who set it; 0: the kernel or nobody said.
    pub protocol: u8,
}

/// All that is ours in the kernel, and what is in its way.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Observed {
    /// Bridges of ours.
    pub bridges: BTreeMap<Vni, Bridge>,
    /// VXLAN devices of ours.
    pub vxlans: BTreeMap<Vni, Vxlan>,
    /// Host sides of ours, and taps of ours or taken, by their own names.
    pub ports: BTreeMap<Dev, HostSide>,
    /// Workload sides, by host side, of wanted ports.
    pub insides: BTreeMap<Dev, Inside>,
    /// Entries of our bridges' FDBs.
    pub fdb: BTreeMap<(Vni, Mac), FdbEntry>,
    /// Entries of our VXLAN devices' FDBs, the flood list left out.
    pub tunnels: BTreeMap<(Vni, Mac), TunnelEntry>,
    /// Flood lists.
    pub floods: BTreeSet<(Vni, IpAddr)>,
    /// Neighbours on our bridges.
    pub neighbours: BTreeMap<(Vni, IpAddr), Neighbour>,
    /// Guard rules of ours.
    pub guards: Guards,
    /// Limits, by host side; a port without any is not in it.
    pub rates: BTreeMap<Dev, Shaping>,
    /// Limits of ports without a host side, by the device that frames are passed through.
    pub diverted: BTreeMap<Dev, Diverted>,
    /// Links with filters of ours that lead to a device that is gone.
    pub astray: BTreeSet<Dev>,
    /// Links with a name of our form that are not ours.
    pub foreign: BTreeSet<Dev>,
    /// VXLAN devices of others, by (VNI, UDP port).
    pub foreign_vxlans: BTreeMap<(u32, u16), String>,
    /// Switching and routing.
    pub fabric: Seen,
    /// Links of ours that only a host behind switches has, on a node that is none.
    pub leftovers: BTreeSet<Dev>,
    /// The host as a whole, if it is one behind switches.
    pub lan: Lan,
}

impl Observed {
    /// Keys of everything in it that is or may be ours.
    pub fn keys(&self) -> BTreeSet<Key> {
        let networks = self.bridges.keys().chain(self.vxlans.keys()).map(|&v| Key::Network(v));
        let ports = self.ports.keys().cloned().map(Key::Port);
        let ours = |e: &FdbEntry| e.kind != FdbKind::Local && e.port != FdbPort::Other;
        let fdb = self.fdb.iter().filter(|(_, e)| ours(e)).map(|(&(v, m), _)| Key::Mac(v, m));
        let tunnels = self.tunnels.keys().map(|&(v, m)| Key::Mac(v, m));
        let floods = self.floods.iter().map(|&(v, t)| Key::Flood(v, t));
        let ours = |n: &Neighbour| n.protocol == crate::dev::PROTOCOL;
        let neighbours = self.neighbours.iter().filter(|(_, n)| ours(n)).map(|(&(v, i), _)| Key::Neigh(v, i));
        let guards = self.guards.chains.keys().map(|(_, dev)| Key::Port(dev.clone()));
        let rates = self.rates.keys().cloned().map(Key::Port);
        networks
            .chain(rates)
            .chain(ports)
            .chain(guards)
            .chain(fdb)
            .chain(tunnels)
            .chain(floods)
            .chain(neighbours)
            .collect()
    }
}
