//! Kernel messages as the model's terms.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_proto::Mac;
use netlink_packet_route::AddressFamily;
use netlink_packet_route::address::{AddressAttribute, AddressMessage, AddressProtocol};
use netlink_packet_route::link::{
    AfSpecInet6, AfSpecUnspec, BridgePortState, In6AddrGenMode, InfoBridge, InfoBridgePort, InfoData,
    InfoKind, InfoMacVlan, InfoPortData, InfoVlan, InfoVxlan, LinkAttribute, LinkFlags, LinkInfo,
    LinkMessage, MacVlanMode,
};
use netlink_packet_route::neighbour::{
    NeighbourAddress, NeighbourAttribute, NeighbourFlags, NeighbourMessage, NeighbourState,
};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteHeader, RouteMessage, RouteProtocol, RouteType,
};

use crate::dev::{ALIAS_PREFIX, Dev, LINK_GROUP, PROTOCOL};
use crate::model::{Child, IfAddr, MacvlanMode};
use crate::observed::{FdbKind, Link, Neighbour, PortFlags};

/// What a link is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    Bridge,
    Vxlan,
    Veth,
    Ifb,
    Vlan,
    Child(Child),
    Tap,
    Other,
}

/// A link, as far as we care.
#[derive(Debug, Clone)]
pub(crate) struct RawLink {
    pub(crate) index: u32,
    pub(crate) name: Dev,
    pub(crate) kind: Kind,
    /// `master` is left out: the message has only its index.
    pub(crate) link: Link,
    pub(crate) master: Option<u32>,
    pub(crate) mac: Option<Mac>,
    pub(crate) accept_ra: bool,
    /// Index of the peer, for a veth; of the link that it is on, for a VLAN, macvlan or ipvlan.
    pub(crate) peer: Option<u32>,
    pub(crate) vni: u32,
    pub(crate) local: Option<IpAddr>,
    pub(crate) port: u16,
    pub(crate) learning: bool,
    pub(crate) flags: PortFlags,
    pub(crate) forwarding: bool,
    /// VLAN id.
    pub(crate) vlan: u16,
    /// A bridge that tells VLANs apart.
    pub(crate) aware: bool,
    /// The wire is there.
    pub(crate) carrier: bool,
}

impl RawLink {
    /// Carries our mark.
    pub(crate) fn is_marked(&self) -> bool {
        self.link.grouped || self.link.alias.starts_with(ALIAS_PREFIX)
    }
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    bytes.try_into().ok().map(Mac::new)
}

/// `None` if the message has no name.
pub(crate) fn link(message: &LinkMessage) -> Option<RawLink> {
    let up = message.header.flags.contains(LinkFlags::Up);
    let mut raw = RawLink {
        index: message.header.index,
        name: Dev::new(""),
        kind: Kind::Other,
        link: Link { up, ..Link::default() },
        master: None,
        mac: None,
        accept_ra: false,
        peer: None,
        vni: 0,
        local: None,
        port: 0,
        learning: false,
        flags: PortFlags::default(),
        forwarding: false,
        vlan: 0,
        aware: false,
        carrier: message.header.flags.contains(LinkFlags::LowerUp),
    };
    for attribute in &message.attributes {
        match attribute {
            LinkAttribute::IfName(name) => raw.name = Dev::new(name),
            LinkAttribute::Mtu(mtu) => raw.link.mtu = *mtu,
            LinkAttribute::IfAlias(alias) => raw.link.alias.clone_from(alias),
            LinkAttribute::Group(group) => raw.link.grouped = *group == LINK_GROUP,
            LinkAttribute::Address(bytes) => raw.mac = mac(bytes),
            LinkAttribute::Controller(index) => raw.master = Some(*index).filter(|i| *i != 0),
            LinkAttribute::Link(index) => raw.peer = Some(*index),
            LinkAttribute::AfSpecUnspec(specs) => inet6(&mut raw, specs),
            LinkAttribute::LinkInfo(infos) => infos.iter().for_each(|info| link_info(&mut raw, info)),
            _ => {}
        }
    }
    (!raw.name.as_str().is_empty()).then_some(raw)
}

fn inet6(raw: &mut RawLink, specs: &[AfSpecUnspec]) {
    let inet6 = specs.iter().filter_map(|s| if let AfSpecUnspec::Inet6(v) = s { Some(v) } else { None });
    // Below an MTU of 1280, or with IPv6 off, there is nothing here, and nothing to switch off.
    raw.link.addrgen_none = true;
    for attribute in inet6.flatten() {
        match attribute {
            AfSpecInet6::AddrGenMode(mode) => raw.link.addrgen_none = *mode == In6AddrGenMode::None,
            AfSpecInet6::DevConf(conf) => raw.accept_ra = conf.accept_ra != 0,
            _ => {}
        }
    }
}

fn macvlan(info: &InfoMacVlan) -> Option<Kind> {
    let InfoMacVlan::Mode(mode) = info else { return None };
    let mode = match mode {
        MacVlanMode::Bridge => MacvlanMode::Bridge,
        MacVlanMode::Private => MacvlanMode::Private,
        MacVlanMode::Vepa => MacvlanMode::Vepa,
        MacVlanMode::Passthrough => MacvlanMode::Passthru,
        _ => return None,
    };
    Some(Kind::Child(Child::Macvlan(mode)))
}

fn link_info(raw: &mut RawLink, info: &LinkInfo) {
    match info {
        LinkInfo::Kind(InfoKind::Bridge) => raw.kind = Kind::Bridge,
        LinkInfo::Kind(InfoKind::Vxlan) => raw.kind = Kind::Vxlan,
        LinkInfo::Kind(InfoKind::Veth) => raw.kind = Kind::Veth,
        LinkInfo::Kind(InfoKind::Ifb) => raw.kind = Kind::Ifb,
        LinkInfo::Kind(InfoKind::Vlan) => raw.kind = Kind::Vlan,
        LinkInfo::Kind(InfoKind::Tun) => raw.kind = Kind::Tap,
        // In a mode that is not ours until the data says otherwise.
        LinkInfo::Kind(InfoKind::MacVlan) => raw.kind = Kind::Other,
        LinkInfo::Kind(InfoKind::IpVlan) => raw.kind = Kind::Child(Child::Ipvlan),
        LinkInfo::Data(InfoData::MacVlan(data)) => {
            raw.kind = data.iter().find_map(macvlan).unwrap_or(Kind::Other)
        }
        LinkInfo::Data(InfoData::Vlan(data)) => {
            raw.vlan = data
                .iter()
                .find_map(|i| if let InfoVlan::Id(id) = i { Some(*id) } else { None })
                .unwrap_or(0);
        }
        LinkInfo::Data(InfoData::Bridge(data)) => {
            raw.aware = data.contains(&InfoBridge::VlanFiltering(true));
        }
        LinkInfo::Data(InfoData::Vxlan(data)) => {
            for item in data {
                match item {
                    InfoVxlan::Id(id) => raw.vni = *id,
                    InfoVxlan::Local(v4) => raw.local = Some((*v4).into()),
                    InfoVxlan::Local6(v6) => raw.local = Some((*v6).into()),
                    InfoVxlan::Port(port) => raw.port = *port,
                    InfoVxlan::Learning(on) => raw.learning = *on,
                    _ => {}
                }
            }
        }
        LinkInfo::PortData(InfoPortData::BridgePort(data)) => {
            for item in data {
                match item {
                    InfoBridgePort::Learning(on) => raw.flags.learning = *on,
                    InfoBridgePort::NeighSupress(on) => raw.flags.neigh_suppress = *on,
                    InfoBridgePort::NeighForwardGrat(on) => raw.flags.forward_gratuitous = Some(*on),
                    InfoBridgePort::Locked(on) => raw.flags.locked = *on,
                    InfoBridgePort::State(s) => raw.forwarding = *s == BridgePortState::Forwarding,
                    _ => {}
                }
            }
        }
        _ => {}
    }
}

/// Entry of an FDB.
#[derive(Debug, Clone)]
pub(crate) struct RawFdb {
    /// The port in the bridge's FDB, the VXLAN device in its own.
    pub(crate) index: u32,
    pub(crate) bridge: Option<u32>,
    pub(crate) mac: Mac,
    /// In the device's own FDB.
    pub(crate) own: bool,
    pub(crate) kind: FdbKind,
    pub(crate) sticky: bool,
    pub(crate) vtep: Option<IpAddr>,
}

impl RawFdb {
    /// True for what kernels before 6.13 send besides, after each write to a device's own FDB: the entry without where
    /// it leads. The driver tells the whole, and only of what has changed. To take the one for the other means to
    /// write again, and to be told again, for ever.
    pub(crate) fn is_echo(&self) -> bool {
        self.own && self.vtep.is_none()
    }
}

/// `None` if it is not an FDB entry, or one of a VLAN, which our bridges do not have.
pub(crate) fn fdb(message: &NeighbourMessage) -> Option<RawFdb> {
    if message.header.family != AddressFamily::Bridge {
        return None;
    }
    let state = u16::from(message.header.state);
    let flags = message.header.flags;
    let has = |bit: NeighbourState| state & u16::from(bit) != 0;
    let kind = if has(NeighbourState::Permanent) {
        FdbKind::Local
    } else if flags.contains(NeighbourFlags::ExtLearned) {
        FdbKind::Extern
    } else if has(NeighbourState::Noarp) {
        FdbKind::Static
    } else {
        FdbKind::Dynamic
    };
    let mut raw = RawFdb {
        index: message.header.ifindex,
        bridge: None,
        mac: Mac::new([0; 6]),
        own: flags.contains(NeighbourFlags::Own),
        kind,
        sticky: flags.contains(NeighbourFlags::Sticky),
        vtep: None,
    };
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::LinkLayerAddress(bytes) => raw.mac = mac(bytes)?,
            NeighbourAttribute::Controller(index) => raw.bridge = Some(*index),
            NeighbourAttribute::Destination(NeighbourAddress::Other(bytes)) => raw.vtep = ip(bytes),
            NeighbourAttribute::Vlan(_) => return None,
            _ => {}
        }
    }
    Some(raw)
}

fn ip(bytes: &[u8]) -> Option<IpAddr> {
    if let Ok(v4) = <[u8; 4]>::try_from(bytes) {
        return Some(Ipv4Addr::from(v4).into());
    }
    <[u8; 16]>::try_from(bytes).ok().map(|v6| Ipv6Addr::from(v6).into())
}

/// An IP neighbour: device, address, rest. `None` if it is an FDB or proxy entry.
pub(crate) fn neighbour(message: &NeighbourMessage) -> Option<(u32, IpAddr, Neighbour)> {
    let flags = message.header.flags;
    if flags.contains(NeighbourFlags::Proxy) {
        return None;
    }
    let state = u16::from(message.header.state);
    let permanent = state & u16::from(NeighbourState::Permanent) != 0;
    let noarp = state & u16::from(NeighbourState::Noarp) != 0;
    let lasting = permanent || noarp && flags.contains(NeighbourFlags::ExtLearned);
    let mut found = Neighbour { mac: None, lasting, protocol: 0 };
    let mut address = None;
    for attribute in &message.attributes {
        match attribute {
            NeighbourAttribute::Destination(NeighbourAddress::Inet(v4)) => address = Some((*v4).into()),
            NeighbourAttribute::Destination(NeighbourAddress::Inet6(v6)) => address = Some((*v6).into()),
            NeighbourAttribute::LinkLayerAddress(bytes) => found.mac = mac(bytes),
            NeighbourAttribute::Protocol(protocol) => found.protocol = u8::from(*protocol),
            _ => {}
        }
    }
    Some((message.header.ifindex, address?, found))
}

/// An address: device, address, whether it carries our protocol number.
pub(crate) fn address(message: &AddressMessage) -> Option<(u32, IfAddr, bool)> {
    let mut local = None;
    let mut prefix = None;
    let mut ours = false;
    for attribute in &message.attributes {
        match attribute {
            AddressAttribute::Local(ip) => local = Some(*ip),
            AddressAttribute::Address(ip) => prefix = Some(*ip),
            AddressAttribute::Protocol(protocol) => ours = *protocol == AddressProtocol::Other(PROTOCOL),
            _ => {}
        }
    }
    let ip = local.or(prefix)?;
    Some((message.header.index, IfAddr { ip, length: message.header.prefix_len }, ours))
}

/// A default route of the main table: device, gateway, whether it carries our protocol number.
pub(crate) fn default_route(message: &RouteMessage) -> Option<(u32, IpAddr, bool)> {
    let header = &message.header;
    let plain = header.destination_prefix_length == 0
        && header.table == RouteHeader::RT_TABLE_MAIN
        && header.kind == RouteType::Unicast;
    let (mut device, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Oif(index) => device = Some(*index),
            RouteAttribute::Gateway(RouteAddress::Inet(v4)) => gateway = Some(IpAddr::V4(*v4)),
            RouteAttribute::Gateway(RouteAddress::Inet6(v6)) => gateway = Some(IpAddr::V6(*v6)),
            _ => {}
        }
    }
    let ours = header.protocol == RouteProtocol::Other(PROTOCOL);
    plain.then_some((device?, gateway?, ours))
}
