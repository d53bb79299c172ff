//! What a receiving VTEP does not even consider.

use std::fmt;
use std::net::IpAddr;

use causeway_bgp::{Attributes, RouteKey};
use causeway_proto::Mac;

/// Why a VTEP does not even consider a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Its next hop is the VTEP itself.
    OwnNextHop,
    /// It carries the VTEP's own router MAC, or is about it.
    OwnMac,
}

/// Whether a VTEP with these addresses and this router MAC drops a route on receipt. Neither the route nor anything that
/// follows from it exists there, and it is not passed on.
pub(crate) fn dropped(
    key: &RouteKey,
    attributes: &Attributes,
    own: &[IpAddr],
    router_mac: Option<Mac>,
) -> Option<Dropped> {
    if own.contains(&attributes.next_hop) {
        return Some(Dropped::OwnNextHop);
    }
    let about = match *key {
        RouteKey::MacIp { mac, .. } => Some(mac),
        _ => None,
    };
    let own_mac = router_mac.is_some_and(|own| attributes.router_mac == Some(own) || about == Some(own));
    own_mac.then_some(Dropped::OwnMac)
}

impl fmt::Display for Dropped {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Dropped::OwnNextHop => "martian or self next-hop: a VTEP refuses routes to itself",
            Dropped::OwnMac => "self mac: it carries the switch's own router MAC",
        })
    }
}
