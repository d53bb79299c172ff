//! Everything fails, all the time, and nobody ever has an address that somebody else has.
//!
//! Three controllers, an etcd and six hosts, as processes in namespaces; four clients make, bind, move and give up ports
//! while controllers and agents are killed, hosts lose the controllers, and controllers lose the store. What is done when
//! is in the seed; what came of it is judged by a checker that has three witnesses (`history`).
//!
//! `make test` runs a short one with a fixed seed, `make test-chaos` long ones with random seeds: `CHAOS_SEED` and
//! `CHAOS_SECONDS` say which and how long.

mod end;
mod fabric;
mod history;
mod lanes;
mod script;
mod sight;

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_tests::Netns;
use causeway_tests::etcd::EtcdVersion;

use crate::fabric::Fabric;
use crate::history::{History, complaints};
use crate::lanes::Client;
use crate::script::{Call, Failure, Order, Script};
use crate::sight::Sight;

/// Without `CHAOS_SEED`: always the same.
const SEED: u64 = 5;
/// Without `CHAOS_SECONDS`.
const SECONDS: u64 = 25;

fn from_environment<T: FromStr>(name: &str, default: T) -> Result<T> {
    match std::env::var(name) {
        Ok(text) if !text.is_empty() => {
            text.parse().ok().with_context(|| format!("{name}={text} is no number"))
        }
        _ => Ok(default),
    }
}

#[test]
fn nobody_has_what_another_has_whatever_fails() -> Result<()> {
    let seed = from_environment("CHAOS_SEED", SEED)?;
    let length = Duration::from_secs(from_environment("CHAOS_SECONDS", SECONDS)?);
    let version = match std::env::var("CHAOS_ETCD").as_deref() {
        Ok("newest") => EtcdVersion::Newest,
        _ => EtcdVersion::Debian,
    };
    println!("CHAOS_SEED={seed} CHAOS_SECONDS={} (etcd {version:?})", length.as_secs());
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let core = runtime.block_on(Netns::new("core"))?;
    core.enter(async || run(&core, seed, length, version).await).with_context(|| format!("CHAOS_SEED={seed}"))
}

async fn run(core: &Netns, seed: u64, length: Duration, version: EtcdVersion) -> Result<()> {
    let script = Script::new(seed, length);
    let mut fabric = Fabric::start(core, version).await?;
    let begin = Instant::now();
    let sight = Sight::start(fabric.hosts.iter().map(|host| (host.name.as_str(), &host.netns)), begin)?;
    let client = Client::new(&fabric)?;
    let mut lanes = tokio::task::JoinSet::new();
    for orders in script.lanes {
        lanes.spawn(client.clone().run(orders, begin));
    }
    fail_and_heal(&mut fabric, &script.failures, begin).await?;
    while let Some(lane) = lanes.join_next().await {
        lane??;
    }
    fabric.all_connected().await?;
    let ports = end::settled(&fabric).await?;
    end::kernels_agree(&fabric, &ports).await?;
    end::books_are_right(&fabric).await?;
    let mut notes = client.take_notes();
    let acks = std::mem::take(&mut notes.acks);
    let told = lanes::events(fabric.channel(0)?).await?;
    println!(
        "{} calls were acknowledged, {} events told, {} ports at the end; answers: {:?}",
        acks.len(),
        told.len(),
        ports.len(),
        notes.codes
    );
    let double = a_real_double(&mut fabric, &client, &ports).await?;
    let seen = sight.finish()?;
    let history = History { told, acks, seen, last: ports };
    // The last thing that was done puts one port at two places, by force: whoever does not see it sees nothing.
    let (forced, rest): (Vec<String>, Vec<String>) =
        complaints(&history).into_iter().partition(|complaint| complaint.contains(&double));
    ensure!(rest.is_empty(), "{rest:#?}");
    ensure!(!forced.is_empty(), "a port was at two places ({double}), and nobody saw it");
    ensure!(notes.faults.is_empty(), "{:#?}", notes.faults);
    let errors = fabric.errors();
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(())
}

/// Lets things fail and makes them well again, at their times.
async fn fail_and_heal(
    fabric: &mut Fabric<'_>,
    failures: &[(Duration, Duration, Failure)],
    begin: Instant,
) -> Result<()> {
    let mut events: Vec<(Duration, bool, Failure)> = Vec::new();
    for (from, to, failure) in failures {
        events.extend([(*from, true, *failure), (*to, false, *failure)]);
    }
    // What ends at a time ends before something else begins.
    events.sort_by_key(|(at, begins, _)| (*at, *begins));
    for (at, begins, failure) in events {
        tokio::time::sleep_until((begin + at).into()).await;
        println!("{:>7} ms: {failure:?} {}", at.as_millis(), if begins { "begins" } else { "ends" });
        match begins {
            true => fabric.fail(failure).await?,
            false => fabric.heal(failure).await?,
        }
    }
    Ok(())
}

/// Puts a port at two places: its agent dies, and it is bound elsewhere by force. Says what the complaint must contain.
async fn a_real_double(fabric: &mut Fabric<'_>, client: &Client, ports: &[v1::Port]) -> Result<String> {
    // A port that is at home alone.
    let port = script::PORTS - 1;
    let order = |call| Order { at: Duration::ZERO, port, asks: 0, call };
    for call in [Call::Unbind, Call::Create(Some(0))] {
        client.obey(order(call)).await?;
    }
    let made = end::settled(fabric).await?;
    let made = made.iter().find(|p| p.key.as_ref().is_some_and(|key| key.name == lanes::name(port)));
    let made = made.with_context(|| format!("port {port} was not made; there are {ports:#?}"))?;
    fabric.fail(Failure::AgentDies(0)).await?;
    client.obey(order(Call::Unbind)).await?;
    let mut ports = PortServiceClient::new(fabric.channel(0)?);
    let bind =
        v1::BindPortRequest { key: made.key.clone(), binding: Some(fabric.binding(1, port)?), force: true };
    ports.bind_port(bind).await?;
    end::settled(fabric).await?;
    Ok(format!("{} was at h1", made.mac))
}
