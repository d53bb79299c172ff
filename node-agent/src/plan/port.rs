//! Workloads' interfaces.

use std::collections::BTreeSet;
use std::net::IpAddr;

use super::{Phase, Planner, link_change};
use crate::dev::Dev;
use crate::model::{Attach, Key, Port};
use crate::observed::{HostSide, Inside, Observed, Peer};
use crate::op::{At, FlagChange, LinkChange, Op};

impl Planner<'_> {
    pub(super) fn port(&mut self, dev: &Dev) {
        let host = self.observed.ports.get(dev);
        let Some(port) = self.desired.port_at(dev) else {
            if self.desired.tap_at(dev).is_some() {
                // Looked at as its port.
                return;
            }
            if let Some(host) = host.filter(|host| host.tap) {
                return self.leave_tap(dev, host);
            }
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
        if port.attach == Attach::Tap {
            return self.tap(port, dev);
        }
        if port.attach == Attach::Adopted {
            let problem = adopted_problem(port, self.observed.insides.get(dev));
            self.problems.extend(problem.map(|why| (Key::Port(dev.clone()), why)));
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
        if port.stage.is_active() {
            self.up(Phase::Ports, dev, &host.link);
        } else if host.link.up {
            self.set(Phase::Silence, dev, LinkChange { down: true, ..LinkChange::default() });
        }
    }

    fn inside(&mut self, port: &Port, at: &At, peer: &Peer) {
        for op in inside_steps(port, at, peer) {
            // A VIP that leaves for a holder on another host.
            if let Op::AddrDel { address, .. } = &op
                && let Some(mac) = self.desired.neighbour(port.vni, address.ip)
            {
                self.push(Phase::Announce, Op::NeighTell { vni: port.vni, ip: address.ip, mac });
            }
            self.push(Phase::Inside, op);
        }
    }

    /// The alias with the generation is written last: it says that this generation has been announced.
    fn announce(&mut self, port: &Port, at: At, host: &HostSide) {
        let alias = port.alias();
        if host.link.alias == alias {
            return;
        }
        let dev = at.dev.clone();
        let addresses: BTreeSet<IpAddr> = port.addresses.iter().map(|a| a.ip).collect();
        if port.stage.is_active() && !addresses.is_empty() {
            self.push(Phase::Announce, Op::Announce { at, mac: port.mac, addresses });
        }
        self.set(Phase::Announce, &dev, LinkChange { alias: Some(alias), ..LinkChange::default() });
    }
}

/// What an adopted interface, which stays as it is, lacks to be the port.
pub(crate) fn adopted_problem(port: &Port, inside: Option<&Inside>) -> Option<String> {
    let Port { netns, interface, .. } = port;
    let peer = match inside {
        None => return Some(format!("netns {netns} was not looked into")),
        Some(Inside::Unreachable(why)) => return Some(why.clone()),
        Some(Inside::Absent | Inside::Foreign) => {
            return Some(format!("netns {netns} has no interface {interface} any more, which was adopted"));
        }
        Some(Inside::Present(peer)) => peer,
    };
    let has = |ip: IpAddr| peer.addresses.keys().any(|address| address.ip == ip);
    let missing = port.addresses.iter().find(|address| !has(address.ip));
    let why = match missing {
        _ if peer.mac != port.mac => format!("has MAC {} and not {}", peer.mac, port.mac),
        Some(address) => format!("does not have {}", address.ip),
        None if !peer.up => "is down".to_owned(),
        None => return None,
    };
    Some(format!(
        "interface {interface} in netns {netns} {why}; it was adopted, and is not changed from here"
    ))
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
