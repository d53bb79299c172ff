//! A controller in memory, just true enough for the commands: it keeps records and ports, refuses what the tests need
//! refused, and moves ports bound to `host1` on to advertised while those on `dead` stay where they are.

mod config;
mod fabric;
mod port;

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
