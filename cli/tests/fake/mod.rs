//! A controller in memory, just true enough for the commands: it keeps records and ports, refuses what the tests need
//! refused, and moves ports bound to `host1` on to advertised while those on `dead` stay where they are.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::pin::Pin;
use std::sync::{Arc, Mutex};

use causeway_proto::v1;
use tokio::sync::{broadcast, oneshot};
use tokio_stream::wrappers::TcpListenerStream;
use tokio_stream::{Stream, StreamExt};
use tonic::{Code, Request, Response, Status};
use v1::error_detail::Kind as Detail;

#[derive(Default)]
struct State {
    revision: u64,
    records: BTreeMap<(i32, String), v1::Resource>,
    ports: BTreeMap<String, v1::Port>,
    next_host: u8,
    /// Requests seen, by name.
    seen: Vec<String>,
    /// The next so many watch streams break after their first event.
    break_watches: u32,
}

#[derive(Clone)]
pub(crate) struct Fake {
    state: Arc<Mutex<State>>,
    changes: broadcast::Sender<v1::WatchPortsResponse>,
}

/// A running fake; stops when dropped.
pub(crate) struct Running {
    pub(crate) address: SocketAddr,
    pub(crate) fake: Fake,
    stop: Option<oneshot::Sender<()>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Running {
    pub(crate) fn start() -> Running {
        let listener = std::net::TcpListener::bind("127.0.0.1:0").unwrap();
        listener.set_nonblocking(true).unwrap();
        let address = listener.local_addr().unwrap();
        let fake = Fake { state: Arc::default(), changes: broadcast::channel(1000).0 };
        let (stop, stopped) = oneshot::channel();
        let served = fake.clone();
        let thread = std::thread::spawn(move || {
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build().unwrap();
            runtime.block_on(async {
                let incoming = TcpListenerStream::new(tokio::net::TcpListener::from_std(listener).unwrap());
                let server = served.router().serve_with_incoming(incoming);
                // A stream that is still open would hold a graceful stop for ever.
                tokio::select! {
                    end = server => end.unwrap(),
                    _ = stopped => {}
                }
            });
        });
        Running { address, fake, stop: Some(stop), thread: Some(thread) }
    }

    pub(crate) fn server(&self) -> String {
        format!("http://{}", self.address)
    }
}

impl Drop for Running {
    fn drop(&mut self) {
        drop(self.stop.take());
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}

impl Fake {
    pub(crate) fn router(&self) -> tonic::transport::server::Router {
        tonic::transport::Server::builder()
            .add_service(v1::config_service_server::ConfigServiceServer::new(self.clone()))
            .add_service(v1::port_service_server::PortServiceServer::new(self.clone()))
            .add_service(v1::fabric_service_server::FabricServiceServer::new(self.clone()))
            .add_service(v1::ipam_service_server::IpamServiceServer::new(self.clone()))
    }

    /// How often a request was seen.
    pub(crate) fn seen(&self, name: &str) -> usize {
        self.state.lock().unwrap().seen.iter().filter(|s| *s == name).count()
    }

    pub(crate) fn break_watches(&self, count: u32) {
        self.state.lock().unwrap().break_watches = count;
    }

    fn see(&self, name: &str) {
        self.state.lock().unwrap().seen.push(name.to_owned());
    }

    /// Stores a port and tells the watchers.
    fn put(&self, mut port: v1::Port) -> v1::Port {
        let mut state = self.state.lock().unwrap();
        state.revision += 1;
        port.revision = state.revision;
        state.ports.insert(id(port.key.as_ref()), port.clone());
        let event = Some(v1::watch_ports_response::Event::Changed(port.clone()));
        let _ = self.changes.send(v1::WatchPortsResponse { event, revision: port.revision });
        port
    }

    fn port(&self, key: Option<&v1::PortKey>) -> Result<v1::Port, Status> {
        let id = id(key);
        let port = self.state.lock().unwrap().ports.get(&id).cloned();
        port.ok_or_else(|| Status::not_found(format!("there is no port {id}")))
    }

    fn create(&self, request: v1::CreatePortRequest) -> Result<v1::CreatePortResponse, Status> {
        let mut key = request.key.clone().unwrap_or_default();
        if !request.network_labels.is_empty() {
            let labels: Vec<String> =
                request.network_labels.iter().map(|(k, v)| format!("{k}={v}")).collect();
            key.network = format!("chosen-by-{}", labels.join(","));
        }
        if let Ok(port) = self.port(Some(&key)) {
            return Ok(v1::CreatePortResponse { port: Some(port), created: false });
        }
        if key.network == "full" || key.name.ends_with("-3") && key.network == "small" {
            let pool =
                v1::PoolExhausted { subnets: vec!["default/10.9.0.0/30".into()], size: 1, released: 1 };
            return Err(status(
                Code::ResourceExhausted,
                "no address is free in network default/full",
                Detail::Exhausted(pool),
                "",
            ));
        }
        if request.addresses.iter().any(|a| a == "10.8.0.99") {
            let conflict =
                v1::Conflict { subject: "address 10.8.0.99".into(), owner: "port default/web/old".into() };
            let hint = "causeway port get web/old";
            return Err(status(
                Code::AlreadyExists,
                "address 10.8.0.99 is taken",
                Detail::Conflict(conflict),
                hint,
            ));
        }
        let host = {
            let mut state = self.state.lock().unwrap();
            state.next_host += 1;
            state.next_host
        };
        let addresses =
            if request.addresses.is_empty() { vec![format!("10.8.0.{host}")] } else { request.addresses };
        let port = self.put(v1::Port {
            key: Some(key),
            addresses,
            mac: if request.mac.is_empty() { format!("02:ca:0a:08:00:{host:02x}") } else { request.mac },
            labels: request.labels,
            state: v1::PortState::Reserved.into(),
            created_ms: 1_700_000_000_000,
            ..Default::default()
        });
        let port = match request.bind {
            Some(binding) => self.bind(port, binding),
            None => port,
        };
        Ok(v1::CreatePortResponse { port: Some(port), created: true })
    }

    fn bind(&self, port: v1::Port, binding: v1::Binding) -> v1::Port {
        let node = binding.node.clone();
        let generation = port.binding.as_ref().map_or(0, |b| b.generation) + 1;
        let binding = v1::Binding { generation, interface: "eth0".into(), ..binding };
        let bound = self.put(v1::Port { binding: Some(binding), state: v1::PortState::Bound.into(), ..port });
        if node == "host1" {
            let (fake, port) = (self.clone(), bound.clone());
            tokio::spawn(async move {
                let port = fake.put(v1::Port { state: v1::PortState::Programmed.into(), ..port });
                tokio::task::yield_now().await;
                fake.put(v1::Port { state: v1::PortState::Advertised.into(), ..port });
            });
        }
        if node == "broken" {
            let problem = "no such namespace: /run/netns/x".to_owned();
            self.put(v1::Port { state: v1::PortState::Failed.into(), problem, ..bound.clone() });
        }
        bound
    }
}

fn id(key: Option<&v1::PortKey>) -> String {
    let key = key.cloned().unwrap_or_default();
    format!("{}/{}/{}", key.vrf, key.network, key.name)
}

fn status(code: Code, message: &str, kind: Detail, hint: &str) -> Status {
    let detail = v1::ErrorDetail { retryable: false, kind: Some(kind), hint: hint.into() };
    detail.into_status(code, message)
}

fn name_of(resource: &v1::Resource) -> (i32, String) {
    use v1::resource::Spec;
    let vrf = |vrf: &str| if vrf.is_empty() { "default".to_owned() } else { vrf.to_owned() };
    match resource.spec.as_ref().unwrap() {
        Spec::Vrf(r) => (v1::Kind::Vrf.into(), r.name.clone()),
        Spec::Network(r) => (v1::Kind::Network.into(), format!("{}/{}", vrf(&r.vrf), r.name)),
        Spec::Subnet(r) => (v1::Kind::Subnet.into(), format!("{}/{}", vrf(&r.vrf), r.prefix)),
        Spec::Node(r) => (v1::Kind::Node.into(), r.name.clone()),
        Spec::Peer(r) => (v1::Kind::Peer.into(), r.address.clone()),
    }
}

#[tonic::async_trait]
impl v1::config_service_server::ConfigService for Fake {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        self.see("apply");
        let request = request.into_inner();
        let mut violations = Vec::new();
        for (index, resource) in request.resources.iter().enumerate() {
            if let Some(v1::resource::Spec::Network(network)) = &resource.spec
                && network.vni == 0
            {
                let field = format!("resources[{index}].network.vni");
                violations.push(v1::FieldViolation { field, reason: "is required, 1 to 16777215".into() });
            }
        }
        if !violations.is_empty() {
            let kind = Detail::Fields(v1::FieldViolations { violations });
            return Err(status(Code::InvalidArgument, "1 field is wrong", kind, ""));
        }
        let vni = |r: &v1::Resource| match &r.spec {
            Some(v1::resource::Spec::Network(n)) => n.vni,
            _ => 0,
        };
        if let Some(index) = request.resources.iter().position(|r| vni(r) == 666) {
            let conflict = v1::Conflict { subject: "vni 666".into(), owner: "network default/old".into() };
            let message = format!("resources[{index}].network.vni: vni 666 is taken by network default/old");
            return Err(status(Code::AlreadyExists, &message, Detail::Conflict(conflict), ""));
        }
        let mut state = self.state.lock().unwrap();
        let mut results = Vec::new();
        for mut resource in request.resources {
            // Defaults are filled in, as the contract says.
            if let Some(v1::resource::Spec::Subnet(subnet)) = &mut resource.spec
                && subnet.vrf.is_empty()
            {
                subnet.vrf = "default".into();
            }
            if let Some(v1::resource::Spec::Network(network)) = &mut resource.spec {
                if network.vrf.is_empty() {
                    network.vrf = "default".into();
                }
                if network.mtu == 0 {
                    network.mtu = 1450;
                }
            }
            let key = name_of(&resource);
            let change = |field: &str, old: &str, new: &str| v1::FieldChange {
                field: field.into(),
                old: old.into(),
                new: new.into(),
            };
            let (action, changes) = match state.records.get(&key) {
                None => (v1::ApplyAction::Create, vec![change("name", "", &key.1)]),
                Some(old) if *old == resource => (v1::ApplyAction::Unchanged, vec![]),
                Some(_) => (v1::ApplyAction::Update, vec![change("mtu", "1450", "9000")]),
            };
            results.push(v1::ApplyResult {
                kind: key.0,
                name: key.1.clone(),
                action: action.into(),
                changes,
            });
            if !request.dry_run {
                state.revision += 1;
                state.records.insert(key, resource);
            }
        }
        Ok(Response::new(v1::ApplyResponse { results, revision: state.revision }))
    }

    async fn get_resource(
        &self,
        request: Request<v1::GetResourceRequest>,
    ) -> Result<Response<v1::GetResourceResponse>, Status> {
        let v1::GetResourceRequest { kind, name } = request.into_inner();
        let state = self.state.lock().unwrap();
        let full = if kind == v1::Kind::Network as i32 && !name.contains('/') {
            format!("default/{name}")
        } else {
            name
        };
        let resource = state.records.get(&(kind, full.clone())).cloned();
        let resource = resource.ok_or_else(|| Status::not_found(format!("there is no {full}")))?;
        Ok(Response::new(v1::GetResourceResponse { resource: Some(resource), revision: state.revision }))
    }

    async fn list_resources(
        &self,
        request: Request<v1::ListResourcesRequest>,
    ) -> Result<Response<v1::ListResourcesResponse>, Status> {
        let kind = request.into_inner().kind;
        let state = self.state.lock().unwrap();
        let resources =
            state.records.iter().filter(|((k, _), _)| *k == kind).map(|(_, r)| r.clone()).collect();
        Ok(Response::new(v1::ListResourcesResponse { resources, revision: state.revision }))
    }

    async fn delete_resource(
        &self,
        request: Request<v1::DeleteResourceRequest>,
    ) -> Result<Response<v1::DeleteResourceResponse>, Status> {
        let v1::DeleteResourceRequest { kind, name } = request.into_inner();
        let mut state = self.state.lock().unwrap();
        if name == "default/used" {
            return Err(Status::failed_precondition("network default/used has 2 subnets"));
        }
        state.records.remove(&(kind, name));
        Ok(Response::new(v1::DeleteResourceResponse { revision: state.revision }))
    }
}

#[tonic::async_trait]
impl v1::port_service_server::PortService for Fake {
    async fn create_port(
        &self,
        request: Request<v1::CreatePortRequest>,
    ) -> Result<Response<v1::CreatePortResponse>, Status> {
        self.create(request.into_inner()).map(Response::new)
    }

    async fn update_port(
        &self,
        request: Request<v1::UpdatePortRequest>,
    ) -> Result<Response<v1::UpdatePortResponse>, Status> {
        let request = request.into_inner();
        let mut state = self.state.lock().unwrap();
        let key = request.key.unwrap_or_default();
        let found = state.ports.values_mut().find(|port| port.key.as_ref() == Some(&key));
        let port = found.ok_or_else(|| Status::not_found("there is no such port"))?;
        port.rate = request.rate.or(port.rate);
        if request.reset_guard || request.guard != 0 {
            port.guard = request.guard;
        }
        Ok(Response::new(v1::UpdatePortResponse { port: Some(port.clone()) }))
    }

    async fn create_ports(
        &self,
        request: Request<v1::CreatePortsRequest>,
    ) -> Result<Response<v1::CreatePortsResponse>, Status> {
        self.see("create_ports");
        let result = |item| {
            let result = match self.create(item) {
                Ok(ok) => v1::create_ports_result::Result::Ok(ok),
                Err(status) => v1::create_ports_result::Result::Error(v1::Error {
                    code: status.code().into(),
                    message: status.message().into(),
                    detail: None,
                }),
            };
            v1::CreatePortsResult { result: Some(result) }
        };
        let results = request.into_inner().ports.into_iter().map(result).collect();
        Ok(Response::new(v1::CreatePortsResponse { results }))
    }

    async fn bind_port(
        &self,
        request: Request<v1::BindPortRequest>,
    ) -> Result<Response<v1::BindPortResponse>, Status> {
        let v1::BindPortRequest { key, binding, .. } = request.into_inner();
        let port = self.bind(self.port(key.as_ref())?, binding.unwrap_or_default());
        Ok(Response::new(v1::BindPortResponse { port: Some(port) }))
    }

    async fn hold_vip(
        &self,
        request: Request<v1::HoldVipRequest>,
    ) -> Result<Response<v1::HoldVipResponse>, Status> {
        let v1::HoldVipRequest { key, holder } = request.into_inner();
        let port = self.port(key.as_ref())?;
        let port = self.put(v1::Port { holder, ..port });
        Ok(Response::new(v1::HoldVipResponse { revision: port.revision, port: Some(port) }))
    }

    async fn unbind_port(
        &self,
        request: Request<v1::UnbindPortRequest>,
    ) -> Result<Response<v1::UnbindPortResponse>, Status> {
        let port = self.port(request.into_inner().key.as_ref())?;
        let port = self.put(v1::Port { binding: None, state: v1::PortState::Reserved.into(), ..port });
        Ok(Response::new(v1::UnbindPortResponse { port: Some(port) }))
    }

    async fn release_port(
        &self,
        request: Request<v1::ReleasePortRequest>,
    ) -> Result<Response<v1::ReleasePortResponse>, Status> {
        let v1::ReleasePortRequest { key, forget, .. } = request.into_inner();
        if let (false, Ok(port)) = (forget, self.port(key.as_ref())) {
            self.put(v1::Port { binding: None, state: v1::PortState::Released.into(), ..port });
        }
        let mut state = self.state.lock().unwrap();
        if forget {
            state.ports.remove(&id(key.as_ref()));
        }
        Ok(Response::new(v1::ReleasePortResponse { revision: state.revision, ..Default::default() }))
    }

    async fn get_port(
        &self,
        request: Request<v1::GetPortRequest>,
    ) -> Result<Response<v1::GetPortResponse>, Status> {
        let port = self.port(request.into_inner().key.as_ref())?;
        Ok(Response::new(v1::GetPortResponse { port: Some(port) }))
    }

    /// Pages are of two ports at most, so that a list of three needs a second one.
    async fn list_ports(
        &self,
        request: Request<v1::ListPortsRequest>,
    ) -> Result<Response<v1::ListPortsResponse>, Status> {
        self.see("list_ports");
        let request = request.into_inner();
        let filter = request.filter.unwrap_or_default();
        let state = self.state.lock().unwrap();
        let after =
            |(id, _): &(&String, &v1::Port)| request.page_token.is_empty() || **id > request.page_token;
        let matching = |(_, p): &(&String, &v1::Port)| matches(&filter, p);
        let mut found = state.ports.iter().filter(after).filter(matching);
        let page: Vec<_> = found.by_ref().take(request.page_size.min(2) as usize).collect();
        let more = found.next().is_some();
        let token = page.last().filter(|_| more).map(|(id, _)| (*id).clone()).unwrap_or_default();
        let ports = page.into_iter().map(|(_, p)| p.clone()).collect();
        Ok(Response::new(v1::ListPortsResponse { ports, next_page_token: token, revision: state.revision }))
    }

    type WatchPortsStream = Pin<Box<dyn Stream<Item = Result<v1::WatchPortsResponse, Status>> + Send>>;

    async fn watch_ports(
        &self,
        request: Request<v1::WatchPortsRequest>,
    ) -> Result<Response<Self::WatchPortsStream>, Status> {
        use v1::watch_ports_response::Event;
        self.see("watch_ports");
        let request = request.into_inner();
        if request.from_revision == 1 {
            let stale = v1::StaleRevision { asked: 1, oldest: 7 };
            return Err(status(Code::OutOfRange, "revision 1 is forgotten", Detail::Stale(stale), ""));
        }
        let filter = request.filter.unwrap_or_default();
        let changes = tokio_stream::wrappers::BroadcastStream::new(self.changes.subscribe());
        let mut state = self.state.lock().unwrap();
        let mut first = Vec::new();
        let revision = state.revision;
        if request.from_revision == 0 {
            let current = state.ports.values().filter(|p| matches(&filter, p)).cloned();
            first.extend(
                current.map(|p| Ok(v1::WatchPortsResponse { revision, event: Some(Event::Changed(p)) })),
            );
            first.push(Ok(v1::WatchPortsResponse { revision, event: Some(Event::Synced(true)) }));
        }
        let broken = state.break_watches > 0;
        state.break_watches = state.break_watches.saturating_sub(1);
        let changes = changes.filter_map(move |event| match event {
            Ok(event) => match &event.event {
                Some(Event::Changed(port)) if !matches(&filter, port) => None,
                _ => Some(Ok(event)),
            },
            Err(_) => Some(Err(Status::unavailable("too slow"))),
        });
        if broken {
            first.truncate(1);
            first.push(Err(Status::unavailable("this controller stops")));
            return Ok(Response::new(Box::pin(tokio_stream::iter(first))));
        }
        Ok(Response::new(Box::pin(tokio_stream::iter(first).chain(changes))))
    }
}

fn matches(filter: &v1::PortFilter, port: &v1::Port) -> bool {
    let key = port.key.clone().unwrap_or_default();
    let node = port.binding.as_ref().map_or("", |b| b.node.as_str());
    (filter.vrf.is_empty() || filter.vrf == key.vrf)
        && (filter.network.is_empty() || filter.network == key.network)
        && key.name.starts_with(&filter.name_prefix)
        && (filter.node.is_empty() || filter.node == node)
        && (filter.address.is_empty() || port.addresses.contains(&filter.address))
        && filter.labels.iter().all(|(k, v)| port.labels.get(k) == Some(v))
}

fn finding(presence: v1::Presence) -> v1::FabricFinding {
    v1::FabricFinding {
        port: Some(v1::PortKey { vrf: "default".into(), network: "web".into(), name: "a".into() }),
        vrf: "default".into(),
        network: "web".into(),
        mac: "02:00:00:00:00:07".into(),
        peer: "10.0.0.1".into(),
        presence: presence.into(),
        intended_vtep: "10.0.0.21".into(),
        observed_vteps: vec!["10.0.0.22".into()],
        observed_sequence: 3,
        text: "leaf2 claims it".into(),
        ..Default::default()
    }
}

fn foreign() -> v1::FabricFinding {
    v1::FabricFinding {
        port: None,
        mac: "02:00:00:00:00:08".into(),
        intended_vtep: String::new(),
        ..finding(v1::Presence::Foreign)
    }
}

#[tonic::async_trait]
impl v1::fabric_service_server::FabricService for Fake {
    type WatchAlarmsStream = tokio_stream::Iter<std::vec::IntoIter<Result<v1::Alarm, Status>>>;

    async fn diff_fabric(
        &self,
        request: Request<v1::DiffFabricRequest>,
    ) -> Result<Response<v1::DiffFabricResponse>, Status> {
        let request = request.into_inner();
        let mut answer = v1::DiffFabricResponse {
            ports: 2,
            peers: vec!["10.0.0.1".into()],
            revision: 7,
            ..Default::default()
        };
        match request.network.as_str() {
            "quiet" if request.all => answer.findings.push(finding(v1::Presence::Present)),
            "quiet" => {}
            "lonely" => answer.peers.clear(),
            _ => answer.findings.extend([finding(v1::Presence::Elsewhere), foreign()]),
        }
        answer.more = u64::from(request.limit == 1);
        Ok(Response::new(answer))
    }

    async fn get_node_state(
        &self,
        _: Request<v1::GetNodeStateRequest>,
    ) -> Result<Response<v1::GetNodeStateResponse>, Status> {
        Err(Status::unimplemented("not in this fake"))
    }

    async fn watch_alarms(
        &self,
        _: Request<v1::WatchAlarmsRequest>,
    ) -> Result<Response<Self::WatchAlarmsStream>, Status> {
        let raised = v1::Alarm {
            finding: Some(finding(v1::Presence::Elsewhere)),
            raised: true,
            time_ms: 43_200_000,
            synced: false,
        };
        let synced = v1::Alarm { synced: true, ..Default::default() };
        Ok(Response::new(tokio_stream::iter(vec![Ok(raised), Ok(synced)])))
    }

    async fn list_peers(
        &self,
        _: Request<v1::ListPeersRequest>,
    ) -> Result<Response<v1::ListPeersResponse>, Status> {
        let peer = v1::PeerStatus {
            peer: Some(v1::Peer { address: "10.0.0.1".into(), asn: 65000, ..Default::default() }),
            state: "Established".into(),
            state_seconds: 75,
            router_id: "10.0.0.1".into(),
            established_count: 1,
            ..Default::default()
        };
        Ok(Response::new(v1::ListPeersResponse {
            peers: vec![peer],
            router_id: "10.0.0.9".into(),
            asn: 65000,
            version: "0.9.9".into(),
        }))
    }

    async fn list_routes(
        &self,
        request: Request<v1::ListRoutesRequest>,
    ) -> Result<Response<v1::ListRoutesResponse>, Status> {
        let request = request.into_inner();
        let route = v1::Route {
            direction: v1::RouteDirection::Out.into(),
            route_type: 2,
            rd: "10.0.0.9:7".into(),
            mac: request.mac,
            next_hop: "10.0.0.21".into(),
            vnis: vec![10110],
            verdict: "used: default/web".into(),
            ..Default::default()
        };
        Ok(Response::new(v1::ListRoutesResponse { routes: vec![route], more: u64::from(request.limit == 1) }))
    }

    async fn explain(
        &self,
        request: Request<v1::ExplainRequest>,
    ) -> Result<Response<v1::ExplainResponse>, Status> {
        let v1::ExplainRequest { subject, at } = request.into_inner();
        let at = if at.is_empty() { String::new() } else { format!(" as {at} sees it") };
        Ok(Response::new(v1::ExplainResponse {
            findings: vec![format!("{subject} belongs to port default/web/a{at}")],
            routes: vec![],
        }))
    }

    async fn list_nodes(
        &self,
        _: Request<v1::ListNodesRequest>,
    ) -> Result<Response<v1::ListNodesResponse>, Status> {
        let node = |name: &str, connected| v1::NodeStatus {
            node: Some(v1::Node { name: name.into(), vtep: "10.0.0.21".into(), ..Default::default() }),
            connected,
            agent_version: if connected { "0.1.0".into() } else { String::new() },
            ..Default::default()
        };
        Ok(Response::new(v1::ListNodesResponse {
            nodes: vec![node("dead", false), node("host1", true)],
            revision: 9,
        }))
    }
}

/// Books with one claim of nobody, which a repair removes, and one duplicate, which none does away with.
#[tonic::async_trait]
impl v1::ipam_service_server::IpamService for Fake {
    async fn check_ipam(
        &self,
        request: Request<v1::CheckIpamRequest>,
    ) -> Result<Response<v1::CheckIpamResponse>, Status> {
        let fix = request.into_inner().fix;
        let nth = self.seen("check") + 1;
        self.see("check");
        let finding = |problem: v1::IpamProblem, repair: &str, repaired| v1::IpamFinding {
            problem: problem.into(),
            subject: format!("address 10.8.0.{nth} of VRF default"),
            text: "x".into(),
            repair: repair.into(),
            repaired,
            hint: String::new(),
        };
        let findings = match (fix, nth) {
            (true, 1 | 2) => vec![finding(v1::IpamProblem::ClaimWithoutOwner, "remove the claim", true)],
            (true, _) => Vec::new(),
            (false, _) => vec![finding(v1::IpamProblem::Duplicate, "", false)],
        };
        let more = u64::from(fix && nth < 2);
        Ok(Response::new(v1::CheckIpamResponse { findings, more, ports: 2, ..Default::default() }))
    }
}
