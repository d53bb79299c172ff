//! `causeway port timeline`.

use causeway_proto::{PortKey, v1};
use clap::Args;
use serde::Serialize;

use super::message;
use crate::client::{Client, history};
use crate::events::{EventView, details};
use crate::failure::{Exit, Outcome, printable};
use crate::output::{Format, Output, Table, Tone, plain};
use crate::time;
use crate::view::port_state;

/// How a port came to be as it is: every step with its time, and what is missing with the reason
///
/// Requests, events and commits, the node's kernel, BGP, and whether a peer says the route back. What is not in the store is
/// what the controller that answers saw since it started.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway port timeline web/db-1
  causeway port timeline web/db-1 -o json | jq '.steps[] | select(.missing)'")]
pub(crate) struct TimelineArgs {
    /// NETWORK/NAME or VRF/NETWORK/NAME; the port may be gone
    key: PortKey,
    /// At most so many events of the past
    #[arg(long, default_value_t = 20, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
}

#[derive(Debug, Serialize)]
struct StepView {
    step: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    time: String,
    time_ms: f64,
    gap_ms: f64,
    missing: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    note: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    event: Option<EventView>,
}

#[derive(Debug, Serialize)]
struct TimelineView {
    state: &'static str,
    controller: String,
    truncated: bool,
    steps: Vec<StepView>,
}

pub(super) async fn run(args: TimelineArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::GetPortTimelineRequest { key: Some(message(&args.key)), limit: args.limit };
    let act = format!("read the timeline of port {}", args.key);
    let answer =
        client.call(&act, async |channel| history(channel).get_port_timeline(request.clone()).await).await?;
    let state = answer.port.as_ref().map_or("gone", |port| port_state(port.state));
    if out.format != Format::Table {
        let steps = answer.steps.into_iter().map(StepView::from).collect();
        out.data(&TimelineView { state, controller: answer.controller, truncated: answer.truncated, steps })?;
        return Ok(Exit::Ok);
    }
    let mut table = Table::new(&["TIME", "GAP", "STEP", "WHAT"]);
    for step in &answer.steps {
        let tone = if step.missing { Tone::Warn } else { Tone::Plain };
        let when = if step.missing { "missing".to_owned() } else { shown(step.time_ms) };
        let what = match &step.event {
            Some(event) => details(event),
            None => printable(&step.note).replace('\n', " "),
        };
        let gap = if step.time_ms == 0.0 { String::new() } else { gap(step.gap_ms) };
        table.row(vec![(when, tone), plain(gap), (step.step.clone(), tone), plain(what)]);
    }
    out.table(&table)?;
    if answer.truncated {
        out.note("there are older events: raise --limit");
    }
    out.note(&format!("port {} is {state}; asked controller {}", args.key, answer.controller));
    Ok(Exit::Ok)
}

/// A moment, or nothing where it is not known.
fn shown(time_ms: f64) -> String {
    #[expect(clippy::cast_possible_truncation, reason = "milliseconds are shown whole")]
    let whole = time_ms as i64;
    if whole == 0 { "unknown".to_owned() } else { time::show(whole) }
}

/// "+0.4 ms", "+12 s", "+3h2m".
fn gap(ms: f64) -> String {
    match ms {
        _ if ms.abs() < 10.0 => format!("{ms:+.1} ms"),
        _ if ms.abs() < 10_000.0 => format!("{ms:+.0} ms"),
        _ if ms.abs() < 60_000.0 => format!("{:+.0} s", ms / 1000.0),
        #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "whole seconds")]
        _ => format!(
            "{}{}",
            if ms < 0.0 { '-' } else { '+' },
            crate::tables::duration((ms.abs() / 1000.0) as u64)
        ),
    }
}

impl From<v1::TimelineStep> for StepView {
    fn from(step: v1::TimelineStep) -> Self {
        StepView {
            step: step.step,
            time: if step.time_ms == 0.0 { String::new() } else { shown(step.time_ms) },
            time_ms: step.time_ms,
            gap_ms: step.gap_ms,
            missing: step.missing,
            note: step.note,
            event: step.event.map(EventView::from),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_short() {
        let shown: Vec<String> = [0.0, 0.44, 12.0, 9_999.0, 12_000.0, 3_723_000.0, -5.25].map(gap).into();
        assert_eq!(shown, ["+0.0 ms", "+0.4 ms", "+12 ms", "+9999 ms", "+12 s", "+1h2m", "-5.2 ms"]);
    }
}
