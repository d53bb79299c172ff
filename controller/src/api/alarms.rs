//! DiffFabric and WatchAlarms: what the fabric says of ports, once and as it changes.

use std::sync::Arc;

use causeway_proto::{Name, NetworkKey, v1};
use tokio::sync::broadcast::error::RecvError;
use tokio::sync::mpsc;
use tonic::Status;

use super::App;
use super::parse::text;
use super::port_message::key_message;
use super::status::Refusal;
use crate::compare::alarms::Alarm;
use crate::compare::{Finding, Presence, Subject};
use crate::derive::bound;
use crate::snapshot::Snapshot;

/// Findings of an answer, when the client says nothing.
const FINDINGS: usize = 1000;
/// Findings of an answer at most.
const MOST_FINDINGS: usize = 100_000;
/// Alarms that wait for a client; then the watch waits.
const QUEUE: usize = 256;

/// Which findings are asked for.
#[derive(Debug, Default)]
struct Wanted {
    vrf: Option<Name>,
    network: Option<Name>,
    node: Option<Name>,
}

impl Wanted {
    fn read(request: &v1::DiffFabricRequest, snapshot: &Snapshot) -> Result<Wanted, Refusal> {
        let name = |field: &str, value: &str| -> Result<Option<Name>, Refusal> {
            if value.is_empty() { Ok(None) } else { text(field, value).map(Some) }
        };
        let wanted = Wanted {
            vrf: name("vrf", &request.vrf)?,
            network: name("network", &request.network)?,
            node: name("node", &request.node)?,
        };
        if let Some(vrf) = wanted.vrf.as_ref().filter(|vrf| !snapshot.vrfs.contains_key(*vrf)) {
            return Err(Refusal::not_found(format!("VRF {vrf}"), "causeway get vrf shows which exist"));
        }
        let known = snapshot.networks.keys().any(|key| wanted.has_network(key));
        if let Some(network) = wanted.network.as_ref().filter(|_| !known) {
            return Err(Refusal::not_found(
                format!("network {network}"),
                "causeway get network shows which exist",
            ));
        }
        if let Some(node) = wanted.node.as_ref().filter(|node| !snapshot.nodes.contains_key(*node)) {
            return Err(Refusal::not_found(format!("node {node}"), "causeway get node shows which exist"));
        }
        Ok(wanted)
    }

    fn has_network(&self, key: &NetworkKey) -> bool {
        self.vrf.as_ref().is_none_or(|vrf| *vrf == key.vrf)
            && self.network.as_ref().is_none_or(|network| *network == key.network)
    }

    fn has(&self, snapshot: &Snapshot, subject: &Subject, finding: &Finding) -> bool {
        let on_node = |node: &Name| {
            let binding = finding.port.as_ref().and_then(|port| snapshot.bindings.get(port));
            binding.is_some_and(|record| record.value.active && record.value.node == *node)
        };
        self.has_network(&subject.network) && self.node.as_ref().is_none_or(on_node)
    }
}

/// The comparison now.
pub(super) async fn diff(
    app: &App,
    request: v1::DiffFabricRequest,
) -> Result<v1::DiffFabricResponse, Refusal> {
    let limit = match request.limit as usize {
        0 => FINDINGS,
        n if n <= MOST_FINDINGS => n,
        _ => return Err(Refusal::field("limit", format!("is more than {MOST_FINDINGS}"))),
    };
    let snapshot = app.snapshot().await;
    let wanted = Wanted::read(&request, &snapshot)?;
    let compared = app.fabric.compare(Arc::clone(&snapshot), request.all).await;
    let mut found: Vec<(Subject, Finding)> = compared
        .found
        .into_iter()
        .filter(|(subject, finding)| wanted.has(&snapshot, subject, finding))
        .collect();
    found.sort_by(|(a, _), (b, _)| {
        (&a.network, a.mac, a.address, a.peer).cmp(&(&b.network, b.mac, b.address, b.peer))
    });
    let bound_there = snapshot.by_node.iter().filter(|(node, key)| {
        wanted.has_network(&key.network)
            && wanted.node.as_ref().is_none_or(|wanted| wanted == node)
            && bound(&snapshot, key).is_some()
    });
    let ports = bound_there.count() as u64;
    let more = found.len().saturating_sub(limit) as u64;
    found.truncate(limit);
    Ok(v1::DiffFabricResponse {
        findings: found.iter().map(|(subject, finding)| message(subject, finding)).collect(),
        more,
        ports,
        peers: compared.peers.iter().map(|peer| peer.address.to_string()).collect(),
        revision: snapshot.revision.0,
    })
}

/// Starts a watch: what stands, the mark that this was all, then every change.
pub(super) fn watch(app: &App) -> mpsc::Receiver<Result<v1::Alarm, Status>> {
    let (outbound, receiver) = mpsc::channel(QUEUE);
    let (standing, mut news) = app.fabric.alarms();
    let cancel = app.cancel.clone();
    let run = async move {
        for alarm in &standing {
            outbound.send(Ok(alarm_message(alarm))).await.ok()?;
        }
        outbound.send(Ok(v1::Alarm { synced: true, ..v1::Alarm::default() })).await.ok()?;
        loop {
            let batch = tokio::select! {
                () = outbound.closed() => return None,
                batch = news.recv() => batch,
            };
            match batch {
                Ok(batch) => {
                    for alarm in batch.iter() {
                        outbound.send(Ok(alarm_message(alarm))).await.ok()?;
                    }
                }
                Err(RecvError::Lagged(_)) => {
                    let late =
                        Refusal::unavailable("this watch reads too slowly: watch again from what stands");
                    return outbound.send(Err(late.into())).await.ok();
                }
                Err(RecvError::Closed) => return None,
            }
        }
    };
    app.tasks.spawn(async move {
        cancel.run_until_cancelled(run).await;
    });
    receiver
}

fn alarm_message(alarm: &Alarm) -> v1::Alarm {
    v1::Alarm {
        finding: Some(message(&alarm.subject, &alarm.finding)),
        raised: alarm.raised,
        time_ms: alarm.time_ms,
        synced: false,
    }
}

fn message(subject: &Subject, finding: &Finding) -> v1::FabricFinding {
    let presence = match finding.presence {
        Presence::Present => v1::Presence::Present,
        Presence::Missing => v1::Presence::Missing,
        Presence::Elsewhere => v1::Presence::Elsewhere,
        Presence::Duplicate => v1::Presence::Duplicate,
        Presence::Stale => v1::Presence::Stale,
        Presence::Foreign => v1::Presence::Foreign,
    };
    v1::FabricFinding {
        port: finding.port.as_ref().map(key_message),
        vrf: subject.network.vrf.to_string(),
        network: subject.network.network.to_string(),
        mac: subject.mac.to_string(),
        address: subject.address.map(|address| address.to_string()).unwrap_or_default(),
        peer: subject.peer.to_string(),
        presence: presence.into(),
        intended_vtep: finding.intended.map(|(vtep, _)| vtep.to_string()).unwrap_or_default(),
        intended_sequence: finding.intended.map_or(0, |(_, sequence)| sequence),
        observed_vteps: finding.observed.iter().map(ToString::to_string).collect(),
        observed_sequence: finding.sequence,
        text: finding.text.clone(),
    }
}
