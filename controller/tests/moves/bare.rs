//! Moves to and from machines of their own, which no agent prepares, stops or speaks for.

use anyhow::{Context, Result, ensure};
use causeway_proto::v1::{self, MovePhase};

use crate::support::robots::Habit;
use crate::support::*;
use crate::watcher::Watcher;
use crate::world::World;
use crate::{back, message, to};

/// A machine on an interface of a switch; without one, behind a server of its own.
pub(crate) fn machine(node: &str, interface: &str) -> v1::Binding {
    v1::Binding {
        node: node.into(),
        interface: interface.into(),
        kind: v1::WorkloadKind::BareMetal.into(),
        ..v1::Binding::default()
    }
}

/// All places where a machine of its own can be, and the VTEP that says it.
fn places() -> [(v1::Binding, &'static str); 5] {
    [
        (machine("le", "swp9"), "10.0.0.11"),
        (machine("la", "swp9"), "10.0.0.12"),
        (machine("ls", "swp9"), "10.0.0.13"),
        (machine("be", ""), "10.0.0.11"),
        (machine("ba", ""), "10.0.0.12"),
    ]
}

fn order(place: &v1::Binding) -> v1::MigratePortRequest {
    v1::MigratePortRequest { to: Some(place.clone()), window_seconds: 60, ..to(&place.node) }
}

/// A container at `h1`, of which nothing was said before.
fn container() -> v1::MigratePortRequest {
    let place = v1::Binding { kind: v1::WorkloadKind::Container.into(), ..binding("h1") };
    v1::MigratePortRequest { to: Some(place), window_seconds: 60, ..to("h1") }
}

impl World {
    /// Ends the window of a move, whatever is left of it: with the port where it is.
    async fn at(&self, node: &str, generation: u64) -> Result<()> {
        let binding = self.lab.get("a").await?.binding.context("a binding")?;
        ensure!((binding.node.as_str(), binding.generation) == (node, generation), "{binding:?}");
        Ok(())
    }

    async fn migrate(&self, order: v1::MigratePortRequest) -> Result<()> {
        self.moves().migrate_port(order).await?;
        Ok(())
    }

    /// The port's own route at the switch that all routes come to.
    async fn announced(&self, switch: &Switch, vtep: &str, sequence: u32) -> Result<()> {
        let mac = self.lab.get("a").await?.mac;
        let wanted = format!("via {vtep} seq {sequence}");
        wait_for(&format!("{mac} {wanted}"), async || {
            let routes = switch.routes().await;
            let of_port: Vec<_> = routes.iter().filter(|route| route.contains(&mac)).collect();
            Ok((!of_port.is_empty() && of_port.iter().all(|route| route.ends_with(&wanted))).then_some(()))
        })
        .await
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_becomes_a_machine_of_its_own_anywhere_and_a_container_again() -> Result<()> {
    for (place, vtep) in places() {
        let world = World::new(None).await?;
        let _switch_agent = world.robot("la");
        world.connected("la", true).await?;
        let switch = Switch::start([127, 0, 66, 1], None).await?;
        world.lab.apply(vec![resource(v1::resource::Spec::Peer(switch.peer()))]).await?;
        world.announced(&switch, "10.0.0.1", 0).await?;

        world.migrate(order(&place)).await?;
        let there = world.phase(&[MovePhase::Hold]).await?;
        ensure!(there.reason.is_empty(), "{there:?}");
        world.answers_at(&place.node).await?;
        world.at(&place.node, 2).await?;
        world.announced(&switch, vtep, 1).await?;
        world.lab.wait_state("a", v1::PortState::Advertised).await?;
        // Somebody lets it answer, and silences it before it goes back.
        world.plane.machine("machine", "a", true);
        ensure!(world.plane.answering("a") == ["machine"]);
        world.plane.machine("machine", "a", false);
        world.moves().rollback_port(back()).await?;
        world.phase(&[MovePhase::Undone]).await?;
        world.answers_at("h1").await?;
        world.at("h1", 3).await?;
        world.announced(&switch, "10.0.0.1", 2).await?;

        // The other way, for good; and from there back to the machine.
        world.migrate(v1::MigratePortRequest { window_seconds: 1, force: true, ..order(&place) }).await?;
        world.phase(&[MovePhase::Done]).await?;
        world.migrate(v1::MigratePortRequest { force: true, ..container() }).await?;
        world.phase(&[MovePhase::Hold]).await?;
        world.answers_at("h1").await?;
        world.announced(&switch, "10.0.0.1", 4).await?;
        world.moves().rollback_port(back()).await?;
        world.phase(&[MovePhase::Undone]).await?;
        world.answers_at(&place.node).await?;
        world.at(&place.node, 6).await?;
        world.announced(&switch, vtep, 5).await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plan_says_what_is_to_be_done_by_hand() -> Result<()> {
    let world = World::new(None).await?;
    let plan = async |order| {
        let request = v1::PlanMoveRequest { r#move: Some(order) };
        let plan = world.moves().plan_move(request).await?.into_inner();
        anyhow::Ok((plan.steps.join("\n"), plan.warnings.join("\n")))
    };
    let (steps, warnings) = plan(order(&machine("ls", "swp9"))).await?;
    for text in [
        "you: have the machine at ls (bare-metal swp9) ready",
        "stop h1 (container",
        "let the machine at ls answer now",
        "after you silenced the machine at ls",
    ] {
        ensure!(steps.contains(text), "{text}: {steps}");
    }
    ensure!(warnings.contains("causeway node config ls"), "{warnings}");
    ensure!(warnings.contains("a bare-metal machine reports nothing"), "{warnings}");
    let (_, warnings) = plan(order(&machine("la", "swp9"))).await?;
    ensure!(!warnings.contains("nobody programs"), "{warnings}");
    world.migrate(v1::MigratePortRequest { window_seconds: 1, ..order(&machine("le", "swp9")) }).await?;
    world.phase(&[MovePhase::Done]).await?;
    let (steps, warnings) = plan(container()).await?;
    ensure!(steps.contains("you: silence the machine at le, which nobody else can"), "{steps}");
    ensure!(steps.contains("gratuitous ARP and neighbour advertisements from h1"), "{steps}");
    ensure!(warnings.contains("silence it before, or both answer"), "{warnings}");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_answers_still_is_told_of() -> Result<()> {
    let world = World::new(None).await?;
    world.lab.create("c", Some("h3")).await?;
    world.migrate(v1::MigratePortRequest { window_seconds: 1, ..order(&machine("le", "swp9")) }).await?;
    world.phase(&[MovePhase::Done]).await?;
    world.plane.machine("machine", "a", true);
    let _watcher = Watcher::start(&world.lab.channel, "h3", "a", &world.plane).await?;
    world.lab.wait_state("c", v1::PortState::Programmed).await?;
    world.migrate(container()).await?;
    let there = world.phase(&[MovePhase::Hold, MovePhase::Undone]).await?;
    ensure!(there.phase() == MovePhase::Hold, "{there:?}");
    ensure!(there.reason.ends_with("probes were answered twice: silence the machine at le"), "{there:?}");
    let probes = there.cost.context("a cost")?.probes;
    ensure!(probes.iter().any(|probe| probe.duplicates > 0 && probe.node == "h3"), "{probes:?}");
    ensure!(world.plane.doubles() == ["a answers at h1 and machine".replacen('a', "default/web/a", 1)]);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_machine_that_never_answers_loses_the_port_again() -> Result<()> {
    let world = World::new(None).await?;
    world.lab.create("c", Some("h3")).await?;
    let watcher = Watcher::start(&world.lab.channel, "h3", "a", &world.plane).await?;
    world.lab.wait_state("c", v1::PortState::Programmed).await?;
    world.migrate(v1::MigratePortRequest { max_loss_ms: 500, ..order(&machine("le", "swp9")) }).await?;
    world.phase_because(MovePhase::Undone, "ms were lost, 500 ms are allowed").await?;
    world.answers_at("h1").await?;
    let addresses = world.lab.get("a").await?.addresses;
    ensure!(watcher.probed() == addresses, "{:?}", watcher.probed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_switch_whose_agent_is_away_takes_no_machine_and_keeps_none() -> Result<()> {
    for node in ["la", "ba"] {
        let interface = if node == "la" { "swp9" } else { "" };
        let place = machine(node, interface);
        let world = World::new(None).await?;
        // Nobody is there to program it.
        world.migrate(order(&place)).await?;
        let why = format!("node {node} hangs on a switch whose agent is not connected, for 2 s");
        world.phase_because(MovePhase::Undone, &why).await?;
        world.answers_at("h1").await?;
        // It dies as it is told of the machine: the port goes back, and nobody waits for a word of the machine.
        let agent = world.robot("la");
        agent.set(Habit::DieOnMac);
        world.connected("la", true).await?;
        world.migrate(order(&place)).await?;
        world.phase_because(MovePhase::Undone, "did not take over within 5 s").await?;
        world.answers_at("h1").await?;
        world.at("h1", 3).await?;
        // It dies in the window: the way back does not need it either.
        agent.set(Habit::Obey);
        world.connected("la", true).await?;
        world.migrate(v1::MigratePortRequest { force: true, ..order(&place) }).await?;
        world.phase(&[MovePhase::Hold]).await?;
        drop(agent);
        world.connected("la", false).await?;
        world.moves().rollback_port(back()).await?;
        world.phase(&[MovePhase::Undone]).await?;
        world.answers_at("h1").await?;
        // Nor does who leaves a machine behind it.
        let _agent = world.robot("la");
        world.connected("la", true).await?;
        world.migrate(v1::MigratePortRequest { window_seconds: 1, force: true, ..order(&place) }).await?;
        world.phase(&[MovePhase::Done]).await?;
        drop(_agent);
        world.connected("la", false).await?;
        world.migrate(v1::MigratePortRequest { force: true, ..container() }).await?;
        world.phase(&[MovePhase::Hold]).await?;
        world.answers_at("h1").await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_container_that_dies_on_the_way_from_a_machine_leaves_the_port_with_it() -> Result<()> {
    let world = World::new(None).await?;
    let place = machine("le", "swp9");
    world.migrate(v1::MigratePortRequest { window_seconds: 1, ..order(&place) }).await?;
    world.phase(&[MovePhase::Done]).await?;
    // Before the switch.
    world.h1.set(Habit::DieOn(v1::PortStage::Prepared));
    world.migrate(container()).await?;
    world.phase_because(MovePhase::Undone, "node h1 has no agent connected").await?;
    world.at("le", 2).await?;
    // Behind it: it goes back when it is known that the container does not answer.
    world.h1.set(Habit::Obey);
    world.connected("h1", true).await?;
    world.h1.set(Habit::DieOn(v1::PortStage::Active));
    world.migrate(container()).await?;
    world.phase_because(MovePhase::Return, "node fence h1").await?;
    world.h1.set(Habit::Obey);
    world.phase(&[MovePhase::Undone]).await?;
    world.at("le", 4).await?;
    ensure!(world.plane.answering("a").is_empty() && world.plane.doubles().is_empty());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn where_no_machine_can_be_it_is_not_moved() -> Result<()> {
    let world = World::new(None).await?;
    let refusal = async |order| message(world.moves().migrate_port(order).await.map(|_| ()));
    let text = refusal(order(&machine("h2", ""))).await?;
    ensure!(text.contains("has no wire for bare metal"), "{text}");
    let text = refusal(order(&machine("le", ""))).await?;
    ensure!(text.contains("binding.interface: is required"), "{text}");
    let text = refusal(order(&machine("be", "eth1"))).await?;
    ensure!(text.contains("nothing is programmed for bare metal on a host"), "{text}");
    let text = refusal(v1::MigratePortRequest { to: Some(binding("le")), ..to("le") }).await?;
    ensure!(text.contains("is a tor-evpn: a container there cannot be attached"), "{text}");
    // One access port has one network.
    world.lab.create("db/x", None).await?;
    let other = v1::Network { name: "db".into(), vni: 120, vlan: 12, ..v1::Network::default() };
    world.lab.apply(vec![resource(v1::resource::Spec::Network(other))]).await?;
    let bind =
        v1::BindPortRequest { key: Some(key("db/x")), binding: Some(machine("le", "swp9")), force: false };
    world.lab.ports().bind_port(bind).await?;
    let text = refusal(order(&machine("le", "swp9"))).await?;
    ensure!(text.contains("has network default/db on interface swp9"), "{text}");
    world.at("h1", 1).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_drained_node_keeps_its_machines_and_says_so() -> Result<()> {
    let world = World::new(None).await?;
    let _switch_agent = world.robot("la");
    world.lab.create("m", None).await?;
    let bind =
        v1::BindPortRequest { key: Some(key("m")), binding: Some(machine("la", "swp9")), force: false };
    world.lab.ports().bind_port(bind).await?;
    for to in ["", "le"] {
        let drain = v1::DrainNodeRequest { node: "la".into(), to: to.into(), ..Default::default() };
        let mut stream = world.moves().drain_node(drain).await?.into_inner();
        let mut last = None;
        while let Some(message) = stream.message().await? {
            last = Some(message);
        }
        let last = last.context("progress")?;
        ensure!((last.total, last.done, last.failed) == (1, 0, 1), "{last:?}");
        ensure!(last.problem.contains("is a machine on a wire of this node"), "{last:?}");
    }
    ensure!(world.lab.get("m").await?.binding.is_some_and(|b| b.node == "la"));
    // Nor is a switch's port a place for what a host has to give.
    let drain = v1::DrainNodeRequest { node: "h1".into(), max_loss_ms: 60_000, ..Default::default() };
    let mut stream = world.moves().drain_node(drain).await?.into_inner();
    while stream.message().await?.is_some() {}
    world.answers_at("h2").await
}
