//! History and quarantine: what is told of ports is what one who was there has seen, whichever controller did it.

#![expect(clippy::unwrap_used, reason = "a model runs inside a property, where an error is a panic")]

use std::collections::BTreeMap;
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use anyhow::{Context, Result};
use causeway_controller::history::{By, Cursor, Event, EventKind, History, Told, trim};
use causeway_controller::intent::Intent;
use causeway_controller::keys;
use causeway_controller::model::RateLimit;
use causeway_controller::ports::{CreatePort, Place, PortError, Ports};
use causeway_controller::state::State;
use causeway_controller::store::Store;
use causeway_proto::{Name, PortKey, v1};
use proptest::prelude::*;
use proptest::test_runner::{Config, TestCaseError, TestRunner};
use tokio_util::sync::CancellationToken;

use crate::on_every_store;
use crate::rig::Rig;

on_every_store!(
    history_is_as_one_who_was_there_says,
    events_say_who_asked_and_where_from,
    a_dry_pool_gives_the_oldest_quarantined_address_first,
);

/// Cases of the model, each on keys of its own.
const CASES: u32 = 16;

fn now_ms() -> i64 {
    let now = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(now.as_millis()).unwrap_or(i64::MAX)
}

/// What is done to a port.
#[derive(Debug, Clone, Copy)]
enum Op {
    Create(u8, u8),
    Bind(u8, u8),
    Unbind(u8),
    Rate(u8, u64),
    Release(u8, bool),
}

/// A controller's view of a store, twice: whatever is done is done by one or the other, in turns.
struct World {
    store: Arc<dyn Store>,
    state: State,
    ports: Ports,
    other: (State, Ports),
    history: History,
    _cancel: tokio_util::sync::DropGuard,
}

impl World {
    async fn new(rig: &Rig, case: u32, quarantine: bool) -> World {
        let [store, second] = rig.open_case(case).await.unwrap();
        let cancel = CancellationToken::new();
        let state = State::start(store.clone(), cancel.clone()).await.unwrap();
        let spec = |spec| v1::Resource { spec: Some(spec) };
        use v1::resource::Spec;
        let node = |n: u8| v1::Node {
            name: format!("n{n}"),
            mode: v1::NodeMode::HostVtep.into(),
            vtep: format!("192.0.2.{n}"),
            ..Default::default()
        };
        let records = [
            spec(Spec::Network(v1::Network {
                name: "web".into(),
                vni: 100,
                quarantine_seconds: (!quarantine).then_some(0),
                ..Default::default()
            })),
            spec(Spec::Subnet(v1::Subnet {
                network: "web".into(),
                prefix: "10.0.0.0/28".into(),
                ..Default::default()
            })),
            spec(Spec::Node(node(1))),
            spec(Spec::Node(node(2))),
        ];
        let intent = Intent::new(store.clone(), state.clone(), 65000);
        intent
            .on_behalf(By { actor: "op@host".into(), ..By::default() })
            .apply(&records, false)
            .await
            .unwrap();
        let ports = Ports::start(store.clone(), state.clone(), cancel.clone());
        let theirs = State::start(second.clone(), cancel.clone()).await.unwrap();
        let other = (theirs.clone(), Ports::start(second, theirs, cancel.clone()));
        let history = History::new(store.clone());
        World { store, state, ports, other, history, _cancel: cancel.drop_guard() }
    }

    /// Does it, in a millisecond of its own, and says when it was done. Refusals are part of the game.
    async fn run(&self, turn: usize, op: Op) -> i64 {
        let ports = if turn.is_multiple_of(2) { &self.ports } else { &self.other.1 };
        let done = match op {
            Op::Create(port, address) => {
                let wanted = CreatePort { addresses: vec![ip(address)], ..CreatePort::new(key(port)) };
                ports.create(vec![wanted]).await.remove(0).map(|stored| stored.revision)
            }
            Op::Bind(port, node) => {
                let place = Place::container(format!("n{node}").parse().unwrap(), "/run/netns/a", "eth0");
                ports.bind(key(port), place).await.map(|stored| stored.revision)
            }
            Op::Unbind(port) => ports.unbind(key(port)).await.map(|stored| stored.revision),
            Op::Rate(port, kbit) => {
                let rate = RateLimit { in_kbit: kbit, out_kbit: 0 };
                ports.update(key(port), Some(rate), None, None).await.map(|stored| stored.revision)
            }
            Op::Release(port, forget) => ports.release(key(port), forget).await,
        };
        if let Ok(revision) = done {
            self.state.wait_for(revision).await.unwrap();
            self.other.0.wait_for(revision).await.unwrap();
        }
        let at = now_ms();
        while now_ms() == at {
            tokio::task::yield_now().await;
        }
        at
    }

    /// Address to port, and the node where it lives, as the snapshot says.
    fn owners(&self) -> BTreeMap<IpAddr, (PortKey, Option<Name>)> {
        let snapshot = self.state.snapshot();
        let node = |port: &PortKey| {
            let binding = snapshot.bindings.get(port).filter(|b| b.value.active);
            binding.map(|b| b.value.node.clone())
        };
        let owners = snapshot.by_address.iter();
        owners.map(|((_, a), r)| (*a, (r.value.key.clone(), node(&r.value.key)))).collect()
    }
}

fn key(port: u8) -> PortKey {
    format!("web/p{port}").parse().unwrap()
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn op() -> impl Strategy<Value = Op> {
    let port = 0..3u8;
    prop_oneof![
        4 => (port.clone(), 1..4u8).prop_map(|(port, address)| Op::Create(port, address)),
        3 => (port.clone(), 1..3u8).prop_map(|(port, node)| Op::Bind(port, node)),
        2 => port.clone().prop_map(Op::Unbind),
        1 => (port.clone(), 1..3u64).prop_map(|(port, kbit)| Op::Rate(port, kbit * 1000)),
        3 => (port, any::<bool>()).prop_map(|(port, forget)| Op::Release(port, forget)),
    ]
}

/// All events of the log.
async fn log(history: &History) -> Vec<Told> {
    let (mut all, mut next) = (Vec::new(), Some(Cursor::between(0, None)));
    while let Some(cursor) = next {
        let (told, more) = history.page(cursor).await.unwrap();
        all.extend(told);
        next = more;
    }
    all
}

async fn play(world: World, ops: Vec<Op>) {
    let vrf = Name::default_vrf();
    let mut seen = Vec::new();
    for (turn, op) in ops.into_iter().enumerate() {
        let at = world.run(turn, op).await;
        seen.push((at, world.owners()));
    }
    let snapshot = world.state.snapshot();
    for (at, owners) in &seen {
        for address in (1..4).map(ip) {
            let holder = world.history.holder(&snapshot, &vrf, address, *at).await.unwrap();
            let told = holder.as_ref().map(|holder| (holder.port.clone(), holder.node.clone()));
            assert_eq!(told.as_ref(), owners.get(&address), "{address} at {at}: {holder:?}");
        }
    }
    // Each event of an address is found by it, once, and nothing else.
    let log = log(&world.history).await;
    for address in (1..4).map(ip) {
        let (told, truncated) =
            world.history.of_address(&snapshot, &vrf, address, 0, usize::MAX).await.unwrap();
        let mut want: Vec<Told> =
            log.iter().filter(|t| t.event.addresses.contains(&address)).cloned().collect();
        want.sort_by_key(|told| std::cmp::Reverse(told.revision));
        assert_eq!(told, want);
        assert!(!truncated);
    }
    for port in (0..3).map(key) {
        let (told, _) = world.history.of_port(&snapshot, &port, 0, usize::MAX).await.unwrap();
        let want = log.iter().filter(|t| t.event.port.as_ref() == Some(&port)).count();
        assert_eq!(told.len(), want);
        let (some, truncated) = world.history.of_port(&snapshot, &port, 0, 2).await.unwrap();
        assert_eq!((some.as_slice(), truncated), (&told[..want.min(2)], want > 2));
    }
    // What is too old goes, with all that leads to it.
    let cutoff = seen.get(seen.len() / 2).map_or(0, |(at, _)| at + 1);
    trim(world.store.as_ref(), cutoff).await.unwrap();
    let left = self::log(&world.history).await;
    let want: Vec<Told> = log.into_iter().filter(|told| told.at_ms >= cutoff).collect();
    assert_eq!(left, want);
    for entry in world.store.list("history/address/").await.unwrap().entries {
        let (port, at) = keys::read_end_of_address(&entry.key).unwrap();
        let leads = |t: &Told| t.at_ms == at && t.event.port.as_ref() == Some(&port);
        assert!(left.iter().any(leads), "{} leads nowhere", entry.key);
    }
    for (at, owners) in seen.iter().filter(|(at, _)| *at >= cutoff) {
        for address in (1..4).map(ip) {
            let holder = world.history.holder(&snapshot, &vrf, address, *at).await.unwrap();
            let owner = owners.get(&address).map(|(port, _)| port);
            assert_eq!(holder.as_ref().map(|holder| &holder.port), owner, "{address} at {at}, trimmed");
        }
    }
}

async fn history_is_as_one_who_was_there_says(rig: Rig) -> Result<()> {
    let (rig, runtime) = (Arc::new(rig), tokio::runtime::Handle::current());
    tokio::task::spawn_blocking(move || {
        let mut runner =
            TestRunner::new(Config { cases: CASES, failure_persistence: None, ..Config::default() });
        let (ops, case) = (prop::collection::vec(op(), 1..40), std::sync::atomic::AtomicU32::new(0));
        let played = runner.run(&(ops, any::<bool>()), |(ops, quarantine)| {
            let case = case.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
            runtime.block_on(async { play(World::new(&rig, case, quarantine).await, ops).await });
            Ok::<(), TestCaseError>(())
        });
        played.context("the model and the history differ")
    })
    .await?
}

async fn events_say_who_asked_and_where_from(rig: Rig) -> Result<()> {
    let world = World::new(&rig, 0, true).await;
    let by = By { actor: "cni@n1".into(), peer: "192.0.2.1".into(), reason: "pod started".into() };
    let ports = world.ports.on_behalf(by.clone());
    let place = Place::container("n1".parse().unwrap(), "/run/netns/a", "eth0");
    let wanted = CreatePort { bind: Some(place), ..CreatePort::new(key(0)) };
    ports.create(vec![wanted.clone(), CreatePort::new(key(1))]).await;
    // The same again changes nothing, and is no event.
    ports.create(vec![wanted]).await;
    let log = log(&world.history).await;
    let of_ports: Vec<&Told> = log.iter().filter(|told| told.event.port.is_some()).collect();
    assert_eq!(of_ports.len(), 2, "{log:?}");
    for told in &of_ports {
        let event = &told.event;
        assert_eq!((&event.actor, &event.peer, &event.reason), (&by.actor, &by.peer, &by.reason));
        assert_eq!(event.kind, EventKind::Created);
    }
    assert_eq!(of_ports[0].event.node.as_ref().map(Name::as_str), Some("n1"));
    assert_eq!(of_ports[0].revision, of_ports[1].revision, "one transaction, one record");
    let declared: Vec<&Told> = log.iter().filter(|told| told.event.kind == EventKind::Declared).collect();
    let records: Vec<&str> = declared.iter().map(|told| told.event.record.as_str()).collect();
    assert_eq!(records, ["network default/web", "subnet default/10.0.0.0/28", "node n1", "node n2"]);
    assert!(declared.iter().all(|told| told.event.actor == "op@host" && told.event.cause == "new"));
    Ok(())
}

/// Three addresses, all quarantined one after the other; then four ask at once.
async fn a_dry_pool_gives_the_oldest_quarantined_address_first(rig: Rig) -> Result<()> {
    let world = World::new(&rig, 0, true).await;
    let ports = world.ports.on_behalf(By { actor: "x".into(), ..By::default() });
    let names: Vec<u8> = (0..14).collect();
    let made = ports.create(names.iter().map(|n| CreatePort::new(key(*n))).collect()).await;
    let addresses: Vec<IpAddr> = made.into_iter().map(|stored| stored.unwrap().port.addresses[0]).collect();
    for port in [5, 2, 9] {
        world.run(0, Op::Release(port, true)).await;
    }
    let first = ports.create(vec![CreatePort::new(key(100))]).await.remove(0).unwrap();
    assert_eq!(first.port.addresses, [addresses[5]], "the oldest");
    let both = ports
        .create(vec![CreatePort::new(key(101)), CreatePort::new(key(102)), CreatePort::new(key(103))])
        .await;
    let mut given: Vec<IpAddr> =
        both.iter().flatten().flat_map(|stored| stored.port.addresses.clone()).collect();
    given.sort_unstable();
    assert_eq!(given, [addresses[2], addresses[9]]);
    let refused =
        both.iter().filter(|answer| matches!(answer, Err(PortError::Exhausted { size: 14, .. }))).count();
    assert_eq!(refused, 1, "{both:?}");
    let freed: Vec<Event> = log(&world.history).await.into_iter().map(|told| told.event).collect();
    let freed: Vec<&Event> = freed.iter().filter(|event| event.kind == EventKind::Freed).collect();
    assert_eq!(freed.len(), 3);
    assert!(
        freed[0].cause.starts_with("the pool ran dry, for port default/web/p100: 29"),
        "{}",
        freed[0].cause
    );
    // Who had it is known, and that it is somebody else's now.
    let snapshot = world.state.wait_for(first.revision).await.unwrap();
    let (told, _) =
        world.history.of_address(&snapshot, &Name::default_vrf(), addresses[5], 0, 10).await.unwrap();
    let kinds: Vec<EventKind> = told.iter().map(|told| told.event.kind).collect();
    use EventKind::{Created, Freed, Quarantined};
    assert_eq!(kinds, [Created, Freed, Quarantined, Created]);
    Ok(())
}
