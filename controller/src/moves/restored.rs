//! After the store was restored from an older copy: the fabric remembers sequence numbers that the copy does not. What a
//! controller announced for our own nodes comes back from route reflectors by way of the other controllers, and with that
//! what must not be undercut: receivers ignore a lower sequence than they know, also when the MAC moves.

use std::time::Duration;

use causeway_proto::PortKey;
use tokio::sync::watch;

use crate::derive::{self, evpn, imports::Imports};
use crate::election::Election;
use crate::ports::Ports;
use crate::snapshot::Snapshot;
use crate::state::State;

/// How long is waited after something was heard: routes come in bursts, and a transaction's own come back at once.
const PAUSE: Duration = Duration::from_secs(1);
/// Ports raised after one look.
const ROUND: usize = 1_000;

/// Bound ports that are announced with a lower sequence than the fabric remembers, and that sequence.
pub(crate) fn undercut(snapshot: &Snapshot, heard: &Imports) -> Vec<(PortKey, u32)> {
    let port = |(place, sequence): (&(causeway_proto::NetworkKey, causeway_proto::Mac), &u32)| {
        let key = &snapshot.by_mac.get(place)?.value.key;
        let bound = derive::bound(snapshot, key).filter(derive::Bound::has_own_mac)?;
        let lower = evpn::sequence(bound.binding.generation) < *sequence && snapshot.moving(key).is_none();
        lower.then(|| (key.clone(), *sequence))
    };
    heard.echoes.iter().filter_map(port).take(ROUND).collect()
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
