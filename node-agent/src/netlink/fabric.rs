//! Switching and routing as rtnetlink messages, and back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_proto::{Mac, Prefix, VlanId, Vni};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::{
    AfSpecBridge, AfSpecInet, AfSpecUnspec, BridgeFlag, BridgeStpState, BridgeVlanInfo, BridgeVlanInfoFlags,
    InfoBridge, InfoData, InfoKind, InfoVlan, InfoVrf, InfoVxlan, LinkAttribute, LinkExtentMask, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::message::{Request, add_address};
use super::parse::{self, Kind, RawFdb, RawLink};
use crate::dev::{Dev, LINK_GROUP, PROTOCOL};
use crate::fabric::{LinkKind, METRIC, Seat};
use crate::model::IfAddr;
use crate::observed::FdbKind;

const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;

/// A device, down. `parent`: index of the bridge that a VLAN is of.
pub(crate) fn make(
    dev: &Dev,
    kind: &LinkKind,
    mac: Option<Mac>,
    mtu: Option<u32>,
    parent: Option<u32>,
) -> Request {
    let (name, data) = match kind {
        LinkKind::Switch => {
            let data = vec![
                InfoBridge::VlanFiltering(true),
                InfoBridge::VlanDefaultPvid(0),
                InfoBridge::StpState(BridgeStpState::Disabled),
                InfoBridge::MulticastSnooping(false),
            ];
            (InfoKind::Bridge, Some(InfoData::Bridge(data)))
        }
        LinkKind::Bridge => {
            (InfoKind::Bridge, Some(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)])))
        }
        LinkKind::Vxlan { vni, local, port, learning } => {
            let mut data =
                vec![InfoVxlan::Id(vni.get()), InfoVxlan::Port(*port), InfoVxlan::Learning(*learning)];
            data.extend(local.map(|local| match local {
                IpAddr::V4(v4) => InfoVxlan::Local(v4),
                IpAddr::V6(v6) => InfoVxlan::Local6(v6),
            }));
            (InfoKind::Vxlan, Some(InfoData::Vxlan(data)))
        }
        LinkKind::Vlan(vlan) => (InfoKind::Vlan, Some(InfoData::Vlan(vec![InfoVlan::Id(vlan.get())]))),
        LinkKind::Vrf(table) => (InfoKind::Vrf, Some(InfoData::Vrf(vec![InfoVrf::TableId(*table)]))),
        LinkKind::Other => (InfoKind::Dummy, None),
    };
    let info = std::iter::once(LinkInfo::Kind(name)).chain(data.map(LinkInfo::Data)).collect();
    let attributes = [
        Some(LinkAttribute::IfName(dev.to_string())),
        parent.map(LinkAttribute::Link),
        mac.map(|mac| LinkAttribute::Address(mac.octets().to_vec())),
        mtu.map(LinkAttribute::Mtu),
        Some(LinkAttribute::Group(LINK_GROUP)),
        Some(LinkAttribute::LinkInfo(info)),
    ];
    let mut message = LinkMessage::default();
    message.attributes = attributes.into_iter().flatten().collect();
    (RouteNetlinkMessage::NewLink(message), NLM_F_CREATE | NLM_F_EXCL)
}

/// Puts a device into a bridge or VRF; 0: takes it out.
pub(crate) fn set_master(index: u32, master: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::Controller(master)];
    (RouteNetlinkMessage::NewLink(message), 0)
}

fn vlan(index: u32, of_bridge: bool, vlan: VlanId, flags: BridgeVlanInfoFlags) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    let whose = if of_bridge { BridgeFlag::LowerDev } else { BridgeFlag::Controller };
    let info = BridgeVlanInfo { flags, vid: vlan.get() };
    message.attributes =
        vec![LinkAttribute::AfSpecBridge(vec![AfSpecBridge::Flags(whose), AfSpecBridge::VlanInfo(info)])];
    message
}

/// Gives a bridge port, or the bridge itself, a VLAN.
pub(crate) fn set_vlan(index: u32, of_bridge: bool, id: VlanId, pvid: bool, untagged: bool) -> Request {
    let mut flags = BridgeVlanInfoFlags::empty();
    flags.set(BridgeVlanInfoFlags::Pvid, pvid);
    flags.set(BridgeVlanInfoFlags::Untagged, untagged);
    (RouteNetlinkMessage::SetLink(vlan(index, of_bridge, id, flags)), 0)
}

/// Takes a VLAN from a bridge port or the bridge itself.
pub(crate) fn del_vlan(index: u32, of_bridge: bool, id: VlanId) -> Request {
    (RouteNetlinkMessage::DelLink(vlan(index, of_bridge, id, BridgeVlanInfoFlags::empty())), 0)
}

/// All VLANs of all bridge ports.
pub(crate) fn get_vlans() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan])];
    RouteNetlinkMessage::GetLink(message)
}

/// VLANs of a bridge port: id, for untagged frames in, untagged out.
pub(crate) fn vlans(message: &LinkMessage) -> Vec<(VlanId, bool, bool)> {
    let specs = message.attributes.iter().filter_map(|a| match a {
        LinkAttribute::AfSpecBridge(specs) => Some(specs),
        _ => None,
    });
    let mut found = Vec::new();
    let mut first = None;
    for spec in specs.flatten() {
        let AfSpecBridge::VlanInfo(info) = spec else { continue };
        if info.flags.contains(BridgeVlanInfoFlags::RangeBegin) {
            first = Some(info.vid);
            continue;
        }
        let pvid = info.flags.contains(BridgeVlanInfoFlags::Pvid);
        let untagged = info.flags.contains(BridgeVlanInfoFlags::Untagged);
        for vid in first.take().unwrap_or(info.vid)..=info.vid {
            found.extend(VlanId::try_from(u32::from(vid)).ok().map(|vid| (vid, pvid, untagged)));
        }
    }
    found
}

/// An address, also if it is there. Ours, and without duplicate detection: it is the same on every gateway.
pub(crate) fn set_address(index: u32, address: IfAddr) -> Request {
    let (message, _) = add_address(index, address);
    (message, SET)
}

fn fdb(index: u32, mac: Mac, state: NeighbourState, flags: NeighbourFlags) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = index;
    message.header.state = state;
    message.header.flags = flags;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec())];
    message
}

/// The VTEP of a MAC in a VXLAN device; does not age.
pub(crate) fn set_tunnel(index: u32, mac: Mac, vtep: IpAddr) -> Request {
    let flags = NeighbourFlags::Own | NeighbourFlags::ExtLearned;
    let mut message = fdb(index, mac, NeighbourState::Reachable, flags);
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(vtep)));
    (RouteNetlinkMessage::NewNeighbour(message), SET)
}

fn seat_flags(of_bridge: bool) -> NeighbourFlags {
    if of_bridge { NeighbourFlags::Own } else { NeighbourFlags::Controller }
}

/// The port of a MAC in a bridge. `index`: the port, or the bridge for a MAC of its own.
pub(crate) fn set_seat(index: u32, of_bridge: bool, vlan: Option<VlanId>, mac: Mac, seat: &Seat) -> Request {
    let mut flags = seat_flags(of_bridge);
    flags.set(NeighbourFlags::Sticky, seat.sticky);
    flags.set(NeighbourFlags::ExtLearned, seat.kind == FdbKind::Extern);
    let state = match seat.kind {
        FdbKind::Local => NeighbourState::Permanent,
        FdbKind::Static => NeighbourState::Noarp,
        FdbKind::Extern | FdbKind::Dynamic => NeighbourState::Reachable,
    };
    let mut message = fdb(index, mac, state, flags);
    message.attributes.extend(vlan.map(|vlan| NeighbourAttribute::Vlan(vlan.get())));
    (RouteNetlinkMessage::NewNeighbour(message), SET)
}

/// Deletes it.
pub(crate) fn del_seat(index: u32, of_bridge: bool, vlan: Option<VlanId>, mac: Mac) -> Request {
    let mut message = fdb(index, mac, NeighbourState::None, seat_flags(of_bridge));
    message.attributes.extend(vlan.map(|vlan| NeighbourAttribute::Vlan(vlan.get())));
    (RouteNetlinkMessage::DelNeighbour(message), 0)
}

fn family(ipv4: bool) -> AddressFamily {
    if ipv4 { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

fn route_to(ipv4: bool, table: u32, metric: u32) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(ipv4);
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.attributes = vec![RouteAttribute::Table(table), RouteAttribute::Priority(metric)];
    message
}

/// The gateway of a route of the other family needs an attribute of its own.
fn via(ipv4: bool, gateway: IpAddr) -> RouteAttribute {
    match gateway {
        IpAddr::V6(v6) if ipv4 => RouteAttribute::Via(RouteVia::Inet6(v6)),
        gateway => RouteAttribute::Gateway(RouteAddress::from(gateway)),
    }
}

/// A route with equal ways (index of the device, gateway).
pub(crate) fn set_route(table: u32, prefix: Prefix, ways: &[(u32, Option<IpAddr>)]) -> Request {
    let mut message = route(table, prefix);
    let ipv4 = prefix.is_ipv4();
    match ways {
        [(index, gateway)] => {
            if gateway.is_some() {
                message.header.flags = RouteFlags::Onlink;
            }
            message.attributes.extend(gateway.map(|gateway| via(ipv4, gateway)));
            message.attributes.push(RouteAttribute::Oif(*index));
        }
        ways => {
            let hop = |(index, gateway): &(u32, Option<IpAddr>)| {
                let mut hop = RouteNextHop::default();
                if gateway.is_some() {
                    hop.flags = RouteNextHopFlags::Onlink;
                }
                hop.interface_index = *index;
                hop.attributes.extend(gateway.map(|gateway| via(ipv4, gateway)));
                hop
            };
            message.attributes.push(RouteAttribute::MultiPath(ways.iter().map(hop).collect()));
        }
    }
    (RouteNetlinkMessage::NewRoute(message), SET)
}

fn route(table: u32, prefix: Prefix) -> RouteMessage {
    let mut message = route_to(prefix.is_ipv4(), table, METRIC);
    message.header.destination_prefix_length = prefix.length();
    message.attributes.push(RouteAttribute::Destination(RouteAddress::from(prefix.network())));
    message
}

/// Deletes our route.
pub(crate) fn del_route(table: u32, prefix: Prefix) -> Request {
    (RouteNetlinkMessage::DelRoute(route(table, prefix)), 0)
}

fn barrier(table: u32, ipv6: bool) -> RouteMessage {
    let mut message = route_to(!ipv6, table, crate::fabric::BARRIER);
    message.header.kind = RouteType::Unreachable;
    message
}

/// The end of a table.
pub(crate) fn set_barrier(table: u32, ipv6: bool) -> Request {
    (RouteNetlinkMessage::NewRoute(barrier(table, ipv6)), SET)
}

/// Deletes it.
pub(crate) fn del_barrier(table: u32, ipv6: bool) -> Request {
    (RouteNetlinkMessage::DelRoute(barrier(table, ipv6)), 0)
}

/// A route of ours as it was read.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum RawRoute {
    Barrier(u32, bool),
    Ways(u32, Prefix, BTreeSet<(u32, Option<IpAddr>)>),
}

/// `None` if it is not one of this kind.
pub(crate) fn read_route(message: &RouteMessage) -> Option<RawRoute> {
    let header = &message.header;
    if header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let ipv4 = header.address_family == AddressFamily::Inet;
    let unspecified: IpAddr = match ipv4 {
        true => std::net::Ipv4Addr::UNSPECIFIED.into(),
        false => std::net::Ipv6Addr::UNSPECIFIED.into(),
    };
    let (mut table, mut to, mut metric) = (u32::from(header.table), unspecified, 0);
    let (mut oif, mut gateway, mut ways) = (None, None, BTreeSet::new());
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(number) => table = *number,
            RouteAttribute::Priority(number) => metric = *number,
            RouteAttribute::Destination(RouteAddress::Inet(v4)) => to = (*v4).into(),
            RouteAttribute::Destination(RouteAddress::Inet6(v6)) => to = (*v6).into(),
            RouteAttribute::Oif(index) => oif = Some(*index),
            RouteAttribute::MultiPath(hops) => {
                let gateway = |hop: &RouteNextHop| hop.attributes.iter().find_map(read_gateway);
                ways.extend(hops.iter().map(|hop| (hop.interface_index, gateway(hop))));
            }
            other => gateway = gateway.or(read_gateway(other)),
        }
    }
    ways.extend(oif.map(|oif| (oif, gateway)));
    match (header.kind, metric) {
        (RouteType::Unreachable, crate::fabric::BARRIER) => Some(RawRoute::Barrier(table, !ipv4)),
        (RouteType::Unicast, METRIC) => {
            let prefix = Prefix::containing(to, header.destination_prefix_length)?;
            Some(RawRoute::Ways(table, prefix, ways))
        }
        _ => None,
    }
}

fn read_gateway(attribute: &RouteAttribute) -> Option<IpAddr> {
    match attribute {
        RouteAttribute::Gateway(RouteAddress::Inet(v4)) | RouteAttribute::Via(RouteVia::Inet(v4)) => {
            Some((*v4).into())
        }
        RouteAttribute::Gateway(RouteAddress::Inet6(v6)) | RouteAttribute::Via(RouteVia::Inet6(v6)) => {
            Some((*v6).into())
        }
        _ => None,
    }
}

/// A device with what only switching and routing care about.
#[derive(Debug)]
pub(crate) struct RawDevice {
    pub(crate) raw: RawLink,
    pub(crate) kind: LinkKind,
    /// Forwards, answers ARP only for its own addresses, has no reverse path filter.
    pub(crate) routes: bool,
}

pub(crate) fn device(message: &LinkMessage) -> Option<RawDevice> {
    let raw = parse::link(message)?;
    let mut kind = match raw.kind {
        Kind::Bridge => LinkKind::Bridge,
        Kind::Vxlan => match Vni::try_from(raw.vni) {
            Ok(vni) => LinkKind::Vxlan { vni, local: raw.local, port: raw.port, learning: raw.learning },
            Err(_) => LinkKind::Other,
        },
        _ => LinkKind::Other,
    };
    let mut routes = false;
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| device_info(&mut kind, info)),
            LinkAttribute::AfSpecUnspec(specs) => {
                let inet =
                    specs.iter().filter_map(|s| if let AfSpecUnspec::Inet(v) = s { Some(v) } else { None });
                for spec in inet.flatten() {
                    if let AfSpecInet::DevConf(conf) = spec {
                        routes = conf.forwarding != 0 && conf.rp_filter == 0 && conf.arp_ignore == 1;
                    }
                }
            }
            _ => {}
        }
    }
    Some(RawDevice { raw, kind, routes })
}

fn device_info(kind: &mut LinkKind, info: &LinkInfo) {
    match info {
        LinkInfo::Data(InfoData::Bridge(data)) => {
            let filters = data.contains(&InfoBridge::VlanFiltering(true));
            if filters && data.contains(&InfoBridge::VlanDefaultPvid(0)) {
                *kind = LinkKind::Switch;
            }
        }
        LinkInfo::Data(InfoData::Vlan(data)) => {
            for item in data {
                if let InfoVlan::Id(id) = item {
                    *kind = VlanId::try_from(u32::from(*id)).map_or(LinkKind::Other, LinkKind::Vlan);
                }
            }
        }
        LinkInfo::Data(InfoData::Vrf(data)) => {
            for item in data {
                if let InfoVrf::TableId(table) = item {
                    *kind = LinkKind::Vrf(*table);
                }
            }
        }
        _ => {}
    }
}

/// An FDB entry with its VLAN.
pub(crate) fn entry(message: &NeighbourMessage) -> Option<(RawFdb, Option<VlanId>)> {
    let mut plain = message.clone();
    let mut vlan = None;
    plain.attributes.retain(|attribute| match attribute {
        NeighbourAttribute::Vlan(id) => {
            vlan = VlanId::try_from(u32::from(*id)).ok();
            false
        }
        _ => true,
    });
    parse::fdb(&plain).map(|raw| (raw, vlan))
}

/// See [`RawFdb::is_echo`].
pub(crate) fn is_echo(message: &NeighbourMessage) -> bool {
    entry(message).is_some_and(|(raw, _)| raw.is_echo())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_route_is_read_back_as_it_was_written() {
        for (prefix, ways) in [
            ("10.1.0.0/16", vec!["192.0.2.2"]),
            ("0.0.0.0/0", vec!["192.0.2.2", "192.0.2.3"]),
            ("10.1.2.3/32", vec!["2001:db8::2"]),
            ("10.1.2.0/24", vec!["a VRF"]),
            ("fd00::/8", vec!["::ffff:192.0.2.2", "::ffff:192.0.2.3"]),
        ] {
            let prefix: Prefix = prefix.parse().unwrap();
            let ways: Vec<(u32, Option<IpAddr>)> = ways.iter().map(|w| (7, w.parse().ok())).collect();
            let (RouteNetlinkMessage::NewRoute(message), _) = set_route(1001, prefix, &ways) else {
                panic!()
            };
            let read = read_route(&message).unwrap();
            assert_eq!(read, RawRoute::Ways(1001, prefix, ways.into_iter().collect()));
        }
        let (RouteNetlinkMessage::NewRoute(message), _) = set_barrier(1001, true) else { panic!() };
        assert_eq!(read_route(&message), Some(RawRoute::Barrier(1001, true)));
    }

    #[test]
    fn vlan_ranges_are_spread() {
        let info = |vid, flags| AfSpecBridge::VlanInfo(BridgeVlanInfo { vid, flags });
        let mut message = LinkMessage::default();
        message.attributes = vec![LinkAttribute::AfSpecBridge(vec![
            info(1, BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged),
            info(10, BridgeVlanInfoFlags::RangeBegin),
            info(12, BridgeVlanInfoFlags::RangeEnd),
            info(4095, BridgeVlanInfoFlags::empty()),
        ])];
        let found: Vec<(u16, bool, bool)> =
            vlans(&message).into_iter().map(|(v, p, u)| (v.get(), p, u)).collect();
        assert_eq!(found, [(1, true, true), (10, false, false), (11, false, false), (12, false, false)]);
    }
}
