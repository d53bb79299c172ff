//! `causeway ip`: who has an address, who had it, and all of them as a file.

use std::net::IpAddr;

use causeway_proto::v1;
use clap::{Args, Subcommand, ValueEnum};
use serde::Serialize;

use crate::client::{Client, history, ports};
use crate::events::{self, EventView};
use crate::failure::{Exit, Failure, Outcome, printable};
use crate::output::{Format, Output};
use crate::tables::port_id;
use crate::time;
use crate::view::{PortKeyView, port_state};

/// Ports asked for in one page.
const PAGE: u32 = 1000;

/// About addresses.
#[derive(Debug, Subcommand)]
pub(crate) enum IpCommand {
    At(AtArgs),
    History(HistoryArgs),
    Export(ExportArgs),
}

/// Who had an address at a time, and where it was
///
/// Exit code 2: nobody, as far as is known.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway ip at 10.8.0.5 14:03                       today, UTC
  causeway ip at 10.8.0.5 2026-11-22T14:03:05Z
  causeway ip at 10.8.0.5 15m -o json                 15 minutes ago")]
pub(crate) struct AtArgs {
    /// The address
    address: IpAddr,
    /// 2026-11-22T14:03:05Z, 14:03 (UTC, today), 15m (ago), now
    #[arg(value_name = "TIME", value_parser = time::parse)]
    time: i64,
    /// VRF of the address
    #[arg(long, default_value = "default")]
    vrf: String,
}

/// All that happened to the ports that have or had an address, the latest first
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway ip history 10.8.0.5
  causeway ip history 10.8.0.5 --since 7d -o json")]
pub(crate) struct HistoryArgs {
    /// The address
    address: IpAddr,
    /// From this time on: 2026-11-22T14:03Z, 14:03 (UTC), 7d (ago) [default: as far back as is known]
    #[arg(long, value_name = "TIME", value_parser = time::parse)]
    since: Option<i64>,
    /// At most so many events
    #[arg(long, default_value_t = 100, value_parser = clap::value_parser!(u32).range(1..=1000))]
    limit: u32,
    /// VRF of the address
    #[arg(long, default_value = "default")]
    vrf: String,
}

/// Addresses as CSV or JSON lines: those in use, or with --history every event
///
/// Written as it is read: the size does not matter.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway ip export > addresses.csv
  causeway ip export --format json | jq -r 'select(.state == \"released\") | .address'
  causeway ip export --history --since 30d > events.csv")]
pub(crate) struct ExportArgs {
    /// Form of the file
    #[arg(long, value_enum, default_value = "csv")]
    format: ExportFormat,
    /// Every event instead of what is now
    #[arg(long)]
    history: bool,
    /// With --history: from this time on [default: as far back as is known]
    #[arg(long, value_name = "TIME", value_parser = time::parse, requires = "history")]
    since: Option<i64>,
    /// Only this VRF
    #[arg(long, conflicts_with = "history")]
    vrf: Option<String>,
    /// Only this network, as NETWORK or VRF/NETWORK
    #[arg(long, conflicts_with = "history")]
    network: Option<String>,
}

/// Form of an exported file.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum ExportFormat {
    /// Comma-separated, with a header (RFC 4180)
    Csv,
    /// One JSON object a line
    Json,
}

pub(crate) async fn run(command: IpCommand, client: &Client, out: Output) -> Outcome {
    match command {
        IpCommand::At(args) => at(args, client, out).await,
        IpCommand::History(args) => list(args, client, out).await,
        IpCommand::Export(args) if args.history => export_events(&args, client, out).await,
        IpCommand::Export(args) => export_addresses(args, client, out).await,
    }
}

#[derive(Debug, Serialize)]
struct HolderView {
    address: String,
    vrf: String,
    time: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<PortKeyView>,
    #[serde(skip_serializing_if = "String::is_empty")]
    mac: String,
    state: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    node: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    from: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    to: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    last: Option<EventView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    next: Option<EventView>,
    #[serde(skip_serializing_if = "String::is_empty")]
    known_since: String,
}

async fn at(args: AtArgs, client: &Client, out: Output) -> Outcome {
    let AtArgs { address, time: at_ms, vrf } = args;
    let request =
        v1::GetAddressHolderRequest { vrf: vrf.clone(), address: address.to_string(), time_ms: at_ms };
    let act = format!("find out who had {address}");
    let answer =
        client.call(&act, async |channel| history(channel).get_address_holder(request.clone()).await).await?;
    let exit = if answer.port.is_some() { Exit::Ok } else { Exit::Nothing };
    if out.format != Format::Table {
        out.data(&holder_view(address, vrf, at_ms, answer))?;
        return Ok(exit);
    }
    let when = time::show(at_ms);
    let Some(port) = &answer.port else {
        out.line(&format!("{address} was nobody's at {when}"))?;
        if at_ms < answer.known_since_ms {
            out.note(&format!("events before {} are forgotten", time::show(answer.known_since_ms)));
        }
        return Ok(exit);
    };
    let place = match answer.node.as_str() {
        "" => port_state(answer.state).to_owned(),
        node => format!("bound to {node}"),
    };
    let id = port_id(Some(port));
    out.line(&printable(&format!("{address} was port {id}, {place}, MAC {}, at {when}", answer.mac)))?;
    let until = if answer.to_ms == 0 { "still".to_owned() } else { time::show(answer.to_ms) };
    out.line(&format!("  held   {} to {until}", time::show(answer.from_ms)))?;
    for (word, event) in [("before", answer.last), ("after", answer.next)] {
        match event {
            Some(event) => {
                let kind = events::word(event.kind());
                out.line(&format!(
                    "  {word:<6} {} {kind}  {}",
                    time::show(event.time_ms),
                    events::details(&event)
                ))?;
            }
            None if word == "before" => out.line("  before no event is known any more")?,
            None => {}
        }
    }
    out.next(&format!("causeway ip history {address}"));
    Ok(exit)
}

fn holder_view(address: IpAddr, vrf: String, at_ms: i64, answer: v1::GetAddressHolderResponse) -> HolderView {
    let shown = |ms: i64| if ms == 0 { String::new() } else { time::show(ms) };
    HolderView {
        address: address.to_string(),
        vrf,
        time: time::show(at_ms),
        state: if answer.port.is_some() { port_state(answer.state) } else { "free" },
        port: answer.port.map(PortKeyView::from),
        mac: answer.mac,
        node: answer.node,
        from: shown(answer.from_ms),
        to: shown(answer.to_ms),
        last: answer.last.map(EventView::from),
        next: answer.next.map(EventView::from),
        known_since: shown(answer.known_since_ms),
    }
}

async fn list(args: HistoryArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::ListAddressHistoryRequest {
        vrf: args.vrf,
        address: args.address.to_string(),
        since_ms: args.since.unwrap_or_default(),
        limit: args.limit,
    };
    let act = format!("read the history of {}", args.address);
    let answer = client
        .call(&act, async |channel| history(channel).list_address_history(request.clone()).await)
        .await?;
    if out.format != Format::Table {
        out.data(&answer.events.into_iter().map(EventView::from).collect::<Vec<_>>())?;
        return Ok(Exit::Ok);
    }
    if answer.events.is_empty() {
        out.note(&format!("nothing is known of {}", args.address));
        return Ok(Exit::Nothing);
    }
    for event in answer.events {
        out.text(&events::render(event, out)?)?;
    }
    if answer.truncated {
        out.note("there are older ones: raise --limit");
    }
    Ok(Exit::Ok)
}

/// One address of one port.
#[derive(Debug, Serialize)]
struct AddressView {
    address: String,
    vrf: String,
    network: String,
    port: String,
    mac: String,
    state: &'static str,
    node: String,
    labels: String,
    created: String,
    expires: String,
}

async fn export_addresses(args: ExportArgs, client: &Client, out: Output) -> Outcome {
    let (mut vrf, mut network) = (args.vrf.unwrap_or_default(), args.network.unwrap_or_default());
    if let Some((of, name)) = network.clone().split_once('/') {
        (vrf, network) = (of.to_owned(), name.to_owned());
    }
    let filter = v1::PortFilter { vrf, network, ..Default::default() };
    if args.format == ExportFormat::Csv {
        out.text("address,vrf,network,port,mac,state,node,labels,created,expires\r\n")?;
    }
    let mut token = String::new();
    loop {
        let request =
            v1::ListPortsRequest { filter: Some(filter.clone()), page_size: PAGE, page_token: token.clone() };
        let page = client
            .call("list ports", async |channel| ports(channel).list_ports(request.clone()).await)
            .await?;
        let mut text = String::new();
        for view in page.ports.iter().flat_map(addresses) {
            text.push_str(&match args.format {
                ExportFormat::Json => json_line(&view)?,
                ExportFormat::Csv => csv_line(&[
                    &view.address,
                    &view.vrf,
                    &view.network,
                    &view.port,
                    &view.mac,
                    view.state,
                    &view.node,
                    &view.labels,
                    &view.created,
                    &view.expires,
                ]),
            });
        }
        out.text(&text)?;
        // A token that does not move would be asked for ever.
        if page.next_page_token.is_empty() || page.next_page_token == token {
            return Ok(Exit::Ok);
        }
        token = page.next_page_token;
    }
}

fn addresses(port: &v1::Port) -> Vec<AddressView> {
    let key = port.key.clone().unwrap_or_default();
    let shown = |ms: i64| if ms == 0 { String::new() } else { time::show(ms) };
    let view = |address: &String| AddressView {
        address: address.clone(),
        vrf: key.vrf.clone(),
        network: key.network.clone(),
        port: key.name.clone(),
        mac: port.mac.clone(),
        state: port_state(port.state),
        node: port.binding.as_ref().map(|b| b.node.clone()).unwrap_or_default(),
        labels: crate::tables::labels(&port.labels),
        created: shown(port.created_ms),
        expires: shown(port.expires_ms),
    };
    port.addresses.iter().map(view).collect()
}

async fn export_events(args: &ExportArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::WatchEventsRequest { since_ms: args.since.unwrap_or_default(), ..Default::default() };
    if args.format == ExportFormat::Csv {
        out.text("time,revision,kind,vrf,network,port,record,addresses,mac,node,from_node,generation,cause,actor,peer,reason\r\n")?;
    }
    let write = |event: v1::Event| {
        let text = match args.format {
            ExportFormat::Json => json_line(&EventView::from(event))?,
            ExportFormat::Csv => event_line(&event),
        };
        out.text(&text).map(|()| true)
    };
    events::read(client, request, None, write).await?;
    Ok(Exit::Ok)
}

fn event_line(event: &v1::Event) -> String {
    let key = event.port.clone().unwrap_or_default();
    csv_line(&[
        &time::show(event.time_ms),
        &event.revision.to_string(),
        events::word(event.kind()),
        &key.vrf,
        &key.network,
        &key.name,
        &event.record,
        &event.addresses.join(" "),
        &event.mac,
        &event.node,
        &event.from_node,
        &event.generation.to_string(),
        &event.cause,
        &event.actor,
        &event.peer,
        &event.reason,
    ])
}

fn json_line(value: &impl Serialize) -> Result<String, Failure> {
    let text = serde_json::to_string(value);
    text.map(|text| format!("{text}\n"))
        .map_err(|e| Failure::new(Exit::Failed, format!("cannot write a line: {e}")))
}

/// Quoted where needed (RFC 4180). A cell that a spreadsheet would take for a formula begins with an apostrophe.
fn csv_line(cells: &[&str]) -> String {
    let cell = |cell: &&str| {
        let formula = cell.starts_with(['=', '+', '-', '@', '\t', '\r']);
        let text = if formula { format!("'{cell}") } else { (*cell).to_owned() };
        match text.contains([',', '"', '\n', '\r']) {
            true => format!("\"{}\"", text.replace('"', "\"\"")),
            false => text,
        }
    };
    format!("{}\r\n", cells.iter().map(cell).collect::<Vec<_>>().join(","))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cells_are_quoted_and_are_no_formulas() {
        assert_eq!(csv_line(&["a", "b,c", "d\"e", "=1+1", ""]), "a,\"b,c\",\"d\"\"e\",'=1+1,\r\n");
    }
}
