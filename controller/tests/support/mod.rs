//! A controller in this process, with an embedded store in a directory of its own, and everything one needs to talk
//! to it. Everything ends when the values are dropped.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub(crate) mod gated;
pub(crate) mod robots;

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_bgp::{Event, PeerConfig, PeerMode, RouteFilter, Speaker, SpeakerConfig};
use causeway_controller::clock::Clock;
use causeway_controller::config::{Config, Listen, StoreConfig};
use causeway_controller::run::Controller;
use causeway_controller::store::Store;
use causeway_proto::v1;
use causeway_proto::v1::agent_service_client::AgentServiceClient;
use causeway_proto::v1::config_service_client::ConfigServiceClient;
use causeway_proto::v1::fabric_service_client::FabricServiceClient;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_proto::v1::ready_service_client::ReadyServiceClient;
use prost::Message;
use tokio::sync::mpsc;
use tokio::time::{Instant, timeout};
use tokio_stream::wrappers::ReceiverStream;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::{Channel, Endpoint};
use tonic::{Status, Streaming};

/// Longest wait for anything that shall happen.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
pub(crate) const ASN: u32 = 65000;

/// A running controller.
pub(crate) struct Lab {
    pub(crate) controller: Option<Controller>,
    pub(crate) channel: Channel,
    pub(crate) directory: tempfile::TempDir,
    cancel: DropGuard,
}

pub(crate) fn config(directory: &std::path::Path) -> Config {
    let any = SocketAddr::from((Ipv4Addr::LOCALHOST, 0));
    Config {
        name: "c1".into(),
        router_id: Some(Ipv4Addr::new(10, 99, 0, 1)),
        asn: Some(ASN),
        listen: vec![Listen::Tcp(any), Listen::Unix(directory.join("api.sock"))],
        http_listen: vec![any],
        bgp_listen: vec![any],
        store: StoreConfig::File(directory.join("store")),
        ..Config::default()
    }
}

impl Lab {
    pub(crate) async fn start() -> Result<Lab> {
        Lab::start_in(tempfile::tempdir()?).await
    }

    /// A controller on the store of an earlier one.
    pub(crate) async fn start_in(directory: tempfile::TempDir) -> Result<Lab> {
        Lab::begin(directory, |_| {}).await
    }

    /// A controller with other settings.
    pub(crate) async fn start_with(change: impl FnOnce(&mut Config)) -> Result<Lab> {
        Lab::begin(tempfile::tempdir()?, change).await
    }

    async fn begin(directory: tempfile::TempDir, change: impl FnOnce(&mut Config)) -> Result<Lab> {
        let cancel = CancellationToken::new();
        let mut config = config(directory.path());
        change(&mut config);
        let controller = Controller::start(config, cancel.clone()).await?;
        let channel = connect(&controller).await?;
        Ok(Lab { controller: Some(controller), channel, directory, cancel: cancel.drop_guard() })
    }

    /// A controller on a store that others may share. `name` ends with its number.
    pub(crate) async fn start_on(store: Arc<dyn Store>, number: u8) -> Result<Lab> {
        Lab::start_by(store, number, Clock::default()).await
    }

    /// The same by a wall clock of its own.
    pub(crate) async fn start_by(store: Arc<dyn Store>, number: u8, clock: Clock) -> Result<Lab> {
        let directory = tempfile::tempdir()?;
        let cancel = CancellationToken::new();
        let config = Config {
            name: format!("c{number}"),
            router_id: Some(Ipv4Addr::new(10, 99, 0, number)),
            ..config(directory.path())
        };
        let controller = Controller::start_by(config, store, clock, cancel.clone()).await?;
        let channel = connect(&controller).await?;
        Ok(Lab { controller: Some(controller), channel, directory, cancel: cancel.drop_guard() })
    }

    /// Networks, subnets and nodes that most tests need.
    pub(crate) async fn with_sample() -> Result<Lab> {
        let lab = Lab::start().await?;
        lab.apply(sample()).await?;
        Ok(lab)
    }

    /// Stops the controller and gives back its directory.
    pub(crate) async fn stop(mut self) -> Result<tempfile::TempDir> {
        let controller = self.controller.take().context("running")?;
        drop(self.channel);
        ensure!(controller.stop().await, "tasks did not end in time");
        Ok(self.directory)
    }

    pub(crate) fn running(&self) -> Result<&Controller> {
        self.controller.as_ref().context("running")
    }

    pub(crate) fn ports(&self) -> PortServiceClient<Channel> {
        PortServiceClient::new(self.channel.clone())
    }

    /// Waits for one port; says what was said of it.
    pub(crate) async fn wait_port(
        &self,
        name: &str,
        level: v1::ReadyLevel,
        timeout_ms: u32,
    ) -> Result<Streaming<v1::WaitPortsResponse>> {
        let mut client = ReadyServiceClient::new(self.channel.clone());
        let request = v1::WaitPortsRequest { keys: vec![key(name)], level: level.into(), timeout_ms };
        Ok(client.wait_ports(request).await?.into_inner())
    }

    pub(crate) fn config(&self) -> ConfigServiceClient<Channel> {
        ConfigServiceClient::new(self.channel.clone())
    }

    pub(crate) fn fabric(&self) -> FabricServiceClient<Channel> {
        FabricServiceClient::new(self.channel.clone())
    }

    pub(crate) async fn apply(&self, resources: Vec<v1::Resource>) -> Result<v1::ApplyResponse> {
        let request = v1::ApplyRequest { resources, dry_run: false };
        Ok(self.config().apply(request).await?.into_inner())
    }

    pub(crate) async fn create(&self, name: &str, node: Option<&str>) -> Result<v1::Port> {
        let request = v1::CreatePortRequest {
            key: Some(key(name)),
            bind: node.map(binding),
            ..v1::CreatePortRequest::default()
        };
        self.ports().create_port(request).await?.into_inner().port.context("a port")
    }

    pub(crate) async fn bind(&self, name: &str, node: &str) -> Result<v1::Port> {
        let request =
            v1::BindPortRequest { key: Some(key(name)), binding: Some(binding(node)), force: false };
        self.ports().bind_port(request).await?.into_inner().port.context("a port")
    }

    pub(crate) async fn unbind(&self, name: &str) -> Result<v1::Port> {
        let request = v1::UnbindPortRequest { key: Some(key(name)) };
        self.ports().unbind_port(request).await?.into_inner().port.context("a port")
    }

    pub(crate) async fn get(&self, name: &str) -> Result<v1::Port> {
        let request = v1::GetPortRequest { key: Some(key(name)) };
        self.ports().get_port(request).await?.into_inner().port.context("a port")
    }

    /// Waits until the port is in a state.
    pub(crate) async fn wait_state(&self, name: &str, state: v1::PortState) -> Result<v1::Port> {
        let what = format!("port {name} {state:?}");
        wait_for(&what, async || {
            let port = self.get(name).await?;
            Ok((port.state() == state).then_some(port))
        })
        .await
    }

    /// An HTTP page: its status code and text.
    pub(crate) async fn http(&self, path: &str) -> Result<(u16, String)> {
        let address = *self.running()?.http_addresses().first().context("HTTP address")?;
        http_get(address, path).await
    }
}

/// A page by hand: one request, one connection.
pub(crate) async fn http_get(address: SocketAddr, path: &str) -> Result<(u16, String)> {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let mut stream = tokio::net::TcpStream::connect(address).await?;
    let request = format!("GET {path} HTTP/1.1\r\nhost: localhost\r\nconnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await?;
    let mut text = String::new();
    stream.read_to_string(&mut text).await?;
    let code = text.split(' ').nth(1).context("a status line")?.parse()?;
    let body = text.split_once("\r\n\r\n").map(|(_, body)| body.to_owned()).unwrap_or_default();
    Ok((code, body))
}

/// A channel to the controller's first TCP address.
pub(crate) async fn connect(controller: &Controller) -> Result<Channel> {
    let tcp = controller.grpc_addresses().iter().find_map(|listen| match listen {
        Listen::Tcp(address) => Some(*address),
        Listen::Unix(_) => None,
    });
    let address = tcp.context("a TCP address")?;
    Ok(Endpoint::new(format!("http://{address}"))?.connect().await?)
}

pub(crate) async fn wait_for<T>(what: &str, mut look: impl AsyncFnMut() -> Result<Option<T>>) -> Result<T> {
    let deadline = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look().await? {
            return Ok(found);
        }
        ensure!(Instant::now() < deadline, "{what}: not within {PATIENCE:?}");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

pub(crate) fn key(name: &str) -> v1::PortKey {
    let (network, name) = name.split_once('/').unwrap_or(("web", name));
    v1::PortKey { vrf: String::new(), network: network.into(), name: name.into() }
}

pub(crate) fn binding(node: &str) -> v1::Binding {
    v1::Binding { node: node.into(), netns: "/run/netns/w".into(), ..v1::Binding::default() }
}

pub(crate) fn resource(spec: v1::resource::Spec) -> v1::Resource {
    v1::Resource { spec: Some(spec) }
}

pub(crate) fn network(name: &str, vni: u32) -> v1::Resource {
    let network = v1::Network { name: name.into(), vni, ..v1::Network::default() };
    resource(v1::resource::Spec::Network(network))
}

pub(crate) fn subnet(network: &str, prefix: &str, gateway: &str) -> v1::Resource {
    let subnet = v1::Subnet {
        network: network.into(),
        prefix: prefix.into(),
        gateway: gateway.into(),
        ..v1::Subnet::default()
    };
    resource(v1::resource::Spec::Subnet(subnet))
}

pub(crate) fn node(name: &str, vtep: &str) -> v1::Resource {
    let node = v1::Node {
        name: name.into(),
        mode: v1::NodeMode::HostVtep.into(),
        vtep: vtep.into(),
        ..v1::Node::default()
    };
    resource(v1::resource::Spec::Node(node))
}

pub(crate) fn sample() -> Vec<v1::Resource> {
    vec![
        network("web", 110),
        network("db", 120),
        subnet("web", "10.8.0.0/24", "10.8.0.1"),
        subnet("db", "10.9.0.0/24", ""),
        node("h1", "10.0.0.1"),
        node("h2", "10.0.0.2"),
    ]
}

/// An agent that does what a test tells it.
pub(crate) struct Agent {
    pub(crate) sender: mpsc::Sender<v1::AgentMessage>,
    pub(crate) stream: Streaming<v1::ControllerMessage>,
}

pub(crate) fn hello(node: &str, instance: &str) -> v1::AgentMessage {
    let hello = v1::AgentHello {
        node: node.into(),
        instance_id: instance.into(),
        version: "test".into(),
        revision: 0,
    };
    v1::AgentMessage { message: Some(v1::agent_message::Message::Hello(hello)) }
}

impl Agent {
    pub(crate) async fn connect(channel: &Channel, node: &str, instance: &str) -> Result<Agent, Status> {
        Agent::begin(channel, hello(node, instance)).await
    }

    pub(crate) async fn begin(channel: &Channel, first: v1::AgentMessage) -> Result<Agent, Status> {
        let (sender, receiver) = mpsc::channel(16);
        let _ = sender.send(first).await;
        let mut client = AgentServiceClient::new(channel.clone()).max_decoding_message_size(64 << 20);
        let stream = client.session(ReceiverStream::new(receiver)).await?.into_inner();
        Ok(Agent { sender, stream })
    }

    pub(crate) async fn next(&mut self) -> Result<v1::controller_message::Message> {
        loop {
            let message = timeout(PATIENCE, self.stream.message()).await.context("no message in time")??;
            match message.and_then(|m| m.message).context("the stream ended")? {
                // They come when they come; who looks at them uses `levels`.
                v1::controller_message::Message::Levels(_) => {}
                message => return Ok(message),
            }
        }
    }

    pub(crate) async fn snapshot(&mut self) -> Result<v1::NodeState> {
        match self.next().await? {
            v1::controller_message::Message::Snapshot(state) => Ok(state),
            other => bail!("not a snapshot: {other:?}"),
        }
    }

    pub(crate) async fn delta(&mut self) -> Result<v1::NodeDelta> {
        match self.next().await? {
            v1::controller_message::Message::Delta(delta) => Ok(delta),
            other => bail!("not a delta: {other:?}"),
        }
    }

    /// The next order to probe.
    pub(crate) async fn probe_order(&mut self) -> Result<v1::ProbeOrder> {
        loop {
            if let v1::controller_message::Message::Probe(order) = self.next().await? {
                return Ok(order);
            }
        }
    }

    /// The next word on levels.
    pub(crate) async fn levels(&mut self) -> Result<v1::PortLevels> {
        loop {
            let message = timeout(PATIENCE, self.stream.message()).await.context("no message in time")??;
            if let v1::controller_message::Message::Levels(levels) =
                message.and_then(|m| m.message).context("the stream ended")?
            {
                return Ok(levels);
            }
        }
    }

    /// Says what a probe found.
    pub(crate) async fn found(&self, result: v1::ProbeResult) -> Result<()> {
        let message = v1::agent_message::Message::ProbeResult(v1::ProbeResult { finished: true, ..result });
        self.sender.send(v1::AgentMessage { message: Some(message) }).await.context("the stream is open")
    }

    /// The error that ends the stream.
    pub(crate) async fn end(&mut self) -> Result<Status> {
        loop {
            match timeout(PATIENCE, self.stream.message()).await.context("the stream did not end")? {
                Err(status) => return Ok(status),
                Ok(None) => bail!("the stream ended without an error"),
                Ok(Some(_)) => {}
            }
        }
    }

    pub(crate) async fn say(&self, revision: u64, ports: Vec<v1::PortStatus>) -> Result<()> {
        let status = v1::AgentStatus { revision, ports, problems: vec![] };
        let message = v1::AgentMessage { message: Some(v1::agent_message::Message::Status(status)) };
        self.sender.send(message).await.context("the stream is open")
    }
}

pub(crate) fn programmed(name: &str, generation: u64) -> v1::PortStatus {
    let port =
        format!("default/{}", if name.contains('/') { name.to_owned() } else { format!("web/{name}") });
    v1::PortStatus { port, generation, programmed: true, ..v1::PortStatus::default() }
}

/// A switch: a BGP speaker that the controller connects to.
pub(crate) struct Switch {
    pub(crate) speaker: Speaker,
    pub(crate) address: IpAddr,
    pub(crate) port: u16,
    pub(crate) events: mpsc::Receiver<Event>,
    _cancel: DropGuard,
}

impl Switch {
    /// Listens at `address`, and expects the controller from 127.0.0.1.
    pub(crate) async fn start(address: [u8; 4], md5_key: Option<Vec<u8>>) -> Result<Switch> {
        let address = IpAddr::from(address);
        let config = SpeakerConfig {
            router_id: Ipv4Addr::new(10, 99, 0, 200),
            asn: ASN,
            listen: vec![SocketAddr::new(address, 0)],
            restarting: false,
        };
        let cancel = CancellationToken::new();
        let (speaker, events, _task) = Speaker::start(config, cancel.clone()).await?;
        let mut peer = PeerConfig::new(Ipv4Addr::LOCALHOST.into(), ASN);
        peer.mode = PeerMode::Passive;
        peer.md5_key = md5_key;
        speaker.set_peers(vec![peer]).await;
        speaker.set_synced().await;
        let port = speaker.listen_addresses().first().context("a listening address")?.port();
        Ok(Switch { speaker, address, port, events, _cancel: cancel.drop_guard() })
    }

    /// The peer that a controller needs for this switch.
    pub(crate) fn peer(&self) -> v1::Peer {
        v1::Peer {
            address: self.address.to_string(),
            asn: ASN,
            port: u32::from(self.port),
            local_address: "127.0.0.1".into(),
            ..v1::Peer::default()
        }
    }

    /// The routes it has, as text.
    pub(crate) async fn routes(&self) -> Vec<String> {
        let routes = self.speaker.routes_in(&RouteFilter::default()).await;
        let text = |received: &causeway_bgp::ReceivedRoute| {
            let attributes = &received.route.attributes;
            let stale = if received.stale { " stale" } else { "" };
            let (hop, seq) = (attributes.next_hop, attributes.sequence);
            match received.route.key {
                causeway_bgp::RouteKey::MacIp { rd, mac, ip, .. } => {
                    let ip = ip.map(|ip| ip.to_string()).unwrap_or_default();
                    format!("2 {rd} {mac} {ip} via {hop} seq {seq}{stale}")
                }
                causeway_bgp::RouteKey::Imet { rd, originator, .. } => format!("3 {rd} {originator}{stale}"),
                other => format!("{other:?}"),
            }
        };
        routes.iter().map(text).collect()
    }

    pub(crate) async fn wait_routes(&self, want: &[&str]) -> Result<()> {
        let mut last = Vec::new();
        let found = wait_for("routes", async || {
            last = self.routes().await;
            Ok((last == want).then_some(()))
        })
        .await;
        found.with_context(|| format!("wanted {want:#?}, have {last:#?}"))
    }
}

/// Written again here, so that what clients see is checked apart from the code that makes it.
#[derive(Clone, PartialEq, Message)]
struct RpcStatus {
    #[prost(int32, tag = "1")]
    code: i32,
    #[prost(string, tag = "2")]
    message: String,
    #[prost(message, repeated, tag = "3")]
    details: Vec<prost_types::Any>,
}

/// The typed detail of an error.
pub(crate) fn detail(status: &Status) -> Result<v1::ErrorDetail> {
    let rpc = RpcStatus::decode(status.details())?;
    let any = rpc.details.first().with_context(|| format!("no detail in {status:?}"))?;
    ensure!(any.type_url == "type.googleapis.com/causeway.v1.ErrorDetail", "{}", any.type_url);
    Ok(v1::ErrorDetail::decode(any.value.as_slice())?)
}

/// The status of a call that was refused.
pub(crate) fn refused<T: std::fmt::Debug>(result: std::result::Result<T, Status>) -> Result<Status> {
    match result {
        Ok(answer) => bail!("was not refused: {answer:?}"),
        Err(status) => Ok(status),
    }
}
