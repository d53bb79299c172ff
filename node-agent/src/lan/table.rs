//! Routing tables of networks: what a routed workload sends is looked up in its network's and nowhere else, so that it
//! never leaves by the host's own default route, whatever that is.
//!
//! ```text
//! ip rule    770: from all iif cwp… lookup 1291855642 proto 77
//! table      10.10.0.3 dev cwp…                              another routed workload of the network
//!            10.10.0.0/24 dev cwb10010                       if the host has an address there
//!            default via 10.10.0.1 dev cwb10010 onlink
//!            unreachable default metric 4000000000           if there is nothing else
//! ```
//!
//! The rule also makes the kernel's check of the way back (`rp_filter`) pass in every mode: for a packet towards the
//! workload it looks up the source as if it came in at the workload's link.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_proto::Vni;

use crate::dev::{Dev, PROTOCOL};
use crate::model::IfAddr;

/// Preference of our rules: before those of VRFs (1000), behind the table of local addresses (0).
pub const PREFERENCE: u32 = 770;
/// A network's table has this and its VNI as number: 77 in the highest byte, which nobody else counts up to.
pub const FIRST_TABLE: u32 = 77 << 24;
/// Metric of what ends a table.
pub const BARRIER: u32 = 4_000_000_000;

/// Number of a network's table.
pub fn table(vni: Vni) -> u32 {
    FIRST_TABLE + vni.get()
}

/// The network whose table has this number.
pub fn network_of_table(table: u32) -> Option<Vni> {
    Vni::try_from(table.checked_sub(FIRST_TABLE)?).ok()
}

/// A rule of ours: what comes in from a port is looked up in the table of its network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Rule {
    /// Host side of the port.
    pub port: Dev,
    /// Its network.
    pub vni: Vni,
    /// For IPv6.
    pub v6: bool,
}

/// Where a packet goes next.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Hop {
    /// To its destination, on this link.
    Link(Dev),
    /// To this router on this link.
    Gateway(Dev, IpAddr),
    /// Nowhere: the sender is told so.
    Unreachable,
}

/// A route of ours in the table of a network.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Way {
    /// The network.
    pub vni: Vni,
    /// Where to.
    pub to: IfAddr,
    /// By what.
    pub hop: Hop,
}

/// All addresses of a family.
pub(crate) fn anywhere(v6: bool) -> IfAddr {
    let ip: IpAddr = if v6 { Ipv6Addr::UNSPECIFIED.into() } else { Ipv4Addr::UNSPECIFIED.into() };
    IfAddr { ip, length: 0 }
}

impl Way {
    /// The end of a table.
    pub(crate) fn barrier(vni: Vni, v6: bool) -> Self {
        Way { vni, to: anywhere(v6), hop: Hop::Unreachable }
    }

    /// True if a table has room for one of the two.
    pub(crate) fn excludes(&self, other: &Way) -> bool {
        let end = |way: &Way| way.hop == Hop::Unreachable;
        self.vni == other.vni && self.to == other.to && end(self) == end(other)
    }

    /// The link that it leads to.
    pub(crate) fn dev(&self) -> Option<&Dev> {
        match &self.hop {
            Hop::Link(dev) | Hop::Gateway(dev, _) => Some(dev),
            Hop::Unreachable => None,
        }
    }
}

fn family(v6: bool) -> &'static str {
    if v6 { "-6 " } else { "" }
}

impl Rule {
    /// As a command.
    pub(crate) fn write(&self, verb: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (family, table) = (family(self.v6), table(self.vni));
        write!(f, "ip {family}rule {verb} iif {} lookup {table} pref {PREFERENCE} ", self.port)?;
        write!(f, "protocol {PROTOCOL}")
    }
}

impl Way {
    /// As a command.
    pub(crate) fn write(&self, verb: &str, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ip {}route {verb} ", family(self.to.ip.is_ipv6()))?;
        if self.hop == Hop::Unreachable {
            f.write_str("unreachable ")?;
        }
        match self.to.length {
            0 => f.write_str("default")?,
            _ => write!(f, "{}", self.to)?,
        }
        match &self.hop {
            Hop::Link(dev) => write!(f, " dev {dev}")?,
            Hop::Gateway(dev, gateway) => write!(f, " via {gateway} dev {dev} onlink")?,
            Hop::Unreachable => write!(f, " metric {BARRIER}")?,
        }
        write!(f, " table {} proto {PROTOCOL}", table(self.vni))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn tables_are_numbered_by_networks() {
        let vni = Vni::try_from(10_010).unwrap();
        assert_eq!((table(vni), network_of_table(table(vni))), (1_291_855_642, Some(vni)));
        for other in [0, 254, 1001, FIRST_TABLE, FIRST_TABLE + (1 << 24), u32::MAX] {
            assert_eq!(network_of_table(other), None, "{other}");
        }
    }
}
