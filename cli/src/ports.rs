//! `causeway port`: addresses and places of workloads.

mod create;
mod follow;
pub(crate) mod migrate;
mod names;
mod place;
mod ready;
mod set;
mod timeline;
mod vip;
mod wait;
mod watch;

use std::net::IpAddr;
use std::time::Duration;

use causeway_proto::{PortKey, v1};
use clap::{Args, Subcommand, ValueEnum};

use crate::client::{Client, fabric, ports};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Format, Output};
use crate::records::section;
use crate::tables::{self, port_id};
use crate::view::{PortView, port_state};
use place::AttachArgs;

/// Ports asked for in one page.
const PAGE_SIZE: u32 = 1000;

/// About ports. Keys are NETWORK/NAME in the VRF "default", or VRF/NETWORK/NAME.
#[derive(Debug, Subcommand)]
pub(crate) enum PortCommand {
    Create(create::CreateArgs),
    Bind(BindArgs),
    Unbind(UnbindArgs),
    Release(ReleaseArgs),
    Set(set::SetArgs),
    Get(GetArgs),
    List(ListArgs),
    Wait(ready::WaitArgs),
    Watch(watch::WatchArgs),
    Timeline(timeline::TimelineArgs),
    Migrate(migrate::MigrateArgs),
    Rollback(migrate::RollbackArgs),
    Moves(migrate::MovesArgs),
    /// Addresses that move between workloads
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  causeway port vip hold web/db --holder web/db-2"
    )]
    Vip(vip::VipCommand),
}

/// How far a port has to be.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum Level {
    /// The node's kernel is programmed and read back
    Programmed,
    /// Programmed, and its routes were sent to every established BGP peer
    Advertised,
    /// Advertised, and a probe from another node has crossed the fabric
    Proven,
}

impl Level {
    fn word(self) -> &'static str {
        match self {
            Level::Programmed => "programmed",
            Level::Advertised => "advertised",
            Level::Proven => "proven",
        }
    }

    fn message(self) -> v1::ReadyLevel {
        match self {
            Level::Programmed => v1::ReadyLevel::Programmed,
            Level::Advertised => v1::ReadyLevel::Advertised,
            Level::Proven => v1::ReadyLevel::Proven,
        }
    }
}

/// Say where a port lives
///
/// Repeating it changes nothing. A port that lives elsewhere must be unbound first.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway port bind web/db-1 --node host1 --netns /run/netns/db-1
  causeway port bind web/db-1 --node host1 --netns pid:4711 --interface net0 --wait advertised --timeout 20s
  causeway port bind web/db-1 --node host2 --netns pid:4711 --attachment macvlan
  causeway port bind web/vm-1 --node host2 --workload vm --interface tap-vm1")]
pub(crate) struct BindArgs {
    /// NETWORK/NAME or VRF/NETWORK/NAME
    key: PortKey,
    /// The node it lives on
    #[arg(long)]
    node: String,
    /// A container's network namespace on the node: an absolute path or pid:NUMBER
    #[arg(long, value_name = "PATH|pid:NUMBER")]
    netns: Option<String>,
    #[command(flatten)]
    attach: AttachArgs,
    /// Bind it although the node that had it last may still answer for it; recorded
    #[arg(long)]
    force: bool,
    /// Wait until it is so far, as long as --timeout says, and say why when it is late
    #[arg(long, value_enum)]
    wait: Option<Level>,
}

/// The port lives nowhere; its addresses and MAC stay its own
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  causeway port unbind web/db-1")]
pub(crate) struct UnbindArgs {
    /// NETWORK/NAME or VRF/NETWORK/NAME
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<PortKey>,
}

/// Give ports back
///
/// The addresses stay reserved for the name as long as the network's policy says, unless --forget is given.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway port release web/db-1 --reason 'moved to another site'
  causeway port release web/db-1 web/db-2 --forget
  causeway port release web/db-1 --forget --no-quarantine     the addresses are free at once")]
pub(crate) struct ReleaseArgs {
    /// NETWORK/NAME or VRF/NETWORK/NAME
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<PortKey>,
    /// The addresses go back to the pool when the quarantine of the network is over
    #[arg(long)]
    forget: bool,
    /// With --forget: now, as certainly nobody uses them any more
    #[arg(long, requires = "forget")]
    no_quarantine: bool,
}

/// Show ports by key
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  causeway port get web/db-1\n  causeway port get red/web/db-1 -o json")]
pub(crate) struct GetArgs {
    /// NETWORK/NAME or VRF/NETWORK/NAME
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<PortKey>,
}

/// List ports, all or those that match every filter
#[derive(Debug, Args)]
#[command(
    visible_alias = "ls",
    after_help = "\
Examples:
  causeway port list --network web --name-prefix db-
  causeway port list --node host1
  causeway port list --address 10.8.0.5 -o json
  causeway port list --state quarantined --state released
  causeway port list --label tier=front --limit 20"
)]
pub(crate) struct ListArgs {
    #[command(flatten)]
    filter: FilterArgs,
    /// Only ports in this state, for example released; may be repeated
    #[arg(long = "state", value_name = "STATE", value_parser = state, help_heading = "Filters")]
    states: Vec<v1::PortState>,
    /// At most so many
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..))]
    limit: Option<u32>,
}

/// Which ports.
#[derive(Debug, Args)]
#[command(next_help_heading = "Filters")]
pub(crate) struct FilterArgs {
    /// Only this VRF
    #[arg(long)]
    vrf: Option<String>,
    /// Only this network; VRF/NETWORK names both
    #[arg(long, value_name = "NETWORK|VRF/NETWORK")]
    network: Option<String>,
    /// Only names that start so
    #[arg(long, value_name = "TEXT")]
    name_prefix: Option<String>,
    /// Only ports bound to this node
    #[arg(long)]
    node: Option<String>,
    /// Only the port with this address
    #[arg(long)]
    address: Option<IpAddr>,
    /// Only ports with this label; may be repeated
    #[arg(long = "label", value_name = "KEY=VALUE", value_parser = names::label)]
    labels: Vec<(String, String)>,
}

impl FilterArgs {
    fn into_filter(self) -> Result<v1::PortFilter, Failure> {
        let (vrf, network) = match (self.vrf, self.network) {
            (vrf, Some(network)) => match network.split_once('/') {
                Some((v, n)) if vrf.as_deref().is_none_or(|vrf| vrf == v) => (v.to_owned(), n.to_owned()),
                Some((v, _)) => {
                    let text =
                        format!("--vrf {} and --network {network} name two VRFs", vrf.unwrap_or_default());
                    return Err(
                        Failure::new(Exit::Usage, text).hint(format!("leave --vrf out, or --vrf {v}"))
                    );
                }
                None => (vrf.unwrap_or_default(), network),
            },
            (vrf, None) => (vrf.unwrap_or_default(), String::new()),
        };
        Ok(v1::PortFilter {
            vrf,
            network,
            name_prefix: self.name_prefix.unwrap_or_default(),
            node: self.node.unwrap_or_default(),
            address: self.address.map(|a| a.to_string()).unwrap_or_default(),
            labels: self.labels.into_iter().collect(),
            states: Vec::new(),
        })
    }
}

/// A state by its word.
fn state(text: &str) -> Result<v1::PortState, String> {
    let all = (1..=32).filter_map(|n| v1::PortState::try_from(n).ok());
    let words: Vec<(v1::PortState, &str)> = all.map(|state| (state, port_state(state.into()))).collect();
    let found = words.iter().find(|(_, word)| *word == text).map(|(state, _)| *state);
    let known = || words.iter().map(|(_, word)| *word).collect::<Vec<_>>().join(", ");
    found.ok_or_else(|| format!("unknown state; known are {}", known()))
}

/// The key as a message.
pub(crate) fn message(key: &PortKey) -> v1::PortKey {
    v1::PortKey {
        vrf: key.network.vrf.to_string(),
        network: key.network.network.to_string(),
        name: key.name.to_string(),
    }
}

/// `timeout` is what the user gave: waiting has another default than asking.
pub(crate) async fn run(
    command: PortCommand,
    client: &Client,
    out: Output,
    timeout: Option<Duration>,
) -> Outcome {
    match command {
        PortCommand::Create(args) => create::run(args, client, out, timeout).await,
        PortCommand::Bind(args) => bind(args, client, out, timeout).await,
        PortCommand::Unbind(args) => unbind(args, client, out).await,
        PortCommand::Release(args) => release(args, client, out).await,
        PortCommand::Set(args) => set::run(args, client, out).await,
        PortCommand::Get(args) => get(&args.keys, client, out).await,
        PortCommand::List(args) => {
            let states = args.states.into_iter().map(i32::from).collect();
            let filter = v1::PortFilter { states, ..args.filter.into_filter()? };
            let found = list_all(client, filter, args.limit).await?;
            show(found, out)
        }
        PortCommand::Timeline(args) => timeline::run(args, client, out).await,
        PortCommand::Wait(args) => ready::run(args, client, out, timeout).await,
        PortCommand::Watch(args) => watch::run(args, client, out, timeout).await,
        PortCommand::Migrate(args) => migrate::migrate(args, client, out).await,
        PortCommand::Rollback(args) => migrate::rollback(args, client, out).await,
        PortCommand::Moves(args) => migrate::list(args, client, out).await,
        PortCommand::Vip(command) => vip::run(command, client, out).await,
    }
}

async fn bind(args: BindArgs, client: &Client, out: Output, timeout: Option<Duration>) -> Outcome {
    let binding = args.attach.binding(args.node, args.netns.unwrap_or_default());
    let act = format!("bind port {} to node {}", args.key, binding.node);
    let request =
        v1::BindPortRequest { key: Some(message(&args.key)), binding: Some(binding), force: args.force };
    let answer = client.call(&act, async |channel| ports(channel).bind_port(request.clone()).await).await?;
    let mut bound: Vec<v1::Port> = answer.port.into_iter().collect();
    if let Some(level) = args.wait {
        bound = wait::until(client, bound, level, timeout, out).await?;
    }
    show_some(bound, out)?;
    out.next(&format!("causeway port watch --network {}", args.key.network));
    Ok(Exit::Ok)
}

async fn unbind(args: UnbindArgs, client: &Client, out: Output) -> Outcome {
    let mut unbound = Vec::new();
    for key in &args.keys {
        let request = v1::UnbindPortRequest { key: Some(message(key)) };
        let act = format!("unbind port {key}");
        unbound.extend(
            client.call(&act, async |channel| ports(channel).unbind_port(request.clone()).await).await?.port,
        );
    }
    show_some(unbound, out)?;
    Ok(Exit::Ok)
}

async fn release(args: ReleaseArgs, client: &Client, out: Output) -> Outcome {
    for key in &args.keys {
        let request = v1::ReleasePortRequest {
            key: Some(message(key)),
            forget: args.forget,
            // It is in the metadata, as that of every other change.
            reason: String::new(),
            skip_quarantine: args.no_quarantine,
        };
        let act = format!("release port {key}");
        let answer =
            client.call(&act, async |channel| ports(channel).release_port(request.clone()).await).await?;
        let left = answer.quarantined_until_ms.saturating_sub(crate::time::now_ms()).max(0) / 1000;
        out.note(&match args.forget {
            true if answer.quarantined_until_ms != 0 => {
                format!("port {key} is forgotten, its addresses are free when their quarantine is over, in {left} s")
            }
            true => format!("port {key} is forgotten, its addresses are free"),
            false => format!("port {key} is released, its addresses stay reserved for the name"),
        });
    }
    Ok(Exit::Ok)
}

async fn get(keys: &[PortKey], client: &Client, out: Output) -> Outcome {
    let mut found = Vec::new();
    for key in keys {
        found.push(get_one(client, key).await?);
    }
    show_some(found, out)?;
    Ok(Exit::Ok)
}

async fn get_one(client: &Client, key: &PortKey) -> Result<v1::Port, Failure> {
    let request = v1::GetPortRequest { key: Some(message(key)) };
    let act = format!("get port {key}");
    let answer = client.call(&act, async |channel| ports(channel).get_port(request.clone()).await).await?;
    answer.port.ok_or_else(|| {
        Failure::new(Exit::Failed, format!("cannot {act}: the controller sent an empty answer"))
    })
}

/// `causeway get ports [KEY…]`.
pub(crate) async fn get_or_list(names: &[String], client: &Client, out: Output) -> Outcome {
    if names.is_empty() {
        return show(list_all(client, v1::PortFilter::default(), None).await?, out);
    }
    let keys: Result<Vec<PortKey>, Failure> = names.iter().map(|name| names::key(name)).collect();
    get(&keys?, client, out).await
}

/// `causeway describe port KEY`.
pub(crate) async fn describe(name: &str, client: &Client, out: Output) -> Outcome {
    let port = get_one(client, &names::key(name)?).await?;
    out.data(&PortView::new(port.clone(), None))?;
    if out.format == Format::Table {
        let request = v1::ListRoutesRequest { mac: port.mac, ..Default::default() };
        let act = "list the port's routes";
        let answer =
            client.call(act, async |channel| fabric(channel).list_routes(request.clone()).await).await?;
        section(out, "routes", &tables::routes(&answer.routes), answer.routes.len())?;
    }
    Ok(Exit::Ok)
}

/// All matching ports, page by page, at most `limit`.
pub(crate) async fn list_all(
    client: &Client,
    filter: v1::PortFilter,
    limit: Option<u32>,
) -> Result<Vec<v1::Port>, Failure> {
    let limit = limit.map_or(usize::MAX, |n| n as usize);
    let mut found: Vec<v1::Port> = Vec::new();
    let mut token = String::new();
    loop {
        let page_size = u32::try_from(limit - found.len()).unwrap_or(PAGE_SIZE).min(PAGE_SIZE);
        let request =
            v1::ListPortsRequest { filter: Some(filter.clone()), page_size, page_token: token.clone() };
        let page = client
            .call("list ports", async |channel| ports(channel).list_ports(request.clone()).await)
            .await?;
        found.extend(page.ports);
        found.truncate(limit);
        // A token that does not move would be asked for ever.
        if page.next_page_token.is_empty() || page.next_page_token == token || found.len() >= limit {
            return Ok(found);
        }
        token = page.next_page_token;
    }
}

/// A list, which is a list in JSON even when it is short.
fn show(found: Vec<v1::Port>, out: Output) -> Outcome {
    match out.format {
        Format::Table if found.is_empty() => {
            out.note("no ports");
            out.next("causeway port create NETWORK/NAME");
        }
        Format::Table => out.table(&tables::ports(&found))?,
        _ => out.data(&found.into_iter().map(|p| PortView::new(p, None)).collect::<Vec<_>>())?,
    }
    Ok(Exit::Ok)
}

/// Ports asked for one by one: a single one is an object in JSON.
fn show_some(mut found: Vec<v1::Port>, out: Output) -> Result<(), Failure> {
    match (out.format, found.len()) {
        (Format::Table, _) => out.table(&tables::ports(&found)),
        (_, 1) => out.data(&found.pop().map(|p| PortView::new(p, None))),
        _ => out.data(&found.into_iter().map(|p| PortView::new(p, None)).collect::<Vec<_>>()),
    }
}

/// What identifies a port in messages and maps.
fn id(port: &v1::Port) -> String {
    port_id(port.key.as_ref())
}
