//! Prefixes that the fabric says, and which ways to them are equal.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_bgp::RouteKey;
use causeway_proto::{Mac, Name, Prefix};

use super::{Imports, Prefixed};

/// Equal ways at most: what hardware and the kernel take without a thought.
const MOST_WAYS: usize = 16;

/// One route to a prefix.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
struct Way {
    sequence: u32,
    vtep: IpAddr,
    router_mac: Mac,
}

/// Received routes by the prefixes they lead to.
#[derive(Debug, Default)]
pub(super) struct PrefixTable {
    ways: BTreeMap<(Name, Prefix), BTreeMap<(RouteKey, IpAddr), Way>>,
}

impl PrefixTable {
    pub(super) fn add(
        &mut self,
        imports: &mut Imports,
        peer: IpAddr,
        key: RouteKey,
        sequence: u32,
        prefixed: &Prefixed,
    ) {
        let way = Way { sequence, vtep: prefixed.vtep, router_mac: prefixed.router_mac };
        for vrf in &prefixed.vrfs {
            let place = (vrf.clone(), prefixed.prefix);
            self.ways.entry(place.clone()).or_default().insert((key, peer), way);
            self.publish(imports, place);
        }
    }

    pub(super) fn remove(
        &mut self,
        imports: &mut Imports,
        peer: IpAddr,
        key: &RouteKey,
        prefixed: &Prefixed,
    ) {
        for vrf in &prefixed.vrfs {
            let place = (vrf.clone(), prefixed.prefix);
            if let Some(ways) = self.ways.get_mut(&place) {
                ways.remove(&(*key, peer));
                if ways.is_empty() {
                    self.ways.remove(&place);
                }
            }
            self.publish(imports, place);
        }
    }

    fn publish(&self, imports: &mut Imports, place: (Name, Prefix)) {
        let chosen = self.ways.get(&place).map(choose).filter(|ways| !ways.is_empty());
        match chosen {
            Some(chosen) if imports.prefixes.get(&place).is_some_and(|old| **old == chosen) => {}
            Some(chosen) => {
                imports.prefixes.insert(place, Arc::new(chosen));
            }
            None => {
                imports.prefixes.remove(&place);
            }
        }
    }
}

/// The ways that are used. A host (type 2) is in one place: the highest mobility sequence, then the lowest next hop; it
/// beats a prefix of the same length (type 5), whose ways are all equal. A VTEP has one router MAC: of two the lowest.
fn choose(ways: &BTreeMap<(RouteKey, IpAddr), Way>) -> BTreeSet<(IpAddr, Mac)> {
    let hosts = ways.iter().filter(|((key, _), _)| matches!(key, RouteKey::MacIp { .. })).map(|(_, way)| way);
    if let Some(best) = hosts.min_by_key(|way| (u32::MAX - way.sequence, way.vtep, way.router_mac)) {
        return BTreeSet::from([(best.vtep, best.router_mac)]);
    }
    let mut chosen: BTreeMap<IpAddr, Mac> = BTreeMap::new();
    for way in ways.values() {
        let mac = chosen.entry(way.vtep).or_insert(way.router_mac);
        *mac = (*mac).min(way.router_mac);
    }
    chosen.into_iter().take(MOST_WAYS).collect()
}
