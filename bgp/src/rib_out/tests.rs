use std::sync::Arc;

use proptest::prelude::*;

use super::desired::WITHDRAWN;
use super::*;
use crate::route::{Attributes, Route, RouteChange};
use crate::testing::{attributes, key, messages, update, writing};

fn announce(host: u32, sequence: u32) -> RouteChange {
    let attributes = Arc::new(Attributes { sequence, ..attributes() });
    RouteChange::Announce(Route { key: key(host), attributes })
}

/// What a peer has after reading these octets, on top of what it had.
fn read(octets: &[u8], table: &mut HashMap<RouteKey, Arc<Attributes>>) -> usize {
    let all = messages(octets, 4096);
    for octets in all.iter().filter(|octets| octets[18] == 2) {
        let update = update(octets, &crate::testing::ibgp()).unwrap();
        for key in update.withdrawn {
            table.remove(&key);
        }
        for route in update.announced {
            table.insert(route.key, route.attributes);
        }
    }
    all.len()
}

fn table(desired: &Desired) -> HashMap<RouteKey, Arc<Attributes>> {
    desired.iter().map(|route| (route.key, route.attributes)).collect()
}

#[test]
fn equal_announcements_and_unknown_withdrawals_change_nothing() {
    let mut desired = Desired::default();
    assert_eq!(desired.update(vec![announce(1, 0), announce(2, 0)]).len(), 2);
    assert_eq!(desired.update(vec![announce(1, 0), RouteChange::Withdraw(key(9))]).len(), 0);
    assert_eq!(desired.update(vec![announce(1, 1)]).len(), 1);
    assert_eq!(desired.len(), 2);
    assert_eq!(desired.groups.len(), 2, "equal attributes are stored once");
    desired.update(vec![RouteChange::Withdraw(key(1)), RouteChange::Withdraw(key(2))]);
    assert_eq!((desired.len(), desired.groups.len(), desired.by_attributes.len()), (0, 0, 0));
}

#[test]
fn what_cannot_be_announced_takes_the_old_one_with_it() {
    let mut desired = Desired::default();
    desired.update(vec![announce(1, 0)]);
    let bad = Attributes { route_targets: vec![], ..attributes() };
    let changed =
        desired.update(vec![RouteChange::Announce(Route { key: key(1), attributes: Arc::new(bad) })]);
    assert_eq!((changed.len(), desired.len(), desired.refused), (1, 0, 1));
}

#[test]
fn announce_then_withdraw_leaves_one_withdrawal() {
    let mut desired = Desired::default();
    let mut queue = OutQueue::full(&desired, Ticket(0));
    for ticket in 1..100 {
        let changed = desired.update(vec![announce(1, u32::try_from(ticket).unwrap())]);
        queue.extend(&changed, Ticket(ticket));
    }
    let changed = desired.update(vec![RouteChange::Withdraw(key(1))]);
    queue.extend(&changed, Ticket(100));
    assert_eq!(queue.waiting(), 1);
    assert!(queue.markers.len() <= 3, "markers are bounded by what waits");
    let chunk = queue.take(&desired, &writing());
    assert_eq!((chunk.messages, chunk.ticket), (1, Some(Ticket(100))));
    assert_eq!(update(&chunk.octets, &crate::testing::ibgp()).unwrap().withdrawn, [key(1)]);
    assert!(queue.is_done());
}

#[test]
fn a_full_table_is_packed_by_attributes_and_end_of_rib_comes_last() {
    let mut desired = Desired::default();
    // Interleaved: neighbours in the order of insertion never share attributes.
    desired.update((0..20_000).map(|host| announce(host, host % 4)).collect());
    let mut queue = OutQueue::full(&desired, Ticket(7));
    queue.end_of_rib();
    let (mut there, mut count) = (HashMap::new(), 0);
    loop {
        let chunk = queue.take(&desired, &writing());
        count += read(&chunk.octets, &mut there);
        if chunk.end_of_rib {
            assert!(chunk.octets.ends_with(&codec::end_of_rib()));
            assert_eq!(chunk.ticket, Some(Ticket(7)));
            break;
        }
        assert_eq!(chunk.ticket, None);
    }
    assert_eq!(there, table(&desired));
    assert!(count < 20_000 / 80, "{count} messages");
    assert!(queue.is_done());
}

#[test]
fn a_refresh_resends_everything_between_its_ends() {
    let mut desired = Desired::default();
    desired.update((0..10).map(|host| announce(host, 0)).collect());
    let mut queue = OutQueue::full(&desired, Ticket(1));
    let mut there = HashMap::new();
    read(&queue.take(&desired, &writing()).octets, &mut there);
    let changed = desired.update(vec![RouteChange::Withdraw(key(0)), announce(1, 5)]);
    queue.extend(&changed, Ticket(2));
    queue.refresh(&desired, true);
    let mut octets = Vec::new();
    let mut ticket = None;
    while !queue.is_done() {
        let chunk = queue.take(&desired, &writing());
        ticket = chunk.ticket.or(ticket);
        octets.extend(chunk.octets);
    }
    let kinds: Vec<(u8, u8)> = messages(&octets, 4096).iter().map(|m| (m[18], m[21])).collect();
    assert_eq!((kinds.first(), kinds.last()), (Some(&(5, 1)), Some(&(5, 2))), "{kinds:?}");
    assert_eq!(ticket, Some(Ticket(2)));
    read(&octets, &mut there);
    assert_eq!(there, table(&desired));
    assert!(!there.contains_key(&key(0)), "the withdrawal that waited is told too");
}

#[test]
fn withdrawn_routes_are_forgotten_when_many() {
    let mut desired = Desired::default();
    desired.update((0..10_000).map(|host| announce(host, 0)).collect());
    desired.update((0..9_000).map(|host| RouteChange::Withdraw(key(host))).collect());
    assert_eq!(desired.routes.len(), 10_000);
    desired.compact();
    assert_eq!((desired.routes.len(), desired.len()), (1000, 1000));
    assert_eq!(table(&desired).len(), 1000);
}

#[derive(Debug, Clone)]
enum Step {
    Update(Vec<(u32, Option<u32>)>),
    Replace(Vec<(u32, u32)>),
    Take,
    Refresh(bool),
    Restart,
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let change = (0..20_u32, proptest::option::of(0..3_u32));
    let step = prop_oneof![
        4 => proptest::collection::vec(change, 0..6).prop_map(Step::Update),
        1 => proptest::collection::vec((0..20_u32, 0..3_u32), 0..12).prop_map(Step::Replace),
        3 => Just(Step::Take),
        1 => any::<bool>().prop_map(Step::Refresh),
        1 => Just(Step::Restart),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    /// Whatever happens in whatever order: once the queue is empty the peer has what is desired, and a ticket is never
    /// given before its changes.
    #[test]
    fn the_peer_ends_with_the_desired_routes(steps in steps()) {
        let mut desired = Desired::default();
        let mut queue = OutQueue::full(&desired, Ticket(0));
        let mut there = HashMap::new();
        let mut ticket = 0;
        for step in steps {
            match step {
                Step::Update(changes) => {
                    let changes = changes.into_iter().map(|(host, sequence)| match sequence {
                        Some(sequence) => announce(host, sequence),
                        None => RouteChange::Withdraw(key(host)),
                    });
                    let changed = desired.update(changes.collect());
                    ticket += 1;
                    queue.extend(&changed, Ticket(ticket));
                }
                Step::Replace(routes) => {
                    let routes: Vec<Route> = routes
                        .into_iter()
                        .map(|(host, sequence)| Route {
                            key: key(host),
                            attributes: Arc::new(Attributes { sequence, ..attributes() }),
                        })
                        .collect();
                    let changed = desired.replace(&routes);
                    prop_assert!(desired.len() <= routes.len());
                    ticket += 1;
                    queue.extend(&changed, Ticket(ticket));
                }
                Step::Take => {
                    let chunk = queue.take(&desired, &writing());
                    read(&chunk.octets, &mut there);
                    if chunk.ticket == Some(Ticket(ticket)) {
                        prop_assert_eq!(&there, &table(&desired));
                    }
                }
                Step::Refresh(framed) => queue.refresh(&desired, framed),
                Step::Restart => {
                    there.clear();
                    queue = OutQueue::full(&desired, Ticket(ticket));
                }
            }
        }
        let mut sent = None;
        while !queue.is_done() {
            let chunk = queue.take(&desired, &writing());
            sent = chunk.ticket.or(sent);
            read(&chunk.octets, &mut there);
        }
        prop_assert_eq!(there, table(&desired));
        prop_assert!(sent.is_none_or(|sent| sent == Ticket(ticket)));
    }
}

/// Of the targets 65000:0 to 65000:2, a route has the one of its sequence.
fn with_target(host: u32, sequence: u32) -> Route {
    let route_targets = vec![crate::RouteTarget::new(65000, sequence).unwrap()];
    Route { key: key(host), attributes: Arc::new(Attributes { sequence, route_targets, ..attributes() }) }
}

fn membership(number: u32) -> crate::constraint::Membership {
    match number {
        3 => crate::constraint::Membership::DEFAULT,
        number => crate::constraint::Membership::of(65000, crate::RouteTarget::new(65000, number).unwrap()),
    }
}

fn asks(number: u32, add: bool) -> MembershipChanges {
    let list = vec![membership(number)];
    match add {
        true => MembershipChanges { announced: list, ..MembershipChanges::default() },
        false => MembershipChanges { withdrawn: list, ..MembershipChanges::default() },
    }
}

#[test]
fn a_change_of_mind_costs_its_difference() {
    let mut desired = Desired::default();
    let routes = (0..300).map(|host| RouteChange::Announce(with_target(host, host % 3)));
    desired.update(routes.collect());
    let mut queue = OutQueue::constrained(Ticket(1));
    let mut there = HashMap::new();
    let mut step = |queue: &mut OutQueue, changes: MembershipChanges| {
        queue.asked(&changes);
        queue.constrain(&desired);
        let waiting = queue.waiting();
        read(&queue.take(&desired, &writing()).octets, &mut there);
        assert_eq!(queue.told(&desired), there.len());
        (waiting, there.len())
    };
    assert_eq!(step(&mut queue, MembershipChanges::default()), (0, 0), "nothing unasked");
    assert_eq!(step(&mut queue, asks(0, true)), (100, 100));
    assert_eq!(step(&mut queue, asks(0, true)), (0, 100));
    assert_eq!(step(&mut queue, asks(3, true)), (200, 300), "widened");
    assert_eq!(step(&mut queue, asks(0, false)), (0, 300), "the default covers it");
    assert!(queue.has(&desired, &key(0)));
    assert_eq!(step(&mut queue, asks(3, false)), (300, 0), "withdrawn");
    assert!(!queue.has(&desired, &key(0)) && queue.is_done());
}

#[derive(Debug, Clone)]
enum Asking {
    Update(Vec<(u32, Option<u32>)>),
    Ask(u32, bool),
    Take,
    Refresh(bool),
    Compact,
}

fn asking() -> impl Strategy<Value = Vec<Asking>> {
    let change = (0..20_u32, proptest::option::of(0..3_u32));
    let step = prop_oneof![
        4 => proptest::collection::vec(change, 0..6).prop_map(Asking::Update),
        3 => (0..4_u32, any::<bool>()).prop_map(|(number, add)| Asking::Ask(number, add)),
        3 => Just(Asking::Take),
        1 => any::<bool>().prop_map(Asking::Refresh),
        1 => Just(Asking::Compact),
    ];
    proptest::collection::vec(step, 0..40)
}

proptest! {
    /// A peer with route target constraint ends with the desired routes that it asked for, and never has another.
    #[test]
    fn the_peer_ends_with_what_it_asked_for(steps in asking()) {
        let mut desired = Desired::default();
        let mut queue = OutQueue::constrained(Ticket(0));
        let mut there = HashMap::new();
        let mut wanted = Wanted::default();
        let expected = |desired: &Desired, wanted: &Wanted| {
            let mut table = table(desired);
            table.retain(|_, attributes| wanted.wants(&attributes.route_targets));
            table
        };
        for step in steps.into_iter().chain([Asking::Take]) {
            match step {
                Asking::Update(changes) => {
                    let changes = changes.into_iter().map(|(host, sequence)| match sequence {
                        Some(sequence) => RouteChange::Announce(with_target(host, sequence)),
                        None => RouteChange::Withdraw(key(host)),
                    });
                    let changed = desired.update(changes.collect());
                    queue.extend(&changed, Ticket(1));
                }
                Asking::Ask(number, add) => {
                    wanted.apply(&asks(number, add));
                    queue.asked(&asks(number, add));
                }
                Asking::Take => {
                    queue.constrain(&desired);
                    while !queue.is_done() {
                        read(&queue.take(&desired, &writing()).octets, &mut there);
                    }
                    prop_assert_eq!(&there, &expected(&desired, &wanted));
                    prop_assert_eq!(queue.told(&desired), there.len());
                }
                Asking::Refresh(framed) => queue.refresh(&desired, framed),
                Asking::Compact if queue.is_done() => {
                    let left: Vec<u32> = desired.places_in_order();
                    desired.routes.retain(|_, slot| slot.group != WITHDRAWN);
                    queue.compacted(&left);
                }
                Asking::Compact => {}
            }
        }
    }
}
