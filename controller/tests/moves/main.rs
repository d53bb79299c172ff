//! Moves through the API, with agents that do what they are told, die, or do not listen, and controllers that are killed
//! at any transaction. No port may answer at two nodes at any time.

#[path = "../support/mod.rs"]
mod support;

mod bare;
mod many;
mod watcher;
mod world;

use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use causeway_proto::v1::history_service_client::HistoryServiceClient;
use causeway_proto::v1::{self, MovePhase, PortStage};
use support::gated::Cut;
use support::robots::Habit;
use support::*;
use tokio::sync::Semaphore;
use tonic::{Code, Request, Status};
use world::World;

fn to(node: &str) -> v1::MigratePortRequest {
    v1::MigratePortRequest {
        key: Some(key("a")),
        to: Some(binding(node)),
        prepare_seconds: 2,
        // What a switch takes under test is not what is tested.
        max_loss_ms: 60_000,
        ..v1::MigratePortRequest::default()
    }
}

fn back() -> v1::RollbackPortRequest {
    v1::RollbackPortRequest { key: Some(key("a")), ..v1::RollbackPortRequest::default() }
}

const OVER: [MovePhase; 2] = [MovePhase::Done, MovePhase::Undone];

/// One move to a node, there and if wanted back again, in which the first controller dies at one transaction.
async fn killed(death: Cut, returns: bool, away: v1::Binding) -> Result<()> {
    let mut world = World::new(Some(death)).await?;
    let window_seconds = if returns { 60 } else { 1 };
    let target = away.node.clone();
    let order = v1::MigratePortRequest { window_seconds, prepare_seconds: 10, to: Some(away), ..to(&target) };
    let gate = Arc::clone(&world.gate);
    let course = async {
        let begun = world.moves().migrate_port(order.clone()).await;
        if returns && begun.is_ok() {
            world.phase(&[MovePhase::Hold]).await?;
            // It may die with the answer on its way.
            let _ = world.moves().rollback_port(back()).await;
        }
        std::future::pending::<Result<()>>().await
    };
    tokio::select! {
        ended = course => ended?,
        () = gate.shut() => {}
        () = tokio::time::sleep(PATIENCE) => bail!("it did not die"),
    }
    let before = world.plane.answering("a");
    world.next_controller(2).await?;
    let mut shown = None;
    let ended = wait_for("the end of the move", async || {
        let Some(last) = world.last().await? else { return Ok(Some(None)) };
        shown = Some(last.clone());
        if returns && last.phase() == MovePhase::Hold {
            let _ = world.moves().rollback_port(back()).await;
        }
        Ok(OVER.contains(&last.phase()).then_some(Some(last)))
    })
    .await;
    let last = ended.with_context(|| format!("it is {shown:?}"))?;
    let home = match &last {
        // It died before there was a move.
        None => {
            ensure!(death.at == 1 && !death.after, "the move is forgotten");
            "h1"
        }
        Some(last) if last.phase() == MovePhase::Done => &target,
        Some(_) => "h1",
    };
    ensure!(!returns || home == "h1", "taken back, it is at {home}: {last:?}");
    // Nobody has to hurry after a crash: what was switched stays switched.
    ensure!(returns || death.at < 4 || home == target, "it was there already: {last:?}");
    world.answers_at(home).await.with_context(|| format!("before: {before:?}; {last:?}"))?;
    let generation = world.lab.get("a").await?.binding.map(|b| b.generation).unwrap_or_default();
    ensure!(home == "h1" || generation > 1, "the sequence did not grow");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_killed_at_any_transaction_leaves_a_move_that_ends() -> Result<()> {
    tokio::task::LocalSet::new().run_until(all_deaths()).await
}

/// Some at once: most of the time they wait, but a side that is kept from its work for two seconds ends a move.
async fn all_deaths() -> Result<()> {
    let (room, mut cases) = (Arc::new(Semaphore::new(8)), tokio::task::JoinSet::new());
    let deaths = [(5, false), (6, true)].into_iter().flat_map(|(most, returns)| {
        (1..=most).flat_map(move |at| [false, true].map(|after| (Cut { at, after }, returns)))
    });
    for (death, returns) in deaths {
        for away in [binding("h2"), bare::machine("le", "swp9")] {
            let room = Arc::clone(&room);
            let case = format!("{death:?}, to {}, returns: {returns}", away.node);
            cases.spawn_local(async move {
                let _permit = room.acquire_owned().await?;
                killed(death, returns, away).await.context(case)
            });
        }
    }
    while let Some(case) = cases.join_next().await {
        case??;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_before_the_switch_changes_nothing() -> Result<()> {
    let world = World::new(None).await?;
    world.h2.set(Habit::DieOn(PortStage::Prepared));
    world.moves().migrate_port(to("h2")).await?;
    world.phase_because(MovePhase::Undone, "node h2 has no agent connected").await?;
    world.answers_at("h1").await?;
    // One that is there and does nothing is no better.
    world.h2.set(Habit::IgnoreOn(PortStage::Prepared));
    world.connected("h2", true).await?;
    world.moves().migrate_port(to("h2")).await?;
    world.phase_because(MovePhase::Undone, "not prepared").await?;
    world.answers_at("h1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_behind_the_switch_keeps_the_port_until_it_is_heard_or_fenced() -> Result<()> {
    let world = World::new(None).await?;
    world.h2.set(Habit::DieOn(PortStage::Active));
    world.moves().migrate_port(to("h2")).await?;
    // It goes back, but nobody knows whether the target answers: nobody else may.
    let last = world.phase_because(MovePhase::Return, "node fence h2").await?;
    ensure!(world.plane.answering("a").is_empty(), "{last:?}");
    ensure!(world.lab.get("a").await?.state() == v1::PortState::Moving);
    world.h2.set(Habit::Obey);
    world.phase(&[MovePhase::Undone]).await?;
    world.answers_at("h1").await?;

    // The same with a target that stays away: a fence decides.
    world.h2.set(Habit::DieOn(PortStage::Active));
    world.moves().migrate_port(to("h2")).await?;
    world.phase(&[MovePhase::Return]).await?;
    world.plane.cut("h2");
    let fence = v1::FenceNodeRequest { node: "h2".into(), reason: "it burns".into() };
    world.moves().fence_node(fence).await?;
    world.phase(&[MovePhase::Undone]).await?;
    world.answers_at("h1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_target_that_dies_in_the_window_or_on_the_way_back_keeps_the_port_until_it_is_heard() -> Result<()>
{
    let world = World::new(None).await?;
    let order = v1::MigratePortRequest { window_seconds: 60, ..to("h2") };
    world.moves().migrate_port(order).await?;
    world.phase(&[MovePhase::Hold]).await?;
    // It dies as soon as it hears that it shall stop, so nobody knows whether it did.
    world.h2.set(Habit::DieOn(PortStage::Held));
    world.moves().rollback_port(back()).await?;
    world.phase_because(MovePhase::Return, "node fence h2").await?;
    ensure!(world.lab.get("a").await?.state() == v1::PortState::Moving);
    ensure!(world.plane.answering("a") == ["h2"], "nobody else may, and it does still");
    world.h2.set(Habit::Obey);
    world.phase(&[MovePhase::Undone]).await?;
    world.answers_at("h1").await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_does_not_stop_keeps_the_port() -> Result<()> {
    let world = World::new(None).await?;
    world.h1.set(Habit::IgnoreOn(PortStage::Held));
    world.moves().migrate_port(to("h2")).await?;
    world.phase_because(MovePhase::Undone, "node h1 did not stop within 2 s").await?;
    world.h1.set(Habit::Obey);
    world.answers_at("h1").await
}

fn message(result: Result<impl std::fmt::Debug, Status>) -> Result<String> {
    let status = refused(result)?;
    ensure!(status.code() != Code::Internal, "{status:?}");
    Ok(format!("{} {}", status.message(), detail(&status)?.hint))
}

#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_moved_is_refused_with_what_to_do() -> Result<()> {
    let world = World::new(None).await?;
    let refusal = async |request| message(world.moves().migrate_port(request).await.map(|_| ()));
    ensure!(refusal(to("h1")).await?.contains("is on node h1 already"));
    ensure!(refusal(to("h9")).await?.contains("node h9 does not exist"));
    let unknown = v1::MigratePortRequest { key: Some(key("zz")), ..to("h2") };
    ensure!(refusal(unknown).await?.contains("does not exist"));
    let nowhere = v1::MigratePortRequest { to: None, ..to("h2") };
    ensure!(refusal(nowhere).await?.contains("to: is required"));
    let long = v1::MigratePortRequest { window_seconds: 100_000, ..to("h2") };
    ensure!(refusal(long).await?.contains("window_seconds: 100000 is more than 86400"));

    // A node that the network does not reach.
    let narrow = v1::Node {
        name: "h3".into(),
        mode: v1::NodeMode::HostVtep.into(),
        vtep: "10.0.0.3".into(),
        underlay_mtu: 1400,
        ..v1::Node::default()
    };
    world.lab.apply(vec![resource(v1::resource::Spec::Node(narrow))]).await?;
    let text = refusal(to("h3")).await?;
    ensure!(text.contains("has an underlay of 1400 bytes, network default/web needs"), "{text}");

    // Twice at once to the same place is one move; to another it is refused. Unbound, the move is void.
    world.h2.set(Habit::IgnoreOn(PortStage::Prepared));
    let (one, same) = tokio::join!(async { world.moves().migrate_port(to("h2")).await }, async {
        world.moves().migrate_port(to("h2")).await
    });
    ensure!(one.is_ok() && same.is_ok(), "{one:?} {same:?}");
    let other = v1::Binding { netns: "/run/netns/other".into(), ..binding("h2") };
    let text = refusal(v1::MigratePortRequest { to: Some(other), ..to("h2") }).await?;
    ensure!(text.contains("is moving to node h2 already (phase prepare)"), "{text}");
    let delete = v1::DeleteResourceRequest { kind: v1::Kind::Node.into(), name: "h2".into() };
    let text = message(world.lab.config().delete_resource(delete).await)?;
    ensure!(text.contains("while ports are moving") && text.contains("port rollback"), "{text}");
    world.lab.unbind("a").await?;
    world.phase_because(MovePhase::Undone, "unbound").await?;
    world.h2.set(Habit::Obey);
    ensure!(refusal(to("h2")).await?.contains("is bound nowhere"));
    let release = v1::ReleasePortRequest { key: Some(key("a")), ..Default::default() };
    world.lab.ports().release_port(release).await?;
    ensure!(refusal(to("h2")).await?.contains("is bound nowhere"));
    let text = message(world.moves().rollback_port(back()).await.map(|_| ()))?;
    ensure!(text.contains("is back where it was already"), "{text}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_node_is_left_only_behind_a_fence_or_by_force() -> Result<()> {
    let world = World::new(None).await?;
    // Its agent is gone, and has confirmed nothing.
    let World { h1, .. } = &world;
    h1.set(Habit::DieOn(PortStage::Active));
    let rate = v1::UpdatePortRequest {
        key: Some(key("a")),
        rate: Some(v1::RateLimit { in_kbit: 1000, out_kbit: 0 }),
        ..v1::UpdatePortRequest::default()
    };
    world.lab.ports().update_port(rate).await?;
    world.connected("h1", false).await?;
    let text = message(world.moves().migrate_port(to("h2")).await.map(|_| ()))?;
    ensure!(text.contains("it may still answer there") && text.contains("causeway node fence h1"), "{text}");
    world.lab.unbind("a").await?;
    let bind = |force| v1::BindPortRequest { key: Some(key("a")), binding: Some(binding("h2")), force };
    let text = message(world.lab.ports().bind_port(bind(false)).await)?;
    ensure!(text.contains("has not confirmed that the port is down"), "{text}");

    // A reason is required, and a fence is enough.
    let fence = |reason: &str| v1::FenceNodeRequest { node: "h1".into(), reason: reason.into() };
    let text = message(world.moves().fence_node(fence("")).await)?;
    ensure!(text.contains("reason: is required"), "{text}");
    world.plane.cut("h1");
    let fenced = world.moves().fence_node(fence("power lost")).await?.into_inner();
    ensure!(!fenced.connected, "{fenced:?}");
    world.lab.ports().bind_port(bind(false)).await?;
    world.answers_at("h2").await?;
    let unfence = v1::UnfenceNodeRequest { node: "h1".into() };
    ensure!(world.moves().unfence_node(unfence.clone()).await?.into_inner().was_fenced);
    ensure!(!world.moves().unfence_node(unfence).await?.into_inner().was_fenced, "once is enough");

    // By force it is bound as well, and that stays in the history.
    world.lab.unbind("a").await?;
    let home = v1::BindPortRequest { key: Some(key("a")), binding: Some(binding("h1")), force: false };
    world.lab.ports().bind_port(home).await?;
    world.lab.unbind("a").await?;
    let mut by_force = Request::new(bind(true));
    by_force.metadata_mut().insert("causeway-actor", "op@desk".parse()?);
    world.lab.ports().bind_port(by_force).await?;
    let told = events(&world.lab, "a").await?;
    let last = told.last().context("an event")?;
    ensure!(last.cause.contains("by force: node h1 is silent") && last.actor == "op@desk", "{last:?}");
    Ok(())
}

async fn events(lab: &Lab, port: &str) -> Result<Vec<v1::Event>> {
    let filter = port_filter(port);
    let request = v1::WatchEventsRequest { filter, ..v1::WatchEventsRequest::default() };
    let mut stream = HistoryServiceClient::new(lab.channel.clone()).watch_events(request).await?.into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.extend(message.events);
    }
    Ok(all)
}

fn port_filter(port: &str) -> Option<v1::EventFilter> {
    (!port.is_empty()).then(|| v1::EventFilter { port: Some(key(port)), ..v1::EventFilter::default() })
}

#[tokio::test(flavor = "multi_thread")]
async fn every_step_is_in_the_history_with_who_asked() -> Result<()> {
    let world = World::new(None).await?;
    let mut order = Request::new(v1::MigratePortRequest { window_seconds: 60, ..to("h2") });
    order.metadata_mut().insert("causeway-actor", "op@desk".parse()?);
    world.moves().migrate_port(order).await?;
    let last = world.phase(&[MovePhase::Hold]).await?;
    ensure!(last.by == "op@desk", "{last:?}");
    world.answers_at("h2").await?;
    world.moves().rollback_port(back()).await?;
    world.phase(&[MovePhase::Undone]).await?;
    world.answers_at("h1").await?;
    let told = events(&world.lab, "a").await?;
    let kinds: Vec<_> = told.iter().map(|event| (event.kind(), event.cause.as_str())).collect();
    use v1::EventKind::{Bound, Created, Moved, Moving, RolledBack};
    let words = [
        (Moving, "move h1 → h2: the target prepares"),
        (Moving, "move h1 → h2: the source stops"),
        (Moved, "move h1 → h2: switched"),
        (Moving, "move h1 → h2: it is there, the source is kept"),
        (Moving, "move h1 → h2: it goes back, the target stops: asked to go back"),
        (RolledBack, "move h1 → h2: undone: asked to go back"),
    ];
    ensure!(matches!(kinds[0].0, Created | Bound) && kinds[1..] == words, "{kinds:#?}");
    ensure!(told[1..].iter().filter(|e| e.actor == "op@desk").count() >= 5, "{told:#?}");
    // The same by the port's own chain of events, which its timeline reads.
    let request = v1::GetPortTimelineRequest { key: Some(key("a")), limit: 0 };
    let mut history = HistoryServiceClient::new(world.lab.channel.clone());
    let timeline = history.get_port_timeline(request).await?.into_inner();
    let found = timeline.steps.iter().filter_map(|step| step.event.as_ref());
    let found: Vec<_> = found.map(|event| (event.kind(), event.cause.as_str())).collect();
    ensure!(words.iter().all(|word| found.contains(word)), "{found:#?}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_is_drained_some_at_a_time() -> Result<()> {
    let world = World::new(None).await?;
    for name in ["b", "c", "d"] {
        world.lab.create(name, Some("h1")).await?;
        world.lab.wait_state(name, v1::PortState::Programmed).await?;
    }
    let request = v1::DrainNodeRequest {
        node: "h1".into(),
        concurrency: 2,
        max_loss_ms: 60_000,
        ..v1::DrainNodeRequest::default()
    };
    let mut stream = world.moves().drain_node(request.clone()).await?.into_inner();
    let mut said = Vec::new();
    while let Some(message) = stream.message().await? {
        let active =
            world.moves().list_moves(v1::ListMovesRequest { active: true, ..Default::default() }).await?;
        let under_way = |m: &v1::Move| m.phase() != MovePhase::Hold;
        let under_way = active.into_inner().moves.iter().filter(|m| under_way(m)).count();
        ensure!(under_way <= 2, "{under_way} at once");
        said.push(message);
    }
    let last = said.last().context("progress")?;
    ensure!((last.total, last.done, last.failed) == (4, 4, 0) && said.len() == 5, "{said:#?}");
    for name in ["a", "b", "c", "d"] {
        ensure!(world.plane.answering(name) == ["h2"], "{name}");
    }
    ensure!(world.plane.doubles().is_empty(), "{:?}", world.plane.doubles());
    // An empty node is drained already; one with nowhere to go to says so.
    let mut none = world.moves().drain_node(request).await?.into_inner();
    ensure!(none.message().await?.is_some_and(|m| m.total == 0) && none.message().await?.is_none());
    let alone = v1::DrainNodeRequest { node: "h2".into(), to: "h2".into(), ..Default::default() };
    let text = message(world.moves().drain_node(alone).await.map(|_| ()))?;
    ensure!(text.contains("is the node to drain"), "{text}");
    Ok(())
}
