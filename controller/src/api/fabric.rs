//! The fabric service: what BGP and the nodes say.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::time::SystemTime;

use causeway_bgp::{Attributes, PeerState, ReceivedRoute, Route, RouteFilter, RouteKey, SessionState};
use causeway_proto::v1::fabric_service_server::FabricService;
use causeway_proto::{NetworkKey, Prefix, Vni, v1};
use tonic::{Request, Response, Status};

use super::explain::{self, Subject};
use super::parse::{short, text};
use super::status::Refusal;
use super::{App, alarms, config};
use crate::agents::node_state;
use crate::derive::node;
use crate::model::Peer;
use crate::snapshot::Snapshot;

/// Routes of an answer, when the client says nothing.
const ROUTES: usize = 1000;
/// Routes of an answer at most.
const MOST_ROUTES: usize = 100_000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) App);

#[tonic::async_trait]
impl FabricService for Service {
    type WatchAlarmsStream = tokio_stream::wrappers::ReceiverStream<Result<v1::Alarm, Status>>;

    async fn diff_fabric(
        &self,
        request: Request<v1::DiffFabricRequest>,
    ) -> Result<Response<v1::DiffFabricResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.0.unary("FabricService/DiffFabric", &metadata, alarms::diff(&self.0, request)).await
    }

    async fn get_node_state(
        &self,
        request: Request<v1::GetNodeStateRequest>,
    ) -> Result<Response<v1::GetNodeStateResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.0.unary("FabricService/GetNodeState", &metadata, state_of(&self.0, request)).await
    }

    async fn watch_alarms(
        &self,
        _request: Request<v1::WatchAlarmsRequest>,
    ) -> Result<Response<Self::WatchAlarmsStream>, Status> {
        Ok(Response::new(alarms::watch(&self.0).into()))
    }

    async fn list_peers(
        &self,
        request: Request<v1::ListPeersRequest>,
    ) -> Result<Response<v1::ListPeersResponse>, Status> {
        let app = &self.0;
        let work = async {
            let snapshot = app.snapshot().await;
            let (states, unusable) = app.fabric.peers().await;
            let status = |peer: &Peer| {
                let at = &peer.address;
                peer_status(peer, states.get(at), unusable.get(at).map(String::as_str))
            };
            let context = app.fabric.context();
            Ok(v1::ListPeersResponse {
                peers: snapshot.peers.values().map(|record| status(&record.value)).collect(),
                router_id: context.router_id.to_string(),
                asn: context.asn,
                version: env!("CARGO_PKG_VERSION").to_owned(),
            })
        };
        app.unary("FabricService/ListPeers", request.metadata(), work).await
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Result<Response<v1::ListRoutesResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.0.unary("FabricService/ListRoutes", &metadata, list_routes(&self.0, request)).await
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = async {
            let subject: Subject = text("subject", request.subject.trim())?;
            explain::explain(&self.0, &subject, request.at.trim()).await
        };
        self.0.unary("FabricService/Explain", &metadata, work).await
    }

    async fn list_nodes(
        &self,
        request: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let app = &self.0;
        let work = async {
            let snapshot = app.snapshot().await;
            let nodes = snapshot.nodes.values().map(|record| {
                let node = &record.value;
                let (report, connected) = app.agents.node_report(&node.name);
                v1::NodeStatus {
                    node: config::node_message(node),
                    connected,
                    applied_revision: report.applied.0,
                    agent_version: report.version,
                    problems: report.problems,
                    ports: snapshot.bindings_at(&node.name).count() as u64,
                }
            });
            Ok(v1::ListNodesResponse { nodes: nodes.collect(), revision: snapshot.revision.0 })
        };
        app.unary("FabricService/ListNodes", request.metadata(), work).await
    }
}

fn peer_status(peer: &Peer, state: Option<&PeerState>, unusable: Option<&str>) -> v1::PeerStatus {
    let mut status = v1::PeerStatus {
        peer: config::peer_message(peer),
        state: SessionState::Idle.to_string(),
        last_error: unusable.unwrap_or_default().to_owned(),
        ..v1::PeerStatus::default()
    };
    let Some(state) = state else { return status };
    let since = SystemTime::now().duration_since(state.since).unwrap_or_default();
    status.state = state.state.to_string();
    status.state_seconds = since.as_secs();
    if let Some(error) = &state.last_error {
        status.last_error.clone_from(error);
    }
    status.routes_received = state.routes_in as u64;
    status.routes_sent = state.routes_out as u64;
    status.messages_received = state.counters.messages_in;
    status.messages_sent = state.counters.messages_out;
    status.treated_as_withdrawn = state.counters.treat_as_withdraw.values().sum();
    status.queue = state.queue as u64;
    status.router_id = state.router_id.map(|id| id.to_string()).unwrap_or_default();
    status.established_count = state.counters.established;
    status
}

async fn list_routes(app: &App, request: v1::ListRoutesRequest) -> Result<v1::ListRoutesResponse, Refusal> {
    let limit = match request.limit as usize {
        0 => ROUTES,
        n if n <= MOST_ROUTES => n,
        _ => return Err(Refusal::field("limit", format!("is more than {MOST_ROUTES}"))),
    };
    let direction = v1::RouteDirection::try_from(request.direction)
        .map_err(|_| Refusal::field("direction", format!("{} is not known", request.direction)))?;
    let exact = exact_prefix(&request)?;
    let filter = route_filter(&request)?;
    let wanted = |key: &RouteKey| match (key, exact) {
        (RouteKey::IpPrefix { prefix, .. }, Some(exact)) => *prefix == exact,
        (_, exact) => exact.is_none(),
    };
    let snapshot = app.snapshot().await;
    let names = networks_by_vni(&snapshot);
    let mut routes = Vec::new();
    let mut matched = 0usize;
    if direction != v1::RouteDirection::Out {
        for received in app.fabric.speaker().routes_in(&filter).await {
            if wanted(&received.route.key) {
                matched += 1;
                if routes.len() < limit {
                    routes.push(received_message(app, &snapshot, &received));
                }
            }
        }
    }
    if direction != v1::RouteDirection::In && filter.peer.is_none() {
        for route in app.fabric.routes_out(&filter).await {
            if wanted(&route.key) {
                matched += 1;
                if routes.len() < limit {
                    routes.push(own_message(&snapshot, &names, &route));
                }
            }
        }
    }
    let more = (matched - routes.len()) as u64;
    Ok(v1::ListRoutesResponse { routes, more })
}

/// A prefix that was asked for, and not an address.
fn exact_prefix(request: &v1::ListRoutesRequest) -> Result<Option<Prefix>, Refusal> {
    match request.ip.contains('/') {
        true => text("ip", &request.ip).map(Some),
        false => Ok(None),
    }
}

/// What a node is told to be.
async fn state_of(app: &App, request: v1::GetNodeStateRequest) -> Result<v1::GetNodeStateResponse, Refusal> {
    let name: causeway_proto::Name = text("node", &request.node)?;
    let view = app.view(&*app.snapshot().await);
    // Hundreds of thousands of entries take a while.
    let derived = tokio::task::spawn_blocking(move || {
        let me = node::node_self(&view, &name);
        let state = me.map(|me| node_state(&me, &node::state(&view, &name), view.snapshot.revision));
        state.ok_or_else(|| {
            Refusal::not_found(
                format!("node {name} does not exist"),
                "declare it: causeway apply -f FILE; known ones: causeway get nodes",
            )
        })
    });
    let state = derived.await.map_err(|_| Refusal::unavailable("the controller is stopping"))??;
    Ok(v1::GetNodeStateResponse { state: Some(state) })
}

fn route_filter(request: &v1::ListRoutesRequest) -> Result<RouteFilter, Refusal> {
    let address = |field: &str, value: &str| -> Result<Option<IpAddr>, Refusal> {
        let wrong = |_| Refusal::field(field, format!("'{}' is not an IP address", short(value)));
        if value.is_empty() { Ok(None) } else { value.parse().map(Some).map_err(wrong) }
    };
    let route_type = match request.route_type {
        0 => None,
        n @ 1..=5 => u8::try_from(n).ok(),
        n => return Err(Refusal::field("route_type", format!("{n} is not 1 to 5"))),
    };
    let vni = match request.vni {
        0 => None,
        n => Some(Vni::try_from(n).map_err(|error| Refusal::field("vni", error.to_string()))?),
    };
    let ip = match exact_prefix(request)? {
        Some(prefix) => Some(prefix.network()),
        None => address("ip", &request.ip)?,
    };
    Ok(RouteFilter {
        route_type,
        peer: address("peer", &request.peer)?,
        mac: if request.mac.is_empty() { None } else { Some(text("mac", &request.mac)?) },
        ip,
        vni,
        limit: 0,
    })
}

/// A received route, with what became of it.
pub(super) fn received_message(app: &App, snapshot: &Snapshot, received: &ReceivedRoute) -> v1::Route {
    let ReceivedRoute { peer, route, stale, .. } = received;
    let verdict = app.fabric.with_table(|table| match route.key {
        RouteKey::IpPrefix { .. } => {
            let judged = table.policy().judge_prefix(&route.key, &route.attributes);
            judged.map(|prefixed| format!("used: VRF {}", names(&prefixed.vrfs)))
        }
        _ => {
            let judged = table.verdict(snapshot, *peer, &route.key, &route.attributes);
            judged.map(|imported| format!("used: {}", imported.network))
        }
    });
    v1::Route {
        direction: v1::RouteDirection::In.into(),
        peer: peer.to_string(),
        verdict: match verdict {
            Ok(used) => used,
            Err(unused) => format!("not used: {unused}"),
        },
        stale: *stale,
        ..route_message(&route.key, &route.attributes)
    }
}

/// Names in a row.
pub(super) fn names(names: &std::collections::BTreeSet<causeway_proto::Name>) -> String {
    names.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

/// Networks by VNI, which is unique.
pub(super) fn networks_by_vni(snapshot: &Snapshot) -> BTreeMap<Vni, NetworkKey> {
    snapshot.networks.iter().map(|(key, record)| (record.value.vni, key.clone())).collect()
}

/// A route of ours, with whom it is about.
pub(super) fn own_message(
    snapshot: &Snapshot,
    networks: &BTreeMap<Vni, NetworkKey>,
    route: &Route,
) -> v1::Route {
    let network = route.attributes.vni.and_then(|vni| networks.get(&vni));
    let owner = match (&route.key, network) {
        (RouteKey::MacIp { mac, .. }, Some(network)) => {
            let owner = snapshot.by_mac.get(&(network.clone(), *mac));
            owner.map(|record| format!("port {}", record.value.key))
        }
        (RouteKey::Imet { .. }, Some(network)) => Some(format!("network {network}")),
        (RouteKey::IpPrefix { .. }, None) => {
            let vrfs = snapshot.vrfs.values().map(|record| &record.value);
            let vrf = vrfs.filter(|vrf| vrf.l3_vni.is_some()).find(|vrf| vrf.l3_vni == route.attributes.vni);
            vrf.map(|vrf| format!("vrf {}", vrf.name))
        }
        _ => None,
    };
    v1::Route {
        direction: v1::RouteDirection::Out.into(),
        verdict: owner.unwrap_or_default(),
        ..route_message(&route.key, &route.attributes)
    }
}

fn route_message(key: &RouteKey, attributes: &Attributes) -> v1::Route {
    let (mac, ip) = match key {
        RouteKey::EthernetAd { .. } => (None, None),
        RouteKey::MacIp { mac, ip, .. } => (Some(mac), ip.map(|ip| ip.to_string())),
        RouteKey::Imet { originator, .. } | RouteKey::EthernetSegment { originator, .. } => {
            (None, Some(originator.to_string()))
        }
        RouteKey::IpPrefix { prefix, .. } => (None, Some(prefix.to_string())),
    };
    let esi = match key {
        RouteKey::EthernetAd { esi, .. } | RouteKey::EthernetSegment { esi, .. } => *esi,
        _ => attributes.esi,
    };
    let label = attributes.vni.or(attributes.pmsi.map(|pmsi| pmsi.vni));
    v1::Route {
        route_type: key.route_type().into(),
        rd: key.rd().to_string(),
        mac: mac.map(ToString::to_string).unwrap_or_default(),
        ip: ip.unwrap_or_default(),
        next_hop: attributes.next_hop.to_string(),
        vnis: label.into_iter().chain(attributes.l3_vni).map(Vni::get).collect(),
        route_targets: attributes.route_targets.iter().map(ToString::to_string).collect(),
        sequence: attributes.sequence,
        sticky: attributes.sticky,
        router_mac: attributes.router_mac.map(|mac| mac.to_string()).unwrap_or_default(),
        esi: if esi == Default::default() { String::new() } else { esi.to_string() },
        ..v1::Route::default()
    }
}
