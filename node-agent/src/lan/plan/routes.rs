//! How the host itself reaches its workloads, and how others reach those that are routed.

use std::net::IpAddr;

use causeway_proto::Vni;

use super::{Planner, shim_mac};
use crate::dev::{Dev, Role, network_alias};
use crate::lan::seen::{Route, Switch, is_within};
use crate::lan::step::Step;
use crate::lan::table::{Hop, Way};
use crate::lan::want::Net;
use crate::model::{Attach, Child, IfAddr, Key, MacvlanMode, Port};
use crate::observed::Inside;
use crate::op::At;

pub(super) fn single(ip: IpAddr) -> IfAddr {
    IfAddr { ip, length: if ip.is_ipv4() { 32 } else { 128 } }
}

/// The address of ours to speak to `to` with: one whose subnet it is in, or any of its family.
fn source(addresses: &[IfAddr], to: IpAddr) -> Option<IpAddr> {
    let same = || addresses.iter().filter(|a| a.ip.is_ipv4() == to.is_ipv4());
    same().find(|a| is_within(to, **a)).or_else(|| same().next()).map(|a| a.ip)
}

impl Planner<'_> {
    /// The host's own macvlan beside its workloads': the kernel passes nothing between a macvlan and its parent. Both
    /// sides know each other by fixed neighbours, so that the shim asks nothing and answers nobody: neither the switch
    /// nor other hosts ever see its MAC.
    pub(super) fn shim(&mut self, vni: Vni, net: &Net) {
        let Some(network) = self.desired.networks().get(&vni).filter(|_| net.shim) else { return };
        let (key, dev, mac) = (Key::Network(vni), Dev::shim(vni), shim_mac(network.bridge_mac));
        // Looked at only now: the host's addresses may just have moved to the parent, or away from it.
        if self.now.lan.host_addresses(&net.parent).next().is_none() {
            if self.now.lan.links.contains_key(&dev) {
                self.step(&key, Step::LinkDel { dev });
            }
            return;
        }
        if !self.now.lan.links.contains_key(&dev) {
            let parent = net.parent.clone();
            self.step(&key, Step::ShimAdd { dev: dev.clone(), parent, mac, mtu: net.mtu });
        }
        let mut change = self.change(&dev, net.mtu, None);
        let alias = network_alias(&network.name.to_string());
        let found = self.now.lan.links.get(&dev);
        change.alias = found.filter(|l| l.link.alias != alias).map(|_| alias);
        change.mac = found.filter(|l| l.mac != Some(mac)).map(|_| mac);
        self.set(&key, &dev, change);
        if !self.now.lan.switches.contains(&(dev.clone(), Switch::ArpIgnore)) {
            self.step(&key, Step::Sysctl { dev: dev.clone(), switch: Switch::ArpIgnore });
        }
        self.no_ra(&key, &dev);
        self.up(&key, &dev);
        if matches!(net.parent.role(), Some(Role::Bridge(_))) {
            let own = (net.parent.clone(), mac);
            self.own_macs.insert(own.clone());
            if !self.now.lan.own_macs.contains(&own) {
                self.step(&key, Step::OwnMac { dev: own.0, mac });
            }
        }
        let host = self.own_addresses(&net.parent);
        let wanted = Attach::Child(Child::Macvlan(MacvlanMode::Bridge));
        let ports = self
            .desired
            .ports()
            .values()
            .filter(|p| p.vni == vni && p.attach == wanted && p.stage.is_active());
        let ports: Vec<Port> = ports.cloned().collect();
        for port in &ports {
            if !self.wanted.refused.contains_key(&port.id) {
                self.acquaint(port, &dev, mac, &host);
            }
        }
    }

    /// Route and neighbour on the host, neighbours inside.
    fn acquaint(&mut self, port: &Port, shim: &Dev, mac: causeway_proto::Mac, host: &[IfAddr]) {
        let key = Key::Port(Dev::port(&port.id));
        for address in &port.addresses {
            let Some(source) = source(host, address.ip) else { continue };
            // Without a route the host does not reach it; others do.
            let to = single(address.ip);
            let route = Route { to, dev: shim.clone(), source: Some(source) };
            if self.route(&key, route) && self.rules.iter().any(|rule| rule.vni == port.vni) {
                // Routed workloads reach it the same way.
                self.way(&key, Way { vni: port.vni, to, hop: Hop::Link(shim.clone()) });
            }
            self.know(&key, shim, address.ip, port.mac);
        }
        let Some(Inside::Present(peer)) = self.now.insides.get(&Dev::port(&port.id)) else { return };
        let have = peer.neighbours.clone();
        let at =
            At { dev: Dev::port(&port.id), netns: port.netns.clone(), interface: port.interface.clone() };
        let speaks = |ip: IpAddr| port.addresses.iter().any(|a| a.ip.is_ipv4() == ip.is_ipv4());
        let wanted: Vec<IpAddr> = host.iter().map(|a| a.ip).filter(|ip| speaks(*ip)).collect();
        for ip in have.keys().filter(|ip| !wanted.contains(ip)) {
            self.step(&key, Step::PeerNeighDel { at: at.clone(), ip: *ip });
        }
        for ip in wanted.into_iter().filter(|ip| have.get(ip) != Some(&mac)) {
            self.step(&key, Step::PeerNeighSet { at: at.clone(), ip, mac });
        }
    }

    /// False: the host reaches another port by this address, and has one table.
    fn route(&mut self, key: &Key, route: Route) -> bool {
        if self.routes.iter().any(|r| r.to == route.to && r.dev != route.dev) {
            return false;
        }
        if !self.now.lan.routes.contains(&route) {
            self.step(key, Step::RouteSet { route: route.clone() });
        }
        self.routes.insert(route);
        true
    }

    /// The ways to a routed workload and from it. Returns the links on which others look for its address: there the host
    /// answers.
    pub(super) fn route_to(&mut self, port: &Port, dev: &Dev, ip: IpAddr) -> Result<Vec<Dev>, String> {
        let key = Key::Port(Dev::port(&port.id));
        let places = self.places(port, ip);
        let ours = |d: &Dev| matches!(d.role(), Some(Role::Port | Role::Shim(_)));
        let devs = self.now.lan.addresses.keys().filter(|d| d.as_str() != "lo" && !ours(d));
        let addresses: Vec<IfAddr> = places.iter().chain(devs).flat_map(|d| self.own_addresses(d)).collect();
        // An IPv6 source is chosen by its scope; an IPv4 one would be the next hop's, which nobody can answer.
        let source = source(&addresses, ip).filter(|s| s.is_ipv4());
        if !self.route(&key, Route { to: single(ip), dev: dev.clone(), source }) {
            return Err(format!(
                "address {ip} is another port's on this node, and the host routes by one table"
            ));
        }
        for place in &places {
            self.answer(&key, place, ip);
        }
        self.way_out(port, dev, ip, &places)?;
        Ok(places)
    }

    /// Entries of ours that nothing wants any more.
    pub(super) fn remove_entries(&mut self) {
        let keeps = |planner: &Self, dev: &Dev| match dev.role() {
            Some(Role::Shim(vni) | Role::Bridge(vni)) => planner.keeps(vni),
            Some(Role::Port) => {
                let blocked = |port: &Port| planner.keeps(port.vni);
                planner.desired.protects_port(dev) || planner.desired.port_at(dev).is_some_and(blocked)
            }
            _ => false,
        };
        let key = |dev: &Dev| match dev.role() {
            Some(Role::Shim(vni) | Role::Bridge(vni)) => Key::Network(vni),
            Some(Role::Port) => Key::Port(dev.clone()),
            _ => Key::Lan,
        };
        for route in self.now.lan.routes.clone() {
            if !self.routes.contains(&route) && !keeps(self, &route.dev) {
                self.step(&key(&route.dev), Step::RouteDel { route });
            }
        }
        for ((dev, ip), _) in self.now.lan.neighbours.clone() {
            if !self.neighbours.contains_key(&(dev.clone(), ip)) && !keeps(self, &dev) {
                self.step(&key(&dev), Step::NeighDel { dev, ip });
            }
        }
        // A port that could not be read may be a routed one: which, its addresses would say.
        let unread = self.desired.rejected().keys().any(|item| matches!(item, crate::model::Item::Port(_)));
        for (dev, ip) in self.now.lan.proxies.clone() {
            if !self.proxies.contains(&(dev.clone(), ip)) && !unread && !keeps(self, &dev) {
                self.step(&key(&dev), Step::ProxyDel { dev, ip });
            }
        }
        self.remove_ways(unread);
        for (dev, mac) in self.now.lan.own_macs.clone() {
            if !self.own_macs.contains(&(dev.clone(), mac)) && !keeps(self, &dev) && !self.is_own(&dev, mac) {
                self.step(&key(&dev), Step::OwnMacDel { dev, mac });
            }
        }
    }

    /// The MAC of a bridge or of one of its ports, which the kernel enters by itself.
    fn is_own(&self, bridge: &Dev, mac: causeway_proto::Mac) -> bool {
        let links = &self.now.lan.links;
        let members = self.now.lan.members(bridge).map(|(_, l)| l.mac);
        links.get(bridge).map(|l| l.mac).into_iter().chain(members).any(|m| m == Some(mac))
    }
}
