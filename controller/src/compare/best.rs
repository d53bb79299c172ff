//! How a receiving VTEP chooses between routes for one MAC or address, rule by rule. RFC 7432 §7.7 and §15.1, and what FRR
//! makes of them: sticky, then the higher sequence, then the lower next hop, then the usual steps of BGP, which are not
//! needed here because they choose between routes to the same VTEP.

use std::cmp::Ordering;
use std::fmt;
use std::net::IpAddr;

use causeway_bgp::{Attributes, RouteKey};
use causeway_proto::Mac;

/// What a route claims about a MAC or an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Claim {
    pub(crate) vtep: IpAddr,
    pub(crate) sequence: u32,
    pub(crate) sticky: bool,
    /// Kept over the peer's restart, not confirmed yet. Does not matter for the choice.
    pub(crate) stale: bool,
}

/// Why one claim is better than another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Rule {
    /// Sticky beats dynamic, whatever the sequence.
    Sticky,
    /// The higher mobility sequence.
    Sequence,
    /// The lower next hop.
    NextHop,
    /// The same VTEP: either will do.
    Same,
}

/// Why a VTEP does not even consider a route.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Dropped {
    /// Its next hop is the VTEP itself.
    OwnNextHop,
    /// It carries the VTEP's own router MAC, or is about it.
    OwnMac,
}

impl Claim {
    pub(crate) fn of(attributes: &Attributes) -> Self {
        Claim {
            vtep: attributes.next_hop,
            sequence: attributes.sequence,
            sticky: attributes.sticky,
            stale: false,
        }
    }

    /// How it compares with another one (less is better), and by which rule.
    pub(crate) fn against(&self, other: &Claim) -> (Rule, Ordering) {
        let sticky = other.sticky.cmp(&self.sticky);
        let sequence = other.sequence.cmp(&self.sequence);
        let next_hop = self.vtep.cmp(&other.vtep);
        [(Rule::Sticky, sticky), (Rule::Sequence, sequence), (Rule::NextHop, next_hop)]
            .into_iter()
            .find(|(_, order)| order.is_ne())
            .unwrap_or((Rule::Same, Ordering::Equal))
    }

    /// True if only the next hop decides between the two.
    pub(crate) fn same_rank(&self, other: &Claim) -> bool {
        (self.sticky, self.sequence) == (other.sticky, other.sequence)
    }
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

impl fmt::Display for Rule {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Rule::Sticky => "sticky beats dynamic",
            Rule::Sequence => "higher mobility sequence",
            Rule::NextHop => "lower next hop",
            Rule::Same => "same VTEP",
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn claim() -> impl Strategy<Value = Claim> {
        (1..5_u8, 0..4_u32, any::<bool>(), any::<bool>()).prop_map(|(host, sequence, sticky, stale)| Claim {
            vtep: [10, 0, 0, host].into(),
            sequence,
            sticky,
            stale,
        })
    }

    proptest! {
        /// The order agrees with the rules tried one after the other on the whole list, as a router does it.
        #[test]
        fn the_best_is_that_of_a_naive_reference(claims in proptest::collection::vec(claim(), 1..8)) {
            let mut left = claims.clone();
            if left.iter().any(|c| c.sticky) {
                left.retain(|c| c.sticky);
            }
            let highest = left.iter().map(|c| c.sequence).max().unwrap();
            left.retain(|c| c.sequence == highest);
            let lowest = left.iter().map(|c| c.vtep).min().unwrap();
            let best = claims.iter().min_by(|a, b| a.against(b).1).unwrap();
            prop_assert_eq!((best.vtep, best.sequence, best.sticky), (lowest, highest, left[0].sticky));
        }

        /// It is an order: one loses by the rule by which the other wins.
        #[test]
        fn losing_is_the_reverse_of_winning(a in claim(), b in claim()) {
            let ((rule, order), (other, reverse)) = (a.against(&b), b.against(&a));
            prop_assert_eq!((rule, order), (other, reverse.reverse()));
        }
    }
}
