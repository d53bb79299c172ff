//! Desired minus observed, in an order that keeps traffic flowing: what must make room goes first, then everything is
//! made before anything else is unmade. Pure: no clock, no I/O. `plan(d, apply(plan(d, o)))` is empty.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::Vni;

use crate::dev::{Dev, network_alias};
use crate::fabric::diff::Around;
use crate::model::{Desired, Key, Network};
use crate::observed::{Link, Observed, PortFlags, Vxlan};
use crate::op::{FlagChange, LinkChange, Op};

mod entries;
pub(crate) mod guard;
mod port;
mod rate;
mod tap;

pub(crate) use port::{adopted_problem, inside_steps};

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
    /// What must not answer any more, before anything that takes time.
    Silence,
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

    /// False for a link that this plan deletes: its entries go with it.
    fn stays(&self, dev: &Dev) -> bool {
        !self.removed.contains(dev)
    }

    fn remove(&mut self, dev: &Dev) {
        self.removed.insert(dev.clone());
        self.push(Phase::RemoveLinks, Op::LinkDel { dev: dev.clone() });
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

#[cfg(test)]
mod tests;
