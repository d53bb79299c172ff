//! Packing: full messages, never one too long.

use super::*;

fn pack(attributes: &Attributes, keys: &[RouteKey], limit: usize) -> Vec<Vec<u8>> {
    let writing = encode::Writing { limit, ..writing() };
    let mut packed = Packed::new();
    assert_eq!(packed.announce(attributes, keys.iter(), &writing), 0);
    let all = messages(&packed.octets, limit);
    assert_eq!(all.len() as u64, packed.messages);
    all
}

fn routes_in(messages: &[Vec<u8>], limit: usize) -> Vec<RouteKey> {
    let reading = Reading { limit, ..ibgp() };
    messages.iter().flat_map(|m| update(m, &reading).unwrap().announced).map(|route| route.key).collect()
}

#[test]
fn messages_are_filled_and_none_is_too_long() {
    for (count, limit, expected) in [
        (0, STANDARD_LIMIT, 0),
        (1, STANDARD_LIMIT, 1),
        (103, STANDARD_LIMIT, 1),
        (104, STANDARD_LIMIT, 2),
        (2000, STANDARD_LIMIT, 20),
        (1678, EXTENDED_LIMIT, 1),
        (1679, EXTENDED_LIMIT, 2),
        (2000, EXTENDED_LIMIT, 2),
    ] {
        let keys: Vec<_> = (0..count).map(key).collect();
        let all = pack(&attributes(), &keys, limit);
        assert_eq!(all.len(), expected, "{count} routes in {limit}");
        assert!(all.iter().all(|message| message.len() <= limit));
        assert_eq!(routes_in(&all, limit), keys);
    }
}

#[test]
fn sizes_of_other_shapes() {
    let mac_only: Vec<_> = (0..200u8).map(|i| mac_only([2, 0, 0, 0, 0, i])).collect();
    let all = pack(&attributes(), &mac_only, STANDARD_LIMIT);
    assert_eq!(routes_in(&all[..1], STANDARD_LIMIT).len(), 115);
    let irb = Attributes {
        l3_vni: Some(vni(4001)),
        route_targets: vec!["65000:110".parse().unwrap(), "65000:4001".parse().unwrap()],
        router_mac: Some(Mac::new([0x44, 0x38, 0x39, 0, 0, 1])),
        ..attributes()
    };
    let keys: Vec<_> = (0..200).map(key).collect();
    let all = pack(&irb, &keys, STANDARD_LIMIT);
    assert_eq!(routes_in(&all[..1], STANDARD_LIMIT).len(), 95);
}

#[test]
fn withdrawals_are_filled_too() {
    for limit in [STANDARD_LIMIT, EXTENDED_LIMIT] {
        let keys: Vec<_> = (0..3000).map(key).collect();
        let mut packed = Packed::new();
        packed.withdraw(keys.iter(), &encode::Writing { limit, ..writing() });
        let all = messages(&packed.octets, limit);
        assert!(all.iter().all(|message| message.len() <= limit));
        let reading = Reading { limit, ..ibgp() };
        let read: Vec<_> = all.iter().flat_map(|m| update(m, &reading).unwrap().withdrawn).collect();
        assert_eq!(read, keys);
    }
}

#[test]
fn an_attribute_of_more_than_255_octets_has_a_two_octet_length() {
    for targets in [29, 30, 31, 32, 200] {
        let attributes = Attributes {
            route_targets: (0..targets).map(|i| RouteTarget::new(65000, i).unwrap()).collect(),
            ..attributes()
        };
        let all = pack(&attributes, &[key(1)], STANDARD_LIMIT);
        let read = update(&all[0], &ibgp()).unwrap();
        assert_eq!(*read.announced[0].attributes, attributes);
    }
}

#[test]
fn what_fits_no_message_is_left_out_and_counted() {
    let attributes = Attributes {
        route_targets: (0..510).map(|i| RouteTarget::new(65000, i).unwrap()).collect(),
        ..attributes()
    };
    let mut packed = Packed::new();
    assert_eq!(packed.announce(&attributes, [key(1), key(2)].iter(), &writing()), 2);
    assert_eq!((packed.messages, packed.octets.len()), (0, 0));
    let long = encode::Writing { limit: EXTENDED_LIMIT, ..writing() };
    assert_eq!(packed.announce(&attributes, [key(1), key(2)].iter(), &long), 0);
    assert_eq!(packed.messages, 1);
}
