//! The routes to be announced, each at a place that stays the same while a session has still to be told of it.

use std::collections::HashMap;
use std::sync::Arc;

use indexmap::IndexMap;
use slab::Slab;

use crate::codec::encode;
use crate::route::{Attributes, Route, RouteChange, RouteKey};

/// Marks a route that is withdrawn, and kept until all have been told.
pub(super) const WITHDRAWN: u32 = u32::MAX;
/// Withdrawn routes that may be kept before it is worth the work to drop them.
const TOMBSTONES: usize = 4096;
#[derive(Debug, Clone, Copy)]
pub(super) struct Slot {
    /// Place of its attributes, or [`WITHDRAWN`].
    pub(super) group: u32,
    /// The last replacement it was part of.
    epoch: u32,
}

#[derive(Debug)]
pub(super) struct Group {
    pub(super) attributes: Arc<Attributes>,
    routes: usize,
}

/// The desired routes. Equal attributes are stored once.
#[derive(Debug, Default)]
pub(crate) struct Desired {
    pub(super) routes: IndexMap<RouteKey, Slot>,
    pub(super) groups: Slab<Group>,
    pub(super) by_attributes: HashMap<Arc<Attributes>, u32>,
    live: usize,
    epoch: u32,
    /// Changes that could not be announced, with the reason of the last one.
    pub(crate) refused: u64,
}

impl Desired {
    /// How many routes are announced.
    pub(crate) fn len(&self) -> usize {
        self.live
    }

    /// Applies changes; returns the places of the routes that are now different.
    pub(crate) fn update(&mut self, changes: Vec<RouteChange>) -> Vec<u32> {
        let mut changed = Vec::with_capacity(changes.len());
        for change in changes {
            changed.extend(match change {
                RouteChange::Announce(route) => self.announce(&route),
                RouteChange::Withdraw(key) => self.withdraw(&key),
            });
        }
        changed
    }

    /// Makes `routes` the whole; returns the places of the routes that are now different.
    pub(crate) fn replace(&mut self, routes: &[Route]) -> Vec<u32> {
        self.epoch = self.epoch.wrapping_add(1);
        let mut changed: Vec<u32> = routes.iter().filter_map(|route| self.announce(route)).collect();
        let gone: Vec<RouteKey> = self
            .routes
            .iter()
            .filter(|(_, slot)| slot.group != WITHDRAWN && slot.epoch != self.epoch)
            .map(|(key, _)| *key)
            .collect();
        changed.extend(gone.iter().filter_map(|key| self.withdraw(key)));
        changed
    }

    fn announce(&mut self, route: &Route) -> Option<u32> {
        if let Err(reason) = encode::check(route) {
            // What was announced under this key before is not wanted any more either.
            tracing::warn!(key = ?route.key, reason, "route cannot be announced");
            self.refused += 1;
            return self.withdraw(&route.key);
        }
        let group = self.intern(&route.attributes);
        let epoch = self.epoch;
        let entry = self.routes.entry(route.key);
        let place = u32::try_from(entry.index()).ok()?;
        let slot = entry.or_insert(Slot { group: WITHDRAWN, epoch });
        slot.epoch = epoch;
        let old = std::mem::replace(&mut slot.group, group);
        if old == WITHDRAWN {
            self.live += 1;
        } else {
            self.release(old);
        }
        (old != group).then_some(place)
    }

    fn withdraw(&mut self, key: &RouteKey) -> Option<u32> {
        let (place, _, slot) = self.routes.get_full_mut(key)?;
        let old = std::mem::replace(&mut slot.group, WITHDRAWN);
        if old == WITHDRAWN {
            return None;
        }
        self.live -= 1;
        self.release(old);
        u32::try_from(place).ok()
    }

    fn intern(&mut self, attributes: &Arc<Attributes>) -> u32 {
        let group = match self.by_attributes.get(attributes) {
            Some(&group) => group,
            None => {
                let group = self.groups.insert(Group { attributes: Arc::clone(attributes), routes: 0 });
                // There are never 2^32 of them: each takes more than a hundred bytes.
                let group = u32::try_from(group).unwrap_or(WITHDRAWN - 1);
                self.by_attributes.insert(Arc::clone(attributes), group);
                group
            }
        };
        if let Some(group) = self.groups.get_mut(group as usize) {
            group.routes += 1;
        }
        group
    }

    fn release(&mut self, group: u32) {
        let Some(found) = self.groups.get_mut(group as usize) else { return };
        found.routes -= 1;
        if found.routes == 0 {
            let gone = self.groups.remove(group as usize);
            self.by_attributes.remove(&gone.attributes);
        }
    }

    /// A place's key and, unless withdrawn, its group.
    pub(super) fn at(&self, place: u32) -> Option<(&RouteKey, Option<u32>)> {
        let (key, slot) = self.routes.get_index(place as usize)?;
        Some((key, (slot.group != WITHDRAWN).then_some(slot.group)))
    }

    /// All announced routes, in no order.
    pub(crate) fn iter(&self) -> impl Iterator<Item = Route> {
        self.routes.iter().filter_map(|(key, slot)| {
            let group = self.groups.get(slot.group as usize)?;
            Some(Route { key: *key, attributes: Arc::clone(&group.attributes) })
        })
    }

    /// Places of all announced routes, those that share attributes together.
    pub(super) fn places(&self) -> Vec<u32> {
        let mut places: Vec<(u32, u32)> = self
            .routes
            .values()
            .zip(0..)
            .filter(|(slot, _)| slot.group != WITHDRAWN)
            .map(|(slot, place)| (slot.group, place))
            .collect();
        places.sort_unstable();
        places.into_iter().map(|(_, place)| place).collect()
    }

    /// Forgets withdrawn routes when there are many. Places change: only while all queues are empty. Returns the former
    /// places of those that are left, in order.
    pub(crate) fn compact(&mut self) -> Option<Vec<u32>> {
        let tombstones = self.routes.len() - self.live;
        if tombstones <= TOMBSTONES.max(self.live / 4) {
            return None;
        }
        let left = self.places_in_order();
        self.routes.retain(|_, slot| slot.group != WITHDRAWN);
        self.routes.shrink_to(self.live + self.live / 8);
        Some(left)
    }

    /// Places of all announced routes, ascending.
    pub(super) fn places_in_order(&self) -> Vec<u32> {
        let live = self.routes.values().zip(0..).filter(|(slot, _)| slot.group != WITHDRAWN);
        live.map(|(_, place)| place).collect()
    }

    /// Place of an announced route.
    pub(super) fn place(&self, key: &RouteKey) -> Option<u32> {
        let (place, _, slot) = self.routes.get_full(key)?;
        u32::try_from(place).ok().filter(|_| slot.group != WITHDRAWN)
    }
}
