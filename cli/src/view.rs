//! The JSON and YAML form of everything: field names are those of the contract, enumerations are short words. Empty fields
//! of records are left out; records read back by `apply` are equal to what was written.

use std::collections::BTreeMap;

use causeway_proto::v1;
use serde::Serialize;

use crate::manifest::NODE_MODES;

type Labels = BTreeMap<String, String>;

fn is_default<T: Default + PartialEq>(value: &T) -> bool {
    *value == T::default()
}

/// A declarative record.
#[derive(Debug, Serialize)]
#[serde(tag = "kind")]
pub(crate) enum RecordView {
    Vrf(VrfView),
    Network(NetworkView),
    Subnet(SubnetView),
    Node(NodeView),
    Peer(PeerView),
}

#[derive(Debug, Serialize)]
pub(crate) struct VrfView {
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    l3_vni: u32,
    #[serde(skip_serializing_if = "is_default")]
    export_targets: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    import_targets: Vec<String>,
}

#[derive(Debug, Serialize)]
pub(crate) struct NetworkView {
    #[serde(skip_serializing_if = "is_default")]
    vrf: String,
    name: String,
    vni: u32,
    #[serde(skip_serializing_if = "is_default")]
    vlan: u32,
    #[serde(skip_serializing_if = "is_default")]
    mtu: u32,
    #[serde(skip_serializing_if = "is_default")]
    export_targets: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    import_targets: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    sticky_seconds: i64,
    #[serde(skip_serializing_if = "is_default")]
    labels: Labels,
}

#[derive(Debug, Serialize)]
pub(crate) struct SubnetView {
    #[serde(skip_serializing_if = "is_default")]
    vrf: String,
    network: String,
    prefix: String,
    #[serde(skip_serializing_if = "is_default")]
    gateway: String,
    #[serde(skip_serializing_if = "is_default")]
    ranges: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    exclusions: Vec<String>,
    #[serde(skip_serializing_if = "is_default")]
    reservations: Vec<String>,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct NodeView {
    name: String,
    #[serde(skip_serializing_if = "is_default")]
    mode: &'static str,
    vtep: String,
    #[serde(skip_serializing_if = "is_default")]
    underlay_mtu: u32,
    #[serde(skip_serializing_if = "is_default")]
    site: String,
    #[serde(skip_serializing_if = "is_default")]
    labels: Labels,
}

#[derive(Debug, Default, Serialize)]
pub(crate) struct PeerView {
    address: String,
    asn: u32,
    #[serde(skip_serializing_if = "is_default")]
    port: u32,
    #[serde(skip_serializing_if = "is_default")]
    local_address: String,
    #[serde(skip_serializing_if = "is_default")]
    passive: bool,
    #[serde(skip_serializing_if = "is_default")]
    md5_key_file: String,
    #[serde(skip_serializing_if = "is_default")]
    gtsm_hops: u32,
    #[serde(skip_serializing_if = "is_default")]
    hold_seconds: u32,
    #[serde(skip_serializing_if = "is_default")]
    restart_seconds: u32,
    #[serde(skip_serializing_if = "is_default")]
    no_graceful_restart: bool,
}

impl RecordView {
    /// `None` for a record of a kind that this version does not know.
    pub(crate) fn new(resource: &v1::Resource) -> Option<Self> {
        use v1::resource::Spec;
        Some(match resource.spec.clone()? {
            Spec::Vrf(r) => RecordView::Vrf(VrfView {
                name: r.name,
                l3_vni: r.l3_vni,
                export_targets: r.export_targets,
                import_targets: r.import_targets,
            }),
            Spec::Network(r) => RecordView::Network(NetworkView {
                vrf: r.vrf,
                name: r.name,
                vni: r.vni,
                vlan: r.vlan,
                mtu: r.mtu,
                export_targets: r.export_targets,
                import_targets: r.import_targets,
                sticky_seconds: r.sticky_seconds,
                labels: r.labels,
            }),
            Spec::Subnet(r) => RecordView::Subnet(SubnetView {
                vrf: r.vrf,
                network: r.network,
                prefix: r.prefix,
                gateway: r.gateway,
                ranges: r.ranges,
                exclusions: r.exclusions,
                reservations: r.reservations,
            }),
            Spec::Node(r) => RecordView::Node(NodeView::from(r)),
            Spec::Peer(r) => RecordView::Peer(PeerView::from(r)),
        })
    }
}

impl From<v1::Node> for NodeView {
    fn from(r: v1::Node) -> Self {
        NodeView {
            mode: node_mode(r.mode),
            name: r.name,
            vtep: r.vtep,
            underlay_mtu: r.underlay_mtu,
            site: r.site,
            labels: r.labels,
        }
    }
}

impl From<v1::Peer> for PeerView {
    fn from(r: v1::Peer) -> Self {
        PeerView {
            address: r.address,
            asn: r.asn,
            port: r.port,
            local_address: r.local_address,
            passive: r.passive,
            md5_key_file: r.md5_key_file,
            gtsm_hops: r.gtsm_hops,
            hold_seconds: r.hold_seconds,
            restart_seconds: r.restart_seconds,
            no_graceful_restart: r.no_graceful_restart,
        }
    }
}

/// The short word of a node's mode; empty when unspecified or unknown.
pub(crate) fn node_mode(mode: i32) -> &'static str {
    NODE_MODES.iter().find(|(_, _, number)| *number == mode).map_or("", |(short, _, _)| short)
}

/// The word of a port's state.
pub(crate) fn port_state(state: i32) -> &'static str {
    match v1::PortState::try_from(state) {
        Ok(v1::PortState::Reserved) => "reserved",
        Ok(v1::PortState::Bound) => "bound",
        Ok(v1::PortState::Programmed) => "programmed",
        Ok(v1::PortState::Advertised) => "advertised",
        Ok(v1::PortState::Released) => "released",
        Ok(v1::PortState::Failed) => "failed",
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
    /// Only in the answer to `port create`.
    #[serde(skip_serializing_if = "Option::is_none")]
    created: Option<bool>,
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
                kind: "container",
                attachment: "vxlan-bridge",
                netns: b.netns,
                interface: b.interface,
                generation: b.generation,
            }),
            revision: p.revision,
            problem: p.problem,
            created_ms: p.created_ms,
            expires_ms: p.expires_ms,
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
