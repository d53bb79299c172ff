//! Route target constraint (RFC 4684): which route targets a peer, or we, have asked for. Pure.
//!
//! A membership is a prefix of the 96 bits "origin AS, route target". Only the bits of the target choose routes: the
//! origin says who asks. So the prefix of no bits at all and any of 32 bits ask for everything.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::route::RouteTarget;

/// Bits of the origin AS, before those of the target.
const ORIGIN: u8 = 32;
/// Bits of a membership for one target.
const WHOLE: u8 = 96;

/// What a membership announces or withdraws: the NLRI of AFI 1, SAFI 132.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct Membership {
    /// Who asks.
    pub(crate) origin: u32,
    /// Bits of the target; zero behind `length`.
    pub(crate) target: u64,
    /// Bits of both together: 0 or 32 to 96.
    pub(crate) length: u8,
}

/// Which routes we ask peers for, of those that have agreed on route target constraint (RFC 4684).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Interest {
    /// All, by the default membership of RFC 4684 §4 (at which GoBGP 3.10 crashes).
    #[default]
    All,
    /// Those with one of these targets.
    Targets(BTreeSet<RouteTarget>),
}

/// Memberships that a peer announces and withdraws.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub(crate) struct MembershipChanges {
    pub(crate) announced: Vec<Membership>,
    pub(crate) withdrawn: Vec<Membership>,
    /// All have been announced (End-of-RIB of this family).
    pub(crate) complete: bool,
}

/// What a peer has asked for.
#[derive(Debug, Default)]
pub(crate) struct Wanted {
    memberships: BTreeSet<Membership>,
    /// Targets asked for as a whole, and by how many memberships.
    targets: HashMap<u64, usize>,
    /// Prefixes of targets, and by how many memberships; the empty one is everything.
    prefixes: BTreeMap<(u8, u64), usize>,
}

impl Membership {
    /// Asks for everything.
    pub(crate) const DEFAULT: Membership = Membership { origin: 0, target: 0, length: 0 };

    /// Asks for one target.
    pub(crate) fn of(origin: u32, target: RouteTarget) -> Self {
        Membership { origin, target: u64::from_be_bytes(target.0), length: WHOLE }
    }

    /// Its octets: the length in bits and as many octets as these take (RFC 4684 §4).
    pub(crate) fn encode(&self, out: &mut Vec<u8>) {
        let mut octets = [0; 12];
        octets[..4].copy_from_slice(&self.origin.to_be_bytes());
        octets[4..].copy_from_slice(&self.target.to_be_bytes());
        out.push(self.length);
        out.extend(octets.iter().take(usize::from(self.length.div_ceil(8))));
    }

    /// How many bits of the target it has.
    fn target_bits(&self) -> u8 {
        self.length.saturating_sub(ORIGIN)
    }
}

impl Interest {
    /// The memberships that say so.
    pub(crate) fn memberships(&self, own_as: u32) -> BTreeSet<Membership> {
        match self {
            Interest::All => BTreeSet::from([Membership::DEFAULT]),
            Interest::Targets(targets) => {
                targets.iter().map(|target| Membership::of(own_as, *target)).collect()
            }
        }
    }
}

impl Wanted {
    /// Takes over what the peer said. True if something is different now.
    pub(crate) fn apply(&mut self, changes: &MembershipChanges) -> bool {
        let withdrawn = changes.withdrawn.iter().filter(|membership| self.remove(membership)).count();
        let announced = changes.announced.iter().filter(|membership| self.add(membership)).count();
        withdrawn + announced > 0
    }

    fn add(&mut self, membership: &Membership) -> bool {
        if !self.memberships.insert(*membership) {
            return false;
        }
        if membership.length == WHOLE {
            *self.targets.entry(membership.target).or_default() += 1;
        } else {
            *self.prefixes.entry((membership.target_bits(), membership.target)).or_default() += 1;
        }
        true
    }

    fn remove(&mut self, membership: &Membership) -> bool {
        if !self.memberships.remove(membership) {
            return false;
        }
        if membership.length == WHOLE {
            if let Some(n) = self.targets.get_mut(&membership.target) {
                *n -= 1;
            }
            self.targets.retain(|target, n| *target != membership.target || *n > 0);
        } else {
            let key = (membership.target_bits(), membership.target);
            if let Some(n) = self.prefixes.get_mut(&key) {
                *n -= 1;
            }
            self.prefixes.retain(|_, n| *n > 0);
        }
        true
    }

    /// How many memberships there are.
    pub(crate) fn len(&self) -> usize {
        self.memberships.len()
    }

    /// Whether a route with these targets is asked for.
    pub(crate) fn wants(&self, targets: &[RouteTarget]) -> bool {
        targets.iter().any(|target| {
            let target = u64::from_be_bytes(target.0);
            let begins = |(bits, prefix): &(u8, u64)| {
                // No bits at all begin everything, and cannot be shifted by.
                (target ^ prefix).checked_shr(64 - u32::from(*bits)).unwrap_or(0) == 0
            };
            self.targets.contains_key(&target) || self.prefixes.keys().any(begins)
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn target(number: u32) -> RouteTarget {
        RouteTarget::new(65000, number).unwrap()
    }

    fn announce(memberships: &[Membership]) -> MembershipChanges {
        MembershipChanges { announced: memberships.to_vec(), ..MembershipChanges::default() }
    }

    fn withdraw(memberships: &[Membership]) -> MembershipChanges {
        MembershipChanges { withdrawn: memberships.to_vec(), ..MembershipChanges::default() }
    }

    #[test]
    fn nothing_is_sent_unasked() {
        let mut wanted = Wanted::default();
        assert!(!wanted.wants(&[target(110)]));
        let (a, b) = (Membership::of(65000, target(110)), Membership::of(65001, target(110)));
        assert!(wanted.apply(&announce(&[a])));
        assert!(
            wanted.wants(&[target(1), target(110)]) && !wanted.wants(&[target(111)]) && !wanted.wants(&[])
        );
        assert!(!wanted.apply(&announce(&[a])), "it has only repeated itself");
        wanted.apply(&announce(&[b]));
        wanted.apply(&withdraw(&[a]));
        assert!(wanted.wants(&[target(110)]), "somebody else still asks");
        assert!(wanted.apply(&withdraw(&[b])) && !wanted.apply(&withdraw(&[b])));
        assert!(!wanted.wants(&[target(110)]) && wanted.len() == 0);
    }

    #[test]
    fn the_default_and_an_origin_alone_ask_for_everything() {
        for length in [0, 32] {
            let mut wanted = Wanted::default();
            let all = Membership { origin: if length == 0 { 0 } else { 65000 }, target: 0, length };
            wanted.apply(&announce(&[all]));
            assert!(wanted.wants(&[target(110)]) && !wanted.wants(&[]), "{length}");
            wanted.apply(&withdraw(&[all]));
            assert!(!wanted.wants(&[target(110)]), "{length}");
        }
    }

    #[test]
    fn a_partial_prefix_asks_for_what_begins_with_it() {
        // 65000:256 to 65000:511: all but the last eight bits are given.
        let part = Membership { origin: 65000, target: u64::from_be_bytes(target(256).0), length: 88 };
        let mut wanted = Wanted::default();
        wanted.apply(&announce(&[part]));
        for (number, asked) in [(255, false), (256, true), (300, true), (511, true), (512, false)] {
            assert_eq!(wanted.wants(&[target(number)]), asked, "{number}");
        }
    }

    #[test]
    fn octets_are_as_in_the_rfc() {
        let mut out = Vec::new();
        Membership::DEFAULT.encode(&mut out);
        Membership::of(65000, target(110)).encode(&mut out);
        Membership { origin: 65000, target: 0, length: 32 }.encode(&mut out);
        Membership { origin: 65000, target: 0x0002_8000_0000_0000, length: 49 }.encode(&mut out);
        let expected = "00 | 60 0000fde8 0002fde80000006e | 20 0000fde8 | 31 0000fde8 000280";
        assert_eq!(out, crate::testing::hex(expected));
    }

    fn membership() -> impl Strategy<Value = Membership> {
        let length = prop_oneof![Just(0_u8), 32..=96_u8, 88..=96_u8];
        (length, 0..2_u32, 0..600_u32).prop_map(|(length, origin, number)| {
            let bits = length.saturating_sub(32);
            let mask = u64::MAX.checked_shl(64 - u32::from(bits)).unwrap_or(0);
            let origin = if length == 0 { 0 } else { origin };
            Membership { origin, target: u64::from_be_bytes(target(number).0) & mask, length }
        })
    }

    proptest! {
        /// The counted index says what a look at every membership says.
        #[test]
        fn the_index_agrees_with_the_list(
            steps in proptest::collection::vec((any::<bool>(), membership()), 0..60),
            numbers in proptest::collection::vec(0..600_u32, 1..4),
        ) {
            let mut wanted = Wanted::default();
            let mut list = BTreeSet::new();
            for (add, membership) in steps {
                if add {
                    prop_assert_eq!(wanted.apply(&announce(&[membership])), list.insert(membership));
                } else {
                    prop_assert_eq!(wanted.apply(&withdraw(&[membership])), list.remove(&membership));
                }
            }
            let targets: Vec<RouteTarget> = numbers.into_iter().map(target).collect();
            let naive = targets.iter().any(|target| list.iter().any(|m| {
                (0..m.length.saturating_sub(32)).all(|bit| {
                    let at = 63 - u32::from(bit);
                    (u64::from_be_bytes(target.0) >> at) & 1 == (m.target >> at) & 1
                })
            }));
            prop_assert_eq!(wanted.wants(&targets), naive);
            prop_assert_eq!(wanted.len(), list.len());
        }
    }
}
