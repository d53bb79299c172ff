//! Keeping the observed state up to date by what the kernel says happened.

use std::collections::BTreeSet;

use netlink_packet_route::neighbour::{NeighbourAttribute, NeighbourMessage};
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Dataplane, Heard, Kernel, OpError};
use crate::dev::{Dev, PROTOCOL, Role};
use crate::model::{Desired, Key};
use crate::netlink::NetlinkError;
use crate::netlink::monitor::Monitor;
use crate::netlink::parse::{self, Kind};
use crate::netns::identify;
use crate::observed::Observed;
use crate::op::Op;

impl Dataplane for Kernel {
    fn observe(&mut self, desired: &Desired) -> Result<Observed, NetlinkError> {
        let result = self.observe_all(desired);
        self.reopen_after(result.is_err());
        result
    }

    fn refresh(
        &mut self,
        keys: &BTreeSet<Key>,
        desired: &Desired,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        let result = self.refresh_keys(keys, desired, observed);
        self.reopen_after(result.is_err());
        result
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        self.apply_ops(ops)
    }

    fn hear(&mut self, desired: &Desired, observed: &mut Observed) -> Result<Heard, NetlinkError> {
        let mut messages = Vec::new();
        let drained = self.monitor.get_mut().drain(|message| messages.push(message));
        if drained.is_err() {
            self.monitor = Monitor::of_host().and_then(Monitor::register).map_err(NetlinkError::Socket)?;
        }
        let complete = drained.map_err(NetlinkError::Socket)?;
        let mut heard = Heard { lost: !complete, ..Heard::default() };
        let mut touched = BTreeSet::new();
        let mut rates = false;
        let host = desired.lan().is_some();
        for message in messages {
            rates |= self.stirs_rates(&message);
            self.hear_fabric(&message, observed, &mut heard);
            if host && self.is_of_host(&message, observed) {
                heard.host = true;
                continue;
            }
            self.take_event(message, observed, &mut heard, &mut touched);
        }
        rates |= touched.iter().any(|dev| dev.role() == Some(Role::Shaper));
        if heard.host {
            // Whether what limits is up is seen here only.
            rates |= !observed.rates.is_empty() || !observed.diverted.is_empty();
            self.look_at_host(desired, observed)?;
            heard.keys.insert(Key::Lan);
        }
        for dev in touched {
            self.refresh_dev(&dev, observed)?;
            heard.keys.insert(match desired.tap_at(&dev) {
                Some(port) => Key::Port(Dev::port(&port.id)),
                None => key_of(&dev),
            });
            if let Some(Role::Bridge(vni) | Role::Vxlan(vni)) = dev.role() {
                // Whatever the kernel dropped with it; cheap if it dropped nothing, as keys are only compared.
                let whole = match dev.role() {
                    Some(Role::Bridge(_)) => !observed.bridges.contains_key(&vni),
                    _ => !observed.vxlans.contains_key(&vni),
                };
                if whole {
                    heard.keys.extend(desired.keys_of(vni));
                }
            } else {
                self.refresh_inside(&dev, desired, observed)?;
            }
        }
        if rates {
            let before = observed.rates.clone();
            let shared = (observed.diverted.clone(), observed.astray.clone());
            self.observe_rates(observed)?;
            if shared != (observed.diverted.clone(), observed.astray.clone()) {
                heard.keys.insert(Key::Lan);
            }
            let all: BTreeSet<&Dev> = before.keys().chain(observed.rates.keys()).collect();
            let changed = all.into_iter().filter(|dev| before.get(*dev) != observed.rates.get(*dev));
            heard.keys.extend(changed.cloned().map(Key::Port));
        }
        if self.tables.get_mut().discard().map_err(NetlinkError::Socket)? {
            let found = crate::guard::nft::read();
            let changed = found.differing(&observed.guards);
            heard.keys.extend(changed.into_iter().map(Key::Port));
            observed.guards = found;
        }
        self.settle_fabric(desired, observed, &mut heard)?;
        let stirred = self.stirred.take();
        if host && stirred.contains(&Dev::trunk()) {
            self.look_at_host(desired, observed)?;
            heard.keys.insert(Key::Lan);
        }
        for dev in stirred {
            self.refresh_inside(&dev, desired, observed)?;
            heard.keys.insert(Key::Port(dev));
        }
        Ok(heard)
    }

    async fn wait(&mut self) {
        tokio::select! {
            ready = self.monitor.readable() => if let Ok(mut ready) = ready {
                ready.clear_ready();
            },
            () = self.stirred.notify.notified() => {}
            ready = self.tables.readable() => if let Ok(mut ready) = ready {
                ready.clear_ready();
            },
        }
    }

    fn changed_namespaces(&mut self, desired: &Desired) -> BTreeSet<Key> {
        let mut changed = BTreeSet::new();
        self.watches.retain(|dev, watch| {
            let same = desired.port_at(dev).is_some_and(|port| port.netns == watch.netns)
                && identify(&watch.netns) == watch.id;
            if !same {
                changed.insert(Key::Port(dev.clone()));
            }
            same
        });
        changed
    }
}

fn key_of(dev: &Dev) -> Key {
    match dev.role() {
        Some(Role::Bridge(vni) | Role::Vxlan(vni)) => Key::Network(vni),
        _ => Key::Port(dev.shaped().unwrap_or_else(|| dev.clone())),
    }
}

impl Kernel {
    /// True if it is about limits of ports.
    fn stirs_rates(&self, message: &RouteNetlinkMessage) -> bool {
        match message {
            RouteNetlinkMessage::NewQueueDiscipline(tc)
            | RouteNetlinkMessage::DelQueueDiscipline(tc)
            | RouteNetlinkMessage::NewTrafficFilter(tc)
            | RouteNetlinkMessage::DelTrafficFilter(tc) => self.concerns_rates(tc),
            _ => false,
        }
    }

    /// Links, addresses, routes, rules and neighbours of ours, and MACs of a VLAN-aware bridge, which a host behind
    /// switches looks at as a whole.
    fn is_of_host(&self, message: &RouteNetlinkMessage, observed: &Observed) -> bool {
        match message {
            RouteNetlinkMessage::NewNeighbour(entry) | RouteNetlinkMessage::DelNeighbour(entry) => {
                let ours = NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL));
                match entry.header.family {
                    AddressFamily::Bridge => self.is_of_trunk(entry, observed),
                    _ => entry.attributes.contains(&ours),
                }
            }
            RouteNetlinkMessage::NewRule(rule) | RouteNetlinkMessage::DelRule(rule) => {
                crate::netlink::table::read_rule(rule).is_some()
            }
            RouteNetlinkMessage::NewLink(_)
            | RouteNetlinkMessage::DelLink(_)
            | RouteNetlinkMessage::NewAddress(_)
            | RouteNetlinkMessage::DelAddress(_) => true,
            RouteNetlinkMessage::NewRoute(route) | RouteNetlinkMessage::DelRoute(route) => {
                route.header.protocol == RouteProtocol::Other(PROTOCOL)
            }
            _ => false,
        }
    }

    fn take_event(
        &mut self,
        message: RouteNetlinkMessage,
        observed: &mut Observed,
        heard: &mut Heard,
        touched: &mut BTreeSet<Dev>,
    ) {
        match message {
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message) => {
                let Some(raw) = parse::link(&message) else { return };
                // By index too: it may have been one of ours until it was renamed.
                touched.extend(self.names.get(&raw.index).cloned());
                if raw.name.role().is_some() || self.taps.contains(&raw.name) {
                    touched.insert(raw.name.clone());
                } else if raw.kind == Kind::Vxlan
                    || observed.foreign_vxlans.values().any(|n| *raw.name.as_str() == **n)
                {
                    self.take_foreign_vxlan(&raw.name, observed, heard);
                }
            }
            RouteNetlinkMessage::NewNeighbour(message) => {
                let key = match parse::fdb(&message) {
                    Some(raw) if raw.is_echo() => None,
                    Some(raw) => self.take_fdb(&raw, observed),
                    None => parse::neighbour(&message)
                        .and_then(|(index, ip, found)| self.take_neighbour(index, ip, found, observed)),
                };
                heard.keys.extend(key);
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                heard.keys.extend(self.drop_neighbour(&message, observed));
            }
            RouteNetlinkMessage::NewAddress(_) | RouteNetlinkMessage::DelAddress(_) => heard.addresses = true,
            _ => {}
        }
    }

    fn take_foreign_vxlan(&mut self, name: &Dev, observed: &mut Observed, heard: &mut Heard) {
        let before = observed.foreign_vxlans.clone();
        observed.foreign_vxlans.retain(|_, owner| owner != name.as_str());
        if let Ok(Some(raw)) = self.get_link(name)
            && raw.kind == Kind::Vxlan
            && !super::observe::is_transit(&raw)
        {
            observed.foreign_vxlans.insert((raw.vni, raw.port), name.to_string());
        }
        let numbers = before.keys().chain(observed.foreign_vxlans.keys()).map(|(vni, _)| *vni);
        let vnis = numbers.filter_map(|n| causeway_proto::Vni::try_from(n).ok());
        heard.keys.extend(vnis.map(Key::Network));
    }

    fn drop_neighbour(&self, message: &NeighbourMessage, observed: &mut Observed) -> Option<Key> {
        let Some(raw) = parse::fdb(message) else {
            let (index, ip, _) = parse::neighbour(message)?;
            let Some(Role::Bridge(vni)) = self.names.get(&index).and_then(Dev::role) else { return None };
            observed.neighbours.remove(&(vni, ip));
            return Some(Key::Neigh(vni, ip));
        };
        if raw.own {
            let Some(Role::Vxlan(vni)) = self.names.get(&raw.index).and_then(Dev::role) else { return None };
            if raw.mac.is_zero() {
                observed.floods.remove(&(vni, raw.vtep?));
                return Some(Key::Flood(vni, raw.vtep?));
            }
            let key = (vni, raw.mac);
            // A late event of a destination that has been replaced says nothing about the new one.
            if observed.tunnels.get(&key).is_some_and(|entry| entry.vtep == raw.vtep) {
                observed.tunnels.remove(&key);
            }
            return Some(Key::Mac(vni, raw.mac));
        }
        let Some(Role::Bridge(vni)) = self.names.get(&raw.bridge?).and_then(Dev::role) else { return None };
        let key = (vni, raw.mac);
        let port = self.fdb_port(&raw, vni);
        if observed.fdb.get(&key).is_some_and(|entry| entry.port == port) {
            observed.fdb.remove(&key);
        }
        Some(Key::Mac(vni, raw.mac))
    }
}
