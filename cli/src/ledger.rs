//! `causeway bgp ledger`: where MACs are, and with which sequence numbers.

use causeway_proto::{Mac, v1};
use clap::Args;
use serde::Serialize;

use crate::client::{Client, moves};
use crate::failure::{Exit, Outcome};
use crate::output::{Format, Output, Table, Tone, plain};
use crate::tables::port_id;
use crate::time;
use crate::view::PortKeyView;

/// The mobility ledger: where MACs are, with which sequence numbers, how often they moved, what is wrong
///
/// Switches stop following a MAC that changes its place 5 times within 180 seconds (RFC 7432 §15.1); CHANGES counts as they do.
/// HEARD is with which sequence other VTEPs say it. MACs of ports that are gone are listed too: the next port with such a
/// MAC goes on counting.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway bgp ledger --active
  causeway bgp ledger --network red/web
  causeway bgp ledger --mac 02:ca:0a:08:00:05 -o json")]
pub(crate) struct LedgerArgs {
    /// Only of this network, as NETWORK or VRF/NETWORK
    #[arg(long)]
    network: Option<String>,
    /// Only this MAC
    #[arg(long)]
    mac: Option<Mac>,
    /// Only those that moved in the last 180 seconds, or about which an alarm stands
    #[arg(long)]
    active: bool,
    /// At most so many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
}

#[derive(Debug, Serialize)]
struct EntryView {
    vrf: String,
    network: String,
    mac: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<PortKeyView>,
    sequence: u32,
    announced: bool,
    node: String,
    vtep: String,
    changes: u32,
    changed_ms: i64,
    heard: Vec<String>,
    alarms: Vec<String>,
}

impl From<v1::LedgerEntry> for EntryView {
    fn from(e: v1::LedgerEntry) -> Self {
        EntryView {
            vrf: e.vrf,
            network: e.network,
            mac: e.mac,
            port: e.port.map(PortKeyView::from),
            sequence: e.sequence,
            announced: e.announced,
            node: e.node,
            vtep: e.vtep,
            changes: e.changes,
            changed_ms: e.changed_ms,
            heard: e.heard,
            alarms: e.alarms,
        }
    }
}

pub(crate) async fn list(args: LedgerArgs, client: &Client, out: Output) -> Outcome {
    let asked = args.network.unwrap_or_default();
    let (vrf, network) = asked.split_once('/').unwrap_or(("", &asked));
    let request = v1::ListLedgerRequest {
        vrf: vrf.to_owned(),
        network: network.to_owned(),
        mac: args.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        active: args.active,
        limit: args.limit,
    };
    let act = "read the ledger";
    let answer = client.call(act, async |channel| moves(channel).list_ledger(request.clone()).await).await?;
    match out.format {
        Format::Table if answer.entries.is_empty() => out.note("no MACs match"),
        Format::Table => out.table(&table(&answer.entries))?,
        _ => out.data(&answer.entries.into_iter().map(EntryView::from).collect::<Vec<_>>())?,
    }
    if answer.more > 0 {
        out.note(&format!("{} more match; raise --limit or narrow the filter", answer.more));
    }
    Ok(Exit::Ok)
}

fn table(entries: &[v1::LedgerEntry]) -> Table {
    let mut table =
        Table::new(&["NETWORK", "MAC", "PORT", "SEQ", "NODE", "VTEP", "CHANGES", "LAST", "HEARD", "ALARMS"]);
    for e in entries {
        let last = if e.changed_ms == 0 { String::new() } else { time::show(e.changed_ms) };
        let tone = if e.announced { Tone::Plain } else { Tone::Faint };
        table.row(vec![
            plain(format!("{}/{}", e.vrf, e.network)),
            plain(&e.mac),
            plain(port_id(e.port.as_ref())),
            (e.sequence.to_string(), tone),
            plain(&e.node),
            plain(&e.vtep),
            (e.changes.to_string(), if e.changes > 2 { Tone::Warn } else { Tone::Plain }),
            plain(last),
            plain(e.heard.join(",")),
            (e.alarms.join("; "), Tone::Bad),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn entries_with_and_without_a_port() {
        let here = v1::LedgerEntry {
            vrf: "default".into(),
            network: "web".into(),
            mac: "02:ca:0a:08:00:05".into(),
            port: Some(v1::PortKey { vrf: "default".into(), network: "web".into(), name: "db-1".into() }),
            sequence: 4,
            announced: true,
            node: "host2".into(),
            vtep: "10.0.0.2".into(),
            changes: 3,
            changed_ms: 1_795_000_000_000,
            heard: vec!["10.0.0.9=7".into()],
            alarms: vec!["somebody else says it".into()],
        };
        let mac = "02:ca:0a:08:00:06".to_owned();
        let gone = v1::LedgerEntry { mac, port: None, sequence: 2, ..v1::LedgerEntry::default() };
        let gone = v1::LedgerEntry { vrf: "red".into(), network: "web".into(), ..gone };
        insta::assert_snapshot!(table(&[here, gone]).render(false), @r"
        NETWORK       MAC                 PORT               SEQ   NODE    VTEP       CHANGES   LAST                       HEARD        ALARMS
        default/web   02:ca:0a:08:00:05   default/web/db-1   4     host2   10.0.0.2   3         2026-11-18T11:06:40.000Z   10.0.0.9=7   somebody else says it
        red/web       02:ca:0a:08:00:06   -                  2     -       -          0         -                          -            -
        ");
    }
}
