//! Reading the kernel back.

mod inside;

use std::collections::BTreeSet;

use causeway_proto::Mac;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::Kernel;
use crate::dev::{Dev, Role};
use crate::model::{Attach, Desired, Key, Rate};
use crate::netlink::NetlinkError;
use crate::netlink::message::{get_link, get_neighbours};
use crate::netlink::parse::{self, Kind, RawFdb, RawLink};
use crate::observed::{Bridge, FdbEntry, FdbPort, HostSide, Neighbour, Observed, TunnelEntry, Vxlan};

impl Kernel {
    pub(super) fn observe_all(&mut self, desired: &Desired) -> Result<Observed, NetlinkError> {
        let mut observed = Observed::default();
        self.names.clear();
        self.indexes.clear();
        if desired.lan().is_some() {
            self.look_at_host(desired, &mut observed)?;
        }
        self.taps = desired.taps();
        let links: Vec<RawLink> = self.dump_links()?;
        for link in &links {
            self.take_link(link, &links, &mut observed);
        }
        if !self.indexes.is_empty() {
            for message in self.connection.dump(get_neighbours(AddressFamily::Bridge, 0))? {
                if let RouteNetlinkMessage::NewNeighbour(message) = message
                    && let Some(raw) = parse::fdb(&message)
                {
                    self.take_fdb(&raw, &mut observed);
                }
            }
            for family in [AddressFamily::Inet, AddressFamily::Inet6] {
                for message in self.connection.dump(get_neighbours(family, 0))? {
                    if let RouteNetlinkMessage::NewNeighbour(message) = message
                        && let Some((index, ip, found)) = parse::neighbour(&message)
                    {
                        self.take_neighbour(index, ip, found, &mut observed);
                    }
                }
            }
        }
        self.observe_rates(&mut observed)?;
        observed.guards = crate::guard::nft::read();
        self.observe_fabric(desired, &mut observed)?;
        let wanted: BTreeSet<Dev> = desired.ports().keys().map(Dev::port).collect();
        self.watches.retain(|dev, _| wanted.contains(dev));
        for dev in wanted {
            if let Some(port) = desired.port_at(&dev).filter(|p| p.attach.has_inside()) {
                self.look_inside(port, &dev, &links, &mut observed);
            }
        }
        Ok(observed)
    }

    pub(super) fn dump_links(&mut self) -> Result<Vec<RawLink>, NetlinkError> {
        let found = self.connection.dump(get_link(None))?;
        let links = found.iter().filter_map(|m| match m {
            RouteNetlinkMessage::NewLink(message) => parse::link(message),
            _ => None,
        });
        Ok(links.collect())
    }

    pub(super) fn get_link(&mut self, dev: &Dev) -> Result<Option<RawLink>, NetlinkError> {
        Ok(match self.connection.get(get_link(Some(dev)))? {
            Some(RouteNetlinkMessage::NewLink(message)) => parse::link(&message),
            _ => None,
        })
    }

    /// Enters a link into the observed state if it is ours or in our way. `all` serves to name its master.
    fn take_link(&mut self, raw: &RawLink, all: &[RawLink], observed: &mut Observed) {
        // A tap of others that a VM's port has taken is known by our alias.
        let wanted = self.taps.contains(&raw.name);
        let tap = raw.kind == Kind::Tap && (wanted || raw.is_marked());
        let kind = match raw.name.role() {
            _ if tap => Kind::Tap,
            _ if wanted => {
                observed.foreign.insert(raw.name.clone());
                return;
            }
            Some(Role::Bridge(_)) => Kind::Bridge,
            Some(Role::Vxlan(_)) => Kind::Vxlan,
            Some(Role::Port) => Kind::Veth,
            Some(Role::Shaper) => Kind::Ifb,
            Some(Role::Vlan(_) | Role::Shim(_) | Role::Trunk | Role::Diverter) if raw.is_marked() => {
                self.learn_index(&raw.name, raw.index);
                observed.leftovers.insert(raw.name.clone());
                return;
            }
            _ => Kind::Other,
        };
        let ours = kind != Kind::Other && raw.kind == kind && (raw.is_marked() || tap);
        if !ours {
            if kind != Kind::Other {
                observed.foreign.insert(raw.name.clone());
            }
            if raw.kind == Kind::Vxlan && !is_transit(raw) {
                observed.foreign_vxlans.insert((raw.vni, raw.port), raw.name.to_string());
            }
            return;
        }
        self.learn_index(&raw.name, raw.index);
        let mut link = raw.link.clone();
        let name_of = |index: u32| all.iter().find(|l| l.index == index).map(|l| l.name.clone());
        link.master =
            raw.master.map(|index| name_of(index).unwrap_or_else(|| Dev::new(&format!("#{index}"))));
        match raw.name.role() {
            Some(Role::Bridge(vni)) => {
                let mac = raw.mac.unwrap_or(Mac::new([0; 6]));
                observed.bridges.insert(vni, Bridge { link, mac, accept_ra: raw.accept_ra });
            }
            Some(Role::Vxlan(vni)) => {
                let RawLink { vni: number, local, port, learning, flags, .. } = *raw;
                observed.vxlans.insert(vni, Vxlan { link, vni: number, local, port, learning, flags });
            }
            Some(Role::Shaper) => {}
            _ => {
                observed.ports.insert(raw.name.clone(), HostSide { link, flags: raw.flags, tap });
            }
        }
    }

    /// Reads one device of ours back and forgets what the kernel deleted with an earlier one of its name.
    pub(super) fn refresh_dev(&mut self, dev: &Dev, observed: &mut Observed) -> Result<(), NetlinkError> {
        let found = self.get_link(dev)?;
        let replaced = self.indexes.get(dev).copied() != found.as_ref().map(|l| l.index);
        observed.foreign.remove(dev);
        if replaced || found.as_ref().is_none_or(|l| !l.is_marked()) {
            match dev.role() {
                Some(Role::Bridge(vni)) => observed.forget_bridge(vni),
                Some(Role::Vxlan(vni)) => observed.forget_vxlan(vni),
                _ => observed.forget_port(dev),
            }
            self.forget_index(dev);
        }
        let Some(raw) = found else { return Ok(()) };
        let mut all = Vec::new();
        if let Some(index) = raw.master {
            match self.names.get(&index) {
                Some(name) => all.push(RawLink { index, name: name.clone(), ..raw.clone() }),
                None => all = self.dump_links()?,
            }
        }
        self.take_link(&raw, &all, observed);
        Ok(())
    }

    pub(super) fn refresh_keys(
        &mut self,
        keys: &BTreeSet<Key>,
        desired: &Desired,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        // Guards are kept up to date by events: a list of them all, for one port, would be long.
        let limited = |key: &Key| match key {
            Key::Port(dev) => {
                let limited = desired.port_at(dev).is_some_and(|p| p.rate != Rate::default());
                let diverted = observed.diverted.keys().any(|d| d.shaped().as_ref() == Some(dev));
                limited || diverted || observed.rates.contains_key(dev)
            }
            _ => false,
        };
        let limited = keys.iter().any(limited);
        let mut fabric = false;
        let host = desired.lan().is_some();
        if host {
            self.look_at_host(desired, observed)?;
        }
        for key in keys {
            match key {
                Key::Port(dev) if host => self.refresh_inside(dev, desired, observed)?,
                _ if host => {}
                Key::Network(vni) => {
                    self.refresh_dev(&Dev::bridge(*vni), observed)?;
                    self.refresh_dev(&Dev::vxlan(*vni), observed)?;
                    fabric = true;
                }
                Key::Fabric(_) => fabric = true,
                Key::Port(dev) => {
                    self.refresh_dev(dev, observed)?;
                    if let Some(port) = desired.port_at(dev).filter(|p| p.attach == Attach::Tap) {
                        self.taps.insert(port.interface.clone());
                        self.refresh_dev(&port.interface, observed)?;
                    }
                    if limited {
                        self.refresh_dev(&dev.shaper(), observed)?;
                    }
                    self.refresh_inside(dev, desired, observed)?;
                }
                _ => {}
            }
        }
        if fabric {
            self.refresh_fabric(desired, observed)?;
        }
        if limited { self.observe_rates(observed) } else { Ok(()) }
    }

    pub(super) fn refresh_inside(
        &mut self,
        dev: &Dev,
        desired: &Desired,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        let Some(port) = desired.port_at(dev).filter(|p| p.attach.has_inside()) else {
            self.watches.remove(dev);
            observed.insides.remove(dev);
            return Ok(());
        };
        let host: Vec<RawLink> = self.get_link(dev)?.into_iter().collect();
        self.look_inside(port, dev, &host, observed);
        Ok(())
    }

    /// What tells the port and index of an FDB entry: which network, and which of its devices.
    pub(super) fn take_fdb(&self, raw: &RawFdb, observed: &mut Observed) -> Option<Key> {
        let role = self.names.get(&raw.index).and_then(Dev::role);
        if raw.own {
            let Some(Role::Vxlan(vni)) = role else { return None };
            let vtep = raw.vtep;
            if raw.mac.is_zero() {
                observed.floods.insert((vni, vtep?));
                return Some(Key::Flood(vni, vtep?));
            }
            let entry = TunnelEntry { vtep, lasting: raw.kind != crate::observed::FdbKind::Dynamic };
            observed.tunnels.insert((vni, raw.mac), entry);
            return Some(Key::Mac(vni, raw.mac));
        }
        let Some(Role::Bridge(vni)) = self.names.get(&raw.bridge?).and_then(Dev::role) else { return None };
        observed.fdb.insert(
            (vni, raw.mac),
            FdbEntry { port: self.fdb_port(raw, vni), kind: raw.kind, sticky: raw.sticky },
        );
        Some(Key::Mac(vni, raw.mac))
    }

    pub(super) fn fdb_port(&self, raw: &RawFdb, vni: causeway_proto::Vni) -> FdbPort {
        match self.names.get(&raw.index) {
            Some(dev) => match dev.role() {
                Some(Role::Vxlan(v)) if v == vni => FdbPort::Vxlan,
                Some(Role::Port) => FdbPort::Port(dev.clone()),
                _ if self.taps.contains(dev) => FdbPort::Port(dev.clone()),
                _ => FdbPort::Other,
            },
            None => FdbPort::Other,
        }
    }

    pub(super) fn take_neighbour(
        &self,
        index: u32,
        ip: std::net::IpAddr,
        found: Neighbour,
        observed: &mut Observed,
    ) -> Option<Key> {
        let Some(Role::Bridge(vni)) = self.names.get(&index).and_then(Dev::role) else { return None };
        observed.neighbours.insert((vni, ip), found);
        Some(Key::Neigh(vni, ip))
    }
}

/// The VXLAN device of an L3 VNI, which is ours and compared elsewhere.
pub(super) fn is_transit(raw: &RawLink) -> bool {
    raw.is_marked() && matches!(raw.name.fabric_role(), Some(crate::dev::FabricRole::Transit(_)))
}
