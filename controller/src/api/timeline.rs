//! A port's timeline: its events from the store, and of where it lives now the steps that this controller saw.

use std::cmp::Ordering;

use causeway_bgp::{RouteFilter, SessionState};
use causeway_proto::{PortKey, v1};

use super::App;
use super::history::event_message;
use super::port_message::from_snapshot;
use super::status::Refusal;
use crate::agents::PortProgress;
use crate::derive::place::place;
use crate::history::Told;
use crate::model::{Binding, Port};
use crate::snapshot::{Record, Snapshot};
use crate::steps::{Seen, millis};

/// Events when the client says nothing, and at most.
const EVENTS: (usize, usize) = (100, 1000);

pub(super) async fn timeline(
    app: &App,
    key: &PortKey,
    limit: u32,
) -> Result<v1::GetPortTimelineResponse, Refusal> {
    let most = match limit as usize {
        0 => EVENTS.0,
        n if n <= EVENTS.1 => n,
        _ => return Err(Refusal::field("limit", format!("is more than {}", EVENTS.1))),
    };
    let snapshot = app.snapshot().await;
    let (told, truncated) = app.history.of_port(&snapshot, key, 0, most).await?;
    let port = from_snapshot(app, &snapshot, key);
    if port.is_none() && told.is_empty() {
        return Err(Refusal::not_found(
            format!("port {key} does not exist, and nothing is known of one"),
            format!("create it: causeway port create {key}"),
        ));
    }
    let mut steps: Vec<v1::TimelineStep> = told.into_iter().rev().map(of_event).collect();
    let record = snapshot.ports.get(key).filter(|port| port.value.released_ms.is_none());
    let binding = snapshot.bindings.get(key).filter(|binding| binding.value.active);
    if let Some((record, binding)) = record.zip(binding) {
        let seen = app.steps.of(key, binding.value.generation);
        let missing = of_binding(app, &snapshot, &record.value, binding, seen, &mut steps).await;
        steps.sort_by(in_order);
        steps.extend(missing);
    }
    gaps(&mut steps);
    Ok(v1::GetPortTimelineResponse { port, steps, truncated, controller: app.name.clone() })
}

/// By time. Events have whole milliseconds only: what falls into the same one is in the order in which it happens.
fn in_order(a: &v1::TimelineStep, b: &v1::TimelineStep) -> Ordering {
    let rank = |step: &v1::TimelineStep| match step.step.as_str() {
        "requested" => 0,
        _ if step.event.is_some() => 1,
        _ => 2,
    };
    let whole = a.time_ms.floor().total_cmp(&b.time_ms.floor());
    whole.then_with(|| rank(a).cmp(&rank(b))).then_with(|| a.time_ms.total_cmp(&b.time_ms))
}

/// How long each took after the one before. One of the same millisecond did not take less than nothing.
fn gaps(steps: &mut [v1::TimelineStep]) {
    let mut before: Option<f64> = None;
    for step in steps.iter_mut().filter(|step| step.time_ms != 0.0) {
        let gap = before.map_or(0.0, |before| step.time_ms - before);
        step.gap_ms = if gap > -1.0 { gap.max(0.0) } else { gap };
        before = Some(step.time_ms);
    }
}

fn of_event(told: Told) -> v1::TimelineStep {
    let event = event_message(told);
    let step = event.kind().as_str_name().trim_start_matches("EVENT_KIND_").to_lowercase().replace('_', "-");
    #[expect(clippy::cast_precision_loss, reason = "a double holds milliseconds until the year 287396")]
    let time_ms = event.time_ms as f64;
    v1::TimelineStep { step, time_ms, event: Some(event), ..Default::default() }
}

fn at(step: &str, time_ms: f64, note: impl Into<String>) -> v1::TimelineStep {
    v1::TimelineStep { step: step.to_owned(), time_ms, note: note.into(), ..Default::default() }
}

fn missing(step: &str, note: impl Into<String>) -> v1::TimelineStep {
    v1::TimelineStep { missing: true, ..at(step, 0.0, note) }
}

/// Adds what is known of where it lives now; what is missing is returned, in the order in which it would happen.
async fn of_binding(
    app: &App,
    snapshot: &Snapshot,
    port: &Port,
    binding: &Record<Binding>,
    seen: Seen,
    steps: &mut Vec<v1::TimelineStep>,
) -> Vec<v1::TimelineStep> {
    let mut lacking = Vec::new();
    steps.extend(seen.requested.map(|time| at("requested", time, "the request came to this controller")));
    if seen.requested.is_none() {
        lacking.push(missing("requested", "another controller was asked, or this one has started since"));
    }
    steps.extend(seen.committed.map(|time| at("committed", time, "the store has it")));
    let node = &binding.value.node;
    let unknown =
        "done, but when is not known: its agent talks to another controller, or this one has started since";
    let programmed = app.agents.port_progress(&binding.value, binding.revision);
    match (&programmed, seen.programmed) {
        (PortProgress::Failed(problem), _) => {
            lacking.push(missing("programmed", format!("{node}: {problem}")))
        }
        (PortProgress::Waiting, _) if !app.agents.node_report(node).1 => {
            lacking.push(missing("programmed", format!("no agent of node {node} is connected")));
        }
        (PortProgress::Waiting, _) => {
            lacking.push(missing("programmed", format!("the agent of node {node} has not answered yet")));
        }
        (PortProgress::Programmed, Some(time)) => {
            steps.push(at("programmed", time, format!("the kernel of {node}, read back")));
        }
        (PortProgress::Programmed, None) => lacking.push(at("programmed", 0.0, unknown)),
    }
    let peers = app.fabric.speaker().peers().await;
    let up = peers.iter().filter(|peer| peer.state == SessionState::Established).count();
    match (app.fabric.is_advertised(&port.key), seen.advertised) {
        _ if up == 0 => lacking.push(missing("advertised", "no BGP peer is established: causeway bgp peers")),
        (false, _) => lacking.push(missing("advertised", "its routes are still under way to a peer")),
        (true, Some(time)) => steps.push(at("advertised", time, format!("sent to {up} BGP peers"))),
        (true, None) => lacking.push(at("advertised", 0.0, unknown)),
    }
    if up > 0 {
        match reflected(app, snapshot, port, &binding.value).await {
            Some((time, peer)) => steps.push(at("reflected", time, format!("peer {peer} says it with this next hop"))),
            None => lacking.push(missing(
                "reflected",
                format!("none of {up} peers says it to us: a route reflector sends no route back to whom it has it from (RFC 4456); causeway bgp explain {}", port.mac),
            )),
        }
    }
    match app.ready.proof(&port.key, binding.value.generation) {
        #[expect(clippy::cast_precision_loss, reason = "a double holds milliseconds until the year 287396")]
        Some(proof) => steps.push(at("proven", proof.at_ms as f64, proof.text)),
        None => lacking.push(missing(
            "proven",
            match app.ready.waits_for(&port.key) {
                Some(text) => text,
                None => "no probe was asked for: causeway port wait --level proven proves it".to_owned(),
            },
        )),
    }
    lacking
}

/// When and by whom the port's route with its own next hop was last received.
async fn reflected(app: &App, snapshot: &Snapshot, port: &Port, binding: &Binding) -> Option<(f64, String)> {
    let node = snapshot.nodes.get(&binding.node)?;
    let vtep = place(snapshot, &node.value)?.vtep;
    let filter = RouteFilter { mac: Some(port.mac), ..RouteFilter::default() };
    let received = app.fabric.speaker().routes_in(&filter).await;
    let own = received.into_iter().filter(|r| r.route.attributes.next_hop == vtep && !r.stale);
    let first = own.min_by_key(|r| r.received)?;
    Some((millis(first.received), first.peer.to_string()))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn steps_of_one_millisecond_are_in_the_order_in_which_they_happen() {
        let event =
            |time_ms| v1::TimelineStep { event: Some(v1::Event::default()), ..at("bound", time_ms, "") };
        let mut steps = vec![
            event(100.0),
            at("committed", 100.9, ""),
            at("requested", 100.3, ""),
            event(50.0),
            at("programmed", 103.5, ""),
        ];
        steps.sort_by(in_order);
        gaps(&mut steps);
        let shown: Vec<(&str, f64)> = steps.iter().map(|step| (step.step.as_str(), step.gap_ms)).collect();
        let names: Vec<&str> = shown.iter().map(|(name, _)| *name).collect();
        assert_eq!(names, ["bound", "requested", "bound", "committed", "programmed"]);
        assert!(shown.iter().all(|(_, gap)| *gap >= 0.0), "{shown:?}");
    }
}
