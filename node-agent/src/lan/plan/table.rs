//! What a routed workload sends, and how its host speaks for it in the network.

use std::net::{IpAddr, Ipv6Addr};

use causeway_proto::Mac;

use super::Planner;
use super::routes::single;
use crate::dev::{Dev, Role};
use crate::lan::seen::{Switch, is_within};
use crate::lan::step::Step;
use crate::lan::table::{Hop, Rule, Way, anywhere};
use crate::model::{Attach, IfAddr, Key, Port};

/// The prefix that an address of an interface is in; `None` if it is alone.
fn subnet(address: IfAddr) -> Option<IfAddr> {
    let alone = address.length >= single(address.ip).length;
    let prefix = causeway_proto::Prefix::containing(address.ip, address.length)?;
    (!alone).then(|| IfAddr { ip: prefix.network(), length: prefix.length() })
}

/// Link-local address by a MAC (RFC 4291, appendix A).
fn link_local(mac: Mac) -> IfAddr {
    let [a, b, c, d, e, f] = mac.octets();
    let word = |x: u8, y: u8| u16::from_be_bytes([x, y]);
    let ip = Ipv6Addr::new(0xfe80, 0, 0, 0, word(a ^ 2, b), word(c, 0xff), word(0xfe, d), word(e, f));
    IfAddr { ip: ip.into(), length: 64 }
}

impl Planner<'_> {
    /// Before a routed workload's link is up: from then on nothing that it sends is looked up elsewhere.
    pub(super) fn rules(&mut self) {
        let desired = self.desired;
        for port in desired.ports().values().filter(|p| p.attach == Attach::Routed) {
            let dev = Dev::port(&port.id);
            let refused = self.wanted.refused.contains_key(&port.id);
            if refused && !self.now.lan.links.contains_key(&dev) {
                continue;
            }
            let key = Key::Port(dev.clone());
            let (v4, v6) = self.now.lan.forwards;
            for (v6, forwards) in [(false, v4), (true, v6)] {
                // What the host does not route it does not route elsewhere either.
                if !forwards && port.addresses.iter().all(|a| a.ip.is_ipv6() != v6) {
                    continue;
                }
                self.way(&key, Way::barrier(port.vni, v6));
                let rule = Rule { port: dev.clone(), vni: port.vni, v6 };
                if self.rules.insert(rule.clone()) && !self.now.lan.rules.contains(&rule) {
                    self.step(&key, Step::RuleAdd { rule });
                }
            }
        }
    }

    /// A route in a network's table. Who comes first has it.
    pub(super) fn way(&mut self, key: &Key, way: Way) {
        if self.ways.iter().any(|other| other.excludes(&way)) {
            return;
        }
        if !self.now.lan.ways.contains(&way) {
            self.step(key, Step::WaySet { way: way.clone() });
        }
        self.ways.insert(way);
    }

    /// The links on which others look for a routed workload's address: the network's bridge, and where the host itself
    /// has an address of the same subnet.
    pub(super) fn places(&self, port: &Port, ip: IpAddr) -> Vec<Dev> {
        let ours = |d: &Dev| matches!(d.role(), Some(Role::Port | Role::Shim(_)));
        let bridge = self.wanted.nets.get(&port.vni).and_then(|net| net.bridge.clone());
        // One for all networks is not in any.
        let bridge = bridge.filter(|dev| matches!(dev.role(), Some(Role::Bridge(_))));
        let has = |d: &Dev| self.has_subnet_of(d, ip);
        let devs = self.now.lan.addresses.keys().filter(|d| d.as_str() != "lo" && !ours(d));
        let within = devs.filter(|d| bridge.as_ref() != Some(d) && has(d)).cloned();
        bridge.clone().into_iter().chain(within).collect()
    }

    fn has_subnet_of(&self, dev: &Dev, ip: IpAddr) -> bool {
        self.own_addresses(dev).iter().any(|a| subnet(*a).is_some() && is_within(ip, *a))
    }

    /// Answers ARP and ND for a routed workload's address at a place.
    pub(super) fn answer(&mut self, key: &Key, place: &Dev, ip: IpAddr) {
        let bridge = matches!(place.role(), Some(Role::Bridge(_)));
        let mut switches = if ip.is_ipv6() { vec![Switch::ProxyNd] } else { Vec::new() };
        if bridge {
            // Nobody else answers there, so nobody is given time to.
            switches.push(if ip.is_ipv6() { Switch::NdNow } else { Switch::ArpNow });
        }
        for switch in switches {
            if !self.now.lan.switches.contains(&(place.clone(), switch)) {
                self.step(key, Step::Sysctl { dev: place.clone(), switch });
            }
        }
        if bridge && ip.is_ipv6() {
            self.speak_v6(key, place);
        }
        self.proxies.insert((place.clone(), ip));
        if !self.now.lan.proxies.contains(&(place.clone(), ip)) {
            self.step(key, Step::ProxyAdd { dev: place.clone(), ip });
        }
    }

    /// A neighbour advertisement needs a source address of its own link.
    fn speak_v6(&mut self, key: &Key, bridge: &Dev) {
        let Some(mac) = self.now.lan.links.get(bridge).and_then(|l| l.mac) else { return };
        let address = link_local(mac);
        self.addresses.insert((bridge.clone(), address));
        if !self.now.lan.addresses.get(bridge).is_some_and(|a| a.contains_key(&address)) {
            self.step(key, Step::AddrAdd { dev: bridge.clone(), address });
        }
    }

    /// Where what a routed workload sends from this address goes: to its neighbours if the host is one of them, else
    /// to the gateway. An error if it can go nowhere.
    pub(super) fn way_out(
        &mut self,
        port: &Port,
        dev: &Dev,
        ip: IpAddr,
        places: &[Dev],
    ) -> Result<(), String> {
        let (key, vni) = (Key::Port(dev.clone()), port.vni);
        self.way(&key, Way { vni, to: single(ip), hop: Hop::Link(dev.clone()) });
        let network = self.desired.networks().get(&vni).map_or(String::new(), |n| n.name.to_string());
        let Some(exit) = places.first() else {
            return Err(format!(
                "the host is in no network with {ip}: give it an address of the subnet on the link to network {network}"
            ));
        };
        let own = self.own_addresses(exit);
        let near: Vec<IfAddr> =
            own.iter().filter(|a| is_within(ip, **a)).filter_map(|a| subnet(*a)).collect();
        for to in &near {
            self.way(&key, Way { vni, to: *to, hop: Hop::Link(exit.clone()) });
        }
        let gateway = port.gateways.iter().find(|g| g.is_ipv4() == ip.is_ipv4());
        let Some(gateway) = gateway.copied() else {
            return if near.is_empty() { Err(no_gateway(&network, ip, exit)) } else { Ok(()) };
        };
        // Who has no address to ask with would ask with one of another link, and be remembered by it.
        match (self.has_subnet_of(exit, gateway), port.gateway_mac) {
            (true, _) => {}
            (false, Some(mac)) => self.know(&key, exit, gateway, mac),
            (false, None) => return Err(no_mac(&network, gateway, exit)),
        }
        let hop = Hop::Gateway(exit.clone(), gateway);
        self.way(&key, Way { vni, to: anywhere(ip.is_ipv6()), hop });
        Ok(())
    }

    /// A neighbour that is never asked for.
    pub(super) fn know(&mut self, key: &Key, dev: &Dev, ip: IpAddr, mac: Mac) {
        self.neighbours.insert((dev.clone(), ip), mac);
        if self.now.lan.neighbours.get(&(dev.clone(), ip)) != Some(&mac) {
            self.step(key, Step::NeighSet { dev: dev.clone(), ip, mac });
        }
    }

    /// Rules, routes and addresses of ours that nothing wants any more. `unread`: a port that could not be read may
    /// want them.
    pub(super) fn remove_ways(&mut self, unread: bool) {
        for rule in self.now.lan.rules.clone() {
            if !self.rules.contains(&rule) && !self.desired.protects_port(&rule.port) {
                self.step(&Key::Port(rule.port.clone()), Step::RuleDel { rule });
            }
        }
        for way in self.now.lan.ways.clone() {
            if !self.ways.contains(&way) && !self.keeps(way.vni) && !unread {
                self.step(&Key::Network(way.vni), Step::WayDel { way });
            }
        }
        for (dev, addresses) in self.now.lan.addresses.clone() {
            let Some(Role::Bridge(vni)) = dev.role() else { continue };
            let ours = addresses.into_iter().filter(|(_, facts)| facts.ours).map(|(address, _)| address);
            for address in ours {
                let wanted = self.addresses.contains(&(dev.clone(), address));
                if !wanted && !self.keeps(vni) && !unread {
                    self.step(&Key::Network(vni), Step::AddrDel { dev: dev.clone(), address });
                }
            }
        }
    }
}

fn no_gateway(network: &str, ip: IpAddr, exit: &Dev) -> String {
    format!(
        "nothing leads from {ip} into network {network}: its subnet has no gateway, and the host no address of it on \
         {exit}; declare the gateway, or give the host an address there"
    )
}

fn no_mac(network: &str, gateway: IpAddr, exit: &Dev) -> String {
    format!(
        "the host cannot ask for gateway {gateway} of network {network}, as it has no address of its subnet on {exit}: give \
         it one, or let the switches hold the gateway (a VRF with an L3 VNI)"
    )
}
