//! The node as a switch and a router: routing domains, routes, switch ports and the workloads behind them.

mod convert;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::{Mac, Name, Prefix, VlanId, Vni, v1};

use super::{Desired, Item, ItemError, Key};
use crate::dev::Dev;
use crate::fabric::Thing;

/// What the node does for the fabric.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Mode {
    /// A host that encapsulates itself.
    #[default]
    HostVtep,
    /// A host behind a switch, without VTEP.
    Host,
    /// A switch that we program.
    TorAgent,
    /// A switch that is configured from rendered text.
    TorStatic,
    /// A switch that speaks EVPN itself: it has devices from here and entries from its own daemon.
    TorEvpn,
}

impl Mode {
    /// True for a top-of-rack switch: one VLAN-aware bridge, no workloads of its own.
    pub fn is_switch(self) -> bool {
        matches!(self, Mode::TorAgent | Mode::TorStatic | Mode::TorEvpn)
    }
}

/// The way into an L3 VNI.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct L3 {
    /// VNI of routed traffic.
    pub vni: Vni,
    /// MAC of this node in it.
    pub router_mac: Mac,
}

/// A routing domain.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Vrf {
    /// `None`: only between networks of this node.
    pub l3: Option<L3>,
    /// Routing table; `None`: the main table, without a VRF device.
    pub table: Option<u32>,
}

/// The main routing table (`RT_TABLE_MAIN`).
pub const MAIN_TABLE: u32 = 254;

impl Vrf {
    /// Number of its routing table.
    pub fn number(&self) -> u32 {
        self.table.unwrap_or(MAIN_TABLE)
    }
}

/// A switch port's VLANs.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct SwitchPort {
    /// VLAN of untagged frames; `None`: they are dropped.
    pub untagged: Option<VlanId>,
    /// VLANs of tagged frames.
    pub tagged: BTreeSet<VlanId>,
}

/// A workload behind a switch port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Local {
    /// The switch port.
    pub interface: Dev,
    /// Its addresses.
    pub addresses: BTreeSet<IpAddr>,
}

/// Ways to a prefix.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Hops {
    /// VTEPs and their router MACs.
    pub vteps: BTreeMap<IpAddr, Mac>,
    /// Routing domains of this node in which to look on (leaks).
    pub vrfs: BTreeSet<Name>,
}

/// The part of the desired state that is about switching and routing.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Fabric {
    pub(crate) mode: Mode,
    pub(crate) vrfs: BTreeMap<Name, Vrf>,
    pub(crate) routes: BTreeMap<(Name, Prefix), Hops>,
    pub(crate) switch_ports: BTreeMap<Dev, SwitchPort>,
    pub(crate) locals: BTreeMap<(Vni, Mac), Local>,
    /// Index: how many routes go by a router MAC of a VTEP (the lowest MAC wins).
    hops: BTreeMap<(Name, IpAddr), BTreeMap<Mac, usize>>,
    /// Index: addresses of workloads here, behind switch ports or in network namespaces (the lowest MAC wins).
    neighbours: BTreeSet<(Vni, IpAddr, Mac)>,
}

impl Fabric {
    /// What the node does.
    pub fn mode(&self) -> Mode {
        self.mode
    }

    /// Routing domains by name.
    pub fn vrfs(&self) -> &BTreeMap<Name, Vrf> {
        &self.vrfs
    }

    /// Ways by routing domain and prefix.
    pub fn routes(&self) -> &BTreeMap<(Name, Prefix), Hops> {
        &self.routes
    }

    /// Switch ports by interface.
    pub fn switch_ports(&self) -> &BTreeMap<Dev, SwitchPort> {
        &self.switch_ports
    }

    /// Workloads behind switch ports.
    pub fn locals(&self) -> &BTreeMap<(Vni, Mac), Local> {
        &self.locals
    }

    /// The router MAC of a VTEP in a routing domain, if a route leads there.
    pub fn router_mac(&self, vrf: &Name, vtep: IpAddr) -> Option<Mac> {
        self.hops.get(&(vrf.clone(), vtep))?.keys().next().copied()
    }

    /// VTEPs that routes of a routing domain lead to, with their router MACs.
    pub fn hops(&self) -> impl Iterator<Item = (&Name, IpAddr, Mac)> {
        self.hops.iter().filter_map(|((vrf, vtep), macs)| Some((vrf, *vtep, *macs.keys().next()?)))
    }

    /// The MAC of a workload here that has an address.
    pub fn neighbour(&self, vni: Vni, ip: IpAddr) -> Option<Mac> {
        let (v, i, mac) = self.neighbours.range((vni, ip, Mac::new([0; 6]))..).next()?;
        (*v == vni && *i == ip).then_some(*mac)
    }

    /// Addresses of workloads here, of one network.
    pub fn neighbours_of(&self, vni: Vni) -> impl Iterator<Item = IpAddr> {
        let lowest = (vni, IpAddr::V4(std::net::Ipv4Addr::UNSPECIFIED), Mac::new([0; 6]));
        self.neighbours.range(lowest..).take_while(move |(v, ..)| *v == vni).map(|(_, ip, _)| *ip)
    }

    pub(super) fn add_addresses(&mut self, vni: Vni, mac: Mac, ips: impl Iterator<Item = IpAddr>) {
        self.neighbours.extend(ips.map(|ip| (vni, ip, mac)));
    }

    pub(super) fn remove_addresses(&mut self, vni: Vni, mac: Mac, ips: impl Iterator<Item = IpAddr>) {
        for ip in ips {
            self.neighbours.remove(&(vni, ip, mac));
        }
    }

    fn insert_route(&mut self, key: (Name, Prefix), hops: Hops) {
        self.remove_route(&key);
        for (vtep, mac) in &hops.vteps {
            let count = self.hops.entry((key.0.clone(), *vtep)).or_default().entry(*mac).or_default();
            *count += 1;
        }
        self.routes.insert(key, hops);
    }

    /// The VTEPs that it led to.
    fn remove_route(&mut self, key: &(Name, Prefix)) -> Hops {
        let hops = self.routes.remove(key).unwrap_or_default();
        for (vtep, mac) in &hops.vteps {
            let at = (key.0.clone(), *vtep);
            let Some(macs) = self.hops.get_mut(&at) else { continue };
            if let Some(count) = macs.get_mut(mac) {
                *count -= 1;
                if *count == 0 {
                    macs.remove(mac);
                }
            }
            if macs.is_empty() {
                self.hops.remove(&at);
            }
        }
        hops
    }

    fn insert_local(&mut self, key: (Vni, Mac), local: Local) {
        self.remove_local(key);
        self.add_addresses(key.0, key.1, local.addresses.iter().copied());
        self.locals.insert(key, local);
    }

    fn remove_local(&mut self, key: (Vni, Mac)) -> Option<Local> {
        let local = self.locals.remove(&key)?;
        self.remove_addresses(key.0, key.1, local.addresses.iter().copied());
        Some(local)
    }
}

impl Desired {
    /// Switching and routing.
    pub fn fabric(&self) -> &Fabric {
        &self.fabric
    }

    pub(super) fn set_fabric(&mut self, state: &v1::NodeState, previous: &Desired) {
        match convert::mode(state.mode) {
            Ok(mode) => self.fabric.mode = mode,
            Err(error) => {
                self.fabric.mode = previous.fabric.mode;
                self.reject(Item::State, 0, &error);
            }
        }
        for vrf in &state.vrfs {
            let kept = || vrf.name.parse().ok().and_then(|name| previous.fabric.vrfs.get_key_value(&name));
            if self.set_vrf(vrf).is_none()
                && let Some((name, kept)) = kept()
            {
                self.fabric.vrfs.insert(name.clone(), kept.clone());
            }
        }
        for port in &state.switch_ports {
            if self.set_switch_port(port).is_none()
                && let Some((dev, kept)) =
                    previous.fabric.switch_ports.get_key_value(&Dev::new(&port.interface))
            {
                self.fabric.switch_ports.insert(dev.clone(), kept.clone());
            }
        }
        for local in &state.locals {
            let kept = || {
                let key = (Vni::try_from(local.vni).ok()?, local.mac.parse().ok()?);
                Some((key, previous.fabric.locals.get(&key)?.clone()))
            };
            if self.set_local(local).is_none()
                && let Some((key, kept)) = kept()
            {
                self.fabric.insert_local(key, kept);
            }
        }
        for route in &state.routes {
            let kept = || {
                let key = (route.vrf.parse().ok()?, route.prefix.parse().ok()?);
                previous.fabric.routes.get(&key).map(|hops| (key, hops.clone()))
            };
            if self.set_route(route).is_none()
                && let Some((key, kept)) = kept()
            {
                self.fabric.insert_route(key, kept);
            }
        }
    }

    /// Deletions of a delta.
    pub(super) fn delete_fabric(&mut self, delta: &v1::NodeDelta, dirty: &mut BTreeSet<Key>) {
        for name in &delta.deleted_vrfs {
            self.rejected.remove(&Item::Vrf(name.clone()));
            if let Ok(name) = name.parse::<Name>() {
                self.fabric.vrfs.remove(&name);
                dirty.insert(Key::Fabric(Thing::structure()));
            }
        }
        for interface in &delta.deleted_switch_ports {
            self.rejected.remove(&Item::SwitchPort(interface.clone()));
            self.fabric.switch_ports.remove(&Dev::new(interface));
            dirty.insert(Key::Fabric(Thing::structure()));
        }
        for local in &delta.deleted_locals {
            self.rejected.remove(&Item::Local(local.vni, local.mac.clone()));
            if let (Ok(vni), Ok(mac)) = (Vni::try_from(local.vni), local.mac.parse()) {
                let gone = self.fabric.remove_local((vni, mac));
                self.mark_local((vni, mac), gone.as_ref(), dirty);
            }
        }
        for route in &delta.deleted_routes {
            self.rejected.remove(&Item::Route(route.vrf.clone(), route.prefix.clone()));
            if let (Ok(vrf), Ok(prefix)) = (route.vrf.parse(), route.prefix.parse()) {
                let key = (vrf, prefix);
                let gone = self.fabric.remove_route(&key);
                self.mark_route(&key, &gone, dirty);
            }
        }
    }

    /// Insertions of a delta.
    pub(super) fn insert_fabric(&mut self, delta: &v1::NodeDelta, dirty: &mut BTreeSet<Key>) {
        for vrf in &delta.vrfs {
            if self.set_vrf(vrf).is_some() {
                dirty.insert(Key::Fabric(Thing::structure()));
            }
        }
        for port in &delta.switch_ports {
            if self.set_switch_port(port).is_some() {
                dirty.insert(Key::Fabric(Thing::structure()));
            }
        }
        for local in &delta.locals {
            let before = Vni::try_from(local.vni).ok().zip(local.mac.parse().ok());
            let before = before.and_then(|key| self.fabric.locals.get(&key)).cloned();
            if let Some(key) = self.set_local(local) {
                self.mark_local(key, before.as_ref(), dirty);
                let after = self.fabric.locals.get(&key).cloned();
                self.mark_local(key, after.as_ref(), dirty);
            }
        }
        for route in &delta.routes {
            let before = route.vrf.parse().ok().zip(route.prefix.parse().ok());
            let before = before.and_then(|key| self.fabric.routes.get(&key)).cloned().unwrap_or_default();
            if let Some(key) = self.set_route(route) {
                self.mark_route(&key, &before, dirty);
                let after = self.fabric.routes.get(&key).cloned().unwrap_or_default();
                self.mark_route(&key, &after, dirty);
            }
        }
    }

    fn mark_local(&self, (vni, mac): (Vni, Mac), local: Option<&Local>, dirty: &mut BTreeSet<Key>) {
        dirty.insert(Key::Mac(vni, mac));
        let addresses = local.into_iter().flat_map(|l| &l.addresses);
        dirty.extend(addresses.map(|&ip| Key::Neigh(vni, ip)));
    }

    fn mark_route(&self, (vrf, prefix): &(Name, Prefix), hops: &Hops, dirty: &mut BTreeSet<Key>) {
        let Some(found) = self.fabric.vrfs.get(vrf) else { return };
        dirty.insert(Key::Fabric(Thing::Route(found.number(), *prefix)));
        let Some(l3) = found.l3 else { return };
        for (vtep, mac) in &hops.vteps {
            let dev = Dev::router(l3.vni);
            dirty.insert(Key::Fabric(Thing::Tunnel(Dev::transit(l3.vni), *mac)));
            dirty.insert(Key::Fabric(Thing::Fdb(dev.clone(), None, *mac)));
            let ips = crate::fabric::hop_addresses(*vtep);
            dirty.extend(ips.map(|ip| Key::Fabric(Thing::Neighbour(dev.clone(), ip))));
            // Another MAC may take its place.
            if let Some(now) = self.fabric.router_mac(vrf, *vtep) {
                dirty.insert(Key::Fabric(Thing::Tunnel(Dev::transit(l3.vni), now)));
                dirty.insert(Key::Fabric(Thing::Fdb(dev, None, now)));
            }
        }
    }

    fn checked<T>(&mut self, item: Item, converted: Result<T, ItemError>) -> Option<T> {
        match converted {
            Ok(converted) => {
                self.rejected.remove(&item);
                Some(converted)
            }
            Err(error) => {
                self.reject(item, 0, &error);
                None
            }
        }
    }

    fn set_vrf(&mut self, vrf: &v1::NodeVrf) -> Option<Name> {
        let (name, vrf) = self.checked(Item::Vrf(vrf.name.clone()), convert::vrf(vrf))?;
        self.fabric.vrfs.insert(name.clone(), vrf);
        Some(name)
    }

    fn set_switch_port(&mut self, port: &v1::SwitchPort) -> Option<Dev> {
        let item = Item::SwitchPort(port.interface.clone());
        let (dev, port) = self.checked(item, convert::switch_port(port))?;
        self.fabric.switch_ports.insert(dev.clone(), port);
        Some(dev)
    }

    fn set_local(&mut self, local: &v1::LocalMac) -> Option<(Vni, Mac)> {
        let item = Item::Local(local.vni, local.mac.clone());
        let (key, local) = self.checked(item, convert::local(local))?;
        self.fabric.insert_local(key, local);
        Some(key)
    }

    fn set_route(&mut self, route: &v1::NodeRoute) -> Option<(Name, Prefix)> {
        let item = Item::Route(route.vrf.clone(), route.prefix.clone());
        let ours = self.vtep;
        let (key, hops) = self.checked(item, convert::route(route, ours))?;
        self.fabric.insert_route(key.clone(), hops);
        Some(key)
    }
}

#[cfg(test)]
mod tests;
