use std::collections::BTreeSet;

use proptest::prelude::*;

use super::*;

fn subnet(prefix: &str) -> Subnet {
    Subnet {
        network: "web".parse().unwrap(),
        prefix: prefix.parse().unwrap(),
        gateway: None,
        ranges: Vec::new(),
        exclusions: Vec::new(),
        reservations: Vec::new(),
    }
}

fn range(low: u8, span: u8) -> AddressRange {
    let ip = |n: u8| IpAddr::from(Ipv4Addr::new(10, 0, 0, n));
    AddressRange::new(ip(low), ip(low.saturating_add(span))).unwrap()
}

prop_compose! {
    fn ranges(most: usize)(list in prop::collection::vec((any::<u8>(), 0u8..40), 0..most)) -> Vec<AddressRange> {
        list.into_iter().map(|(low, span)| range(low, span)).collect()
    }
}

prop_compose! {
    fn any_subnet()(ranges in ranges(3), exclusions in ranges(4), reservations in ranges(3), gateway in any::<Option<u8>>()) -> Subnet {
        let gateway = gateway.map(|n| Ipv4Addr::new(10, 0, 0, n).into());
        Subnet { ranges, exclusions, reservations, gateway, ..subnet("10.0.0.0/24") }
    }
}

/// The definition, address by address.
fn may_choose(subnet: &Subnet, address: IpAddr) -> bool {
    let within = |list: &[AddressRange]| list.iter().any(|r| r.contains(address));
    refusal(subnet, address).is_none()
        && (subnet.ranges.is_empty() || within(&subnet.ranges))
        && !within(&subnet.reservations)
}

proptest! {
    #[test]
    fn pieces_are_what_may_be_chosen(subnet in any_subnet()) {
        let pieces = choosable(&subnet);
        let mut count = 0;
        for n in 0..=255u8 {
            let address = IpAddr::from(Ipv4Addr::new(10, 0, 0, n));
            let inside = pieces.iter().any(|(a, b)| (*a..=*b).contains(&number(address)));
            prop_assert_eq!(inside, may_choose(&subnet, address), "{}", address);
            count += u64::from(inside);
        }
        prop_assert_eq!(size(&pieces), count);
        prop_assert!(pieces.windows(2).all(|w| w[0].1 + 1 < w[1].0), "{pieces:?}");
    }

    #[test]
    fn every_free_address_is_found_and_no_other(subnet in any_subnet(), seeds in prop::collection::vec(any::<Option<u64>>(), 260)) {
        let pieces = choosable(&subnet);
        let (mut snapshot, mut overlay, mut given) = (Runs::default(), Runs::default(), BTreeSet::new());
        for seed in seeds {
            match choose(&pieces, &[&snapshot, &overlay], seed) {
                Some(n) => {
                    prop_assert!(may_choose(&subnet, address(n, true).unwrap()));
                    prop_assert!(given.insert(n), "{} twice", n);
                    if seed.is_none() {
                        let lowest = (0..=255u8).map(|n| number(Ipv4Addr::new(10, 0, 0, n).into()))
                            .find(|m| may_choose(&subnet, address(*m, true).unwrap()) && (!given.contains(m) || *m == n));
                        prop_assert_eq!(Some(n), lowest);
                    }
                    if n % 2 == 0 { snapshot.insert(n) } else { overlay.insert(n) };
                }
                None => prop_assert_eq!(given.len() as u64, size(&pieces)),
            }
        }
        prop_assert_eq!(given.len() as u64, size(&pieces));
    }
}

#[test]
fn point_to_point_prefixes_use_every_address() {
    for (prefix, count) in
        [("10.0.0.0/31", 2), ("10.0.0.0/32", 1), ("10.0.0.0/30", 2), ("fd00::/127", 2), ("fd00::/126", 3)]
    {
        assert_eq!(size(&choosable(&subnet(prefix))), count, "{prefix}");
    }
}

#[test]
fn the_largest_prefixes_do_not_overflow() {
    for prefix in ["::/0", "0.0.0.0/0", "ffff:ffff:ffff:ffff::/64"] {
        let pieces = choosable(&subnet(prefix));
        assert!(
            choose(&pieces, &[], None).is_some() && choose(&pieces, &[], Some(u64::MAX)).is_some(),
            "{prefix}"
        );
    }
}

#[test]
fn macs_of_ipv6_addresses_go_on_after_a_collision() {
    let address: IpAddr = "fd00::5".parse().unwrap();
    let first = derive_mac(address, |_| false).unwrap();
    assert_eq!(first, (Mac::from_ip(address, 0), 0));
    assert_eq!(derive_mac(address, |mac| mac == first.0), Some((Mac::from_ip(address, 1), 1)));
    let v4: IpAddr = "10.0.0.5".parse().unwrap();
    assert_eq!(derive_mac(v4, |_| true), None);
}
