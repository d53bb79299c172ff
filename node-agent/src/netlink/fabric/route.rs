//! Routes of routing domains as rtnetlink messages, and back.

use std::collections::BTreeSet;
use std::net::IpAddr;

use causeway_proto::Prefix;
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteNextHop, RouteNextHopFlags, RouteProtocol,
    RouteScope, RouteType, RouteVia,
};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::SET;
use crate::dev::PROTOCOL;
use crate::fabric::METRIC;
use crate::netlink::message::Request;

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
}
