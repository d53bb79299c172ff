//! Switching and routing as rtnetlink messages, and back: devices, VLANs, entries; routes in a module of their own.

mod route;

use std::net::IpAddr;

use causeway_proto::{Mac, VlanId, Vni};
use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::link::{
    AfSpecBridge, AfSpecInet, AfSpecUnspec, BridgeFlag, BridgeStpState, BridgeVlanInfo, BridgeVlanInfoFlags,
    InfoBridge, InfoData, InfoKind, InfoVlan, InfoVrf, InfoVxlan, LinkAttribute, LinkExtentMask, LinkInfo,
    LinkMessage,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::message::{Request, add_address};
use super::parse::{self, Kind, RawFdb, RawLink};
use crate::dev::{Dev, LINK_GROUP};
use crate::fabric::{LinkKind, Seat};
use crate::model::IfAddr;
use crate::observed::FdbKind;

pub(crate) use route::{RawRoute, del_barrier, del_route, read_route, set_barrier, set_route};

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
