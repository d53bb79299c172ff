//! Many entries, random states, and being killed in the middle.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use causeway_proto::v1;
use proptest::prelude::*;
use proptest::strategy::ValueTree;
use proptest::test_runner::{Config, RngAlgorithm, TestRng, TestRunner};

use crate::host::{Host, PATIENCE, assert_settled, network, port, remote, state};
use crate::netns::{Netns, wait_for};

fn many(host: &Host, count: u32) -> v1::NodeState {
    let remotes = (0..count).map(|n| {
        let [_, a, b, c] = n.to_be_bytes();
        v1::RemoteMac {
            vni: 100,
            mac: format!("02:cb:00:{a:02x}:{b:02x}:{c:02x}"),
            vtep: format!("198.18.{}.{}", n % 4, n % 200 + 1),
            addresses: vec![format!("10.{a}.{b}.{c}")],
        }
    });
    v1::NodeState {
        revision: 1,
        vtep: host.vtep.clone(),
        networks: vec![network(100, 1)],
        remotes: remotes.collect(),
        ..Default::default()
    }
}

#[tokio::test]
async fn ten_thousand_remote_macs() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    let count = std::env::var("CAUSEWAY_TEST_MACS").ok().and_then(|n| n.parse().ok()).unwrap_or(10_000);
    let mut wanted = many(&host, count);
    let start = Instant::now();
    host.set(&wanted).await?;
    let progress = &mut host.plane()?.progress;
    tokio::time::timeout(Duration::from_secs(120), progress.wait_for(|p| p.steps > u64::from(count) * 2))
        .await
        .context("all steps")??;
    let took = start.elapsed();
    let steps = host.plane()?.progress.borrow().steps;
    let looks = host.plane()?.progress.borrow().observed;
    eprintln!("{count} remote MACs with one address: {steps} steps in {took:?}, {looks} full looks");
    assert_settled(&host.look(&wanted)?)?;

    // One change among them: it costs what it costs among a few.
    let full_looks = host.plane()?.progress.borrow().observed;
    let steps = host.plane()?.progress.borrow().steps;
    let mut times = Vec::new();
    for n in 0..50_u32 {
        let revision = u64::from(n) + 2;
        let changed = v1::RemoteMac { vtep: "198.18.9.9".into(), ..wanted.remotes[n as usize].clone() };
        wanted.remotes[n as usize] = changed.clone();
        let start = Instant::now();
        host.change(v1::NodeDelta { revision, remotes: vec![changed], ..Default::default() }).await?;
        let progress = &mut host.plane()?.progress;
        tokio::time::timeout(PATIENCE, progress.wait_for(|p| p.revision >= revision))
            .await
            .context("change")??;
        times.push(start.elapsed());
    }
    times.sort();
    eprintln!("one change among {count}: p50 {:?}, p99 {:?}", times[25], times[49]);
    ensure!(host.plane()?.progress.borrow().observed == full_looks, "a single change looked at everything");
    // Its entry in the tunnel's FDB, and at most what goes with it: never what the others have.
    let steps = host.plane()?.progress.borrow().steps - steps;
    ensure!((50..=200).contains(&steps), "{steps} steps for 50 changes");
    assert_settled(&host.look(&wanted)?)
}

fn any_state(vtep: String, workloads: &[String]) -> impl Strategy<Value = v1::NodeState> + use<> {
    let workloads = workloads.to_vec();
    let networks = prop::collection::btree_set(100u32..103, 0..4);
    let port = (1u8..6, 100u32..103, 0..workloads.len(), 1u64..4, prop::bool::ANY);
    let behind = (1u8..9, 100u32..103, 2u8..6);
    let flood = (100u32..103, 2u8..6);
    (
        networks,
        prop::collection::btree_map(1u8..6, port, 0..5),
        prop::collection::vec(behind, 0..8),
        prop::collection::vec(flood, 0..5),
        1300u32..1500,
    )
        .prop_map(move |(networks, ports, remotes, floods, mtu)| v1::NodeState {
            revision: 1,
            vtep: vtep.clone(),
            networks: networks.into_iter().map(|v| v1::NodeNetwork { mtu, ..network(v, 1) }).collect(),
            ports: ports
                .into_iter()
                .map(|(name, (_, vni, netns, generation, gateway))| v1::NodePort {
                    id: format!("default/n/p{name}"),
                    vni,
                    mac: format!("02:ca:0a:08:00:{name:02x}"),
                    addresses: vec![format!("10.8.{name}.2/24"), format!("fd00:8:{name:x}::2/64")],
                    gateways: if gateway && name == 1 { vec!["10.8.1.1".into()] } else { vec![] },
                    mtu,
                    netns: workloads[netns].clone(),
                    interface: format!("eth{name}"),
                    generation,
                    kind: v1::WorkloadKind::Container.into(),
                    attachment: v1::Attachment::VxlanBridge.into(),
                    ..v1::NodePort::default()
                })
                .collect(),
            remotes: remotes.into_iter().map(|(n, vni, v)| remote(n, vni, &format!("192.0.2.{v}"))).collect(),
            floods: floods
                .into_iter()
                .map(|(vni, v)| v1::FloodTarget { vni, vtep: format!("192.0.2.{v}") })
                .collect(),
            ..Default::default()
        })
}

#[tokio::test]
async fn random_states_converge_on_the_real_kernel() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    let workloads = [Netns::new("w0")?, Netns::new("w1")?, Netns::new("w2")?];
    let paths: Vec<String> = workloads.iter().map(|w| w.path().display().to_string()).collect();
    let seed: u64 = match std::env::var("CAUSEWAY_TEST_SEED") {
        Ok(seed) => seed.parse()?,
        Err(_) => rand::random(),
    };
    eprintln!("CAUSEWAY_TEST_SEED={seed}");
    let mut bytes = [0; 32];
    bytes[..8].copy_from_slice(&seed.to_le_bytes());
    let rng = TestRng::from_seed(RngAlgorithm::ChaCha, &bytes);
    let mut runner = TestRunner::new_with_rng(Config::default(), rng);
    let strategy = any_state(host.vtep.clone(), &paths);
    for round in 1..=40 {
        let mut wanted = strategy.new_tree(&mut runner).map_err(|e| anyhow::anyhow!("{e}"))?.current();
        wanted.revision = round;
        host.set(&wanted).await?;
        host.wait_revision(round).await?;
        // Problems are allowed (ports without a network), steps left are not.
        let settled = || Ok(host.look(&wanted)?.ops.is_empty());
        let in_time = wait_for("convergence", Duration::from_secs(5), settled).await;
        if in_time.is_err() {
            anyhow::bail!("seed {seed}, round {round}: left {:#?}\n{wanted:#?}", host.look(&wanted)?);
        }
    }
    Ok(())
}

#[tokio::test]
async fn killed_in_the_middle_it_converges_after_the_next_start() -> Result<()> {
    let mut host = Host::new("a", "192.0.2.1")?;
    host.stop();
    let w5 = Netns::new("w5")?;
    let mut wanted = many(&host, 3000);
    wanted.node = "h1".into();
    wanted.ports = vec![port(5, 100, &w5)];
    wanted.floods = state(&host, 5, &w5, 6, "192.0.2.2").floods;
    let dir = tempfile::tempdir()?;
    let (mut journal, _) = causeway_agent::journal::Journal::open(dir.path())?;
    journal.write_snapshot(&wanted)?;
    let command = format!(
        "{} --node h1 --controllers unix:{} --state-dir {}",
        env!("CARGO_BIN_EXE_causeway-agent"),
        dir.path().join("none.sock").display(),
        dir.path().display()
    );
    // The program itself, headless, killed after more and more of its work.
    let mut seen = Vec::new();
    for least in [0, 1, 500, 1500, 2500] {
        let mut agent = host.netns.spawn(&command)?;
        let entries = || -> Result<usize> {
            Ok(host.netns.run("bridge fdb show dynamic").map_or(0, |f| f.lines().count()))
        };
        let begun = wait_for("entries", PATIENCE, || {
            Ok(entries()? >= least && host.netns.run("ip link show dev cwb100").is_ok())
        });
        begun.await?;
        agent.kill()?;
        agent.wait()?;
        seen.push(entries()?);
    }
    eprintln!("entries after each kill: {seen:?}");
    let mut agent = host.netns.spawn(&command)?;
    let settled =
        wait_for("convergence", PATIENCE, || Ok(assert_settled(&host.look(&wanted)?).is_ok())).await;
    agent.kill()?;
    agent.wait()?;
    assert_settled(&host.look(&wanted)?)?;
    settled.map(|_| ())
}
