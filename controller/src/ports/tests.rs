use std::collections::{BTreeMap, BTreeSet};
use std::net::Ipv4Addr;

use proptest::prelude::*;

use super::overlay::{Overlay, View};
use super::plan::{Context, Plan, Refusal, expires_ms, plan};
use super::*;
use crate::alloc;
use crate::derive::imports::ImportedMac;
use crate::keys::RecordKey;
use crate::snapshot::Snapshot;
use crate::store::{Compare, Write};

/// A store of one thread: what a transaction means, spelled out.
#[derive(Default)]
struct World {
    keys: BTreeMap<String, (Vec<u8>, Revision)>,
    snapshot: Snapshot,
    overlay: Overlay,
    heard: Imports,
}

impl World {
    fn put(&mut self, path: &str, json: &str) {
        let at = Revision(self.snapshot.revision.0 + 1);
        self.keys.insert(path.to_owned(), (json.as_bytes().to_vec(), at));
        if path.starts_with("intent/") {
            self.snapshot.apply(path, Some((json.as_bytes(), at))).unwrap();
        }
        self.snapshot.revision = at;
    }

    fn with_network() -> Self {
        let mut world = World::default();
        world.put(
            "intent/network/default/web",
            r#"{"key":"default/web","vni":100,"mtu":1450,"sticky_seconds":60,"rd_number":1}"#,
        );
        world.put(
            "intent/subnet/default/web/10.0.0.0/28",
            r#"{"network":"default/web","prefix":"10.0.0.0/28","gateway":"10.0.0.1","exclusions":["10.0.0.5"],"reservations":["10.0.0.8"]}"#,
        );
        for n in 1..3 {
            world.put(
                &format!("intent/node/n{n}"),
                &format!(r#"{{"name":"n{n}","mode":"host-vtep","vtep":"192.0.2.{n}","underlay_mtu":1500}}"#),
            );
        }
        world
    }

    fn holds(&self, compare: &Compare) -> bool {
        match compare {
            Compare::Absent(key) => !self.keys.contains_key(key),
            Compare::Present(key) => self.keys.contains_key(key),
            Compare::Unchanged(key, at) => self.keys.get(key).is_some_and(|(_, seen)| seen == at),
            Compare::NoneBelow(prefix) => !self.keys.keys().any(|key| key.starts_with(prefix)),
        }
    }

    fn plan(&self, request: &Request, now_ms: i64) -> Result<Plan, Refusal> {
        let view = View { snapshot: &self.snapshot, overlay: &self.overlay };
        plan(
            &view,
            request,
            Context { now_ms, seed: None, heard: &self.heard, hearing: &|_| Hearing::default() },
        )
    }

    /// Plans and commits. Every compare must hold: nobody else is here.
    fn run(&mut self, request: &Request, now_ms: i64) -> Result<Option<Stored>, PortError> {
        match self.plan(request, now_ms).map_err(|refusal| refusal.error)? {
            Plan::Done(effect) => Ok(effect.stored(self.snapshot.revision)),
            Plan::Write(planned) => {
                for compare in planned.shared.iter().chain(&planned.compares) {
                    assert!(self.holds(compare), "{compare:?} of {request:?}");
                }
                let keys: BTreeSet<&String> = planned
                    .writes
                    .iter()
                    .map(|w| match w {
                        Write::Put { key, .. } | Write::Delete(key) => key,
                    })
                    .collect();
                assert_eq!(keys.len(), planned.writes.len(), "a key is written twice");
                let at = Revision(self.snapshot.revision.0 + 1);
                for write in &planned.writes {
                    match write {
                        Write::Put { key, value, .. } => {
                            self.keys.insert(key.clone(), (value.clone(), at));
                        }
                        Write::Delete(key) => assert!(self.keys.remove(key).is_some(), "{key} was not there"),
                    }
                    let (Write::Put { key, .. } | Write::Delete(key)) = write;
                    if key.starts_with("intent/") {
                        let value = self.keys.get(key).map(|(value, _)| value.clone());
                        self.snapshot.apply(key, value.as_ref().map(|v| (v.as_slice(), at))).unwrap();
                    }
                }
                self.snapshot.revision = at;
                Ok(planned.effect.stored(at))
            }
        }
    }

    fn create(&mut self, name: &str) -> Result<Stored, PortError> {
        self.run(&Request::Create(create(name)), 1).map(Option::unwrap)
    }
}

fn key(name: &str) -> PortKey {
    format!("web/{name}").parse().unwrap()
}

fn create(name: &str) -> CreatePort {
    CreatePort::new(key(name))
}

fn place(node: u8) -> Place {
    Place::container(format!("n{node}").parse().unwrap(), "/run/netns/a", "eth0")
}

fn ip(last: u8) -> IpAddr {
    Ipv4Addr::new(10, 0, 0, last).into()
}

fn request() -> impl Strategy<Value = Request> {
    let name = (0..18u8).prop_map(|n| format!("p{n}"));
    prop_oneof![
        6 => (name.clone(), prop::option::weighted(0.3, 0..18u8), prop::option::weighted(0.2, 0..4u8), prop::option::weighted(0.3, 1..3u8))
            .prop_map(|(name, address, mac, node)| Request::Create(CreatePort {
                addresses: address.map(ip).into_iter().collect(),
                mac: mac.map(|n| Mac::from_ip(ip(n + 2), 0)),
                bind: node.map(place),
                ..create(&name)
            })),
        2 => (name.clone(), 1..4u8).prop_map(|(name, node)| Request::Bind(key(&name), place(node), None)),
        1 => name.clone().prop_map(|name| Request::Unbind(key(&name))),
        2 => (name.clone(), any::<bool>()).prop_map(|(name, forget)| Request::Release { key: key(&name), forget }),
        2 => (name.clone(), prop::bool::weighted(0.8)).prop_map(|(name, quarantined)| Request::Free {
            key: key(&name),
            quarantined,
            cause: String::new(),
        }),
        1 => (name, 0..200_000i64).prop_map(|(name, now_ms)| Request::Expire { key: key(&name), now_ms }),
    ]
}

/// Lowest address that may be chosen, by looking at each.
fn naive_choice(world: &World, mac_given: bool) -> Option<IpAddr> {
    let ports: Vec<&Port> = world.snapshot.ports.values().map(|r| &r.value).collect();
    (0..16u8).map(ip).find(|address| {
        ![0, 1, 5, 8, 15].map(ip).contains(address)
            && !ports.iter().any(|port| port.addresses.contains(address))
            && (mac_given || !ports.iter().any(|port| port.mac == Mac::from_ip(*address, 0)))
    })
}

/// The store's index keys are exactly those of the ports.
fn check_indexes(world: &World) {
    let mut want = BTreeMap::new();
    for port in world.snapshot.ports.values().map(|r| &r.value) {
        for address in &port.addresses {
            let claim = format!("index/address/default/10.0.0.0/28/{address}");
            assert!(want.insert(claim, port.key.to_string()).is_none(), "{address} twice");
        }
        assert!(want.insert(format!("index/mac/default/web/{}", port.mac), port.key.to_string()).is_none());
    }
    let indexes = world.keys.iter().filter(|(key, _)| key.starts_with("index/"));
    let have: BTreeMap<_, _> =
        indexes.map(|(key, (value, _))| (key.clone(), String::from_utf8(value.clone()).unwrap())).collect();
    assert_eq!(have, want);
}

proptest! {
    #[test]
    fn ports_are_as_a_naive_model_says(requests in prop::collection::vec(request(), 1..80), quarantine: bool) {
        let mut world = World::with_network();
        if !quarantine {
            world.put(
                "intent/network/default/web",
                r#"{"key":"default/web","vni":100,"mtu":1450,"sticky_seconds":60,"quarantine_seconds":0,"rd_number":1}"#,
            );
        }
        let mut generations: BTreeMap<Mac, u64> = BTreeMap::new();
        for (step, request) in requests.into_iter().enumerate() {
            let now = step as i64 * 1_000;
            let before = world.snapshot.ports.get(request.key()).map(|r| r.value.clone());
            let choice = naive_choice(&world, matches!(&request, Request::Create(c) if c.mac.is_some()));
            let answer = world.run(&request, now);
            check_indexes(&world);
            let after = world.snapshot.ports.get(request.key()).map(|r| r.value.clone());
            match (&request, &answer) {
                (Request::Create(wanted), Ok(Some(stored))) => {
                    prop_assert_eq!(&after, &Some(stored.port.clone()));
                    prop_assert_eq!(stored.created, before.as_ref().is_none_or(|p| p.released_ms.is_some()));
                    prop_assert_eq!(stored.port.released_ms, None);
                    match before {
                        Some(before) => {
                            prop_assert_eq!((&before.addresses, before.mac), (&stored.port.addresses, stored.port.mac));
                        }
                        None if wanted.addresses.is_empty() => prop_assert_eq!(stored.port.addresses.first().copied(), choice),
                        None => prop_assert_eq!(&stored.port.addresses, &wanted.addresses),
                    }
                }
                (Request::Create(wanted), Err(PortError::Exhausted { size, .. })) => {
                    prop_assert!(before.is_none() && choice.is_none() && wanted.addresses.is_empty());
                    prop_assert_eq!(*size, 11);
                }
                (_, Err(_)) => prop_assert_eq!(&before, &after, "a refusal changes nothing"),
                (Request::Expire { now_ms, .. }, Ok(_)) => {
                    let before = before.unwrap();
                    prop_assert!(before.released_ms.unwrap() + 60_000 <= *now_ms);
                    prop_assert_eq!(expires_ms(&before, 60), Some(before.released_ms.unwrap() + 60_000));
                    prop_assert_eq!(after.map(|port| port.quarantined_ms), quarantine.then_some(Some(*now_ms)));
                }
                (Request::Release { forget, .. }, Ok(_)) => match after {
                    Some(after) => {
                        prop_assert!(after.released_ms.is_some() && (quarantine || !forget));
                        let since = before.and_then(|port| port.quarantined_ms);
                        prop_assert_eq!(after.quarantined_ms, since.or(forget.then_some(now)));
                    }
                    None => prop_assert!(*forget && !quarantine),
                },
                (Request::Free { quarantined, .. }, Ok(_)) => {
                    prop_assert!(after.is_none());
                    prop_assert!(!quarantined || before.unwrap().quarantined_ms.is_some());
                }
                _ => prop_assert_eq!(&before, &after, "binding changes no port"),
            }
            // Whoever is quarantined is released, lives nowhere and is found in the order of time.
            for port in world.snapshot.ports.values().map(|r| &r.value).filter(|p| p.quarantined_ms.is_some()) {
                prop_assert!(port.released_ms.is_some());
                let since = port.quarantined_ms.unwrap();
                let entry = (port.key.network.clone(), since, port.key.clone());
                prop_assert!(world.snapshot.quarantined.contains(&entry));
            }
            let quarantined = world.snapshot.ports.values().filter(|r| r.value.quarantined_ms.is_some()).count();
            prop_assert_eq!(world.snapshot.quarantined.len(), quarantined);
            // A binding's generation grows whenever the MAC is bound anew, over ports that come and go.
            for binding in world.snapshot.bindings.values().map(|r| &r.value).filter(|b| b.active) {
                let port = &world.snapshot.ports.get(&binding.port).expect("binding without port").value;
                prop_assert!(port.released_ms.is_none());
                let last = generations.insert(port.mac, binding.generation).unwrap_or(0);
                let ledger = world.snapshot.ledger.get(&(port.key.network.clone(), port.mac)).map_or(0, |l| l.value);
                prop_assert!(binding.generation >= last.min(ledger.max(1)) && binding.generation > ledger);
            }
            // The same request twice gives the same answer and writes nothing.
            if let (Ok(first), Request::Create(_) | Request::Bind(..) | Request::Unbind(_)) = (&answer, &request) {
                let revision = world.snapshot.revision;
                let again = world.run(&request, now + 1).unwrap().unwrap();
                let first = first.clone().unwrap();
                prop_assert_eq!((&again.port, &again.binding, again.revision), (&first.port, &first.binding, first.revision));
                prop_assert!(!again.created);
                prop_assert_eq!(world.snapshot.revision, revision);
            }
        }
    }

    #[test]
    fn any_place_is_answered(netns in ".{0,20}", interface in ".{0,20}") {
        let mut world = World::with_network();
        world.create("a").unwrap();
        let place = Place { netns: netns.clone(), interface: interface.clone(), ..place(1) };
        if world.run(&Request::Bind(key("a"), place, None), 1).is_ok() {
            prop_assert!(netns.starts_with('/') || netns.starts_with("pid:"));
            prop_assert!(interface.len() < 16 && !interface.contains(['/', ' ', ':']));
        }
    }
}

#[test]
fn addresses_are_refused_with_field_and_reason() {
    let mut world = World::with_network();
    world.put("intent/network/default/db", r#"{"key":"default/db","vni":101,"mtu":1450,"rd_number":2}"#);
    world.put("intent/subnet/default/db/10.0.1.0/24", r#"{"network":"default/db","prefix":"10.0.1.0/24"}"#);
    for (address, reason) in [
        ("10.0.0.0", "network address"),
        ("10.0.0.15", "broadcast address"),
        ("10.0.0.1", "gateway"),
        ("10.0.0.5", "excluded"),
        ("10.0.1.7", "network default/db"),
        ("10.9.9.9", "in no subnet of network default/web (its subnets: 10.0.0.0/28)"),
        ("fd00::1", "in no subnet"),
    ] {
        let wanted = CreatePort { addresses: vec![address.parse().unwrap()], ..create("a") };
        let error = world.run(&Request::Create(wanted), 1).unwrap_err();
        let PortError::Field { field, .. } = &error else { panic!("{error:?}") };
        assert_eq!(field, "addresses[0]");
        assert!(error.to_string().contains(reason), "{error}");
    }
    // Reserved ones are given when asked for.
    let wanted = CreatePort { addresses: vec![ip(8)], ..create("a") };
    assert_eq!(world.run(&Request::Create(wanted), 1).unwrap().unwrap().port.addresses, [ip(8)]);
}

#[test]
fn what_is_taken_is_refused_with_its_owner() {
    let mut world = World::with_network();
    let a = world.create("a").unwrap().port;
    let same_address = CreatePort { addresses: a.addresses.clone(), ..create("b") };
    let error = world.run(&Request::Create(same_address), 1).unwrap_err();
    assert_eq!(error.to_string(), "address 10.0.0.2 is taken by port default/web/a");
    let same_mac = CreatePort { mac: Some(a.mac), ..create("b") };
    let error = world.run(&Request::Create(same_mac), 1).unwrap_err();
    assert_eq!(
        error.to_string(),
        "MAC 02:ca:0a:00:00:02 in network default/web is taken by port default/web/a"
    );
    let other = CreatePort { addresses: vec![ip(9)], ..create("a") };
    let error = world.run(&Request::Create(other), 1).unwrap_err();
    assert!(error.hint().contains("10.0.0.2") && !error.retryable(), "{error:?}");
    // A port elsewhere must be unbound before it is bound here.
    world.run(&Request::Bind(key("a"), place(1), None), 1).unwrap();
    let error = world.run(&Request::Bind(key("a"), place(2), None), 1).unwrap_err();
    assert!(matches!(&error, PortError::Precondition { owner, .. } if owner == "node n1"), "{error:?}");
    assert!(error.hint().contains("causeway port unbind default/web/a"));
    let error = world.run(&Request::Bind(key("a"), place(7), None), 1).unwrap_err();
    assert!(matches!(error, PortError::Precondition { .. }), "{error:?}");
    let error = world.run(&Request::Bind(key("none"), place(1), None), 1).unwrap_err();
    assert!(matches!(error, PortError::NoPort(_)), "{error:?}");
    world.create("c").unwrap();
    let error = world.run(&Request::Bind(key("c"), place(7), None), 1).unwrap_err();
    assert!(matches!(error, PortError::NoNode(_)), "{error:?}");
}

#[test]
fn a_quarantined_address_is_its_former_owners_alone() {
    let mut world = World::with_network();
    let asked = CreatePort {
        labels: BTreeMap::from([("a".into(), "b".into())]),
        bind: Some(place(1)),
        ..create("a")
    };
    let first = world.run(&Request::Create(asked), 1_000).unwrap().unwrap();
    let forget = |name: &str| Request::Release { key: key(name), forget: true };
    let gone = world.run(&forget("a"), 5_000).unwrap().unwrap();
    assert_eq!((gone.port.released_ms, gone.port.quarantined_ms), (Some(5_000), Some(5_000)));
    assert!(!gone.binding.unwrap().active);
    // Forgotten again it does not last longer.
    assert_eq!(world.run(&forget("a"), 90_000).unwrap().unwrap().port.quarantined_ms, Some(5_000));
    // Another one is told who had it, how long it takes and what to do; so with the MAC.
    let same_address = CreatePort { addresses: first.port.addresses.clone(), ..create("b") };
    let error = world.run(&Request::Create(same_address), 65_500).unwrap_err();
    assert_eq!(
        error.to_string(),
        "address 10.0.0.2 is taken by port default/web/a, which gave it up and has it in quarantine for another 240 s"
    );
    assert!(error.hint().contains("causeway port release --forget --no-quarantine default/web/a"));
    let same_mac = CreatePort { mac: Some(first.port.mac), ..create("b") };
    let error = world.run(&Request::Create(same_mac), 65_500).unwrap_err();
    assert!(error.to_string().contains("in quarantine for another 240 s"), "{error}");
    // A clock that is behind asks for longer, never for less; one that is ahead says zero and gives nothing either.
    let wanted = CreatePort { addresses: first.port.addresses.clone(), ..create("b") };
    for now_ms in [-1, 0, i64::MAX] {
        assert!(world.run(&Request::Create(wanted.clone()), now_ms).is_err(), "{now_ms}");
    }
    // Nobody is given it by chance.
    assert_eq!(world.create("b").unwrap().port.addresses, [ip(3)]);
    // The same name with another address is refused as long as it lasts.
    let other = CreatePort { addresses: vec![ip(9)], ..create("a") };
    let error = world.run(&Request::Create(other), 65_500).unwrap_err();
    assert!(error.hint().contains("is in quarantine with 10.0.0.2"), "{}", error.hint());
    // The same name gets it back at once, and its generation goes on.
    let back = CreatePort { bind: Some(place(2)), ..create("a") };
    let back = world.run(&Request::Create(back), 66_000).unwrap().unwrap();
    assert_eq!((&back.port.addresses, back.port.mac), (&first.port.addresses, first.port.mac));
    assert_eq!((back.port.released_ms, back.port.quarantined_ms, back.created), (None, None, true));
    assert_eq!(back.binding.unwrap().generation, first.binding.unwrap().generation + 1);
    // In use it is not freed as one whose quarantine is over.
    let over = Request::Free { key: key("a"), quarantined: true, cause: String::new() };
    assert!(matches!(world.run(&over, 400_000), Err(PortError::Precondition { .. })));
    world.run(&forget("a"), 70_000).unwrap();
    world.run(&over, 400_000).unwrap();
    assert_eq!(world.snapshot.quarantined.len(), 0);
    assert_eq!(world.create("c").unwrap().port.addresses, [ip(2)]);
}

#[test]
fn a_network_of_both_families_gives_one_address_of_each() {
    let mut world = World::with_network();
    world.put("intent/subnet/default/web/fd00::/64", r#"{"network":"default/web","prefix":"fd00::/64"}"#);
    let port = world.create("a").unwrap().port;
    assert_eq!(port.addresses, [ip(2), "fd00::1".parse().unwrap()]);
    assert_eq!(port.mac, Mac::from_ip(ip(2), 0));
}

#[test]
fn macs_of_ipv6_only_ports_record_their_collisions() {
    let mut world = World::default();
    world.put("intent/network/default/web", r#"{"key":"default/web","vni":100,"mtu":1450,"rd_number":1}"#);
    world.put("intent/subnet/default/web/fd00::/64", r#"{"network":"default/web","prefix":"fd00::/64"}"#);
    let second: IpAddr = "fd00::2".parse().unwrap();
    let adopted = CreatePort { mac: Some(Mac::from_ip(second, 0)), ..create("a") };
    world.run(&Request::Create(adopted), 1).unwrap();
    let port = world.create("b").unwrap().port;
    assert_eq!((port.addresses[0], port.mac, port.mac_collisions), (second, Mac::from_ip(second, 1), 1));
}

#[test]
fn a_workload_too_large_for_the_underlay_is_refused() {
    let mut world = World::with_network();
    world.put("intent/network/default/web", r#"{"key":"default/web","vni":100,"mtu":1451,"rd_number":1}"#);
    world.create("a").unwrap();
    let error = world.run(&Request::Bind(key("a"), place(1), None), 1).unwrap_err();
    assert!(matches!(&error, PortError::Precondition { reason, .. } if reason.contains("1500")), "{error:?}");
}

#[test]
fn a_refusal_rests_on_what_was_seen() {
    let world = World::with_network();
    let refusal = world.plan(&Request::Unbind(key("none")), 1).unwrap_err();
    let belief = refusal.belief.map(|belief| (belief.path, belief.seen));
    assert_eq!(belief, Some((RecordKey::Port(key("none")).path(), None)));
}

/// The search looks at runs: in a pool of 16 million addresses with a million taken it takes no longer.
#[test]
fn a_full_pool_is_searched_as_fast_as_an_empty_one() {
    let mut runs = crate::snapshot::Runs::default();
    let pieces = [(0u128, (1 << 24) - 1)];
    let time = |runs: &crate::snapshot::Runs| {
        let start = std::time::Instant::now();
        for seed in 0..1_000 {
            assert!(alloc::choose(&pieces, &[runs], Some(alloc::seed("x", seed))).is_some());
            assert!(alloc::choose(&pieces, &[runs], None).is_some());
        }
        start.elapsed()
    };
    let empty = time(&runs);
    for n in 0..1_000_000 {
        runs.insert(n);
    }
    let full = time(&runs);
    println!("2000 searches: empty {empty:?}, a million taken {full:?}");
    // A linear search would take many thousand times as long.
    assert!(full < empty * 50 + std::time::Duration::from_millis(100), "{full:?} against {empty:?}");
}

/// A switch of each mode, a host behind each, and two networks of which one has no VLAN.
fn fabric() -> World {
    let mut world = World::with_network();
    world.put(
        "intent/network/default/vlan",
        r#"{"key":"default/vlan","vni":101,"vlan":10,"mtu":1450,"rd_number":2}"#,
    );
    world.put(
        "intent/subnet/default/vlan/10.0.2.0/24",
        r#"{"network":"default/vlan","prefix":"10.0.2.0/24"}"#,
    );
    for (n, mode) in ["tor-evpn", "tor-agent", "tor-static"].into_iter().enumerate() {
        world.put(
            &format!("intent/node/{mode}"),
            &format!(r#"{{"name":"{mode}","mode":"{mode}","vtep":"192.0.2.10{n}","underlay_mtu":1500}}"#),
        );
        world.put(
            &format!("intent/node/behind-{mode}"),
            &format!(
                r#"{{"name":"behind-{mode}","mode":"host","underlay_mtu":1500,"uplinks":[{{"interface":"eth0","switch":"{mode}","switch_interface":"swp1"}}]}}"#
            ),
        );
    }
    world
}

#[test]
fn what_may_be_attached_where() {
    use Attachment::{Bridge, Ipvlan, Macvlan, Routed, Tap, VxlanBridge};
    use WorkloadKind::{BareMetal, Container, Vm};
    let nodes = [
        "n1",
        "behind-tor-evpn",
        "behind-tor-agent",
        "behind-tor-static",
        "tor-evpn",
        "tor-agent",
        "tor-static",
    ];
    // One letter a node: may or not.
    let table = [
        (Container, None, "yyyynnn"),
        (Container, Some(VxlanBridge), "ynnnnnn"),
        (Container, Some(Bridge), "nyyynnn"),
        (Container, Some(Macvlan), "nyyynnn"),
        (Container, Some(Ipvlan), "nynnnnn"),
        (Container, Some(Routed), "yyyynnn"),
        (Container, Some(Tap), "nnnnnnn"),
        (Vm, None, "yyyynnn"),
        (Vm, Some(Tap), "yyyynnn"),
        (Vm, Some(Bridge), "nnnnnnn"),
        (BareMetal, None, "nyyyyyy"),
    ];
    for (kind, attachment, want) in table {
        for network in ["vlan", "web"] {
            let got: String = nodes
                .iter()
                .map(|node| {
                    let mut world = fabric();
                    let place = Place {
                        kind,
                        attachment,
                        netns: if kind == Container { "pid:1".into() } else { String::new() },
                        interface: if kind == BareMetal && node.starts_with("tor") {
                            "swp9".into()
                        } else {
                            String::new()
                        },
                        ..Place::container(node.parse().unwrap(), "", "")
                    };
                    let key: PortKey = format!("{network}/a").parse().unwrap();
                    let create = CreatePort { bind: Some(place), ..CreatePort::new(key) };
                    if world.run(&Request::Create(create), 1).is_ok() { 'y' } else { 'n' }
                })
                .collect();
            // Where we tell networks apart by VLAN, one without is nowhere.
            let want: String = if network == "vlan" {
                want.to_owned()
            } else {
                want.char_indices().map(|(n, c)| if matches!(n, 2 | 3 | 5 | 6) { 'n' } else { c }).collect()
            };
            assert_eq!(got, want, "{kind} {attachment:?} in {network}");
        }
    }
}

#[test]
fn defaults_are_by_node_and_kind_and_the_same_place_again_is_no_change() {
    let mut world = fabric();
    let container = |node: &str| Place::container(node.parse().unwrap(), "pid:1", "");
    let tap = Place { kind: WorkloadKind::Vm, netns: String::new(), ..container("behind-tor-evpn") };
    let mut bind = |name: &str, place: &Place| {
        let key: PortKey = format!("vlan/{name}").parse().unwrap();
        let create = CreatePort { bind: Some(place.clone()), ..CreatePort::new(key.clone()) };
        let first = world.run(&Request::Create(create), 1).unwrap().unwrap();
        let again = world.run(&Request::Bind(key, place.clone(), None), 2).unwrap().unwrap();
        assert_eq!(first.binding, again.binding);
        let binding = again.binding.unwrap();
        (binding.attachment, binding.interface)
    };
    assert_eq!(bind("a", &container("n1")), (Some(Attachment::VxlanBridge), "eth0".to_owned()));
    assert_eq!(bind("b", &container("behind-tor-agent")), (Some(Attachment::Bridge), "eth0".to_owned()));
    let (attachment, interface) = bind("c", &tap);
    assert_eq!((attachment, interface.len()), (Some(Attachment::Tap), 15));
    assert!(interface.starts_with("cwp"), "{interface}");
}

#[test]
fn what_is_in_the_way_is_named() {
    let mut world = fabric();
    let passthru = Place {
        attachment: Some(Attachment::Macvlan),
        macvlan_mode: Some(MacvlanMode::Passthru),
        ..Place::container("behind-tor-evpn".parse().unwrap(), "pid:1", "")
    };
    let second = Place { macvlan_mode: None, ..passthru.clone() };
    let metal = Place {
        kind: WorkloadKind::BareMetal,
        interface: "swp9".into(),
        ..Place::container("tor-evpn".parse().unwrap(), "", "")
    };
    for (key, place, refused) in [
        ("vlan/a", &passthru, None),
        ("vlan/b", &second, Some("two macvlans on one parent")),
        ("vlan/m", &metal, None),
        ("vlan/n", &metal, None),
        ("web/m", &metal, Some("has network default/vlan on interface swp9")),
    ] {
        let create = CreatePort { bind: Some(place.clone()), ..CreatePort::new(key.parse().unwrap()) };
        let answer = world.run(&Request::Create(create), 1);
        match refused {
            None => assert!(answer.is_ok(), "{key}: {answer:?}"),
            Some(why) => assert!(answer.unwrap_err().to_string().contains(why), "{key}"),
        }
    }
}

#[test]
fn rate_and_guard_change_live_and_outlive_a_repeated_create() {
    let mut world = World::with_network();
    let slow = RateLimit { in_kbit: 1_000, out_kbit: 0 };
    let asked = CreatePort { rate: slow, guard: Some(Guard::Off), bind: Some(place(1)), ..create("a") };
    let first = world.run(&Request::Create(asked.clone()), 1).unwrap().unwrap();
    assert_eq!((first.port.rate, first.port.guard), (slow, Some(Guard::Off)));
    let fast = RateLimit { in_kbit: 9_000, out_kbit: 1 };
    let update = |rate, guard| Request::Update { key: key("a"), rate, guard };
    let changed = world.run(&update(Some(fast), None), 2).unwrap().unwrap();
    assert_eq!((changed.port.rate, changed.port.guard), (fast, Some(Guard::Off)));
    assert_eq!(changed.binding, first.binding, "it lives where it lived");
    let same = world.run(&update(Some(fast), None), 3).unwrap().unwrap();
    assert_eq!(same.revision, changed.revision, "nothing to write");
    let reset = world.run(&update(None, Some(None)), 4).unwrap().unwrap();
    assert_eq!((reset.port.rate, reset.port.guard), (fast, None));
    let again = world.run(&Request::Create(asked), 5).unwrap().unwrap();
    assert_eq!((again.port.rate, again.created), (fast, false), "a repeated create takes nothing back");
    let none = Request::Update { key: key("nobody"), rate: None, guard: None };
    assert!(matches!(world.run(&none, 6), Err(PortError::NoPort(_))));
}

#[test]
fn a_planned_move_goes_above_what_other_places_say() {
    let mut world = World::with_network();
    let created = world.create("a").unwrap();
    let seen = |vteps: &[(&str, u32)]| {
        let sequences: BTreeMap<IpAddr, u32> =
            vteps.iter().map(|(vtep, sequence)| (vtep.parse().unwrap(), *sequence)).collect();
        let vtep = *sequences.keys().next().unwrap();
        Arc::new(ImportedMac { vtep, addresses: Vec::new(), sequences })
    };
    let place_of = (key("a").network, created.port.mac);
    let moved = |world: &mut World, vteps: &[(&str, u32)], node| {
        world.heard.macs.insert(place_of.clone(), seen(vteps));
        world.run(&Request::Unbind(key("a")), 1).unwrap();
        let bound = world.run(&Request::Bind(key("a"), place(node), None), 1).unwrap().unwrap();
        crate::derive::evpn::sequence(bound.binding.unwrap().generation)
    };
    assert_eq!(moved(&mut world, &[("192.0.2.1", 5)], 1), 0, "it is said where it is bound: nothing moves");
    assert_eq!(moved(&mut world, &[("192.0.2.1", 5), ("192.0.2.77", 3)], 1), 4);
    assert_eq!(moved(&mut world, &[("192.0.2.1", 9)], 2), 10);
    assert_eq!(moved(&mut world, &[("192.0.2.1", u32::MAX)], 2), u32::MAX, "no wrap");
}
