//! `causeway events`: what happened, and what happens.

use std::time::Duration;

use causeway_proto::{PortKey, v1};
use clap::Args;
use serde::Serialize;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::Code;

use crate::client::{CallError, Client, history};
use crate::failure::{Exit, Failure, Outcome, printable};
use crate::output::{Format, Output, Tone, paint};
use crate::tables::port_id;
use crate::time;
use crate::view::PortKeyView;

/// Pauses between attempts to go on.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Kinds, their words and how they stand out.
const KINDS: [(v1::EventKind, &str, Tone); 18] = [
    (v1::EventKind::Created, "created", Tone::Good),
    (v1::EventKind::TakenBack, "taken-back", Tone::Good),
    (v1::EventKind::Bound, "bound", Tone::Good),
    (v1::EventKind::Unbound, "unbound", Tone::Plain),
    (v1::EventKind::Moved, "moved", Tone::Good),
    (v1::EventKind::Released, "released", Tone::Faint),
    (v1::EventKind::Quarantined, "quarantined", Tone::Warn),
    (v1::EventKind::Freed, "freed", Tone::Faint),
    (v1::EventKind::Updated, "updated", Tone::Plain),
    (v1::EventKind::Adopted, "adopted", Tone::Good),
    (v1::EventKind::Declared, "declared", Tone::Plain),
    (v1::EventKind::Deleted, "deleted", Tone::Plain),
    (v1::EventKind::RolledBack, "rolled-back", Tone::Warn),
    (v1::EventKind::Fenced, "fenced", Tone::Warn),
    (v1::EventKind::Repaired, "repaired", Tone::Warn),
    (v1::EventKind::Moving, "moving", Tone::Plain),
    (v1::EventKind::Duplicate, "duplicate", Tone::Bad),
    (v1::EventKind::Held, "held", Tone::Good),
];

/// What happened: ports made, bound, moved, given up; records declared; by whom and why
///
/// Without --since the last hour is shown. With --follow it goes on until interrupted; when the controller goes away it
/// goes on at the next one, and nothing is missed.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway events
  causeway events --follow --kind moved --kind quarantined
  causeway events --since 7d --port web/db-1
  causeway events --since 2026-11-22T14:00Z --until 15:00 --node host1
  causeway events --from-revision 812 --follow -o json     resumed; one event a line")]
pub(crate) struct EventsArgs {
    /// Go on with those to come
    #[arg(long, short)]
    follow: bool,
    /// From this time on: 2026-11-22T14:03Z, 14:03 (UTC), 15m (ago) [default: 1h]
    #[arg(long, value_name = "TIME", value_parser = time::parse, allow_hyphen_values = true)]
    since: Option<i64>,
    /// Up to this time
    #[arg(long, value_name = "TIME", value_parser = time::parse, conflicts_with = "follow")]
    until: Option<i64>,
    /// Only after this revision, whenever that was
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    from_revision: u64,
    /// Only of this port
    #[arg(long, value_name = "KEY")]
    port: Option<PortKey>,
    /// Only about this node
    #[arg(long)]
    node: Option<String>,
    /// Only of this kind: created, bound, moved, released, quarantined, freed …; may be repeated
    #[arg(long = "kind", value_name = "KIND", value_parser = kind)]
    kinds: Vec<v1::EventKind>,
    /// Only by this actor, for example root@host1
    #[arg(long)]
    actor: Option<String>,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

/// An event in JSON and YAML.
#[derive(Debug, Serialize)]
pub(crate) struct EventView {
    time: String,
    time_ms: i64,
    revision: u64,
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<PortKeyView>,
    #[serde(skip_serializing_if = "String::is_empty")]
    record: String,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    addresses: Vec<String>,
    #[serde(skip_serializing_if = "String::is_empty")]
    mac: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    node: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    from_node: String,
    generation: u64,
    #[serde(skip_serializing_if = "String::is_empty")]
    cause: String,
    actor: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    peer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

impl From<v1::Event> for EventView {
    fn from(e: v1::Event) -> Self {
        EventView {
            time: time::show(e.time_ms),
            time_ms: e.time_ms,
            revision: e.revision,
            kind: word(e.kind()),
            port: e.port.map(PortKeyView::from),
            record: e.record,
            addresses: e.addresses,
            mac: e.mac,
            node: e.node,
            from_node: e.from_node,
            generation: e.generation,
            cause: e.cause,
            actor: e.actor,
            peer: e.peer,
            reason: e.reason,
        }
    }
}

/// The word of a kind.
pub(crate) fn word(kind: v1::EventKind) -> &'static str {
    KINDS.iter().find(|(known, ..)| *known == kind).map_or("unknown", |(_, word, _)| word)
}

fn kind(text: &str) -> Result<v1::EventKind, String> {
    let known = KINDS.iter().find(|(_, word, _)| *word == text);
    let words = || KINDS.iter().map(|(_, word, _)| *word).collect::<Vec<_>>().join(", ");
    known.map(|(kind, ..)| *kind).ok_or_else(|| format!("unknown kind; known are {}", words()))
}

/// What is to be said of an event, without its time and kind.
pub(crate) fn details(event: &v1::Event) -> String {
    let mut parts = Vec::new();
    match &event.port {
        Some(port) => parts.push(port_id(Some(port))),
        None => parts.push(event.record.clone()),
    }
    if !event.addresses.is_empty() {
        parts.push(event.addresses.join(","));
    }
    match (event.from_node.as_str(), event.node.as_str()) {
        ("", "") => {}
        ("", node) => parts.push(format!("at {node}")),
        (from, "") => parts.push(format!("from {from}")),
        (from, node) => parts.push(format!("from {from} to {node}")),
    }
    if !event.cause.is_empty() {
        parts.push(format!("({})", event.cause));
    }
    if !event.actor.is_empty() {
        parts.push(format!("by {}", event.actor));
    }
    if !event.reason.is_empty() {
        parts.push(format!("because: {}", event.reason));
    }
    printable(&parts.join("  ")).replace('\n', " ")
}

/// One event as a line, a JSON object on a line, or a YAML document.
pub(crate) fn render(event: v1::Event, out: Output) -> Result<String, Failure> {
    let failed = |e: String| Failure::new(Exit::Failed, format!("cannot write the event: {e}"));
    match out.format {
        Format::Table => {
            let known = KINDS.iter().find(|(known, ..)| *known == event.kind());
            let (word, tone) = known.map_or(("unknown", Tone::Plain), |(_, word, tone)| (*word, *tone));
            let word = paint(&format!("{word:<11}"), tone, out.colour);
            Ok(format!("{}  {word}  {}\n", time::show(event.time_ms), details(&event)))
        }
        Format::Json => serde_json::to_string(&EventView::from(event))
            .map(|text| format!("{text}\n"))
            .map_err(|e| failed(e.to_string())),
        Format::Yaml => serde_saphyr::to_string(&EventView::from(event))
            .map(|text| format!("---\n{text}"))
            .map_err(|e| failed(e.to_string())),
    }
}

pub(crate) async fn run(args: EventsArgs, client: &Client, out: Output, limit: Option<Duration>) -> Outcome {
    let filter = v1::EventFilter {
        port: args.port.as_ref().map(crate::ports::message),
        node: args.node.unwrap_or_default(),
        kinds: args.kinds.into_iter().map(i32::from).collect(),
        actor: args.actor.unwrap_or_default(),
    };
    let since_ms = match args.since {
        Some(since) => since,
        None if args.from_revision > 0 => 0,
        None => time::now_ms() - 3_600_000,
    };
    let request = v1::WatchEventsRequest {
        filter: Some(filter),
        since_ms,
        until_ms: args.until.unwrap_or_default(),
        from_revision: args.from_revision,
        follow: args.follow,
    };
    let (mut left, mut any) = (args.count.unwrap_or(u64::MAX), false);
    let shown = read(client, request, limit, |event| {
        any = true;
        left -= 1;
        out.text(&render(event, out)?)?;
        Ok(left > 0)
    });
    shown.await?;
    if !any && out.format == Format::Table {
        out.note("no events");
    }
    Ok(Exit::Ok)
}

/// Reads events until the end or until `take` says that it is enough. A stream of those to come is resumed at the next
/// controller.
pub(crate) async fn read(
    client: &Client,
    mut request: v1::WatchEventsRequest,
    limit: Option<Duration>,
    mut take: impl FnMut(v1::Event) -> Result<bool, Failure>,
) -> Result<(), Failure> {
    let act = "read events";
    let deadline = limit.map(|limit| Instant::now() + limit);
    let late = || Failure::new(Exit::Timeout, "the events did not end in time".to_owned());
    let mut pause = RETRY.0;
    let mut synced = false;
    loop {
        let opened =
            client.try_call(&async |channel| history(channel).watch_events(request.clone()).await).await;
        let broken = match opened {
            Ok(mut stream) => loop {
                let next = match deadline {
                    Some(deadline) => timeout_at(deadline, stream.message()).await.map_err(|_| late())?,
                    None => stream.message().await,
                };
                match next {
                    Ok(Some(answer)) => {
                        pause = RETRY.0;
                        for event in answer.events {
                            if !take(event)? {
                                return Ok(());
                            }
                        }
                        synced |= answer.synced;
                        if synced {
                            (request.from_revision, request.since_ms) = (answer.revision, 0);
                        }
                    }
                    Ok(None) if !request.follow => return Ok(()),
                    Ok(None) => break None,
                    Err(status) => break Some(status),
                }
            },
            // Before the past was read to its end nothing says how far it was.
            Err(error) if !synced => return Err(client.failure(act, error)),
            Err(CallError::Refused(status)) => break_on(act, &status)?,
            Err(CallError::Unreachable(_) | CallError::Late) => None,
        };
        if let Some(status) = broken.filter(|status| !synced || status.code() == Code::InvalidArgument) {
            return Err(Failure::refused(act, &status));
        }
        if deadline.is_some_and(|deadline| Instant::now() + pause >= deadline) {
            return Err(late());
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// A refusal that another attempt may cure is none.
fn break_on(act: &str, status: &tonic::Status) -> Result<Option<tonic::Status>, Failure> {
    match status.code() {
        Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted | Code::Internal => Ok(None),
        _ => Err(Failure::refused(act, status)),
    }
}
