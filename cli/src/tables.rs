//! Tables of records, ports, sessions and routes.

use causeway_proto::v1;

use crate::output::{Table, Tone, plain};
use crate::view::{direction, port_state};
use crate::words::{self, word};

/// "a=b,c=d".
pub(crate) fn labels(labels: &std::collections::BTreeMap<String, String>) -> String {
    labels
        .iter()
        .map(|(k, v)| if v.is_empty() { k.clone() } else { format!("{k}={v}") })
        .collect::<Vec<_>>()
        .join(",")
}

/// "VRF/NETWORK/NAME".
pub(crate) fn port_id(key: Option<&v1::PortKey>) -> String {
    key.map(|k| format!("{}/{}/{}", if k.vrf.is_empty() { "default" } else { &k.vrf }, k.network, k.name))
        .unwrap_or_default()
}

/// Seconds as people say them: "42s", "3m10s", "5h2m", "12d3h".
pub(crate) fn duration(seconds: u64) -> String {
    let (minutes, hours, days) = (seconds / 60, seconds / 3600, seconds / 86_400);
    match seconds {
        0..60 => format!("{seconds}s"),
        60..3600 => format!("{minutes}m{}s", seconds % 60),
        3600..86_400 => format!("{hours}h{}m", minutes % 60),
        _ => format!("{days}d{}h", hours % 24),
    }
}

/// A number whose 0 means "not given".
fn number(n: u32) -> (String, Tone) {
    plain(if n == 0 { String::new() } else { n.to_string() })
}

pub(crate) fn state_tone(state: i32) -> Tone {
    match v1::PortState::try_from(state) {
        Ok(v1::PortState::Ready | v1::PortState::Advertised | v1::PortState::Programmed) => Tone::Good,
        Ok(v1::PortState::Bound) => Tone::Warn,
        Ok(v1::PortState::Failed) => Tone::Bad,
        Ok(v1::PortState::Released | v1::PortState::Quarantined) => Tone::Faint,
        _ => Tone::Plain,
    }
}

/// Records of one kind, in the order given.
pub(crate) fn records(kind: v1::Kind, resources: &[v1::Resource]) -> Table {
    let mut table = Table::new(match kind {
        v1::Kind::Network => &["NETWORK", "VNI", "VLAN", "MTU", "STICKY", "EXPORT", "IMPORT", "LABELS"],
        v1::Kind::Subnet => &["SUBNET", "NETWORK", "GATEWAY", "RANGES", "EXCLUSIONS", "RESERVATIONS"],
        v1::Kind::Node => &["NODE", "MODE", "VTEP", "UPLINKS", "MTU", "SITE", "LABELS"],
        v1::Kind::Peer => &["PEER", "AS", "PORT", "LOCAL", "PASSIVE", "MD5", "GTSM", "HOLD", "RESTART"],
        v1::Kind::Vrf | v1::Kind::Unspecified => &["VRF", "L3-VNI", "EXPORT", "IMPORT"],
    });
    for resource in resources {
        table.row(record(resource));
    }
    table
}

/// The switches that a host hangs on.
fn uplinks(node: &v1::Node) -> String {
    let place = |u: &v1::Uplink| match u.switch_interface.as_str() {
        "" => u.switch.clone(),
        interface => format!("{}:{interface}", u.switch),
    };
    node.uplinks.iter().map(place).collect::<Vec<_>>().join(",")
}

/// The cells of one record.
fn record(resource: &v1::Resource) -> Vec<(String, Tone)> {
    use v1::resource::Spec;
    let list = |items: &[String]| plain(items.join(","));
    match &resource.spec {
        Some(Spec::Vrf(r)) => {
            vec![plain(&r.name), number(r.l3_vni), list(&r.export_targets), list(&r.import_targets)]
        }
        Some(Spec::Network(r)) => vec![
            plain(format!("{}/{}", r.vrf, r.name)),
            number(r.vni),
            number(r.vlan),
            number(r.mtu),
            plain(if r.sticky_seconds == 0 { "forever".into() } else { format!("{}s", r.sticky_seconds) }),
            list(&r.export_targets),
            list(&r.import_targets),
            plain(labels(&r.labels)),
        ],
        Some(Spec::Subnet(r)) => vec![
            plain(format!("{}/{}", r.vrf, r.prefix)),
            plain(&r.network),
            plain(&r.gateway),
            list(&r.ranges),
            list(&r.exclusions),
            list(&r.reservations),
        ],
        Some(Spec::Node(r)) => vec![
            plain(&r.name),
            plain(word(words::NODE_MODES, r.mode)),
            plain(&r.vtep),
            plain(uplinks(r)),
            number(r.underlay_mtu),
            plain(&r.site),
            plain(labels(&r.labels)),
        ],
        Some(Spec::Peer(r)) => vec![
            plain(&r.address),
            plain(r.asn),
            number(r.port),
            plain(&r.local_address),
            plain(if r.passive { "yes" } else { "no" }),
            plain(if r.md5_key_file.is_empty() { "no" } else { "yes" }),
            number(r.gtsm_hops),
            plain(format!("{}s", r.hold_seconds)),
            plain(if r.no_graceful_restart { "off".into() } else { format!("{}s", r.restart_seconds) }),
        ],
        None => Vec::new(),
    }
}

/// The state; of a quarantined port also how long it will be.
fn state(port: &v1::Port) -> String {
    let word = port_state(port.state);
    if port.state() != v1::PortState::Quarantined {
        return word.to_owned();
    }
    let left = u64::try_from(port.expires_ms.saturating_sub(crate::time::now_ms())).unwrap_or(0);
    format!("{word} {}", duration(left / 1000))
}

/// The node of a port; of a VIP its holder.
fn place(port: &v1::Port, node: String) -> String {
    match &port.holder {
        Some(holder) => format!("held by {}", holder.name),
        None => node,
    }
}

/// Ports, in the order given.
pub(crate) fn ports<'a>(ports: impl IntoIterator<Item = &'a v1::Port>) -> Table {
    let mut table = Table::new(&["PORT", "ADDRESSES", "MAC", "STATE", "NODE", "INTERFACE", "PROBLEM"]);
    for port in ports {
        let binding = port.binding.clone().unwrap_or_default();
        table.row(vec![
            plain(port_id(port.key.as_ref())),
            plain(port.addresses.join(",")),
            plain(&port.mac),
            (state(port), state_tone(port.state)),
            plain(place(port, binding.node)),
            plain(binding.interface),
            (port.problem.clone(), Tone::Bad),
        ]);
    }
    table
}

/// Nodes with their agents.
pub(crate) fn node_status(nodes: &[v1::NodeStatus], revision: u64) -> Table {
    let mut table =
        Table::new(&["NODE", "VTEP", "AGENT", "VERSION", "REVISION", "BEHIND", "PORTS", "PROBLEMS"]);
    for status in nodes {
        let node = status.node.clone().unwrap_or_default();
        let (agent, tone) = match (status.connected, status.problems.is_empty()) {
            (true, true) => ("connected", Tone::Good),
            (true, false) => ("connected", Tone::Warn),
            (false, _) if status.agent_version.is_empty() => ("never seen", Tone::Bad),
            (false, _) => ("lost", Tone::Bad),
        };
        table.row(vec![
            plain(node.name),
            plain(node.vtep),
            (agent.into(), tone),
            plain(&status.agent_version),
            plain(status.applied_revision),
            plain(revision.saturating_sub(status.applied_revision)),
            plain(status.ports),
            (status.problems.join("; "), Tone::Bad),
        ]);
    }
    table
}

/// BGP sessions, with the columns of a router's summary.
pub(crate) fn peers(peers: &[v1::PeerStatus]) -> Table {
    let mut table = Table::new(&[
        "NEIGHBOR",
        "AS",
        "ROUTER-ID",
        "STATE",
        "UP/DOWN",
        "RCVD",
        "SENT",
        "MSGRCVD",
        "MSGSENT",
        "OUTQ",
        "ESTABLISHED",
        "LAST-ERROR",
    ]);
    for status in peers {
        let peer = status.peer.clone().unwrap_or_default();
        let tone = match status.state.as_str() {
            "Established" => Tone::Good,
            "Idle" => Tone::Bad,
            _ => Tone::Warn,
        };
        table.row(vec![
            plain(peer.address),
            plain(peer.asn),
            plain(&status.router_id),
            (status.state.clone(), tone),
            plain(duration(status.state_seconds)),
            plain(status.routes_received),
            plain(status.routes_sent),
            plain(status.messages_received),
            plain(status.messages_sent),
            plain(status.queue),
            plain(format!("{}x", status.established_count)),
            plain(&status.last_error),
        ]);
    }
    table
}

/// EVPN routes.
pub(crate) fn routes(routes: &[v1::Route]) -> Table {
    let mut table = Table::new(&[
        "DIR",
        "TYPE",
        "RD",
        "MAC",
        "IP",
        "NEXT-HOP",
        "VNI",
        "ROUTE-TARGETS",
        "SEQ",
        "FLAGS",
        "PEER",
        "VERDICT",
    ]);
    for route in routes {
        let flags = [("sticky", route.sticky), ("stale", route.stale), ("es", !route.esi.is_empty())];
        let flags: Vec<&str> = flags.into_iter().filter(|(_, set)| *set).map(|(word, _)| word).collect();
        let vnis: Vec<String> = route.vnis.iter().map(u32::to_string).collect();
        let tone = if route.verdict.starts_with("not used") { Tone::Warn } else { Tone::Plain };
        table.row(vec![
            plain(direction(route.direction)),
            plain(route.route_type),
            plain(&route.rd),
            plain(&route.mac),
            plain(&route.ip),
            plain(&route.next_hop),
            plain(vnis.join(",")),
            plain(route.route_targets.join(",")),
            number(route.sequence),
            plain(flags.join(",")),
            plain(&route.peer),
            (route.verdict.clone(), tone),
        ]);
    }
    table
}

#[cfg(test)]
mod tests;
