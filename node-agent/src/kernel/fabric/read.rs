//! Reading switching and routing back.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Index;
use crate::dev::{Dev, FabricRole, Role};
use crate::fabric::{Interface, LinkKind, LinkObject, Object, RouterObject, Seen, Thing};
use crate::kernel::Kernel;
use crate::model::Desired;
use crate::netlink::NetlinkError;
use crate::netlink::fabric::{self as wire, RawDevice, RawRoute};
use crate::netlink::message::{get_addresses, get_link, get_neighbours, get_routes};
use crate::netlink::parse;
use crate::observed::Observed;

impl Kernel {
    /// Reads all of it.
    pub(in crate::kernel) fn observe_fabric(
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
    pub(in crate::kernel) fn refresh_fabric(
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
    pub(super) fn routing_dev(&self, index: u32) -> Option<Dev> {
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
}
