//! What of switching and routing shall be, derived from the desired state: which things. What each is like is said in a
//! module of its own.

mod object;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv6Addr};

use causeway_proto::{Mac, Name, Prefix, VlanId, Vni};

use super::{Object, Thing, hop_addresses};
use crate::dev::{Dev, PROTOCOL};
use crate::model::fabric::Vrf;
use crate::model::{Desired, IfAddr, Mode, Network};
use crate::observed::{Neighbour, PortFlags, TunnelEntry};

/// Looks into the desired state; made once for a comparison.
pub(crate) struct Wanted<'a> {
    desired: &'a Desired,
    vtep: IpAddr,
    /// Networks that this switch bridges, and their VLANs; empty on a host.
    vlans: BTreeMap<Vni, VlanId>,
    by_vlan: BTreeMap<VlanId, Vni>,
    by_table: BTreeMap<u32, &'a Name>,
    by_l3: BTreeMap<Vni, &'a Name>,
    /// Things that cannot be, and why.
    pub(crate) problems: BTreeMap<Thing, String>,
}

impl<'a> Wanted<'a> {
    pub(crate) fn new(desired: &'a Desired, vtep: IpAddr) -> Self {
        let mut wanted = Wanted {
            desired,
            vtep,
            vlans: BTreeMap::new(),
            by_vlan: BTreeMap::new(),
            by_table: BTreeMap::new(),
            by_l3: BTreeMap::new(),
            problems: BTreeMap::new(),
        };
        wanted.number_vrfs();
        if wanted.mode().is_switch() {
            wanted.number_vlans();
        }
        for (&vni, network) in desired.networks() {
            if !network.gateways.is_empty() && wanted.vrf_of(network).is_none() {
                let text = format!(
                    "network {} has gateways, but its VRF {} is not on this node",
                    network.name, network.name.vrf
                );
                wanted.problems.insert(Thing::Router(wanted.gateway_dev(vni)), text);
            }
        }
        wanted
    }

    fn mode(&self) -> Mode {
        self.desired.fabric().mode()
    }

    fn number_vrfs(&mut self) {
        for (name, vrf) in self.desired.fabric().vrfs() {
            if let Some(other) = self.by_table.get(&vrf.number()) {
                let text = format!("VRF {name}: its table {} is that of VRF {other}", vrf.number());
                self.problems.insert(Thing::Link(Dev::vrf(vrf.number())), text);
                continue;
            }
            self.by_table.insert(vrf.number(), name);
            let Some(l3) = vrf.l3 else { continue };
            let taken = self.by_l3.get(&l3.vni).map(|other| format!("of VRF {other}"));
            let taken = taken.or_else(|| {
                self.desired.networks().get(&l3.vni).map(|network| format!("of network {}", network.name))
            });
            match taken {
                Some(owner) => {
                    let text = format!("VRF {name}: its L3 VNI {} is that {owner}", l3.vni);
                    self.problems.insert(Thing::Link(Dev::transit(l3.vni)), text);
                }
                None => {
                    self.by_l3.insert(l3.vni, name);
                }
            }
        }
    }

    fn number_vlans(&mut self) {
        for (&vni, network) in self.desired.networks() {
            let text = match network.vlan {
                None => format!("network {} has no VLAN: a switch needs one", network.name),
                Some(vlan) => match self.by_vlan.get(&vlan).and_then(|v| self.desired.networks().get(v)) {
                    None => {
                        self.by_vlan.insert(vlan, vni);
                        self.vlans.insert(vni, vlan);
                        continue;
                    }
                    Some(other) => {
                        format!("network {}: VLAN {vlan} is that of network {}", network.name, other.name)
                    }
                },
            };
            self.problems.insert(Thing::Link(Dev::vxlan(vni)), text);
        }
        for ((vni, mac), local) in self.desired.fabric().locals() {
            let known = self.desired.fabric().switch_ports().contains_key(&local.interface);
            if let (Some(vlan), false) = (self.vlans.get(vni), known) {
                let text = format!("MAC {mac}: {} is no port of this switch", local.interface);
                self.problems.insert(Thing::Fdb(Dev::switch(), Some(*vlan), *mac), text);
            }
        }
    }

    fn vrf_of(&self, network: &Network) -> Option<&'a Vrf> {
        const MAIN: &Vrf = &Vrf { l3: None, table: None };
        let name = &network.name.vrf;
        let found = self.desired.fabric().vrfs().get(name);
        found.or_else(|| (*name == Name::default_vrf()).then_some(MAIN))
    }

    /// The device that has a network's gateways and neighbours.
    fn gateway_dev(&self, vni: Vni) -> Dev {
        if self.mode().is_switch() { Dev::svi(vni) } else { Dev::bridge(vni) }
    }

    /// True if entries are ours to set: not where the switch's own daemon sets them.
    pub(crate) fn sets_entries(&self) -> bool {
        self.mode() != Mode::TorEvpn
    }

    /// Networks that are here: on a switch those with a VLAN.
    fn networks(&self) -> impl Iterator<Item = (Vni, &'a Network)> {
        let switch = self.mode().is_switch();
        let networks = self.desired.networks().iter().map(|(&vni, network)| (vni, network));
        networks.filter(move |(vni, _)| !switch || self.vlans.contains_key(vni))
    }

    /// All that shall be.
    pub(crate) fn things(&self) -> BTreeMap<Thing, Object> {
        let mut keys = BTreeSet::new();
        self.structure_keys(&mut keys);
        if self.sets_entries() {
            self.entry_keys(&mut keys);
        }
        keys.into_iter().filter_map(|thing| self.thing(&thing).map(|object| (thing, object))).collect()
    }

    fn structure_keys(&self, keys: &mut BTreeSet<Thing>) {
        if self.mode() == Mode::Host {
            return;
        }
        for (&table, name) in &self.by_table {
            let Some(vrf) = self.desired.fabric().vrfs().get(*name) else { continue };
            if vrf.table.is_some() {
                keys.extend([Thing::Link(Dev::vrf(table)), Thing::Router(Dev::vrf(table))]);
                keys.extend([Thing::Barrier(table, false), Thing::Barrier(table, true)]);
            }
        }
        for &vni in self.by_l3.keys() {
            let router = Dev::router(vni);
            keys.extend([Thing::Link(router.clone()), Thing::Link(Dev::transit(vni)), Thing::Router(router)]);
        }
        for (vni, network) in self.networks() {
            let dev = self.gateway_dev(vni);
            if !network.gateways.is_empty() {
                keys.insert(Thing::Router(dev.clone()));
                keys.extend(gateways(network).into_iter().map(|a| Thing::Address(dev.clone(), a)));
            }
        }
        if !self.mode().is_switch() {
            return;
        }
        keys.insert(Thing::Link(Dev::switch()));
        for (&vni, &vlan) in &self.vlans {
            keys.extend([Thing::Link(Dev::vxlan(vni)), Thing::Link(Dev::svi(vni))]);
            keys.extend([Thing::Vlan(Dev::vxlan(vni), vlan), Thing::Vlan(Dev::switch(), vlan)]);
            if let Some(mac) = self.desired.networks().get(&vni).and_then(|n| n.gateway_mac) {
                keys.insert(Thing::Fdb(Dev::switch(), Some(vlan), mac));
            }
        }
        for (dev, port) in self.desired.fabric().switch_ports() {
            keys.insert(Thing::Member(dev.clone()));
            keys.extend(port.untagged.iter().chain(&port.tagged).map(|&v| Thing::Vlan(dev.clone(), v)));
        }
    }

    fn entry_keys(&self, keys: &mut BTreeSet<Thing>) {
        let fabric = self.desired.fabric();
        for &(vni, mac) in self.desired.remotes().keys() {
            keys.extend(self.of_mac(vni, mac));
        }
        for &(vni, mac) in fabric.locals().keys() {
            keys.extend(self.of_mac(vni, mac));
        }
        for (vni, vtep) in self.desired.floods() {
            keys.extend(self.of_flood(vni, vtep));
        }
        for (vni, ip) in self.desired.neighbour_addresses() {
            keys.extend(self.of_neighbour(vni, ip));
        }
        for &vni in self.vlans.keys() {
            keys.extend(fabric.neighbours_of(vni).map(|ip| Thing::Neighbour(Dev::svi(vni), ip)));
        }
        keys.extend(self.route_keys());
        for (vrf, vtep, mac) in fabric.hops() {
            let Some(l3) = fabric.vrfs().get(vrf).and_then(|v| v.l3) else { continue };
            let router = Dev::router(l3.vni);
            keys.insert(Thing::Tunnel(Dev::transit(l3.vni), mac));
            keys.insert(Thing::Fdb(router.clone(), None, mac));
            keys.extend(hop_addresses(vtep).map(|ip| Thing::Neighbour(router.clone(), ip)));
        }
    }

    /// Routes that are asked for, also those that cannot be.
    pub(crate) fn route_keys(&self) -> impl Iterator<Item = Thing> {
        let fabric = self.desired.fabric();
        let routes = fabric.routes().keys().filter(|_| self.sets_entries());
        routes.filter_map(|(vrf, prefix)| {
            let table = fabric.vrfs().get(vrf)?.number();
            (*self.by_table.get(&table)? == vrf).then_some(Thing::Route(table, *prefix))
        })
    }

    /// Where a MAC shows on a switch.
    pub(crate) fn of_mac(&self, vni: Vni, mac: Mac) -> impl Iterator<Item = Thing> {
        let vlan = self.vlans.get(&vni).copied();
        let fdb = vlan.map(|v| Thing::Fdb(Dev::switch(), Some(v), mac));
        vlan.map(|_| Thing::Tunnel(Dev::vxlan(vni), mac)).into_iter().chain(fdb)
    }

    /// Where a flood target shows on a switch.
    pub(crate) fn of_flood(&self, vni: Vni, vtep: IpAddr) -> Option<Thing> {
        self.vlans.contains_key(&vni).then(|| Thing::Flood(Dev::vxlan(vni), vtep))
    }

    /// Where a neighbour shows on a switch.
    pub(crate) fn of_neighbour(&self, vni: Vni, ip: IpAddr) -> Option<Thing> {
        self.vlans.contains_key(&vni).then(|| Thing::Neighbour(Dev::svi(vni), ip))
    }

    /// What a thing shall be; `None`: not at all.
    pub(crate) fn thing(&self, thing: &Thing) -> Option<Object> {
        if self.problems.contains_key(thing) {
            return None;
        }
        match thing {
            Thing::Link(dev) => self.link(dev).map(Object::Link),
            Thing::Member(dev) => {
                self.desired.fabric().switch_ports().get(dev)?;
                Some(Object::Member { flags: PortFlags::default(), up: true })
            }
            Thing::Vlan(dev, vlan) => self.vlan(dev, *vlan),
            Thing::Router(dev) => self.router(dev).map(Object::Router),
            Thing::Barrier(..) => Some(Object::Barrier),
            Thing::Address(..) => Some(Object::Address { ours: true }),
            Thing::Flood(dev, vtep) => {
                let vni = self.bridged(dev)?;
                self.desired.floods_to(vni, *vtep).then_some(Object::Flood)
            }
            Thing::Tunnel(dev, mac) => self
                .tunnel(dev, *mac)
                .map(|vtep| Object::Tunnel(TunnelEntry { vtep: Some(vtep), lasting: true })),
            Thing::Fdb(dev, vlan, mac) => self.seat(dev, *vlan, *mac).map(Object::Fdb),
            Thing::Neighbour(dev, ip) => {
                let mac = self.neighbour(dev, *ip)?;
                Some(Object::Neighbour(Neighbour { mac: Some(mac), lasting: true, protocol: PROTOCOL }))
            }
            Thing::Route(table, prefix) => self.route(*table, *prefix).map(Object::Route),
        }
    }

    /// The network of a VXLAN device of the switch.
    fn bridged(&self, dev: &Dev) -> Option<Vni> {
        let Some(crate::dev::Role::Vxlan(vni)) = dev.role() else { return None };
        self.vlans.contains_key(&vni).then_some(vni)
    }

    /// Number of the table of a routing domain that has a device.
    fn table_of(&self, vrf: &Name) -> Option<u32> {
        let table = self.desired.fabric().vrfs().get(vrf)?.table?;
        (*self.by_table.get(&table)? == vrf).then_some(table)
    }

    /// Why a route cannot be, if it cannot.
    pub(crate) fn route_problem(&self, table: u32, prefix: Prefix) -> Option<String> {
        let name = *self.by_table.get(&table)?;
        let vrf = self.desired.fabric().vrfs().get(name)?;
        let hops = self.desired.fabric().routes().get(&(name.clone(), prefix))?;
        if let Some(other) = hops.vrfs.iter().find(|other| self.table_of(other).is_none()) {
            let why = match *other == Name::default_vrf() {
                true => "is the main table, into which Linux leaks no routes",
                false => "is not on this node",
            };
            return Some(format!("route {prefix} of VRF {name} leads into VRF {other}, which {why}"));
        }
        if vrf.l3.is_none() && !hops.vteps.is_empty() {
            return Some(format!("route {prefix}: VRF {name} has no L3 VNI, so no other VTEP is reached"));
        }
        // In the main table it would take the tunnel's own packets.
        let inside =
            hops.vteps.keys().find(|vtep| prefix.contains(**vtep)).filter(|_| vrf.table.is_none())?;
        Some(format!("route {prefix} of VRF {name} contains its own next hop {inside}: give it another VRF"))
    }
}

/// Gateway addresses; with IPv6 a link-local one too, without which the kernel asks nobody for neighbours.
fn gateways(network: &Network) -> BTreeSet<IfAddr> {
    let mut addresses = network.gateways.clone();
    if let Some(mac) = network.gateway_mac
        && addresses.iter().any(|a| a.ip.is_ipv6())
    {
        let [a, b, c, d, e, f] = mac.octets();
        // RFC 4291, appendix A.
        let id = [a ^ 2, b, c, 0xff, 0xfe, d, e, f];
        let ip = Ipv6Addr::from((0xfe80_u128 << 112) | u128::from(u64::from_be_bytes(id)));
        addresses.insert(IfAddr { ip: ip.into(), length: 64 });
    }
    addresses
}
