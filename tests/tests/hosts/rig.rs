//! What the tests stand on.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use anyhow::{Context, Result};
use causeway_bgp::{Event, PeerConfig, PeerMode, Speaker, SpeakerConfig};
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_proto::v1::ready_service_client::ReadyServiceClient;
use causeway_proto::v1::resource::Spec;
use causeway_proto::v1::{self, ReadyLevel};
use causeway_tests::controller::{Controller, StoreAt, network};
use causeway_tests::slot::Slot;
use causeway_tests::{Agent, Netns, wait_for};
use tokio::sync::mpsc;
use tokio_util::sync::{CancellationToken, DropGuard};
use tonic::transport::Channel;

/// How long anything may take that is not measured.
pub(crate) const PATIENCE: Duration = Duration::from_secs(20);
const ASN: u32 = 65000;

/// A controller with a peer, and hosts with agents.
pub(crate) struct Rig {
    pub(crate) controller: Controller,
    pub(crate) hosts: Vec<Netns>,
    pub(crate) agents: Vec<Agent>,
    /// A peer that takes every route.
    _peer: (Speaker, mpsc::Receiver<Event>, DropGuard),
}

impl Rig {
    /// With the network `web` of the subnet `prefix`, and two hosts `h1` and `h2` that reach each other.
    pub(crate) async fn new(prefix: &str) -> Result<Rig> {
        let hosts = vec![Netns::new("h1").await?, Netns::new("h2").await?];
        let [one, two] = &hosts[..] else { anyhow::bail!("not two hosts") };
        Netns::join((one, "u0", &["198.51.100.1/24"]), (two, "u0", &["198.51.100.2/24"])).await?;
        let vtep = |n: u8| Ipv4Addr::new(192, 0, 2, n).to_string();
        for (n, host) in [(1, one), (2, two)] {
            let other = 3 - n;
            host.ip(&[
                "link set u0 mtu 1600",
                &format!("addr add {}/32 dev lo", vtep(n)),
                &format!("route add {}/32 via 198.51.100.{other}", vtep(other)),
            ])
            .await?;
        }
        let node = |n: u8| {
            Spec::Node(v1::Node {
                name: format!("h{n}"),
                vtep: vtep(n),
                mode: v1::NodeMode::HostVtep.into(),
                underlay_mtu: 1600,
                ..v1::Node::default()
            })
        };
        Rig::of([network("web", 100, prefix), vec![node(1), node(2)]].concat(), hosts).await
    }

    /// With these records, and hosts `h1` and so on that they declare. The hosts' agents run.
    pub(crate) async fn of(records: Vec<Spec>, hosts: Vec<Netns>) -> Result<Rig> {
        let controller = Controller::start(&StoreAt::File).await?;
        let address: IpAddr = Slot::get()?.loopback()?.into();
        let config = SpeakerConfig {
            router_id: Ipv4Addr::new(10, 99, 0, 200),
            asn: ASN,
            listen: vec![SocketAddr::new(address, 0)],
            restarting: false,
        };
        let cancel = CancellationToken::new();
        let (speaker, events, _task) = Speaker::start(config, cancel.clone()).await?;
        let mut peer = PeerConfig::new(controller.address().into(), ASN);
        peer.mode = PeerMode::Passive;
        speaker.set_peers(vec![peer]).await;
        speaker.set_synced().await;
        let port = speaker.listen_addresses().first().context("a listening address")?.port();
        let peer = Spec::Peer(v1::Peer {
            address: address.to_string(),
            asn: ASN,
            port: port.into(),
            local_address: controller.address().to_string(),
            ..v1::Peer::default()
        });
        controller.apply([records, vec![peer]].concat()).await?;
        let named = hosts.iter().enumerate().map(|(n, host)| (format!("h{}", n + 1), host));
        let agents: Result<Vec<Agent>> =
            named.map(|(name, host)| Agent::start(&name, host, &controller)).collect();
        Ok(Rig { controller, hosts, agents: agents?, _peer: (speaker, events, cancel.drop_guard()) })
    }

    pub(crate) fn ports(&self) -> Result<PortServiceClient<Channel>> {
        Ok(PortServiceClient::new(self.controller.channel()?))
    }

    /// A port for a workload on a host.
    pub(crate) async fn bound(&self, name: &str, node: &str, workload: &Netns) -> Result<v1::Port> {
        let binding = v1::Binding {
            node: node.into(),
            netns: format!("/run/netns/{}", workload.name()),
            ..v1::Binding::default()
        };
        let request = v1::CreatePortRequest {
            key: Some(key(name)),
            bind: Some(binding),
            ..v1::CreatePortRequest::default()
        };
        self.ports()?.create_port(request).await?.into_inner().port.context("a port")
    }

    pub(crate) async fn get(&self, name: &str) -> Result<v1::Port> {
        let request = v1::GetPortRequest { key: Some(key(name)) };
        self.ports()?.get_port(request).await?.into_inner().port.context("a port")
    }

    /// Waits for a port to reach a level, as a client does, and says how that ended.
    pub(crate) async fn wait(
        &self,
        name: &str,
        level: ReadyLevel,
        timeout: Duration,
    ) -> Result<v1::WaitOutcome> {
        let request = v1::WaitPortsRequest {
            keys: vec![key(name)],
            level: level.into(),
            timeout_ms: u32::try_from(timeout.as_millis())?,
        };
        let mut said =
            ReadyServiceClient::new(self.controller.channel()?).wait_ports(request).await?.into_inner();
        while let Some(message) = said.message().await? {
            if let Some(outcome) = message.outcome {
                return Ok(outcome);
            }
        }
        anyhow::bail!("the stream ended without an outcome")
    }

    /// Waits until the port has a state.
    pub(crate) async fn reaches(&self, name: &str, state: v1::PortState) -> Result<()> {
        wait_for(&format!("{name} is {}", state.as_str_name()), PATIENCE, async || {
            let port = self.get(name).await?;
            anyhow::ensure!(port.state() == state, "it is {:?}: {}", port.state(), port.problem);
            Ok(())
        })
        .await
    }
}

pub(crate) fn key(name: &str) -> v1::PortKey {
    v1::PortKey { vrf: String::new(), network: "web".into(), name: name.into() }
}
