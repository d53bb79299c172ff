//! A store, a controller on it, nodes and switches.

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use causeway_controller::store::{FileStore, Store};
use causeway_proto::v1::move_service_client::MoveServiceClient;
use causeway_proto::v1::{self, MovePhase};
use tokio::sync::watch;
use tonic::transport::Channel;

use crate::support::gated::{Cut, GatedStore};
use crate::support::robots::{Plane, Robot};
use crate::support::*;

/// [`sample`] with a VLAN and IPv6 for its network; `le`, `la` and `ls`: switches that learn, that our agent programs, and that
/// nobody does; `be` and `ba`: servers of their own behind the first two; `h3`: from where others look.
fn resources() -> Vec<v1::Resource> {
    use v1::resource::Spec;
    let web = v1::Network { name: "web".into(), vni: 110, vlan: 11, ..v1::Network::default() };
    let switch = |name: &str, mode: v1::NodeMode, vtep: &str| {
        let node =
            v1::Node { name: name.into(), mode: mode.into(), vtep: vtep.into(), ..v1::Node::default() };
        resource(Spec::Node(node))
    };
    let server = |name: &str, behind: &str| {
        let uplink =
            v1::Uplink { interface: "eth1".into(), switch: behind.into(), switch_interface: "swp7".into() };
        let mode = v1::NodeMode::Host.into();
        resource(Spec::Node(v1::Node {
            name: name.into(),
            mode,
            uplinks: vec![uplink],
            ..v1::Node::default()
        }))
    };
    let mut all = sample();
    all[0] = resource(Spec::Network(web));
    all.extend([
        subnet("web", "fd00:8::/64", ""),
        node("h3", "10.0.0.3"),
        switch("le", v1::NodeMode::TorEvpn, "10.0.0.11"),
        switch("la", v1::NodeMode::TorAgent, "10.0.0.12"),
        switch("ls", v1::NodeMode::TorStatic, "10.0.0.13"),
        server("be", "le"),
        server("ba", "la"),
    ]);
    all
}

/// A store, a controller on it, and two nodes; port `a` is on the first.
pub(crate) struct World {
    store: Arc<dyn Store>,
    pub(crate) lab: Lab,
    pub(crate) gate: Arc<GatedStore>,
    controller: watch::Sender<Option<Channel>>,
    pub(crate) plane: Plane,
    pub(crate) h1: Robot,
    pub(crate) h2: Robot,
    _directory: tempfile::TempDir,
}

impl World {
    pub(crate) async fn new(death: Option<Cut>) -> Result<World> {
        let directory = tempfile::tempdir()?;
        let store: Arc<dyn Store> = Arc::new(FileStore::open(directory.path().join("store.redb")).await?);
        let gate = GatedStore::cut_at(Arc::clone(&store), death);
        let lab = Lab::start_on(gate.clone(), 1).await?;
        lab.apply(resources()).await?;
        lab.create("a", Some("h1")).await?;
        let (controller, receiver) = watch::channel(Some(lab.channel.clone()));
        let plane = Plane::default();
        let h1 = Robot::start("h1", &plane, receiver.clone());
        let h2 = Robot::start("h2", &plane, receiver);
        let world = World { store, lab, gate, controller, plane, h1, h2, _directory: directory };
        world.lab.wait_state("a", v1::PortState::Programmed).await?;
        world.connected("h2", true).await?;
        Ok(world)
    }

    /// The controller is gone without a word, and another one takes over.
    pub(crate) async fn next_controller(&mut self, number: u8) -> Result<()> {
        self.controller.send_replace(None);
        self.gate = GatedStore::new(Arc::clone(&self.store));
        self.lab = Lab::start_on(self.gate.clone(), number).await?;
        self.controller.send_replace(Some(self.lab.channel.clone()));
        Ok(())
    }

    /// The agent of another node, at whatever controller there is.
    pub(crate) fn robot(&self, node: &str) -> Robot {
        Robot::start(node, &self.plane, self.controller.subscribe())
    }

    pub(crate) fn moves(&self) -> MoveServiceClient<Channel> {
        MoveServiceClient::new(self.lab.channel.clone())
    }

    pub(crate) async fn connected(&self, node: &str, wanted: bool) -> Result<()> {
        wait_for(&format!("agent of {node} connected: {wanted}"), async || {
            let nodes = self.lab.fabric().list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
            Ok(nodes
                .iter()
                .any(|n| n.node.as_ref().is_some_and(|n| n.name == node) && n.connected == wanted)
                .then_some(()))
        })
        .await
    }

    /// The last move of port `a`.
    pub(crate) async fn last(&self) -> Result<Option<v1::Move>> {
        let request = v1::ListMovesRequest::default();
        Ok(self.moves().list_moves(request).await?.into_inner().moves.pop())
    }

    pub(crate) async fn phase(&self, wanted: &[MovePhase]) -> Result<v1::Move> {
        wait_for(&format!("the move in {wanted:?}"), async || {
            Ok(self.last().await?.filter(|last| wanted.contains(&last.phase())))
        })
        .await
    }

    /// [`World::phase`] with a reason that says this.
    pub(crate) async fn phase_because(&self, wanted: MovePhase, why: &str) -> Result<v1::Move> {
        wait_for(&format!("the move in {wanted:?}, because of '{why}'"), async || {
            Ok(self.last().await?.filter(|last| last.phase() == wanted && last.reason.contains(why)))
        })
        .await
    }

    pub(crate) async fn answers_at(&self, node: &str) -> Result<()> {
        // A machine of its own answers when somebody lets it.
        let answering: &[&str] = if node.starts_with('h') { &[node] } else { &[] };
        wait_for(&format!("port a answers at {node}"), async || {
            Ok((self.plane.answering("a") == answering).then_some(()))
        })
        .await
        .with_context(|| format!("it answers at {:?}", self.plane.answering("a")))?;
        let port = self.lab.get("a").await?;
        ensure!(port.binding.as_ref().is_some_and(|b| b.node == node), "{port:?}");
        ensure!(self.plane.doubles().is_empty(), "{:?}", self.plane.doubles());
        Ok(())
    }
}
