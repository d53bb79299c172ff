//! What each thing of switching and routing is like.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_proto::{Mac, Name, Prefix, VlanId, Vni};

use super::Wanted;
use crate::dev::{Dev, network_alias, switch_alias, vrf_alias};
use crate::fabric::{LinkKind, LinkObject, Object, RouterObject, Seat, Way, mapped};
use crate::model::Place;
use crate::observed::{FdbKind, Link, PortFlags};
use crate::plan::VXLAN_PORT;

/// Bytes that VXLAN adds: Ethernet 14, VXLAN 8, UDP 8, and IPv4 20 or IPv6 40.
fn overhead(vtep: IpAddr) -> u32 {
    if vtep.is_ipv4() { 50 } else { 70 }
}

impl Wanted<'_> {
    pub(super) fn link(&self, dev: &Dev) -> Option<LinkObject> {
        use crate::dev::FabricRole;
        let made = |kind, mtu, mac, alias, master: Option<Dev>, flags| {
            let link = Link { mtu, alias, grouped: true, up: true, addrgen_none: true, master };
            LinkObject { kind, link, mac, accept_ra: false, flags }
        };
        let tunnel = |vni, mtu, alias, master, flags| {
            let (local, port) = (Some(self.vtep), VXLAN_PORT);
            let kind = LinkKind::Vxlan { vni, local, port, learning: false };
            made(kind, mtu, None, alias, Some(master), Some(flags))
        };
        if let Some(vni) = self.bridged(dev) {
            let network = self.desired.networks().get(&vni)?;
            // Suppression answers for what is known; what is not floods, gratuitous announcements too where the kernel
            // can be told so.
            let flags = PortFlags {
                learning: false,
                neigh_suppress: true,
                forward_gratuitous: Some(true),
                locked: false,
            };
            let alias = network_alias(&network.name.to_string());
            return Some(tunnel(vni, network.mtu, alias, Dev::switch(), flags));
        }
        match dev.fabric_role()? {
            FabricRole::Switch => {
                let mtu = self.networks().map(|(_, n)| n.mtu).max().unwrap_or(1500);
                let alias = switch_alias(self.desired.node());
                Some(made(LinkKind::Switch, mtu, Some(self.switch_mac()), alias, None, None))
            }
            FabricRole::Svi(vni) => {
                let vlan = *self.vlans.get(&vni)?;
                let network = self.desired.networks().get(&vni)?;
                // Another MAC than the bridge's makes the bridge pass every frame up: only where it must be.
                let mac = network.gateway_mac.unwrap_or_else(|| self.switch_mac());
                let alias = network_alias(&network.name.to_string());
                Some(made(LinkKind::Vlan(vlan), network.mtu, Some(mac), alias, None, None))
            }
            FabricRole::Router(vni) => {
                let name = self.by_l3.get(&vni)?;
                let l3 = self.desired.fabric().vrfs().get(*name)?.l3?;
                let alias = vrf_alias(name.as_str());
                Some(made(LinkKind::Bridge, self.l3_mtu(name), Some(l3.router_mac), alias, None, None))
            }
            FabricRole::Transit(vni) => {
                let name = self.by_l3.get(&vni)?;
                let flags = PortFlags { learning: false, ..PortFlags::default() };
                Some(tunnel(vni, self.l3_mtu(name), vrf_alias(name.as_str()), Dev::router(vni), flags))
            }
            FabricRole::Vrf(table) => {
                let name = self.by_table.get(&table)?;
                Some(made(LinkKind::Vrf(table), 0, None, vrf_alias(name.as_str()), None, None))
            }
        }
    }

    /// The MAC of most SVIs, so that they need none of their own; without gateways one that only this switch has.
    fn switch_mac(&self) -> Mac {
        let gateways = self.networks().filter_map(|(_, n)| n.gateway_mac).min();
        gateways.unwrap_or_else(|| Mac::from_ip(self.vtep, 0))
    }

    /// What fits the underlay; if that is not said, what the domain's networks have.
    fn l3_mtu(&self, vrf: &Name) -> u32 {
        let networks = self.desired.networks().values().filter(|n| n.name.vrf == *vrf).map(|n| n.mtu).max();
        let underlay = self.desired.underlay_mtu().checked_sub(overhead(self.vtep)).filter(|m| *m >= 1280);
        underlay.or(networks).unwrap_or(1450)
    }

    pub(super) fn vlan(&self, dev: &Dev, vlan: VlanId) -> Option<Object> {
        let tagged = Object::Vlan { pvid: false, untagged: false };
        let untagged = Object::Vlan { pvid: true, untagged: true };
        if *dev == Dev::switch() {
            return self.by_vlan.contains_key(&vlan).then_some(tagged);
        }
        if let Some(vni) = self.bridged(dev) {
            return (self.vlans.get(&vni) == Some(&vlan)).then_some(untagged);
        }
        let port = self.desired.fabric().switch_ports().get(dev)?;
        if port.untagged == Some(vlan) {
            return Some(untagged);
        }
        port.tagged.contains(&vlan).then_some(tagged)
    }

    pub(super) fn router(&self, dev: &Dev) -> Option<RouterObject> {
        use crate::dev::{FabricRole, Role};
        let vrf = match (dev.role(), dev.fabric_role()) {
            (Some(Role::Bridge(vni)), _) | (_, Some(FabricRole::Svi(vni))) => {
                let network = self.desired.networks().get(&vni).filter(|n| !n.gateways.is_empty())?;
                self.vrf_of(network)?.table
            }
            (_, Some(FabricRole::Router(vni))) => {
                self.desired.fabric().vrfs().get(*self.by_l3.get(&vni)?)?.table
            }
            (_, Some(FabricRole::Vrf(_))) => None,
            _ => return None,
        };
        Some(RouterObject { vrf: vrf.map(Dev::vrf), routes: true })
    }

    pub(super) fn tunnel(&self, dev: &Dev, mac: Mac) -> Option<IpAddr> {
        if let Some(vni) = self.bridged(dev) {
            return match self.place(vni, mac)? {
                Place::Remote(vtep) => Some(vtep),
                Place::Local(_) => None,
            };
        }
        let Some(crate::dev::FabricRole::Transit(vni)) = dev.fabric_role() else { return None };
        let name = *self.by_l3.get(&vni)?;
        self.desired.fabric().hops().find(|(vrf, _, m)| *vrf == name && *m == mac).map(|(_, vtep, _)| vtep)
    }

    /// Where frames to a MAC go on a switch. A workload here beats one elsewhere.
    fn place(&self, vni: Vni, mac: Mac) -> Option<Place> {
        self.vlans.get(&vni)?;
        if let Some(local) = self.desired.fabric().locals().get(&(vni, mac)) {
            return Some(Place::Local(local.interface.clone()));
        }
        self.desired.remotes().get(&(vni, mac)).map(|remote| Place::Remote(remote.vtep))
    }

    pub(super) fn seat(&self, bridge: &Dev, vlan: Option<VlanId>, mac: Mac) -> Option<Seat> {
        let Some(vlan) = vlan else {
            let Some(crate::dev::FabricRole::Router(vni)) = bridge.fabric_role() else { return None };
            self.tunnel(&Dev::transit(vni), mac)?;
            return Some(Seat { port: Dev::transit(vni), kind: FdbKind::Extern, sticky: false });
        };
        let vni = *self.by_vlan.get(&vlan)?;
        // What goes to the gateway is for this node and goes nowhere else.
        if self.desired.networks().get(&vni)?.gateway_mac == Some(mac) {
            return Some(Seat { port: Dev::switch(), kind: FdbKind::Local, sticky: false });
        }
        if !self.sets_entries() {
            return None;
        }
        Some(match self.place(vni, mac)? {
            Place::Local(port) => Seat { port, kind: FdbKind::Static, sticky: true },
            Place::Remote(_) => Seat { port: Dev::vxlan(vni), kind: FdbKind::Extern, sticky: false },
        })
    }

    pub(super) fn neighbour(&self, dev: &Dev, ip: IpAddr) -> Option<Mac> {
        use crate::dev::FabricRole;
        match dev.fabric_role()? {
            FabricRole::Svi(vni) => {
                self.vlans.get(&vni)?;
                self.desired.fabric().neighbour(vni, ip).or_else(|| self.desired.neighbour(vni, ip))
            }
            FabricRole::Router(vni) => {
                let name = *self.by_l3.get(&vni)?;
                let plain = match ip {
                    IpAddr::V6(v6) => v6.to_ipv4_mapped().map_or(ip, IpAddr::V4),
                    IpAddr::V4(_) => ip,
                };
                self.desired.fabric().router_mac(name, plain)
            }
            _ => None,
        }
    }

    pub(super) fn route(&self, table: u32, prefix: Prefix) -> Option<BTreeSet<Way>> {
        let name = *self.by_table.get(&table)?;
        let l3 = self.desired.fabric().vrfs().get(name)?.l3;
        let l3 = l3.filter(|l3| self.by_l3.get(&l3.vni) == Some(&name));
        let hops = self.desired.fabric().routes().get(&(name.clone(), prefix))?;
        let family = |vtep: IpAddr| match prefix.is_ipv4() {
            true => vtep,
            false => IpAddr::V6(mapped(vtep)),
        };
        let vteps = hops.vteps.keys().filter_map(|&vtep| Some((Dev::router(l3?.vni), Some(family(vtep)))));
        let leaks = hops.vrfs.iter().filter_map(|vrf| Some((Dev::vrf(self.table_of(vrf)?), None)));
        Some(vteps.chain(leaks).collect()).filter(|ways: &BTreeSet<Way>| !ways.is_empty())
    }
}
