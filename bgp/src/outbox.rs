//! Events waiting for a slow owner. Bounded: per peer, changes of one route replace each other, and a session that went
//! up and down many times is told as one that did so once. Pure.

use std::collections::{BTreeMap, VecDeque};
use std::net::IpAddr;

use indexmap::IndexMap;

use crate::route::{RouteChange, RouteKey};
use crate::speaker::{Event, Ticket};

/// Events of one peer that may wait before they are told in short.
const WAITING: usize = 16;

#[derive(Debug)]
enum Item {
    Changes(IndexMap<RouteKey, RouteChange>),
    Other(Event),
}

/// The events not delivered yet.
#[derive(Debug, Default)]
pub(crate) struct Outbox {
    /// Which peers have events, in turn.
    turns: VecDeque<IpAddr>,
    peers: BTreeMap<IpAddr, VecDeque<Item>>,
    sent: Option<Ticket>,
}

impl Outbox {
    /// Whether there is something to deliver.
    pub(crate) fn is_empty(&self) -> bool {
        self.turns.is_empty() && self.sent.is_none()
    }

    /// Adds changes of a peer's routes, behind what waits.
    pub(crate) fn changes(&mut self, peer: IpAddr, changes: Vec<RouteChange>) {
        if changes.is_empty() {
            return;
        }
        let items = self.items(peer);
        if !matches!(items.back(), Some(Item::Changes(_))) {
            items.push_back(Item::Changes(IndexMap::new()));
        }
        if let Some(Item::Changes(map)) = items.back_mut() {
            for change in changes {
                map.insert(key(&change), change);
            }
        }
    }

    /// Adds another event of a peer, behind what waits.
    pub(crate) fn event(&mut self, peer: IpAddr, event: Event) {
        let items = self.items(peer);
        items.push_back(Item::Other(event));
        if items.len() > WAITING {
            let long = std::mem::take(items);
            *items = shorten(long);
        }
    }

    /// Notes that everything up to a ticket is sent.
    pub(crate) fn sent(&mut self, ticket: Ticket) {
        self.sent = Some(ticket);
    }

    /// Takes the next event.
    pub(crate) fn next(&mut self) -> Option<Event> {
        while let Some(peer) = self.turns.pop_front() {
            let Some(items) = self.peers.get_mut(&peer) else { continue };
            let item = items.pop_front();
            if items.is_empty() {
                self.peers.remove(&peer);
            } else {
                self.turns.push_back(peer);
            }
            match item {
                Some(Item::Changes(map)) => {
                    return Some(Event::Received { peer, changes: map.into_values().collect() });
                }
                Some(Item::Other(event)) => return Some(event),
                None => {}
            }
        }
        self.sent.take().map(Event::Sent)
    }

    fn items(&mut self, peer: IpAddr) -> &mut VecDeque<Item> {
        let items = self.peers.entry(peer).or_default();
        if items.is_empty() {
            self.turns.push_back(peer);
        }
        items
    }
}

/// The same end in fewer steps: all changes at once, then the last of each other event, in the order they came in.
fn shorten(items: VecDeque<Item>) -> VecDeque<Item> {
    let mut all = IndexMap::new();
    let mut others: VecDeque<Event> = VecDeque::new();
    for item in items {
        match item {
            Item::Changes(map) => all.extend(map),
            Item::Other(event) => {
                if matches!(event, Event::PeerDown { .. }) {
                    // What was up is told to be down; what it said while up is in `all`.
                    others.clear();
                }
                others.retain(|other| std::mem::discriminant(other) != std::mem::discriminant(&event));
                others.push_back(event);
            }
        }
    }
    let mut short = VecDeque::new();
    // An end of a session comes before the routes of the next one, everything else may come after them.
    if matches!(others.front(), Some(Event::PeerDown { .. })) {
        short.extend(others.pop_front().map(Item::Other));
    }
    if matches!(others.front(), Some(Event::PeerUp { .. })) {
        short.extend(others.pop_front().map(Item::Other));
    }
    if !all.is_empty() {
        short.push_back(Item::Changes(all));
    }
    short.extend(others.into_iter().map(Item::Other));
    short
}

fn key(change: &RouteChange) -> RouteKey {
    match change {
        RouteChange::Announce(route) => route.key,
        RouteChange::Withdraw(key) => *key,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;
    use crate::route::{Route, RouteDistinguisher};
    use crate::testing;

    fn peer(n: u8) -> IpAddr {
        IpAddr::from([10, 0, 0, n])
    }

    fn announce(host: u8, sequence: u32) -> RouteChange {
        let route = testing::mac_ip(host);
        let attributes = Arc::new(crate::Attributes { sequence, ..(*route.attributes).clone() });
        RouteChange::Announce(Route { attributes, ..route })
    }

    #[test]
    fn later_changes_replace_earlier_ones() {
        let mut outbox = Outbox::default();
        for sequence in 0..1000 {
            outbox.changes(peer(1), vec![announce(1, sequence), announce(2, sequence)]);
        }
        assert_eq!(
            outbox.next(),
            Some(Event::Received { peer: peer(1), changes: vec![announce(1, 999), announce(2, 999)] })
        );
        assert!(outbox.is_empty());
    }

    #[test]
    fn order_is_kept_within_a_peer_and_sent_comes_last() {
        let mut outbox = Outbox::default();
        outbox.sent(Ticket(1));
        outbox.event(peer(1), Event::PeerUp { peer: peer(1) });
        outbox.changes(peer(1), vec![announce(1, 0)]);
        outbox.event(peer(1), Event::EndOfRib { peer: peer(1) });
        outbox.changes(peer(1), vec![announce(2, 0)]);
        outbox.sent(Ticket(2));
        let order: Vec<_> = std::iter::from_fn(|| outbox.next()).collect();
        assert_eq!(
            order,
            [
                Event::PeerUp { peer: peer(1) },
                Event::Received { peer: peer(1), changes: vec![announce(1, 0)] },
                Event::EndOfRib { peer: peer(1) },
                Event::Received { peer: peer(1), changes: vec![announce(2, 0)] },
                Event::Sent(Ticket(2)),
            ]
        );
    }

    #[test]
    fn a_flapping_peer_is_told_in_short_and_nothing_is_lost() {
        let mut outbox = Outbox::default();
        for round in 0..100 {
            outbox.event(peer(1), Event::PeerUp { peer: peer(1) });
            outbox.changes(peer(1), vec![announce(round, 0)]);
            outbox.event(peer(1), Event::PeerDown { peer: peer(1), reason: round.to_string() });
            let RouteChange::Announce(route) = announce(round, 0) else { unreachable!("made above") };
            outbox.changes(peer(1), vec![RouteChange::Withdraw(route.key)]);
            assert_eq!(route.key.rd(), RouteDistinguisher::new([10, 99, 0, 100].into(), 110));
        }
        outbox.event(peer(1), Event::PeerUp { peer: peer(1) });
        let events: Vec<_> = std::iter::from_fn(|| outbox.next()).collect();
        assert!(events.len() <= WAITING + 2, "{events:?}");
        let mut left = std::collections::BTreeSet::new();
        let mut up = false;
        for event in events {
            match event {
                Event::PeerUp { .. } => up = true,
                Event::PeerDown { .. } => up = false,
                Event::Received { changes, .. } => {
                    for change in changes {
                        match change {
                            RouteChange::Announce(route) => left.insert(route.key),
                            RouteChange::Withdraw(key) => left.remove(&key),
                        };
                    }
                }
                _ => {}
            }
        }
        assert!(up);
        assert!(left.is_empty(), "{left:?}");
    }
}
