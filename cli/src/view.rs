//! The JSON and YAML form of everything: field names are those of the contract, enumerations are short words. Empty fields
//! of records are left out; records read back by `apply` are equal to what was written.

mod records;

use std::collections::BTreeMap;

use causeway_proto::v1;
use serde::Serialize;

use crate::words::{self, word};
pub(crate) use records::{NodeView, PeerView, RecordView};

type Labels = BTreeMap<String, String>;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// The word of a port's state.
pub(crate) fn port_state(state: i32) -> &'static str {
    match v1::PortState::try_from(state) {
        Ok(v1::PortState::Reserved) => "reserved",
        Ok(v1::PortState::Bound) => "bound",
        Ok(v1::PortState::Programmed) => "programmed",
        Ok(v1::PortState::Advertised) => "advertised",
        Ok(v1::PortState::Ready) => "ready",
        Ok(v1::PortState::Released) => "released",
        Ok(v1::PortState::Quarantined) => "quarantined",
        Ok(v1::PortState::Failed) => "failed",
        Ok(v1::PortState::Moving) => "moving",
        Ok(v1::PortState::Unspecified) | Err(_) => "unknown",
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct PortKeyView {
    vrf: String,
    network: String,
    name: String,
}

impl From<v1::PortKey> for PortKeyView {
    fn from(k: v1::PortKey) -> Self {
        PortKeyView { vrf: k.vrf, network: k.network, name: k.name }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct BindingView {
    node: String,
    kind: &'static str,
    attachment: &'static str,
    netns: String,
    interface: String,
    generation: u64,
    #[serde(skip_serializing_if = "is_default")]
    macvlan_mode: &'static str,
}

#[derive(Debug, PartialEq, Default, Serialize)]
pub(crate) struct RateView {
    in_kbit: u64,
    out_kbit: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct PortView {
    key: PortKeyView,
    addresses: Vec<String>,
    mac: String,
    labels: Labels,
    state: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    binding: Option<BindingView>,
    revision: u64,
    problem: String,
    created_ms: i64,
    expires_ms: i64,
    #[serde(skip_serializing_if = "is_default")]
    rate: RateView,
    #[serde(skip_serializing_if = "is_default")]
    guard: &'static str,
    #[serde(skip_serializing_if = "Labels::is_empty")]
    network_labels: Labels,
    #[serde(skip_serializing_if = "is_default")]
    kind: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    holder: Option<PortKeyView>,
    #[serde(skip_serializing_if = "Vec::is_empty")]
    vips: Vec<HeldView>,
    /// Only in the answer to `port create`.
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
}

/// A VIP that a port answers for.
#[derive(Debug, Serialize)]
pub(crate) struct HeldView {
    key: PortKeyView,
    addresses: Vec<String>,
}

impl From<v1::HeldVip> for HeldView {
    fn from(held: v1::HeldVip) -> Self {
        HeldView { key: held.key.unwrap_or_default().into(), addresses: held.addresses }
    }
}

impl PortView {
    pub(crate) fn new(p: v1::Port, created: Option<bool>) -> Self {
        PortView {
            key: p.key.unwrap_or_default().into(),
            addresses: p.addresses,
            mac: p.mac,
            labels: p.labels,
            state: port_state(p.state),
            binding: p.binding.map(|b| BindingView {
                node: b.node,
                kind: word(words::WORKLOADS, b.kind),
                attachment: word(words::ATTACHMENTS, b.attachment),
                netns: b.netns,
                interface: b.interface,
                generation: b.generation,
                macvlan_mode: word(words::MACVLAN_MODES, b.macvlan_mode),
            }),
            revision: p.revision,
            problem: p.problem,
            created_ms: p.created_ms,
            expires_ms: p.expires_ms,
            rate: p.rate.map(|r| RateView { in_kbit: r.in_kbit, out_kbit: r.out_kbit }).unwrap_or_default(),
            guard: word(words::GUARDS, p.guard),
            kind: if p.kind == v1::PortKind::Vip as i32 { "vip" } else { "" },
            network_labels: p.network_labels,
            holder: p.holder.map(PortKeyView::from),
            vips: p.vips.into_iter().map(HeldView::from).collect(),
            created,
        }
    }
}

/// One event of `port watch`.
#[derive(Debug, Serialize)]
pub(crate) struct EventView {
    pub(crate) event: &'static str,
    pub(crate) revision: u64,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) port: Option<PortView>,
    #[serde(skip_serializing_if = "Option::is_none")]
    pub(crate) key: Option<PortKeyView>,
}

#[derive(Debug, Serialize)]
pub(crate) struct NodeStatusView {
    node: NodeView,
    connected: bool,
    applied_revision: u64,
    agent_version: String,
    problems: Vec<String>,
    ports: u64,
}

impl From<v1::NodeStatus> for NodeStatusView {
    fn from(s: v1::NodeStatus) -> Self {
        NodeStatusView {
            node: s.node.unwrap_or_default().into(),
            connected: s.connected,
            applied_revision: s.applied_revision,
            agent_version: s.agent_version,
            problems: s.problems,
            ports: s.ports,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct PeersView {
    router_id: String,
    asn: u32,
    version: String,
    peers: Vec<PeerStatusView>,
}

#[derive(Debug, Serialize)]
struct PeerStatusView {
    peer: PeerView,
    state: String,
    state_seconds: u64,
    last_error: String,
    routes_received: u64,
    routes_sent: u64,
    messages_received: u64,
    messages_sent: u64,
    treated_as_withdrawn: u64,
    queue: u64,
    router_id: String,
    established_count: u64,
}

impl From<v1::ListPeersResponse> for PeersView {
    fn from(answer: v1::ListPeersResponse) -> Self {
        let peer = |s: v1::PeerStatus| PeerStatusView {
            peer: s.peer.unwrap_or_default().into(),
            state: s.state,
            state_seconds: s.state_seconds,
            last_error: s.last_error,
            routes_received: s.routes_received,
            routes_sent: s.routes_sent,
            messages_received: s.messages_received,
            messages_sent: s.messages_sent,
            treated_as_withdrawn: s.treated_as_withdrawn,
            queue: s.queue,
            router_id: s.router_id,
            established_count: s.established_count,
        };
        PeersView {
            router_id: answer.router_id,
            asn: answer.asn,
            version: answer.version,
            peers: answer.peers.into_iter().map(peer).collect(),
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct RouteView {
    direction: &'static str,
    peer: String,
    route_type: u32,
    rd: String,
    mac: String,
    ip: String,
    next_hop: String,
    vnis: Vec<u32>,
    route_targets: Vec<String>,
    sequence: u32,
    sticky: bool,
    router_mac: String,
    esi: String,
    verdict: String,
    stale: bool,
}

/// The word of a route's direction.
pub(crate) fn direction(direction: i32) -> &'static str {
    match v1::RouteDirection::try_from(direction) {
        Ok(v1::RouteDirection::In) => "in",
        Ok(v1::RouteDirection::Out) => "out",
        Ok(v1::RouteDirection::Unspecified) | Err(_) => "",
    }
}

impl From<v1::Route> for RouteView {
    fn from(r: v1::Route) -> Self {
        RouteView {
            direction: direction(r.direction),
            peer: r.peer,
            route_type: r.route_type,
            rd: r.rd,
            mac: r.mac,
            ip: r.ip,
            next_hop: r.next_hop,
            vnis: r.vnis,
            route_targets: r.route_targets,
            sequence: r.sequence,
            sticky: r.sticky,
            router_mac: r.router_mac,
            esi: r.esi,
            verdict: r.verdict,
            stale: r.stale,
        }
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct RoutesView {
    pub(crate) routes: Vec<RouteView>,
    pub(crate) more: u64,
}

#[derive(Debug, Serialize)]
pub(crate) struct ExplainView {
    pub(crate) findings: Vec<String>,
    pub(crate) routes: Vec<RouteView>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ApplyView {
    dry_run: bool,
    revision: u64,
    results: Vec<ApplyResultView>,
}

#[derive(Debug, Serialize)]
struct ApplyResultView {
    kind: &'static str,
    name: String,
    action: &'static str,
    changes: Vec<ChangeView>,
}

#[derive(Debug, Serialize)]
struct ChangeView {
    field: String,
    old: String,
    new: String,
}

impl ApplyView {
    pub(crate) fn new(answer: v1::ApplyResponse, dry_run: bool) -> Self {
        let result = |r: v1::ApplyResult| ApplyResultView {
            kind: kind_word(r.kind),
            name: r.name,
            action: match v1::ApplyAction::try_from(r.action) {
                Ok(v1::ApplyAction::Create) => "create",
                Ok(v1::ApplyAction::Update) => "update",
                Ok(v1::ApplyAction::Unchanged) => "unchanged",
                Ok(v1::ApplyAction::Unspecified) | Err(_) => "unknown",
            },
            changes: r
                .changes
                .into_iter()
                .map(|c| ChangeView { field: c.field, old: c.old, new: c.new })
                .collect(),
        };
        let results = answer.results.into_iter().map(result).collect();
        ApplyView { dry_run, revision: answer.revision, results }
    }
}

/// A kind in lower case.
pub(crate) fn kind_word(kind: i32) -> &'static str {
    match v1::Kind::try_from(kind) {
        Ok(v1::Kind::Vrf) => "vrf",
        Ok(v1::Kind::Network) => "network",
        Ok(v1::Kind::Subnet) => "subnet",
        Ok(v1::Kind::Node) => "node",
        Ok(v1::Kind::Peer) => "peer",
        Ok(v1::Kind::Unspecified) | Err(_) => "record",
    }
}

#[derive(Debug, Serialize)]
pub(crate) struct VersionView {
    pub(crate) client: &'static str,
    pub(crate) servers: Vec<ServerView>,
}

#[derive(Debug, Serialize)]
pub(crate) struct ServerView {
    pub(crate) server: String,
    pub(crate) reachable: bool,
    pub(crate) version: String,
    pub(crate) router_id: String,
    pub(crate) asn: u32,
    pub(crate) problem: String,
}

#[cfg(test)]
mod tests;
