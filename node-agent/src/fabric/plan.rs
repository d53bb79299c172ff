//! The part of a plan that is about switching and routing.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use super::diff::{Around, Diff, diff};
use super::wanted::Wanted;
use super::{Seen, Step, Thing};
use crate::dev::Dev;
use crate::model::{Desired, Key};
use crate::plan::Phase;

/// Steps and problems. `keys`: what to compare, `None` for everything; `lost`: devices that the rest of the plan
/// deletes or makes anew.
pub(crate) fn plan(
    desired: &Desired,
    seen: &Seen,
    vtep: IpAddr,
    keys: Option<&BTreeSet<Key>>,
    lost: &BTreeSet<Dev>,
    around: &Around<'_>,
) -> (Vec<(Phase, Step)>, BTreeMap<Thing, String>) {
    let wanted = Wanted::new(desired, vtep);
    let mut seen = Cow::Borrowed(seen);
    for dev in lost {
        seen.to_mut().forget(dev);
    }
    let things = keys.filter(|_| lost.is_empty()).map(things_of);
    let Diff { steps, problems } = diff(&wanted, seen, things.as_ref(), around);
    (steps, problems)
}

/// What leaves nothing of switching and routing on a node that does neither.
pub(crate) fn removal(seen: &Seen) -> Vec<Step> {
    let gone = seen.things.iter().filter_map(|(thing, object)| match thing {
        Thing::Link(dev) => Some(Step::Remove(dev.clone())),
        Thing::Barrier(..) | Thing::Route(..) => Some(Step::Take(thing.clone(), object.clone())),
        _ => None,
    });
    gone.collect()
}

/// A network that changes may change anything.
fn things_of(keys: &BTreeSet<Key>) -> BTreeSet<Thing> {
    let things = keys.iter().filter_map(|key| match key {
        Key::Fabric(thing) => Some(thing.clone()),
        Key::Network(_) => Some(Thing::structure()),
        _ => None,
    });
    things.collect()
}

/// On a switch MACs, flood lists and neighbours of networks show in other places than on a host.
pub(crate) fn translate(desired: &Desired, dirty: BTreeSet<Key>) -> BTreeSet<Key> {
    let Some(vtep) = desired.vtep().filter(|_| desired.fabric().mode().is_switch()) else { return dirty };
    let wanted = Wanted::new(desired, vtep);
    let mut things = BTreeSet::new();
    for key in dirty {
        match key {
            Key::Network(_) => _ = things.insert(Key::Fabric(Thing::structure())),
            Key::Mac(vni, mac) => things.extend(wanted.of_mac(vni, mac).map(Key::Fabric)),
            Key::Flood(vni, vtep) => things.extend(wanted.of_flood(vni, vtep).map(Key::Fabric)),
            Key::Neigh(vni, ip) => things.extend(wanted.of_neighbour(vni, ip).map(Key::Fabric)),
            Key::Lan | Key::Port(_) | Key::Fabric(_) => _ = things.insert(key),
        }
    }
    things
}
