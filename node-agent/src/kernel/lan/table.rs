//! Tables of networks, and the rules that lead there.

use std::collections::BTreeMap;

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::route::RouteMessage;

use crate::dev::Dev;
use crate::kernel::{Kernel, OpError};
use crate::lan::seen::Seen;
use crate::lan::table::{Hop, Way, network_of_table, table};
use crate::netlink::NetlinkError;
use crate::netlink::table::{RawWay, get_rules, read_rule, read_way};

/// A route of ours in the table of a network.
pub(super) fn way(message: &RouteMessage, names: &BTreeMap<u32, Dev>) -> Option<Way> {
    let RawWay { table, to, hop } = read_way(message)?;
    let hop = match hop {
        None => Hop::Unreachable,
        Some((index, gateway)) => {
            let dev = names.get(&index)?.clone();
            gateway.map_or(Hop::Link(dev.clone()), |gateway| Hop::Gateway(dev, gateway))
        }
    };
    Some(Way { vni: network_of_table(table)?, to, hop })
}

impl Kernel {
    pub(super) fn look_at_rules(&mut self, seen: &mut Seen) -> Result<(), NetlinkError> {
        for v6 in [false, true] {
            let found = match self.connection.dump(get_rules(v6)) {
                // A kernel without policy routing, or without IPv6, has no rules.
                Err(error) if error.errno() == Some(libc::EOPNOTSUPP) => continue,
                Err(error) if error.errno() == Some(libc::EAFNOSUPPORT) => continue,
                found => found?,
            };
            seen.rules.extend(found.iter().filter_map(|message| match message {
                RouteNetlinkMessage::NewRule(rule) => read_rule(rule),
                _ => None,
            }));
        }
        Ok(())
    }

    pub(super) fn raw_way(&self, way: &Way) -> Result<RawWay, OpError> {
        let hop = match &way.hop {
            Hop::Unreachable => None,
            Hop::Link(dev) => Some((self.index(dev)?, None)),
            Hop::Gateway(dev, gateway) => Some((self.index(dev)?, Some(*gateway))),
        };
        Ok(RawWay { table: table(way.vni), to: way.to, hop })
    }
}
