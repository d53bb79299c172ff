//! Desired minus observed for a host behind switches. Pure. Each step is applied to a copy of what was observed, so that
//! what comes after sees what will be there.

mod bridged;
mod limits;
mod ports;
mod routes;
mod table;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::{Mac, VlanId, Vni};

use super::seen::{Kind, Route, Switch, Trial};
use super::step::{LanOp, Step};
use super::table::{Rule, Way};
use super::want::{Net, UNTAGGED, Wanted, wanted};
use crate::dev::{Dev, Role, network_alias};
use crate::model::{Attach, Desired, IfAddr, Key, Lan, Port};
use crate::observed::Observed;
use crate::op::{FlagChange, LinkChange, Op};
use crate::plan::Plan;

/// Compares the whole host.
pub fn plan(desired: &Desired, observed: &Observed, lan: &Lan) -> Plan {
    let wanted = wanted(desired, observed, lan);
    let mut planner = Planner {
        desired,
        problems: wanted.problems.clone(),
        wanted,
        now: observed.clone(),
        ops: Vec::new(),
        routes: BTreeSet::new(),
        rules: BTreeSet::new(),
        ways: BTreeSet::new(),
        addresses: BTreeSet::new(),
        neighbours: BTreeMap::new(),
        proxies: BTreeSet::new(),
        own_macs: BTreeSet::new(),
        announcements: Vec::new(),
    };
    planner.remove_astray();
    planner.remove_tunnels();
    planner.remove_ports();
    planner.remove_links();
    planner.trunk();
    let nets: Vec<(Vni, Net)> = planner.wanted.nets.iter().map(|(v, n)| (*v, n.clone())).collect();
    for (vni, net) in &nets {
        planner.network(*vni, net);
    }
    planner.rules();
    for port in desired.ports().values() {
        planner.port(port);
    }
    for (vni, net) in &nets {
        planner.shim(*vni, net);
    }
    planner.remove_limits();
    planner.remove_entries();
    planner.trial();
    let mut ops = planner.ops;
    ops.extend(planner.announcements);
    Plan { ops, problems: planner.problems }
}

pub(super) struct Planner<'a> {
    desired: &'a Desired,
    wanted: Wanted,
    /// What was observed, and the steps so far.
    now: Observed,
    ops: Vec<Op>,
    problems: BTreeMap<Key, String>,
    routes: BTreeSet<Route>,
    rules: BTreeSet<Rule>,
    ways: BTreeSet<Way>,
    /// On bridges.
    addresses: BTreeSet<(Dev, IfAddr)>,
    neighbours: BTreeMap<(Dev, IpAddr), Mac>,
    proxies: BTreeSet<(Dev, IpAddr)>,
    own_macs: BTreeSet<(Dev, Mac)>,
    /// Come last.
    announcements: Vec<Op>,
}

/// MAC of the host's own macvlan: the bridge's with one bit turned, so that both are fixed, local and differ.
fn shim_mac(bridge: Mac) -> Mac {
    let [first, rest @ ..] = bridge.octets();
    let [b, c, d, e, f] = rest;
    Mac::new([first ^ 0x08, b, c, d, e, f])
}

impl Planner<'_> {
    fn push(&mut self, op: Op) {
        self.now.apply(&op);
        self.ops.push(op);
    }

    fn step(&mut self, key: &Key, step: Step) {
        let after = match key {
            Key::Port(dev) => self.desired.port_at(dev).map(|port| Key::Network(port.vni)),
            _ => None,
        };
        self.push(Op::Lan(LanOp { key: key.clone(), after, step }));
    }

    /// True if what a network has must not be touched: it cannot be had, or not be read.
    fn keeps(&self, vni: Vni) -> bool {
        self.wanted.blocked.contains(&vni)
            || self.desired.protects_network(vni) && !self.desired.networks().contains_key(&vni)
    }

    fn remove_tunnels(&mut self) {
        let vnis: Vec<Vni> = self.now.vxlans.keys().copied().collect();
        for vni in vnis {
            self.step(&Key::Network(vni), Step::LinkDel { dev: Dev::vxlan(vni) });
        }
    }

    fn remove_links(&mut self) {
        let mut found: Vec<(Dev, Role)> = Vec::new();
        for (dev, link) in &self.now.lan.links {
            match dev.role() {
                Some(role @ (Role::Bridge(_) | Role::Vlan(_) | Role::Shim(_) | Role::Trunk))
                    if link.is_ours() =>
                {
                    found.push((dev.clone(), role));
                }
                _ => {}
            }
        }
        // What stands on others goes first.
        found.sort_by_key(|(_, role)| match role {
            Role::Shim(_) => 0,
            Role::Bridge(_) | Role::Trunk => 1,
            _ => 2,
        });
        for (dev, role) in found {
            let (key, wanted) = match role {
                Role::Bridge(vni) | Role::Vlan(vni) | Role::Shim(vni) if self.keeps(vni) => continue,
                Role::Shim(vni) => (Key::Network(vni), self.wants_shim(vni, &dev)),
                Role::Vlan(vni) => (Key::Network(vni), self.wants_vlan(vni, &dev)),
                Role::Bridge(vni) => (Key::Network(vni), self.wants_bridge(&dev)),
                Role::Trunk => (Key::Lan, self.wants_bridge(&dev) || !self.wanted.blocked.is_empty()),
                _ => continue,
            };
            if !wanted && self.now.lan.links.contains_key(&dev) && self.give_back(&key, &dev) {
                self.step(&key, Step::LinkDel { dev });
            }
        }
    }

    fn wants_bridge(&self, dev: &Dev) -> bool {
        let uses = |net: &Net| {
            let above = net.vlan.as_ref().is_some_and(|vlan| vlan.parent == *dev);
            net.bridge.as_ref() == Some(dev) || net.parent == *dev || above
        };
        self.wanted.nets.values().any(uses)
    }

    fn wants_vlan(&self, vni: Vni, dev: &Dev) -> bool {
        let Some(vlan) = self.wanted.nets.get(&vni).and_then(|n| n.vlan.as_ref()) else { return false };
        let kind = Kind::Vlan { id: vlan.id, parent: Some(vlan.parent.clone()) };
        self.now.lan.links.get(dev).is_some_and(|link| link.kind == kind)
    }

    fn wants_shim(&self, vni: Vni, dev: &Dev) -> bool {
        let net = self.wanted.nets.get(&vni).filter(|n| n.shim);
        let link = self.now.lan.links.get(dev);
        net.is_some_and(|net| link.is_some_and(|l| l.parent() == Some(&net.parent)))
    }

    /// Before a bridge goes, the host's own addresses go back to the uplink. False: they cannot, and it stays.
    fn give_back(&mut self, key: &Key, bridge: &Dev) -> bool {
        if self.now.lan.host_addresses(bridge).next().is_none() {
            return true;
        }
        if matches!(&self.now.lan.trial, Some(Trial::Pending { bridge: b, .. }) if b == bridge) {
            return false;
        }
        let member = self.now.lan.members(bridge).find(|(_, l)| !l.is_ours() && l.kind != Kind::Tap);
        let Some(uplink) = member.map(|(dev, _)| dev.clone()).or_else(|| self.wanted.uplink.clone()) else {
            let why =
                format!("{bridge} has the host's own addresses and no uplink to give them back to; it stays");
            self.problems.insert(key.clone(), why);
            return false;
        };
        self.step(key, Step::Move { uplink, bridge: bridge.clone(), back: true });
        true
    }

    /// What of the attributes that all links of ours have differs.
    fn change(&self, dev: &Dev, mtu: u32, master: Option<&Dev>) -> LinkChange {
        let Some(found) = self.now.lan.links.get(dev) else { return LinkChange::default() };
        LinkChange {
            mtu: (found.link.mtu != mtu).then_some(mtu),
            group: !found.link.grouped,
            addrgen_none: !found.link.addrgen_none,
            master: master.filter(|m| found.link.master.as_ref() != Some(m)).cloned(),
            ..LinkChange::default()
        }
    }

    fn set(&mut self, key: &Key, dev: &Dev, change: LinkChange) {
        if change != LinkChange::default() {
            self.step(key, Step::Set { dev: dev.clone(), change });
        }
    }

    /// A message of its own: the kernel handles the flag before the address generation mode of the same message.
    fn up(&mut self, key: &Key, dev: &Dev) {
        if self.now.lan.links.get(dev).is_some_and(|l| !l.link.up) {
            self.set(key, dev, LinkChange { up: true, ..LinkChange::default() });
        }
    }

    /// `locked`: whether only frames from MACs that the bridge has at this port pass; `None`: leave alone.
    fn flags(&mut self, key: &Key, dev: &Dev, learning: bool, locked: Option<bool>) {
        let Some(have) = self.now.lan.links.get(dev).map(|l| l.flags) else { return };
        let lock = locked.is_none_or(|locked| have.locked == locked);
        if have.learning != learning || have.neigh_suppress || !lock {
            let flags = FlagChange { learning, neigh_suppress: false, forward_gratuitous: None, locked };
            self.step(key, Step::Flags { dev: dev.clone(), flags });
        }
    }

    fn no_ra(&mut self, key: &Key, dev: &Dev) {
        if self.now.lan.links.get(dev).is_some_and(|l| l.accept_ra) {
            self.step(key, Step::Sysctl { dev: dev.clone(), switch: Switch::NoRa });
        }
    }

    fn bridge(&mut self, key: &Key, dev: &Dev, mac: Mac, mtu: u32, alias: String) {
        if !self.now.lan.links.contains_key(dev) {
            let aware = dev.role() == Some(Role::Trunk);
            self.step(key, Step::BridgeAdd { dev: dev.clone(), mac, mtu, aware });
        }
        let mut change = self.change(dev, mtu, None);
        let found = self.now.lan.links.get(dev);
        change.mac = found.filter(|l| l.mac != Some(mac)).map(|_| mac);
        change.alias = found.filter(|l| l.link.alias != alias).map(|_| alias);
        self.set(key, dev, change);
        self.no_ra(key, dev);
        self.up(key, dev);
    }

    fn network(&mut self, vni: Vni, net: &Net) {
        let key = Key::Network(vni);
        let Some(network) = self.desired.networks().get(&vni) else { return };
        let alias = network_alias(&network.name.to_string());
        if let Some(vlan) = &net.vlan {
            if !self.now.lan.links.contains_key(&vlan.dev) {
                let (dev, parent, id) = (vlan.dev.clone(), vlan.parent.clone(), vlan.id);
                self.up(&key, &parent);
                self.step(&key, Step::VlanAdd { dev, parent, id, mtu: net.mtu });
            }
            let mut change = self.change(&vlan.dev, net.mtu, None);
            change.alias =
                self.now.lan.links.get(&vlan.dev).filter(|l| l.link.alias != alias).map(|_| alias.clone());
            self.set(&key, &vlan.dev, change);
            // It is a port of the bridge or a parent, and has nothing to say in the network.
            let silent = (vlan.dev.clone(), Switch::NoIpv6);
            if !self.now.lan.switches.contains(&silent)
                && self.now.lan.host_addresses(&silent.0).next().is_none()
            {
                self.step(&key, Step::Sysctl { dev: silent.0, switch: silent.1 });
            }
            self.up(&key, &vlan.dev);
            if vlan.parent == Dev::trunk() {
                self.vlan(&key, &vlan.parent, vlan.id, false, true);
            }
        }
        match &net.bridge {
            Some(bridge) if *bridge == Dev::trunk() => {
                self.vlan(&key, &net.wire, net.id.unwrap_or(UNTAGGED), net.id.is_none(), false)
            }
            Some(bridge) => {
                // The host's own traffic keeps the MTU that it has.
                let mtu =
                    if net.id.is_none() { self.now.lan.mtu(&net.wire).unwrap_or(net.mtu) } else { net.mtu };
                self.bridge(&key, bridge, network.bridge_mac, mtu, alias);
                self.wire(&key, bridge, net);
            }
            None if net.vlan.is_none() => self.up(&key, &net.wire),
            None => {}
        }
    }

    /// The bridge's port to the switch.
    fn wire(&mut self, key: &Key, bridge: &Dev, net: &Net) {
        let strangers: Vec<Dev> = {
            let members = self.now.lan.members(bridge);
            let uplink = |d: &Dev| self.desired.lan().is_some_and(|lan| lan.uplinks.contains(d));
            let wires = members
                .filter(|(d, _)| **d != net.wire && (matches!(d.role(), Some(Role::Vlan(_))) || uplink(d)));
            wires.map(|(d, _)| d.clone()).collect()
        };
        for dev in strangers {
            self.step(key, Step::Release { dev });
        }
        let master = self.now.lan.links.get(&net.wire).and_then(|l| l.link.master.clone());
        if master.as_ref() != Some(bridge) {
            if let Some(old) = master {
                if !self.give_back(key, &old) {
                    return;
                }
                self.step(key, Step::Release { dev: net.wire.clone() });
            }
            let uplink = net.wire.clone();
            if self.now.lan.host_addresses(&uplink).next().is_some() {
                self.step(key, Step::Move { uplink, bridge: bridge.clone(), back: false });
            } else {
                self.set(key, &uplink, LinkChange { master: Some(bridge.clone()), ..LinkChange::default() });
            }
        }
        self.up(key, &net.wire);
        self.flags(key, &net.wire, true, None);
    }

    /// The one VLAN-aware bridge.
    fn trunk(&mut self) {
        let trunk = Dev::trunk();
        if !self.wants_bridge(&trunk) {
            return;
        }
        let Some(uplink) = self.wanted.uplink.clone() else { return };
        let mtu = self.now.lan.mtu(&uplink).unwrap_or(1500);
        let nets = self.wanted.nets.iter();
        let first = nets.filter_map(|(vni, _)| self.desired.networks().get(vni)).next();
        let existing = self.now.lan.links.get(&trunk).and_then(|l| l.mac);
        // That of the first network, for as long as the bridge lives.
        let Some(mac) = existing.or(first.map(|n| n.bridge_mac)) else { return };
        self.bridge(&Key::Lan, &trunk, mac, mtu, network_alias("*"));
        self.vlan(&Key::Lan, &trunk, UNTAGGED, true, true);
        let id = None;
        let net = Net {
            mtu,
            id,
            bridge: Some(trunk.clone()),
            wire: uplink.clone(),
            vlan: None,
            parent: trunk.clone(),
            shim: false,
            moves: None,
        };
        self.wire(&Key::Lan, &trunk, &net);
        self.vlan(&Key::Lan, &uplink, UNTAGGED, true, false);
        let mut ids: BTreeSet<u16> = [UNTAGGED].into();
        ids.extend(self.wanted.nets.values().filter(|n| n.bridge.is_some()).filter_map(|n| n.id));
        let blocked = self
            .wanted
            .blocked
            .iter()
            .filter_map(|vni| self.desired.networks().get(vni)?.vlan.map(VlanId::get));
        ids.extend(blocked);
        let have = self.now.lan.vlans.get(&uplink).cloned().unwrap_or_default();
        for id in have.into_keys().filter(|id| !ids.contains(id)) {
            self.step(&Key::Lan, Step::VlanDel { dev: uplink.clone(), id, itself: false });
        }
        let above = self.wanted.nets.values().filter_map(|n| n.vlan.as_ref());
        let ids: BTreeSet<u16> =
            above.filter(|v| v.parent == trunk).map(|v| v.id).chain([UNTAGGED]).collect();
        let have = self.now.lan.vlans.get(&trunk).cloned().unwrap_or_default();
        let free = self.wanted.blocked.is_empty();
        for id in have.into_keys().filter(|id| free && !ids.contains(id)) {
            self.step(&Key::Lan, Step::VlanDel { dev: trunk.clone(), id, itself: true });
        }
    }

    /// Lets a VLAN pass a port of the VLAN-aware bridge, or (`itself`) reach the bridge as an interface.
    fn vlan(&mut self, key: &Key, dev: &Dev, id: u16, untagged: bool, itself: bool) {
        if self.now.lan.vlans.get(dev).and_then(|v| v.get(&id)) != Some(&untagged) {
            self.step(key, Step::VlanSet { dev: dev.clone(), id, untagged, itself });
        }
    }

    /// A move that waits for a controller is said; so nothing on the bridge counts as programmed before.
    fn trial(&mut self) {
        let Some(Trial::Pending { uplink, bridge }) = &self.now.lan.trial else { return };
        let why = format!("addresses of {uplink} are on trial on {bridge}, until a controller answers");
        let key = match bridge.role() {
            Some(Role::Bridge(vni)) => Key::Network(vni),
            _ => Key::Lan,
        };
        self.problems.entry(key).or_insert(why);
    }

    /// The port that a link of the host is of.
    fn port_of(&self, dev: &Dev) -> Option<&Port> {
        let tap = |p: &&Port| p.attach == Attach::Tap && p.interface == *dev;
        let hosted = |p: &&Port| matches!(p.attach, Attach::Bridge | Attach::Routed);
        self.desired.port_at(dev).filter(hosted).or_else(|| self.desired.ports().values().find(tap))
    }
}
