//! Gives back what nobody needs: released ports whose time is over. One controller at a time does it.

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
pub async fn run(state: State, ports: Ports, trim: Trim, mut election: Election, cancel: CancellationToken) {
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
    cancel.run_until_cancelled(work).await;
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
