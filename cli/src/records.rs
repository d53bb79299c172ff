//! `causeway get`, `describe` and `delete`.

use causeway_proto::v1;
use clap::{Args, ValueEnum};

use crate::client::{Client, config, fabric};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Format, Output};
use crate::view::RecordView;
use crate::{ports, tables};

/// What can be shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum AnyKind {
    #[value(name = "vrfs", alias = "vrf")]
    Vrf,
    #[value(name = "networks", aliases = ["network", "net", "nets"])]
    Network,
    #[value(name = "subnets", aliases = ["subnet", "sub", "subs"])]
    Subnet,
    #[value(name = "nodes", aliases = ["node", "no"])]
    Node,
    #[value(name = "peers", aliases = ["peer", "pe"])]
    Peer,
    #[value(name = "ports", aliases = ["port", "po"])]
    Port,
}

/// What can be deleted by name.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub(crate) enum RecordKind {
    #[value(name = "vrf", alias = "vrfs")]
    Vrf,
    #[value(name = "network", aliases = ["networks", "net", "nets"])]
    Network,
    #[value(name = "subnet", aliases = ["subnets", "sub", "subs"])]
    Subnet,
    #[value(name = "node", aliases = ["nodes", "no"])]
    Node,
    #[value(name = "peer", aliases = ["peers", "pe"])]
    Peer,
}

/// List records, or show some by name
///
/// Names are NAME for VRFs, nodes and peers (a peer's is its address), VRF/NAME for networks, VRF/PREFIX for subnets and
/// VRF/NETWORK/NAME for ports; the VRF may be left out when it is "default". Short kinds: net, sub, no, pe, po.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway get networks
  causeway get network red/web -o yaml
  causeway get subnets -o json
  causeway get port web/db-1")]
pub(crate) struct GetArgs {
    /// What to show
    #[arg(value_enum, hide_possible_values = false)]
    kind: AnyKind,
    /// Only these
    names: Vec<String>,
}

/// Show one record with all that hangs on it
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway describe network web           its subnets and ports
  causeway describe node host1            its agent and ports
  causeway describe peer 10.0.0.1         its session
  causeway describe port web/db-1         its routes")]
pub(crate) struct DescribeArgs {
    /// What to show
    #[arg(value_enum)]
    kind: AnyKind,
    /// Its name
    name: String,
}

/// Delete records by name
///
/// Refused while other records refer to it. Deleting what does not exist succeeds. Ports are given back with
/// `causeway port release`.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway delete subnet 10.8.0.0/20
  causeway delete network red/web")]
pub(crate) struct DeleteArgs {
    /// What to delete
    #[arg(value_enum)]
    kind: RecordKind,
    /// Names
    #[arg(required = true)]
    names: Vec<String>,
}

impl AnyKind {
    /// The contract's kind; `None` for ports, which are no records.
    fn record(self) -> Option<v1::Kind> {
        Some(match self {
            AnyKind::Vrf => v1::Kind::Vrf,
            AnyKind::Network => v1::Kind::Network,
            AnyKind::Subnet => v1::Kind::Subnet,
            AnyKind::Node => v1::Kind::Node,
            AnyKind::Peer => v1::Kind::Peer,
            AnyKind::Port => return None,
        })
    }
}

impl RecordKind {
    fn record(self) -> v1::Kind {
        match self {
            RecordKind::Vrf => v1::Kind::Vrf,
            RecordKind::Network => v1::Kind::Network,
            RecordKind::Subnet => v1::Kind::Subnet,
            RecordKind::Node => v1::Kind::Node,
            RecordKind::Peer => v1::Kind::Peer,
        }
    }
}

fn word(kind: v1::Kind) -> &'static str {
    crate::view::kind_word(kind.into())
}

pub(crate) async fn get(args: GetArgs, client: &Client, out: Output) -> Outcome {
    let Some(kind) = args.kind.record() else {
        return ports::get_or_list(&args.names, client, out).await;
    };
    if args.names.is_empty() {
        let records = list(client, kind).await?;
        return show(kind, &records, out);
    }
    let mut records = Vec::new();
    for name in &args.names {
        records.push(one(client, kind, name).await?);
    }
    match (out.format, records.as_slice()) {
        (Format::Json, [record]) => out.data(&view(record)?).map(|()| Exit::Ok),
        _ => show(kind, &records, out),
    }
}

/// The name in the form of the contract. A subnet's has a slash of its own, so `10.8.0.0/20` alone would be taken for the
/// VRF `10.8.0.0`.
fn full_name(kind: v1::Kind, name: &str) -> String {
    match kind {
        v1::Kind::Network if !name.contains('/') => format!("default/{name}"),
        v1::Kind::Subnet if name.parse::<causeway_proto::Prefix>().is_ok() => format!("default/{name}"),
        _ => name.to_owned(),
    }
}

/// One record.
async fn one(client: &Client, kind: v1::Kind, name: &str) -> Result<v1::Resource, Failure> {
    let name = full_name(kind, name);
    let request = v1::GetResourceRequest { kind: kind.into(), name: name.clone() };
    let act = format!("get {} {name}", word(kind));
    let answer =
        client.call(&act, async |channel| config(channel).get_resource(request.clone()).await).await?;
    answer.resource.ok_or_else(|| {
        Failure::new(Exit::Failed, format!("cannot {act}: the controller sent an empty answer"))
    })
}

/// All records of a kind.
pub(crate) async fn list(client: &Client, kind: v1::Kind) -> Result<Vec<v1::Resource>, Failure> {
    let request = v1::ListResourcesRequest { kind: kind.into() };
    let act = format!("list {}s", word(kind));
    Ok(client.call(&act, async |channel| config(channel).list_resources(request).await).await?.resources)
}

fn view(record: &v1::Resource) -> Result<RecordView, Failure> {
    RecordView::new(record).ok_or_else(|| {
        Failure::new(Exit::Failed, "the controller sent a kind of record that this version does not know")
            .hint("causeway version shows both versions")
    })
}

fn show(kind: v1::Kind, records: &[v1::Resource], out: Output) -> Outcome {
    match out.format {
        Format::Table if records.is_empty() => {
            out.note(&format!("no {}s", word(kind)));
            out.next("causeway apply -f FILE --plan");
        }
        Format::Table => out.table(&tables::records(kind, records))?,
        Format::Json | Format::Yaml => {
            let views: Result<Vec<_>, _> = records.iter().map(view).collect();
            out.documents(&views?)?;
        }
    }
    Ok(Exit::Ok)
}

pub(crate) async fn describe(args: DescribeArgs, client: &Client, out: Output) -> Outcome {
    let Some(kind) = args.kind.record() else {
        return ports::describe(&args.name, client, out).await;
    };
    let record = one(client, kind, &args.name).await?;
    out.documents(&[view(&record)?])?;
    if out.format == Format::Table {
        related(&record, client, out).await?;
    }
    Ok(Exit::Ok)
}

/// What hangs on a record, as tables.
async fn related(record: &v1::Resource, client: &Client, out: Output) -> Result<(), Failure> {
    use v1::resource::Spec;
    match &record.spec {
        Some(Spec::Vrf(vrf)) => {
            let of = |r: &v1::Resource| matches!(&r.spec, Some(Spec::Network(n)) if n.vrf == vrf.name);
            let networks: Vec<_> = list(client, v1::Kind::Network).await?.into_iter().filter(of).collect();
            section(out, "networks", &tables::records(v1::Kind::Network, &networks), networks.len())
        }
        Some(Spec::Network(network)) => {
            let of = |r: &v1::Resource| matches!(&r.spec, Some(Spec::Subnet(s)) if s.vrf == network.vrf && s.network == network.name);
            let subnets: Vec<_> = list(client, v1::Kind::Subnet).await?.into_iter().filter(of).collect();
            section(out, "subnets", &tables::records(v1::Kind::Subnet, &subnets), subnets.len())?;
            let filter = v1::PortFilter {
                vrf: network.vrf.clone(),
                network: network.name.clone(),
                ..Default::default()
            };
            ports_section(client, filter, out).await
        }
        Some(Spec::Node(node)) => {
            let request = v1::ListNodesRequest {};
            let answer =
                client.call("list nodes", async |channel| fabric(channel).list_nodes(request).await).await?;
            let of = |s: &v1::NodeStatus| s.node.as_ref().is_some_and(|n| n.name == node.name);
            let status: Vec<_> = answer.nodes.into_iter().filter(of).collect();
            section(out, "agents", &tables::node_status(&status, answer.revision), status.len())?;
            ports_section(client, v1::PortFilter { node: node.name.clone(), ..Default::default() }, out).await
        }
        Some(Spec::Peer(peer)) => {
            let request = v1::ListPeersRequest {};
            let answer =
                client.call("list peers", async |channel| fabric(channel).list_peers(request).await).await?;
            let of = |s: &v1::PeerStatus| s.peer.as_ref().is_some_and(|p| p.address == peer.address);
            let status: Vec<_> = answer.peers.into_iter().filter(of).collect();
            section(out, "sessions", &tables::peers(&status), status.len())
        }
        Some(Spec::Subnet(subnet)) => {
            let filter = v1::PortFilter {
                vrf: subnet.vrf.clone(),
                network: subnet.network.clone(),
                ..Default::default()
            };
            let prefix = subnet.prefix.parse::<causeway_proto::Prefix>().ok();
            let inside = |a: &String| a.parse().is_ok_and(|a| prefix.is_some_and(|p| p.contains(a)));
            let mut found = ports::list_all(client, filter, None).await?;
            found.retain(|p| p.addresses.iter().any(inside));
            section(out, "ports", &tables::ports(&found), found.len())
        }
        None => Ok(()),
    }
}

async fn ports_section(client: &Client, filter: v1::PortFilter, out: Output) -> Result<(), Failure> {
    let found = ports::list_all(client, filter, None).await?;
    section(out, "ports", &tables::ports(&found), found.len())
}

/// A titled table, or "none".
pub(crate) fn section(
    out: Output,
    title: &str,
    table: &crate::output::Table,
    rows: usize,
) -> Result<(), Failure> {
    if rows == 0 {
        return out.line(&format!("\n{title}: none"));
    }
    out.line(&format!("\n{title}: {rows}"))?;
    out.table(table)
}

pub(crate) async fn delete(args: DeleteArgs, client: &Client, out: Output) -> Outcome {
    let kind = args.kind.record();
    for name in args.names.iter().map(|name| full_name(kind, name)) {
        let request = v1::DeleteResourceRequest { kind: kind.into(), name: name.clone() };
        let act = format!("delete {} {name}", word(kind));
        client.call(&act, async |channel| config(channel).delete_resource(request.clone()).await).await?;
        out.note(&format!("{} {name} is deleted", word(kind)));
    }
    Ok(Exit::Ok)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn short_names_are_in_the_default_vrf() {
        for (kind, name, want) in [
            (v1::Kind::Subnet, "10.8.0.0/20", "default/10.8.0.0/20"),
            (v1::Kind::Subnet, "fd00::/64", "default/fd00::/64"),
            (v1::Kind::Subnet, "red/10.8.0.0/20", "red/10.8.0.0/20"),
            (v1::Kind::Network, "web", "default/web"),
            (v1::Kind::Network, "red/web", "red/web"),
            (v1::Kind::Node, "host1", "host1"),
        ] {
            assert_eq!(full_name(kind, name), want);
        }
    }
}
