use super::*;
use proptest::prelude::*;

fn ip(n: u8) -> IpAddr {
    IpAddr::from([10, 98, 0, n])
}

fn seen(places: &[(u8, u32)]) -> Vec<Seen> {
    places.iter().map(|(n, sequence)| Seen { vtep: ip(*n), sequence: *sequence }).collect()
}

/// What happens when the fabric says something of a MAC: bound at VTEP 2, behind a switch that learns by itself.
#[test]
fn the_table_of_events() {
    use Sighting::{Drifted, Planned, Settled};
    type Row = (&'static str, u32, &'static [(u8, u32)], Sighting, Option<u32>, bool);
    let table: [Row; 9] = [
        ("bind, MAC not seen: no number", 0, &[], Planned, Some(0), false),
        ("bind, seen at the same VTEP: its number", 0, &[(2, 4)], Settled, Some(4), false),
        ("from the target, lower: settled, ours stays", 5, &[(2, 0)], Settled, Some(5), false),
        ("from the target, equal: settled", 5, &[(2, 5)], Settled, Some(5), false),
        ("from the target, higher: its number", 5, &[(2, 9)], Settled, Some(9), false),
        ("from another, lower: ours wins", 5, &[(1, 4)], Planned, Some(5), false),
        ("from another, higher: it is there, and is not fought", 5, &[(1, 6), (2, 5)], Drifted, None, true),
        (
            "from another, equal, which wins by its lower address: alarm, no bump",
            5,
            &[(1, 5)],
            Planned,
            Some(5),
            true,
        ),
        ("from another, equal, which loses", 5, &[(3, 5)], Planned, Some(5), false),
    ];
    for (what, ours, places, sighting, announce, alarm) in table {
        assert_eq!(judge(ip(2), ours, true, &seen(places)), Verdict { sighting, announce, alarm }, "{what}");
    }
    // At a VTEP that we speak for the store knows: ours stays as it is, and is not raised either.
    let verdict = judge(ip(2), 5, false, &seen(&[(1, 9)]));
    assert_eq!(verdict, Verdict { sighting: Drifted, announce: Some(5), alarm: true });
}

#[test]
fn a_new_binding_goes_above_everything() {
    assert_eq!(next_generation(0, 0, None), 1, "the first has sequence 0");
    assert_eq!(next_generation(3, 0, None), 4);
    assert_eq!(next_generation(1, 7, None), 8, "a port that is gone had the MAC");
    // A store that was restored from an older copy: the fabric remembers what it does not.
    assert_eq!(next_generation(2, 0, Some(9)), 11, "sequence 10 beats 9");
    assert_eq!(next_generation(u64::MAX, 0, Some(u32::MAX)), u64::MAX);
}

#[test]
fn changes_stay_below_what_switches_count() {
    assert_eq!(next_change_ms(&[], 0), None);
    assert_eq!(next_change_ms(&[0, 1_000], 2_000), None);
    assert_eq!(next_change_ms(&[0, 1_000, 2_000], 3_000), Some(180_000));
    assert_eq!(next_change_ms(&[0, 1_000, 2_000], 180_000), None, "the first is long enough ago");
    assert_eq!(next_change_ms(&[0, 1_000, 2_000, 2_500], 3_000), Some(181_000));
    // A clock that was set back by a year does not block the port for one.
    let year = 365 * 86_400_000;
    assert_eq!(next_change_ms(&[year, year, year], 0), Some(180_000));
}

proptest! {
    /// Never five changes in 180 s, however they are asked for.
    #[test]
    fn the_limit_keeps_the_distance(asked in prop::collection::vec(0..400_000_i64, 0..40)) {
        let (mut made, mut now) = (Vec::new(), 0);
        for wait in asked {
            now += wait / 10;
            if next_change_ms(&made, now).is_none() {
                made.push(now);
            }
        }
        for window in made.windows(MOST_CHANGES + 1) {
            prop_assert!(window[MOST_CHANGES] - window[0] >= WINDOW_MS);
        }
    }

    /// What is judged agrees with what is announced by the derivation's rule: never above what somebody said, and never
    /// raised by a rival.
    #[test]
    fn a_rival_raises_nothing(ours in 0..10_u32, own in prop::option::of(0..10_u32), rival in 0..20_u32) {
        let mut places = vec![Seen { vtep: ip(1), sequence: rival }];
        places.extend(own.map(|sequence| Seen { vtep: ip(2), sequence }));
        if let Some(said) = judge(ip(2), ours, true, &places).announce {
            prop_assert_eq!(said, ours.max(own.unwrap_or(0)));
        }
    }
}
