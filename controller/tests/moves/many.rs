//! A port with several addresses moves as one.

use anyhow::{Result, ensure};
use causeway_proto::v1::{self, MovePhase};

use crate::support::*;
use crate::to;
use crate::watcher::Watcher;
use crate::world::World;

const ADDRESSES: [&str; 5] = ["10.8.0.50", "10.8.0.51", "10.8.0.60", "fd00:8::50", "fd00:8::51"];

#[tokio::test(flavor = "multi_thread")]
async fn all_addresses_go_with_one_sequence_and_all_are_probed() -> Result<()> {
    let world = World::new(None).await?;
    let switch = Switch::start([127, 0, 66, 1], None).await?;
    world.lab.apply(vec![resource(v1::resource::Spec::Peer(switch.peer()))]).await?;
    world.lab.create("c", Some("h3")).await?;
    // A VIP that the port holds goes with it.
    let vip = v1::CreatePortRequest {
        key: Some(key("vip")),
        addresses: vec!["10.8.0.60".into()],
        kind: v1::PortKind::Vip.into(),
        ..Default::default()
    };
    world.lab.ports().create_port(vip).await?;
    let create = v1::CreatePortRequest {
        key: Some(key("m")),
        addresses: ADDRESSES.iter().filter(|ip| !ip.ends_with(".60")).map(ToString::to_string).collect(),
        bind: Some(binding("h1")),
        ..Default::default()
    };
    let port = world.lab.ports().create_port(create).await?.into_inner().port.unwrap_or_default();
    let hold = v1::HoldVipRequest { key: Some(key("vip")), holder: Some(key("m")) };
    world.lab.ports().hold_vip(hold).await?;
    world.lab.wait_state("m", v1::PortState::Advertised).await?;
    let watcher = Watcher::start(&world.lab.channel, "h3", "m", &world.plane).await?;
    world.lab.wait_state("c", v1::PortState::Advertised).await?;
    let generation = world.lab.get("m").await?.binding.map(|b| b.generation).unwrap_or_default();

    let announced = async |vtep: &str, generation: u64| {
        wait_for(&format!("all addresses at {vtep}"), async || {
            let routes = switch.routes().await;
            let of_port: Vec<_> = routes.iter().filter(|route| route.contains(&port.mac)).collect();
            let end = format!("via {vtep} seq {}", generation - 1);
            let each = ADDRESSES
                .iter()
                .all(|ip| of_port.iter().filter(|route| route.contains(&format!(" {ip} via "))).count() == 1);
            Ok((each && of_port.iter().all(|route| route.ends_with(&end))).then_some(()))
        })
        .await
    };
    announced("10.0.0.1", generation).await?;
    let order = v1::MigratePortRequest { key: Some(key("m")), window_seconds: 60, ..to("h2") };
    world.moves().migrate_port(order).await?;
    let moved = world.phase(&[MovePhase::Hold]).await?;
    announced("10.0.0.2", generation + 1).await?;
    ensure!(watcher.probed() == ADDRESSES, "{:?}", watcher.probed());
    let mut told: Vec<String> =
        moved.cost.iter().flat_map(|cost| &cost.probes).map(|probe| probe.address.clone()).collect();
    told.sort_unstable();
    ensure!(told == ADDRESSES, "{moved:?}");
    let back = v1::RollbackPortRequest { key: Some(key("m")), ..Default::default() };
    world.moves().rollback_port(back).await?;
    world.phase(&[MovePhase::Undone]).await?;
    announced("10.0.0.1", generation + 2).await?;
    ensure!(world.plane.doubles().is_empty(), "{:?}", world.plane.doubles());
    Ok(())
}
