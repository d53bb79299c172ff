//! What was seen of a run, and what must hold of it. Pure: the same history gives the same complaints.
//!
//! Four witnesses that know nothing of each other: the controllers' own history (every transaction), the clients (what
//! they were told was done), the hosts' kernels (which port was up where, with which MAC), and the wire (who answered for
//! which address). The MAC stands for the address: it is derived from it, so an address that goes to another port takes its
//! MAC along.

mod place;

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_proto::v1::{Event, EventKind, Move, Port, PortState};

/// A moment, since the beginning of the run.
pub(crate) type At = Duration;

/// When something happened: not before the first, not after the second.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Between(pub(crate) At, pub(crate) At);

/// A workload's interface that was up on a host with a MAC of the network.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Presence {
    pub(crate) node: String,
    pub(crate) device: String,
    pub(crate) mac: String,
    pub(crate) from: Between,
    /// `None`: to the end of the run.
    pub(crate) to: Option<Between>,
}

/// An answer for an address that a host put into its tunnel.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Answer {
    pub(crate) node: String,
    /// Which of the requests to this host it answers.
    pub(crate) request: u32,
    pub(crate) address: String,
    pub(crate) mac: String,
    /// When the request was sent.
    pub(crate) asked: At,
    /// When the answer was seen.
    pub(crate) heard: At,
}

/// A host that was cut off and kept out: what is up there meanwhile nobody else hears.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Fence {
    pub(crate) node: String,
    /// Before it was cut off.
    pub(crate) from: At,
    /// Before it was joined again.
    pub(crate) to: At,
}

/// A call that was answered with success.
#[derive(Debug, Clone)]
pub(crate) struct Ack {
    /// The call, in words.
    pub(crate) call: String,
    pub(crate) port: String,
    pub(crate) done: Done,
}

/// What its answer said.
#[derive(Debug, Clone)]
pub(crate) enum Done {
    /// This is the port now; with the node that it had to be bound to.
    Port(Box<Port>, Option<String>),
    /// This is the port now, with this rate limit, in kbit/s.
    Limited(Box<Port>, u64),
    /// It lives nowhere.
    Unbound(Box<Port>),
    /// It is released at this revision, and its addresses are given up.
    Released { revision: u64, forgotten: bool },
    /// This move has begun, or has turned back.
    Moving(Box<Move>),
}

/// Everything.
#[derive(Debug, Clone, Default)]
pub(crate) struct History {
    /// The controllers' events of ports, in any order.
    pub(crate) told: Vec<Event>,
    pub(crate) acks: Vec<Ack>,
    pub(crate) seen: Vec<Presence>,
    pub(crate) answers: Vec<Answer>,
    pub(crate) fences: Vec<Fence>,
    /// The ports at the end.
    pub(crate) last: Vec<Port>,
}

/// A port as events tell of it.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
struct Told {
    addresses: Vec<String>,
    mac: String,
    node: String,
    generation: u64,
    released: bool,
    quarantined: bool,
}

/// What is wrong; empty: nothing.
pub(crate) fn complaints(history: &History) -> Vec<String> {
    let mut all = Vec::new();
    let courses = courses(&history.told, &mut all);
    for ack in &history.acks {
        if let Err(why) = present(ack, &courses, &history.told) {
            all.push(format!("{} was acknowledged, but {why}: {:?}", ack.call, ack.done));
        }
    }
    all.extend(at_the_end(&history.last, &courses));
    all.extend(limits_at_the_end(history));
    all.extend(place::complaints(history));
    all
}

impl History {
    /// What was seen by then. The rest is over by then in any case.
    pub(crate) fn until(&self, then: At) -> History {
        let seen = self
            .seen
            .iter()
            .filter(|presence| presence.from.1 <= then)
            .map(|presence| Presence { to: presence.to.filter(|to| to.1 <= then), ..presence.clone() });
        let answers = self.answers.iter().filter(|answer| answer.heard <= then);
        History { seen: seen.collect(), answers: answers.cloned().collect(), ..self.clone() }
    }
}

/// An event in a line, for whoever looks for a complaint's cause.
pub(crate) fn line(event: &Event) -> String {
    let name = event.port.as_ref().map_or("", |key| key.name.as_str());
    let Event { revision, time_ms, node, generation, cause, .. } = event;
    let (kind, addresses) = (event.kind().as_str_name(), event.addresses.join(" "));
    format!("{revision} {time_ms} {name} {kind} {addresses} at '{node}' generation {generation}: {cause}")
}

/// Each port's course: revision and what it was from there on; `None`: gone.
type Courses = BTreeMap<String, Vec<(u64, Option<Told>)>>;

/// Follows the events, and complains of an address or MAC with two owners, and of generations that fall.
fn courses(told: &[Event], all: &mut Vec<String>) -> Courses {
    let mut events: Vec<&Event> = told.iter().filter(|event| event.port.is_some()).collect();
    events.sort_by_key(|event| event.revision);
    let mut courses = Courses::new();
    let mut owners: BTreeMap<String, String> = BTreeMap::new();
    let mut generations: BTreeMap<String, u64> = BTreeMap::new();
    for event in events {
        let name = event.port.as_ref().map(|key| key.name.clone()).unwrap_or_default();
        let course = courses.entry(name.clone()).or_default();
        let before = course.last().and_then(|(_, told)| told.clone());
        let things = || event.addresses.iter().chain([&event.mac]);
        if event.kind() == EventKind::Freed {
            owners.retain(|_, owner| *owner != name);
            course.push((event.revision, None));
            // Sequence 0, which everybody begins with, need not be remembered.
            generations.retain(|mac, highest| *mac != event.mac || *highest > 1);
            continue;
        }
        for thing in things() {
            let owner = owners.entry(thing.clone()).or_insert_with(|| name.clone());
            if *owner != name {
                all.push(format!("revision {}: {thing} is port {name}'s and {owner}'s", event.revision));
            }
        }
        let had: BTreeSet<&String> = before.iter().flat_map(|told| told.addresses.iter()).collect();
        if !had.is_empty() && had != event.addresses.iter().collect() {
            all.push(format!("revision {}: port {name} has other addresses: {event:?}", event.revision));
        }
        let highest = generations.entry(event.mac.clone()).or_default();
        let rebound = before.as_ref().is_none_or(|told| told.node != event.node) && !event.node.is_empty();
        // One that was never bound has none.
        let falls = event.generation < *highest && event.generation != 0;
        if falls || (rebound && event.generation == *highest) {
            let (revision, generation) = (event.revision, event.generation);
            all.push(format!("revision {revision}: port {name} has generation {generation} after {highest}"));
        }
        *highest = event.generation.max(*highest);
        let before = before.unwrap_or_default();
        let now = Told {
            addresses: event.addresses.clone(),
            mac: event.mac.clone(),
            node: event.node.clone(),
            generation: event.generation,
            released: match event.kind() {
                EventKind::Released | EventKind::Quarantined => true,
                EventKind::TakenBack | EventKind::Created => false,
                _ => before.released,
            },
            quarantined: match event.kind() {
                EventKind::Quarantined => true,
                EventKind::TakenBack | EventKind::Created => false,
                _ => before.quarantined,
            },
        };
        course.push((event.revision, Some(now)));
    }
    courses
}

/// What a port was at a revision.
fn at<'c>(courses: &'c Courses, port: &str, revision: u64) -> Option<&'c Told> {
    let course = courses.get(port)?;
    course.iter().rev().find(|(at, _)| *at <= revision)?.1.as_ref()
}

fn present(ack: &Ack, courses: &Courses, told: &[Event]) -> Result<(), String> {
    match &ack.done {
        Done::Port(port, node) => {
            let told = at(courses, &ack.port, port.revision).ok_or("it is not there")?;
            same(port, told)?;
            match node {
                Some(node) if told.node != *node => Err(format!("it lives at '{}'", told.node)),
                _ => Ok(()),
            }
        }
        Done::Limited(port, kbit) => {
            same(port, at(courses, &ack.port, port.revision).ok_or("it is not there")?)?;
            if limit(port) == *kbit { Ok(()) } else { Err(format!("its limit is {} kbit/s", limit(port))) }
        }
        Done::Unbound(port) => {
            let told = at(courses, &ack.port, port.revision).ok_or("it is not there")?;
            same(port, told)?;
            if told.node.is_empty() { Ok(()) } else { Err(format!("it lives at {}", told.node)) }
        }
        Done::Released { revision, forgotten } => match at(courses, &ack.port, *revision) {
            Some(told) if !told.released || (*forgotten && !told.quarantined) => {
                Err(format!("it is {told:?}"))
            }
            _ => Ok(()),
        },
        Done::Moving(moving) => {
            // Only its beginning has the time of its transaction; the rest is timed by whoever watches it.
            let began = moving.steps.first().map(|step| step.at_ms).ok_or("it has no steps")?;
            let is_it = |event: &&Event| {
                event.time_ms == began && event.port.as_ref().is_some_and(|key| key.name == ack.port)
            };
            told.iter().find(is_it).map(drop).ok_or_else(|| format!("no event tells of it at {began} ms"))
        }
    }
}

fn same(port: &Port, told: &Told) -> Result<(), String> {
    let binding = port.binding.as_ref();
    let (node, generation) = binding.map_or(("", told.generation), |b| (b.node.as_str(), b.generation));
    let moving = port.state() == PortState::Moving;
    if port.addresses != told.addresses || port.mac != told.mac {
        return Err(format!("it has {:?} and MAC {}", told.addresses, told.mac));
    }
    if !moving && (node != told.node || generation != told.generation) {
        return Err(format!("it lives at '{}' with generation {}", told.node, told.generation));
    }
    Ok(())
}

/// A port's limit on what it receives.
fn limit(port: &Port) -> u64 {
    port.rate.as_ref().map_or(0, |rate| rate.in_kbit)
}

/// Limits that were the last thing changed about a port's configuration are still there.
fn limits_at_the_end(history: &History) -> Vec<String> {
    let mut all = Vec::new();
    for ack in &history.acks {
        let Done::Limited(told, kbit) = &ack.done else { continue };
        // Another change, a new beginning or the end of the port: what was not acknowledged may be done, too.
        let changes = |event: &&Event| {
            event.revision > told.revision
                && event.port.as_ref().is_some_and(|key| key.name == ack.port)
                && matches!(event.kind(), EventKind::Updated | EventKind::TakenBack | EventKind::Freed)
        };
        if history.told.iter().any(|event| changes(&event)) {
            continue;
        }
        let last = history.last.iter().find(|port| port.key.as_ref().is_some_and(|key| key.name == ack.port));
        if let Some(port) = last.filter(|port| limit(port) != *kbit) {
            all.push(format!("{} was acknowledged, but at the end it has {} kbit/s", ack.call, limit(port)));
        }
    }
    all
}

/// The ports that are there are those that events tell of: nothing is lost, and nothing came by itself.
fn at_the_end(last: &[Port], courses: &Courses) -> Vec<String> {
    let mut all = Vec::new();
    let mut there: BTreeMap<&str, &Port> = BTreeMap::new();
    for port in last {
        let name = port.key.as_ref().map_or("", |key| key.name.as_str());
        there.insert(name, port);
    }
    for (name, course) in courses {
        let told = course.last().and_then(|(_, told)| told.as_ref());
        match (told, there.remove(name.as_str())) {
            (None, None) => {}
            (None, Some(port)) => all.push(format!("port {name} is there, and was freed: {port:?}")),
            (Some(told), None) => all.push(format!("port {name} is lost: {told:?}")),
            (Some(told), Some(port)) => {
                let state = match port.state() {
                    PortState::Released => (true, false),
                    PortState::Quarantined => (true, true),
                    _ => (false, false),
                };
                if let Err(why) = same(port, told) {
                    all.push(format!("port {name} is {port:?}, but {why}"));
                }
                if state != (told.released, told.quarantined) {
                    all.push(format!("port {name} is {port:?}, and is told as {told:?}"));
                }
            }
        }
    }
    all.extend(there.into_iter().map(|(name, port)| format!("no event tells of port {name}: {port:?}")));
    all
}

#[cfg(test)]
mod tests;
