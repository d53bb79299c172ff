//! Messages of a host behind switches, and how what the kernel says is read.

use std::net::IpAddr;
use std::os::fd::RawFd;

use causeway_proto::Mac;
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressHeaderFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecBridge, BridgeFlag, BridgeStpState, BridgeVlanInfo, BridgeVlanInfoFlags, InfoBridge, InfoData,
    InfoIpVlan, InfoKind, InfoMacVlan, InfoVeth, InfoVlan, IpVlanMode, LinkAttribute, LinkExtentMask,
    LinkInfo, LinkMessage, MacVlanMode,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::message::Request;
use crate::dev::{Dev, LINK_GROUP, PROTOCOL};
use crate::lan::seen::is_link_local;
use crate::model::{Child, IfAddr, MacvlanMode};

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;

fn link(name: &Dev, mtu: u32, more: Vec<LinkAttribute>) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(name.to_string()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Group(LINK_GROUP),
    ];
    message.attributes.extend(more);
    (RouteNetlinkMessage::NewLink(message), NEW)
}

fn info(kind: InfoKind, data: InfoData) -> LinkAttribute {
    LinkAttribute::LinkInfo(vec![LinkInfo::Kind(kind), LinkInfo::Data(data)])
}

fn mac_attribute(mac: Mac) -> LinkAttribute {
    LinkAttribute::Address(mac.octets().to_vec())
}

/// A bridge, down. A VLAN-aware one lets nothing pass before it is told to.
pub(crate) fn add_bridge(name: &Dev, mac: Mac, mtu: u32, aware: bool) -> Request {
    // Without a querier snooping only delays or loses ND.
    let mut data = vec![InfoBridge::MulticastSnooping(false), InfoBridge::StpState(BridgeStpState::Disabled)];
    if aware {
        data.extend([InfoBridge::VlanFiltering(true), InfoBridge::VlanDefaultPvid(0)]);
    }
    link(name, mtu, vec![mac_attribute(mac), info(InfoKind::Bridge, InfoData::Bridge(data))])
}

/// A VLAN of a link, down.
pub(crate) fn add_vlan(name: &Dev, parent: u32, id: u16, mtu: u32) -> Request {
    let data = InfoData::Vlan(vec![InfoVlan::Id(id)]);
    link(name, mtu, vec![LinkAttribute::Link(parent), info(InfoKind::Vlan, data)])
}

fn macvlan(mode: MacvlanMode) -> LinkAttribute {
    let mode = match mode {
        MacvlanMode::Bridge => MacVlanMode::Bridge,
        MacvlanMode::Private => MacVlanMode::Private,
        MacvlanMode::Vepa => MacVlanMode::Vepa,
        MacvlanMode::Passthru => MacVlanMode::Passthrough,
    };
    info(InfoKind::MacVlan, InfoData::MacVlan(vec![InfoMacVlan::Mode(mode)]))
}

/// A macvlan in bridge mode in the host, down.
pub(crate) fn add_shim(name: &Dev, parent: u32, mac: Mac, mtu: u32) -> Request {
    link(name, mtu, vec![LinkAttribute::Link(parent), mac_attribute(mac), macvlan(MacvlanMode::Bridge)])
}

/// A macvlan or ipvlan, made in the namespace `netns`, down.
pub(crate) fn add_child(name: &Dev, parent: u32, child: Child, mac: Mac, mtu: u32, netns: RawFd) -> Request {
    let mut more = vec![LinkAttribute::Link(parent), LinkAttribute::NetNsFd(netns)];
    match child {
        Child::Macvlan(mode) => more.extend([mac_attribute(mac), macvlan(mode)]),
        Child::Ipvlan => {
            let data = InfoData::IpVlan(vec![InfoIpVlan::Mode(IpVlanMode::L2)]);
            more.push(info(InfoKind::IpVlan, data));
        }
    }
    link(name, mtu, more)
}

/// A pair, its other end in the namespace `netns`; both down.
pub(crate) fn add_veth(
    host: &Dev,
    bridge: Option<u32>,
    inside: &Dev,
    mac: Mac,
    mtu: u32,
    netns: RawFd,
) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(inside.to_string()),
        mac_attribute(mac),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Group(LINK_GROUP),
        LinkAttribute::NetNsFd(netns),
    ];
    let mut more: Vec<LinkAttribute> = bridge.map(LinkAttribute::Controller).into_iter().collect();
    more.push(info(InfoKind::Veth, InfoData::Veth(InfoVeth::Peer(peer))));
    link(host, mtu, more)
}

/// Takes a link out of its bridge.
pub(crate) fn release(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::Controller(0)];
    (RouteNetlinkMessage::NewLink(message), 0)
}

/// Calls a link, which must be down, by another name.
pub(crate) fn rename(index: u32, name: &Dev) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::IfName(name.to_string())];
    (RouteNetlinkMessage::NewLink(message), 0)
}

/// Sets an alias; an empty one is none.
pub(crate) fn set_alias(index: u32, alias: &str) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::IfAlias(alias.to_owned())];
    (RouteNetlinkMessage::NewLink(message), 0)
}

fn vlan_of_port(index: u32, id: u16, flags: BridgeVlanInfoFlags, itself: bool) -> LinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.header.index = index;
    let whose = if itself { BridgeFlag::LowerDev } else { BridgeFlag::Controller };
    message.attributes = vec![LinkAttribute::AfSpecBridge(vec![
        AfSpecBridge::Flags(whose),
        AfSpecBridge::VlanInfo(BridgeVlanInfo { flags, vid: id }),
    ])];
    message
}

/// Lets a VLAN pass a port of a VLAN-aware bridge, or reach the bridge itself.
pub(crate) fn add_port_vlan(index: u32, id: u16, untagged: bool, itself: bool) -> Request {
    let flags = match untagged {
        true => BridgeVlanInfoFlags::Pvid | BridgeVlanInfoFlags::Untagged,
        false => BridgeVlanInfoFlags::empty(),
    };
    (RouteNetlinkMessage::SetLink(vlan_of_port(index, id, flags, itself)), 0)
}

/// Lets it pass no longer.
pub(crate) fn del_port_vlan(index: u32, id: u16, itself: bool) -> Request {
    (RouteNetlinkMessage::DelLink(vlan_of_port(index, id, BridgeVlanInfoFlags::empty(), itself)), 0)
}

/// VLANs of all bridge ports.
pub(crate) fn get_port_vlans() -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.header.interface_family = AddressFamily::Bridge;
    message.attributes = vec![LinkAttribute::ExtMask(vec![LinkExtentMask::Brvlan])];
    RouteNetlinkMessage::GetLink(message)
}

/// Index, and VLANs with whether they are untagged.
pub(crate) fn port_vlans(message: &LinkMessage) -> (u32, Vec<(u16, bool)>) {
    let specs = message.attributes.iter().filter_map(|a| match a {
        LinkAttribute::AfSpecBridge(specs) => Some(specs),
        _ => None,
    });
    let vlans = specs.flatten().filter_map(|spec| match spec {
        AfSpecBridge::VlanInfo(v) => Some((v.vid, v.flags.contains(BridgeVlanInfoFlags::Untagged))),
        _ => None,
    });
    (message.header.index, vlans.collect())
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// A link-local address of ours.
pub(crate) fn add_address(index: u32, wanted: IfAddr) -> Request {
    let mut message = AddressMessage::default();
    message.header.family = family(wanted.ip);
    message.header.prefix_len = wanted.length;
    message.header.index = index;
    message.header.scope = AddressScope::Link;
    message.attributes = vec![
        AddressAttribute::Local(wanted.ip),
        AddressAttribute::Address(wanted.ip),
        AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)),
    ];
    if wanted.ip.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    (RouteNetlinkMessage::NewAddress(message), NEW)
}

/// True if the address was given for a time and did not come from a person. A link-local one is the kernel's.
pub(crate) fn is_leased(message: &AddressMessage) -> bool {
    let mut permanent = message.header.flags.contains(AddressHeaderFlags::Permanent);
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Flags(flags) => permanent |= flags.contains(AddressFlags::Permanent),
            AddressAttribute::Address(ip) if is_link_local(*ip) => return false,
            _ => {}
        }
    }
    !permanent
}

fn route(to: IfAddr, dev: u32, source: Option<IpAddr>) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(to.ip);
    message.header.destination_prefix_length = to.length;
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.scope = if to.ip.is_ipv4() { RouteScope::Link } else { RouteScope::Universe };
    message.header.kind = RouteType::Unicast;
    message.attributes =
        vec![RouteAttribute::Destination(RouteAddress::from(to.ip)), RouteAttribute::Oif(dev)];
    message.attributes.extend(source.map(|ip| RouteAttribute::PrefSource(RouteAddress::from(ip))));
    message
}

/// A route of ours to a workload on a link.
pub(crate) fn set_route(to: IfAddr, dev: u32, source: Option<IpAddr>) -> Request {
    (RouteNetlinkMessage::NewRoute(route(to, dev, source)), SET)
}

/// Deletes it.
pub(crate) fn del_route(to: IfAddr, dev: u32) -> Request {
    (RouteNetlinkMessage::DelRoute(route(to, dev, None)), 0)
}

fn address(value: &RouteAddress) -> Option<IpAddr> {
    match value {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// A route without next hop of the main table: where to, through which link, and source.
pub(crate) fn device_route(message: &RouteMessage) -> Option<(IfAddr, u32, Option<IpAddr>)> {
    let (mut to, mut dev, mut source) = (None, None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Destination(value) => to = address(value),
            RouteAttribute::Oif(index) => dev = Some(*index),
            RouteAttribute::PrefSource(value) => source = address(value),
            RouteAttribute::Gateway(_) => return None,
            _ => {}
        }
    }
    let main = message.header.table == RouteHeader::RT_TABLE_MAIN;
    let to = IfAddr { ip: to?, length: message.header.destination_prefix_length };
    main.then_some((to, dev?, source))
}

/// Link of a route.
pub(crate) fn route_dev(message: &RouteMessage) -> Option<u32> {
    message
        .attributes
        .iter()
        .find_map(|a| if let RouteAttribute::Oif(index) = a { Some(*index) } else { None })
}

fn neighbour(index: u32, ip: IpAddr) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = index;
    message.attributes = vec![
        NeighbourAttribute::Destination(ip.into()),
        NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    message
}

/// A neighbour that is never asked for.
pub(crate) fn set_neighbour(index: u32, ip: IpAddr, mac: Mac) -> Request {
    let mut message = neighbour(index, ip);
    message.header.state = NeighbourState::Permanent;
    message.attributes.push(NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()));
    (RouteNetlinkMessage::NewNeighbour(message), SET)
}

/// Answers for an address that is elsewhere.
pub(crate) fn set_proxy(index: u32, ip: IpAddr) -> Request {
    let mut message = neighbour(index, ip);
    message.header.flags = NeighbourFlags::Proxy;
    message.header.state = NeighbourState::Permanent;
    (RouteNetlinkMessage::NewNeighbour(message), SET)
}

/// Answers no longer.
pub(crate) fn del_proxy(index: u32, ip: IpAddr) -> Request {
    let mut message = neighbour(index, ip);
    message.header.flags = NeighbourFlags::Proxy;
    message.attributes.retain(|a| matches!(a, NeighbourAttribute::Destination(_)));
    (RouteNetlinkMessage::DelNeighbour(message), 0)
}

/// Addresses that are answered for.
pub(crate) fn get_proxies(of: AddressFamily) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = of;
    message.header.flags = NeighbourFlags::Proxy;
    RouteNetlinkMessage::GetNeighbour(message)
}

/// A proxy entry of ours: link and address.
pub(crate) fn proxy(message: &NeighbourMessage) -> Option<(u32, IpAddr)> {
    let (mut ip, mut ours) = (None, false);
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => ip = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => ip = Some((*v6).into()),
            NeighbourAttribute::Protocol(protocol) => ours = *protocol == RouteProtocol::Other(PROTOCOL),
            _ => {}
        }
    }
    let proxy = message.header.flags.contains(NeighbourFlags::Proxy);
    (proxy && ours).then_some((message.header.ifindex, ip?))
}

fn own_mac(bridge: u32, mac: Mac) -> NeighbourMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = AddressFamily::Bridge;
    message.header.ifindex = bridge;
    message.header.flags = NeighbourFlags::Own;
    message.attributes = vec![NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec())];
    message
}

/// Frames to this MAC are for the bridge as an interface.
pub(crate) fn set_own_mac(bridge: u32, mac: Mac) -> Request {
    let mut message = own_mac(bridge, mac);
    message.header.state = NeighbourState::Permanent;
    (RouteNetlinkMessage::NewNeighbour(message), SET)
}

/// No longer.
pub(crate) fn del_own_mac(bridge: u32, mac: Mac) -> Request {
    (RouteNetlinkMessage::DelNeighbour(own_mac(bridge, mac)), 0)
}
