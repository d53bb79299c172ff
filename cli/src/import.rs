//! `causeway import`: addresses that are in use already become ports, and what runs goes on as it is.

mod csv;
mod host;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::PathBuf;

use causeway_proto::{Mac, NetworkKey, PortKey, Prefix, v1};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::client::{Client, ports};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Format, Output, Table, Tone, plain};
use crate::records;

/// Ports in one request; the contract's limit.
const BULK: usize = 1000;

/// About addresses that are in use already.
#[derive(Debug, Subcommand)]
pub(crate) enum ImportCommand {
    Csv(CsvArgs),
    Docker(HostArgs),
    Netns(HostArgs),
}

/// What a file says
///
/// The first line names the columns, in any order: network (VRF/NETWORK, or NETWORK in the VRF "default"), name, address
/// (several with blanks between), and if known mac, node, netns (an absolute path or pid:NUMBER), interface. Without node
/// only the addresses are reserved; with node and netns the interface is adopted as it is; with node alone it is bare metal
/// there. Lines that begin with # are passed over.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway import csv addresses.csv --dry-run
  causeway import csv addresses.csv")]
pub(crate) struct CsvArgs {
    /// The file; - is standard input
    file: PathBuf,
    #[command(flatten)]
    common: Common,
}

/// What runs on this machine: its containers, or its named network namespaces
///
/// To be run on the machine itself, as root. The interfaces are looked up inside the namespaces, with the commands ip and
/// nsenter. An address belongs to the network that has a subnet with it.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway import docker --node host1 --dry-run
  causeway import docker --node host1 --network web       only what is in a subnet of web
  causeway import netns --node host1")]
pub(crate) struct HostArgs {
    /// This machine's name as a node
    #[arg(long)]
    node: String,
    /// Only addresses of this network: NETWORK or VRF/NETWORK [default: of any network of the VRF "default"]
    #[arg(long, value_name = "NETWORK")]
    network: Option<NetworkKey>,
    #[command(flatten)]
    common: Common,
}

#[derive(Debug, Args)]
struct Common {
    /// Say what would become of each, and do nothing
    #[arg(long)]
    dry_run: bool,
}

/// An address in use, with its interface.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Found {
    /// Where it was found, for messages: "addresses.csv:3", "container web-1".
    source: String,
    /// Name for its port.
    name: String,
    /// Its network, if it is known.
    network: Option<NetworkKey>,
    addresses: Vec<IpAddr>,
    mac: Option<Mac>,
    node: String,
    netns: String,
    interface: String,
    /// The bridge that its other end is a port of, if it has one.
    bridge: String,
    /// Interfaces of the machine in the same segment; `None`: it was not looked at.
    ways: Option<BTreeSet<String>>,
}

/// What has no address of its own, and why.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Skipped {
    source: String,
    name: String,
    reason: String,
}

/// What became of one, or would.
#[derive(Debug, Serialize)]
struct Row {
    source: String,
    port: String,
    addresses: Vec<String>,
    mac: String,
    node: String,
    netns: String,
    interface: String,
    bridge: String,
    /// It leads to no uplink of its node: its addresses are held for it, and nobody is told how to reach it.
    #[serde(skip_serializing_if = "std::ops::Not::not")]
    apart: bool,
    result: &'static str,
    #[serde(skip_serializing_if = "String::is_empty")]
    reason: String,
}

const TAKEN: &str = "conflict";
const WOULD: &str = "would adopt";
const DONE: &str = "adopted";
const THERE: &str = "is there";
const SKIPPED: &str = "skipped";

pub(crate) async fn run(command: ImportCommand, client: &Client, out: Output) -> Outcome {
    let ((found, skipped), only, common) = match command {
        ImportCommand::Csv(args) => ((csv::read(&args.file)?, Vec::new()), None, args.common),
        ImportCommand::Docker(args) => (host::docker(&args.node)?, args.network, args.common),
        ImportCommand::Netns(args) => ((host::netns(&args.node)?, Vec::new()), args.network, args.common),
    };
    let subnets = subnets(client).await?;
    let uplinks = uplinks(client).await?;
    let mut rows: Vec<Row> = skipped.into_iter().map(Skipped::row).collect();
    let mut asked = Vec::new();
    for found in found {
        match place(found, only.as_ref(), &subnets, &uplinks) {
            Placed::Elsewhere => {}
            Placed::Nowhere(row) => rows.push(*row),
            Placed::At(request, row) => {
                asked.push((*request, rows.len()));
                rows.push(*row);
            }
        }
    }
    for chunk in asked.chunks(BULK) {
        let ports_asked = chunk.iter().map(|(request, _)| request.clone()).collect();
        let request = v1::CreatePortsRequest { ports: ports_asked, dry_run: common.dry_run };
        let act = format!("import {} ports", chunk.len());
        let answer =
            client.call(&act, async |channel| ports(channel).create_ports(request.clone()).await).await?;
        for ((_, n), result) in chunk.iter().zip(answer.results) {
            if let Some(row) = rows.get_mut(*n) {
                note(row, result, common.dry_run);
            }
        }
    }
    show(&rows, &common, out)
}

impl Skipped {
    fn row(self) -> Row {
        Row {
            source: self.source,
            port: self.name,
            addresses: Vec::new(),
            mac: String::new(),
            node: String::new(),
            netns: String::new(),
            interface: String::new(),
            bridge: String::new(),
            apart: false,
            result: SKIPPED,
            reason: self.reason,
        }
    }
}

/// Where something is to go.
enum Placed {
    /// It is in none of the networks asked for.
    Elsewhere,
    Nowhere(Box<Row>),
    At(Box<v1::CreatePortRequest>, Box<Row>),
}

/// Subnets by network.
async fn subnets(client: &Client) -> Result<Vec<(NetworkKey, Prefix)>, Failure> {
    let listed = records::list(client, v1::Kind::Subnet).await?;
    let subnet = |resource: v1::Resource| {
        let Some(v1::resource::Spec::Subnet(subnet)) = resource.spec else { return None };
        let vrf = if subnet.vrf.is_empty() { "default" } else { &subnet.vrf };
        let network = format!("{vrf}/{}", subnet.network).parse().ok()?;
        Some((network, subnet.prefix.parse().ok()?))
    };
    Ok(listed.into_iter().filter_map(subnet).collect())
}

/// Uplinks of hosts behind switches, by node.
async fn uplinks(client: &Client) -> Result<Uplinks, Failure> {
    let listed = records::list(client, v1::Kind::Node).await?;
    let node = |resource: v1::Resource| {
        let Some(v1::resource::Spec::Node(node)) = resource.spec else { return None };
        Some((node.name, node.uplinks.into_iter().map(|uplink| uplink.interface).collect()))
    };
    Ok(listed.into_iter().filter_map(node).collect())
}

type Uplinks = BTreeMap<String, BTreeSet<String>>;

fn place(
    found: Found,
    only: Option<&NetworkKey>,
    subnets: &[(NetworkKey, Prefix)],
    uplinks: &Uplinks,
) -> Placed {
    let of = |network: &NetworkKey, ip: &IpAddr| {
        subnets.iter().any(|(key, prefix)| key == network && prefix.contains(*ip))
    };
    let vrf = only.map_or("default".to_owned(), |only| only.vrf.to_string());
    let network = found.network.clone().or_else(|| {
        let first = found.addresses.iter().find_map(|ip| {
            subnets.iter().find(|(key, prefix)| key.vrf.as_str() == vrf && prefix.contains(*ip))
        });
        first.map(|(key, _)| key.clone())
    });
    let row = |port: String, addresses: &[IpAddr]| Row {
        source: found.source.clone(),
        port,
        addresses: addresses.iter().map(ToString::to_string).collect(),
        mac: found.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        node: found.node.clone(),
        netns: found.netns.clone(),
        interface: found.interface.clone(),
        bridge: found.bridge.clone(),
        apart: is_apart(&found, uplinks),
        result: TAKEN,
        reason: String::new(),
    };
    let refuse = |reason: String| {
        let row = row(found.name.clone(), &found.addresses);
        Placed::Nowhere(Box::new(Row { reason, ..row }))
    };
    let Some(network) = network else {
        let listed: Vec<String> = found.addresses.iter().map(ToString::to_string).collect();
        let reason =
            format!("no network of VRF {vrf} has a subnet with {}: declare one", listed.join(" or "));
        return if only.is_some() { Placed::Elsewhere } else { refuse(reason) };
    };
    if only.is_some_and(|only| *only != network) {
        return Placed::Elsewhere;
    }
    // What else the interface has, another network's or none's, is not this port's.
    let mut addresses: Vec<IpAddr> = found.addresses.clone();
    if found.network.is_none() {
        addresses.retain(|ip| of(&network, ip));
    }
    let key: PortKey = match format!("{network}/{}", found.name).parse() {
        Ok(key) => key,
        Err(error) => return refuse(format!("'{}' cannot be the name of a port: {error}", found.name)),
    };
    let bind = (!found.node.is_empty()).then(|| binding(&found, uplinks));
    let request = v1::CreatePortRequest {
        key: Some(v1::PortKey {
            vrf: key.network.vrf.to_string(),
            network: key.network.network.to_string(),
            name: key.name.to_string(),
        }),
        addresses: addresses.iter().map(ToString::to_string).collect(),
        mac: found.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        bind,
        ..v1::CreatePortRequest::default()
    };
    Placed::At(Box::new(request), Box::new(row(key.to_string(), &addresses)))
}

fn binding(found: &Found, uplinks: &Uplinks) -> v1::Binding {
    let container = !found.netns.is_empty();
    let kind = if container { v1::WorkloadKind::Container } else { v1::WorkloadKind::BareMetal };
    v1::Binding {
        node: found.node.clone(),
        kind: kind.into(),
        netns: found.netns.clone(),
        interface: found.interface.clone(),
        adopted: container,
        apart: container && is_apart(found, uplinks),
        ..v1::Binding::default()
    }
}

/// True if what was looked at leads to none of the uplinks that the machine has: it is routed, or behind NAT.
fn is_apart(found: &Found, uplinks: &Uplinks) -> bool {
    let uplinks = uplinks.get(&found.node).filter(|uplinks| !uplinks.is_empty());
    let ways = found.ways.as_ref();
    uplinks.zip(ways).is_some_and(|(uplinks, ways)| uplinks.is_disjoint(ways))
}

fn note(row: &mut Row, result: v1::CreatePortsResult, dry_run: bool) {
    match result.result {
        Some(v1::create_ports_result::Result::Ok(done)) => {
            row.result = match (done.created, dry_run) {
                (false, _) => THERE,
                (true, true) => WOULD,
                (true, false) => DONE,
            };
            if let Some(port) = done.port {
                row.mac = port.mac;
                row.addresses = port.addresses;
            }
        }
        Some(v1::create_ports_result::Result::Error(error)) => {
            let failure = Failure::refused_item("adopt it", &error);
            row.reason = failure.text.trim_start_matches("cannot adopt it: ").to_owned();
        }
        None => row.reason = "the controller sent an empty result".to_owned(),
    }
}

fn show(rows: &[Row], common: &Common, out: Output) -> Outcome {
    let taken = rows.iter().filter(|row| row.result == TAKEN).count();
    let skipped = rows.iter().filter(|row| row.result == SKIPPED).count();
    let fresh = rows.iter().filter(|row| [WOULD, DONE].contains(&row.result)).count();
    if out.format == Format::Table {
        let mut table =
            Table::new(&["PORT", "ADDRESSES", "MAC", "NODE", "NETNS", "INTERFACE", "BRIDGE", "RESULT"]);
        for row in rows {
            let tone = match row.result {
                TAKEN => Tone::Bad,
                SKIPPED => Tone::Plain,
                _ => Tone::Good,
            };
            let result = match row.reason.as_str() {
                "" if row.apart => format!("{}, apart: leads to no uplink", row.result),
                "" => row.result.to_owned(),
                reason => format!("{}: {reason} ({})", row.result, row.source),
            };
            table.row(vec![
                plain(&row.port),
                plain(row.addresses.join(" ")),
                plain(&row.mac),
                plain(&row.node),
                plain(&row.netns),
                plain(&row.interface),
                plain(&row.bridge),
                (result, tone),
            ]);
        }
        if !rows.is_empty() {
            out.text(&table.render(out.colour))?;
        }
        let word = if common.dry_run { "would be adopted" } else { "adopted" };
        let passed = match skipped {
            0 => String::new(),
            n => format!(", {n} skipped"),
        };
        out.note(&format!("{fresh} {word}, {taken} conflicts{passed}, {} in all", rows.len()));
        if fresh > 0 && !common.dry_run {
            out.next("causeway port list");
        }
    } else {
        out.data(&rows)?;
    }
    Ok(match (taken, fresh, common.dry_run) {
        (0, 0, _) if rows.len() == skipped => Exit::Nothing,
        (0, 1.., true) => Exit::Attention,
        (0, ..) => Exit::Ok,
        _ => Exit::Conflict,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(addresses: &[&str]) -> Found {
        Found {
            source: "container web-1".into(),
            name: "web-1".into(),
            network: None,
            addresses: addresses.iter().map(|text| text.parse().unwrap()).collect(),
            mac: "02:42:0a:08:00:05".parse().ok(),
            node: "h1".into(),
            netns: "pid:7".into(),
            interface: "eth0".into(),
            bridge: "docker0".into(),
            ways: Some(["eth1".to_owned()].into()),
        }
    }

    fn known() -> Vec<(NetworkKey, Prefix)> {
        [("default/web", "10.8.0.0/24"), ("default/web", "fd00:8::/64"), ("red/web", "10.8.0.0/24")]
            .map(|(network, prefix)| (network.parse().unwrap(), prefix.parse().unwrap()))
            .to_vec()
    }

    #[test]
    fn an_interface_belongs_to_the_network_that_has_its_address() {
        let several = found(&["10.8.0.5", "fd00:8::5", "192.0.2.1"]);
        let Placed::At(request, row) = place(several, None, &known(), &Uplinks::new()) else {
            panic!("it has a place");
        };
        assert_eq!(row.port, "default/web/web-1");
        assert_eq!(request.addresses, ["10.8.0.5", "fd00:8::5"], "and only what is of that network");
        let bind = request.bind.unwrap();
        assert!(bind.adopted && bind.netns == "pid:7" && request.mac == "02:42:0a:08:00:05");
        let red: NetworkKey = "red/web".parse().unwrap();
        let Placed::At(request, _) = place(found(&["10.8.0.5"]), Some(&red), &known(), &Uplinks::new())
        else {
            panic!("it has a place");
        };
        assert_eq!(request.key.unwrap().vrf, "red");
    }

    #[test]
    fn what_leads_to_no_uplink_is_apart() {
        let uplinks: Uplinks = [
            ("h1".to_owned(), ["eth1".to_owned(), "eth2".to_owned()].into()),
            ("vtep".to_owned(), BTreeSet::new()),
        ]
        .into();
        let here = found(&["10.8.0.5"]);
        assert!(!is_apart(&here, &uplinks), "its bridge has an uplink");
        let nat = Found { ways: Some(BTreeSet::new()), ..here.clone() };
        assert!(is_apart(&nat, &uplinks));
        let other = Found { ways: Some(["eth0".to_owned()].into()), ..here.clone() };
        assert!(is_apart(&other, &uplinks), "another network");
        assert!(
            !is_apart(&Found { node: "vtep".into(), ..nat.clone() }, &uplinks),
            "the controller knows that"
        );
        assert!(!is_apart(&Found { ways: None, ..nat }, &uplinks), "a file does not say");
        assert!(binding(&here, &uplinks).adopted);
    }

    #[test]
    fn what_has_no_place_is_said_or_passed_over() {
        let none = Uplinks::new();
        let Placed::Nowhere(row) = place(found(&["172.17.0.2"]), None, &known(), &none) else {
            panic!("a place")
        };
        assert!(
            row.reason.contains("no network of VRF default has a subnet with 172.17.0.2"),
            "{}",
            row.reason
        );
        let web: NetworkKey = "web".parse().unwrap();
        assert!(matches!(place(found(&["172.17.0.2"]), Some(&web), &known(), &none), Placed::Elsewhere));
        let odd = Found { name: "a b".into(), ..found(&["10.8.0.5"]) };
        let Placed::Nowhere(row) = place(odd, None, &known(), &none) else { panic!("a place") };
        assert!(row.reason.contains("'a b' cannot be the name of a port"), "{}", row.reason);
    }
}
