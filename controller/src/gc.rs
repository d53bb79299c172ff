//! Gives back what nobody needs: released ports whose time is over. One controller at a time does it.

use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::PortKey;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::{Ages, Clock};
use crate::election::Election;
use crate::history;
use crate::ports::plan::expires_ms;
use crate::ports::{PortError, Ports};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::store::Store;

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(5);
/// How often old history is looked for.
const TRIM_PERIOD: Duration = Duration::from_secs(60);
/// Ports given back in one go.
const ROUND: usize = 1_000;

/// Ports that are released for a time: with when that began and how long it lasts, in milliseconds.
fn reserved(snapshot: &Snapshot) -> impl Iterator<Item = (&PortKey, i64, i64)> {
    let sticky = |network: &crate::snapshot::Record<crate::model::Network>| {
        Some(network.value.sticky_seconds).filter(|seconds| *seconds > 0)
    };
    // Most networks have no released port, which their subnets' counts tell without a look at each port.
    let some = |network: &crate::snapshot::Record<crate::model::Network>| {
        let vrf = &network.value.key.vrf;
        snapshot
            .subnets_of(&network.value.key)
            .any(|subnet| snapshot.taken_in(vrf, subnet.value.prefix).1 > 0)
    };
    let networks = snapshot.networks.values().filter(move |network| some(network));
    let networks = networks.filter_map(move |network| Some((network, sticky(network)?)));
    networks.flat_map(move |(network, seconds)| {
        snapshot.ports_of(&network.value.key).filter_map(move |port| {
            let (end, since) = (expires_ms(&port.value, seconds)?, port.value.released_ms?);
            Some((&port.value.key, since, end.saturating_sub(since)))
        })
    })
}

/// Reservations of released ports, timed as [`Quarantines`] are; one that is older than this controller is as old as it
/// says.
#[derive(Debug)]
pub(crate) struct Reservations(Ages<PortKey>);

impl Reservations {
    pub(crate) fn new() -> Self {
        Reservations(Ages::new())
    }

    /// Those that are over, each with the time at which it ends by the clock that dated it; at most `most`. It is `now_ms` by
    /// the wall clock (Unix milliseconds), and `steady` is any time that only grows.
    pub(crate) fn over(
        &mut self,
        snapshot: &Snapshot,
        (now_ms, steady): (i64, Duration),
        most: usize,
    ) -> Vec<(PortKey, i64)> {
        let (mut over, mut there) = (Vec::new(), BTreeSet::new());
        for (key, since, lasts) in reserved(snapshot) {
            if self.0.age_ms(key, since, now_ms, steady) >= lasts && over.len() < most {
                over.push((key.clone(), since.saturating_add(lasts)));
            }
            there.insert(key);
        }
        self.0.keep(|key| there.contains(key));
        over
    }
}

/// Sweeps while this controller leads, until `cancel`.
///
/// Quarantines and reservations are followed also while another one leads, so that a change of leader does not begin them anew.
pub async fn run(state: State, ports: Ports, trim: Trim, mut election: Election, cancel: CancellationToken) {
    let (leading, clock) = (election.clone(), trim.clock.clone());
    let follow = async {
        tokio::join!(
            end_quarantines(state.clone(), ports.clone(), leading.clone()),
            end_reservations(&state, &ports, &clock, &leading)
        )
    };
    let work = async {
        while election.lead().await {
            let mut led = election.clone();
            tokio::select! {
                () = led.lose() => {}
                () = trim.run() => {}
            }
        }
    };
    let both = async {
        tokio::select! {
            () = work => {}
            _ = follow => {}
        }
    };
    cancel.run_until_cancelled(both).await;
}

/// Quarantines as this controller has seen them. How long they last is counted by its own steady clock from when it saw
/// them begin: whatever wall clocks do, here or where they began, none ends early.
#[derive(Debug, Default)]
pub struct Quarantines {
    /// When each began, as its record says, and when it was first seen.
    seen: BTreeMap<PortKey, (i64, Duration)>,
}

impl Quarantines {
    /// Those that are over at `now`, at most `most`; `now` is any time that only grows.
    pub fn over(&mut self, snapshot: &Snapshot, now: Duration, most: usize) -> Vec<PortKey> {
        let mut seen = BTreeMap::new();
        let mut over = Vec::new();
        for (network, since_ms, key) in &snapshot.quarantined {
            let known = self.seen.get(key).filter(|(since, _)| since == since_ms).map(|(_, first)| *first);
            let first = known.unwrap_or(now);
            let seconds = snapshot.networks.get(network).map_or(0, |n| n.value.quarantine_seconds());
            if over.len() < most && now.saturating_sub(first) >= Duration::from_secs(seconds) {
                over.push(key.clone());
            }
            seen.insert(key.clone(), (*since_ms, first));
        }
        self.seen = seen;
        over
    }
}

async fn end_quarantines(state: State, ports: Ports, election: Election) {
    let (begun, mut quarantines) = (Instant::now(), Quarantines::default());
    loop {
        let over = quarantines.over(&state.snapshot(), begun.elapsed(), ROUND);
        if election.is_leading() && !over.is_empty() {
            let mut ended = 0;
            for (key, answer) in over.iter().zip(ports.end_quarantine(&over, "its quarantine is over").await)
            {
                match answer {
                    Ok(_) => ended += 1,
                    // Taken back: that is what the compare is for. Or the node that had it has not said that it is down.
                    Err(error @ (PortError::Precondition { .. } | PortError::Unconfirmed { .. })) => {
                        tracing::debug!(port = %key, %error, "quarantine goes on");
                    }
                    Err(error) => tracing::warn!(port = %key, %error, "quarantine could not be ended"),
                }
            }
            if ended > 0 {
                tracing::info!(ports = ended, "quarantines are over");
            }
        }
        tokio::time::sleep(PERIOD).await;
    }
}

async fn end_reservations(state: &State, ports: &Ports, clock: &Clock, election: &Election) {
    let (begun, mut reservations) = (Instant::now(), Reservations::new());
    loop {
        let now = (clock.now_ms(), begun.elapsed());
        let over = reservations.over(&state.snapshot(), now, ROUND);
        if election.is_leading() {
            expire(ports, &over).await;
        }
        tokio::time::sleep(PERIOD).await;
    }
}

/// One sweep of whoever sees everything for the first time, at `now_ms` (Unix milliseconds).
pub async fn sweep(state: &State, ports: &Ports, now_ms: i64) {
    expire(ports, &Reservations::new().over(&state.snapshot(), (now_ms, Duration::ZERO), ROUND)).await;
}

/// A port that was taken back meanwhile stays: the same transaction compares that it is released still.
async fn expire(ports: &Ports, over: &[(PortKey, i64)]) {
    if over.is_empty() {
        return;
    }
    tracing::info!(ports = over.len(), "released ports are over");
    for ((key, _), answer) in over.iter().zip(ports.expire(over).await) {
        match answer {
            Ok(_) => {}
            // Taken back: that is what the compare is for.
            Err(PortError::Precondition { .. }) => {}
            Err(error) => tracing::warn!(port = %key, %error, "port could not be given back"),
        }
    }
}

/// Removes history that is too old.
#[derive(Debug)]
pub struct Trim {
    store: Arc<dyn Store>,
    /// For how long it is kept, in milliseconds; `None`: for ever.
    kept_ms: Option<i64>,
    clock: Clock,
    /// When this was made, by both clocks.
    begun: (i64, Instant),
}

impl Trim {
    /// `kept_ms`: for how long history is kept, in milliseconds; `None`: for ever.
    pub fn new(store: Arc<dyn Store>, kept_ms: Option<i64>, clock: Clock) -> Self {
        Trim { store, kept_ms, begun: (clock.now_ms(), Instant::now()), clock }
    }

    async fn run(&self) {
        let Some(kept_ms) = self.kept_ms else { return std::future::pending().await };
        loop {
            match history::trim(self.store.as_ref(), self.steady_ms().saturating_sub(kept_ms)).await {
                Ok(0) => {}
                Ok(records) => tracing::info!(records, "old history is removed"),
                Err(error) => tracing::warn!(%error, "old history could not be removed"),
            }
            tokio::time::sleep(TRIM_PERIOD).await;
        }
    }

    /// Unix milliseconds; a clock that was set forward since the start removes nothing early.
    fn steady_ms(&self) -> i64 {
        let passed = i64::try_from(self.begun.1.elapsed().as_millis()).unwrap_or(i64::MAX);
        self.clock.now_ms().min(self.begun.0.saturating_add(passed))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_proto::Revision;

    fn put(snapshot: &mut Snapshot, path: &str, json: &str) {
        let at = Revision(snapshot.revision.0 + 1);
        snapshot.apply(path, Some((json.as_bytes(), at))).unwrap();
        snapshot.revision = at;
    }

    fn quarantined(snapshot: &mut Snapshot, name: &str, since_ms: i64) {
        let json = format!(
            r#"{{"key":"default/web/{name}","addresses":["10.0.0.{name}"],"mac":"02:00:00:00:00:{name}","created_ms":1,"released_ms":1,"quarantined_ms":{since_ms}}}"#
        );
        put(snapshot, &format!("intent/port/default/web/{name}"), &json);
    }

    #[test]
    fn a_quarantine_lasts_by_the_steady_clock_whatever_wall_clocks_say() {
        let mut snapshot = Snapshot::default();
        put(
            &mut snapshot,
            "intent/network/default/web",
            r#"{"key":"default/web","vni":1,"mtu":1450,"rd_number":1}"#,
        );
        let at = Duration::from_secs;
        let mut quarantines = Quarantines::default();
        // One that a clock of 1970 began, one of the year 2100.
        quarantined(&mut snapshot, "10", 5);
        quarantined(&mut snapshot, "11", 4_102_444_800_000);
        assert!(quarantines.over(&snapshot, at(1_000), 10).is_empty());
        quarantined(&mut snapshot, "12", 7);
        assert!(quarantines.over(&snapshot, at(1_299), 10).is_empty());
        let names = |keys: Vec<PortKey>| keys.iter().map(|key| key.name.to_string()).collect::<Vec<_>>();
        assert_eq!(names(quarantines.over(&snapshot, at(1_300), 10)), ["10", "11"]);
        assert_eq!(
            names(quarantines.over(&snapshot, at(1_300), 1)),
            ["10"],
            "no more at once than asked for"
        );
        // Taken back and given up again, it begins anew.
        quarantined(&mut snapshot, "10", 6);
        assert_eq!(names(quarantines.over(&snapshot, at(1_301), 10)), ["11"]);
        assert_eq!(names(quarantines.over(&snapshot, at(1_600), 10)), ["12", "11"]);
        assert_eq!(names(quarantines.over(&snapshot, at(1_601), 10)), ["10", "12", "11"]);
        // A network without quarantine ends them.
        put(
            &mut snapshot,
            "intent/network/default/web",
            r#"{"key":"default/web","vni":1,"mtu":1450,"rd_number":1,"quarantine_seconds":0}"#,
        );
        quarantined(&mut snapshot, "13", 8);
        assert_eq!(quarantines.over(&snapshot, at(1_601), 10).len(), 4);
    }

    /// The same for what is reserved for a name, whoever released it by whatever clock.
    #[test]
    fn a_reservation_lasts_by_the_steady_clock_whatever_wall_clocks_say() {
        const DAY: i64 = 24 * 3600 * 1000;
        let at = Duration::from_secs;
        let mut snapshot = Snapshot::default();
        put(
            &mut snapshot,
            "intent/network/default/web",
            r#"{"key":"default/web","vni":1,"mtu":1450,"rd_number":1,"sticky_seconds":60}"#,
        );
        put(
            &mut snapshot,
            "intent/subnet/default/web/10.0.0.0/24",
            r#"{"network":"default/web","prefix":"10.0.0.0/24"}"#,
        );
        let release = |snapshot: &mut Snapshot, name: &str, at_ms: i64| {
            let json = format!(
                r#"{{"key":"default/web/{name}","addresses":["10.0.0.{name}"],"mac":"02:00:00:00:00:{name}","created_ms":1,"released_ms":{at_ms}}}"#
            );
            put(snapshot, &format!("intent/port/default/web/{name}"), &json);
        };
        let now = 100 * DAY;
        let mut reservations = Reservations::new();
        // Released long before this controller started: its record is believed.
        release(&mut snapshot, "10", now - 61_000);
        release(&mut snapshot, "11", now - 10_000);
        assert_eq!(reservations.over(&snapshot, (now, at(0)), 9), [("web/10".parse().unwrap(), now - 1_000)]);
        // Released while it runs, by controllers whose clocks are a day behind, right, and a day ahead.
        for (name, at_ms) in [("12", now - DAY), ("13", now), ("14", now + DAY)] {
            release(&mut snapshot, name, at_ms);
        }
        let names = |over: Vec<(PortKey, i64)>| -> Vec<String> {
            over.into_iter().map(|(key, _)| key.name.to_string()).collect()
        };
        for jump in [0, DAY, -DAY] {
            assert_eq!(names(reservations.over(&snapshot, (now + jump, at(0)), 9)), ["10"], "{jump}");
        }
        assert_eq!(names(reservations.over(&snapshot, (now - DAY, at(51)), 9)), ["10", "11"]);
        assert_eq!(
            names(reservations.over(&snapshot, (now - DAY, at(61)), 9)),
            ["10", "11", "12", "13", "14"]
        );
        let some = names(reservations.over(&snapshot, (now + DAY, at(61)), 2));
        assert_eq!(some, ["10", "11"], "no more than asked for");
    }
}
