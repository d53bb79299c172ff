//! How a receiving VTEP chooses between routes for one MAC or address, rule by rule. RFC 7432 §7.7 and §15.1, and what FRR
//! makes of them: sticky, then the higher sequence, then the lower next hop, then the usual steps of BGP, which are not
//! needed here because they choose between routes to the same VTEP.

use std::cmp::{Ordering, Reverse};
use std::fmt;
use std::net::IpAddr;

use causeway_bgp::Attributes;

/// What a route claims about a MAC or an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Claim {
    /// Where it says that it lives.
    pub vtep: IpAddr,
    /// Mobility sequence.
    pub sequence: u32,
    /// It does not move (RFC 7432 §15.2).
    pub sticky: bool,
    /// Kept over the peer's restart, not confirmed yet. Does not matter for the choice.
    pub stale: bool,
}

/// Why one claim is better than another.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Sticky beats dynamic, whatever the sequence.
    Sticky,
    /// The higher mobility sequence.
    Sequence,
    /// The lower next hop.
    NextHop,
    /// The same VTEP: either will do.
    Same,
}

impl Claim {
    /// The claim of a route of type 2.
    pub fn of(attributes: &Attributes) -> Self {
        Claim {
            vtep: attributes.next_hop,
            sequence: attributes.sequence,
            sticky: attributes.sticky,
            stale: false,
        }
    }

    /// What claims are ordered by; the least is the best.
    pub fn rank(&self) -> (Reverse<bool>, Reverse<u32>, IpAddr) {
        (Reverse(self.sticky), Reverse(self.sequence), self.vtep)
    }

    /// How it compares with another one (less is better), and by which rule.
    pub fn against(&self, other: &Claim) -> (Rule, Ordering) {
        let rule = if self.sticky != other.sticky {
            Rule::Sticky
        } else if self.sequence != other.sequence {
            Rule::Sequence
        } else if self.vtep != other.vtep {
            Rule::NextHop
        } else {
            Rule::Same
        };
        (rule, self.rank().cmp(&other.rank()))
    }

    /// True if only the next hop decides between the two.
    pub fn same_rank(&self, other: &Claim) -> bool {
        (self.sticky, self.sequence) == (other.sticky, other.sequence)
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
