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
    /// A controller does not reach the store.
    ControllerIsCut(usize),
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
        let host = rng.random_range(0..HOSTS);
        let call = match rng.random_range(0..20) {
            0..5 => Call::Create(rng.random_bool(0.8).then_some(host)),
            5..8 => Call::Bind(host),
            8..10 => Call::Unbind,
            10..15 => Call::Migrate(host),
            15 => Call::Rollback,
            16 => Call::Update(rng.random_range(1..100)),
            _ => Call::Release(rng.random_bool(0.6)),
        };
        orders.push(Order {
            at: Duration::from_millis(at),
            port: rng.random_range(0..PORTS),
            asks: rng.random_range(0..CONTROLLERS),
            call,
        });
    }
}

/// All are over when the run is. One controller at least is left alone at any time.
fn failures(rng: &mut StdRng, length: u64) -> Vec<(Duration, Duration, Failure)> {
    let mut all: Vec<(Duration, Duration, Failure)> = Vec::new();
    let mut at = 1_000;
    loop {
        at += rng.random_range(FAILURES);
        let (kind, host) = (rng.random_range(0..10), rng.random_range(0..HOSTS));
        let controller = rng.random_range(0..CONTROLLERS);
        let failure = match kind {
            0..2 => Failure::ControllerDies(controller),
            2..5 => Failure::AgentDies(host),
            5..8 => Failure::HostIsCut(host),
            _ => Failure::ControllerIsCut(controller),
        };
        // Some are over before anybody notices, some last longer than leases and keepalives.
        let lasts = if rng.random_bool(0.3) { 8_000..16_000 } else { 200..4_000 };
        let end = at + rng.random_range(lasts);
        if at >= length {
            return all;
        }
        let (begin, end) = (Duration::from_millis(at), Duration::from_millis(end.min(length)));
        let under_way = |wanted: fn(&Failure) -> Option<usize>| -> Vec<usize> {
            let now = all.iter().filter(|(_, until, _)| *until >= begin);
            now.filter_map(|(_, _, failure)| wanted(failure)).collect()
        };
        let busy = match failure {
            Failure::ControllerDies(n) | Failure::ControllerIsCut(n) => {
                let others = under_way(controller_of);
                others.contains(&n) || others.len() + 1 >= CONTROLLERS
            }
            Failure::AgentDies(n) | Failure::HostIsCut(n) => under_way(host_of).contains(&n),
        };
        if !busy {
            all.push((begin, end, failure));
        }
    }
}

fn controller_of(failure: &Failure) -> Option<usize> {
    match failure {
        Failure::ControllerDies(n) | Failure::ControllerIsCut(n) => Some(*n),
        Failure::AgentDies(_) | Failure::HostIsCut(_) => None,
    }
}

fn host_of(failure: &Failure) -> Option<usize> {
    match failure {
        Failure::AgentDies(n) | Failure::HostIsCut(n) => Some(*n),
        Failure::ControllerDies(_) | Failure::ControllerIsCut(_) => None,
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

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
            assert_eq!(kinds.collect::<HashSet<_>>().len(), 4);
            for (begin, end, _) in &script.failures {
                assert!(begin < end && *end <= length);
                let at_once = script.failures.iter().filter(|(from, to, _)| from <= begin && begin < to);
                let hit: BTreeSet<usize> =
                    at_once.filter_map(|(_, _, failure)| controller_of(failure)).collect();
                assert!(hit.len() < CONTROLLERS, "seed {seed}: {hit:?}");
            }
        }
    }

    use std::collections::HashSet;
}
