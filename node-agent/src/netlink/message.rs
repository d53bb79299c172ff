//! Steps as rtnetlink messages. FDB states are always explicit: the default, NUD_PERMANENT, means "for the host itself"
//! in a bridge, and such frames never leave it.

use std::net::IpAddr;
use std::os::fd::RawFd;

use causeway_proto::{Mac, Vni};
use netlink_packet_core::{NLM_F_APPEND, NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::address::{
    AddressAttribute, AddressFlags, AddressMessage, AddressProtocol, AddressScope,
};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData, InfoKind, InfoPortData,
    InfoPortKind, InfoVeth, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo, LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteHeader, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use crate::dev::{Dev, LINK_GROUP, PROTOCOL};
use crate::model::IfAddr;
use crate::op::{FlagChange, LinkChange};

/// A message and its flags.
pub(crate) type Request = (RouteNetlinkMessage, u16);

const NEW: u16 = NLM_F_CREATE | NLM_F_EXCL;
const SET: u16 = NLM_F_CREATE | NLM_F_REPLACE;

fn info(kind: InfoKind, data: Option<InfoData>) -> LinkAttribute {
    LinkAttribute::LinkInfo(std::iter::once(LinkInfo::Kind(kind)).chain(data.map(LinkInfo::Data)).collect())
}

fn mac_attribute(mac: Mac) -> LinkAttribute {
    LinkAttribute::Address(mac.octets().to_vec())
}

/// A bridge, down.
pub(crate) fn add_bridge(vni: Vni, mac: Mac, mtu: u32) -> Request {
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(Dev::bridge(vni).to_string()),
        mac_attribute(mac),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Group(LINK_GROUP),
        // Without a querier snooping only delays or loses ND over the tunnel.
        info(InfoKind::Bridge, Some(InfoData::Bridge(vec![InfoBridge::MulticastSnooping(false)]))),
    ];
    (RouteNetlinkMessage::NewLink(message), NEW)
}

/// A VXLAN device, down, learning off.
pub(crate) fn add_vxlan(vni: Vni, local: IpAddr, port: u16, mtu: u32) -> Request {
    let local = match local {
        IpAddr::V4(v4) => InfoVxlan::Local(v4),
        IpAddr::V6(v6) => InfoVxlan::Local6(v6),
    };
    let data = vec![InfoVxlan::Id(vni.get()), local, InfoVxlan::Port(port), InfoVxlan::Learning(false)];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(Dev::vxlan(vni).to_string()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Group(LINK_GROUP),
        info(InfoKind::Vxlan, Some(InfoData::Vxlan(data))),
    ];
    (RouteNetlinkMessage::NewLink(message), NEW)
}

/// A veth pair in one message: the host side in its bridge, the other made inside the namespace `netns` with its name,
/// MAC, MTU and our group; both down.
pub(crate) fn add_veth(host: &Dev, bridge: u32, inside: &Dev, mac: Mac, mtu: u32, netns: RawFd) -> Request {
    let mut peer = LinkMessage::default();
    peer.attributes = vec![
        LinkAttribute::IfName(inside.to_string()),
        mac_attribute(mac),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Group(LINK_GROUP),
        LinkAttribute::NetNsFd(netns),
    ];
    let mut message = LinkMessage::default();
    message.attributes = vec![
        LinkAttribute::IfName(host.to_string()),
        LinkAttribute::Mtu(mtu),
        LinkAttribute::Group(LINK_GROUP),
        LinkAttribute::Controller(bridge),
        info(InfoKind::Veth, Some(InfoData::Veth(InfoVeth::Peer(peer)))),
    ];
    (RouteNetlinkMessage::NewLink(message), NEW)
}

/// Changes a link. `master` is the index of `change.master`.
pub(crate) fn set_link(index: u32, change: &LinkChange, master: Option<u32>) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    if change.up {
        message.header.flags = LinkFlags::Up;
        message.header.change_mask = LinkFlags::Up;
    }
    if change.down {
        message.header.change_mask = LinkFlags::Up;
    }
    let addrgen = AfSpecUnspec::Inet6(vec![AfSpecInet6::AddrGenMode(In6AddrGenMode::None)]);
    let attributes = [
        change.mac.map(mac_attribute),
        change.mtu.map(LinkAttribute::Mtu),
        change.group.then_some(LinkAttribute::Group(LINK_GROUP)),
        change.alias.clone().map(LinkAttribute::IfAlias),
        change.addrgen_none.then_some(LinkAttribute::AfSpecUnspec(vec![addrgen])),
        master.map(LinkAttribute::Controller),
    ];
    message.attributes = attributes.into_iter().flatten().collect();
    (RouteNetlinkMessage::NewLink(message), 0)
}

/// Changes flags of a bridge port.
pub(crate) fn set_flags(index: u32, flags: &FlagChange) -> Request {
    let mut data =
        vec![InfoBridgePort::Learning(flags.learning), InfoBridgePort::NeighSupress(flags.neigh_suppress)];
    data.extend(flags.forward_gratuitous.map(InfoBridgePort::NeighForwardGrat));
    data.extend(flags.locked.map(InfoBridgePort::Locked));
    let mut message = LinkMessage::default();
    message.header.index = index;
    message.attributes = vec![LinkAttribute::LinkInfo(vec![
        LinkInfo::PortKind(InfoPortKind::Bridge),
        LinkInfo::PortData(InfoPortData::BridgePort(data)),
    ])];
    (RouteNetlinkMessage::NewLink(message), 0)
}

/// Deletes a link.
pub(crate) fn del_link(index: u32) -> Request {
    let mut message = LinkMessage::default();
    message.header.index = index;
    (RouteNetlinkMessage::DelLink(message), 0)
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

/// Both halves of a remote MAC in one message. REACHABLE with extern_learn ages in neither half; NOARP with it is
/// refused by the VXLAN half after the bridge half was made.
pub(crate) fn set_remote(vxlan: u32, mac: Mac, vtep: IpAddr) -> Request {
    let flags = NeighbourFlags::Own | NeighbourFlags::Controller | NeighbourFlags::ExtLearned;
    let mut message = fdb(vxlan, mac, NeighbourState::Reachable, flags);
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(vtep)));
    (RouteNetlinkMessage::NewNeighbour(message), SET)
}

/// A workload's MAC on its port: static, and sticky, since a frame seen elsewhere moves a merely static entry.
pub(crate) fn set_local(port: u32, mac: Mac) -> Request {
    let flags = NeighbourFlags::Controller | NeighbourFlags::Sticky;
    (RouteNetlinkMessage::NewNeighbour(fdb(port, mac, NeighbourState::Noarp, flags)), SET)
}

/// Deletes the bridge half (`tunnel` false) or the VXLAN half of a MAC.
pub(crate) fn del_fdb(index: u32, mac: Mac, tunnel: bool) -> Request {
    let flags = if tunnel { NeighbourFlags::Own } else { NeighbourFlags::Controller };
    (RouteNetlinkMessage::DelNeighbour(fdb(index, mac, NeighbourState::None, flags)), 0)
}

fn flood(vxlan: u32, vtep: IpAddr) -> NeighbourMessage {
    let mut message = fdb(vxlan, Mac::new([0; 6]), NeighbourState::Permanent, NeighbourFlags::Own);
    message.attributes.push(NeighbourAttribute::Destination(NeighbourAddress::from(vtep)));
    message
}

/// One more destination of the all-zero MAC: needs APPEND, a replace would drop the others.
pub(crate) fn add_flood(vxlan: u32, vtep: IpAddr) -> Request {
    (RouteNetlinkMessage::NewNeighbour(flood(vxlan, vtep)), NLM_F_CREATE | NLM_F_APPEND)
}

/// One destination of the all-zero MAC less.
pub(crate) fn del_flood(vxlan: u32, vtep: IpAddr) -> Request {
    (RouteNetlinkMessage::DelNeighbour(flood(vxlan, vtep)), 0)
}

fn family(ip: IpAddr) -> AddressFamily {
    if ip.is_ipv4() { AddressFamily::Inet } else { AddressFamily::Inet6 }
}

/// A suppression neighbour: NOARP with extern_learn neither ages nor counts against the table limit.
pub(crate) fn set_neighbour(bridge: u32, ip: IpAddr, mac: Mac) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = bridge;
    message.header.state = NeighbourState::Noarp;
    message.header.flags = NeighbourFlags::ExtLearned;
    message.attributes = vec![
        NeighbourAttribute::Destination(ip.into()),
        NeighbourAttribute::LinkLayerAddress(mac.octets().to_vec()),
        NeighbourAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    (RouteNetlinkMessage::NewNeighbour(message), SET)
}

/// Deletes a neighbour.
pub(crate) fn del_neighbour(bridge: u32, ip: IpAddr) -> Request {
    let mut message = NeighbourMessage::default();
    message.header.family = family(ip);
    message.header.ifindex = bridge;
    message.attributes = vec![NeighbourAttribute::Destination(ip.into())];
    (RouteNetlinkMessage::DelNeighbour(message), 0)
}

fn address(index: u32, address: IfAddr) -> AddressMessage {
    let mut message = AddressMessage::default();
    message.header.family = family(address.ip);
    message.header.prefix_len = address.length;
    message.header.index = index;
    message.header.scope = AddressScope::Universe;
    message.attributes = vec![AddressAttribute::Local(address.ip), AddressAttribute::Address(address.ip)];
    message
}

/// An address with our protocol number and without duplicate detection: uniqueness is the controller's.
pub(crate) fn add_address(index: u32, wanted: IfAddr) -> Request {
    let mut message = address(index, wanted);
    message.attributes.push(AddressAttribute::Protocol(AddressProtocol::Other(PROTOCOL)));
    if wanted.ip.is_ipv6() {
        message.attributes.push(AddressAttribute::Flags(AddressFlags::Nodad));
    }
    (RouteNetlinkMessage::NewAddress(message), NEW)
}

/// Deletes an address.
pub(crate) fn del_address(index: u32, wanted: IfAddr) -> Request {
    (RouteNetlinkMessage::DelAddress(address(index, wanted)), 0)
}

fn default_route(index: u32, gateway: IpAddr) -> RouteMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = family(gateway);
    message.header.table = RouteHeader::RT_TABLE_MAIN;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.flags = RouteFlags::Onlink;
    message.attributes =
        vec![RouteAttribute::Gateway(RouteAddress::from(gateway)), RouteAttribute::Oif(index)];
    message
}

/// A default route of ours; `onlink`, since the gateway may lie outside the interface's prefixes.
pub(crate) fn add_gateway(index: u32, gateway: IpAddr) -> Request {
    (RouteNetlinkMessage::NewRoute(default_route(index, gateway)), NEW)
}

/// Deletes a default route of ours.
pub(crate) fn del_gateway(index: u32, gateway: IpAddr) -> Request {
    let mut message = default_route(index, gateway);
    message.header.flags = RouteFlags::empty();
    (RouteNetlinkMessage::DelRoute(message), 0)
}

/// All links, or one by name.
pub(crate) fn get_link(name: Option<&Dev>) -> RouteNetlinkMessage {
    let mut message = LinkMessage::default();
    message.attributes.extend(name.map(|name| LinkAttribute::IfName(name.to_string())));
    RouteNetlinkMessage::GetLink(message)
}

/// All FDB entries of a bridge and the tunnels in it, or of the whole host (0).
pub(crate) fn get_neighbours(of: AddressFamily, index: u32) -> RouteNetlinkMessage {
    let mut message = NeighbourMessage::default();
    message.header.family = of;
    message.header.ifindex = index;
    RouteNetlinkMessage::GetNeighbour(message)
}

/// All addresses.
pub(crate) fn get_addresses() -> RouteNetlinkMessage {
    RouteNetlinkMessage::GetAddress(AddressMessage::default())
}

/// Our routes of a family, of all tables and types: the kernel applies every non-zero field as a filter.
pub(crate) fn get_routes(of: AddressFamily) -> RouteNetlinkMessage {
    let mut message = RouteMessage::default();
    message.header.address_family = of;
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    RouteNetlinkMessage::GetRoute(message)
}
