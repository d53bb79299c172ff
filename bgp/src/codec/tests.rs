//! Byte vectors written by hand from the RFCs, in both directions, and what is done with bad input.

mod bad;
mod captured;
mod limits;
mod mutated;

use std::net::IpAddr;
use std::sync::Arc;

use super::*;
use crate::codec::pack::Packed;
use crate::route::{Attributes, Esi, Route, RouteDistinguisher, RouteKey, RouteTarget};
use crate::testing::*;
use causeway_proto::Mac;

const MAC: [u8; 6] = [2, 0, 0, 0, 0, 0x55];

fn mac_ip_of(mac: [u8; 6], ip: &str) -> RouteKey {
    RouteKey::MacIp { rd: rd(), etag: 0, mac: Mac::new(mac), ip: Some(ip.parse().unwrap()) }
}

fn encode(attributes: &Attributes, keys: &[RouteKey], writing: &encode::Writing) -> Vec<u8> {
    let mut packed = Packed::new();
    assert_eq!(packed.announce(attributes, keys.iter(), writing), 0);
    assert_eq!(packed.messages, 1);
    packed.octets
}

/// Both directions: our route gives these octets, these octets give our route.
fn both_ways(attributes: Attributes, keys: &[RouteKey], octets: &str) {
    let octets = hex(octets);
    assert_eq!(encode(&attributes, keys, &writing()), octets);
    let update = update(&octets, &ibgp()).unwrap();
    let attributes = Arc::new(attributes);
    let routes: Vec<_> =
        keys.iter().map(|key| Route { key: *key, attributes: Arc::clone(&attributes) }).collect();
    assert_eq!(update.announced, routes);
    assert_eq!(update.withdrawn, []);
    assert_eq!(update.notes, update::Notes::default());
    for route in &routes {
        assert_eq!(encode::check(route), Ok(()));
    }
}

#[test]
fn type_2_with_ipv4() {
    both_ways(
        attributes(),
        &[mac_ip_of(MAC, "10.0.10.55")],
        "M 006b 02 0000 0054
         80 0e 30 0019 46 04 0a620001 00
           02 25 0001 0a630064 006e 00000000000000000000 00000000 30 020000000055 20 0a000a37 00006e
         40 01 01 00 | 40 02 00 | 40 05 04 00000064 | c0 10 10 0002fde80000006e 030c000000000008",
    );
}

#[test]
fn a_planned_move_of_mac_only_and_mac_ip() {
    both_ways(
        Attributes { next_hop: IpAddr::from([10, 98, 0, 2]), sequence: 1, ..attributes() },
        &[mac_only(MAC), mac_ip_of(MAC, "10.0.10.55")],
        "M 0096 02 0000 007f
         80 0e 53 0019 46 04 0a620002 00
           02 21 0001 0a630064 006e 00000000000000000000 00000000 30 020000000055 00 00006e
           02 25 0001 0a630064 006e 00000000000000000000 00000000 30 020000000055 20 0a000a37 00006e
         40 01 01 00 | 40 02 00 | 40 05 04 00000064
         c0 10 18 0002fde80000006e 030c000000000008 0600000000000001",
    );
}

#[test]
fn type_2_with_ipv6_and_a_large_vni_sticky_and_default_gateway() {
    let key = RouteKey::MacIp {
        rd: RouteDistinguisher::new([10, 0, 0, 1].into(), 100),
        etag: 0,
        mac: Mac::new([2, 0, 0, 0, 0, 1]),
        ip: Some("2001:db8::1".parse().unwrap()),
    };
    both_ways(
        Attributes { vni: Some(vni(10100)), sticky: true, default_gateway: true, ..attributes() },
        &[key],
        "M 0087 02 0000 0070
         80 0e 3c 0019 46 04 0a620001 00
           02 31 0001 0a000001 0064 00000000000000000000 00000000 30 020000000001
           80 20010db8000000000000000000000001 002774
         40 01 01 00 | 40 02 00 | 40 05 04 00000064
         c0 10 20 0002fde80000006e 030c000000000008 0600010000000000 030d000000000000",
    );
    let mut octets = Vec::new();
    encode::nlri(&key, Some(&Attributes { vni: Some(vni(0xff_ffff)), ..attributes() }), &mut octets);
    assert!(octets.ends_with(&[0xff; 3]), "a VNI takes all 24 bits");
}

#[test]
fn symmetric_irb() {
    let both: Vec<RouteTarget> =
        ["65000:110", "65000:4001"].iter().map(|target| target.parse().unwrap()).collect();
    both_ways(
        Attributes {
            l3_vni: Some(vni(4001)),
            route_targets: both,
            router_mac: Some(Mac::new([0x44, 0x38, 0x39, 0, 0, 1])),
            ..attributes()
        },
        &[mac_ip_of(MAC, "10.0.10.55")],
        "M 007e 02 0000 0067
         80 0e 33 0019 46 04 0a620001 00
           02 28 0001 0a630064 006e 00000000000000000000 00000000 30 020000000055 20 0a000a37 00006e 000fa1
         40 01 01 00 | 40 02 00 | 40 05 04 00000064
         c0 10 20 0002fde80000006e 0002fde800000fa1 030c000000000008 0603443839000001",
    );
}

#[test]
fn type_3_with_ipv4_and_ipv6() {
    let v4 = imet([10, 98, 0, 1].into());
    both_ways(
        (*v4.attributes).clone(),
        &[v4.key],
        "M 0063 02 0000 004c
         80 0e 1c 0019 46 04 0a620001 00 03 11 0001 0a630064 006e 00000000 20 0a620001
         40 01 01 00 | 40 02 00 | 40 05 04 00000064 | c0 10 10 0002fde80000006e 030c000000000008
         c0 16 09 00 06 00006e 0a620001",
    );
    let v6 = imet("2001:db8::1".parse().unwrap());
    both_ways(
        (*v6.attributes).clone(),
        &[v6.key],
        "M 0087 02 0000 0070
         80 0e 34 0019 46 10 20010db8000000000000000000000001 00
           03 1d 0001 0a630064 006e 00000000 80 20010db8000000000000000000000001
         40 01 01 00 | 40 02 00 | 40 05 04 00000064 | c0 10 10 0002fde80000006e 030c000000000008
         c0 16 15 00 06 00006e 20010db8000000000000000000000001",
    );
}

fn prefix_route(prefix: &str) -> RouteKey {
    let rd = RouteDistinguisher::new([10, 0, 0, 1].into(), 100);
    RouteKey::IpPrefix { rd, etag: 0, prefix: prefix.parse().unwrap() }
}

fn l3_attributes() -> Attributes {
    Attributes {
        vni: Some(vni(4001)),
        route_targets: vec!["65000:4001".parse().unwrap()],
        router_mac: Some(Mac::new([0x44, 0x38, 0x39, 0, 0, 1])),
        ..attributes()
    }
}

#[test]
fn type_5_without_gateway() {
    both_ways(
        l3_attributes(),
        &[prefix_route("192.0.2.10/32")],
        "M 0070 02 0000 0059
         80 0e 2d 0019 46 04 0a620001 00
           05 22 0001 0a000001 0064 00000000000000000000 00000000 20 c000020a 00000000 000fa1
         40 01 01 00 | 40 02 00 | 40 05 04 00000064
         c0 10 18 0002fde800000fa1 030c000000000008 0603443839000001",
    );
    both_ways(
        l3_attributes(),
        &[prefix_route("2001:db8::/64")],
        "M 0088 02 0000 0071
         80 0e 45 0019 46 04 0a620001 00
           05 3a 0001 0a000001 0064 00000000000000000000 00000000 40
              20010db8000000000000000000000000 00000000000000000000000000000000 000fa1
         40 01 01 00 | 40 02 00 | 40 05 04 00000064
         c0 10 18 0002fde800000fa1 030c000000000008 0603443839000001",
    );
}

#[test]
fn type_5_with_gateway() {
    both_ways(
        Attributes {
            vni: None,
            router_mac: None,
            gateway: Some(IpAddr::from([10, 0, 0, 9])),
            ..l3_attributes()
        },
        &[prefix_route("192.0.2.0/24")],
        "M 0068 02 0000 0051
         80 0e 2d 0019 46 04 0a620001 00
           05 22 0001 0a000001 0064 00000000000000000000 00000000 18 c0000200 0a000009 000000
         40 01 01 00 | 40 02 00 | 40 05 04 00000064 | c0 10 10 0002fde800000fa1 030c000000000008",
    );
}

#[test]
fn ebgp_has_an_as_path_and_no_local_pref() {
    let external = encode::Writing { ibgp: false, own_as: 65100, ..writing() };
    let keys = [mac_ip_of(MAC, "10.0.10.55")];
    let reach = "80 0e 30 0019 46 04 0a620001 00
           02 25 0001 0a630064 006e 00000000000000000000 00000000 30 020000000055 20 0a000a37 00006e";
    let communities = "c0 10 10 0002fde80000006e 030c000000000008";
    let four = with_attributes(&format!("{reach} 40 01 01 00 | 40 02 06 02 01 0000fe4c | {communities}"));
    assert_eq!(encode(&attributes(), &keys, &external), four);
    assert_eq!(update(&four, &ebgp()).unwrap().notes.loops, 1, "our own AS in the path");

    let two = encode::Writing { four_octet_as: false, ..external };
    let octets = with_attributes(&format!("{reach} 40 01 01 00 | 40 02 04 02 01 fe4c | {communities}"));
    assert_eq!(encode(&attributes(), &keys, &two), octets);

    // A number that does not fit is 23456, and the real one stands in AS4_PATH (RFC 6793 §4.2.2).
    let large = encode::Writing { own_as: 4_200_000_000, ..two };
    let octets = with_attributes(&format!(
        "{reach} 40 01 01 00 | 40 02 04 02 01 5ba0 | {communities} | c0 11 06 02 01 fa56ea00"
    ));
    assert_eq!(encode(&attributes(), &keys, &large), octets);
    let reading = Reading { four_octet_as: false, own_as: 4_200_000_000, ..ebgp() };
    assert_eq!(update(&octets, &reading).unwrap().notes.loops, 1);
}

#[test]
fn withdrawals() {
    let octets = "M 0044 02 0000 002d 80 0f 2a 0019 46
         02 25 0001 0a630064 006e 00000000000000000000 00000000 30 020000000055 20 0a000a37 000000";
    let key = mac_ip_of(MAC, "10.0.10.55");
    let mut packed = Packed::new();
    packed.withdraw([&key].into_iter(), &writing());
    assert_eq!(packed.octets, hex(octets));
    let update = update(&hex(octets), &ibgp()).unwrap();
    assert_eq!((update.withdrawn, update.announced, update.end_of_rib), (vec![key], vec![], false));
}

#[test]
fn a_withdrawal_with_a_two_octet_length_and_no_other_attribute() {
    let octets = with_attributes(
        "90 0f 0026 0019 46 02 21 0001 0a620001 0002 00000000000000000000 00000000 30 020000000001 00 000000",
    );
    let rd = RouteDistinguisher::new([10, 98, 0, 1].into(), 2);
    let key = RouteKey::MacIp { rd, etag: 0, mac: Mac::new([2, 0, 0, 0, 0, 1]), ip: None };
    assert_eq!(update(&octets, &ibgp()).unwrap().withdrawn, [key]);
}

#[test]
fn types_1_and_4_are_read() {
    let esi = Esi([0x03, 0x44, 0x38, 0x39, 0xff, 0xff, 0x01, 0, 0, 1]);
    let rd = RouteDistinguisher::new([10, 0, 0, 1].into(), 100);
    let tail = "40 01 01 00 | 40 02 00 | 40 05 04 00000064";
    let octets = with_attributes(&format!(
        "80 0e 24 0019 46 04 0a620001 00 01 19 0001 0a000001 0064 03443839ffff01000001 ffffffff 000000
         {tail} c0 10 10 0002fde80000006e 060100000000006e"
    ));
    let update_1 = update(&octets, &ibgp()).unwrap();
    assert_eq!(update_1.announced[0].key, RouteKey::EthernetAd { rd, esi, etag: u32::MAX });
    assert_eq!((update_1.announced[0].attributes.esi, update_1.announced[0].attributes.vni), (esi, None));
    let octets = with_attributes(&format!(
        "80 0e 22 0019 46 04 0a620001 00 04 17 0001 0a000001 0064 03443839ffff01000001 20 0a000001
         {tail} c0 10 08 0602443839ffff01"
    ));
    let update_4 = update(&octets, &ibgp()).unwrap();
    let originator = IpAddr::from([10, 0, 0, 1]);
    assert_eq!(update_4.announced[0].key, RouteKey::EthernetSegment { rd, esi, originator });
}

#[test]
fn end_of_rib_both_ways() {
    let octets = hex("M 001d 02 0000 0006 80 0f 03 0019 46");
    assert_eq!(&end_of_rib()[..], octets);
    assert!(update(&octets, &ibgp()).unwrap().end_of_rib);
    // That of IPv4 unicast is not ours, and neither is an empty MP_UNREACH beside something else.
    assert!(!update(&hex("M 0017 02 0000 0000"), &ibgp()).unwrap().end_of_rib);
    assert!(!update(&with_attributes("80 0f 03 0019 46 40 01 01 00"), &ibgp()).unwrap().end_of_rib);
}

#[test]
fn the_open_says_what_we_can() {
    use crate::config::{PeerConfig, SpeakerConfig};
    use crate::fsm::{Input, Machine, Output};
    let speaker = |asn, restarting| SpeakerConfig {
        router_id: [10, 99, 0, 100].into(),
        asn,
        listen: vec![],
        restarting,
    };
    let peer = PeerConfig {
        hold_time: std::time::Duration::from_secs(9),
        restart_time: Some(std::time::Duration::from_secs(60)),
        ..PeerConfig::new([10, 99, 0, 1].into(), 65000)
    };
    let open = |speaker: &SpeakerConfig, peer: &PeerConfig| {
        let outputs = Machine::new(speaker, peer, speaker.restarting).handle(Input::Started);
        outputs
            .into_iter()
            .find_map(|output| match output {
                Output::Send(octets) => Some(octets.to_vec()),
                _ => None,
            })
            .unwrap()
    };
    let tail = "02 00 | 46 00 | 06 00 | 41 04 0000fde8";
    let plain =
        format!("M 0039 01 04 fde8 0009 0a630064 1c 02 1a 01 04 00190046 | 40 06 403c 0019 46 80 | {tail}");
    assert_eq!(open(&speaker(65000, false), &peer), hex(&plain));
    let restarted =
        format!("M 0039 01 04 fde8 0009 0a630064 1c 02 1a 01 04 00190046 | 40 06 c03c 0019 46 80 | {tail}");
    assert_eq!(open(&speaker(65000, true), &peer), hex(&restarted));
    let none = PeerConfig { restart_time: None, ..peer };
    let without = format!("M 0031 01 04 fde8 0009 0a630064 14 02 12 01 04 00190046 | {tail}");
    assert_eq!(open(&speaker(65000, false), &none), hex(&without));
    let constrained = PeerConfig { route_target_constraint: true, ..none.clone() };
    let both = format!("M 0037 01 04 fde8 0009 0a630064 1a 02 18 01 04 00190046 | 01 04 00010084 | {tail}");
    assert_eq!(open(&speaker(65000, false), &constrained), hex(&both));
    // An AS number of four octets: 23456 in the fixed part.
    let large =
        "M 0031 01 04 5ba0 0009 0a630064 14 02 12 01 04 00190046 | 02 00 | 46 00 | 06 00 | 41 04 fa56ea00";
    assert_eq!(open(&speaker(4_200_000_000, false), &none), hex(large));
}

#[test]
fn small_messages() {
    assert_eq!(&keepalive()[..], hex("M 0013 04"));
    assert_eq!(&refresh(Refresh::Request)[..], hex("M 0017 05 0019 00 46"));
    assert_eq!(&refresh(Refresh::Begin)[..], hex("M 0017 05 0019 01 46"));
    assert_eq!(&refresh(Refresh::End)[..], hex("M 0017 05 0019 02 46"));
    assert_eq!(&Notification::cease(7).encode()[..], hex("M 0015 03 06 07"));
    let hard = Notification::hard_reset(Notification::cease(3));
    assert_eq!(&hard.encode()[..], hex("M 0017 03 06 09 06 03"));
    let read = |text: &str| decode(hex(text).into(), &ibgp()).unwrap();
    assert!(matches!(read("M 0017 05 0019 01 46"), Message::Refresh(Some(Refresh::Begin))));
    assert!(matches!(read("M 0017 05 0001 00 01"), Message::Refresh(None)), "another family");
    assert!(matches!(read("M 0017 05 0019 07 46"), Message::Refresh(None)), "unknown subtype");
    match read("M 0017 03 06 09 06 03") {
        Message::Notification(n) => assert!(n == hard && n.is_hard_reset()),
        other => panic!("{other:?}"),
    }
}

#[test]
fn own_octets_are_those_of_the_codec_crate() {
    use rustbgpd_wire as wire;
    // Whatever we write, the crate reads and writes back as it was.
    let mut packed = Packed::new();
    let all = [
        (attributes(), vec![mac_only(MAC), mac_ip_of(MAC, "10.0.10.55"), mac_ip_of(MAC, "2001:db8::5")]),
        ((*imet([10, 98, 0, 1].into()).attributes).clone(), vec![imet([10, 98, 0, 1].into()).key]),
        (
            l3_attributes(),
            vec![prefix_route("192.0.2.10/32"), prefix_route("0.0.0.0/0"), prefix_route("::/0")],
        ),
        (
            Attributes { next_hop: "2001:db8::9".parse().unwrap(), ..attributes() },
            (0..200).map(key).collect(),
        ),
    ];
    for (attributes, keys) in &all {
        packed.announce(attributes, keys.iter(), &writing());
        packed.withdraw(keys.iter(), &writing());
    }
    let all = messages(&packed.octets, 4096);
    assert!(all.len() > 8);
    for octets in all {
        let wire::Message::Update(message) = wire::decode_message(&mut octets.clone().into(), 4096).unwrap()
        else {
            panic!("no UPDATE");
        };
        let parsed = message.parse(true, false, &[]).unwrap();
        let built = wire::UpdateMessage::try_build(
            &[],
            &[],
            &parsed.attributes,
            true,
            false,
            wire::Ipv4UnicastMode::MpReach,
        );
        let again = wire::encode_message(&wire::Message::Update(built.unwrap())).unwrap();
        assert_eq!(again[..], octets);
    }
}

#[test]
fn memberships_are_written_and_read() {
    use crate::constraint::{Membership, MembershipChanges};
    let target = |number| Membership::of(65000, crate::RouteTarget::new(65000, number).unwrap());
    let (one, two) = (target(110), target(111));
    let mut packed = Packed::new();
    packed.ask([one, Membership::DEFAULT].iter(), [10, 99, 0, 100].into(), &writing());
    packed.ask_no_more([two].iter(), &writing());
    packed.message(&end_of_memberships());
    let expected = "M 003f 02 0000 0028 80 0e 17 0001 84 04 0a630064 00 60 0000fde8 0002fde80000006e 00
         40 01 01 00 | 40 02 00 | 40 05 04 00000064
       M 002a 02 0000 0013 80 0f 10 0001 84 60 0000fde8 0002fde80000006f
       M 001d 02 0000 0006 80 0f 03 0001 84";
    assert_eq!(packed.octets, hex(expected));
    let read: Vec<MembershipChanges> =
        messages(&packed.octets, 4096).iter().map(|m| update(m, &ibgp()).unwrap().memberships).collect();
    let none = MembershipChanges::default();
    let announced = MembershipChanges { announced: vec![one, Membership::DEFAULT], ..none.clone() };
    let withdrawn = MembershipChanges { withdrawn: vec![two], ..none.clone() };
    assert_eq!(read, [announced, withdrawn, MembershipChanges { complete: true, ..none.clone() }]);
    // A missing ORIGIN: what was asked for is asked for no more.
    let broken =
        "80 0e 16 0001 84 04 0a630064 00 60 0000fde8 0002fde80000006e | 40 02 00 | 40 05 04 00000064";
    let broken = update(&crate::testing::with_attributes(broken), &ibgp()).unwrap();
    assert_eq!(broken.memberships, MembershipChanges { withdrawn: vec![one], ..none });
    assert!(!update(&end_of_memberships(), &ibgp()).unwrap().end_of_rib, "of another family");
    // Lengths that cut the origin or are too long, bits behind the length, too few octets (RFC 4684 §4).
    for nlri in ["10 0000", "61 0000fde8 0002fde80000006e 80", "2f 0000fde8 0003", "60 0000fde8"] {
        let length = 9 + hex(nlri).len();
        let text = format!("80 0e {length:02x} 0001 84 04 0a630064 00 {nlri} | 40 01 01 00 | 40 02 00");
        assert!(update(&crate::testing::with_attributes(&text), &ibgp()).is_err(), "{nlri}");
    }
}

#[test]
fn what_must_not_be_sent_is_refused() {
    let ok = attributes();
    let check = |key: RouteKey, attributes: Attributes| {
        encode::check(&Route { key, attributes: Arc::new(attributes) }).is_ok()
    };
    let l2 = key(1);
    assert!(check(l2, ok.clone()));
    assert!(!check(l2, Attributes { route_targets: vec![], ..ok.clone() }));
    for next_hop in ["0.0.0.0", "224.0.0.1", "127.0.0.1", "255.255.255.255", "::", "ff02::1", "fe80::1"] {
        assert!(!check(l2, Attributes { next_hop: next_hop.parse().unwrap(), ..ok.clone() }), "{next_hop}");
    }
    let rmac = Some(Mac::new([0x44, 0x38, 0x39, 0, 0, 1]));
    assert!(check(l2, Attributes { router_mac: rmac, l3_vni: Some(vni(1)), ..ok.clone() }));
    assert!(!check(mac_only(MAC), Attributes { router_mac: rmac, ..ok.clone() }));
    assert!(!check(mac_only(MAC), Attributes { l3_vni: Some(vni(1)), ..ok.clone() }));
    assert!(!check(mac_only([0; 6]), ok.clone()));
    assert!(!check(mac_only([1, 0, 0, 0, 0, 1]), ok.clone()));
    assert!(!check(l2, Attributes { vni: None, ..ok.clone() }));
    assert!(!check(l2, Attributes { router_mac: Some(Mac::new([1, 0, 0, 0, 0, 1])), ..ok.clone() }));
    let flood = imet([10, 98, 0, 1].into());
    assert!(!check(flood.key, ok.clone()), "type 3 without a tunnel");
    assert!(!check(l2, (*flood.attributes).clone()), "a tunnel without type 3");
    let l5 = prefix_route("192.0.2.0/24");
    assert!(check(l5, l3_attributes()));
    let gateway = Some("10.0.0.1".parse().unwrap());
    assert!(check(l5, Attributes { vni: None, gateway, ..l3_attributes() }));
    assert!(!check(l5, Attributes { vni: None, ..l3_attributes() }));
    assert!(!check(l5, Attributes { gateway, esi: Esi([1; 10]), ..l3_attributes() }));
    assert!(!check(prefix_route("2001:db8::/64"), Attributes { gateway, ..l3_attributes() }));
    assert!(!check(RouteKey::EthernetAd { rd: rd(), esi: Esi([1; 10]), etag: 0 }, ok));
}
