//! `causeway port watch`.

use std::ops::ControlFlow;
use std::time::Duration;

use causeway_proto::v1;
use clap::Args;
use tokio::time::Instant;
use v1::watch_ports_response::Event;

use super::FilterArgs;
use super::follow::{Ended, follow, late};
use crate::client::Client;
use crate::failure::{Exit, Failure, Outcome, printable};
use crate::output::{Format, Output, paint};
use crate::tables::{port_id, state_tone};
use crate::view::{EventView, PortView, port_state};

/// Show the ports as they are, then every change
///
/// Ends with the interrupt key, after --count events, with --until-synced, or with exit code 6 after --timeout. When the
/// controller goes away it goes on at the next one.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway port watch --network web
  causeway port watch --from-revision 812 -o json
  causeway port watch --until-synced -o json       one event a line, then end")]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only changes after this revision [default: the current ports first]
    #[arg(long, value_name = "REVISION", default_value_t = 0, hide_default_value = true)]
    from_revision: u64,
    /// End when all current ports have been shown
    #[arg(long, conflicts_with = "from_revision")]
    until_synced: bool,
    /// End after so many events
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u64).range(1..))]
    count: Option<u64>,
}

pub(crate) async fn run(args: WatchArgs, client: &Client, out: Output, timeout: Option<Duration>) -> Outcome {
    let filter = args.filter.into_filter()?;
    let deadline = timeout.map(|limit| Instant::now() + limit);
    let mut left = args.count;
    let end = follow(client, &filter, args.from_revision, deadline, |event| {
        let synced = matches!(event.event, Some(Event::Synced(_)));
        out.text(&render(event, out)?)?;
        left = left.map(|n| n.saturating_sub(1));
        let done = left == Some(0) || (synced && args.until_synced);
        Ok(if done { ControlFlow::Break(()) } else { ControlFlow::Continue(()) })
    })
    .await;
    match end {
        Ok(()) => Ok(Exit::Ok),
        Err(Ended::Failed(failure)) => Err(failure),
        Err(Ended::Late) => Err(late("the watch did not end", timeout.unwrap_or_default())),
    }
}

/// One event as a line, a JSON object on a line, or a YAML document.
fn render(event: v1::WatchPortsResponse, out: Output) -> Result<String, Failure> {
    let revision = event.revision;
    if out.format == Format::Table {
        return Ok(match event.event {
            Some(Event::Changed(port)) => changed_line(&port, revision, out.colour),
            Some(Event::Deleted(key)) => {
                format!("{revision:>8}  gone        {}\n", printable(&port_id(Some(&key))))
            }
            Some(Event::Synced(_)) => format!("{revision:>8}  synced\n"),
            None => String::new(),
        });
    }
    let view = match event.event {
        Some(Event::Changed(port)) => {
            EventView { event: "changed", revision, port: Some(PortView::new(port, None)), key: None }
        }
        Some(Event::Deleted(key)) => {
            EventView { event: "deleted", revision, port: None, key: Some(key.into()) }
        }
        Some(Event::Synced(_)) => EventView { event: "synced", revision, port: None, key: None },
        None => return Ok(String::new()),
    };
    let failed = |e: String| Failure::new(Exit::Failed, format!("cannot write the event: {e}"));
    match out.format {
        Format::Json => {
            serde_json::to_string(&view).map(|t| format!("{t}\n")).map_err(|e| failed(e.to_string()))
        }
        _ => serde_saphyr::to_string(&view).map(|t| format!("---\n{t}")).map_err(|e| failed(e.to_string())),
    }
}

fn changed_line(port: &v1::Port, revision: u64, colour: bool) -> String {
    let node = port.binding.as_ref().map_or("-", |b| b.node.as_str());
    let state = paint(&format!("{:<10}", port_state(port.state)), state_tone(port.state), colour);
    let problem = if port.problem.is_empty() { String::new() } else { format!("  {}", port.problem) };
    let rest = format!(
        "{}  {}  {}  {node}{problem}",
        port_id(port.key.as_ref()),
        port.addresses.join(","),
        port.mac
    );
    format!("{revision:>8}  {state}  {}\n", printable(&rest).replace('\n', " "))
}
