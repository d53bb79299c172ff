//! Many at once: claims, counters, and ports of three controllers, one of which goes away in the middle.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use anyhow::{Context, Result, bail, ensure};
use causeway_controller::gc;
use causeway_controller::intent::Intent;
use causeway_controller::ports::{CreatePort, Place, PortError, Ports, Stored};
use causeway_controller::state::State;
use causeway_controller::store::{Compare, Store, TxnOutcome};
use causeway_proto::{Mac, PortKey, v1};
use rand::prelude::*;
use tokio_util::sync::CancellationToken;

use crate::on_every_store;
use crate::rig::{Rig, SOON, put, txn};

on_every_store!(
    a_claim_has_one_winner,
    counters_lose_no_increment,
    three_controllers_never_give_anything_twice,
    the_last_addresses_are_given_to_different_ports,
    released_ports_go_when_their_time_is_over,
    quarantined_addresses_are_given_last_and_once,
);

async fn a_claim_has_one_winner(rig: Rig) -> Result<()> {
    let stores = rig.open_many(4).await?;
    let claimants = (0..16).map(|n: usize| {
        let store = stores[n % 4].clone();
        tokio::spawn(async move {
            let mut won = Vec::new();
            for i in 0..40 {
                let key = format!("claim/{i}");
                let claim = txn(vec![Compare::Absent(key.clone())], vec![put(&key, format!("{n}"))]);
                match store.txn(claim).await? {
                    TxnOutcome::Committed(_) => won.push(i),
                    TxnOutcome::Conflict(at) => ensure!(at == [0]),
                }
            }
            Ok((n, won))
        })
    });
    let claimants: Vec<_> = claimants.collect();
    let mut owners = BTreeMap::new();
    for claimant in claimants {
        let (n, won) = claimant.await??;
        for i in won {
            ensure!(owners.insert(i, n).is_none(), "{i} was won twice");
        }
    }
    ensure!(owners.len() == 40);
    for (i, n) in owners {
        let entry = stores[0].get(&format!("claim/{i}")).await?.context("gone")?;
        ensure!(entry.value == n.to_string().into_bytes());
    }
    Ok(())
}

async fn counters_lose_no_increment(rig: Rig) -> Result<()> {
    let stores = rig.open_many(4).await?;
    let mut tasks = Vec::new();
    for n in 0..8 {
        let store = stores[n % 4].clone();
        tasks.push(tokio::spawn(async move {
            let mut done = 0;
            while done < 20 {
                let old = store.get("n").await?;
                let (compare, value) = match &old {
                    None => (Compare::Absent("n".to_owned()), 0),
                    Some(entry) => {
                        let value: u32 = std::str::from_utf8(&entry.value)?.parse()?;
                        (Compare::Unchanged("n".to_owned(), entry.revision), value)
                    }
                };
                let outcome = store.txn(txn(vec![compare], vec![put("n", (value + 1).to_string())])).await?;
                done += usize::from(matches!(outcome, TxnOutcome::Committed(_)));
            }
            anyhow::Ok(())
        }));
    }
    for task in tasks {
        task.await??;
    }
    ensure!(stores[0].get("n").await?.is_some_and(|entry| entry.value == b"160"));
    Ok(())
}

/// What a controller has of all this.
struct Controller {
    state: State,
    ports: Ports,
    cancel: CancellationToken,
}

async fn controllers(stores: &[Arc<dyn Store>]) -> Result<Vec<Controller>> {
    let mut all = Vec::new();
    for store in stores {
        let cancel = CancellationToken::new();
        let state = State::start(store.clone(), cancel.clone()).await?;
        let ports = Ports::start(store.clone(), state.clone(), cancel.clone());
        all.push(Controller { state, ports, cancel });
    }
    Ok(all)
}

async fn declare(store: &Arc<dyn Store>, controller: &Controller, prefixes: &[&str]) -> Result<()> {
    use v1::resource::Spec;
    let network = v1::Network { name: "web".into(), vni: 100, ..Default::default() };
    let mut specs = vec![Spec::Network(network)];
    for prefix in prefixes {
        let subnet = v1::Subnet { network: "web".into(), prefix: (*prefix).into(), ..Default::default() };
        specs.push(Spec::Subnet(subnet));
    }
    for n in 1..=4 {
        let (name, vtep) = (format!("host{n}"), format!("192.0.2.{n}"));
        specs.push(Spec::Node(v1::Node {
            name,
            vtep,
            mode: v1::NodeMode::HostVtep.into(),
            ..Default::default()
        }));
    }
    let resources: Vec<_> = specs.into_iter().map(|spec| v1::Resource { spec: Some(spec) }).collect();
    Intent::new(store.clone(), controller.state.clone(), 65_000).apply(&resources, false).await?;
    Ok(())
}

fn request(rng: &mut StdRng, client: u32, n: u32) -> Result<CreatePort> {
    let name = match rng.random_range(0..3) {
        0 => format!("shared-{}", rng.random_range(0..40)),
        _ => format!("client-{client}-{n}"),
    };
    let addresses = match rng.random_range(0..6) {
        0 => vec![IpAddr::from(Ipv4Addr::new(10, 9, 1, rng.random_range(0..30)))],
        _ => Vec::new(),
    };
    let mac = (rng.random_range(0..10) == 0).then(|| Mac::new([2, 0, 0, 0, 0, rng.random_range(0..30)]));
    let node = format!("host{}", rng.random_range(1..=4));
    let place = Place::container(node.parse()?, "pid:1", "eth0");
    let bind = (rng.random_range(0..4) == 0).then_some(place);
    Ok(CreatePort { addresses, mac, bind, ..CreatePort::new(format!("web/{name}").parse()?) })
}

/// Everything one client was told, repeated until it is final.
async fn client(controllers: &[(State, Ports)], n: u32, seed: u64) -> Result<Vec<Stored>> {
    let mut rng = StdRng::seed_from_u64(seed + u64::from(n));
    let mut told = Vec::new();
    for i in 0..12 {
        let wanted = request(&mut rng, n, i)?;
        let mut home = n as usize % controllers.len();
        let answer = loop {
            match controllers[home].1.create(vec![wanted.clone()]).await.pop().context("no answer")? {
                // The same request again, if need be elsewhere.
                Err(error) if error.retryable() => home = (home + 1) % controllers.len(),
                answer => break answer,
            }
        };
        match answer {
            Ok(stored) => told.push(stored),
            Err(PortError::Taken { .. } | PortError::Precondition { .. } | PortError::Field { .. }) => {}
            Err(error) => bail!("{wanted:?}: {error}"),
        }
        // Some are given up again, so that names, addresses and MACs go around.
        if rng.random_range(0..5) == 0
            && let Some(last) = told.last()
            && last.port.key.name.as_str().starts_with("client")
        {
            let (key, forget) = (last.port.key.clone(), rng.random_bool(0.5));
            while let Err(error) = controllers[home].1.release(key.clone(), forget).await {
                ensure!(error.retryable(), "{error}");
                home = (home + 1) % controllers.len();
            }
            told.pop();
        }
    }
    Ok(told)
}

async fn three_controllers_never_give_anything_twice(rig: Rig) -> Result<()> {
    let seed: u64 =
        std::env::var("CAUSEWAY_SEED").ok().and_then(|s| s.parse().ok()).unwrap_or_else(rand::random);
    println!("seed: CAUSEWAY_SEED={seed}");
    let stores = rig.open_many(3).await?;
    let all = controllers(&stores).await?;
    declare(&stores[0], &all[0], &["10.9.0.0/23", "fd00:9::/64"]).await?;
    let handles: Arc<Vec<_>> = Arc::new(all.iter().map(|c| (c.state.clone(), c.ports.clone())).collect());
    let mut clients = Vec::new();
    for n in 0..64 {
        let handles = handles.clone();
        clients.push(tokio::spawn(async move { client(&handles, n, seed).await }));
    }
    // In the middle one controller goes away, with whatever it has under way.
    let mut snapshot = all[0].state.snapshot();
    while snapshot.ports.len() < 150 {
        snapshot = tokio::time::timeout(SOON, all[0].state.wait_after(snapshot.revision)).await??;
    }
    all[2].cancel.cancel();
    let mut told: BTreeMap<PortKey, Stored> = BTreeMap::new();
    for client in clients {
        for stored in client.await?? {
            if let Some(other) = told.get(&stored.port.key) {
                let same = other.port.addresses == stored.port.addresses && other.port.mac == stored.port.mac;
                ensure!(same, "{stored:?} and {other:?}");
            }
            told.insert(stored.port.key.clone(), stored);
        }
    }
    verify(stores[0].as_ref(), &told).await
}

/// In the store nothing is there twice, indexes and ports say the same, and what was told is there.
async fn verify(store: &dyn Store, told: &BTreeMap<PortKey, Stored>) -> Result<()> {
    let listing = store.list("").await?;
    let (mut addresses, mut macs, mut ports) = (BTreeMap::new(), BTreeMap::new(), BTreeMap::new());
    let mut claimed = BTreeSet::new();
    for entry in &listing.entries {
        let value = String::from_utf8_lossy(&entry.value).into_owned();
        if entry.key.starts_with("intent/port/") {
            let port: causeway_controller::model::Port = serde_json::from_slice(&entry.value)?;
            for address in &port.addresses {
                ensure!(addresses.insert(*address, port.key.clone()).is_none(), "{address} twice");
            }
            ensure!(macs.insert(port.mac, port.key.clone()).is_none(), "{} twice", port.mac);
            ports.insert(port.key.clone(), port);
        } else if let Some(text) =
            entry.key.strip_prefix("index/address/").or_else(|| entry.key.strip_prefix("index/mac/"))
        {
            claimed.insert((text.rsplit('/').next().context("odd key")?.to_owned(), value));
        }
    }
    let mut want = BTreeSet::new();
    want.extend(addresses.iter().map(|(address, key)| (address.to_string(), key.to_string())));
    want.extend(macs.iter().map(|(mac, key)| (mac.to_string(), key.to_string())));
    ensure!(claimed == want, "indexes are not those of the ports: {:?}", claimed.symmetric_difference(&want));
    for (key, stored) in told {
        let port = ports.get(key).with_context(|| format!("{key} was told and is gone"))?;
        ensure!(port.addresses == stored.port.addresses && port.mac == stored.port.mac, "{key}");
        ensure!(port.addresses.len() == 2 || port.addresses.len() == 1);
    }
    println!("{} ports, {} told", ports.len(), told.len());
    Ok(())
}

async fn the_last_addresses_are_given_to_different_ports(rig: Rig) -> Result<()> {
    let stores = rig.open_many(3).await?;
    let all = controllers(&stores).await?;
    // 14 addresses for 60 requests.
    declare(&stores[0], &all[0], &["10.9.0.0/28"]).await?;
    let mut tasks = Vec::new();
    for n in 0..60u32 {
        let ports = all[n as usize % 3].ports.clone();
        tasks.push(tokio::spawn(async move {
            let key: PortKey = format!("web/p{n}").parse()?;
            let create = CreatePort::new(key);
            loop {
                match ports.create(vec![create.clone()]).await.pop().context("no answer")? {
                    Ok(_) => return Ok(true),
                    Err(PortError::Exhausted { size, .. }) => {
                        ensure!(size == 14);
                        return Ok(false);
                    }
                    Err(error) if error.retryable() => {}
                    Err(error) => bail!(error),
                }
            }
        }));
    }
    let mut given = 0;
    for task in tasks {
        given += usize::from(task.await??);
    }
    ensure!(given == 14, "{given} addresses were given");
    verify(stores[0].as_ref(), &BTreeMap::new()).await
}

/// The leader gives back what was released long enough ago, and nothing else.
async fn released_ports_go_when_their_time_is_over(rig: Rig) -> Result<()> {
    let stores = rig.open_many(2).await?;
    let all = controllers(&stores).await?;
    declare(&stores[0], &all[0], &["10.9.0.0/28"]).await?;
    let network = v1::Network {
        name: "web".into(),
        vni: 100,
        sticky_seconds: 60,
        quarantine_seconds: Some(0),
        ..Default::default()
    };
    let spec = v1::Resource { spec: Some(v1::resource::Spec::Network(network)) };
    Intent::new(stores[0].clone(), all[0].state.clone(), 65_000).apply(&[spec], false).await?;
    let create = |name: &str| -> Result<CreatePort> {
        let key = format!("web/{name}").parse()?;
        Ok(CreatePort::new(key))
    };
    let mut last = None;
    for name in ["over", "back", "used"] {
        last = all[0].ports.create(vec![create(name)?]).await.pop().context("no answer")?.ok();
    }
    let mut at = last.context("refused")?.revision;
    for name in ["over", "back"] {
        at = all[0].ports.release(format!("web/{name}").parse()?, false).await?;
    }
    for controller in &all {
        tokio::time::timeout(SOON, controller.state.wait_for(at)).await??;
    }
    let released = all[0].state.snapshot().ports.values().filter_map(|port| port.value.released_ms).max();
    let over = released.context("nothing is released")? + 60_000;
    // Too early: nothing goes.
    gc::sweep(&all[0].state, &all[0].ports, over - 60_001).await;
    ensure!(stores[0].list("intent/port/").await?.entries.len() == 3);
    // One is taken back by way of the other controller, which the sweeper has not seen when it begins.
    let back = all[1].ports.create(vec![create("back")?]).await.pop().context("no answer")??;
    gc::sweep(&all[0].state, &all[0].ports, over).await;
    let left: Vec<String> =
        stores[0].list("intent/port/").await?.entries.into_iter().map(|e| e.key).collect();
    ensure!(left == ["intent/port/default/web/back", "intent/port/default/web/used"], "{left:?}");
    verify(stores[0].as_ref(), &BTreeMap::from([(back.port.key.clone(), back)])).await
}

/// Three controllers, a pool of which all is quarantined, and more who ask than there are addresses: each address is given
/// once, and those who come back for their own get it as long as nobody else has it.
async fn quarantined_addresses_are_given_last_and_once(rig: Rig) -> Result<()> {
    let stores = rig.open_many(3).await?;
    let all = controllers(&stores).await?;
    declare(&stores[0], &all[0], &["10.9.0.0/28"]).await?;
    let names = |prefix: &str| -> Result<Vec<CreatePort>> {
        (0..14).map(|n| Ok(CreatePort::new(format!("web/{prefix}{n}").parse()?))).collect()
    };
    let mut was = BTreeMap::new();
    for answer in all[0].ports.create(names("old-")?).await {
        let port = answer?.port;
        all[0].ports.release(port.key.clone(), true).await?;
        was.insert(port.key.clone(), port.addresses);
    }
    let mut tasks = Vec::new();
    for (n, create) in names("new-")?.into_iter().chain(names("old-")?).enumerate() {
        let ports = all[n % 3].ports.clone();
        tasks.push(tokio::spawn(async move {
            loop {
                match ports.create(vec![create.clone()]).await.pop().context("no answer")? {
                    Ok(stored) => return Ok(Some(stored)),
                    Err(PortError::Exhausted { .. }) => return Ok(None),
                    Err(error) if error.retryable() => {}
                    Err(error) => bail!(error),
                }
            }
        }));
    }
    let mut told = BTreeMap::new();
    for task in tasks {
        if let Some(stored) = task.await?? {
            told.insert(stored.port.key.clone(), stored);
        }
    }
    ensure!(told.len() == 14, "{} addresses were given", told.len());
    verify(stores[0].as_ref(), &told).await
}
