//! etcd is restored from an older copy under a running installation: ports had moved since, and switches and agents know that.

use std::path::PathBuf;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_bgp::{Event as BgpEvent, PeerConfig, RouteChange, RouteKey, Speaker, SpeakerConfig};
use causeway_proto::Mac;
use causeway_proto::v1::fabric_service_client::FabricServiceClient;
use causeway_proto::v1::history_service_client::HistoryServiceClient;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_proto::v1::resource::Spec;
use causeway_proto::v1::watch_ports_response::Event;
use causeway_proto::v1::{self, PortState};
use causeway_tests::controller::{Controller, StoreAt, network};
use causeway_tests::etcd::EtcdVersion;
use causeway_tests::frr::{Frr, FrrVersion};
use causeway_tests::slot::{Directory, Slot};
use causeway_tests::{Agent, Etcd, Netns, wait_for};
use serde_json::Value;
use tokio::task::AbortHandle;
use tokio_util::sync::{CancellationToken, DropGuard};

use crate::rig::key;

/// How long anything may take that is not measured: leases of ten seconds run out on the way.
const PATIENCE: Duration = Duration::from_secs(40);
const SWITCH: &str = "10.91.0.9";
/// The namespace that everything else hangs on: etcd is there, and a peer.
const CORE: &str = "10.91.0.254";
/// The controllers.
const OURS: [&str; 2] = ["10.91.0.1", "10.91.0.2"];

/// An etcd, controllers, a switch that takes their routes, and two hosts with a workload's namespace for `a` each.
///
/// ```text
/// namespace core: etcd, recorder ─ bridge "ctl" ─ controllers, switch        hosts: agents, by the controllers' sockets
/// ```
struct Stage {
    etcd: Etcd,
    controllers: Vec<Controller>,
    switch: Frr,
    recorder: Recorder,
    workloads: Vec<Netns>,
    copy: PathBuf,
    agents: Vec<Agent>,
    _hosts: [Netns; 2],
    _directory: Directory,
    _wires: Vec<Netns>,
}

/// A route as the switch took it.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Took {
    from: String,
    next_hop: String,
    sequence: u32,
}

/// All routes for a MAC in what FRR shows as JSON: by distinguisher, which says whose they are, and prefix.
fn shown(routes: &Value, mac: &str) -> Vec<Took> {
    let mut all = Vec::new();
    for (from, prefixes) in OURS.iter().filter_map(|from| Some((from, routes.get(format!("{from}:1"))?))) {
        let prefixes = prefixes.as_object().into_iter().flatten();
        for (_, prefix) in prefixes.filter(|(name, _)| name.starts_with("[2]:") && name.contains(mac)) {
            // A list of paths, in some versions of lists of them.
            let paths = prefix["paths"].as_array().into_iter().flatten();
            let paths = paths.flat_map(|path| path.as_array().cloned().unwrap_or_else(|| vec![path.clone()]));
            all.extend(paths.filter_map(|path| {
                let next_hop = path["nexthops"][0]["ip"].as_str()?.to_owned();
                let communities = path["extendedCommunity"]["string"].as_str()?;
                let sequence = communities.split_whitespace().find_map(|word| word.strip_prefix("MM:"));
                let sequence = sequence.map_or(Some(0), |n| n.parse().ok())?;
                Some(Took { from: (*from).to_owned(), next_hop, sequence })
            }));
        }
    }
    all
}

/// A peer that keeps every route it was ever told, in the order of their coming: what a switch's table does not show.
struct Recorder {
    all: Arc<Mutex<Vec<(Mac, Took)>>>,
    _speaker: Speaker,
    _end: DropGuard,
}

impl Recorder {
    async fn start() -> Result<Recorder> {
        let config =
            SpeakerConfig { router_id: CORE.parse()?, asn: 65000, listen: Vec::new(), restarting: false };
        let cancel = CancellationToken::new();
        let (speaker, mut events, _task) = Speaker::start(config, cancel.clone()).await?;
        let mut peers = Vec::new();
        for ours in OURS {
            let mut peer = PeerConfig::new(ours.parse()?, 65000);
            peer.port = 1790;
            peers.push(peer);
        }
        speaker.set_peers(peers).await;
        speaker.set_synced().await;
        let all: Arc<Mutex<Vec<(Mac, Took)>>> = Arc::default();
        let keep = Arc::clone(&all);
        tokio::spawn(async move {
            while let Some(event) = events.recv().await {
                let BgpEvent::Received { peer, changes } = event else { continue };
                for change in changes {
                    let RouteChange::Announce(route) = change else { continue };
                    let RouteKey::MacIp { mac, .. } = route.key else { continue };
                    let (from, next_hop) = (peer.to_string(), route.attributes.next_hop.to_string());
                    let took = Took { from, next_hop, sequence: route.attributes.sequence };
                    keep.lock().unwrap_or_else(PoisonError::into_inner).push((mac, took));
                }
            }
        });
        Ok(Recorder { all, _speaker: speaker, _end: cancel.drop_guard() })
    }

    fn taken(&self, mac: &str) -> Result<Vec<Took>> {
        let mac: Mac = mac.parse()?;
        let all = self.all.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(all.iter().filter(|(of, _)| *of == mac).map(|(_, took)| took.clone()).collect())
    }
}

async fn answers(controller: &Controller) -> Result<()> {
    wait_for("the controller answers", PATIENCE, async || {
        let mut fabric = FabricServiceClient::new(controller.channel()?);
        fabric.list_nodes(v1::ListNodesRequest {}).await?;
        Ok(())
    })
    .await
}

fn vtep(host: usize) -> String {
    format!("10.91.1.{}", host + 1)
}

impl Stage {
    /// Brings it up; runs inside the namespace `core`.
    async fn start(core: &Netns, version: EtcdVersion, controllers: usize) -> Result<Stage> {
        core.ip(&["link add ctl type bridge", &format!("addr add {CORE}/24 dev ctl"), "link set ctl up"])
            .await?;
        let mut wires = vec![Stage::wire(core, "sw", SWITCH).await?];
        // A next hop that cannot be resolved makes a route unusable.
        wires[0].ip(&[&format!("route add 10.91.1.0/24 via {}", OURS[0])]).await?;
        let which = match version {
            EtcdVersion::Debian => FrrVersion::Debian,
            EtcdVersion::Newest => FrrVersion::Newest,
        };
        let peers = OURS.map(|n| {
            format!(" neighbor {n} remote-as 65000\n neighbor {n} passive\n neighbor {n} timers connect 1\n")
        });
        let families =
            OURS.map(|n| format!("  neighbor {n} activate\n  neighbor {n} route-reflector-client\n"));
        let config = format!(
            "router bgp 65000\n bgp router-id {SWITCH}\n no bgp default ipv4-unicast\n{} \
             address-family l2vpn evpn\n{} exit-address-family\n",
            peers.concat(),
            families.concat(),
        );
        let switch = Frr::start(&wires[0], which, &config).await?;
        let etcd = Etcd::start_at(version, CORE.parse()?, &[]).await?;
        let mut ctl = Vec::new();
        for (n, address) in OURS[..controllers].iter().enumerate() {
            let netns = Stage::wire(core, &format!("c{n}"), address).await?;
            let (prefix, address) = (["ip", "netns", "exec", netns.name()], address.parse()?);
            let store = StoreAt::Etcd(etcd.endpoint());
            ctl.push(Controller::start_in(&prefix, address, address, &store).await?);
            answers(&ctl[n]).await?;
            wires.push(netns);
        }
        let mut records = network("web", 100, "10.213.9.0/24");
        for host in 0..2 {
            records.push(Spec::Node(v1::Node {
                name: format!("h{host}"),
                vtep: vtep(host),
                mode: v1::NodeMode::HostVtep.into(),
                underlay_mtu: 1600,
                ..v1::Node::default()
            }));
        }
        for peer in [SWITCH, CORE] {
            records.push(Spec::Peer(v1::Peer { address: peer.into(), asn: 65000, ..v1::Peer::default() }));
        }
        ctl[0].apply(records).await?;
        let hosts = [Netns::new("h0").await?, Netns::new("h1").await?];
        let [one, two] = &hosts;
        Netns::join((one, "u0", &["198.51.100.1/24"]), (two, "u0", &["198.51.100.2/24"])).await?;
        let mut agents = Vec::new();
        for (n, host) in hosts.iter().enumerate() {
            let routes = [
                "link set u0 mtu 1600".to_owned(),
                format!("addr add {}/32 dev lo", vtep(n)),
                format!("route add {}/32 via 198.51.100.{}", vtep(1 - n), 2 - n),
            ];
            host.ip(&routes.each_ref().map(String::as_str)).await?;
            // With two controllers each has one.
            agents.push(Agent::start(&format!("h{n}"), host, &ctl[n % controllers])?);
        }
        let workloads = vec![Netns::new("a0").await?, Netns::new("a1").await?];
        let directory = Slot::get()?.directory("copy")?;
        let copy = directory.path().join("etcd.db");
        Ok(Stage {
            etcd,
            controllers: ctl,
            switch,
            recorder: Recorder::start().await?,
            workloads,
            copy,
            agents,
            _hosts: hosts,
            _directory: directory,
            _wires: wires,
        })
    }

    /// A namespace with this address on the core's bridge.
    async fn wire(core: &Netns, label: &str, address: &str) -> Result<Netns> {
        let netns = Netns::new(label).await?;
        Netns::join((core, label, &[]), (&netns, "eth0", &[&format!("{address}/24")])).await?;
        core.ip(&[&format!("link set {label} master ctl")]).await?;
        Ok(netns)
    }

    fn ports(&self) -> Result<PortServiceClient<tonic::transport::Channel>> {
        Ok(PortServiceClient::new(self.controllers[0].channel()?))
    }

    async fn get(&self, name: &str) -> Result<v1::Port> {
        let request = v1::GetPortRequest { key: Some(key(name)) };
        self.ports()?.get_port(request).await?.into_inner().port.context("a port")
    }

    /// Moves a port to a host as a scheduler does: it ends there and begins here.
    async fn place(&self, name: &str, host: usize, workload: &Netns) -> Result<v1::Port> {
        let create = v1::CreatePortRequest { key: Some(key(name)), ..v1::CreatePortRequest::default() };
        self.ports()?.create_port(create).await?;
        self.ports()?.unbind_port(v1::UnbindPortRequest { key: Some(key(name)) }).await?;
        let binding = v1::Binding {
            node: format!("h{host}"),
            netns: format!("/run/netns/{}", workload.name()),
            ..v1::Binding::default()
        };
        let bind = v1::BindPortRequest {
            key: Some(key(name)),
            binding: Some(binding),
            ..v1::BindPortRequest::default()
        };
        wait_for(&format!("{name} is bound"), PATIENCE, async || {
            Ok(self.ports()?.bind_port(bind.clone()).await?)
        })
        .await?;
        self.reaches(name, host).await
    }

    /// Waits until a port is at a host, programmed and announced.
    async fn reaches(&self, name: &str, host: usize) -> Result<v1::Port> {
        wait_for(&format!("{name} is at h{host}"), PATIENCE, async || {
            let port = self.get(name).await?;
            let node = port.binding.as_ref().map(|binding| binding.node.clone()).unwrap_or_default();
            ensure!(node == format!("h{host}"), "it is at {node}");
            ensure!(port.state() == PortState::Advertised, "{:?} {}", port.state(), port.problem);
            Ok(port)
        })
        .await
    }

    /// Waits until what the switch has of a MAC from this controller is this.
    async fn takes(&self, mac: &str, from: &str, host: usize, at_least: u32) -> Result<Took> {
        let what = format!("the switch has the MAC at h{host} with {at_least} or more from {from}");
        wait_for(&what, PATIENCE, async || {
            let routes = self.switch.json("show bgp l2vpn evpn route type macip json").await?;
            let all = shown(&routes, mac);
            let mut from = all.iter().filter(|took| took.from == from);
            let took = from.next().with_context(|| format!("not among {all:?}"))?;
            ensure!(took.next_hop == vtep(host) && took.sequence >= at_least, "{took:?}");
            Ok(took.clone())
        })
        .await
    }

    /// An error if a sequence that this controller told its peers was below one before.
    fn only_grows(&self, mac: &str, from: &str) -> Result<()> {
        let mut all = self.recorder.taken(mac)?;
        all.retain(|took| took.from == from);
        ensure!(all.len() > 3, "too little was told: {all:?}");
        ensure!(all.windows(2).all(|pair| pair[0].sequence <= pair[1].sequence), "it went down: {all:?}");
        println!("{mac} from {from}: {:?}", all.iter().map(|took| took.sequence).collect::<Vec<_>>());
        Ok(())
    }

    /// All that happened to ports since, as one stream of a client tells it: names, with `-` in front if gone.
    async fn watch(&self) -> Result<Watched> {
        let mut stream = self.ports()?.watch_ports(v1::WatchPortsRequest::default()).await?.into_inner();
        let heard: Arc<Mutex<Vec<String>>> = Arc::default();
        let tell = Arc::clone(&heard);
        let task = tokio::spawn(async move {
            while let Ok(Some(message)) = stream.message().await {
                let at = message.revision;
                let word = match message.event {
                    Some(Event::Changed(port)) => {
                        let node = port.binding.map(|binding| binding.node).unwrap_or_default();
                        format!("{}@{node} {at}", port.key.map(|key| key.name).unwrap_or_default())
                    }
                    Some(Event::Deleted(key)) => format!("-{} {at}", key.name),
                    _ => continue,
                };
                tell.lock().unwrap_or_else(PoisonError::into_inner).push(word);
            }
        });
        Ok(Watched { heard, task: task.abort_handle() })
    }

    async fn history(&self, address: &str) -> Result<Vec<v1::Event>> {
        let request = v1::ListAddressHistoryRequest { address: address.into(), ..Default::default() };
        let mut client = HistoryServiceClient::new(self.controllers[0].channel()?);
        Ok(client.list_address_history(request).await?.into_inner().events)
    }

    /// Nobody has fallen over.
    fn nobody_panics(&self) -> Result<()> {
        for controller in &self.controllers {
            ensure!(!controller.daemon()?.log().contains("panicked"), "a controller panicked");
        }
        ensure!(!self.agents.iter().any(|agent| agent.log().contains("panicked")), "an agent panicked");
        Ok(())
    }
}

struct Watched {
    heard: Arc<Mutex<Vec<String>>>,
    task: AbortHandle,
}

impl Watched {
    fn heard(&self) -> Vec<String> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner).clone()
    }
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.task.abort();
    }
}

/// One controller, which stays up.
async fn stays_up(core: &Netns, version: EtcdVersion) -> Result<()> {
    let mut stage = Stage::start(core, version, 1).await?;
    let home = Netns::new("home").await?;
    let port = stage.place("a", 0, &stage.workloads[0]).await?;
    let lonely = stage.place("lonely", 0, &home).await?;
    stage.takes(&port.mac, OURS[0], 0, 0).await?;
    stage.etcd.save(&stage.copy).await?;
    // Since then: three moves of one, one of the other, whose first home is gone, and a new one.
    for host in [1, 0, 1] {
        stage.place("a", host, &stage.workloads[host]).await?;
    }
    let elsewhere = Netns::new("else").await?;
    stage.place("lonely", 1, &elsewhere).await?;
    drop(home);
    let late = Netns::new("late").await?;
    stage.place("late", 0, &late).await?;
    let before = stage.takes(&port.mac, OURS[0], 1, 3).await?;
    stage.takes(&lonely.mac, OURS[0], 1, 1).await?;
    let watched = stage.watch().await?;
    let address = port.addresses.first().context("an address")?.clone();
    ensure!(!stage.history(&address).await?.is_empty());

    stage.etcd.restore(&stage.copy, &[]).await?;
    // The store's word for the place is all there is, and its agent has it there: at a sequence that switches follow.
    stage.reaches("a", 0).await?;
    stage.takes(&port.mac, OURS[0], 0, before.sequence).await?;
    wait_for("the store knows the sequence again", PATIENCE, async || {
        let found = stage.history(&address).await?;
        ensure!(found.iter().any(|event| event.kind() == v1::EventKind::Repaired), "{found:?}");
        Ok(())
    })
    .await?;
    // Where the copy says something that is not so, somebody is told.
    wait_for("an agent says that a workload is not where it should be", PATIENCE, async || {
        let port = stage.get("lonely").await?;
        ensure!(port.problem.contains("netns"), "{:?} {:?}", port.state(), port.problem);
        Ok(())
    })
    .await?;
    wait_for("a client's watch goes on", PATIENCE, async || {
        let heard = watched.heard();
        let has = |word: &str| heard.iter().any(|heard| heard.starts_with(word));
        ensure!(has("a@h0") && has("-late"), "{heard:?}");
        Ok(())
    })
    .await?;
    let missing = stage.get("late").await;
    ensure!(missing.is_err(), "what was made since is not known: {missing:?}");
    // Life goes on above everything.
    stage.place("a", 1, &stage.workloads[1]).await?;
    let moved = stage.takes(&port.mac, OURS[0], 1, before.sequence + 1).await?;
    println!("before {before:?}, moved again {moved:?}");
    stage.place("lonely", 1, &elsewhere).await?;
    for mac in [&port.mac, &lonely.mac] {
        stage.only_grows(mac, OURS[0])?;
    }
    stage.nobody_panics()
}

/// Two controllers, of which one starts after the restore and knows nothing of what was.
async fn one_starts_anew(core: &Netns, version: EtcdVersion) -> Result<()> {
    let mut stage = Stage::start(core, version, 2).await?;
    let port = stage.place("a", 0, &stage.workloads[0]).await?;
    for from in OURS {
        stage.takes(&port.mac, from, 0, 0).await?;
    }
    stage.etcd.save(&stage.copy).await?;
    for host in [1, 0, 1, 0] {
        stage.place("a", host, &stage.workloads[host]).await?;
    }
    for from in OURS {
        stage.takes(&port.mac, from, 0, 4).await?;
    }
    stage.controllers[1].kill()?;
    stage.etcd.restore(&stage.copy, &[]).await?;
    stage.controllers[1].restart().await?;
    answers(&stage.controllers[1]).await?;
    for from in OURS {
        stage.takes(&port.mac, from, 0, 4).await?;
    }
    stage.reaches("a", 0).await?;
    // What the switch follows never went back: that is the word of the one that stayed.
    stage.only_grows(&port.mac, OURS[0])?;
    // Both agents are there, as both controllers say: the copy knew nothing of their claims.
    for controller in &stage.controllers {
        wait_for("both agents are connected", PATIENCE, async || {
            let mut fabric = FabricServiceClient::new(controller.channel()?);
            let nodes = fabric.list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
            ensure!(nodes.iter().filter(|node| node.connected).count() == 2, "{nodes:?}");
            Ok(())
        })
        .await?;
    }
    stage.place("a", 1, &stage.workloads[1]).await?;
    for from in OURS {
        stage.takes(&port.mac, from, 1, 5).await?;
    }
    stage.nobody_panics()
}

#[test]
fn sequences_only_grow_over_a_restore_of_etcd() -> Result<()> {
    for version in EtcdVersion::ALL {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let core = runtime.block_on(Netns::new("core"))?;
        core.enter(async || stays_up(&core, version).await).with_context(|| format!("etcd {version:?}"))?;
    }
    Ok(())
}

#[test]
fn a_controller_that_starts_after_a_restore_does_not_undercut() -> Result<()> {
    for version in EtcdVersion::ALL {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
        let core = runtime.block_on(Netns::new("core"))?;
        core.enter(async || one_starts_anew(&core, version).await)
            .with_context(|| format!("etcd {version:?}"))?;
    }
    Ok(())
}
