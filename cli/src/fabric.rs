//! `causeway bgp` and `causeway node`: what the fabric says.

use std::net::IpAddr;

use causeway_agent::render::{Format as ConfigFormat, render};
use causeway_proto::{Mac, v1};
use clap::{Args, Subcommand, ValueEnum};

use crate::client::{Client, fabric};
use crate::failure::{Exit, Outcome, printable};
use crate::ledger;
use crate::nodes;
use crate::output::{Format, Output};
use crate::tables;
use crate::view::{ExplainView, NodeStatusView, PeersView, RouteView, RoutesView};

/// About nodes.
#[derive(Debug, Subcommand)]
pub(crate) enum NodeCommand {
    /// Nodes, whether their agents are connected, how far they are behind, what is wrong
    #[command(
        visible_alias = "ls",
        after_help = "Examples:\n  causeway node list\n  causeway node list -o json"
    )]
    List,
    Config(ConfigArgs),
    Drain(nodes::DrainArgs),
    Fence(nodes::FenceArgs),
    Unfence(nodes::UnfenceArgs),
}

/// Configuration of a node as text, for a switch that is not programmed live
///
/// It is rendered from what the controller tells the node to be, with the steps that an agent would take. Running the
/// script for Linux again is harmless.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway node config leaf3 > leaf3.sh
  causeway node config leaf3 --format frr
  causeway node config leaf3 --format sonic
  causeway node config leaf3 --format json | causeway-agent render --state -")]
pub(crate) struct ConfigArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    node: String,
    /// Form of the configuration
    #[arg(long, value_enum, default_value = "linux")]
    format: ConfigFormat,
}

/// About BGP.
#[derive(Debug, Subcommand)]
pub(crate) enum BgpCommand {
    /// Sessions of the controller that answers
    #[command(
        after_help = "Examples:\n  causeway bgp peers\n  causeway bgp peers -o json | jq '.peers[] | select(.state != \"Established\")'"
    )]
    Peers,
    Routes(RoutesArgs),
    Explain(ExplainArgs),
    Ledger(ledger::LedgerArgs),
}

/// Which way a route went.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Direction {
    /// Received from peers
    In,
    /// Sent by the controller
    Out,
}

/// EVPN routes sent and received
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway bgp routes --direction out
  causeway bgp routes --type 2 --vni 10110
  causeway bgp routes --mac 02:ca:0a:08:00:05
  causeway bgp routes --ip 10.8.0.5 --peer 10.0.0.1")]
pub(crate) struct RoutesArgs {
    /// Only received or only sent ones
    #[arg(long, value_enum)]
    direction: Option<Direction>,
    /// Only this EVPN route type, 1 to 5
    #[arg(long = "type", value_name = "TYPE", value_parser = clap::value_parser!(u32).range(1..=5))]
    route_type: Option<u32>,
    /// Only this VNI
    #[arg(long, value_parser = clap::value_parser!(u32).range(1..=16_777_215))]
    vni: Option<u32>,
    /// Only received from this peer
    #[arg(long, value_name = "ADDRESS")]
    peer: Option<IpAddr>,
    /// Only this MAC
    #[arg(long)]
    mac: Option<Mac>,
    /// Only this address or prefix
    #[arg(long, value_name = "ADDRESS|PREFIX")]
    ip: Option<String>,
    /// At most so many
    #[arg(long, default_value_t = 1000, value_parser = clap::value_parser!(u32).range(1..))]
    limit: u32,
}

/// All that is known of one MAC, address or prefix: intent, routes, which wins by which rule
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway bgp explain 02:ca:0a:08:00:05
  causeway bgp explain 10.8.0.5 --at leaf1
  causeway bgp explain 10.8.0.0/20")]
pub(crate) struct ExplainArgs {
    /// A MAC, an address or a prefix
    subject: String,
    /// As this switch decides, which drops routes to itself [default: as another VTEP]
    #[arg(long, value_name = "SWITCH")]
    at: Option<String>,
}

pub(crate) async fn node(command: NodeCommand, client: &Client, out: Output) -> Outcome {
    match command {
        NodeCommand::List => {}
        NodeCommand::Config(args) => return config(args, client, out).await,
        NodeCommand::Drain(args) => return nodes::drain(args, client, out).await,
        NodeCommand::Fence(args) => return nodes::fence(args, client, out).await,
        NodeCommand::Unfence(args) => return nodes::unfence(args, client, out).await,
    }
    let request = v1::ListNodesRequest {};
    let answer = client.call("list nodes", async |channel| fabric(channel).list_nodes(request).await).await?;
    match out.format {
        Format::Table if answer.nodes.is_empty() => out.note("no nodes"),
        Format::Table => out.table(&tables::node_status(&answer.nodes, answer.revision))?,
        _ => out.data(&answer.nodes.into_iter().map(NodeStatusView::from).collect::<Vec<_>>())?,
    }
    Ok(Exit::Ok)
}

async fn config(args: ConfigArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::GetNodeStateRequest { node: args.node.clone() };
    let act = "get the node's state";
    let answer =
        client.call(act, async |channel| fabric(channel).get_node_state(request.clone()).await).await?;
    let rendered = render(&answer.state.unwrap_or_default(), args.format);
    out.text(&rendered.text)?;
    for problem in &rendered.problems {
        out.note(&format!("not rendered: {problem}"));
    }
    Ok(if rendered.problems.is_empty() { Exit::Ok } else { Exit::Attention })
}

pub(crate) async fn bgp(command: BgpCommand, client: &Client, out: Output) -> Outcome {
    match command {
        BgpCommand::Peers => peers(client, out).await,
        BgpCommand::Routes(args) => routes(args, client, out).await,
        BgpCommand::Explain(args) => explain(args, client, out).await,
        BgpCommand::Ledger(args) => ledger::list(args, client, out).await,
    }
}

async fn peers(client: &Client, out: Output) -> Outcome {
    let request = v1::ListPeersRequest {};
    let answer = client.call("list peers", async |channel| fabric(channel).list_peers(request).await).await?;
    match out.format {
        Format::Table => {
            out.line(&format!("router id {}, AS {}", answer.router_id, answer.asn))?;
            if answer.peers.is_empty() {
                out.note("no peers");
            } else {
                out.table(&tables::peers(&answer.peers))?;
            }
            out.next("causeway bgp routes");
        }
        _ => out.data(&PeersView::from(answer))?,
    }
    Ok(Exit::Ok)
}

async fn routes(args: RoutesArgs, client: &Client, out: Output) -> Outcome {
    let direction = match args.direction {
        None => v1::RouteDirection::Unspecified,
        Some(Direction::In) => v1::RouteDirection::In,
        Some(Direction::Out) => v1::RouteDirection::Out,
    };
    let request = v1::ListRoutesRequest {
        direction: direction.into(),
        route_type: args.route_type.unwrap_or_default(),
        vni: args.vni.unwrap_or_default(),
        peer: args.peer.map(|p| p.to_string()).unwrap_or_default(),
        mac: args.mac.map(|m| m.to_string()).unwrap_or_default(),
        ip: args.ip.unwrap_or_default(),
        limit: args.limit,
    };
    let answer = client
        .call("list routes", async |channel| fabric(channel).list_routes(request.clone()).await)
        .await?;
    if out.format != Format::Table {
        let routes = answer.routes.into_iter().map(RouteView::from).collect();
        out.data(&RoutesView { routes, more: answer.more })?;
        return Ok(Exit::Ok);
    }
    if answer.routes.is_empty() {
        out.note("no routes match");
    } else {
        out.table(&tables::routes(&answer.routes))?;
    }
    if answer.more > 0 {
        out.note(&format!("{} more match; raise --limit or narrow the filter", answer.more));
    }
    Ok(Exit::Ok)
}

async fn explain(args: ExplainArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::ExplainRequest { subject: args.subject, at: args.at.unwrap_or_default() };
    let act = format!("explain {}", request.subject);
    let answer = client.call(&act, async |channel| fabric(channel).explain(request.clone()).await).await?;
    if out.format != Format::Table {
        let routes = answer.routes.into_iter().map(RouteView::from).collect();
        out.data(&ExplainView { findings: answer.findings, routes })?;
        return Ok(Exit::Ok);
    }
    for finding in &answer.findings {
        out.line(&printable(finding))?;
    }
    if !answer.routes.is_empty() {
        out.line("")?;
        out.table(&tables::routes(&answer.routes))?;
    }
    Ok(Exit::Ok)
}
