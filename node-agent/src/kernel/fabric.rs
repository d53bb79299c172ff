//! Switching and routing in the kernel: taking steps, reading back, hearing of changes.

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Heard, Kernel, OpError};
use crate::dev::{Dev, FabricRole, Role};
use crate::fabric::{Interface, LinkKind, LinkObject, Object, RouterObject, Seat, Seen, Step, Thing};
use crate::model::{Desired, Key};
use crate::netlink::NetlinkError;
use crate::netlink::fabric::{self as wire, RawDevice, RawRoute};
use crate::netlink::message::{self, Request, get_addresses, get_link, get_neighbours, get_routes};
use crate::netlink::parse;
use crate::observed::{FdbKind, Observed, TunnelEntry};
use crate::op::Op;

/// Devices that take part in switching and routing, by index and back; somebody else's switch ports too.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: BTreeMap<u32, Dev>,
    indexes: BTreeMap<Dev, u32>,
    /// Interfaces wanted as switch ports: their coming and going counts.
    wanted: BTreeSet<Dev>,
    /// Entries of the switch's VXLAN devices are compared here.
    switch: bool,
    /// Something happened to a device, an address or a route.
    stirred: bool,
}

impl Index {
    fn learn(&mut self, dev: &Dev, index: u32) {
        if let Some(old) = self.indexes.insert(dev.clone(), index) {
            self.names.remove(&old);
        }
        self.names.insert(index, dev.clone());
    }

    fn forget(&mut self, dev: &Dev) {
        if let Some(index) = self.indexes.remove(dev) {
            self.names.remove(&index);
        }
    }
}

impl Kernel {
    fn fabric_index(&self, dev: &Dev) -> Result<u32, OpError> {
        let found = self.fabric.indexes.get(dev).or_else(|| self.indexes.get(dev));
        found.copied().ok_or_else(|| OpError::NoDevice(dev.clone()))
    }

    /// Takes steps; entries many a system call.
    pub(super) fn apply_fabric(&mut self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        let mut results = Vec::with_capacity(ops.len());
        let mut rest = ops;
        while let [Op::Fabric(first), ..] = rest {
            let batched = |op: &&Op| matches!(op, Op::Fabric(Step::Put(..) | Step::Take(..)));
            let count = rest.iter().take_while(batched).count();
            if count == 0 {
                results.push(self.fabric_step(first));
                rest = &rest[1..];
            } else {
                let (now, later) = rest.split_at(count);
                results.extend(self.fabric_entries(now));
                rest = later;
            }
        }
        results
    }

    fn fabric_entries(&mut self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        let mut requests = Vec::with_capacity(ops.len());
        let mut results: Vec<Option<Result<(), OpError>>> = Vec::with_capacity(ops.len());
        let takes = |op: &Op| matches!(op, Op::Fabric(Step::Take(..)));
        for op in ops {
            let Op::Fabric(step) = op else { continue };
            match self.fabric_request(step) {
                Ok(request) => {
                    requests.push(request);
                    results.push(None);
                }
                // With the device what was on it is gone.
                Err(OpError::NoDevice(_)) if takes(op) => results.push(Some(Ok(()))),
                Err(error) => results.push(Some(Err(error))),
            }
        }
        let mut answers = self.connection.batch(requests).into_iter();
        let answer = |op: &Op, result: Option<Result<(), NetlinkError>>| match result {
            Some(Err(e)) if takes(op) && e.is_missing() => Ok(()),
            Some(Err(e)) if matches!(op, Op::Fabric(Step::Put(Thing::Flood(..), _))) && e.is_existing() => {
                Ok(())
            }
            Some(Err(e)) => Err(OpError::Netlink(e)),
            _ => Ok(()),
        };
        let with = ops.iter().zip(results);
        with.map(|(op, done)| done.unwrap_or_else(|| answer(op, answers.next()))).collect()
    }

    fn fabric_request(&self, step: &Step) -> Result<Request, OpError> {
        let index = |dev: &Dev| self.fabric_index(dev);
        let switch = |dev: &Dev| *dev == Dev::switch();
        Ok(match step {
            Step::Put(Thing::Vlan(dev, vlan), Object::Vlan { pvid, untagged }) => {
                wire::set_vlan(index(dev)?, switch(dev), *vlan, *pvid, *untagged)
            }
            Step::Take(Thing::Vlan(dev, vlan), _) => wire::del_vlan(index(dev)?, switch(dev), *vlan),
            Step::Put(Thing::Barrier(table, v6), _) => wire::set_barrier(*table, *v6),
            Step::Take(Thing::Barrier(table, v6), _) => wire::del_barrier(*table, *v6),
            Step::Put(Thing::Address(dev, address), _) => wire::set_address(index(dev)?, *address),
            Step::Take(Thing::Address(dev, address), _) => message::del_address(index(dev)?, *address),
            Step::Put(Thing::Flood(dev, vtep), _) => message::add_flood(index(dev)?, *vtep),
            Step::Take(Thing::Flood(dev, vtep), _) => message::del_flood(index(dev)?, *vtep),
            Step::Put(Thing::Tunnel(dev, mac), Object::Tunnel(TunnelEntry { vtep: Some(vtep), .. })) => {
                wire::set_tunnel(index(dev)?, *mac, *vtep)
            }
            Step::Take(Thing::Tunnel(dev, mac), _) => message::del_fdb(index(dev)?, *mac, true),
            Step::Put(Thing::Fdb(bridge, vlan, mac), Object::Fdb(seat)) => {
                wire::set_seat(index(&seat.port)?, seat.port == *bridge, *vlan, *mac, seat)
            }
            Step::Take(Thing::Fdb(bridge, vlan, mac), Object::Fdb(Seat { port, .. })) => {
                wire::del_seat(index(port)?, port == bridge, *vlan, *mac)
            }
            Step::Put(Thing::Neighbour(dev, ip), Object::Neighbour(neighbour)) => {
                let mac = neighbour.mac.ok_or_else(|| OpError::Conflict("a neighbour needs a MAC".into()))?;
                message::set_neighbour(index(dev)?, *ip, mac)
            }
            Step::Take(Thing::Neighbour(dev, ip), _) => message::del_neighbour(index(dev)?, *ip),
            Step::Put(Thing::Route(table, prefix), Object::Route(ways)) => {
                let ways = ways.iter().map(|(dev, gateway)| Ok((index(dev)?, *gateway)));
                wire::set_route(*table, *prefix, &ways.collect::<Result<Vec<_>, OpError>>()?)
            }
            Step::Take(Thing::Route(table, prefix), _) => wire::del_route(*table, *prefix),
            other => return Err(OpError::Conflict(format!("not an entry: {other}"))),
        })
    }

    fn fabric_step(&mut self, step: &Step) -> Result<(), OpError> {
        let (request, flags) = match step {
            Step::Remove(dev) => {
                let Ok(index) = self.fabric_index(dev) else { return Ok(()) };
                self.fabric.forget(dev);
                self.forget_index(dev);
                return match self.send_fabric(message::del_link(index)) {
                    Err(OpError::Netlink(error)) if error.is_missing() => Ok(()),
                    result => result,
                };
            }
            Step::Make { dev, kind, mac, mtu } => {
                let parent = match kind {
                    LinkKind::Vlan(_) => Some(self.fabric_index(&Dev::switch())?),
                    _ => None,
                };
                let added = self.send_fabric(wire::make(dev, kind, *mac, *mtu, parent));
                if let Some(link) = self.get_link(dev)?.filter(parse::RawLink::is_marked) {
                    self.fabric.learn(dev, link.index);
                }
                return added;
            }
            Step::Change { dev, change } => {
                let master = change.master.as_ref().map(|m| self.fabric_index(m)).transpose()?;
                message::set_link(self.fabric_index(dev)?, change, master)
            }
            Step::Flags { dev, flags } => message::set_flags(self.fabric_index(dev)?, flags),
            Step::QuietRa(dev) => return super::apply::ignore_ra(dev),
            Step::Join(dev) => wire::set_master(self.fabric_index(dev)?, self.fabric_index(&Dev::switch())?),
            Step::Raise(dev) => {
                let up = crate::op::LinkChange { up: true, ..Default::default() };
                message::set_link(self.fabric_index(dev)?, &up, None)
            }
            // The interface may be gone.
            Step::Leave(dev) => match self.fabric_index(dev) {
                Ok(index) => wire::set_master(index, 0),
                Err(_) => return Ok(()),
            },
            Step::Enslave { dev, vrf } => {
                let master = vrf.as_ref().map_or(Ok(0), |vrf| self.fabric_index(vrf))?;
                wire::set_master(self.fabric_index(dev)?, master)
            }
            Step::Routing { dev, on } => return set_routing(dev, *on),
            entry @ (Step::Put(..) | Step::Take(..)) => self.fabric_request(entry)?,
        };
        self.send_fabric((request, flags))
    }

    fn send_fabric(&mut self, (request, flags): Request) -> Result<(), OpError> {
        Ok(self.connection.request(request, flags)?)
    }

    /// Reads all of it.
    pub(super) fn observe_fabric(
        &mut self,
        desired: &Desired,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        observed.fabric = self.read_structure(desired)?;
        if self.fabric.indexes.is_empty() {
            return Ok(());
        }
        for family in [AddressFamily::Bridge, AddressFamily::Inet, AddressFamily::Inet6] {
            for message in self.connection.dump(get_neighbours(family, 0))? {
                if let RouteNetlinkMessage::NewNeighbour(message) = message {
                    self.take_fabric_entry(&message, &mut observed.fabric);
                }
            }
        }
        Ok(())
    }

    /// Reads devices, VLANs, addresses and routes again. Entries are kept up to date by events, and go with their device.
    pub(super) fn refresh_fabric(
        &mut self,
        desired: &Desired,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        let before = self.fabric.indexes.clone();
        let mut fresh = self.read_structure(desired)?;
        let stays = |dev: &Dev| before.contains_key(dev) && before.get(dev) == self.fabric.indexes.get(dev);
        let old = std::mem::take(&mut observed.fabric.things);
        for (thing, object) in old {
            let entry =
                matches!(thing, Thing::Flood(..) | Thing::Tunnel(..) | Thing::Fdb(..) | Thing::Neighbour(..));
            let port = if let Object::Fdb(seat) = &object { stays(&seat.port) } else { true };
            if entry && port && thing.dev().is_some_and(stays) {
                fresh.things.insert(thing, object);
            }
        }
        observed.fabric = fresh;
        Ok(())
    }

    fn read_structure(&mut self, desired: &Desired) -> Result<Seen, NetlinkError> {
        let mode = desired.fabric().mode();
        let wanted: BTreeSet<Dev> = match mode.is_switch() {
            true => desired.fabric().switch_ports().keys().cloned().collect(),
            false => BTreeSet::new(),
        };
        self.fabric = Index { wanted, switch: mode.is_switch(), ..Index::default() };
        let mut seen = Seen::default();
        let found = self.connection.dump(get_link(None))?;
        let devices: Vec<RawDevice> = found
            .iter()
            .filter_map(|m| if let RouteNetlinkMessage::NewLink(l) = m { wire::device(l) } else { None })
            .collect();
        let names: BTreeMap<u32, Dev> = devices.iter().map(|d| (d.raw.index, d.raw.name.clone())).collect();
        for device in &devices {
            self.take_device(device, &names, &mut seen);
        }
        if self.fabric.indexes.contains_key(&Dev::switch()) {
            for message in self.connection.dump(wire::get_vlans())? {
                let RouteNetlinkMessage::NewLink(message) = message else { continue };
                let Some(dev) = self.fabric.names.get(&message.header.index).cloned() else { continue };
                // Other bridges have VLANs too, which they do not look at.
                let inside = seen.link(&dev).is_some_and(|l| l.link.master.as_ref() == Some(&Dev::switch()));
                let member = seen.things.contains_key(&Thing::Member(dev.clone()));
                if !(inside || member || dev == Dev::switch()) {
                    continue;
                }
                for (vlan, pvid, untagged) in wire::vlans(&message) {
                    seen.things.insert(Thing::Vlan(dev.clone(), vlan), Object::Vlan { pvid, untagged });
                }
            }
        }
        self.read_addresses(&mut seen)?;
        self.read_routes(&mut seen)?;
        Ok(seen)
    }

    fn take_device(&mut self, device: &RawDevice, names: &BTreeMap<u32, Dev>, seen: &mut Seen) {
        let RawDevice { raw, kind, routes } = device;
        let dev = &raw.name;
        let master = raw.master.map(|i| names.get(&i).cloned().unwrap_or_else(|| Dev::new(&format!("#{i}"))));
        let role = dev.fabric_role();
        let form = match role {
            Some(FabricRole::Switch) => matches!(kind, LinkKind::Switch | LinkKind::Bridge),
            Some(FabricRole::Router(_)) => *kind == LinkKind::Bridge,
            Some(FabricRole::Svi(_)) => matches!(kind, LinkKind::Vlan(_)),
            Some(FabricRole::Transit(_)) => matches!(kind, LinkKind::Vxlan { .. }),
            Some(FabricRole::Vrf(_)) => matches!(kind, LinkKind::Vrf(_)),
            None => false,
        };
        let tunnel = self.fabric.switch && matches!(dev.role(), Some(Role::Vxlan(_)));
        let tunnel = tunnel && matches!(kind, LinkKind::Vxlan { .. });
        let bridge = matches!(dev.role(), Some(Role::Bridge(_))) && *kind == LinkKind::Bridge;
        let in_vrf = master.clone().filter(|m| matches!(m.fabric_role(), Some(FabricRole::Vrf(_))));
        if !raw.is_marked() || !(form || tunnel || bridge) {
            if role.is_some() {
                seen.foreign.insert(dev.clone());
            }
            let is_member = master.as_ref() == Some(&Dev::switch());
            if role.is_none() && dev.role().is_none() && (is_member || self.fabric.wanted.contains(dev)) {
                self.fabric.learn(dev, raw.index);
                let up = raw.link.up;
                let found = Interface { master, addresses: BTreeSet::new(), flags: raw.flags, up };
                seen.interfaces.insert(dev.clone(), found);
                if is_member {
                    seen.things.insert(Thing::Member(dev.clone()), Object::Member { flags: raw.flags, up });
                }
            }
            return;
        }
        let routing = tunnel || matches!(role, Some(FabricRole::Switch | FabricRole::Transit(_)));
        let router = RouterObject { vrf: in_vrf.clone(), routes: *routes };
        if !routing && router != RouterObject::default() {
            seen.things.insert(Thing::Router(dev.clone()), Object::Router(router));
        }
        if bridge {
            return;
        }
        self.fabric.learn(dev, raw.index);
        let mut link = raw.link.clone();
        // What a VRF is master of is said by how it routes.
        link.master = master.filter(|_| in_vrf.is_none());
        if matches!(kind, LinkKind::Vrf(_)) {
            // Nobody sends from it: its MTU is whatever it is.
            link.mtu = 0;
        }
        let flags = matches!(kind, LinkKind::Vxlan { .. }).then_some(raw.flags);
        let mac = raw.mac.filter(|_| matches!(kind, LinkKind::Switch | LinkKind::Bridge | LinkKind::Vlan(_)));
        let object = LinkObject { kind: kind.clone(), link, mac, accept_ra: raw.accept_ra, flags };
        seen.things.insert(Thing::Link(dev.clone()), Object::Link(object));
    }

    /// Also a network's bridge may have gateway addresses.
    fn routing_dev(&self, index: u32) -> Option<Dev> {
        let fabric = self.fabric.names.get(&index);
        let bridge = || self.names.get(&index).filter(|dev| matches!(dev.role(), Some(Role::Bridge(_))));
        fabric.or_else(bridge).cloned()
    }

    fn read_addresses(&mut self, seen: &mut Seen) -> Result<(), NetlinkError> {
        for message in self.connection.dump(get_addresses())? {
            let RouteNetlinkMessage::NewAddress(message) = message else { continue };
            let Some((index, address, ours)) = parse::address(&message) else { continue };
            let Some(dev) = self.routing_dev(index) else { continue };
            if let Some(interface) = seen.interfaces.get_mut(&dev) {
                let link_local = matches!(address.ip, std::net::IpAddr::V6(v6) if v6.is_unicast_link_local());
                if !link_local {
                    interface.addresses.insert(address.to_string());
                }
            } else {
                seen.things.insert(Thing::Address(dev, address), Object::Address { ours });
            }
        }
        Ok(())
    }

    fn read_routes(&mut self, seen: &mut Seen) -> Result<(), NetlinkError> {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for message in self.connection.dump(get_routes(family))? {
                let RouteNetlinkMessage::NewRoute(message) = message else { continue };
                match wire::read_route(&message) {
                    Some(RawRoute::Barrier(table, v6)) => {
                        seen.things.insert(Thing::Barrier(table, v6), Object::Barrier);
                    }
                    Some(RawRoute::Ways(table, prefix, ways)) => {
                        let name = |index| self.fabric.names.get(&index).cloned();
                        let ways = ways.into_iter();
                        let ways =
                            ways.map(|(i, gw)| (name(i).unwrap_or_else(|| Dev::new(&format!("#{i}"))), gw));
                        seen.things.insert(Thing::Route(table, prefix), Object::Route(ways.collect()));
                    }
                    None => {}
                }
            }
        }
        Ok(())
    }

    fn entry_thing(&self, message: &NeighbourMessage) -> Option<(Thing, Object)> {
        if let Some((raw, vlan)) = wire::entry(message) {
            let dev = self.fabric.names.get(&raw.index)?;
            let tunnel = matches!(dev.role(), Some(Role::Vxlan(_)))
                || matches!(dev.fabric_role(), Some(FabricRole::Transit(_)));
            if raw.own && tunnel {
                if raw.mac.is_zero() {
                    return Some((Thing::Flood(dev.clone(), raw.vtep?), Object::Flood));
                }
                let entry = TunnelEntry { vtep: raw.vtep, lasting: raw.kind != FdbKind::Dynamic };
                return Some((Thing::Tunnel(dev.clone(), raw.mac), Object::Tunnel(entry)));
            }
            let bridge = self.fabric.names.get(&raw.bridge?)?;
            let switch = *bridge == Dev::switch();
            // Entries for no VLAN concern nobody in a bridge that knows VLANs, and the other way round.
            if switch != vlan.is_some() {
                return None;
            }
            let seat = Seat { port: dev.clone(), kind: raw.kind, sticky: raw.sticky };
            return Some((Thing::Fdb(bridge.clone(), vlan, raw.mac), Object::Fdb(seat)));
        }
        let (index, ip, found) = parse::neighbour(message)?;
        let dev = self.fabric.names.get(&index)?;
        let ours = matches!(dev.fabric_role(), Some(FabricRole::Svi(_) | FabricRole::Router(_)));
        ours.then(|| (Thing::Neighbour(dev.clone(), ip), Object::Neighbour(found)))
    }

    fn take_fabric_entry(&self, message: &NeighbourMessage, seen: &mut Seen) -> Option<Thing> {
        let (thing, object) = self.entry_thing(message)?;
        seen.things.insert(thing.clone(), object);
        Some(thing)
    }

    /// Notes what an event means for switching and routing.
    pub(super) fn hear_fabric(
        &mut self,
        message: &RouteNetlinkMessage,
        observed: &mut Observed,
        heard: &mut Heard,
    ) {
        let seen = &mut observed.fabric;
        match message {
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message) => {
                let known = self.fabric.names.contains_key(&message.header.index);
                let named = parse::link(message).is_some_and(|raw| {
                    let bridge = matches!(raw.name.role(), Some(Role::Bridge(_) | Role::Vxlan(_)));
                    raw.name.fabric_role().is_some() || bridge || self.fabric.wanted.contains(&raw.name)
                });
                self.fabric.stirred |= known || named;
            }
            RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
                self.fabric.stirred |= self.routing_dev(message.header.index).is_some();
            }
            RouteNetlinkMessage::DelRoute(message) => {
                self.fabric.stirred |= wire::read_route(message).is_some();
            }
            RouteNetlinkMessage::NewNeighbour(message) if !wire::is_echo(message) => {
                heard.keys.extend(self.take_fabric_entry(message, seen).map(Key::Fabric));
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                let Some((thing, object)) = self.entry_thing(message) else { return };
                // A late event of what has been replaced says nothing about the new one.
                let same = match (seen.things.get(&thing), &object) {
                    (Some(Object::Fdb(now)), Object::Fdb(gone)) => now.port == gone.port,
                    (Some(Object::Tunnel(now)), Object::Tunnel(gone)) => now.vtep == gone.vtep,
                    (now, _) => now.is_some(),
                };
                if same {
                    seen.things.remove(&thing);
                }
                heard.keys.insert(Key::Fabric(thing));
            }
            _ => {}
        }
    }

    /// Reads back what events were about.
    pub(super) fn settle_fabric(
        &mut self,
        desired: &Desired,
        observed: &mut Observed,
        heard: &mut Heard,
    ) -> Result<(), NetlinkError> {
        if self.fabric.stirred {
            let before = observed.fabric.clone();
            self.refresh_fabric(desired, observed)?;
            if before != observed.fabric {
                heard.keys.insert(Key::Fabric(Thing::structure()));
            }
        }
        Ok(())
    }
}

/// /proc/sys/net follows the thread's namespace.
fn set_routing(dev: &Dev, on: bool) -> Result<(), OpError> {
    for (name, value) in crate::fabric::routing_sysctls(on) {
        let name = format!("net/ipv4/conf/{dev}/{name}");
        match std::fs::write(format!("/proc/sys/{name}"), value) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                return Err(OpError::NoDevice(dev.clone()));
            }
            Err(source) => return Err(OpError::Sysctl { name, source }),
            Ok(()) => {}
        }
    }
    Ok(())
}
