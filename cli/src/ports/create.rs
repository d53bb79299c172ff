//! `causeway port create`.

use std::net::IpAddr;
use std::time::Duration;

use causeway_proto::{Mac, v1};
use clap::Args;

use super::names::{self, Pattern};
use super::place::{AttachArgs, RateArgs, address_check, guard};
use super::{Level, id, message, wait};
use crate::client::{Client, ports};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Format, Output};
use crate::tables;
use crate::view::PortView;

/// Ports in one request; the contract's limit.
const BULK_LIMIT: usize = 1000;
/// Failures listed one by one before the rest is only counted.
const FAILURES_SHOWN: usize = 5;

/// Reserve addresses and a MAC for a name
///
/// Creating an existing port again shows it and changes nothing.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway port create web/db-1
  causeway port create red/web/db-1 --address 10.8.0.5 --address fd00:8::5 --mac 02:00:00:00:00:05 --label tier=db
  causeway port create web/db-1 --bind-node host1 --netns /run/netns/db-1 --wait advertised
  causeway port create web/db-2 --bind-node host2 --netns pid:4711 --attachment macvlan --rate-out 100mbit
  causeway port create web/vm-1 --bind-node host3 --workload vm --guard off
  causeway port create 'web/vm-{:03}' --count 300
  causeway port create db-3 --network-label rack=r1,zone=a")]
pub(crate) struct CreateArgs {
    /// NETWORK/NAME or VRF/NETWORK/NAME, with --network-label NAME; with --count a pattern: {} or {:03} stands for the number
    key: String,
    /// An address to ask for; may be repeated [default: one of each family the network has]
    #[arg(long = "address", value_name = "ADDRESS", conflicts_with = "count")]
    addresses: Vec<IpAddr>,
    /// A MAC to ask for [default: derived from the first address]
    #[arg(long, conflicts_with = "count")]
    mac: Option<Mac>,
    /// Instead of a network in KEY, which is only the name then: any network with this label that has room; may be
    /// repeated, or several separated by commas, and all must match
    #[arg(
        long = "network-label",
        value_name = "KEY=VALUE",
        value_parser = names::label,
        value_delimiter = ',',
        conflicts_with = "addresses"
    )]
    network_labels: Vec<(String, String)>,
    /// With --network-label: the VRF of the networks
    #[arg(long, default_value = "default", requires = "network_labels")]
    vrf: String,
    /// A label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = names::label)]
    labels: Vec<(String, String)>,
    /// A VIP: addresses for which another port answers (port vip hold)
    #[arg(long, conflicts_with = "bind_node")]
    vip: bool,
    /// Bind it in the same transaction to this node
    #[arg(long, value_name = "NODE")]
    bind_node: Option<String>,
    /// With --bind-node: the container's network namespace on the node; with --count {} stands for the number
    #[arg(long, value_name = "PATH|pid:NUMBER", requires = "bind_node")]
    netns: Option<String>,
    #[command(flatten)]
    attach: AttachArgs,
    #[command(flatten)]
    rate: RateArgs,
    /// Whether it may send only what is its own [default: as its network says]
    #[arg(long, value_parser = guard())]
    guard: Option<i32>,
    /// Whether its node asks for its addresses on the wire before the first use there [default: as its network says]
    #[arg(long, value_parser = address_check())]
    address_check: Option<i32>,
    /// Create so many ports, with numbers in their names
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=1_000_000))]
    count: Option<u32>,
    /// With --count: the first number
    #[arg(long, value_name = "N", default_value_t = 1, requires = "count")]
    first: u32,
    /// With --bind-node: wait until all are so far, as long as --timeout says, and say why when they are late
    #[arg(long, value_enum, requires = "bind_node")]
    wait: Option<Level>,
}

/// A created or found port.
type Created = (v1::Port, bool);

pub(crate) async fn run(
    args: CreateArgs,
    client: &Client,
    out: Output,
    timeout: Option<Duration>,
) -> Outcome {
    let requests = requests(&args)?;
    let (mut made, failures) = match args.count {
        None => (vec![create_one(client, &requests[0]).await?], Vec::new()),
        Some(_) => create_many(client, &requests).await?,
    };
    // Who did not get all ports wants to know that first, not after waiting for the others.
    if let Some(level) = args.wait.filter(|_| failures.is_empty()) {
        let created: Vec<bool> = made.iter().map(|(_, created)| *created).collect();
        let bound = made.into_iter().map(|(port, _)| port).collect();
        made = wait::until(client, bound, level, timeout, out).await?.into_iter().zip(created).collect();
    }
    show(made, args.count.is_some(), out)?;
    if !failures.is_empty() {
        return Err(summary(requests.len(), failures));
    }
    match args.bind_node {
        None if args.vip => out.next("causeway port vip hold KEY --holder PORT"),
        None => out.next("causeway port bind KEY --node NODE --netns PATH"),
        Some(_) => out.next("causeway port list"),
    }
    Ok(Exit::Ok)
}

/// One request a port.
fn requests(args: &CreateArgs) -> Result<Vec<v1::CreatePortRequest>, Failure> {
    let request = |key: v1::PortKey, netns: Option<String>| v1::CreatePortRequest {
        key: Some(key),
        addresses: args.addresses.iter().map(IpAddr::to_string).collect(),
        mac: args.mac.map(|m| m.to_string()).unwrap_or_default(),
        labels: args.labels.iter().cloned().collect(),
        bind: args.bind_node.clone().map(|node| args.attach.binding(node, netns.unwrap_or_default())),
        rate: args.rate.limits(v1::RateLimit::default()),
        guard: args.guard.unwrap_or_default(),
        address_check: args.address_check.unwrap_or_default(),
        network_labels: args.network_labels.iter().cloned().collect(),
        kind: if args.vip { v1::PortKind::Vip } else { v1::PortKind::Workload }.into(),
    };
    let key = |text: &str| match args.network_labels.is_empty() {
        true => names::key(text).map(|key| message(&key)),
        false => names::name(text, &args.vrf),
    };
    let Some(count) = args.count else {
        return Ok(vec![request(key(&args.key)?, args.netns.clone())]);
    };
    let last = args.first.checked_add(count - 1);
    let last = last.ok_or_else(|| {
        Failure::new(
            Exit::Usage,
            format!("--first {} and --count {count} end beyond {}", args.first, u32::MAX),
        )
    })?;
    let keys = Pattern::new(&args.key)?;
    // Two workloads cannot share a namespace's interface: without a place for the number all would ask for the same.
    let netns = match &args.netns {
        Some(text) if text.contains('{') => Some(Pattern::new(text)?),
        Some(text) if count > 1 => {
            return Err(Failure::new(
                Exit::Usage,
                format!("--netns {text} is the same for all {count} ports"),
            )
            .hint("write {} where the number goes, for example /run/netns/vm-{}"));
        }
        _ => None,
    };
    (args.first..=last)
        .map(|n| {
            let netns = netns.as_ref().map(|p| p.with(n)).or_else(|| args.netns.clone());
            Ok(request(key(&keys.with(n))?, netns))
        })
        .collect()
}

async fn create_one(client: &Client, request: &v1::CreatePortRequest) -> Result<Created, Failure> {
    let act = format!("create port {}", tables::port_id(request.key.as_ref()));
    let answer = client.call(&act, async |channel| ports(channel).create_port(request.clone()).await).await?;
    match answer.port {
        Some(port) => Ok((port, answer.created)),
        None => Err(Failure::new(Exit::Failed, format!("cannot {act}: the controller sent an empty answer"))),
    }
}

/// Creates all in as few requests as possible; items fail one by one.
async fn create_many(
    client: &Client,
    requests: &[v1::CreatePortRequest],
) -> Result<(Vec<Created>, Vec<Failure>), Failure> {
    let mut made = Vec::new();
    let mut failures = Vec::new();
    for chunk in requests.chunks(BULK_LIMIT) {
        let request = v1::CreatePortsRequest { ports: chunk.to_vec(), dry_run: false };
        let act = format!("create {} ports", chunk.len());
        let answer =
            client.call(&act, async |channel| ports(channel).create_ports(request.clone()).await).await?;
        for (item, result) in chunk.iter().zip(answer.results) {
            let act = format!("create port {}", tables::port_id(item.key.as_ref()));
            match result.result {
                Some(v1::create_ports_result::Result::Ok(v1::CreatePortResponse {
                    port: Some(port),
                    created,
                })) => {
                    made.push((port, created));
                }
                Some(v1::create_ports_result::Result::Error(error)) => {
                    failures.push(Failure::refused_item(&act, &error))
                }
                _ => failures.push(Failure::new(
                    Exit::Failed,
                    format!("cannot {act}: the controller sent an empty result"),
                )),
            }
        }
    }
    Ok((made, failures))
}

fn show(made: Vec<Created>, many: bool, out: Output) -> Result<(), Failure> {
    if out.format != Format::Table {
        let mut views: Vec<PortView> =
            made.into_iter().map(|(port, created)| PortView::new(port, Some(created))).collect();
        return if many { out.data(&views) } else { out.data(&views.pop()) };
    }
    if !made.is_empty() {
        out.table(&tables::ports(made.iter().map(|(port, _)| port)))?;
    }
    let created = made.iter().filter(|(_, created)| *created).count();
    match (many, made.as_slice()) {
        (false, [(port, true)]) => out.note(&format!("port {} created", id(port))),
        (false, [(port, false)]) => out.note(&format!("port {} existed already", id(port))),
        _ => out.note(&format!("{created} created, {} existed already", made.len() - created)),
    }
    Ok(())
}

/// Many failures as one. Its exit code is theirs when they agree.
fn summary(asked: usize, failures: Vec<Failure>) -> Failure {
    let exit = failures[0].exit;
    let exit = if failures.iter().all(|f| f.exit == exit) { exit } else { Exit::Failed };
    let mut text = format!("{} of {asked} ports were not created", failures.len());
    for failure in failures.iter().take(FAILURES_SHOWN) {
        text.push_str(&format!("\n{}", failure.text));
    }
    if failures.len() > FAILURES_SHOWN {
        text.push_str(&format!("\nand {} more", failures.len() - FAILURES_SHOWN));
    }
    let hint = failures.into_iter().map(|f| f.hint).find(|h| !h.is_empty()).unwrap_or_default();
    Failure::new(exit, text).hint(hint)
}
