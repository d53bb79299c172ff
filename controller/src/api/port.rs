//! The port service.

use std::ops::Bound;

use causeway_proto::v1::port_service_server::PortService;
use causeway_proto::{NetworkKey, PortKey, PortName, v1};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::caller::{caller, reason};
use super::parse::{self, Filter};
use super::port_message::{from_snapshot, message};
use super::status::Refusal;
use super::{App, watch};
use crate::ports::plan::{Context, quarantine_ends_ms, rehearse};
use crate::ports::{CreatePort, PortError, Ports, Stored, now_ms};
use crate::snapshot::Snapshot;

/// Ports of one bulk request.
const BULK: usize = 1000;
/// Ports of a page, when the client says nothing.
const PAGE: usize = 1000;
/// Ports of a page at most.
const LARGEST_PAGE: usize = 10_000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) App);

#[tonic::async_trait]
impl PortService for Service {
    type WatchPortsStream = ReceiverStream<Result<v1::WatchPortsResponse, Status>>;

    async fn create_port(
        &self,
        request: Request<v1::CreatePortRequest>,
    ) -> Result<Response<v1::CreatePortResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let ports = self.0.ports.on_behalf(caller(&metadata, &extensions));
        self.0.unary("PortService/CreatePort", &metadata, self.create(&ports, request)).await
    }

    async fn create_ports(
        &self,
        request: Request<v1::CreatePortsRequest>,
    ) -> Result<Response<v1::CreatePortsResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let ports = self.0.ports.on_behalf(caller(&metadata, &extensions));
        self.0.unary("PortService/CreatePorts", &metadata, self.create_many(&ports, request)).await
    }

    async fn bind_port(
        &self,
        request: Request<v1::BindPortRequest>,
    ) -> Result<Response<v1::BindPortResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let by = caller(&metadata, &extensions);
        let ports = self.0.ports.on_behalf(by.clone());
        let work = async {
            let key = parse::port_key("key", request.key)?;
            let Some(binding) = request.binding else { return Err(Refusal::field("binding", "is required")) };
            let place = parse::place("binding", binding)?;
            let stored = match request.force {
                true => {
                    tracing::warn!(port = %key, node = %place.node, actor = by.actor, "bound by force");
                    ports.bind_by_force(key, place, by.actor).await?
                }
                false => ports.bind(key, place).await?,
            };
            Ok(v1::BindPortResponse { port: Some(self.stored(&stored)) })
        };
        self.0.unary("PortService/BindPort", &metadata, work).await
    }

    async fn hold_vip(
        &self,
        request: Request<v1::HoldVipRequest>,
    ) -> Result<Response<v1::HoldVipResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let ports = self.0.ports.on_behalf(caller(&metadata, &extensions));
        let work = async {
            let key = parse::port_key("key", request.key)?;
            let holder = request.holder.map(|key| parse::port_key("holder", Some(key))).transpose()?;
            let (stored, revision) = ports.hold(key, holder).await?;
            self.0.wrote(revision);
            // The holder's state is the VIP's: the answer shows it as it is then.
            let snapshot = self.0.snapshot().await;
            let binding = stored.binding.as_ref().map(|binding| (binding, stored.revision));
            let port = message(&self.0, &snapshot, &stored.port, binding, stored.revision);
            Ok(v1::HoldVipResponse { port: Some(port), revision: revision.0 })
        };
        self.0.unary("PortService/HoldVip", &metadata, work).await
    }

    async fn unbind_port(
        &self,
        request: Request<v1::UnbindPortRequest>,
    ) -> Result<Response<v1::UnbindPortResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let ports = self.0.ports.on_behalf(caller(&metadata, &extensions));
        let work = async {
            let stored = ports.unbind(parse::port_key("key", request.key)?).await?;
            Ok(v1::UnbindPortResponse { port: Some(self.stored(&stored)) })
        };
        self.0.unary("PortService/UnbindPort", &metadata, work).await
    }

    async fn release_port(
        &self,
        request: Request<v1::ReleasePortRequest>,
    ) -> Result<Response<v1::ReleasePortResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let by = caller(&metadata, &extensions).because(&reason(&request.reason));
        let ports = self.0.ports.on_behalf(by);
        let work = async {
            let key = parse::port_key("key", request.key)?;
            if request.skip_quarantine && !request.forget {
                return Err(Refusal::field("skip_quarantine", "makes no sense without forget"));
            }
            let (left, revision) = match request.skip_quarantine {
                true => (None, ports.free(key.clone(), "forgotten without quarantine").await?),
                false => ports.release_port(key.clone(), request.forget).await?,
            };
            self.0.wrote(revision);
            let snapshot = self.0.state.snapshot();
            let network = snapshot.networks.get(&key.network).map(|record| &record.value);
            let until = left.and_then(|stored| quarantine_ends_ms(&stored.port, network));
            tracing::info!(port = %key, forget = request.forget, rev = revision.0, "port released");
            Ok(v1::ReleasePortResponse {
                revision: revision.0,
                quarantined_until_ms: until.unwrap_or_default(),
            })
        };
        self.0.unary("PortService/ReleasePort", &metadata, work).await
    }

    async fn get_port(
        &self,
        request: Request<v1::GetPortRequest>,
    ) -> Result<Response<v1::GetPortResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = async {
            let key = parse::port_key("key", request.key)?;
            let snapshot = self.0.snapshot().await;
            let port = from_snapshot(&self.0, &snapshot, &key).ok_or_else(|| {
                Refusal::not_found(
                    format!("port {key} does not exist"),
                    format!("create it: causeway port create {key}"),
                )
            })?;
            Ok(v1::GetPortResponse { port: Some(port) })
        };
        self.0.unary("PortService/GetPort", &metadata, work).await
    }

    async fn list_ports(
        &self,
        request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<v1::ListPortsResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.0.unary("PortService/ListPorts", &metadata, self.list(request)).await
    }

    async fn update_port(
        &self,
        request: Request<v1::UpdatePortRequest>,
    ) -> Result<Response<v1::UpdatePortResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let ports = self.0.ports.on_behalf(caller(&metadata, &extensions));
        let work = async {
            let key = parse::port_key("key", request.key)?;
            let rate = request.rate.map(|rate| parse::rate("rate", rate)).transpose()?;
            let guard = match (parse::guard("guard", request.guard)?, request.reset_guard) {
                (Some(_), true) => {
                    return Err(Refusal::field("reset_guard", "makes no sense together with guard"));
                }
                (None, true) => Some(None),
                (None, false) => None,
                (given, false) => Some(given),
            };
            let check = parse::address_check("address_check", request.address_check)?;
            let stored = ports.update(key, rate, guard, check).await?;
            Ok(v1::UpdatePortResponse { port: Some(self.stored(&stored)) })
        };
        self.0.unary("PortService/UpdatePort", &metadata, work).await
    }

    async fn watch_ports(
        &self,
        request: Request<v1::WatchPortsRequest>,
    ) -> Result<Response<Self::WatchPortsStream>, Status> {
        let v1::WatchPortsRequest { filter, from_revision } = request.into_inner();
        let filter = parse::filter(filter)?;
        if !filter.states.is_empty() {
            return Err(Refusal::field("filter.states", "is for lists only").into());
        }
        let receiver = watch::start(self.0.clone(), filter, from_revision).await?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

impl Service {
    /// What the store holds now, as a message.
    fn stored(&self, stored: &Stored) -> v1::Port {
        self.0.wrote(stored.revision);
        let snapshot = self.0.state.snapshot();
        let binding = stored.binding.as_ref().map(|binding| (binding, stored.revision));
        message(&self.0, &snapshot, &stored.port, binding, stored.revision)
    }

    fn created(&self, stored: &Stored) -> v1::CreatePortResponse {
        v1::CreatePortResponse { port: Some(self.stored(stored)), created: stored.created }
    }

    async fn create(
        &self,
        ports: &Ports,
        request: v1::CreatePortRequest,
    ) -> Result<v1::CreatePortResponse, Refusal> {
        let port = parse::create_port(request)?;
        if !port.select.is_empty() {
            // Networks that were declared through this controller a moment ago are to be chosen from.
            self.0.snapshot().await;
        }
        let mut answers = ports.create(vec![port]).await;
        match answers.pop() {
            Some(answer) => Ok(self.created(&answer?)),
            None => Err(Refusal::unavailable("the controller is stopping")),
        }
    }

    async fn create_many(
        &self,
        ports: &Ports,
        request: v1::CreatePortsRequest,
    ) -> Result<v1::CreatePortsResponse, Refusal> {
        if request.ports.len() > BULK {
            return Err(Refusal::field("ports", format!("are more than {BULK}")));
        }
        let parsed: Vec<Result<CreatePort, Refusal>> =
            request.ports.into_iter().map(parse::create_port).collect();
        let good = parsed.iter().filter_map(|port| port.as_ref().ok().cloned()).collect();
        let answers = if request.dry_run { self.rehearse(good).await } else { ports.create(good).await };
        let mut answers = answers.into_iter();
        let mut results = Vec::with_capacity(parsed.len());
        for port in parsed {
            let result = match port {
                Err(refusal) => Err(refusal),
                Ok(_) => match answers.next() {
                    Some(answer) => answer.map_err(Refusal::from),
                    None => Err(Refusal::unavailable("the controller is stopping")),
                },
            };
            let result = match result {
                Ok(stored) if request.dry_run => v1::create_ports_result::Result::Ok(self.rehearsed(&stored)),
                Ok(stored) => v1::create_ports_result::Result::Ok(self.created(&stored)),
                Err(refusal) => v1::create_ports_result::Result::Error(refusal.into_error()),
            };
            results.push(v1::CreatePortsResult { result: Some(result) });
        }
        Ok(v1::CreatePortsResponse { results })
    }

    /// What would become of ports.
    async fn rehearse(&self, ports: Vec<CreatePort>) -> Vec<Result<Stored, PortError>> {
        let snapshot = self.0.snapshot().await;
        let heard = self.0.mover.heard.borrow().clone();
        let agents = self.0.agents.clone();
        let hearing = move |node: &causeway_proto::Name| agents.hearing(node);
        let context = Context { now_ms: now_ms(), seed: None, heard: &heard, hearing: &hearing };
        rehearse(&snapshot, ports, context)
    }

    /// A port as it would be: nothing has been written that others could be asked for.
    fn rehearsed(&self, stored: &Stored) -> v1::CreatePortResponse {
        let snapshot = self.0.state.snapshot();
        let binding = stored.binding.as_ref().map(|binding| (binding, stored.revision));
        let port = message(&self.0, &snapshot, &stored.port, binding, stored.revision);
        v1::CreatePortResponse { port: Some(port), created: stored.created }
    }

    async fn list(&self, request: v1::ListPortsRequest) -> Result<v1::ListPortsResponse, Refusal> {
        let filter = parse::filter(request.filter)?;
        let size = match request.page_size as usize {
            0 => PAGE,
            n if n <= LARGEST_PAGE => n,
            _ => return Err(Refusal::field("page_size", format!("is more than {LARGEST_PAGE}"))),
        };
        let after = match request.page_token.as_str() {
            "" => None,
            token => Some(token.parse::<PortKey>().map_err(|_| {
                Refusal::field("page_token", format!("'{}' is not a token of this list", parse::short(token)))
            })?),
        };
        let snapshot = self.0.snapshot().await;
        let mut ports = Vec::new();
        let mut next_page_token = String::new();
        let mut last = None;
        for key in candidates(&snapshot, &filter, after) {
            let Some(record) = snapshot.ports.get(&key) else { continue };
            if !filter.matches(&snapshot, &record.value) {
                continue;
            }
            let Some(port) = from_snapshot(&self.0, &snapshot, &key) else { continue };
            if !filter.states.is_empty() && !filter.states.contains(&port.state()) {
                continue;
            }
            if ports.len() == size {
                next_page_token = last.map(|key: PortKey| key.to_string()).unwrap_or_default();
                break;
            }
            ports.push(port);
            last = Some(key);
        }
        Ok(v1::ListPortsResponse { ports, next_page_token, revision: snapshot.revision.0 })
    }
}

/// Keys behind `after` among which all that match are found, in order: by index where the filter names an address, a
/// node or a network.
fn candidates<'a>(
    snapshot: &'a Snapshot,
    filter: &'a Filter,
    after: Option<PortKey>,
) -> Box<dyn Iterator<Item = PortKey> + Send + 'a> {
    let token = after.clone();
    let behind = move |key: &PortKey| token.as_ref().is_none_or(|after| key > after);
    if let Some(address) = filter.address {
        let vrfs = snapshot.vrfs.keys().filter(|vrf| filter.vrf.as_ref().is_none_or(|wanted| wanted == *vrf));
        let found = vrfs.filter_map(move |vrf| snapshot.by_address.get(&(vrf.clone(), address)));
        return Box::new(found.map(|record| record.value.key.clone()).filter(behind));
    }
    if let Some(node) = &filter.node {
        let found = snapshot.bindings_at(node).map(|record| record.value.port.clone());
        return Box::new(found.filter(behind));
    }
    let start = match (&filter.vrf, &filter.network) {
        (Some(vrf), network) => {
            let network = network.clone().unwrap_or_else(causeway_proto::Name::lowest);
            let network = NetworkKey { vrf: vrf.clone(), network };
            Some(PortKey { network, name: PortName::lowest() })
        }
        (None, _) => None,
    };
    let inside = move |key: &PortKey| match (&filter.vrf, &filter.network) {
        (Some(vrf), Some(network)) => key.network.vrf == *vrf && key.network.network == *network,
        (Some(vrf), None) => key.network.vrf == *vrf,
        (None, _) => true,
    };
    let from = match (start, after) {
        (start, Some(after)) if start.as_ref().is_none_or(|start| after >= *start) => Bound::Excluded(after),
        (Some(start), _) => Bound::Included(start),
        (None, _) => Bound::Unbounded,
    };
    let keys = snapshot.ports.range::<_, PortKey>((from, Bound::Unbounded)).map(|(key, _)| key.clone());
    Box::new(keys.take_while(inside))
}
