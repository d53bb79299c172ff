//! Reading a host behind switches back.

use std::collections::{BTreeMap, BTreeSet};

use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::table;
use crate::dev::{Dev, PROTOCOL, Role};
use crate::kernel::Kernel;
use crate::lan::seen::{HostAddr, Kind, Route, Seen, SeenLink, Switch};
use crate::model::Desired;
use crate::netlink::fabric;
use crate::netlink::lan as message;
use crate::netlink::message::{get_addresses, get_neighbours, get_routes};
use crate::netlink::socket::Connection;
use crate::netlink::{NetlinkError, parse};
use crate::netns::{Netns, NetnsError};
use crate::observed::{FdbKind, HostSide, Inside, Observed};
use crate::op::At;

/// One file below /proc/sys.
fn setting(name: &str) -> Option<String> {
    std::fs::read_to_string(format!("/proc/sys/{name}")).ok().map(|text| text.trim().to_owned())
}

fn seen_link(raw: &parse::RawLink, names: &BTreeMap<u32, Dev>) -> SeenLink {
    let name_of = |index: u32| names.get(&index).cloned().unwrap_or_else(|| Dev::new(&format!("#{index}")));
    let parent = raw.peer.and_then(|index| names.get(&index).cloned());
    let kind = match raw.kind {
        parse::Kind::Bridge => Kind::Bridge { aware: raw.aware },
        parse::Kind::Vlan => Kind::Vlan { id: raw.vlan, parent },
        parse::Kind::Child(child) => Kind::Child { child, parent },
        parse::Kind::Vxlan => Kind::Vxlan,
        parse::Kind::Veth => Kind::Veth,
        parse::Kind::Tap => Kind::Tap,
        parse::Kind::Ifb | parse::Kind::Other => Kind::Other,
    };
    let mut link = raw.link.clone();
    link.master = raw.master.map(name_of);
    let (mac, carrier, accept_ra, flags) = (raw.mac, raw.carrier, raw.accept_ra, raw.flags);
    SeenLink { kind, link, mac, carrier, accept_ra, flags }
}

impl Kernel {
    /// Reads the host as a whole, without what is inside namespaces.
    pub(in crate::kernel) fn look_at_host(
        &mut self,
        desired: &Desired,
        observed: &mut Observed,
    ) -> Result<(), NetlinkError> {
        self.remember(desired);
        let links = self.dump_links()?;
        let names: BTreeMap<u32, Dev> = links.iter().map(|l| (l.index, l.name.clone())).collect();
        let replaced: Vec<Dev> = self
            .indexes
            .iter()
            .filter(|(dev, index)| names.get(index) != Some(dev))
            .map(|(d, _)| d.clone())
            .collect();
        for dev in replaced {
            observed.forget_lan_link(&dev);
            self.forget_index(&dev);
        }
        self.taps = desired.taps();
        let mut seen = Seen::default();
        for link in &links {
            self.learn_index(&link.name, link.index);
            seen.links.insert(link.name.clone(), seen_link(link, &names));
        }
        self.look_at_addresses(&names, &mut seen)?;
        self.look_at_rules(&mut seen)?;
        self.look_at_entries(&names, &mut seen)?;
        for (dev, link) in &seen.links {
            let ask: &[Switch] = match dev.role() {
                Some(Role::Port) if link.link.master.is_none() => &[Switch::ProxyArp],
                Some(Role::Shim(_)) => &[Switch::ArpIgnore],
                Some(Role::Vlan(_)) => &[Switch::NoIpv6, Switch::ProxyNd],
                Some(Role::Port) => &[],
                Some(Role::Bridge(_)) => &[Switch::ProxyNd, Switch::ArpNow, Switch::NdNow],
                _ => &[Switch::ProxyNd],
            };
            for switch in ask {
                let (name, value) = switch.setting(dev);
                // Where the kernel has no IPv6, nothing need be switched off.
                let absent = *switch == Switch::NoIpv6;
                if setting(&name).as_deref().map_or(absent, |found| found == value) {
                    seen.switches.insert((dev.clone(), *switch));
                }
            }
        }
        let is_on = |name| setting(name).is_some_and(|v| v != "0");
        seen.forwards = (is_on("net/ipv4/ip_forward"), is_on("net/ipv6/conf/all/forwarding"));
        seen.strays = self.find_strays(desired);
        seen.trial = self.moves.as_ref().and_then(|m| m.trial(desired.lan()));
        let hosted = seen.links.iter().filter(|(dev, link)| {
            dev.role() == Some(Role::Port) && link.is_ours()
                || self.taps.contains(*dev) && link.kind == Kind::Tap
        });
        let side = |link: &SeenLink| HostSide {
            link: link.link.clone(),
            flags: link.flags,
            tap: link.kind == Kind::Tap,
        };
        observed.ports = hosted.map(|(dev, link)| (dev.clone(), side(link))).collect();
        observed.lan = seen;
        Ok(())
    }

    fn look_at_addresses(&mut self, names: &BTreeMap<u32, Dev>, seen: &mut Seen) -> Result<(), NetlinkError> {
        for found in self.connection.dump(get_addresses())? {
            if let RouteNetlinkMessage::NewAddress(found) = found
                && let Some((index, address, ours)) = parse::address(&found)
                && let Some(dev) = names.get(&index)
            {
                let facts = HostAddr { ours, leased: message::is_leased(&found) };
                seen.addresses.entry(dev.clone()).or_default().insert(address, facts);
            }
        }
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for found in self.connection.dump(get_routes(family))? {
                let RouteNetlinkMessage::NewRoute(found) = found else { continue };
                seen.ways.extend(table::way(&found, names));
                if let Some((to, index, source)) = message::device_route(&found)
                    && let Some(dev) = names.get(&index)
                {
                    seen.routes.insert(Route { to, dev: dev.clone(), source });
                }
            }
        }
        let RouteNetlinkMessage::GetRoute(mut advertised) = get_routes(AddressFamily::Inet6) else {
            return Ok(());
        };
        advertised.header.protocol = RouteProtocol::Ra;
        for found in self.connection.dump(RouteNetlinkMessage::GetRoute(advertised))? {
            if let RouteNetlinkMessage::NewRoute(found) = found
                && let Some(dev) = message::route_dev(&found).and_then(|index| names.get(&index))
            {
                seen.advertised.insert(dev.clone());
            }
        }
        Ok(())
    }

    fn look_at_entries(&mut self, names: &BTreeMap<u32, Dev>, seen: &mut Seen) -> Result<(), NetlinkError> {
        let known = seen.links.keys().any(|d| matches!(d.role(), Some(Role::Shim(_) | Role::Bridge(_))));
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            for found in self.connection.dump(message::get_proxies(family))? {
                if let RouteNetlinkMessage::NewNeighbour(found) = found
                    && let Some((index, ip)) = message::proxy(&found)
                    && let Some(dev) = names.get(&index)
                {
                    seen.proxies.insert((dev.clone(), ip));
                }
            }
            let neighbours =
                if known { self.connection.dump(get_neighbours(family, 0))? } else { Vec::new() };
            for found in neighbours {
                if let RouteNetlinkMessage::NewNeighbour(found) = found
                    && let Some((index, ip, neighbour)) = parse::neighbour(&found)
                    && let (Some(dev), Some(mac)) = (names.get(&index), neighbour.mac)
                    && neighbour.protocol == PROTOCOL
                {
                    seen.neighbours.insert((dev.clone(), ip), mac);
                }
            }
        }
        let bridges = names.iter().filter(|(_, dev)| matches!(dev.role(), Some(Role::Bridge(_))));
        for (index, bridge) in bridges.filter(|_| !self.children.is_empty()) {
            for found in self.connection.dump(get_neighbours(AddressFamily::Bridge, *index))? {
                if let RouteNetlinkMessage::NewNeighbour(found) = found
                    && let Some(raw) = parse::fdb(&found)
                    && raw.index == *index
                    && raw.kind == FdbKind::Local
                    && !raw.own
                    && raw.mac.is_unicast()
                {
                    seen.own_macs.insert((bridge.clone(), raw.mac));
                }
            }
        }
        if seen.links.contains_key(&Dev::trunk()) {
            for found in self.connection.dump(message::get_port_vlans())? {
                if let RouteNetlinkMessage::NewLink(found) = found {
                    let (index, vlans) = message::port_vlans(&found);
                    if let Some(dev) = names.get(&index) {
                        seen.vlans.entry(dev.clone()).or_default().extend(vlans);
                    }
                }
            }
            for found in self.connection.dump(get_neighbours(AddressFamily::Bridge, 0))? {
                if let RouteNetlinkMessage::NewNeighbour(found) = found
                    && let Some((raw, Some(id))) = fabric::entry(&found)
                    && raw.bridge.and_then(|index| names.get(&index)) == Some(&Dev::trunk())
                    && let Some(dev) = names.get(&raw.index)
                    && is_set(raw.kind)
                {
                    let fixed = raw.kind == FdbKind::Static && raw.sticky;
                    seen.seats.insert((id.get(), raw.mac), (dev.clone(), fixed));
                }
            }
        }
        Ok(())
    }

    /// True for an event of a MAC that is, or was, fixed in the VLAN-aware bridge. What it learns is not looked at.
    pub(in crate::kernel) fn is_of_trunk(&self, message: &NeighbourMessage, observed: &Observed) -> bool {
        let Some(trunk) = self.indexes.get(&Dev::trunk()) else { return false };
        let Some((raw, Some(id))) = fabric::entry(message) else { return false };
        let known = observed.lan.seats.contains_key(&(id.get(), raw.mac));
        raw.bridge == Some(*trunk) && (known || is_set(raw.kind))
    }

    /// Remembers where a macvlan or ipvlan is: nothing in the host says so once its port is gone.
    pub(in crate::kernel) fn remember_child(&mut self, at: At) {
        self.children.insert(at);
    }

    /// Our macvlans and ipvlans in places where no port wants them.
    fn find_strays(&mut self, desired: &Desired) -> BTreeSet<At> {
        let wanted = |at: &At| {
            desired.port_at(&at.dev).is_some_and(|p| p.netns == at.netns && p.interface == at.interface)
        };
        let others: Vec<At> = self.children.iter().filter(|at| !wanted(at)).cloned().collect();
        let mut strays = BTreeSet::new();
        for at in others {
            let look = || -> Result<bool, NetlinkError> {
                let mut connection = Connection::open()?;
                let found = connection.get(crate::netlink::message::get_link(Some(&at.interface)))?;
                let Some(RouteNetlinkMessage::NewLink(found)) = found else { return Ok(false) };
                let ours = |l: &parse::RawLink| l.link.grouped && matches!(l.kind, parse::Kind::Child(_));
                Ok(parse::link(&found).is_some_and(|l| ours(&l)))
            };
            let there = Netns::open(&at.netns).and_then(|netns| netns.run(look));
            match there {
                Ok(Ok(true)) => _ = strays.insert(at),
                // Gone, or never there.
                Ok(Ok(false)) | Err(NetnsError::NotFound(_)) => _ = self.children.remove(&at),
                Ok(Err(_)) | Err(_) => {}
            }
        }
        strays
    }

    /// True if `inside` hangs on a link of the host by a child, whose place is then remembered.
    pub(in crate::kernel) fn note_child(&mut self, at: &At, inside: &Inside) {
        if matches!(inside, Inside::Present(peer) if peer.child.is_some()) {
            self.remember_child(at.clone());
        }
    }
}

/// True for an entry that somebody has written: neither learned, nor of an interface itself.
fn is_set(kind: FdbKind) -> bool {
    matches!(kind, FdbKind::Static | FdbKind::Extern)
}
