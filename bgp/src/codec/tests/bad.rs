//! What is done with bad input: RFC 7606, and where it says that the session must end.

use super::*;

const REACH: &str = "80 0e 30 0019 46 04 0a620001 00
    02 25 0001 0a630064 006e 00000000000000000000 00000000 30 020000000055 20 0a000a37 00006e";
const ORIGIN: &str = "40 01 01 00";
const PATH: &str = "40 02 00";
const PATH_EXTERNAL: &str = "40 02 06 02 01 0000fde8";
const PREF: &str = "40 05 04 00000064";
const COMMUNITIES: &str = "c0 10 10 0002fde80000006e 030c000000000008";

#[derive(Debug, PartialEq, Eq)]
enum Outcome {
    /// Announced, with nothing to remark.
    Fine,
    /// Announced, with this attribute left out.
    Discard(u8),
    /// Treated as withdrawn for this attribute.
    Withdraw(u8),
    /// Announced or not, types that are not ours were counted.
    Unknown(Vec<(u8, u64)>),
    /// Session reset with this code and subcode.
    Reset(u8, u8),
    /// Neither announced nor an error: counted as not usable.
    Unusable(u8),
}

fn outcome(octets: &[u8], reading: &Reading) -> Outcome {
    let update = match update(octets, reading) {
        Ok(update) => update,
        Err(fault) => return Outcome::Reset(fault.notification.code, fault.notification.subcode),
    };
    if let Some((attribute, routes)) = update.notes.treated_as_withdrawn {
        assert_eq!(update.announced, []);
        assert_eq!(update.withdrawn.len() as u64, routes);
        return Outcome::Withdraw(attribute);
    }
    if let [kind] = update.notes.unusable[..] {
        assert_eq!(update.withdrawn.len(), 1, "what it replaces is gone");
        return Outcome::Unusable(kind);
    }
    if !update.notes.unknown.is_empty() {
        return Outcome::Unknown(update.notes.unknown);
    }
    match update.notes.discarded[..] {
        [] if update.announced.len() == 1 => Outcome::Fine,
        [attribute] if update.announced.len() == 1 => Outcome::Discard(attribute),
        _ => panic!("{update:?}"),
    }
}

fn internal(attributes: &str) -> Outcome {
    outcome(&with_attributes(attributes), &ibgp())
}

fn external(attributes: &str) -> Outcome {
    outcome(&with_attributes(attributes), &ebgp())
}

#[test]
fn malformed_attributes_withdraw_the_routes_and_the_session_stays() {
    let base = format!("{REACH} {ORIGIN} {PATH} {PREF}");
    for (attribute, octets) in [
        (16, "c0 10 07 0002fde8000000"),
        (16, "c0 10 09 0002fde80000006e 00"),
        (16, "80 10 08 0002fde80000006e"),
        (8, "c0 08 03 fde800"),
        (4, "80 04 03 000000"),
        (22, "c0 16 04 00060000"),
        (22, "c0 16 07 00 06 00006e 0a62"),
        (5, "40 05 05 0000006400"),
        (9, "80 09 05 0a63006400"),
        (10, "80 0a 03 0a6300"),
    ] {
        let base = base.replace(PREF, if attribute == 5 { "" } else { PREF });
        assert_eq!(internal(&format!("{base} {octets}")), Outcome::Withdraw(attribute), "{octets}");
    }
    assert_eq!(internal(&format!("{REACH} 40 01 01 09 {PATH} {PREF}")), Outcome::Withdraw(1), "ORIGIN 9");
    assert_eq!(internal(&format!("{REACH} {ORIGIN} 40 02 02 02 05 {PREF}")), Outcome::Withdraw(2), "overrun");
    assert_eq!(internal(&format!("{REACH} {ORIGIN} 40 02 06 09 01 0000fde8 {PREF}")), Outcome::Withdraw(2));
}

#[test]
fn from_outside_what_means_nothing_there_is_left_out() {
    let base = format!("{REACH} {ORIGIN} {PATH_EXTERNAL} {COMMUNITIES}");
    for (attribute, octets) in
        [(5, "40 05 05 0000006400"), (9, "80 09 05 0a63006400"), (10, "80 0a 03 0a6300")]
    {
        assert_eq!(external(&format!("{base} {octets}")), Outcome::Discard(attribute), "{octets}");
    }
}

#[test]
fn the_first_of_two_counts() {
    assert_eq!(
        internal(&format!("{REACH} {ORIGIN} {ORIGIN} {PATH} {PREF} {COMMUNITIES}")),
        Outcome::Discard(1)
    );
}

#[test]
fn missing_attributes() {
    assert_eq!(internal(&format!("{REACH} {PATH} {PREF}")), Outcome::Withdraw(1), "no ORIGIN");
    assert_eq!(internal(&format!("{REACH} {ORIGIN} {PREF}")), Outcome::Withdraw(2), "no AS_PATH");
    let update =
        update(&with_attributes(&format!("{REACH} {ORIGIN} {PATH} {COMMUNITIES}")), &ibgp()).unwrap();
    assert!(update.notes.missing_local_pref && update.announced.len() == 1, "taken as 100, and counted");
}

#[test]
fn bad_next_hops_withdraw() {
    for next_hop in ["00000000", "e0000001", "7f000001"] {
        let reach = REACH.replace("0a620001", next_hop);
        assert_eq!(internal(&format!("{reach} {ORIGIN} {PATH} {PREF}")), Outcome::Withdraw(14), "{next_hop}");
    }
}

#[test]
fn bad_routes_of_type_5() {
    let reach = |esi: &str, gateway: &str, label: &str| {
        format!(
            "80 0e 2d 0019 46 04 0a620001 00
             05 22 0001 0a000001 0064 {esi} 00000000 20 c000020a {gateway} {label} {ORIGIN} {PATH} {PREF}"
        )
    };
    let (none, some) = ("00000000000000000000", "03443839ffff01000001");
    assert_eq!(internal(&reach(some, "0a000001", "000fa1")), Outcome::Withdraw(14), "ESI and gateway");
    assert_eq!(internal(&reach(none, "00000000", "000000")), Outcome::Withdraw(14), "nothing at all");
    let multicast = format!("{} c0 10 08 0603014839000001", reach(none, "00000000", "000fa1"));
    assert_eq!(internal(&multicast), Outcome::Withdraw(14), "multicast router MAC");
}

#[test]
fn where_routes_cannot_be_found_the_session_ends() {
    let tail = format!("{ORIGIN} {PATH} {PREF}");
    let reset = |reach: &str| match internal(&format!("{reach} {tail}")) {
        Outcome::Reset(3, subcode @ (1 | 4 | 5 | 9)) => subcode,
        other => panic!("{other:?}: {reach}"),
    };
    reset(&format!("{REACH} {REACH}"));
    reset(&REACH.replace("80 0e", "40 0e"));
    for (length, next_hop) in [("05", "0a62000100"), ("20", &"20".repeat(32))] {
        let size = format!("{:02x}", 0x30 - 4 + next_hop.len() / 2);
        let octets = format!("04 {next_hop}").replacen("04", length, 1);
        reset(&REACH.replace("0e 30", &format!("0e {size}")).replace("04 0a620001", &octets));
    }
    reset(&REACH.replace("30 020000000055", "2f 020000000055"));
    reset(&REACH.replace("20 0a000a37", "21 0a000a37"));
    reset(&REACH.replace("02 25", "02 24"));
    reset(&REACH.replace("02 25", "02 26"));
    reset(&REACH.replace("02 25", "02 00"));
    reset(&REACH.replace("0e 30", "0e 03").replace("04 0a620001", ""));
    reset("80 0e 1b 0019 46 04 0a620001 00 03 10 0001 0a630064 006e 00000000 20 0a6200");
    reset(
        "80 0e 2d 0019 46 04 0a620001 00 05 22 0001 0a000001 0064 00000000000000000000 00000000 21 c000020a 00000000 000fa1",
    );
    reset("80 0e 12 0019 46 04 0a620001 00 06 07 0001 0a630064 00");
}

#[test]
fn a_broken_attribute_before_any_route_ends_the_session() {
    // The length overruns the block: what comes behind it is hidden, among it perhaps the routes (RFC 7606 §5.2).
    assert_eq!(internal("40 01 09 00 40 02 00"), Outcome::Reset(3, 1));
    assert_eq!(internal("c0 10 07 0002fde8000000"), Outcome::Reset(3, 1));
    // Behind the routes it withdraws them.
    assert_eq!(internal(&format!("{REACH} {PATH} {PREF} 40 01 09 00")), Outcome::Withdraw(1));
}

#[test]
fn unrecognised_well_known_withdraws() {
    assert_eq!(internal(&format!("{REACH} {ORIGIN} {PATH} {PREF} 40 63 01 00")), Outcome::Withdraw(99));
}

#[test]
fn unknown_things_are_ignored() {
    let tail = format!("{ORIGIN} {PATH} {PREF} {COMMUNITIES}");
    for more in [
        "c0 63 02 0102",                     // optional transitive
        "80 63 02 0102",                     // optional
        "e0 63 02 0102",                     // partial
        "c0 20 0c 000000010000000200000003", // large communities
        "80 04 04 00000005",                 // MED
    ] {
        assert_eq!(internal(&format!("{REACH} {tail} {more}")), Outcome::Fine, "{more}");
    }
    let communities = tail.replace(
        COMMUNITIES,
        "c0 10 30 0002fde80000006e 030c000000000008 030d010203040506 0606000000000000 0608010000000000 40040000000003e8",
    );
    assert_eq!(internal(&format!("{REACH} {communities}")), Outcome::Fine);
}

#[test]
fn other_route_types_are_counted_and_ours_beside_them_are_kept() {
    let tail = format!("{ORIGIN} {PATH} {PREF} {COMMUNITIES}");
    for kind in ["07", "0b", "ff", "00"] {
        let reach = format!(
            "80 0e 34 0019 46 04 0a620001 00 {kind} 02 0000
             02 25 0001 0a630064 006e 00000000000000000000 00000000 30 020000000055 20 0a000a37 00006e"
        );
        let number = u8::from_str_radix(kind, 16).unwrap();
        let octets = with_attributes(&format!("{reach} {tail}"));
        assert_eq!(outcome(&octets, &ibgp()), Outcome::Unknown(vec![(number, 1)]));
        assert_eq!(update(&octets, &ibgp()).unwrap().announced.len(), 1);
    }
}

#[test]
fn not_usable_here() {
    let flood = format!(
        "80 0e 1c 0019 46 04 0a620001 00 03 11 0001 0a630064 006e 00000000 20 0a620001
         {ORIGIN} {PATH} {PREF}"
    );
    assert_eq!(internal(&format!("{flood} {COMMUNITIES}")), Outcome::Unusable(3), "no tunnel");
    assert_eq!(internal(&format!("{flood} {COMMUNITIES} c0 16 05 00 00 000000")), Outcome::Unusable(3));
    assert_eq!(internal(&format!("{flood} {COMMUNITIES} c0 16 09 00 06 00006e 0a620001")), Outcome::Fine);
    let mpls = COMMUNITIES.replace("030c000000000008", "030c00000000000a");
    assert_eq!(
        internal(&format!("{REACH} {ORIGIN} {PATH} {PREF} {mpls}")),
        Outcome::Unusable(2),
        "MPLS only"
    );
    let both = format!("{REACH} {ORIGIN} {PATH} {PREF} c0 10 10 030c00000000000a 030c000000000008");
    assert_eq!(internal(&both), Outcome::Fine);
}

#[test]
fn routes_that_come_back_are_not_taken() {
    let looped = |octets: &[u8], reading: &Reading| {
        let update = update(octets, reading).unwrap();
        (update.notes.loops, update.announced.len(), update.withdrawn.len())
    };
    let own_id = format!("{REACH} {ORIGIN} {PATH} {PREF} {COMMUNITIES} 80 09 04 0a630064");
    assert_eq!(looped(&with_attributes(&own_id), &ibgp()), (1, 0, 1));
    let own_as = format!("{REACH} {ORIGIN} 40 02 0a 02 02 0000fde8 0000fe4c {COMMUNITIES}");
    assert_eq!(looped(&with_attributes(&own_as), &ebgp()), (1, 0, 1));
}

#[test]
fn headers() {
    let fault = |text: &str, limit: usize| frame(&hex(text), limit).unwrap_err().notification;
    assert_eq!(fault("00000000000000000000000000000000 0013 04", 4096), Notification::new(1, 1));
    for (text, limit) in [
        ("M 0012 04", 4096),
        ("M 0014 04", 4096),
        ("M 001c 01", 4096),
        ("M 1001 01", 65535),
        ("M 0016 02", 4096),
        ("M 1001 02", 4096),
        ("M 0014 03", 4096),
        ("M 0016 05", 4096),
        ("M 0000 02", 65535),
    ] {
        let notification = fault(text, limit);
        assert_eq!((notification.code, notification.subcode), (1, 2), "{text}");
        assert_eq!(notification.data, hex(text)[16..18], "the bad length is sent back");
    }
    for kind in ["00", "06", "09", "ff"] {
        let notification = fault(&format!("M 0013 {kind}"), 4096);
        assert_eq!((notification.code, notification.subcode, notification.data), (1, 3, hex(kind)));
    }
    assert_eq!(frame(&hex("M 1001 02"), 65535).unwrap(), Some(4097));
    assert_eq!(frame(&hex("M 00"), 4096).unwrap(), None);
}

#[test]
fn lengths_inside_an_update() {
    assert_eq!(outcome(&hex("M 0017 02 0001 0000"), &ibgp()), Outcome::Reset(3, 1));
    assert_eq!(outcome(&hex("M 0017 02 0000 0001"), &ibgp()), Outcome::Reset(3, 1));
    assert_eq!(outcome(&hex("M 0017 02 ffff ffff"), &ibgp()), Outcome::Reset(3, 1));
}
