//! What a change of a port is called: told by what was and what will be, so that no request can be forgotten.

use std::net::IpAddr;

use causeway_proto::Name;

use super::{Event, EventKind};
use crate::keys::{self, RecordKey};
use crate::model::{Binding, Port};
use crate::ports::PortError;
use crate::ports::plan::{Context, Part, Planned, View};
use crate::store::{Compare, Write};

/// Longest text of a cause, in bytes.
const LONGEST_CAUSE: usize = 256;

/// Completes a plan: the records that it writes say when, and its event says what.
pub(crate) fn tell(view: &View<'_>, planned: &mut Planned, context: Context<'_>) -> Result<(), PortError> {
    let key = planned.effect.key.clone();
    let now_ms = context.now_ms;
    let port = view.port(&key).map(|(port, _)| port);
    let binding = view.binding(&key).map(|(binding, _)| binding);
    if let Some(written) = new(&mut planned.effect.port) {
        written.changed_ms = if now_ms == written.created_ms { 0 } else { now_ms };
    }
    if let Some(written) = new(&mut planned.effect.binding) {
        written.changed_ms = now_ms;
    }
    let event = event(port, binding, planned);
    if planned.effect.port.is_none() {
        ends(planned, &event, port, now_ms)?;
    }
    planned.event = Some(event);
    if view.port(&key).is_some() {
        rest_on_binding(view, planned);
    }
    planned.fill()
}

/// The event and the answer say where the port lives, also where the request is about something else: that must hold still
/// when they are written. Another controller may have unbound it, or bound it elsewhere, a moment ago.
fn rest_on_binding(view: &View<'_>, planned: &mut Planned) {
    let key = &planned.effect.key;
    let path = RecordKey::Binding(key.clone()).path();
    let rests = |compare: &Compare| match compare {
        Compare::Absent(key) | Compare::Unchanged(key, _) => *key == path,
        Compare::Present(_) | Compare::NoneBelow(_) => false,
    };
    if !planned.compares.iter().any(rests) {
        planned.compares.push(match view.binding(key) {
            Some((_, seen)) => Compare::Unchanged(path, seen),
            None => Compare::Absent(path),
        });
    }
}

/// The record, if this very transaction writes it.
fn new<T>(part: &mut Option<Part<T>>) -> Option<&mut T> {
    part.as_mut().filter(|part| part.revision.is_none()).map(|part| &mut part.value)
}

fn event(port: Option<&Port>, binding: Option<&Binding>, planned: &Planned) -> Event {
    let effect = &planned.effect;
    let after = effect.port.as_ref().map(|part| &part.value);
    let bound = effect.binding.as_ref().map(|part| &part.value);
    let (was, is) = (binding.filter(|b| b.active), bound.filter(|b| b.active));
    let from_node = was.map(|b| b.node.clone()).filter(|node| is.is_none_or(|b| b.node != *node));
    let rewritten = effect.port.as_ref().is_none_or(|part| part.revision.is_none());
    let rebound = effect.binding.as_ref().is_none_or(|part| part.revision.is_none());
    let mut before: Vec<i64> = Vec::new();
    before.extend(port.filter(|_| rewritten).map(Port::changed_ms));
    before.extend(binding.filter(|_| rebound).map(|b| b.changed_ms).filter(|ms| *ms != 0));
    before.extend(planned.moved_ms.filter(|ms| *ms != 0));
    before.sort_unstable();
    before.dedup();
    let shown = after.or(port);
    Event {
        kind: planned.kind.unwrap_or_else(|| kind(port, after, was, is)),
        port: Some(effect.key.clone()),
        record: String::new(),
        addresses: shown.map(|p| p.addresses.clone()).unwrap_or_default(),
        mac: shown.map(|p| p.mac),
        node: is.map(|b| b.node.clone()),
        from_node,
        generation: bound.or(binding).map_or(0, |b| b.generation),
        cause: cut(&planned.cause),
        actor: String::new(),
        peer: String::new(),
        reason: String::new(),
        before,
    }
}

fn kind(
    before: Option<&Port>,
    after: Option<&Port>,
    was: Option<&Binding>,
    is: Option<&Binding>,
) -> EventKind {
    let released = |port: &Port| port.released_ms.is_some();
    match (before, after) {
        (_, None) => EventKind::Freed,
        (None, Some(_)) => EventKind::Created,
        (Some(before), Some(after)) if before.quarantined_ms.is_none() && after.quarantined_ms.is_some() => {
            EventKind::Quarantined
        }
        (Some(before), Some(after)) if released(before) && !released(after) => EventKind::TakenBack,
        (Some(before), Some(after)) if !released(before) && released(after) => EventKind::Released,
        _ => match (was, is) {
            (None, Some(_)) => EventKind::Bound,
            (Some(_), None) => EventKind::Unbound,
            (Some(was), Some(is)) if was.generation != is.generation => EventKind::Moved,
            _ => EventKind::Updated,
        },
    }
}

/// What is gone is found by its addresses and its key.
fn ends(planned: &mut Planned, event: &Event, port: Option<&Port>, now_ms: i64) -> Result<(), PortError> {
    let (Some(port), Some(key)) = (port, &event.port) else { return Ok(()) };
    let from_ms = serde_json::to_vec(&port.created_ms)
        .map_err(|e| PortError::Internal(format!("a time cannot be written: {e}")))?;
    let of_address = |address: &IpAddr| keys::end_of_address(key, *address, now_ms);
    let paths = port.addresses.iter().map(of_address).chain([keys::end_of_port(key, now_ms)]);
    planned.writes.extend(paths.map(|key| Write::Put { key, value: from_ms.clone(), lease: None }));
    Ok(())
}

/// The keys by which an event that ended a port is found.
pub(crate) fn index_of(event: &Event, at_ms: i64) -> Vec<String> {
    let Some(key) = event.port.as_ref().filter(|_| event.kind == EventKind::Freed) else { return Vec::new() };
    let of_address = |address: &IpAddr| keys::end_of_address(key, *address, at_ms);
    event.addresses.iter().map(of_address).chain([keys::end_of_port(key, at_ms)]).collect()
}

/// At most so long, and whole characters.
fn cut(text: &str) -> String {
    let mut end = text.len().min(LONGEST_CAUSE);
    while !text.is_char_boundary(end) {
        end -= 1;
    }
    text.get(..end).unwrap_or_default().to_owned()
}

impl Event {
    /// True if it is about this node.
    pub fn concerns(&self, node: &Name) -> bool {
        self.node.as_ref() == Some(node)
            || self.from_node.as_ref() == Some(node)
            || self.record.strip_prefix("node ").is_some_and(|name| name == node.as_str())
    }
}
