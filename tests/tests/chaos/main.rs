//! Everything fails, all the time, and nobody ever has an address that somebody else has.
//!
//! Three controllers, an etcd and six hosts, as processes in namespaces; four clients make, bind, move and give up ports
//! while controllers, agents and the store are killed, hosts lose one or all controllers (in one direction, too), are fenced,
//! and controllers lose the store. What is done when
//! is in the seed; what came of it is judged by a checker that has four witnesses (`history`).
//!
//! `make test` runs a short one with a fixed seed, `make test-chaos` long ones with that and with random seeds on each etcd:
//! `CHAOS_SEED`, `CHAOS_SECONDS` and `CHAOS_ETCD` say which and how long.

mod end;
mod fabric;
mod history;
mod lanes;
mod script;
mod sight;
mod wire;

use std::str::FromStr;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};
use causeway_proto::v1;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_tests::Netns;
use causeway_tests::etcd::EtcdVersion;

use crate::fabric::Fabric;
use crate::history::{At, Fence, History, complaints};
use crate::lanes::Client;
use crate::script::{Call, Failure, Order, Script};
use crate::sight::{Seen, Sight};
use crate::wire::Asker;

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
        Ok("debian" | "") | Err(_) => EtcdVersion::Debian,
        Ok(other) => bail!("CHAOS_ETCD={other} is neither debian nor newest"),
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
    let mut asker = Asker::new(fabric::OUTSIDE, fabric::VNI, fabric::addresses())?;
    for host in &fabric.hosts {
        asker.add(&host.name, &host.netns, host.vtep)?;
    }
    let hosts = fabric.hosts.iter().map(|host| (host.name.as_str(), &host.netns));
    let sight = Sight::start(hosts, Some(asker), begin)?;
    let client = Client::new(&fabric)?;
    let mut lanes = tokio::task::JoinSet::new();
    for orders in script.lanes {
        lanes.spawn(client.clone().run(orders, begin));
    }
    let fences = fail_and_heal(&mut fabric, &script.failures, begin).await?;
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
    let over = begin.elapsed();
    let double = a_real_double(&mut fabric, &client, &ports).await?;
    sight.more_rounds(5).await?;
    let Seen { ports: seen, answers } = sight.finish()?;
    println!("{} times was a port up somewhere, {} answers came by the wire", seen.len(), answers.len());
    let all = History { told, acks, seen, answers, fences, last: ports };
    let found = complaints(&all.until(over));
    if !found.is_empty() {
        all.told.iter().for_each(|event| println!("{}", history::line(event)));
    }
    ensure!(found.is_empty(), "{found:#?}");
    // The last thing that was done puts one port at two places, by force: whoever does not see it sees nothing.
    let found = complaints(&all);
    for witness in double {
        let saw = found.iter().any(|complaint| complaint.contains(&witness));
        ensure!(saw, "a port was at two places, and nobody said: {witness} …; said was {found:#?}");
    }
    ensure!(notes.faults.is_empty(), "{:#?}", notes.faults);
    let errors = fabric.errors();
    ensure!(errors.is_empty(), "{errors:#?}");
    Ok(())
}

/// Lets things fail and makes them well again, at their times; says which hosts were fenced when.
async fn fail_and_heal(
    fabric: &mut Fabric<'_>,
    failures: &[(Duration, Duration, Failure)],
    begin: Instant,
) -> Result<Vec<Fence>> {
    let mut fences = Vec::new();
    let mut events: Vec<(Duration, bool, Failure)> = Vec::new();
    for (from, to, failure) in failures {
        events.extend([(*from, true, *failure), (*to, false, *failure)]);
    }
    // What ends at a time ends before something else begins.
    events.sort_by_key(|(at, begins, _)| (*at, *begins));
    for (at, begins, failure) in events {
        tokio::time::sleep_until((begin + at).into()).await;
        println!("{:>7} ms: {failure:?} {}", at.as_millis(), if begins { "begins" } else { "ends" });
        if let Failure::HostIsFenced(n) = failure {
            let (node, now) = (fabric.hosts[n].name.clone(), begin.elapsed());
            match fences.iter_mut().rfind(|fence: &&mut Fence| fence.node == node).filter(|_| !begins) {
                Some(fence) => fence.to = now,
                None => fences.push(Fence { node, from: now, to: At::MAX }),
            }
        }
        match begins {
            true => fabric.fail(failure).await?,
            false => fabric.heal(failure).await?,
        }
    }
    Ok(fences)
}

/// Puts a port at two places: its agent dies, and it is bound elsewhere by force. Says what complaints there must be: of the
/// kernels, and of the wire.
async fn a_real_double(fabric: &mut Fabric<'_>, client: &Client, ports: &[v1::Port]) -> Result<[String; 2]> {
    // One that is there: the pool may have room for no other.
    let is_there =
        |n: &usize| ports.iter().any(|p| p.key.as_ref().is_some_and(|k| k.name == lanes::name(*n)));
    let port = (0..script::PORTS).find(is_there).unwrap_or_default();
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
    let address = made.addresses.first().context("the port has no address")?;
    Ok([format!("{} was at h1", made.mac), format!("{address} was answered for by h1 and by h2")])
}
