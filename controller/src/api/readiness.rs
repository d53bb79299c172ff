//! How far a port is, leg by leg.

use causeway_proto::{PortKey, v1};

use super::App;
use super::port_message::from_snapshot;
use crate::snapshot::Snapshot;

/// How far a port is in the eyes of one who waits for `level`.
pub(super) fn readiness(
    app: &App,
    snapshot: &Snapshot,
    key: &PortKey,
    level: v1::ReadyLevel,
) -> v1::PortReadiness {
    let port = from_snapshot(app, snapshot, key);
    let state = port.as_ref().map_or(v1::PortState::Unspecified, v1::Port::state);
    let generation =
        port.as_ref().and_then(|port| port.binding.as_ref()).map_or(0, |binding| binding.generation);
    let host = match &port {
        None => open("it does not exist yet: nobody has asked for an address of this name".into()),
        Some(port) => host_leg(app, port, state),
    };
    let fabric = match (reaches(state, v1::ReadyLevel::Advertised), host.done) {
        (true, _) => done(""),
        (false, _) if app.fabric.is_advertised(key) && generation > 0 => done(""),
        (false, true) => open("its routes have not been sent to every BGP peer yet".into()),
        (false, false) => open("it waits for the host".into()),
    };
    let proof = app.ready.proof(key, generation);
    let probe = match (proof, level == v1::ReadyLevel::Proven) {
        (Some(proof), _) => Some(done(&proof.text)),
        (None, true) => {
            Some(open(app.ready.waits_for(key).unwrap_or_else(|| "no probe was sent yet".into())))
        }
        (None, false) => None,
    };
    v1::PortReadiness { state: state.into(), host: Some(host), fabric: Some(fabric), probe, generation }
}

/// The typed reason why a port is late, if there is one.
pub(super) fn detail(snapshot: &Snapshot, key: &PortKey) -> Option<v1::ErrorDetail> {
    let binding = &snapshot.bindings.get(key)?.value;
    let found = snapshot.ports.get(key)?.value.duplicate.as_ref()?;
    if !binding.active || found.generation != binding.generation {
        return None;
    }
    let conflict = v1::Conflict {
        subject: format!("address {}", found.address),
        owner: format!("{} on {} of node {}", found.mac, found.interface, binding.node),
    };
    Some(v1::ErrorDetail {
        retryable: true,
        kind: Some(v1::error_detail::Kind::Conflict(conflict)),
        hint: format!("stop it there, or give the address up: causeway port release --forget {key}"),
    })
}

fn host_leg(app: &App, port: &v1::Port, state: v1::PortState) -> v1::Leg {
    if reaches(state, v1::ReadyLevel::Programmed) {
        return done("");
    }
    let Some(binding) = &port.binding else {
        return open(match state {
            v1::PortState::Released => "it is released".into(),
            _ => "it is bound to no node".into(),
        });
    };
    let node = &binding.node;
    if !port.problem.is_empty() {
        return open(format!("node {node} cannot program it: {}", port.problem));
    }
    let Ok(name) = node.parse() else { return open(format!("node {node} has not reported it yet")) };
    match app.agents.node_report(&name) {
        (_, false) => open(format!("no agent of node {node} is connected")),
        (report, true) if !report.problems.is_empty() => {
            open(format!("node {node} has not reported it yet; it says: {}", report.problems.join("; ")))
        }
        _ => open(format!("the agent of node {node} has not reported it yet")),
    }
}

fn done(text: &str) -> v1::Leg {
    v1::Leg { done: true, text: text.to_owned() }
}

fn open(text: String) -> v1::Leg {
    v1::Leg { done: false, text }
}

/// True if a port in this state has reached the level.
pub(super) fn reaches(state: v1::PortState, level: v1::ReadyLevel) -> bool {
    let height = match state {
        v1::PortState::Programmed => 1,
        v1::PortState::Advertised => 2,
        v1::PortState::Ready => 3,
        _ => 0,
    };
    height
        >= match level {
            v1::ReadyLevel::Programmed => 1,
            v1::ReadyLevel::Advertised | v1::ReadyLevel::Unspecified => 2,
            v1::ReadyLevel::Proven => 3,
        }
}

/// Which leg is late, in words: the first that is not done. `peers`: what is wrong with BGP peers.
pub(super) fn why_late(readiness: &v1::PortReadiness, peers: &[String]) -> String {
    let leg = |leg: &Option<v1::Leg>| leg.as_ref().filter(|leg| !leg.done).map(|leg| leg.text.clone());
    if let Some(text) = leg(&readiness.host) {
        return match readiness.generation {
            0 => format!("allocation is late: {text}"),
            _ => format!("host leg late: {text}"),
        };
    }
    if let Some(text) = leg(&readiness.fabric) {
        return match peers.is_empty() {
            true => format!("fabric leg late: {text}"),
            false => format!("fabric leg late: {text}; {}", peers.join(", ")),
        };
    }
    match leg(&readiness.probe) {
        Some(text) => format!("probe late: {text}"),
        None => "it has only just got there".into(),
    }
}
