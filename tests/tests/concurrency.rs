//! 64 clients on three controllers over a real etcd, one controller killed in the middle: no address, MAC or name is
//! ever given twice, and what was acknowledged is there afterwards.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_proto::v1;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_tests::controller::{Controller, StoreAt, network};
use causeway_tests::etcd::EtcdVersion;
use causeway_tests::{Etcd, wait_for};
use rand::prelude::*;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tonic::Code;
use tonic::transport::Channel;

const CLIENTS: u64 = 64;
/// Requests a client makes.
const REQUESTS: usize = 12;
/// Names that several clients fight over.
const SHARED: u32 = 40;

/// What one client was told, by port name: (addresses, MAC).
type Told = BTreeMap<String, (Vec<String>, String)>;

fn request(rng: &mut StdRng, client: u64, n: usize) -> v1::CreatePortRequest {
    // A third of the names are shared by all clients, and some ask for the same few addresses or MACs.
    let name = match rng.random_range(0..3) {
        0 => format!("shared-{}", rng.random_range(0..SHARED)),
        _ => format!("client-{client}-{n}"),
    };
    let addresses = match rng.random_range(0..6) {
        0 => vec![format!("10.9.1.{}", rng.random_range(0..20))],
        _ => Vec::new(),
    };
    let mac = match rng.random_range(0..10) {
        0 => format!("02:00:00:00:00:{:02x}", rng.random_range(0..20)),
        _ => String::new(),
    };
    let key = v1::PortKey { vrf: String::new(), network: "web".into(), name };
    v1::CreatePortRequest { key: Some(key), addresses, mac, ..Default::default() }
}

/// One request until it is answered for good; a controller that is gone is left for the next one.
async fn ask(channels: &[Channel], first: usize, wanted: &v1::CreatePortRequest) -> Result<Option<v1::Port>> {
    for attempt in 0..200 {
        let mut ports = PortServiceClient::new(channels[(first + attempt) % channels.len()].clone());
        match tokio::time::timeout(Duration::from_secs(5), ports.create_port(wanted.clone())).await {
            Ok(Ok(answer)) => return Ok(answer.into_inner().port),
            Ok(Err(status)) if matches!(status.code(), Code::AlreadyExists | Code::FailedPrecondition) => {
                return Ok(None);
            }
            Ok(Err(s))
                if matches!(
                    s.code(),
                    Code::Unavailable | Code::Aborted | Code::Cancelled | Code::Unknown
                ) => {}
            Ok(Err(status)) => bail!("{wanted:?}: {status}"),
            Err(_) => {}
        }
    }
    bail!("{wanted:?}: no answer after 200 attempts")
}

async fn client(seed: u64, number: u64, channels: Vec<Channel>, done: watch::Sender<u64>) -> Result<Told> {
    let mut rng = StdRng::seed_from_u64(seed.wrapping_add(number));
    let mut told = Told::new();
    for n in 0..REQUESTS {
        let wanted = request(&mut rng, number, n);
        let name = wanted.key.as_ref().map(|k| k.name.clone()).unwrap_or_default();
        if let Some(port) = ask(&channels, rng.random_range(0..channels.len()), &wanted).await? {
            let got = (port.addresses, port.mac);
            if let Some(before) = told.insert(name.clone(), got.clone()) {
                ensure!(before == got, "{name} was {before:?}, now {got:?}");
            }
        }
        done.send_modify(|count| *count += 1);
    }
    Ok(told)
}

async fn run(seed: u64, version: EtcdVersion) -> Result<()> {
    println!("seed {seed}; CAUSEWAY_SEED={seed} repeats it");
    let etcd = Etcd::start(version).await?;
    let store = StoreAt::Etcd(etcd.endpoint());
    let mut controllers = Vec::new();
    for _ in 0..3 {
        controllers.push(Controller::start(&store).await?);
    }
    controllers[0].apply(network("web", 100, "10.9.0.0/20")).await?;
    for controller in &controllers {
        let key = v1::PortKey { network: "web".into(), name: "first".into(), ..Default::default() };
        let first = v1::CreatePortRequest { key: Some(key), ..Default::default() };
        let mut ports = PortServiceClient::new(controller.channel()?);
        let what = "every controller knows the network";
        wait_for(what, Duration::from_secs(10), async || Ok(ports.create_port(first.clone()).await?)).await?;
    }
    let channels = controllers.iter().map(Controller::channel).collect::<Result<Vec<_>>>()?;
    let (done, mut progress) = watch::channel(0);
    let mut clients = JoinSet::new();
    for number in 0..CLIENTS {
        clients.spawn(client(seed, number, channels.clone(), done.clone()));
    }
    let half = CLIENTS * REQUESTS as u64 / 2;
    tokio::time::timeout(Duration::from_secs(60), progress.wait_for(|n| *n >= half)).await??;
    controllers[1].kill()?;
    println!("killed one of three controllers after {} answers", *progress.borrow());
    let mut told = Told::new();
    while let Some(result) = clients.join_next().await {
        for (name, got) in result?? {
            let before = told.insert(name.clone(), got.clone());
            ensure!(
                before.is_none_or(|before| before == got),
                "two clients were told different things of {name}"
            );
        }
    }
    check(&controllers[0], &told).await
}

/// The store's own view: nobody shares anything, and every acknowledged answer still holds.
async fn check(controller: &Controller, told: &Told) -> Result<()> {
    let mut ports = PortServiceClient::new(controller.channel()?);
    let list = v1::ListPortsRequest { page_size: 10_000, ..Default::default() };
    let kept = wait_for("the snapshot has every acknowledged port", Duration::from_secs(10), async || {
        let kept = ports.list_ports(list.clone()).await?.into_inner().ports;
        let names: std::collections::BTreeSet<_> =
            kept.iter().filter_map(|p| p.key.as_ref()).map(|k| k.name.as_str()).collect();
        let missing: Vec<_> = told.keys().filter(|name| !names.contains(name.as_str())).collect();
        ensure!(missing.is_empty(), "missing: {missing:?}");
        Ok(kept)
    })
    .await?;
    let (mut addresses, mut macs) = (BTreeMap::new(), BTreeMap::new());
    for port in &kept {
        let name = &port.key.as_ref().context("a port without a key")?.name;
        for address in &port.addresses {
            if let Some(other) = addresses.insert(address.clone(), name.clone()) {
                bail!("{address} belongs to {other} and {name}");
            }
        }
        if let Some(other) = macs.insert(port.mac.clone(), name.clone()) {
            bail!("{} belongs to {other} and {name}", port.mac);
        }
        if let Some((addresses, mac)) = told.get(name) {
            ensure!((addresses, mac) == (&port.addresses, &port.mac), "{name} was told otherwise: {port:?}");
        }
    }
    println!("{} ports, {} acknowledged names", kept.len(), told.len());
    ensure!(told.len() > 300, "only {} names were given out", told.len());
    Ok(())
}

fn seed() -> Result<u64> {
    match std::env::var("CAUSEWAY_SEED") {
        Ok(text) => text.parse().context("CAUSEWAY_SEED is not a number"),
        Err(_) => Ok(rand::rng().random()),
    }
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_twice_with_a_fixed_seed() -> Result<()> {
    run(1, EtcdVersion::Debian).await
}

#[tokio::test(flavor = "multi_thread", worker_threads = 2)]
async fn nothing_is_given_twice_with_a_random_seed() -> Result<()> {
    run(seed()?, EtcdVersion::Newest).await
}
