//! What becomes of a port after it was made.

use super::*;

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

/// A controller whose view is a moment old must not tell, nor answer, that a port lives where it does no more.
#[test]
fn what_is_told_of_a_port_rests_on_where_it_lives() {
    let rate = RateLimit { in_kbit: 1_000, out_kbit: 0 };
    let update = Request::Update { key: key("a"), rate: Some(rate), guard: None, address_check: None };
    let found = Duplicate {
        generation: 1,
        address: ip(2),
        mac: "02:00:00:00:00:09".parse().unwrap(),
        interface: "eth0".into(),
        seen_ms: 1,
    };
    let found = Request::Found { key: key("a"), generation: 1, found: Some(found) };
    let turn_back = Request::TurnBack { key: key("a"), reason: "so".into(), force: false };
    let to = MoveOrder {
        to: place(2),
        mac: None,
        max_loss_ms: 500,
        window_ms: 1_000,
        prepare_ms: 1_000,
        force: true,
        by: String::new(),
    };
    let migrate = Request::Move(key("a"), to);
    for stale in
        [update, found, turn_back, Request::Release { key: key("a"), forget: false }, migrate.clone()]
    {
        let mut world = World::with_network();
        world.run(&Request::Create(CreatePort { bind: Some(place(1)), ..create("a") }), 1).unwrap();
        if matches!(stale, Request::TurnBack { .. }) {
            world.run(&migrate, 2).unwrap();
        }
        let Plan::Write(planned) = world.plan(&stale, 3).unwrap() else {
            panic!("{stale:?} changes nothing")
        };
        assert!(planned.event.as_ref().is_some_and(|event| event.generation == 1), "{stale:?}");
        world.run(&Request::Unbind(key("a")), 3).unwrap();
        assert!(!planned.compares.iter().all(|compare| world.holds(compare)), "{stale:?} would be committed");
    }
}

#[test]
fn a_refusal_rests_on_what_was_seen() {
    let world = World::with_network();
    let refusal = world.plan(&Request::Unbind(key("none")), 1).unwrap_err();
    let belief = refusal.belief.map(|belief| (belief.path, belief.seen));
    assert_eq!(belief, Some((RecordKey::Port(key("none")).path(), None)));
}

#[test]
fn rate_and_guard_change_live_and_outlive_a_repeated_create() {
    let mut world = World::with_network();
    let slow = RateLimit { in_kbit: 1_000, out_kbit: 0 };
    let asked = CreatePort { rate: slow, guard: Some(Guard::Off), bind: Some(place(1)), ..create("a") };
    let first = world.run(&Request::Create(asked.clone()), 1).unwrap().unwrap();
    assert_eq!((first.port.rate, first.port.guard), (slow, Some(Guard::Off)));
    let fast = RateLimit { in_kbit: 9_000, out_kbit: 1 };
    let update = |rate, guard| Request::Update { key: key("a"), rate, guard, address_check: None };
    let changed = world.run(&update(Some(fast), None), 2).unwrap().unwrap();
    assert_eq!((changed.port.rate, changed.port.guard), (fast, Some(Guard::Off)));
    assert_eq!(changed.binding, first.binding, "it lives where it lived");
    let same = world.run(&update(Some(fast), None), 3).unwrap().unwrap();
    assert_eq!(same.revision, changed.revision, "nothing to write");
    let reset = world.run(&update(None, Some(None)), 4).unwrap().unwrap();
    assert_eq!((reset.port.rate, reset.port.guard), (fast, None));
    let again = world.run(&Request::Create(asked), 5).unwrap().unwrap();
    assert_eq!((again.port.rate, again.created), (fast, false), "a repeated create takes nothing back");
    let none = Request::Update { key: key("nobody"), rate: None, guard: None, address_check: None };
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

/// A node that is connected may have been cut off a moment ago: only its word counts, and only one that came after.
#[test]
fn a_port_goes_on_only_when_its_node_has_said_that_it_is_down() {
    let mut world = World::with_network();
    let asked = CreatePort { bind: Some(place(1)), ..create("a") };
    let first = world.run(&Request::Create(asked), 1).unwrap().unwrap();
    let unbound = world.run(&Request::Unbind(key("a")), 2).unwrap().unwrap().revision;
    let elsewhere = Request::Bind(key("a"), place(2), None);
    world.hearing = Hearing { connected: true, known: true, applied: first.revision, silent_ms: None };
    let error = world.run(&elsewhere, 3).unwrap_err();
    assert!(matches!(&error, PortError::Unconfirmed { node, .. } if node.as_str() == "n1"), "{error:?}");
    assert!(error.retryable());
    world.run(&Request::Bind(key("a"), place(1), None), 4).expect("where it was it may come back");
    let unbound_again = world.run(&Request::Unbind(key("a")), 5).unwrap().unwrap().revision;
    world.hearing.applied = unbound;
    assert!(world.run(&elsewhere, 6).is_err(), "it speaks of the time before");
    world.hearing.connected = false;
    let error = world.run(&elsewhere, 7).unwrap_err();
    assert!(error.hint().contains("causeway node fence n1"), "{error}");
    world.hearing.applied = unbound_again;
    world.run(&elsewhere, 8).unwrap();
}

/// However long a quarantine lasts: the address of a port that may be up still is nobody else's.
#[test]
fn an_address_is_free_only_when_its_node_has_said_that_it_is_down() {
    let over = || Request::Free { key: key("a"), quarantined: true, cause: String::new() };
    let mut world = World::with_network();
    // No quarantine at all.
    world.put(
        "intent/network/default/web",
        r#"{"key":"default/web","vni":100,"mtu":1450,"quarantine_seconds":0,"rd_number":1}"#,
    );
    world.hearing = Hearing { connected: true, known: true, ..Hearing::default() };
    let asked = CreatePort { bind: Some(place(1)), ..create("a") };
    let first = world.run(&Request::Create(asked), 1).unwrap().unwrap();
    world.hearing.applied = first.revision;
    let given_up = world.run(&Request::Release { key: key("a"), forget: true }, 2).unwrap().unwrap();
    assert_eq!(given_up.port.quarantined_ms, Some(2), "it is up still");
    assert!(matches!(world.run(&over(), 3), Err(PortError::Unconfirmed { .. })));
    world.hearing.connected = false;
    let error = world.run(&over(), i64::MAX).unwrap_err();
    assert!(matches!(error, PortError::Precondition { .. }), "{error:?}");
    assert_ne!(world.create("b").unwrap().port.addresses, first.port.addresses);
    // Who says that certainly nobody uses it is believed; else the node's own word counts, or a fence.
    let mut fenced = World { keys: world.keys.clone(), snapshot: world.snapshot.clone(), ..World::default() };
    fenced.hearing = world.hearing;
    fenced.put("intent/fence/n1", r#"{"node":"n1","reason":"it burns","since_ms":1}"#);
    fenced.run(&over(), 4).unwrap();
    world.hearing.applied = given_up.revision;
    world.run(&over(), 4).unwrap();
    assert_eq!(world.create("c").unwrap().port.addresses, first.port.addresses);
}

#[test]
fn what_is_adopted_keeps_what_it_has_and_is_rehearsed_by_the_same_rules() {
    let mut world = World::with_network();
    world.run(&Request::Create(CreatePort { addresses: vec![ip(6)], ..create("has") }), 1).unwrap();
    let adopted = |name: &str, last: u8, interface: &str| {
        let bind = Some(Place { adopted: true, interface: interface.into(), ..place(1) });
        let mac = Some(Mac::new([2, 0x42, 0, 0, 0, last]));
        CreatePort { addresses: vec![ip(last)], mac, bind, ..create(name) }
    };
    let wanted = vec![
        adopted("a", 7, "eth0"),
        adopted("b", 6, "eth1"),
        adopted("c", 7, "eth2"),
        adopted("a", 7, "eth0"),
    ];
    let heard = Imports::default();
    let context = Context { now_ms: 2, seed: None, heard: &heard, hearing: &|_| Hearing::default() };
    let snapshot = std::sync::Arc::new(world.snapshot.clone());
    let said = crate::ports::plan::rehearse(&snapshot, wanted.clone(), context);
    let first = said[0].as_ref().unwrap();
    assert!(first.created && first.binding.as_ref().is_some_and(|binding| binding.adopted));
    let owner = |n: usize| match &said[n] {
        Err(PortError::Taken { owner, .. }) => owner.clone(),
        other => panic!("{other:?}"),
    };
    assert_eq!((owner(1), owner(2)), ("port default/web/has".into(), "port default/web/a".into()));
    assert!(!said[3].as_ref().unwrap().created, "twice the same is once");
    assert!(!world.snapshot.ports.contains_key(&key("a")), "nothing was written");
    let real = world.run(&Request::Create(wanted[0].clone()), 2).unwrap().unwrap();
    assert_eq!((real.port.mac, real.port.addresses), (first.port.mac, first.port.addresses.clone()));
    // Started anew, the same container has another namespace; nothing of ours has to end for that.
    let at = |place: Place| Request::Create(CreatePort { bind: Some(place), ..wanted[0].clone() });
    let here = Place { netns: "pid:99".into(), ..wanted[0].bind.clone().unwrap() };
    let binding = world.run(&at(here.clone()), 3).unwrap().unwrap().binding.unwrap();
    assert_eq!((binding.netns.as_str(), binding.generation, binding.adopted), ("pid:99", 2, true));
    let again = world.run(&at(here.clone()), 3).unwrap().unwrap().binding.unwrap();
    assert_eq!(again.generation, 2, "twice the same is once");
    for elsewhere in [
        Place { node: place(2).node, ..here.clone() },
        Place { interface: "eth9".into(), ..here.clone() },
        Place { adopted: false, netns: "pid:98".into(), ..here.clone() },
    ] {
        let refused = world.run(&at(elsewhere.clone()), 3);
        assert!(matches!(refused, Err(PortError::Precondition { .. })), "{elsewhere:?}: {refused:?}");
    }
    // What makes no sense is refused.
    for (change, field) in [
        (Place { attachment: Some(Attachment::VxlanBridge), ..place(1) }, "adopted"),
        (Place { mtu: 1400, ..place(1) }, "adopted"),
        (Place { apart: true, ..place(1) }, "apart"),
        (Place { kind: WorkloadKind::Vm, netns: String::new(), ..place(1) }, "adopted"),
        (Place { adopted: false, queues: 2, ..place(1) }, "queues"),
        (Place { adopted: false, mtu: 1451, ..place(1) }, "mtu"),
        (Place { adopted: false, mtu: 60, ..place(1) }, "mtu"),
    ] {
        let adopted = field == "adopted";
        let asked = CreatePort { bind: Some(Place { adopted, ..change }), ..create("x") };
        let Err(PortError::Field { field: refused, .. }) = world.run(&Request::Create(asked), 3) else {
            panic!("{field} is refused");
        };
        assert!(refused.ends_with(field), "{refused} for {field}");
    }
}
