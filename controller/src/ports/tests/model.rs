//! Whatever is asked for, ports are as a naive model says.

use super::*;

fn request() -> impl Strategy<Value = Request> {
    let name = (0..18u8).prop_map(|n| format!("p{n}"));
    let addresses = prop_oneof![7 => Just(Vec::new()), 3 => prop::collection::vec(0..18u8, 1..4)];
    prop_oneof![
        6 => (name.clone(), addresses, prop::option::weighted(0.2, 0..4u8), prop::option::weighted(0.3, 1..3u8))
            .prop_map(|(name, addresses, mac, node)| Request::Create(CreatePort {
                addresses: addresses.into_iter().map(ip).collect(),
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
        for mac in port.macs() {
            assert!(want.insert(format!("index/mac/default/web/{mac}"), port.key.to_string()).is_none());
        }
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
