//! What is known of one MAC, address or prefix: what is intended, what we say, what others say, and which wins.

use std::net::IpAddr;
use std::str::FromStr;
use std::sync::Arc;

use causeway_bgp::{Attributes, ReceivedRoute, Route, RouteFilter, RouteKey, SessionState};
use causeway_proto::{Mac, Name, Prefix, v1};

use super::App;
use super::fabric::{networks_by_vni, own_message, received_message};
use super::parse::text;
use super::port_message::from_snapshot;
use super::status::Refusal;
use crate::compare::choose::{At, Candidate, choose};
use crate::compare::words::{Names, vteps};
use crate::compare::{is_controllers, is_intended};
use crate::derive::evpn;
use crate::derive::imports::Unused;
use crate::derive::place::router_mac;
use crate::model::Port;
use crate::snapshot::{Record, Snapshot};

/// Ports, subnets and routes named in an explanation at most.
const LIMIT: usize = 100;
/// Routes of which it is looked up who has asked for them.
const ASKED: usize = 10;

/// What to explain.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Subject {
    Mac(Mac),
    Address(IpAddr),
    Prefix(Prefix),
}

/// A text that is none of the three.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is neither a MAC, an address nor a prefix")]
pub(super) struct SubjectError(String);

impl FromStr for Subject {
    type Err = SubjectError;

    fn from_str(text: &str) -> Result<Self, SubjectError> {
        let mac = text.parse().map(Subject::Mac).ok();
        let address = || text.parse().map(Subject::Address).ok();
        let prefix = || text.parse().map(Subject::Prefix).ok();
        mac.or_else(address).or_else(prefix).ok_or_else(|| SubjectError(super::parse::short(text)))
    }
}

/// The explanation.
pub(super) async fn explain(app: &App, subject: &Subject, at: &str) -> Result<v1::ExplainResponse, Refusal> {
    let snapshot = app.snapshot().await;
    let at = if at.is_empty() { None } else { Some(switch(&snapshot, at)?) };
    let filter = match *subject {
        Subject::Mac(mac) => RouteFilter { mac: Some(mac), ..RouteFilter::default() },
        Subject::Address(ip) => RouteFilter { ip: Some(ip), ..RouteFilter::default() },
        Subject::Prefix(prefix) => {
            RouteFilter { ip: Some(prefix.network()), route_type: Some(5), ..RouteFilter::default() }
        }
    };
    let filter = RouteFilter { limit: LIMIT, ..filter };
    let out = app.fabric.routes_out(&filter).await;
    let received = app.fabric.speaker().routes_in(&filter).await;
    let mut findings = intent(app, &snapshot, subject).await;
    findings.extend(sent(app, &out).await);
    findings.extend(decision(app, &snapshot, subject, &out, &received, at.as_ref()));
    findings.extend(heard(app, &snapshot, &out, &received));
    let networks = networks_by_vni(&snapshot);
    let ours = out.iter().map(|route| own_message(&snapshot, &networks, route));
    let theirs = received.iter().map(|route| received_message(app, &snapshot, route));
    let mut routes: Vec<v1::Route> = ours.chain(theirs).collect();
    // The winner first: ours where the store says so, else what is used.
    routes.sort_by_key(|route| {
        (route.direction != i32::from(v1::RouteDirection::Out), !route.verdict.starts_with("used"))
    });
    Ok(v1::ExplainResponse { findings, routes })
}

/// The switch that is to decide.
fn switch(snapshot: &Snapshot, at: &str) -> Result<At, Refusal> {
    let name: Name = text("at", at)?;
    let Some(record) = snapshot.nodes.get(&name) else {
        return Err(Refusal::not_found(format!("node {name}"), "causeway get node shows which exist"));
    };
    let node = &record.value;
    let vteps: Vec<IpAddr> = vteps(node).collect();
    if vteps.is_empty() {
        return Err(Refusal::field(
            "at",
            format!("node {name} has no VTEP: it is behind a switch, name that one"),
        ));
    }
    Ok(At { name: name.to_string(), vteps, router_mac: router_mac(node) })
}

/// Which route a VTEP takes, and why not the others.
fn decision(
    app: &App,
    snapshot: &Snapshot,
    subject: &Subject,
    out: &[Route],
    received: &[ReceivedRoute],
    at: Option<&At>,
) -> Vec<String> {
    let concerns = |key: &RouteKey| match (subject, key) {
        (Subject::Prefix(wanted), RouteKey::IpPrefix { prefix, .. }) => prefix == wanted,
        (_, key) => matches!(key, RouteKey::MacIp { .. } | RouteKey::IpPrefix { .. }),
    };
    let networks = networks_by_vni(snapshot);
    let number = |attributes: &Attributes| {
        let network = attributes.vni.and_then(|vni| networks.get(&vni))?;
        Some(snapshot.networks.get(network)?.value.rd_number)
    };
    let own = out.iter().map(|route| Candidate {
        key: route.key,
        attributes: Arc::clone(&route.attributes),
        peer: None,
        by_controller: true,
    });
    let names = Names::new(snapshot);
    let own_id = app.fabric.context().router_id.octets();
    let theirs = received.iter().map(|received| {
        let route = &received.route;
        let rd = route.key.rd();
        let by_controller =
            number(&route.attributes).is_some_and(|n| is_controllers(&names, rd, n)) || rd.0[2..6] == own_id;
        let attributes = Arc::clone(&route.attributes);
        Candidate { key: route.key, attributes, peer: Some(received.peer), by_controller }
    });
    let candidates: Vec<Candidate> = own.chain(theirs).filter(|candidate| concerns(&candidate.key)).collect();
    choose(&names, &candidates, at)
}

/// What the store says.
async fn intent(app: &App, snapshot: &Snapshot, subject: &Subject) -> Vec<String> {
    let mut findings = Vec::new();
    match subject {
        Subject::Mac(mac) => {
            let owners = snapshot.networks.keys().filter_map(|key| snapshot.by_mac.get(&(key.clone(), *mac)));
            for owner in owners.take(LIMIT) {
                findings.extend(port(app, snapshot, owner));
            }
            if findings.is_empty() {
                findings.push(format!("no port has MAC {mac}"));
            }
        }
        Subject::Address(ip) => {
            for vrf in snapshot.vrfs.keys() {
                if let Some(owner) = snapshot.by_address.get(&(vrf.clone(), *ip)) {
                    findings.extend(port(app, snapshot, owner));
                } else if let Some(subnet) = snapshot.subnet_at(vrf, *ip) {
                    let subnet = &subnet.value;
                    let what = if subnet.gateway == Some(*ip) { "the gateway" } else { "a free address" };
                    findings.push(format!(
                        "{ip} is {what} of subnet {} of network {}",
                        subnet.prefix, subnet.network
                    ));
                }
            }
            findings.extend(vtep(snapshot, *ip));
            if findings.is_empty() {
                findings.push(format!("no port has address {ip}, and no subnet contains it"));
            }
        }
        Subject::Prefix(prefix) => {
            let overlapping =
                snapshot.subnets.values().filter(|record| record.value.prefix.overlaps(*prefix));
            for record in overlapping.take(LIMIT) {
                let subnet = &record.value;
                let (taken, released) = snapshot.taken_in(&subnet.network.vrf, subnet.prefix);
                findings.push(format!(
                    "subnet {} of network {}: {taken} addresses taken, {released} of them by released ports",
                    subnet.prefix, subnet.network
                ));
            }
            if findings.is_empty() {
                findings.push(format!("no subnet overlaps {prefix}"));
            }
        }
    }
    findings
}

fn vtep(snapshot: &Snapshot, ip: IpAddr) -> Option<String> {
    let names: Vec<&str> = snapshot.nodes_at(ip).map(|record| record.value.name.as_str()).collect();
    (!names.is_empty()).then(|| format!("{ip} is the VTEP of node {}", names.join(" and ")))
}

fn port(app: &App, snapshot: &Snapshot, owner: &Arc<Record<Port>>) -> Vec<String> {
    let port = &owner.value;
    let mut findings = Vec::new();
    let Some(message) = from_snapshot(app, snapshot, &port.key) else { return findings };
    let state = message.state().as_str_name().trim_start_matches("PORT_STATE_");
    let addresses = message.addresses.join(", ");
    let place = match &message.binding {
        Some(binding) => {
            let node =
                binding.node.parse().ok().and_then(|name: causeway_proto::Name| snapshot.nodes.get(&name));
            let place = node.and_then(|node| crate::derive::place::place(snapshot, &node.value));
            let vtep = place.map(|place| format!(" (VTEP {})", place.vtep)).unwrap_or_default();
            format!("bound to node {}{vtep}, generation {}", binding.node, binding.generation)
        }
        None => match &message.holder {
            Some(_) => "a VIP".to_owned(),
            None => "bound to no node, so nothing is announced".to_owned(),
        },
    };
    let problem = if message.problem.is_empty() { String::new() } else { format!(": {}", message.problem) };
    findings.push(format!("port {}: {addresses} {}, {state}{problem}, {place}", port.key, port.mac));
    if let Some(holder) =
        port.vip.as_ref().and_then(|vip| vip.holder.as_ref()).and_then(|h| snapshot.ports.get(h))
    {
        findings.push(format!(
            "port {} holds it: it is announced with MAC {}, where that one lives",
            holder.value.key, holder.value.mac
        ));
        findings.extend(self::port(app, snapshot, holder));
    }
    if let Err(skip) = evpn::port_routes(&app.view(snapshot), &app.fabric.context(), &port.key) {
        findings.push(format!("no route for port {}: {skip}", port.key));
    }
    if let Some(binding) = &message.binding {
        findings.push(format!(
            "node {} itself gets it from its agent: switches and hosts drop BGP routes whose next hop they are",
            binding.node
        ));
    }
    findings
}

/// What we tell the fabric.
async fn sent(app: &App, out: &[Route]) -> Option<String> {
    if out.is_empty() {
        return Some("nothing is announced about it".to_owned());
    }
    let (peers, unusable) = app.fabric.peers().await;
    let up = peers.values().filter(|peer| peer.state == SessionState::Established).count();
    let all = peers.len() + unusable.len();
    let mut told = format!("{} routes announced, to {up} of {all} peers that are up", out.len());
    for peer in peers.values().filter(|peer| peer.memberships.is_some()) {
        let mut refused = 0;
        for route in out.iter().take(ASKED) {
            refused += usize::from(!app.fabric.speaker().holders(route.key).await.contains(&peer.address));
        }
        if refused > 0 {
            told +=
                &format!("; {} has not asked for {refused} of them (route target constraint)", peer.address);
        }
    }
    Some(told)
}

/// What the fabric tells us.
fn heard(app: &App, snapshot: &Snapshot, out: &[Route], received: &[ReceivedRoute]) -> Vec<String> {
    let mut findings = Vec::new();
    for ReceivedRoute { peer, route, .. } in received {
        let key = &route.key;
        if let RouteKey::IpPrefix { prefix, .. } = key {
            let judged = app.fabric.with_table(|table| table.policy().judge_prefix(key, &route.attributes));
            findings.push(match judged {
                Ok(used) => format!(
                    "{peer} says {prefix} is behind {} in VRF {}: used",
                    used.vtep,
                    super::fabric::names(&used.vrfs)
                ),
                Err(unused) => {
                    format!(
                        "{peer} says {prefix} has next hop {}: not used, {unused}",
                        route.attributes.next_hop
                    )
                }
            });
            continue;
        }
        let verdict = app.fabric.with_table(|table| table.verdict(snapshot, *peer, key, &route.attributes));
        match verdict {
            Ok(imported) => findings.push(format!(
                "{peer} says it is behind {} in network {}: used",
                imported.vtep, imported.network
            )),
            Err(Unused::Ours) => {
                let told = out.iter().find(|own| own.key == *key);
                if let Some(told) = told.filter(|told| told.attributes.next_hop != route.attributes.next_hop)
                {
                    findings.push(format!(
                        "{peer} sends our own route back with next hop {} instead of {}: something on the way does not \
                         keep next hops (set next-hop-unchanged)",
                        route.attributes.next_hop, told.attributes.next_hop
                    ));
                }
            }
            Err(unused) => findings.extend(not_used(snapshot, *peer, route, &unused)),
        }
    }
    findings
}

/// A MAC or flood route that hosts do not use, and whether it says anything else than the store.
fn not_used(snapshot: &Snapshot, peer: IpAddr, route: &Route, unused: &Unused) -> Vec<String> {
    let next_hop = route.attributes.next_hop;
    let (Unused::Port(owner), RouteKey::MacIp { mac, .. }) = (unused, route.key) else {
        return vec![format!("{peer} says next hop {next_hop}: not used, {unused}")];
    };
    if is_intended(snapshot, owner, next_hop) {
        return vec![format!(
            "{peer} says it is behind {next_hop}: as intended; hosts go by what the store says of port {owner}"
        )];
    }
    vec![
        format!("{peer} says next hop {next_hop}: not used, {unused}"),
        format!("conflict: {mac} belongs to port {owner} and is seen elsewhere in the fabric"),
    ]
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::fixture::{World, plain_node};
    use crate::keys::RecordKey;
    use crate::model::{Node, NodeMode};

    #[test]
    fn a_switch_that_says_what_is_intended_is_no_conflict() {
        let mut world = World::default();
        world.network("default/web", 110);
        for (name, vtep) in [("leaf1", [10, 98, 0, 1]), ("leaf2", [10, 98, 0, 2])] {
            let node = Node { vtep: Some(vtep.into()), ..plain_node(name, NodeMode::TorEvpn) };
            world.put(&RecordKey::Node(node.name.clone()), &node);
        }
        world.port("default/web/a", &["10.8.0.5"]);
        world.bind("default/web/a", "leaf1");
        let mac = Mac::from_ip([10, 8, 0, 5].into(), 0);
        let owner = Unused::Port("default/web/a".parse().unwrap());
        let told = |vtep: u8, unused: &Unused| {
            let next_hop = [10, 98, 0, vtep].into();
            let rd = causeway_bgp::RouteDistinguisher::new([10, 98, 0, vtep].into(), 2);
            let attributes = Arc::new(Attributes {
                next_hop,
                vni: Some(110.try_into().unwrap()),
                l3_vni: None,
                route_targets: Vec::new(),
                sequence: 0,
                sticky: false,
                router_mac: None,
                default_gateway: false,
                pmsi: None,
                esi: causeway_bgp::Esi::default(),
                gateway: None,
            });
            let route = Route { key: RouteKey::MacIp { rd, etag: 0, mac, ip: None }, attributes };
            not_used(&world.snapshot, [10, 0, 0, 250].into(), &route, unused).join("\n")
        };
        let there = told(1, &owner);
        assert!(there.contains("as intended") && !there.contains("conflict"), "{there}");
        let elsewhere = told(2, &owner);
        assert!(
            elsewhere.contains("conflict: 02:ca:0a:08:00:05 belongs to port default/web/a"),
            "{elsewhere}"
        );
        let other = told(1, &Unused::NoRouterMac);
        assert!(other.contains("next hop 10.98.0.1: not used, it has no router MAC"), "{other}");
    }

    #[test]
    fn subjects_are_told_apart() {
        assert!(matches!("02:ca:0a:08:00:05".parse(), Ok(Subject::Mac(_))));
        assert!(matches!("10.8.0.5".parse(), Ok(Subject::Address(_))));
        assert!(matches!("fd00::/64".parse(), Ok(Subject::Prefix(_))));
        for text in ["", "web/a", "10.8.0.5/20", "02:ca"] {
            assert!(text.parse::<Subject>().is_err(), "{text}");
        }
    }
}
