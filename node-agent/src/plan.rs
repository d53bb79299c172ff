//! Desired minus observed, in an order that keeps traffic flowing: what must make room goes first, then everything is
//! made before anything else is unmade. Pure: no clock, no I/O. `plan(d, apply(plan(d, o)))` is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::{Mac, Vni};

use crate::dev::{Dev, PROTOCOL, network_alias, port_alias};
use crate::fabric::diff::Around;
use crate::model::{Desired, Key, Network, Place, Port};
use crate::observed::{FdbKind, FdbPort, HostSide, Inside, Link, Observed, Peer, PortFlags, Vxlan};
use crate::op::{At, FlagChange, Half, LinkChange, Op};

pub(crate) mod guard;
mod rate;

/// UDP port of VXLAN (RFC 7348).
pub const VXLAN_PORT: u16 = 4789;

/// What to do, and what cannot be done.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Plan {
    /// Steps in order.
    pub ops: Vec<Op>,
    /// Keys that cannot be brought to their desired state by any step, and why.
    pub problems: BTreeMap<Key, String>,
}

/// What a plan covers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Scope {
    /// Everything.
    All,
    /// These keys and what depends on them.
    Keys(BTreeSet<Key>),
}

/// Order of the steps.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    RemoveLinks,
    /// Before the ports that they guard.
    Guards,
    Bridges,
    Routers,
    Tunnels,
    Ports,
    Entries,
    Inside,
    RemoveEntries,
    Announce,
}

/// Compares `desired` and `observed` within `scope`. Without a VTEP nothing can be planned, and every
/// network and port has that problem.
pub fn plan(desired: &Desired, observed: &Observed, scope: &Scope) -> Plan {
    if let Some(lan) = desired.lan() {
        // What an earlier life as a switch or a router left goes first: its ports may be uplinks now.
        let gone = crate::fabric::plan::removal(&observed.fabric).into_iter().map(Op::Fabric);
        let planned = crate::lan::plan::plan(desired, observed, lan);
        return Plan { ops: gone.chain(planned.ops).collect(), problems: planned.problems };
    }
    let mut planner = Planner {
        desired,
        observed,
        ops: Vec::new(),
        problems: BTreeMap::new(),
        new_bridges: BTreeSet::new(),
        new_tunnels: BTreeSet::new(),
        new_ports: BTreeSet::new(),
        removed: BTreeSet::new(),
    };
    let Some(vtep) = desired.vtep() else {
        let why = "the node has no usable VTEP address: set it at the controller";
        let networks = desired.networks().keys().map(|&vni| Key::Network(vni));
        let ports = desired.ports().keys().map(|id| Key::Port(Dev::port(id)));
        let problems = networks.chain(ports).map(|key| (key, why.to_owned())).collect();
        return Plan { ops: Vec::new(), problems };
    };
    let mut keys = match scope {
        Scope::All => {
            let mut keys = desired.keys();
            keys.extend(observed.keys());
            keys
        }
        Scope::Keys(keys) => keys.clone(),
    };
    if desired.fabric().mode().is_switch() {
        planner.no_workloads();
        planner.fabric(vtep, &keys, *scope == Scope::All);
        return planner.finish();
    }
    let networks: Vec<Vni> =
        keys.iter().map_while(|k| if let Key::Network(vni) = k { Some(*vni) } else { None }).collect();
    for dev in &observed.leftovers {
        planner.remove(dev);
    }
    for vni in networks {
        if planner.network(vni, vtep) {
            keys.extend(desired.keys_of(vni));
        }
    }
    let ports: Vec<Dev> =
        keys.iter().filter_map(|k| if let Key::Port(dev) = k { Some(dev.clone()) } else { None }).collect();
    for dev in ports {
        if let Some(port) = desired.port_at(&dev) {
            keys.insert(Key::Mac(port.vni, port.mac));
        }
        planner.port(&dev);
    }
    for key in &keys {
        match *key {
            Key::Lan | Key::Network(_) | Key::Port(_) | Key::Fabric(_) => {}
            Key::Mac(vni, mac) => planner.mac(vni, mac),
            Key::Flood(vni, vtep) => planner.flood(vni, vtep),
            Key::Neigh(vni, ip) => planner.neighbour(vni, ip),
        }
    }
    planner.fabric(vtep, &keys, *scope == Scope::All);
    planner.finish()
}

struct Planner<'a> {
    desired: &'a Desired,
    observed: &'a Observed,
    ops: Vec<(Phase, Op)>,
    problems: BTreeMap<Key, String>,
    /// Made by this plan: nothing that `observed` says of them counts.
    new_bridges: BTreeSet<Vni>,
    new_tunnels: BTreeSet<Vni>,
    new_ports: BTreeSet<Dev>,
    /// Deleted by this plan.
    removed: BTreeSet<Dev>,
}

impl Planner<'_> {
    fn push(&mut self, phase: Phase, op: Op) {
        self.ops.push((phase, op));
    }

    fn finish(self) -> Plan {
        let Planner { mut ops, problems, .. } = self;
        ops.sort_by_key(|(phase, _)| *phase);
        Plan { ops: ops.into_iter().map(|(_, op)| op).collect(), problems }
    }

    /// A switch has no workloads of its own: what an earlier life as a host left goes.
    fn no_workloads(&mut self) {
        let ports = self.observed.ports.keys().cloned();
        let bridges = self.observed.bridges.keys().map(|&vni| Dev::bridge(vni));
        let others = self.observed.leftovers.iter().cloned();
        for dev in ports.chain(bridges).chain(others).collect::<Vec<_>>() {
            self.remove(&dev);
        }
        for id in self.desired.ports().keys() {
            let why = "this node is a switch and attaches no workloads: bind the port to a host behind it";
            self.problems.insert(Key::Port(Dev::port(id)), why.to_owned());
        }
    }

    /// Switching and routing.
    fn fabric(&mut self, vtep: IpAddr, keys: &BTreeSet<Key>, all: bool) {
        let foreign = |vni: Vni| self.observed.foreign_vxlans.get(&(vni.get(), VXLAN_PORT)).cloned();
        let bridge = |vni: Vni| self.new_bridges.contains(&vni) || self.observed.bridges.contains_key(&vni);
        let around = Around { foreign_vxlan: &foreign, has_bridge: &bridge };
        let made = self.new_bridges.iter().map(|&vni| Dev::bridge(vni));
        let lost: BTreeSet<Dev> = made.chain(self.removed.iter().cloned()).collect();
        let scope = if all { None } else { Some(keys) };
        let (steps, problems) =
            crate::fabric::plan::plan(self.desired, &self.observed.fabric, vtep, scope, &lost, &around);
        self.ops.extend(steps.into_iter().map(|(phase, step)| (phase, Op::Fabric(step))));
        self.problems.extend(problems.into_iter().map(|(thing, why)| (Key::Fabric(thing), why)));
    }

    /// What keeps a network from being on this node.
    fn obstacle(&self, vni: Vni) -> Option<String> {
        for dev in [Dev::bridge(vni), Dev::vxlan(vni)] {
            if self.observed.foreign.contains(&dev) {
                return Some(format!("interface {dev} exists and is not Causeway's; rename or delete it"));
            }
        }
        let owner = self.observed.foreign_vxlans.get(&(vni.get(), VXLAN_PORT))?;
        Some(format!("VNI {vni} is in use by {owner}, which is not Causeway's; delete it or change its VNI"))
    }

    /// True if what is in the network must be looked at too.
    fn network(&mut self, vni: Vni, vtep: IpAddr) -> bool {
        let Some(network) = self.desired.networks().get(&vni) else {
            if self.desired.protects_network(vni) {
                return false;
            }
            if self.observed.vxlans.contains_key(&vni) {
                self.remove(&Dev::vxlan(vni));
            }
            if self.observed.bridges.contains_key(&vni) {
                self.remove(&Dev::bridge(vni));
            }
            return true;
        };
        if let Some(obstacle) = self.obstacle(vni) {
            self.problems.insert(Key::Network(vni), obstacle);
            return true;
        }
        self.bridge(vni, network);
        self.tunnel(vni, network, vtep);
        self.new_bridges.contains(&vni) || self.new_tunnels.contains(&vni)
    }

    fn bridge(&mut self, vni: Vni, network: &Network) {
        let dev = Dev::bridge(vni);
        let (mac, mtu) = (network.own_mac(), network.mtu);
        let found = self.observed.bridges.get(&vni);
        if found.is_none() {
            self.push(Phase::Bridges, Op::BridgeAdd { vni, mac, mtu });
            self.new_bridges.insert(vni);
        }
        let made = Link { mtu, grouped: true, ..Link::default() };
        let link = found.map_or(&made, |b| &b.link);
        let mut change = link_change(link, mtu, None);
        change.mac = found.filter(|b| b.mac != mac).map(|_| mac);
        let alias = network_alias(&network.name.to_string());
        change.alias = (link.alias != alias).then_some(alias);
        self.set(Phase::Bridges, &dev, change);
        if found.is_none_or(|b| b.accept_ra) {
            self.push(Phase::Bridges, Op::AcceptRaOff { dev: dev.clone() });
        }
        self.up(Phase::Bridges, &dev, link);
    }

    fn tunnel(&mut self, vni: Vni, network: &Network, vtep: IpAddr) {
        let dev = Dev::vxlan(vni);
        let mtu = network.mtu;
        // None of these can be changed on a living device.
        let fits =
            |x: &&Vxlan| x.local == Some(vtep) && x.port == VXLAN_PORT && x.vni == vni.get() && !x.learning;
        let existing = self.observed.vxlans.get(&vni);
        let found = existing.filter(fits);
        if found.is_none() {
            if existing.is_some() {
                self.remove(&dev);
            }
            self.push(Phase::Tunnels, Op::VxlanAdd { vni, local: vtep, port: VXLAN_PORT, mtu });
            self.new_tunnels.insert(vni);
        }
        let made = Link { mtu, grouped: true, ..Link::default() };
        let link = found.map_or(&made, |x| &x.link);
        let enslave = self.new_bridges.contains(&vni) || link.master.as_ref() != Some(&Dev::bridge(vni));
        let mut change = link_change(link, mtu, enslave.then(|| Dev::bridge(vni)));
        let alias = network_alias(&network.name.to_string());
        change.alias = (link.alias != alias).then_some(alias);
        self.set(Phase::Tunnels, &dev, change);
        let flags = found.filter(|_| !enslave).map(|x| x.flags);
        // Suppression keeps gratuitous ARP and NA from the tunnel unless the kernel knows the third flag. Where it does
        // not, other hosts learn of a move by their own agents, and only a changed MAC waits for the peers' neighbour
        // ageing; an address therefore keeps its MAC wherever it goes.
        let want = FlagChange {
            learning: false,
            neigh_suppress: true,
            forward_gratuitous: Some(true),
            locked: None,
        };
        self.flags(Phase::Tunnels, &dev, flags, want);
        self.up(Phase::Tunnels, &dev, link);
    }

    fn set(&mut self, phase: Phase, dev: &Dev, change: LinkChange) {
        if change != LinkChange::default() {
            self.push(phase, Op::LinkSet { dev: dev.clone(), change });
        }
    }

    /// A message of its own: the kernel handles the flag before the address generation mode of the same message.
    fn up(&mut self, phase: Phase, dev: &Dev, link: &Link) {
        if !link.up {
            self.set(phase, dev, LinkChange { up: true, ..LinkChange::default() });
        }
    }

    fn flags(&mut self, phase: Phase, dev: &Dev, found: Option<PortFlags>, want: FlagChange) {
        let equal = |have: PortFlags| {
            let grat = have.forward_gratuitous.is_none()
                || want.forward_gratuitous.is_none()
                || have.forward_gratuitous == want.forward_gratuitous;
            let lock = want.locked.is_none_or(|locked| have.locked == locked);
            have.learning == want.learning && have.neigh_suppress == want.neigh_suppress && grat && lock
        };
        if !found.is_some_and(equal) {
            self.push(phase, Op::PortFlags { dev: dev.clone(), flags: want });
        }
    }

    fn port(&mut self, dev: &Dev) {
        let host = self.observed.ports.get(dev);
        let Some(port) = self.desired.port_at(dev) else {
            if !self.desired.protects_port(dev) {
                if host.is_some() {
                    self.remove(dev);
                }
                self.unguard(dev);
                self.unlimit(dev);
            }
            return;
        };
        if let Some(problem) = self.port_obstacle(port, dev) {
            self.problems.insert(Key::Port(dev.clone()), problem);
            return;
        }
        if let Err(problem) = self.guard(port, dev) {
            self.problems.insert(Key::Port(dev.clone()), problem);
            return;
        }
        let at = At { dev: dev.clone(), netns: port.netns.clone(), interface: port.interface.clone() };
        let foreign =
            || format!("interface {} exists in netns {} and is not Causeway's", port.interface, port.netns);
        let unknown = Inside::Unreachable(format!("netns {} was not looked into", port.netns));
        match (host, self.observed.insides.get(dev).unwrap_or(&unknown)) {
            (_, Inside::Foreign) => {
                self.problems.insert(Key::Port(dev.clone()), foreign());
            }
            (None, Inside::Unreachable(why)) => {
                self.problems.insert(Key::Port(dev.clone()), why.clone());
            }
            (Some(host), Inside::Unreachable(why)) => {
                self.problems.insert(Key::Port(dev.clone()), why.clone());
                self.host_side(port, dev, host);
            }
            (Some(host), Inside::Present(peer)) => {
                self.host_side(port, dev, host);
                self.inside(port, &at, peer);
                self.announce(port, at, host);
            }
            (host, _) => {
                // The pair leads elsewhere: the workload moved to another namespace, or lost its interface.
                if host.is_some() {
                    self.remove(dev);
                }
                self.new_port(port, at);
            }
        }
    }

    fn port_obstacle(&self, port: &Port, dev: &Dev) -> Option<String> {
        if let Some((what, owner)) = self.desired.conflict(port) {
            return Some(format!("its {what} belongs to port {owner} on this node"));
        }
        if !self.desired.networks().contains_key(&port.vni) {
            return Some(format!("its network (VNI {}) is not on this node", port.vni));
        }
        if self.observed.foreign.contains(dev) {
            return Some(format!("interface {dev} exists and is not Causeway's; rename or delete it"));
        }
        self.obstacle(port.vni)
    }

    fn new_port(&mut self, port: &Port, at: At) {
        let op = Op::PortAdd { at: at.clone(), vni: port.vni, mac: port.mac, mtu: port.mtu };
        let mut made = Observed::default();
        made.apply(&op);
        self.push(Phase::Ports, op);
        self.new_ports.insert(at.dev.clone());
        let (Some(host), Some(Inside::Present(peer))) = (made.ports.get(&at.dev), made.insides.get(&at.dev))
        else {
            return;
        };
        self.host_side(port, &at.dev, host);
        self.inside(port, &at, peer);
        self.announce(port, at, host);
    }

    fn host_side(&mut self, port: &Port, dev: &Dev, host: &HostSide) {
        let bridge = Dev::bridge(port.vni);
        let made = self.new_ports.contains(dev);
        let lost = self.new_bridges.contains(&port.vni) && !made;
        let enslave = lost || host.link.master.as_ref() != Some(&bridge);
        self.set(Phase::Ports, dev, link_change(&host.link, port.mtu, enslave.then_some(bridge)));
        let want = FlagChange {
            learning: false,
            neigh_suppress: false,
            forward_gratuitous: None,
            locked: Some(port.guarded),
        };
        self.flags(Phase::Ports, dev, Some(host.flags).filter(|_| !enslave), want);
        self.rates(port, dev);
        self.up(Phase::Ports, dev, &host.link);
    }

    fn inside(&mut self, port: &Port, at: &At, peer: &Peer) {
        for op in inside_steps(port, at, peer) {
            self.push(Phase::Inside, op);
        }
    }

    /// The alias with the generation is written last: it says that this generation has been announced.
    fn announce(&mut self, port: &Port, at: At, host: &HostSide) {
        let alias = port_alias(&port.id, port.generation);
        if host.link.alias == alias {
            return;
        }
        let dev = at.dev.clone();
        let addresses: BTreeSet<IpAddr> = port.addresses.iter().map(|a| a.ip).collect();
        if !addresses.is_empty() {
            self.push(Phase::Announce, Op::Announce { at, mac: port.mac, addresses });
        }
        self.set(Phase::Announce, &dev, LinkChange { alias: Some(alias), ..LinkChange::default() });
    }

    fn mac(&mut self, vni: Vni, mac: Mac) {
        if self.desired.protects_network(vni) && !self.desired.networks().contains_key(&vni) {
            return;
        }
        let place = self.desired.place(vni, mac).filter(|_| self.obstacle(vni).is_none());
        let entry = self.observed.fdb.get(&(vni, mac)).filter(|e| match &e.port {
            FdbPort::Vxlan => !self.new_tunnels.contains(&vni) && !self.new_bridges.contains(&vni),
            FdbPort::Port(dev) => !self.new_ports.contains(dev) && !self.new_bridges.contains(&vni),
            FdbPort::Other => !self.new_bridges.contains(&vni),
        });
        let tunnel = self.observed.tunnels.get(&(vni, mac)).filter(|_| !self.new_tunnels.contains(&vni));
        let gone = !self.desired.networks().contains_key(&vni);
        let del = |half, dev: &Dev| Op::FdbDel { vni, mac, half, dev: dev.clone() };
        let vxlan = Dev::vxlan(vni);
        let is_remote = matches!(place, Some(Place::Remote(_)));
        // With the network its entries go.
        if tunnel.is_some() && !is_remote && !gone {
            self.push(Phase::RemoveEntries, del(Half::Tunnel, &vxlan));
        }
        let port_of = |e: &crate::observed::FdbEntry| match &e.port {
            FdbPort::Vxlan => Some(vxlan.clone()),
            FdbPort::Port(dev) => Some(dev.clone()),
            FdbPort::Other => None,
        };
        let Some(place) = place else {
            if let Some(entry) = entry.filter(|e| e.kind != FdbKind::Local && !gone)
                && let Some(dev) = port_of(entry).filter(|dev| self.stays(dev))
            {
                self.push(Phase::RemoveEntries, del(Half::Bridge, &dev));
            }
            return;
        };
        let right = match &place {
            Place::Remote(vtep) => {
                let half = tunnel.is_some_and(|t| t.vtep == Some(*vtep) && t.lasting);
                let kinds = [FdbKind::Static, FdbKind::Extern];
                half && entry
                    .is_some_and(|e| e.port == FdbPort::Vxlan && kinds.contains(&e.kind) && !e.sticky)
            }
            Place::Local(dev) => {
                if !self.new_ports.contains(dev) && !self.observed.ports.contains_key(dev) {
                    return;
                }
                entry.is_some_and(|e| {
                    e.port == FdbPort::Port(dev.clone()) && e.kind == FdbKind::Static && e.sticky
                })
            }
        };
        if right {
            return;
        }
        // A replaced entry keeps its old flags (sticky, local): it must go first.
        if let Some(entry) = entry {
            let clean = !entry.sticky && entry.kind == FdbKind::Extern && is_remote;
            if let Some(dev) = port_of(entry).filter(|dev| !clean && self.stays(dev)) {
                self.push(Phase::Entries, del(Half::Bridge, &dev));
            }
        }
        self.push(Phase::Entries, Op::FdbSet { vni, mac, place });
    }

    /// False for a link that this plan deletes: its entries go with it.
    fn stays(&self, dev: &Dev) -> bool {
        !self.removed.contains(dev)
    }

    fn remove(&mut self, dev: &Dev) {
        self.removed.insert(dev.clone());
        self.push(Phase::RemoveLinks, Op::LinkDel { dev: dev.clone() });
    }

    fn flood(&mut self, vni: Vni, vtep: IpAddr) {
        let want = self.desired.floods_to(vni, vtep) && self.obstacle(vni).is_none();
        let have = self.observed.floods.contains(&(vni, vtep)) && !self.new_tunnels.contains(&vni);
        if want && !have {
            self.push(Phase::Entries, Op::FloodAdd { vni, vtep });
        } else if have && !want && self.desired.networks().contains_key(&vni) {
            self.push(Phase::RemoveEntries, Op::FloodDel { vni, vtep });
        }
    }

    fn neighbour(&mut self, vni: Vni, ip: IpAddr) {
        let have = self.observed.neighbours.get(&(vni, ip)).filter(|_| !self.new_bridges.contains(&vni));
        let want = self.desired.neighbour(vni, ip).filter(|_| self.obstacle(vni).is_none());
        match (want, have) {
            (Some(_), Some(n)) if n.protocol != 0 && n.protocol != PROTOCOL => {
                let protocol = n.protocol;
                let problem = format!(
                    "neighbour {ip} on {} was set by protocol {protocol}, not by Causeway; stop what sets it",
                    Dev::bridge(vni)
                );
                self.problems.insert(Key::Neigh(vni, ip), problem);
            }
            (Some(mac), Some(n)) if n.mac == Some(mac) && n.lasting && n.protocol == PROTOCOL => {}
            (Some(mac), _) => self.push(Phase::Entries, Op::NeighSet { vni, ip, mac }),
            (None, Some(n)) if n.protocol == PROTOCOL && self.desired.networks().contains_key(&vni) => {
                self.push(Phase::RemoveEntries, Op::NeighDel { vni, ip });
            }
            (None, _) => {}
        }
    }
}

/// What differs in the attributes that all our links have; alias and `up` are the caller's.
pub(crate) fn link_change(link: &Link, mtu: u32, master: Option<Dev>) -> LinkChange {
    LinkChange {
        mtu: (link.mtu != mtu).then_some(mtu),
        group: !link.grouped,
        addrgen_none: !link.addrgen_none,
        master,
        ..LinkChange::default()
    }
}

/// What the workload's interface lacks.
pub(crate) fn inside_steps(port: &Port, at: &At, peer: &Peer) -> Vec<Op> {
    let mut ops = Vec::new();
    let mac = (peer.mac != port.mac).then_some(port.mac);
    let mtu = (peer.mtu != port.mtu).then_some(port.mtu);
    if !peer.loopback_up {
        ops.push(Op::LoopbackUp { at: at.clone() });
    }
    if peer.accept_ra {
        ops.push(Op::PeerAcceptRaOff { at: at.clone() });
    }
    if mac.is_some() || mtu.is_some() {
        ops.push(Op::PeerSet { at: at.clone(), mac, mtu, up: false });
    }
    for (&address, _) in peer.addresses.iter().filter(|(a, ours)| **ours && !port.addresses.contains(a)) {
        ops.push(Op::AddrDel { at: at.clone(), address });
    }
    for &address in port.addresses.iter().filter(|a| !peer.addresses.contains_key(a)) {
        ops.push(Op::AddrAdd { at: at.clone(), address });
    }
    if !peer.up {
        ops.push(Op::PeerSet { at: at.clone(), mac: None, mtu: None, up: true });
    }
    for (&gateway, _) in peer.gateways.iter().filter(|(g, ours)| **ours && !port.gateways.contains(g)) {
        ops.push(Op::GatewayDel { at: at.clone(), gateway });
    }
    for &gateway in port.gateways.iter().filter(|g| !peer.gateways.contains_key(g)) {
        ops.push(Op::GatewayAdd { at: at.clone(), gateway });
    }
    ops
}

#[cfg(test)]
mod tests;
