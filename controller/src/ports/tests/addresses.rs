//! Which addresses and MACs are given, and which are refused.

use super::*;

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

/// All or nothing: of a port that asks for several, one that somebody else has keeps the others from being claimed.
#[test]
fn one_address_that_is_taken_refuses_all() {
    let mut world = World::with_network();
    world.put("intent/subnet/default/web/fd00::/64", r#"{"network":"default/web","prefix":"fd00::/64"}"#);
    let six: IpAddr = "fd00::7".parse().unwrap();
    let wants = |name: &str, addresses: &[IpAddr]| {
        Request::Create(CreatePort { addresses: addresses.to_vec(), ..create(name) })
    };
    let taken = |world: &mut World, name: &str, addresses: &[IpAddr]| {
        let before = world.keys.clone();
        let error = world.run(&wants(name, addresses), 5).unwrap_err();
        assert_eq!(world.keys, before, "nothing is left of {error}");
        let PortError::Taken { subject, owner, .. } = &error else { panic!("{error:?}") };
        (subject.clone(), owner.clone())
    };
    let a = world.run(&wants("a", &[six, ip(9), ip(10)]), 1).unwrap().unwrap().port;
    assert_eq!(a.addresses, [ip(9), ip(10), six], "as many of a family as were asked for, IPv4 first");
    assert_eq!(a.mac, Mac::from_ip(ip(9), 0));
    for (asked, owned) in [([ip(11), ip(10)], "10.0.0.10"), ([ip(12), six], "fd00::7")] {
        let (what, owner) = taken(&mut world, "b", &asked);
        assert!(what.contains(owned) && owner == "port default/web/a", "{what} {owner}");
    }
    // In quarantine they all are, and afterwards all are free.
    world.run(&Request::Release { key: key("a"), forget: true }, 2).unwrap();
    for address in [ip(9), ip(10), six] {
        let (_, owner) = taken(&mut world, "c", &[ip(13), address]);
        assert!(owner.starts_with("port default/web/a"), "{owner}");
    }
    let back = world.run(&Request::Create(create("a")), 3).unwrap().unwrap().port;
    assert_eq!(back.addresses, a.addresses, "who had them has them back");
    world.run(&Request::Release { key: key("a"), forget: true }, 4).unwrap();
    world.run(&Request::Free { key: key("a"), quarantined: true, cause: String::new() }, 5).unwrap();
    let c = world.run(&wants("c", &[ip(10), ip(9), six]), 6).unwrap().unwrap().port;
    assert_eq!(c.addresses, [ip(10), ip(9), six]);
    assert_eq!(c.mac, Mac::from_ip(ip(10), 0), "of the first that was asked for");
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
