//! What will be done in a run, as its seed says: the same seed gives the same calls and the same failures at the same
//! times, whatever they lead to.

use std::time::Duration;

use rand::prelude::*;

/// Ports that are made, moved and given up.
pub(crate) const PORTS: usize = 12;
/// Hosts.
pub(crate) const HOSTS: usize = 6;
/// Controllers.
pub(crate) const CONTROLLERS: usize = 3;
/// Clients at once.
pub(crate) const LANES: usize = 4;
/// Between two calls of a client.
const CALLS: std::ops::Range<u64> = 80..500;
/// Between two failures.
const FAILURES: std::ops::Range<u64> = 900..3_000;

/// A call.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Call {
    /// Make it, or take it back; bound to a host.
    Create(Option<usize>),
    Bind(usize),
    Unbind,
    Migrate(usize),
    Rollback,
    /// Change its rate limit to so many Mbit/s.
    Update(u64),
    /// With its addresses, or not.
    Release(bool),
}

/// Something that fails for a while.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Failure {
    /// `kill -9` of a controller, which is started again afterwards.
    ControllerDies(usize),
    /// `kill -9` of an agent, which is started again afterwards.
    AgentDies(usize),
    /// A host reaches no controller.
    HostIsCut(usize),
    /// What a host sends to one controller is lost, but not what that one sends.
    HostIsMute(usize, usize),
    /// What one controller sends to a host is lost, but not what the host sends.
    HostIsDeaf(usize, usize),
    /// A host reaches no controller, and is fenced so that its ports may live elsewhere meanwhile.
    HostIsFenced(usize),
    /// A controller does not reach the store.
    ControllerIsCut(usize),
    /// `kill -9` of the store, which is started again afterwards.
    StoreDies,
    /// The store answers nobody (SIGSTOP).
    StoreHangs,
}

/// A client's next call: when, of which port, and which controller is asked first.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Order {
    pub(crate) at: Duration,
    pub(crate) port: usize,
    pub(crate) asks: usize,
    pub(crate) call: Call,
}

/// Everything that will be done.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Script {
    /// What each client does, one after the other.
    pub(crate) lanes: Vec<Vec<Order>>,
    /// What fails: from when, to when.
    pub(crate) failures: Vec<(Duration, Duration, Failure)>,
}

impl Script {
    /// The script of a seed, for so long.
    pub(crate) fn new(seed: u64, length: Duration) -> Script {
        let mut rng = StdRng::seed_from_u64(seed);
        let length = u64::try_from(length.as_millis()).unwrap_or(u64::MAX);
        let lanes = (0..LANES).map(|_| lane(&mut rng, length)).collect();
        Script { lanes, failures: failures(&mut rng, length) }
    }
}

fn lane(rng: &mut StdRng, length: u64) -> Vec<Order> {
    let (mut orders, mut at) = (Vec::new(), 0);
    loop {
        at += rng.random_range(CALLS);
        if at >= length {
            return orders;
        }
        let (host, port) = (rng.random_range(0..HOSTS), rng.random_range(0..PORTS));
        let calls = match rng.random_range(0..20) {
            0..4 => vec![(port, Call::Create(rng.random_bool(0.8).then_some(host)))],
            4..6 => vec![(port, Call::Bind(host))],
            6 => vec![(port, Call::Unbind)],
            7..11 => vec![(port, Call::Migrate(host))],
            11 => vec![(port, Call::Rollback)],
            12 => vec![(port, Call::Update(rng.random_range(1..100)))],
            13..15 => vec![(port, Call::Release(rng.random_bool(0.6)))],
            // One thing on the heels of another: a move by hand, and an address that goes to the next one who asks.
            15..18 => vec![(port, Call::Unbind), (port, Call::Bind(host))],
            _ => vec![
                (port, Call::Release(true)),
                ((port + rng.random_range(1..PORTS)) % PORTS, Call::Create(Some(host))),
            ],
        };
        for (port, call) in calls {
            let asks = rng.random_range(0..CONTROLLERS);
            orders.push(Order { at: Duration::from_millis(at), port, asks, call });
        }
    }
}

/// Kinds of failures, as often as they come around.
fn deck(rng: &mut StdRng) -> Vec<fn(usize, usize) -> Failure> {
    let mut deck: Vec<fn(usize, usize) -> Failure> = vec![
        |_, controller| Failure::ControllerDies(controller),
        |_, controller| Failure::ControllerDies(controller),
        |host, _| Failure::AgentDies(host),
        |host, _| Failure::AgentDies(host),
        |host, _| Failure::AgentDies(host),
        |host, _| Failure::HostIsCut(host),
        |host, _| Failure::HostIsCut(host),
        Failure::HostIsMute,
        Failure::HostIsDeaf,
        |host, _| Failure::HostIsFenced(host),
        |_, controller| Failure::ControllerIsCut(controller),
        |_, controller| Failure::ControllerIsCut(controller),
        |_, _| Failure::StoreDies,
        |_, _| Failure::StoreHangs,
    ];
    deck.shuffle(rng);
    deck
}

/// All are over when the run is. One controller at least is left alone at any time, but for the store's own failures.
fn failures(rng: &mut StdRng, length: u64) -> Vec<(Duration, Duration, Failure)> {
    let mut all: Vec<(Duration, Duration, Failure)> = Vec::new();
    let (mut at, mut cards) = (1_000, Vec::new());
    loop {
        at += rng.random_range(FAILURES);
        if at >= length {
            return all;
        }
        if cards.is_empty() {
            cards = deck(rng);
        }
        // Some are over before anybody notices, some last longer than leases and keepalives.
        let lasts = if rng.random_bool(0.3) { 8_000..16_000 } else { 200..4_000 };
        let lasts = rng.random_range(lasts);
        let begin = Duration::from_millis(at);
        let now: Vec<Failure> =
            all.iter().filter(|(_, until, _)| *until >= begin).map(|(_, _, failure)| *failure).collect();
        let first = (rng.random_range(0..HOSTS), rng.random_range(0..CONTROLLERS));
        // The first card that fits what is under way, at the first host and controller that it fits.
        let found = cards.iter().enumerate().find_map(|(card, make)| {
            let mut places = (0..HOSTS).flat_map(|h| (0..CONTROLLERS).map(move |c| (h, c)));
            places.find_map(|(host, controller)| {
                let failure = make((first.0 + host) % HOSTS, (first.1 + controller) % CONTROLLERS);
                let fits = at + least(failure) <= length && goes_with(failure, &now);
                fits.then_some((card, failure))
            })
        });
        if let Some((card, failure)) = found {
            cards.remove(card);
            let end = (at + lasts.max(least(failure))).min(length);
            all.push((begin, Duration::from_millis(end), failure));
        }
    }
}

/// How long something lasts at least, in milliseconds. What an agent heard of just before it is fenced, it has done by then.
fn least(failure: Failure) -> u64 {
    if matches!(failure, Failure::HostIsFenced(_)) { 2_000 } else { 0 }
}

/// True if it can fail while these do.
fn goes_with(failure: Failure, now: &[Failure]) -> bool {
    let host = host_of(&failure);
    let same_host = host.is_some() && now.iter().any(|other| host_of(other) == host);
    let hit: Vec<usize> = now.iter().filter_map(controller_of).collect();
    let controllers =
        controller_of(&failure).is_none_or(|n| !hit.contains(&n) && hit.len() + 1 < CONTROLLERS);
    // A fence has to be written.
    let needs_store = matches!(failure, Failure::HostIsFenced(_));
    let writes = now.iter().any(|other| matches!(other, Failure::HostIsFenced(_)));
    let store = match is_of_store(&failure) {
        true => !writes && !now.iter().any(is_of_store),
        false => !needs_store || !now.iter().any(is_of_store),
    };
    !same_host && controllers && store
}

fn is_of_store(failure: &Failure) -> bool {
    matches!(failure, Failure::StoreDies | Failure::StoreHangs)
}

/// The controller that serves nobody meanwhile.
fn controller_of(failure: &Failure) -> Option<usize> {
    match failure {
        Failure::ControllerDies(n) | Failure::ControllerIsCut(n) => Some(*n),
        _ => None,
    }
}

fn host_of(failure: &Failure) -> Option<usize> {
    match failure {
        Failure::AgentDies(n)
        | Failure::HostIsCut(n)
        | Failure::HostIsFenced(n)
        | Failure::HostIsMute(n, _)
        | Failure::HostIsDeaf(n, _) => Some(*n),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::{BTreeSet, HashSet};

    use super::*;

    #[test]
    fn a_seed_says_everything() {
        let two_minutes = Duration::from_secs(120);
        let script = Script::new(7, two_minutes);
        assert_eq!(script, Script::new(7, two_minutes));
        assert_ne!(script, Script::new(8, two_minutes));
    }

    #[test]
    fn a_script_has_everything_and_leaves_one_controller_alone() {
        for seed in 0..50 {
            let length = Duration::from_secs(120);
            let script = Script::new(seed, length);
            let calls = script.lanes.iter().flatten().map(|order| std::mem::discriminant(&order.call));
            assert_eq!(calls.collect::<HashSet<_>>().len(), 7);
            let kinds = script.failures.iter().map(|(_, _, failure)| std::mem::discriminant(failure));
            assert_eq!(kinds.collect::<HashSet<_>>().len(), 9, "seed {seed}");
            for (n, (begin, end, failure)) in script.failures.iter().enumerate() {
                assert!(begin < end && *end <= length);
                let before = script.failures[..n].iter().filter(|(_, to, _)| begin <= to);
                let at_once: Vec<&Failure> = before.map(|(_, _, failure)| failure).chain([failure]).collect();
                let hit: BTreeSet<usize> = at_once.iter().filter_map(|f| controller_of(f)).collect();
                assert!(hit.len() < CONTROLLERS, "seed {seed}: {at_once:?}");
                let hosts: Vec<usize> = at_once.iter().filter_map(|f| host_of(f)).collect();
                assert_eq!(
                    hosts.iter().collect::<HashSet<_>>().len(),
                    hosts.len(),
                    "seed {seed}: {at_once:?}"
                );
                let fenced = at_once.iter().any(|f| matches!(f, Failure::HostIsFenced(_)));
                assert!(!fenced || !at_once.iter().any(|f| is_of_store(f)), "seed {seed}: {at_once:?}");
            }
        }
    }
}
