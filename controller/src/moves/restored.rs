//! After the store was restored from an older copy: the fabric remembers sequence numbers that the copy does not, and
//! receivers ignore a lower sequence than they know, also when the MAC moves. What must not be undercut is known from two
//! sides: what this controller itself has announced before the store went back ([`forgotten`]), and what others announced
//! for our own nodes and route reflectors say back. It is announced at once, and written into the store.

use std::time::Duration;

use causeway_proto::{Mac, NetworkKey, PortKey};
use tokio::sync::watch;

use crate::derive::{self, Changed, View, evpn, imports::Imports};
use crate::election::Election;
use crate::ports::Ports;
use crate::snapshot::Snapshot;
use crate::state::State;

/// How long is waited after something was heard: routes come in bursts, and a transaction's own come back at once.
const PAUSE: Duration = Duration::from_secs(1);
/// Ports raised after one look.
const ROUND: usize = 1_000;

/// What was announced with a sequence that the new snapshot does not know: generations only grow, so the store behind it is
/// not the one that it was.
pub(crate) fn forgotten(old: &View, new: &Snapshot, changed: &Changed) -> Vec<((NetworkKey, Mac), u32)> {
    let lost = |key: &PortKey| {
        let bound = derive::bound(&old.snapshot, key).filter(derive::Bound::has_own_mac)?;
        let place = (key.network.clone(), bound.port.mac);
        let binding = new.bindings.get(key).map_or(0, |record| record.value.generation);
        let ledger = new.remembered(&place.0, place.1);
        let said = derive::mobility(old, &bound).announce.filter(|said| *said > 0)?;
        (binding.max(ledger) < bound.binding.generation).then_some((place, said))
    };
    changed.ports.iter().filter_map(lost).collect()
}

/// Bound ports that are announced with a lower sequence than the fabric remembers, and that sequence.
pub(crate) fn undercut(snapshot: &Snapshot, heard: &Imports) -> Vec<(PortKey, u32)> {
    let port = |(place, sequence): (&(causeway_proto::NetworkKey, causeway_proto::Mac), &u32)| {
        let key = &snapshot.by_mac.get(place)?.value.key;
        let bound = derive::bound(snapshot, key).filter(derive::Bound::has_own_mac)?;
        let lower = evpn::sequence(bound.binding.generation) < *sequence && snapshot.moving(key).is_none();
        lower.then(|| (key.clone(), *sequence))
    };
    heard.echoes.iter().chain(heard.own.iter()).filter_map(port).take(ROUND).collect()
}

/// Raises them while this controller leads, until it is dropped.
pub(crate) async fn follow(
    state: State,
    mut heard: watch::Receiver<Imports>,
    ports: Ports,
    election: Election,
) {
    loop {
        let imports = heard.borrow_and_update().clone();
        let lower = if election.is_leading() { undercut(&state.snapshot(), &imports) } else { Vec::new() };
        for (key, sequence) in lower {
            match ports.raise(key.clone(), sequence).await {
                Ok(_) => {
                    tracing::warn!(port = %key, sequence, "the fabric remembers a higher sequence: raised to it")
                }
                Err(error) => tracing::warn!(port = %key, %error, "sequence not raised"),
            }
        }
        tokio::time::sleep(PAUSE).await;
        // Also without news: the leader may be another one now, and a port bound since.
        if tokio::time::timeout(30 * PAUSE, heard.changed()).await.is_ok_and(|changed| changed.is_err()) {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::fixture::{CONTEXT, World, port_key};
    use crate::derive::imports::ImportTable;
    use crate::keys::RecordKey;

    #[test]
    fn an_older_copy_undercuts_nothing_that_was_announced() {
        let copy = World::sample();
        let mut world = copy.clone();
        for node in ["h2", "h3", "h1"] {
            world.unbind("web/a");
            world.bind("web/a", node);
        }
        let mut table = ImportTable::default();
        let before = world.view(&table);
        let key = port_key("web/a");
        let place = (key.network.clone(), world.snapshot.ports.get(&key).unwrap().value.mac);
        let lost = |new: &World| {
            let changed = Changed::between(&world.snapshot, &new.snapshot);
            forgotten(&before, &new.snapshot, &changed)
        };
        let mut usual = world.clone();
        usual.unbind("web/a");
        assert_eq!(lost(&usual), [], "a binding that ends is remembered by the store");
        let mut renamed = world.clone();
        let mut port = world.snapshot.ports.get(&key).unwrap().value.clone();
        (port.spare_mac, port.mac) = (Some(port.mac), Mac::new([2, 0, 0, 0, 0, 9]));
        renamed.put(&RecordKey::Port(key.clone()), &port);
        assert_eq!(lost(&renamed), [], "a move that changes the MAC forgets nothing");
        assert_eq!(lost(&copy), [(place.clone(), 3)]);
        // The copy may be from before the port; a port that is gone for good leaves an entry in the ledger.
        let mut without = copy.clone();
        without.delete(&RecordKey::Binding(key.clone()));
        without.delete(&RecordKey::Port(key.clone()));
        assert_eq!(lost(&without), [(place.clone(), 3)]);
        without.put(&RecordKey::Ledger(place.0.clone(), place.1), &4_u64);
        assert_eq!(lost(&without), []);

        table.remember(place.clone(), 3);
        table.remember(place, 1);
        assert!(table.set_policy(copy.policy()), "another policy does not make it forget");
        let after = View { snapshot: copy.snapshot.clone().into(), ..copy.view(&table) };
        let routes = evpn::port_routes(&after, &CONTEXT, &key).unwrap();
        assert!(
            !routes.is_empty() && routes.iter().all(|route| route.attributes.sequence == 3),
            "{routes:?}"
        );
        assert_eq!(undercut(&after.snapshot, &after.imports), [(key, 3)]);
    }
}
