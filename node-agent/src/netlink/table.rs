//! Messages for the tables of networks and the rules that lead there.

use std::net::IpAddr;

use netlink_packet_core::{NLM_F_CREATE, NLM_F_EXCL, NLM_F_REPLACE};
use netlink_packet_route::route::{
    RouteAddress, RouteAttribute, RouteFlags, RouteMessage, RouteProtocol, RouteScope, RouteType,
};
use netlink_packet_route::rule::{RuleAction, RuleAttribute, RuleMessage};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};

use super::message::Request;
use crate::dev::{Dev, PROTOCOL};
use crate::lan::table::{BARRIER, PREFERENCE, Rule, anywhere, network_of_table, table};
use crate::model::IfAddr;

fn family(v6: bool) -> AddressFamily {
    if v6 { AddressFamily::Inet6 } else { AddressFamily::Inet }
}

fn rule(rule: &Rule) -> RuleMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(rule.v6);
    message.header.action = RuleAction::ToTable;
    message.attributes = vec![
        RuleAttribute::Iifname(rule.port.to_string()),
        RuleAttribute::Priority(PREFERENCE),
        RuleAttribute::Table(table(rule.vni)),
        RuleAttribute::Protocol(RouteProtocol::Other(PROTOCOL)),
    ];
    message
}

/// A rule of ours.
pub(crate) fn add_rule(wanted: &Rule) -> Request {
    (RouteNetlinkMessage::NewRule(rule(wanted)), NLM_F_CREATE | NLM_F_EXCL)
}

/// Deletes it: the kernel compares all that is said of it, our protocol too.
pub(crate) fn del_rule(gone: &Rule) -> Request {
    (RouteNetlinkMessage::DelRule(rule(gone)), 0)
}

/// All rules of a family.
pub(crate) fn get_rules(v6: bool) -> RouteNetlinkMessage {
    let mut message = RuleMessage::default();
    message.header.family = family(v6);
    RouteNetlinkMessage::GetRule(message)
}

/// A rule, if it is ours.
pub(crate) fn read_rule(message: &RuleMessage) -> Option<Rule> {
    let (mut port, mut preference, mut number, mut protocol) =
        (None, 0, u32::from(message.header.table), None);
    for attribute in &message.attributes {
        match attribute {
            RuleAttribute::Iifname(name) => port = Some(Dev::new(name)),
            RuleAttribute::Priority(value) => preference = *value,
            RuleAttribute::Table(value) => number = *value,
            RuleAttribute::Protocol(value) => protocol = Some(*value),
            RuleAttribute::Source(_) | RuleAttribute::Destination(_) | RuleAttribute::Oifname(_) => {
                return None;
            }
            _ => {}
        }
    }
    let leads = message.header.action == RuleAction::ToTable && preference == PREFERENCE;
    let ours = leads && protocol == Some(RouteProtocol::Other(PROTOCOL));
    let v6 = message.header.family == AddressFamily::Inet6;
    ours.then_some(Rule { port: port?, vni: network_of_table(number)?, v6 })
}

/// A route in a network's table as the kernel has it: by links' indexes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct RawWay {
    /// Number of the table.
    pub(crate) table: u32,
    pub(crate) to: IfAddr,
    /// Link, and router on it; `None`: unreachable.
    pub(crate) hop: Option<(u32, Option<IpAddr>)>,
}

fn way(way: &RawWay) -> RouteMessage {
    let v6 = way.to.ip.is_ipv6();
    let mut message = RouteMessage::default();
    message.header.address_family = family(v6);
    message.header.protocol = RouteProtocol::Other(PROTOCOL);
    message.header.scope = RouteScope::Universe;
    message.header.kind = RouteType::Unicast;
    message.header.destination_prefix_length = way.to.length;
    message.attributes = vec![RouteAttribute::Table(way.table)];
    if way.to.length > 0 {
        message.attributes.push(RouteAttribute::Destination(RouteAddress::from(way.to.ip)));
    }
    match way.hop {
        None => {
            message.header.kind = RouteType::Unreachable;
            message.attributes.push(RouteAttribute::Priority(BARRIER));
        }
        Some((index, gateway)) => {
            message.attributes.push(RouteAttribute::Oif(index));
            match gateway {
                Some(gateway) => {
                    message.header.flags = RouteFlags::Onlink;
                    message.attributes.push(RouteAttribute::Gateway(RouteAddress::from(gateway)));
                }
                None if !v6 => message.header.scope = RouteScope::Link,
                None => {}
            }
        }
    }
    message
}

/// A route of ours.
pub(crate) fn set_way(wanted: &RawWay) -> Request {
    (RouteNetlinkMessage::NewRoute(way(wanted)), NLM_F_CREATE | NLM_F_REPLACE)
}

/// Deletes it.
pub(crate) fn del_way(gone: &RawWay) -> Request {
    let mut message = way(gone);
    message.header.flags = RouteFlags::empty();
    (RouteNetlinkMessage::DelRoute(message), 0)
}

fn address(value: &RouteAddress) -> Option<IpAddr> {
    match value {
        RouteAddress::Inet(v4) => Some((*v4).into()),
        RouteAddress::Inet6(v6) => Some((*v6).into()),
        _ => None,
    }
}

/// A route, if it is ours and in a network's table.
pub(crate) fn read_way(message: &RouteMessage) -> Option<RawWay> {
    let header = &message.header;
    let mut number = u32::from(header.table);
    let mut to = anywhere(header.address_family == AddressFamily::Inet6);
    to.length = header.destination_prefix_length;
    let (mut index, mut gateway) = (None, None);
    for attribute in &message.attributes {
        match attribute {
            RouteAttribute::Table(value) => number = *value,
            RouteAttribute::Destination(value) => to.ip = address(value)?,
            RouteAttribute::Oif(value) => index = Some(*value),
            RouteAttribute::Gateway(value) => gateway = address(value),
            _ => {}
        }
    }
    network_of_table(number)?;
    if header.protocol != RouteProtocol::Other(PROTOCOL) {
        return None;
    }
    let hop = match header.kind {
        RouteType::Unreachable => None,
        RouteType::Unicast => Some((index?, gateway)),
        _ => return None,
    };
    Some(RawWay { table: number, to, hop })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rules_and_routes_are_read_back_as_they_were_written() {
        for v6 in [false, true] {
            let vni = 10_010u32.try_into().unwrap();
            let wanted = Rule { port: Dev::new("cwp423ecba10a6a"), vni, v6 };
            let (RouteNetlinkMessage::NewRule(message), _) = add_rule(&wanted) else { panic!() };
            assert_eq!(read_rule(&message), Some(wanted));
            let mut foreign = message.clone();
            foreign.attributes.retain(|a| !matches!(a, RuleAttribute::Protocol(_)));
            assert_eq!(read_rule(&foreign), None, "somebody else's");
            let gateway: IpAddr = if v6 { "fd00::1".parse().unwrap() } else { "10.0.0.1".parse().unwrap() };
            let net = IfAddr { ip: gateway, length: 20 };
            let any = anywhere(v6);
            for (to, hop) in [(any, None), (any, Some((7, Some(gateway)))), (net, Some((7, None)))] {
                let wanted = RawWay { table: table(vni), to, hop };
                let (RouteNetlinkMessage::NewRoute(message), _) = set_way(&wanted) else { panic!() };
                assert_eq!(read_way(&message), Some(wanted));
                let main = RawWay { table: 254, ..wanted };
                let (RouteNetlinkMessage::NewRoute(message), _) = set_way(&main) else { panic!() };
                assert_eq!(read_way(&message), None);
            }
        }
    }
}
