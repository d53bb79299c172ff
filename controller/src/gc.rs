//! Gives back what nobody needs: released ports whose time is over. One controller at a time does it.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::PortKey;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::election::Election;
use crate::history;
use crate::ports::plan::expires_ms;
use crate::ports::{PortError, Ports, now_ms};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::store::Store;

/// How often is looked.
const PERIOD: Duration = Duration::from_secs(5);
/// How often old history is looked for.
const TRIM_PERIOD: Duration = Duration::from_secs(60);
/// Ports given back in one go.
const ROUND: usize = 1_000;

/// Released ports whose time is over at `now_ms` (Unix milliseconds), at most `most`.
pub fn expired(snapshot: &Snapshot, now_ms: i64, most: usize) -> Vec<PortKey> {
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
    let networks = snapshot.networks.values().filter(|network| some(network));
    let networks = networks.filter_map(|network| Some((network, sticky(network)?)));
    let over = networks.flat_map(|(network, seconds)| {
        let ports = snapshot.ports_of(&network.value.key);
        ports.filter(move |port| expires_ms(&port.value, seconds).is_some_and(|end| end <= now_ms))
    });
    over.map(|port| port.value.key.clone()).take(most).collect()
}

/// Sweeps while this controller leads, until `cancel`.
///
/// Quarantines are followed also while another one leads, so that a change of leader does not begin them anew.
pub async fn run(state: State, ports: Ports, trim: Trim, mut election: Election, cancel: CancellationToken) {
    let follow = end_quarantines(state.clone(), ports.clone(), election.clone());
    let work = async {
        while election.lead().await {
            let mut led = election.clone();
            tokio::select! {
                () = led.lose() => {}
                () = sweep_forever(&state, &ports) => {}
                () = trim.run() => {}
            }
        }
    };
    let both = async {
        tokio::select! {
            () = work => {}
            () = follow => {}
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

async fn sweep_forever(state: &State, ports: &Ports) {
    loop {
        sweep(state, ports, now_ms()).await;
        tokio::time::sleep(PERIOD).await;
    }
}

/// One sweep. A port that was taken back meanwhile stays: the same transaction compares that it is released still.
pub async fn sweep(state: &State, ports: &Ports, now_ms: i64) {
    let keys = expired(&state.snapshot(), now_ms, ROUND);
    if keys.is_empty() {
        return;
    }
    tracing::info!(ports = keys.len(), "released ports are over");
    for (key, answer) in keys.iter().zip(ports.expire(&keys, now_ms).await) {
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
    /// When this was made, by both clocks.
    begun: (i64, Instant),
}

impl Trim {
    /// `kept_ms`: for how long history is kept, in milliseconds; `None`: for ever.
    pub fn new(store: Arc<dyn Store>, kept_ms: Option<i64>) -> Self {
        Trim { store, kept_ms, begun: (now_ms(), Instant::now()) }
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
        now_ms().min(self.begun.0.saturating_add(passed))
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
}
