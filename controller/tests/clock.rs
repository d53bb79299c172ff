//! Two controllers whose wall clocks differ by a day, and jump: moves take their time, windows stay open, quarantines go on,
//! and the history knows what came after what.

mod support;

use std::sync::Arc;

use anyhow::{Context, Result, ensure};
use causeway_controller::clock::Clock;
use causeway_controller::store::{FileStore, Store};
use causeway_proto::v1::history_service_client::HistoryServiceClient;
use causeway_proto::v1::move_service_client::MoveServiceClient;
use causeway_proto::v1::{self, MovePhase, PortState};
use support::robots::{Plane, Robot};
use support::*;
use tokio::sync::watch;
use tonic::transport::Channel;

const DAY_MS: i64 = 24 * 3600 * 1000;

/// A controller whose clock is right, with the agent of h1, and one whose clock is not, with that of h2.
struct World {
    right: Lab,
    wrong: Lab,
    clock: Clock,
    plane: Plane,
    _robots: [Robot; 2],
    _channels: [watch::Sender<Option<Channel>>; 2],
    _directory: tempfile::TempDir,
}

impl World {
    async fn new(ahead_ms: i64) -> Result<World> {
        let directory = tempfile::tempdir()?;
        let store: Arc<dyn Store> = Arc::new(FileStore::open(directory.path().join("store.redb")).await?);
        let clock = Clock::default();
        clock.set_ahead(ahead_ms);
        // The first one sweeps.
        let wrong = Lab::start_by(Arc::clone(&store), 2, clock.clone()).await?;
        let right = Lab::start_on(store, 1).await?;
        right.apply(sample()).await?;
        let plane = Plane::default();
        let (one, to_one) = watch::channel(Some(right.channel.clone()));
        let (two, to_two) = watch::channel(Some(wrong.channel.clone()));
        let robots = [Robot::start("h1", &plane, to_one), Robot::start("h2", &plane, to_two)];
        let world = World {
            right,
            wrong,
            clock,
            plane,
            _robots: robots,
            _channels: [one, two],
            _directory: directory,
        };
        world.right.create("a", Some("h1")).await?;
        world.right.wait_state("a", PortState::Programmed).await?;
        wait_for("both agents", async || {
            let nodes = world.right.fabric().list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
            Ok(nodes.iter().all(|node| node.connected).then_some(()))
        })
        .await?;
        Ok(world)
    }

    async fn phase(&self, wanted: MovePhase) -> Result<v1::Move> {
        let mut moves = MoveServiceClient::new(self.right.channel.clone());
        let mut last = None;
        let found = wait_for(&format!("the move in {wanted:?}"), async || {
            last = moves.list_moves(v1::ListMovesRequest::default()).await?.into_inner().moves.pop();
            Ok(last.clone().filter(|last| last.phase() == wanted))
        })
        .await;
        found.with_context(|| format!("it is {last:?}"))
    }

    async fn answers_at(&self, node: &str) -> Result<()> {
        wait_for(&format!("port a answers at {node}"), async || {
            Ok((self.plane.answering("a") == [node]).then_some(()))
        })
        .await?;
        ensure!(self.plane.doubles().is_empty(), "{:?}", self.plane.doubles());
        Ok(())
    }
}

fn migrate(node: &str) -> v1::MigratePortRequest {
    v1::MigratePortRequest {
        key: Some(key("a")),
        to: Some(binding(node)),
        max_loss_ms: 60_000,
        window_seconds: 600,
        ..v1::MigratePortRequest::default()
    }
}

async fn there_and_back(ahead_ms: i64) -> Result<()> {
    let world = World::new(ahead_ms).await?;
    let clients = [&world.right, &world.wrong].map(|lab| MoveServiceClient::new(lab.channel.clone()));
    let back = v1::RollbackPortRequest { key: Some(key("a")), ..v1::RollbackPortRequest::default() };
    for mut client in clients {
        client.migrate_port(migrate("h2")).await?;
        world.phase(MovePhase::Hold).await?;
        world.answers_at("h2").await?;
        // The clock that is wrong is now wrong the other way; the window is open still.
        world.clock.set_ahead(-ahead_ms);
        let rollback = client.rollback_port(back.clone()).await;
        rollback.context("the window of ten minutes closed within a moment")?;
        world.phase(MovePhase::Undone).await?;
        world.answers_at("h1").await?;
        world.clock.set_ahead(ahead_ms);
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_between_controllers_takes_its_time_while_a_clock_is_ahead() -> Result<()> {
    there_and_back(DAY_MS).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_move_between_controllers_takes_its_time_while_a_clock_is_behind() -> Result<()> {
    there_and_back(-DAY_MS).await
}

/// Each controller does something to the port in turns; what it is now and what came after what does not depend on clocks.
#[tokio::test(flavor = "multi_thread")]
async fn the_history_is_in_order_and_says_who_has_it_now() -> Result<()> {
    for ahead_ms in [DAY_MS, -DAY_MS] {
        let world = World::new(ahead_ms).await?;
        let address = world.right.get("a").await?.addresses.first().cloned().context("an address")?;
        let steps = [(&world.wrong, ""), (&world.right, "h2"), (&world.right, ""), (&world.wrong, "h1")];
        for (lab, node) in steps {
            match node {
                "" => lab.unbind("a").await?,
                node => lab.bind("a", node).await?,
            };
            world.clock.set_ahead(-ahead_ms);
        }
        let mut history = HistoryServiceClient::new(world.right.channel.clone());
        wait_for("the last event", async || {
            let request = v1::ListAddressHistoryRequest { address: address.clone(), ..Default::default() };
            let told = history.list_address_history(request).await?.into_inner().events;
            let nodes: Vec<&str> = told.iter().map(|event| event.node.as_str()).collect();
            ensure!(told.is_sorted_by(|a, b| a.revision > b.revision), "{told:#?}");
            Ok((nodes == ["h1", "", "h2", "", "h1"]).then_some(()))
        })
        .await?;
        let request = v1::GetAddressHolderRequest { address: address.clone(), ..Default::default() };
        let holder = history.get_address_holder(request).await?.into_inner();
        ensure!(holder.node == "h1" && holder.port.as_ref().is_some_and(|key| key.name == "a"), "{holder:?}");
        // Given up by the one, asked for by another name at the other: it is in quarantine for all of its time.
        let release = v1::ReleasePortRequest { key: Some(key("a")), forget: true, ..Default::default() };
        world.wrong.ports().release_port(release).await?;
        world.right.wait_state("a", PortState::Quarantined).await?;
        let create = v1::CreatePortRequest {
            key: Some(key("b")),
            addresses: vec![address.clone()],
            ..v1::CreatePortRequest::default()
        };
        for lab in [&world.right, &world.wrong] {
            let status = refused(lab.ports().create_port(create.clone()).await)?;
            ensure!(status.message().contains("has it in quarantine"), "{status:?}");
        }
        ensure!(world.right.create("a", None).await?.addresses == [address], "its own name gets it back");
    }
    Ok(())
}
