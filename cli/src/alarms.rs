//! `causeway fabric`: intended against observed, once and as it changes.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use causeway_proto::v1;
use clap::{Args, Subcommand};
use serde::Serialize;
use tokio::time::{Instant, sleep};

use crate::client::{CallError, Client, fabric};
use crate::failure::{Exit, Failure, Outcome, printable};
use crate::output::{Format, Output, Table, Tone, paint, plain};
use crate::tables::port_id;
use crate::view::PortKeyView;

/// Pauses between attempts to watch again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// About the fabric.
#[derive(Debug, Subcommand)]
pub(crate) enum FabricCommand {
    Diff(DiffArgs),
    Alarms(AlarmsArgs),
}

/// What each peer says of each bound port, compared with what is intended
///
/// Shown is what is not as intended: "-" missing, "!" elsewhere, "x2" duplicate, "~" stale, "?" foreign; with --all
/// also "=" present. Nothing is changed by this, and what the fabric says is never fought with.
///
/// With --exit-code the exit code is 0 if all is as intended, 3 if something is not, and 2 if there is no peer to ask.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway fabric diff
  causeway fabric diff --network web --node leaf1 --all
  causeway fabric diff --exit-code || echo look at it
  causeway fabric diff -o json | jq -r '.findings[] | select(.presence == \"elsewhere\") | .port.name'")]
pub(crate) struct DiffArgs {
    /// Only this VRF
    #[arg(long)]
    vrf: Option<String>,
    /// Only this network, as NETWORK or VRF/NETWORK
    #[arg(long)]
    network: Option<String>,
    /// Only ports bound to this node
    #[arg(long)]
    node: Option<String>,
    /// Also what is as intended
    #[arg(long)]
    all: bool,
    /// At most so many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..=100_000))]
    limit: u32,
    /// Tell by the exit code whether all is as intended
    #[arg(long)]
    exit_code: bool,
}

/// Alarms of the fabric: what has not been as intended for a while
///
/// An alarm is raised when it has stood for 2 seconds (10 if a port is missing) and cleared when it has been gone for 2.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway fabric alarms
  causeway fabric alarms --follow
  causeway fabric alarms --follow -o json        one alarm a line")]
pub(crate) struct AlarmsArgs {
    /// Go on with what is raised and cleared, until interrupted
    #[arg(long, short)]
    follow: bool,
}

#[derive(Debug, Serialize)]
struct FindingView {
    presence: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    port: Option<PortKeyView>,
    vrf: String,
    network: String,
    mac: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    address: String,
    peer: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    intended_vtep: String,
    intended_sequence: u32,
    observed_vteps: Vec<String>,
    observed_sequence: u32,
    text: String,
}

#[derive(Debug, Serialize)]
struct DiffView {
    findings: Vec<FindingView>,
    more: u64,
    ports: u64,
    peers: Vec<String>,
    revision: u64,
}

#[derive(Debug, Serialize)]
struct AlarmView {
    event: &'static str,
    time_ms: i64,
    #[serde(flatten)]
    finding: FindingView,
}

impl From<v1::FabricFinding> for FindingView {
    fn from(f: v1::FabricFinding) -> Self {
        FindingView {
            presence: presence(&f).0,
            port: f.port.map(PortKeyView::from),
            vrf: f.vrf,
            network: f.network,
            mac: f.mac,
            address: f.address,
            peer: f.peer,
            intended_vtep: f.intended_vtep,
            intended_sequence: f.intended_sequence,
            observed_vteps: f.observed_vteps,
            observed_sequence: f.observed_sequence,
            text: f.text,
        }
    }
}

/// Name, symbol and tone.
fn presence(finding: &v1::FabricFinding) -> (&'static str, &'static str, Tone) {
    match finding.presence() {
        v1::Presence::Present => ("present", "=", Tone::Good),
        v1::Presence::Missing => ("missing", "-", Tone::Warn),
        v1::Presence::Elsewhere => ("elsewhere", "!", Tone::Bad),
        v1::Presence::Duplicate => ("duplicate", "x2", Tone::Bad),
        v1::Presence::Stale => ("stale", "~", Tone::Warn),
        v1::Presence::Foreign => ("foreign", "?", Tone::Warn),
        v1::Presence::Unspecified => ("unknown", " ", Tone::Plain),
    }
}

/// Who it is about: the port, or the network of a MAC that is nobody's.
fn who(finding: &v1::FabricFinding) -> String {
    match &finding.port {
        Some(port) => port_id(Some(port)),
        None => format!("{}/{}/?", finding.vrf, finding.network),
    }
}

/// A place and its sequence.
fn at(vteps: &[String], sequence: u32) -> String {
    match (vteps, sequence) {
        ([], _) => String::new(),
        (vteps, 0) => vteps.join(","),
        (vteps, n) => format!("{} seq {n}", vteps.join(",")),
    }
}

fn table(findings: &[v1::FabricFinding]) -> Table {
    let mut table =
        Table::new(&["", "PRESENCE", "PORT", "MAC", "ADDRESS", "PEER", "INTENDED", "OBSERVED", "MEANING"]);
    for finding in findings {
        let (name, symbol, tone) = presence(finding);
        let intended: Vec<String> =
            Some(&finding.intended_vtep).filter(|vtep| !vtep.is_empty()).into_iter().cloned().collect();
        table.row(vec![
            (symbol.to_owned(), tone),
            (name.to_owned(), tone),
            plain(who(finding)),
            plain(&finding.mac),
            plain(&finding.address),
            plain(&finding.peer),
            plain(at(&intended, finding.intended_sequence)),
            plain(at(&finding.observed_vteps, finding.observed_sequence)),
            plain(&finding.text),
        ]);
    }
    table
}

/// One line about all of it.
fn summary(answer: &v1::DiffFabricResponse) -> String {
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    for finding in answer.findings.iter().filter(|f| f.presence() != v1::Presence::Present) {
        *counts.entry(presence(finding).0).or_default() += 1;
    }
    let (ports, peers) = (plural(answer.ports, "port"), plural(answer.peers.len() as u64, "peer"));
    let found = match counts.is_empty() {
        true => "all as intended".to_owned(),
        false => counts.iter().map(|(name, n)| format!("{n} {name}")).collect::<Vec<_>>().join(", "),
    };
    format!("{ports} compared at {peers}, revision {}: {found}", answer.revision)
}

fn plural(n: u64, what: &str) -> String {
    if n == 1 { format!("1 {what}") } else { format!("{n} {what}s") }
}

pub(crate) async fn run(command: FabricCommand, client: &Client, out: Output) -> Outcome {
    match command {
        FabricCommand::Diff(args) => diff(args, client, out).await,
        FabricCommand::Alarms(args) => alarms(&args, client, out).await,
    }
}

async fn diff(args: DiffArgs, client: &Client, out: Output) -> Outcome {
    let (mut vrf, mut network) = (args.vrf.unwrap_or_default(), args.network.unwrap_or_default());
    if let Some((of, name)) = network.clone().split_once('/') {
        if !vrf.is_empty() && vrf != of {
            return Err(Failure::new(
                Exit::Usage,
                format!("--vrf {vrf} and --network {network} contradict each other"),
            ));
        }
        (vrf, network) = (of.to_owned(), name.to_owned());
    }
    let request = v1::DiffFabricRequest {
        vrf,
        network,
        node: args.node.unwrap_or_default(),
        all: args.all,
        limit: args.limit,
    };
    let answer = client
        .call("compare the fabric", async |channel| fabric(channel).diff_fabric(request.clone()).await)
        .await?;
    let good = answer.findings.iter().all(|f| f.presence() == v1::Presence::Present);
    let exit = match args.exit_code {
        true if answer.peers.is_empty() => Exit::Nothing,
        true if !good || answer.more > 0 => Exit::Attention,
        _ => Exit::Ok,
    };
    if out.format != Format::Table {
        let v1::DiffFabricResponse { findings, more, ports, peers, revision } = answer;
        let findings = findings.into_iter().map(FindingView::from).collect();
        out.data(&DiffView { findings, more, ports, peers, revision })?;
        return Ok(exit);
    }
    if !answer.findings.is_empty() {
        out.table(&table(&answer.findings))?;
    }
    out.line(&summary(&answer))?;
    if answer.more > 0 {
        out.note(&format!("{} more; raise --limit or narrow the filter", answer.more));
    }
    if answer.peers.is_empty() {
        out.note("no peer is established: there is nothing to compare with");
        out.next("causeway bgp peers");
    } else if let Some(first) = answer.findings.iter().find(|f| f.presence() != v1::Presence::Present) {
        out.next(&format!("causeway bgp explain {}", first.mac));
    }
    Ok(exit)
}

/// One alarm as a line, a JSON object on a line, or a YAML document.
fn render(alarm: v1::Alarm, out: Output) -> Result<String, Failure> {
    let finding = alarm.finding.unwrap_or_default();
    let event = if alarm.raised { "raised" } else { "cleared" };
    if out.format == Format::Table {
        let (name, symbol, tone) = presence(&finding);
        let tone = if alarm.raised { tone } else { Tone::Good };
        let word = paint(&format!("{event:<7} {symbol:<2} {name:<9}"), tone, out.colour);
        let address =
            if finding.address.is_empty() { String::new() } else { format!(" {}", finding.address) };
        let rest =
            format!("{} {}{address} at {}: {}", who(&finding), finding.mac, finding.peer, finding.text);
        return Ok(format!("{} {word} {}\n", clock(alarm.time_ms), printable(&rest).replace('\n', " ")));
    }
    let view = AlarmView { event, time_ms: alarm.time_ms, finding: finding.into() };
    let failed = |e: String| Failure::new(Exit::Failed, format!("cannot write the alarm: {e}"));
    match out.format {
        Format::Json => {
            serde_json::to_string(&view).map(|t| format!("{t}\n")).map_err(|e| failed(e.to_string()))
        }
        _ => serde_saphyr::to_string(&view).map(|t| format!("---\n{t}")).map_err(|e| failed(e.to_string())),
    }
}

/// Time of day in UTC.
fn clock(time_ms: i64) -> String {
    let seconds = time_ms.div_euclid(1000).rem_euclid(86_400);
    format!("{:02}:{:02}:{:02}Z", seconds / 3600, seconds / 60 % 60, seconds % 60)
}

/// Shows what stands, and with `--follow` what is raised and cleared. What has been shown already is not shown again when
/// the watch goes on at another controller; what was cleared meanwhile is.
async fn alarms(args: &AlarmsArgs, client: &Client, out: Output) -> Outcome {
    let act = "watch the alarms";
    let mut standing: BTreeMap<String, v1::Alarm> = BTreeMap::new();
    let mut pause = RETRY.0;
    let mut seen_any = false;
    loop {
        let opened = client
            .try_call(&async |channel| fabric(channel).watch_alarms(v1::WatchAlarmsRequest {}).await)
            .await;
        let mut stream = match opened {
            Ok(stream) => stream,
            Err(CallError::Refused(status)) => return Err(Failure::refused(act, &status)),
            Err(error) if !seen_any => return Err(client.failure(act, error)),
            Err(_) => {
                sleep(pause).await;
                pause = (pause * 2).min(RETRY.1);
                continue;
            }
        };
        (seen_any, pause) = (true, RETRY.0);
        let mut again = Some(BTreeSet::new());
        let started = Instant::now();
        while let Ok(Some(alarm)) = stream.message().await {
            if alarm.synced {
                for name in again.take().map(|seen| gone(&standing, &seen)).unwrap_or_default() {
                    if let Some(old) = standing.remove(&name) {
                        out.text(&render(v1::Alarm { raised: false, ..old }, out)?)?;
                    }
                }
                if !args.follow {
                    if standing.is_empty() {
                        out.note("no alarms");
                    }
                    return Ok(Exit::Ok);
                }
                continue;
            }
            let name = alarm.finding.as_ref().map(identity).unwrap_or_default();
            if let Some(seen) = &mut again {
                seen.insert(name.clone());
            }
            let known = match alarm.raised {
                true => standing.insert(name, alarm.clone()),
                false => standing.remove(&name),
            };
            let repeated = alarm.raised && known.is_some_and(|old| shape(&old) == shape(&alarm));
            if !repeated {
                out.text(&render(alarm, out)?)?;
            }
        }
        if started.elapsed() < RETRY.0 {
            sleep(pause).await;
        }
    }
}

/// Alarms that stood and were not among those that stand now.
fn gone(standing: &BTreeMap<String, v1::Alarm>, seen: &BTreeSet<String>) -> Vec<String> {
    standing.keys().filter(|name| !seen.contains(*name)).cloned().collect()
}

fn identity(finding: &v1::FabricFinding) -> String {
    let v1::FabricFinding { vrf, network, mac, address, peer, .. } = finding;
    format!("{vrf}/{network}/{mac}/{address}/{peer}")
}

fn shape(alarm: &v1::Alarm) -> Option<(i32, &[String])> {
    alarm.finding.as_ref().map(|finding| (finding.presence, finding.observed_vteps.as_slice()))
}
