//! What the peers say (Adj-RIB-In), with indexes for the questions people and the mobility ledger ask. Pure: the time is
//! passed in.

use std::collections::{BTreeSet, HashMap, HashSet};
use std::net::IpAddr;
use std::sync::Arc;
use std::time::SystemTime;

use causeway_proto::{Mac, Vni};
use slab::Slab;

use crate::codec::update::Update;
use crate::route::{Attributes, Route, RouteChange, RouteKey};
use crate::speaker::{ReceivedRoute, RouteFilter};

#[derive(Debug)]
struct Entry {
    peer: IpAddr,
    key: RouteKey,
    attributes: Arc<Attributes>,
    received: SystemTime,
    stale: bool,
}

#[derive(Debug, Default)]
struct FromPeer {
    places: HashMap<RouteKey, u32>,
    stale: usize,
}

/// All routes of all peers.
#[derive(Debug, Default)]
pub(crate) struct RibIn {
    entries: Slab<Entry>,
    peers: HashMap<IpAddr, FromPeer>,
    by_mac: BTreeSet<(Mac, u32)>,
    by_ip: BTreeSet<(IpAddr, u32)>,
    by_vni: BTreeSet<(Vni, u32)>,
    /// Attribute sets in use, each stored once.
    sets: HashSet<Arc<Attributes>>,
    /// Size of `sets` at which to look for unused ones again.
    sweep_at: usize,
}

impl RibIn {
    /// Applies an UPDATE. Returns what is different now.
    pub(crate) fn apply(&mut self, peer: IpAddr, update: Update, now: SystemTime) -> Vec<RouteChange> {
        let mut changes = Vec::with_capacity(update.withdrawn.len() + update.announced.len());
        for key in update.withdrawn {
            if self.remove(peer, &key) {
                changes.push(RouteChange::Withdraw(key));
            }
        }
        for route in update.announced {
            if let Some(route) = self.insert(peer, route, now) {
                changes.push(RouteChange::Announce(route));
            }
        }
        changes
    }

    /// The route in its stored form, unless the peer has only repeated itself.
    fn insert(&mut self, peer: IpAddr, route: Route, now: SystemTime) -> Option<Route> {
        let attributes = self.intern(route.attributes);
        let from = self.peers.entry(peer).or_default();
        if let Some(&place) = from.places.get(&route.key) {
            let entry = self.entries.get_mut(place as usize)?;
            from.stale -= usize::from(std::mem::take(&mut entry.stale));
            entry.received = now;
            if entry.attributes == attributes {
                return None;
            }
            let old = std::mem::replace(&mut entry.attributes, Arc::clone(&attributes));
            for vni in vnis(&old) {
                self.by_vni.remove(&(vni, place));
            }
            self.by_vni.extend(vnis(&attributes).map(|vni| (vni, place)));
            return Some(Route { key: route.key, attributes });
        }
        let entry =
            Entry { peer, key: route.key, attributes: Arc::clone(&attributes), received: now, stale: false };
        // An entry takes more than a hundred bytes: there are never 2^32.
        let place = u32::try_from(self.entries.insert(entry)).ok()?;
        from.places.insert(route.key, place);
        self.by_mac.extend(mac(&route.key).map(|mac| (mac, place)));
        self.by_ip.extend(ip(&route.key).map(|ip| (ip, place)));
        self.by_vni.extend(vnis(&attributes).map(|vni| (vni, place)));
        Some(Route { key: route.key, attributes })
    }

    fn remove(&mut self, peer: IpAddr, key: &RouteKey) -> bool {
        let Some(from) = self.peers.get_mut(&peer) else { return false };
        let Some(place) = from.places.remove(key) else { return false };
        let Some(entry) = self.entries.try_remove(place as usize) else { return false };
        from.stale -= usize::from(entry.stale);
        if let Some(mac) = mac(key) {
            self.by_mac.remove(&(mac, place));
        }
        if let Some(ip) = ip(key) {
            self.by_ip.remove(&(ip, place));
        }
        for vni in vnis(&entry.attributes) {
            self.by_vni.remove(&(vni, place));
        }
        true
    }

    fn intern(&mut self, attributes: Arc<Attributes>) -> Arc<Attributes> {
        if let Some(known) = self.sets.get(&attributes) {
            return Arc::clone(known);
        }
        if self.sets.len() >= self.sweep_at {
            self.sets.retain(|set| Arc::strong_count(set) > 1);
            self.sweep_at = 1024.max(2 * self.sets.len());
        }
        self.sets.insert(Arc::clone(&attributes));
        attributes
    }

    /// Marks all routes of a peer as not confirmed.
    pub(crate) fn mark_stale(&mut self, peer: IpAddr) {
        let Some(from) = self.peers.get_mut(&peer) else { return };
        for &place in from.places.values() {
            if let Some(entry) = self.entries.get_mut(place as usize) {
                entry.stale = true;
            }
        }
        from.stale = from.places.len();
    }

    /// Drops the routes of a peer that are not confirmed; returns their keys in order.
    pub(crate) fn sweep(&mut self, peer: IpAddr) -> Vec<RouteKey> {
        match self.peers.get(&peer) {
            Some(from) if from.stale > 0 => self.drop_where(peer, |entry| entry.stale),
            _ => Vec::new(),
        }
    }

    /// Drops all routes of a peer; returns their keys in order.
    pub(crate) fn clear(&mut self, peer: IpAddr) -> Vec<RouteKey> {
        let keys = self.drop_where(peer, |_| true);
        self.peers.remove(&peer);
        keys
    }

    fn drop_where(&mut self, peer: IpAddr, wanted: impl Fn(&Entry) -> bool) -> Vec<RouteKey> {
        let places = self.peers.get(&peer).map(|from| from.places.values()).into_iter().flatten();
        let mut keys: Vec<RouteKey> = places
            .filter_map(|&place| self.entries.get(place as usize))
            .filter(|entry| wanted(entry))
            .map(|entry| entry.key)
            .collect();
        keys.sort_unstable();
        for key in &keys {
            self.remove(peer, key);
        }
        keys
    }

    /// How many routes a peer has announced, and how many of them are not confirmed.
    pub(crate) fn count(&self, peer: IpAddr) -> (usize, usize) {
        self.peers.get(&peer).map_or((0, 0), |from| (from.places.len(), from.stale))
    }

    /// The routes that match, by peer and key.
    pub(crate) fn find(&self, filter: &RouteFilter) -> Vec<ReceivedRoute> {
        let matching = |entry: &&Entry| {
            filter.peer.is_none_or(|peer| peer == entry.peer)
                && matches(filter, &entry.key, &entry.attributes)
        };
        let mut found: Vec<&Entry> = match self.candidates(filter) {
            Some(places) => places
                .into_iter()
                .filter_map(|place| self.entries.get(place as usize))
                .filter(matching)
                .collect(),
            None => self.entries.iter().map(|(_, entry)| entry).filter(matching).collect(),
        };
        found.sort_unstable_by_key(|entry| (entry.peer, entry.key));
        if filter.limit > 0 {
            found.truncate(filter.limit);
        }
        found
            .into_iter()
            .map(|entry| ReceivedRoute {
                peer: entry.peer,
                route: Route { key: entry.key, attributes: Arc::clone(&entry.attributes) },
                stale: entry.stale,
                received: entry.received,
            })
            .collect()
    }

    /// All routes for these MACs, by MAC, peer and key.
    pub(crate) fn of_macs(&self, macs: &[Mac]) -> Vec<ReceivedRoute> {
        let of_mac = |mac: &Mac| self.find(&RouteFilter { mac: Some(*mac), ..RouteFilter::default() });
        macs.iter().flat_map(of_mac).collect()
    }

    /// What an index says; `None`: no index helps.
    fn candidates(&self, filter: &RouteFilter) -> Option<Vec<u32>> {
        if let Some(mac) = filter.mac {
            return Some(self.by_mac.range((mac, 0)..=(mac, u32::MAX)).map(|(_, place)| *place).collect());
        }
        if let Some(ip) = filter.ip
            && matches!(filter.route_type, Some(2 | 3))
        {
            return Some(self.by_ip.range((ip, 0)..=(ip, u32::MAX)).map(|(_, place)| *place).collect());
        }
        let vni = filter.vni?;
        Some(self.by_vni.range((vni, 0)..=(vni, u32::MAX)).map(|(_, place)| *place).collect())
    }
}

/// Whether a route is asked for, but for its peer.
pub(crate) fn matches(filter: &RouteFilter, key: &RouteKey, attributes: &Attributes) -> bool {
    let address = |wanted: IpAddr| match *key {
        RouteKey::IpPrefix { prefix, .. } => prefix.contains(wanted),
        _ => ip(key) == Some(wanted),
    };
    filter.route_type.is_none_or(|kind| kind == key.route_type())
        && filter.mac.is_none_or(|wanted| mac(key) == Some(wanted))
        && filter.ip.is_none_or(address)
        && filter.vni.is_none_or(|wanted| vnis(attributes).any(|vni| vni == wanted))
}

fn mac(key: &RouteKey) -> Option<Mac> {
    match *key {
        RouteKey::MacIp { mac, .. } => Some(mac),
        _ => None,
    }
}

fn ip(key: &RouteKey) -> Option<IpAddr> {
    match *key {
        RouteKey::MacIp { ip, .. } => ip,
        RouteKey::Imet { originator, .. } | RouteKey::EthernetSegment { originator, .. } => Some(originator),
        RouteKey::EthernetAd { .. } | RouteKey::IpPrefix { .. } => None,
    }
}

fn vnis(attributes: &Attributes) -> impl Iterator<Item = Vni> {
    [attributes.vni, attributes.l3_vni, attributes.pmsi.map(|pmsi| pmsi.vni)].into_iter().flatten()
}

#[cfg(test)]
mod tests;
