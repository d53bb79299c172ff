//! Reading back and programming a host behind switches.

use std::collections::{BTreeMap, BTreeSet};
use std::io;
use std::os::fd::AsRawFd;

use causeway_proto::VlanId;
use netlink_packet_route::neighbour::NeighbourMessage;
use netlink_packet_route::route::RouteProtocol;
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::{Kernel, OpError};
use crate::announce;
use crate::dev::{Dev, PROTOCOL, Role};
use crate::fabric::Seat;
use crate::lan::seen::{HostAddr, Kind, Route, Seen, SeenLink, Switch};
use crate::lan::step::{LanOp, Step};
use crate::model::{Desired, NetnsRef};
use crate::netlink::fabric;
use crate::netlink::lan as message;
use crate::netlink::message::{
    del_link, del_neighbour, get_addresses, get_neighbours, get_routes, set_flags, set_link,
};
use crate::netlink::socket::Connection;
use crate::netlink::{NetlinkError, parse};
use crate::netns::{Netns, NetnsError};
use crate::observed::{FdbKind, HostSide, Inside, Observed};
use crate::op::{At, Op};

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
    pub(super) fn look_at_host(
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
        self.look_at_entries(&names, &mut seen)?;
        for (dev, link) in &seen.links {
            let ask: &[Switch] = match dev.role() {
                Some(Role::Port) if link.link.master.is_none() => &[Switch::ProxyArp],
                Some(Role::Shim(_)) => &[Switch::ArpIgnore],
                Some(Role::Vlan(_)) => &[Switch::NoRouter],
                Some(Role::Port) => &[],
                _ => &[Switch::ProxyNd],
            };
            for switch in ask {
                let (name, value) = switch.setting(dev);
                // Without IPv6 there is nothing that could be a router.
                let absent = *switch == Switch::NoRouter;
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
                if let RouteNetlinkMessage::NewRoute(found) = found
                    && let Some((to, index, source)) = message::device_route(&found)
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
        let shims = seen.links.keys().any(|d| matches!(d.role(), Some(Role::Shim(_))));
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
                if shims { self.connection.dump(get_neighbours(family, 0))? } else { Vec::new() };
            for found in neighbours {
                if let RouteNetlinkMessage::NewNeighbour(found) = found
                    && let Some((index, ip, neighbour)) = parse::neighbour(&found)
                    && let (Some(dev), Some(mac)) = (names.get(&index), neighbour.mac)
                    && neighbour.protocol == PROTOCOL
                    && matches!(dev.role(), Some(Role::Shim(_)))
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
    pub(super) fn is_of_trunk(&self, message: &NeighbourMessage, observed: &Observed) -> bool {
        let Some(trunk) = self.indexes.get(&Dev::trunk()) else { return false };
        let Some((raw, Some(id))) = fabric::entry(message) else { return false };
        let known = observed.lan.seats.contains_key(&(id.get(), raw.mac));
        raw.bridge == Some(*trunk) && (known || is_set(raw.kind))
    }

    /// Remembers where a macvlan or ipvlan is: nothing in the host says so once its port is gone.
    pub(super) fn remember_child(&mut self, at: At) {
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
    pub(super) fn note_child(&mut self, at: &At, inside: &Inside) {
        if matches!(inside, Inside::Present(peer) if peer.child.is_some()) {
            self.remember_child(at.clone());
        }
    }

    pub(super) fn apply_lan(&mut self, op: &LanOp) -> Result<(), OpError> {
        match &op.step {
            Step::LinkDel { dev } => self.delete_link(dev),
            Step::BridgeAdd { dev, mac, mtu, aware } => {
                let made = self.add_link(dev, message::add_bridge(dev, *mac, *mtu, *aware));
                made.map_err(|e| {
                    without(e, "VLAN-aware bridges (CONFIG_BRIDGE_VLAN_FILTERING): use a bridge per network")
                })
            }
            Step::VlanAdd { dev, parent, id, mtu } => {
                let made = self
                    .index(parent)
                    .and_then(|parent| self.add_link(dev, message::add_vlan(dev, parent, *id, *mtu)));
                made.map_err(|e| without(e, "802.1Q (module 8021q): load it, or use an untagged network"))
            }
            Step::ShimAdd { dev, parent, mac, mtu } => {
                let parent = self.index(parent)?;
                self.add_link(dev, message::add_shim(dev, parent, *mac, *mtu))
            }
            Step::VethAdd { at, bridge, mac, mtu } => {
                let bridge = bridge.as_ref().map(|b| self.index(b)).transpose()?;
                let netns = self.foreign_netns(&at.netns)?;
                let request =
                    message::add_veth(&at.dev, bridge, &at.interface, *mac, *mtu, netns.fd().as_raw_fd());
                self.add_link(&at.dev, request)
            }
            Step::ChildAdd { at, parent, child, mac, mtu } => self.add_child(at, parent, *child, *mac, *mtu),
            Step::TapAdd { dev, mtu } => self.add_tap(dev, *mtu),
            Step::Move { uplink, bridge, back } => self.move_addresses(uplink, bridge, *back),
            Step::Announce { dev, mac, vlan, addresses, of } => {
                announce::start_on_host(dev, *mac, *vlan, addresses.clone(), Some(of.clone()))
            }
            step => self.apply_lan_entry(step),
        }
    }

    /// Makes the reconciler look at the host again, from any thread.
    pub(crate) fn wakes_host(&self) -> impl FnOnce() + Send + 'static {
        let stirred = std::sync::Arc::clone(&self.stirred);
        move || stirred.add(Dev::trunk())
    }

    pub(super) fn foreign_netns(&self, netns: &NetnsRef) -> Result<Netns, OpError> {
        let opened = Netns::open(netns)?;
        if opened.id() == self.own {
            return Err(NetnsError::Own(netns.clone()).into());
        }
        Ok(opened)
    }

    fn apply_lan_entry(&mut self, step: &Step) -> Result<(), OpError> {
        let deletes = matches!(
            step,
            Step::RouteDel { .. }
                | Step::NeighDel { .. }
                | Step::ProxyDel { .. }
                | Step::OwnMacDel { .. }
                | Step::VlanDel { .. }
                | Step::SeatDel { .. }
        );
        let (request, flags) = match step {
            Step::Set { dev, change } => return self.change_link(dev, change),
            Step::Release { dev } => message::release(self.index(dev)?),
            Step::Unmark { dev } => message::set_alias(self.index(dev)?, ""),
            Step::Flags { dev, flags } => set_flags(self.index(dev)?, flags),
            Step::Sysctl { dev, switch } => return write_setting(dev, *switch),
            Step::AddrAdd { dev, address } => message::add_address(self.index(dev)?, *address),
            Step::RouteSet { route } => message::set_route(route.to, self.index(&route.dev)?, route.source),
            Step::RouteDel { route } => message::del_route(route.to, self.index(&route.dev)?),
            Step::NeighSet { dev, ip, mac } => message::set_neighbour(self.index(dev)?, *ip, *mac),
            Step::NeighDel { dev, ip } => del_neighbour(self.index(dev)?, *ip),
            Step::ProxyAdd { dev, ip } => message::set_proxy(self.index(dev)?, *ip),
            Step::ProxyDel { dev, ip } => message::del_proxy(self.index(dev)?, *ip),
            Step::OwnMac { dev, mac } => message::set_own_mac(self.index(dev)?, *mac),
            Step::OwnMacDel { dev, mac } => message::del_own_mac(self.index(dev)?, *mac),
            Step::VlanSet { dev, id, untagged, itself } => {
                message::add_port_vlan(self.index(dev)?, *id, *untagged, *itself)
            }
            Step::VlanDel { dev, id, itself } => message::del_port_vlan(self.index(dev)?, *id, *itself),
            Step::SeatSet { dev, id, mac } => {
                let seat = Seat { port: dev.clone(), kind: FdbKind::Static, sticky: true };
                fabric::set_seat(self.index(dev)?, false, vlan(*id), *mac, &seat)
            }
            Step::SeatDel { dev, id, mac } => fabric::del_seat(self.index(dev)?, false, vlan(*id), *mac),
            other => return Err(OpError::Conflict(format!("not a step for the host: {other:?}"))),
        };
        match self.connection.request(request, flags) {
            Err(error) if deletes && error.is_missing() => Ok(()),
            Err(error) if matches!(step, Step::AddrAdd { .. }) && error.is_existing() => Ok(()),
            result => Ok(result?),
        }
    }

    fn add_tap(&mut self, dev: &Dev, mtu: u32) -> Result<(), OpError> {
        crate::tap::make(dev).map_err(|source| OpError::Tap { dev: dev.clone(), source })?;
        let Some(link) = self.get_link(dev)? else { return Err(OpError::NoDevice(dev.clone())) };
        self.learn_index(dev, link.index);
        let change = crate::op::LinkChange { mtu: Some(mtu), group: true, ..Default::default() };
        let (request, flags) = set_link(link.index, &change, None);
        Ok(self.connection.request(request, flags)?)
    }
}

fn vlan(id: u16) -> Option<VlanId> {
    VlanId::try_from(u32::from(id)).ok()
}

/// True for an entry that somebody has written: neither learned, nor of an interface itself.
fn is_set(kind: FdbKind) -> bool {
    matches!(kind, FdbKind::Static | FdbKind::Extern)
}

/// What the kernel says when it lacks a feature, in words.
pub(super) fn without(error: OpError, feature: &str) -> OpError {
    match error.errno() {
        Some(libc::EOPNOTSUPP) => OpError::Conflict(format!("this kernel has no {feature}")),
        _ => error,
    }
}

/// What it says of a parent that cannot have children.
pub(super) fn busy(error: OpError, parent: &Dev) -> OpError {
    let why = match error.errno() {
        Some(libc::EBUSY) => "is a port of a bridge, or has children of another kind",
        Some(libc::EINVAL) => "has a passthru macvlan, which shares it with nobody",
        Some(libc::EADDRINUSE) => "has a macvlan with the same MAC already",
        _ => return error,
    };
    OpError::Conflict(format!("{parent} {why} ({error})"))
}

/// Without IPv6 there is no such file, and nothing to set.
fn write_setting(dev: &Dev, switch: Switch) -> Result<(), OpError> {
    let (name, value) = switch.setting(dev);
    match std::fs::write(format!("/proc/sys/{name}"), value) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OpError::Sysctl { name, source }),
        _ => Ok(()),
    }
}

/// A step inside a workload's namespace, on the interface with this index.
pub(super) fn apply_inside(connection: &mut Connection, index: u32, op: &LanOp) -> Result<(), OpError> {
    let (request, flags) = match &op.step {
        Step::ChildDel { .. } => del_link(index),
        Step::ChildAlias { alias, .. } => message::set_alias(index, alias),
        Step::PeerNeighSet { ip, mac, .. } => message::set_neighbour(index, *ip, *mac),
        Step::PeerNeighDel { ip, .. } => del_neighbour(index, *ip),
        other => return Err(OpError::Conflict(format!("not a step for a namespace: {other:?}"))),
    };
    let deletes = matches!(op.step, Step::ChildDel { .. } | Step::PeerNeighDel { .. });
    match connection.request(request, flags) {
        Err(error) if deletes && error.is_missing() => Ok(()),
        result => Ok(result?),
    }
}

/// True if nothing is left to do when the interface inside is gone.
pub(super) fn ends_with_interface(op: &Op) -> bool {
    matches!(op, Op::Lan(LanOp { step: Step::ChildDel { .. }, .. }))
}
