//! Workloads' interfaces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_proto::Mac;

use super::Planner;
use crate::dev::{ALIAS_PREFIX, Dev, Role};
use crate::lan::seen::{Kind, Switch, is_link_local};
use crate::lan::step::{LanOp, Step};
use crate::lan::want::Net;
use crate::model::{Attach, Child, IfAddr, Key, Port};
use crate::observed::Inside;
use crate::op::{At, LinkChange, Op};
use crate::plan::{adopted_problem, inside_steps};

fn at(port: &Port) -> At {
    At { dev: Dev::port(&port.id), netns: port.netns.clone(), interface: port.interface.clone() }
}

pub(super) fn key(port: &Port) -> Key {
    Key::Port(Dev::port(&port.id))
}

/// Next hop of a routed workload, the same on every node: addresses that need no subnet.
fn next_hops(port: &Port) -> BTreeSet<IpAddr> {
    let has = |v4: bool| port.addresses.iter().any(|a| a.ip.is_ipv4() == v4);
    let v4 = IpAddr::from([169, 254, 1, 1]);
    let v6 = IpAddr::from([0xfe80, 0, 0, 0, 0, 0, 0, 1]);
    [(v4, has(true)), (v6, has(false))].into_iter().filter(|(_, wanted)| *wanted).map(|(ip, _)| ip).collect()
}

/// What a routed workload has inside: single addresses, and the node as its only neighbour.
fn routed_view(port: &Port) -> Port {
    let single = |a: &IfAddr| IfAddr { ip: a.ip, length: if a.ip.is_ipv4() { 32 } else { 128 } };
    let addresses = port.addresses.iter().map(single).collect();
    Port { addresses, gateways: next_hops(port), ..port.clone() }
}

impl Planner<'_> {
    /// What no port wants, and what hangs in the wrong place.
    pub(super) fn remove_ports(&mut self) {
        for at in self.now.lan.strays.clone() {
            if !self.desired.protects_port(&at.dev) {
                self.step(&Key::Port(at.dev.clone()), Step::ChildDel { at });
            }
        }
        for port in self.desired.ports().values() {
            if !self.wanted.refused.contains_key(&port.id) {
                self.remove_child(port);
            }
        }
        let links: Vec<Dev> = self.now.lan.links.keys().cloned().collect();
        for dev in links {
            self.remove_port(&dev);
        }
    }

    /// A macvlan or ipvlan cannot change its parent or kind: it goes, and comes again.
    fn remove_child(&mut self, port: &Port) {
        let Some(Inside::Present(peer)) = self.now.insides.get(&Dev::port(&port.id)) else { return };
        let Some(have) = &peer.child else { return };
        let parent = self.wanted.nets.get(&port.vni).map(|net| &net.parent);
        let right = port.attach == Attach::Child(have.child) && have.parent.as_ref() == parent;
        if !right {
            self.step(&key(port), Step::ChildDel { at: at(port) });
        }
    }

    fn remove_port(&mut self, dev: &Dev) {
        let Some(link) = self.now.lan.links.get(dev) else { return };
        let ours = dev.role() == Some(Role::Port) && link.is_ours();
        let taken = link.kind == Kind::Tap && link.link.alias.starts_with(ALIAS_PREFIX);
        if !ours && !taken || self.desired.protects_port(dev) || self.desired.protects_alias(&link.link.alias)
        {
            return;
        }
        let made = link.is_ours();
        let right_kind = |port: &Port| (link.kind == Kind::Tap) == (port.attach == Attach::Tap);
        if self.port_of(dev).is_some_and(right_kind) {
            return;
        }
        let has_master = link.link.master.is_some();
        let key = Key::Port(dev.clone());
        if made {
            self.step(&key, Step::LinkDel { dev: dev.clone() });
            return;
        }
        // Somebody else's: it only leaves our bridge.
        if has_master {
            self.step(&key, Step::Release { dev: dev.clone() });
        }
        self.step(&key, Step::Unmark { dev: dev.clone() });
    }

    pub(super) fn port(&mut self, port: &Port) {
        if let Some(why) = self.wanted.refused.get(&port.id) {
            self.problems.insert(key(port), why.clone());
            return;
        }
        if port.attach == Attach::Adopted {
            let why = adopted_problem(port, self.now.insides.get(&Dev::port(&port.id)));
            self.problems.extend(why.map(|why| (key(port), why)));
            return;
        }
        if let Err(why) = self.guard(port) {
            self.problems.insert(key(port), why);
            return;
        }
        let net = self.wanted.nets.get(&port.vni).cloned();
        match (port.attach, net) {
            (Attach::Bridge, Some(net)) => self.veth(port, Some(&net)),
            (Attach::Routed, _) => self.routed(port),
            (Attach::Child(child), Some(net)) => self.child(port, child, &net),
            (Attach::Tap, Some(net)) => self.tap(port, &net),
            _ => {}
        }
        self.rates(port);
    }

    /// False, with the problem, if nothing can be done inside.
    fn enters(&mut self, port: &Port) -> bool {
        let why = match self.now.insides.get(&Dev::port(&port.id)) {
            Some(Inside::Foreign) => {
                format!("interface {} exists in netns {} and is not Causeway's", port.interface, port.netns)
            }
            Some(Inside::Unreachable(why)) => why.clone(),
            None => format!("netns {} was not looked into", port.netns),
            Some(_) => return true,
        };
        self.problems.insert(key(port), why);
        false
    }

    pub(super) fn is_present(&self, port: &Port) -> bool {
        matches!(self.now.insides.get(&Dev::port(&port.id)), Some(Inside::Present(_)))
    }

    /// A pair, in the bridge of `net` or in none.
    fn veth(&mut self, port: &Port, net: Option<&Net>) {
        let (key, at) = (key(port), at(port));
        let dev = at.dev.clone();
        if self.now.lan.links.get(&dev).is_some_and(|l| !l.is_ours()) {
            let why = format!("interface {dev} exists and is not Causeway's; rename or delete it");
            self.problems.insert(key, why);
            return;
        }
        let bridge = net.and_then(|n| n.bridge.clone());
        let enters = self.enters(port);
        let there = self.now.lan.links.contains_key(&dev);
        if enters && !(there && self.is_present(port)) {
            // The pair leads elsewhere: the workload moved to another namespace, or lost its interface.
            if there {
                self.step(&key, Step::LinkDel { dev: dev.clone() });
            }
            let step = Step::VethAdd { at: at.clone(), bridge: bridge.clone(), mac: port.mac, mtu: port.mtu };
            self.step(&key, step);
        } else if !there {
            return;
        }
        let change = self.change(&dev, port.mtu, bridge.as_ref());
        self.set(&key, &dev, change);
        if let Some(net) = net {
            self.bridge_port(port, &dev, net);
        }
        self.guard_device(port);
        self.up_or_down(port, &key, &dev);
        if enters {
            let view = if net.is_none() { routed_view(port) } else { port.clone() };
            self.inside(&view, &at);
        }
        if enters && net.is_some() {
            self.announce_inside(port, &at);
        }
    }

    /// Up if the port takes part; down, so that it neither hears nor answers, if it only waits to.
    fn up_or_down(&mut self, port: &Port, key: &Key, dev: &Dev) {
        if port.stage.is_active() {
            self.up(key, dev);
        } else if self.now.lan.links.get(dev).is_some_and(|l| l.link.up) {
            self.set(key, dev, LinkChange { down: true, ..LinkChange::default() });
        }
    }

    pub(super) fn inside(&mut self, view: &Port, at: &At) {
        let Some(Inside::Present(peer)) = self.now.insides.get(&at.dev) else { return };
        for op in inside_steps(view, at, &peer.clone()) {
            self.push(op);
        }
    }

    fn addresses(port: &Port) -> BTreeSet<IpAddr> {
        port.addresses.iter().map(|a| a.ip).collect()
    }

    /// The alias with the generation is written last: it says that this generation has been announced.
    fn announce_inside(&mut self, port: &Port, at: &At) {
        let alias = port.alias();
        if self.now.lan.links.get(&at.dev).is_some_and(|l| l.link.alias == alias) {
            return;
        }
        let addresses = Self::addresses(port);
        if port.stage.is_active() && !addresses.is_empty() {
            self.announcements.push(Op::Announce { at: at.clone(), mac: port.mac, addresses });
        }
        self.write_alias(port, &at.dev, alias);
    }

    fn write_alias(&mut self, port: &Port, dev: &Dev, alias: String) {
        let change = LinkChange { alias: Some(alias), ..LinkChange::default() };
        let step = Step::Set { dev: dev.clone(), change };
        self.announcements.push(Op::Lan(LanOp { key: key(port), after: Some(Key::Network(port.vni)), step }));
    }

    fn announce_from(&mut self, port: &Port, dev: Dev, mac: Option<Mac>, vlan: Option<u16>) {
        if !port.stage.is_active() {
            return;
        }
        let of = if port.attach == Attach::Tap { port.interface.clone() } else { Dev::port(&port.id) };
        let step = Step::Announce { dev, mac, vlan, addresses: Self::addresses(port), of };
        self.announcements.push(Op::Lan(LanOp { key: key(port), after: Some(Key::Network(port.vni)), step }));
    }

    fn child(&mut self, port: &Port, child: Child, net: &Net) {
        let (key, at) = (key(port), at(port));
        if !self.enters(port) {
            return;
        }
        if !self.is_present(port) {
            let (parent, mac, mtu) = (net.parent.clone(), port.mac, port.mtu);
            self.up(&key, &parent);
            self.guard_device(port);
            self.step(&key, Step::ChildAdd { at: at.clone(), parent, child, mac, mtu });
        }
        self.guard_device(port);
        let Some(Inside::Present(peer)) = self.now.insides.get(&at.dev) else { return };
        let (mac, alias, is_up) = (peer.mac, peer.alias.clone(), peer.up);
        // An ipvlan has its parent's.
        let mac = if child == Child::Ipvlan { mac } else { port.mac };
        let view = Port { mac, ..port.clone() };
        self.guard_inside(&view, &at);
        if !port.stage.is_active() {
            // It hangs on the wire itself: only while it is down is it silent. Addresses and routes come with it.
            if is_up {
                self.push(Op::PeerDown { at: at.clone() });
            }
            if alias != port.alias() {
                self.child_alias(port, at);
            }
            return;
        }
        self.inside(&view, &at);
        if matches!(child, Child::Macvlan(_)) && matches!(net.parent.role(), Some(Role::Bridge(_))) {
            self.own_mac(port, &net.parent, mac);
        }
        if alias != port.alias() {
            let addresses = Self::addresses(port);
            if !addresses.is_empty() {
                self.announcements.push(Op::Announce { at: at.clone(), mac, addresses });
            }
            self.child_alias(port, at);
        }
    }

    fn child_alias(&mut self, port: &Port, at: At) {
        let step = Step::ChildAlias { at, alias: port.alias() };
        self.announcements.push(Op::Lan(LanOp { key: key(port), after: Some(Key::Network(port.vni)), step }));
    }

    /// A bridge knows its ports' MACs; to that of a macvlan on itself it would flood.
    fn own_mac(&mut self, port: &Port, bridge: &Dev, mac: Mac) {
        if self.own_macs.insert((bridge.clone(), mac))
            && !self.now.lan.own_macs.contains(&(bridge.clone(), mac))
        {
            self.step(&key(port), Step::OwnMac { dev: bridge.clone(), mac });
        }
    }

    fn tap(&mut self, port: &Port, net: &Net) {
        let (key, dev) = (key(port), port.interface.clone());
        let Some(bridge) = net.bridge.clone() else { return };
        if let Some(link) = self.now.lan.links.get(&dev) {
            let ours = |m: &Dev| self.now.lan.links.get(m).is_some_and(|l| l.is_ours());
            let why = match (&link.kind, &link.link.master) {
                (Kind::Tap, Some(master)) if !ours(master) => {
                    Some(format!("tap {dev} is a port of {master}, which is not Causeway's; take it out"))
                }
                (Kind::Tap, _) => None,
                _ => Some(format!("interface {dev} exists and is no tap; rename or delete it")),
            };
            if let Some(why) = why {
                self.problems.insert(key, why);
                return;
            }
        } else {
            self.step(&key, Step::TapAdd { dev: dev.clone(), mtu: port.mtu, queues: port.queues });
        }
        let ours = self.now.lan.links.get(&dev).is_some_and(|l| l.is_ours());
        let change = self.change(&dev, port.mtu, Some(&bridge));
        self.set(&key, &dev, LinkChange { group: change.group && ours, ..change });
        self.bridge_port(port, &dev, net);
        self.up_or_down(port, &key, &dev);
        let alias = port.alias();
        if self.now.lan.links.get(&dev).is_some_and(|l| l.link.alias != alias) {
            // Towards all ports of the bridge, as if the VM had sent it; of a VLAN-aware one towards the switch.
            let (from, vlan) =
                if bridge == Dev::trunk() { (net.wire.clone(), net.id) } else { (bridge, None) };
            if !port.addresses.is_empty() {
                self.announce_from(port, from, Some(port.mac), vlan);
            }
            self.write_alias(port, &dev, alias);
        }
    }

    fn routed(&mut self, port: &Port) {
        let (key, dev) = (key(port), Dev::port(&port.id));
        self.veth(port, None);
        if !self.now.lan.links.get(&dev).is_some_and(|l| l.is_ours()) {
            return;
        }
        for switch in [Switch::ProxyArp] {
            if !self.now.lan.switches.contains(&(dev.clone(), switch)) {
                self.step(&key, Step::Sysctl { dev: dev.clone(), switch });
            }
        }
        if !port.stage.is_active() {
            return;
        }
        for ip in next_hops(port) {
            let address = IfAddr { ip, length: if ip.is_ipv4() { 32 } else { 64 } };
            if !self.now.lan.addresses.get(&dev).is_some_and(|a| a.contains_key(&address)) {
                self.step(&key, Step::AddrAdd { dev: dev.clone(), address });
            }
        }
        let (v4, v6) = self.now.lan.forwards;
        for (forwards, is_v4, sysctl) in
            [(v4, true, "net.ipv4.ip_forward"), (v6, false, "net.ipv6.conf.all.forwarding")]
        {
            if !forwards && port.addresses.iter().any(|a| a.ip.is_ipv4() == is_v4) {
                let family = if is_v4 { "IPv4" } else { "IPv6" };
                let why = format!("the host does not route {family}: sysctl -w {sysctl}=1");
                self.problems.entry(key.clone()).or_insert(why);
            }
        }
        let mut places: BTreeSet<Dev> = BTreeSet::new();
        let mut reached = true;
        for address in &port.addresses {
            match self.route_to(port, &dev, address.ip) {
                Ok(found) => places.extend(found),
                Err(why) => {
                    reached = false;
                    self.problems.entry(key.clone()).or_insert(why);
                }
            }
        }
        let alias = port.alias();
        let announced = self.now.lan.links.get(&dev).is_some_and(|l| l.link.alias == alias);
        // What cannot answer is not announced, so that it is when it can.
        if !announced && reached && self.is_present(port) {
            // Others reach it by the host's own MAC.
            for place in places {
                self.announce_from(port, place, None, None);
            }
            self.write_alias(port, &dev, alias);
        }
    }

    /// Addresses that a link of the host has for itself, link-local ones left out.
    pub(super) fn own_addresses(&self, dev: &Dev) -> Vec<IfAddr> {
        self.now.lan.host_addresses(dev).map(|(a, _)| *a).filter(|a| !is_link_local(a.ip)).collect()
    }
}
