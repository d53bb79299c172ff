//! UPDATEs recorded from other speakers (`tests/vectors`): read as expected, and where the route could be ours, our own
//! octets are the same but for the order of attributes and communities, which means nothing.

use std::collections::BTreeSet;
use std::fmt::Write as _;
use std::path::Path;

use super::*;

/// `(flags without the length bit, type, value)` of every attribute; the values of communities are sorted.
type Parts = BTreeSet<(u8, u8, Vec<u8>)>;

fn parts(octets: &[u8]) -> Parts {
    let mut rest = &octets[23..];
    let mut parts = Parts::new();
    while !rest.is_empty() {
        let (flags, kind) = (rest[0], rest[1]);
        let (length, from) = if flags & 0x10 == 0 {
            (usize::from(rest[2]), 3)
        } else {
            (usize::from(u16::from_be_bytes([rest[2], rest[3]])), 4)
        };
        let mut value = rest[from..from + length].to_vec();
        if kind == 1 {
            // ORIGIN says how the sender got the route: GoBGP's "incomplete" is as good as our "IGP".
            value = vec![0];
        }
        if kind == 16 {
            let mut communities: Vec<_> = value.chunks(8).collect();
            communities.sort_unstable();
            value = communities.concat();
        }
        parts.insert((flags & !0x10, kind, value));
        rest = &rest[from + length..];
    }
    parts
}

/// One line a route, and what else there is to say.
fn text(update: &update::Update) -> String {
    let mut out = String::new();
    for key in &update.withdrawn {
        writeln!(out, "  - {key:?}").unwrap();
    }
    for Route { key, attributes: a } in &update.announced {
        write!(out, "  + {key:?} via {} rt {:?}", a.next_hop, a.route_targets).unwrap();
        for (name, vni) in [("vni", a.vni), ("l3vni", a.l3_vni), ("pmsi", a.pmsi.map(|pmsi| pmsi.vni))] {
            if let Some(vni) = vni {
                write!(out, " {name} {vni}").unwrap();
            }
        }
        if let Some(mac) = a.router_mac {
            write!(out, " rmac {mac}").unwrap();
        }
        if a.esi != Esi::default() {
            write!(out, " esi {}", a.esi).unwrap();
        }
        if a.sequence > 0 || a.sticky {
            write!(out, " mobility {}{}", a.sequence, if a.sticky { " sticky" } else { "" }).unwrap();
        }
        out.push('\n');
    }
    if update.end_of_rib {
        out.push_str("  end of rib\n");
    }
    if update.notes != update::Notes::default() {
        writeln!(out, "  {:?}", update.notes).unwrap();
    }
    out
}

/// Our own form of what a message says.
fn ours(update: &update::Update) -> Option<Vec<u8>> {
    let mut packed = Packed::new();
    if update.end_of_rib {
        packed.message(&end_of_rib());
    }
    if let Some(first) = update.announced.first() {
        if update.announced.iter().any(|r| encode::check(r).is_err() || r.attributes != first.attributes) {
            return None;
        }
        packed.announce(&first.attributes, update.announced.iter().map(|r| &r.key), &writing());
    }
    packed.withdraw(update.withdrawn.iter(), &writing());
    (packed.messages == 1).then_some(packed.octets)
}

#[test]
fn updates_of_other_speakers_are_read_and_written_as_they_are() {
    let vectors = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/vectors");
    let mut same = 0;
    for speaker in ["frr-8.4", "frr-10.7", "gobgp-3.10", "gobgp-4.8"] {
        let hex_lines = std::fs::read_to_string(vectors.join(speaker).join("updates.hex")).unwrap();
        let mut read = String::new();
        for (line, octets) in (1..).zip(hex_lines.lines().map(hex)) {
            let update = update(&octets, &ibgp()).unwrap();
            assert!(update.notes.treated_as_withdrawn.is_none(), "{speaker}:{line}");
            writeln!(read, "{line}:\n{}", text(&update).trim_end_matches('\n')).unwrap();
            // Reflected routes carry more than ours ever do; labels do not count in withdrawals.
            let reflected = parts(&octets).iter().any(|(_, kind, _)| matches!(kind, 9 | 10));
            if let (false, false, Some(ours)) = (reflected, update.announced.is_empty(), ours(&update)) {
                assert_eq!(parts(&ours), parts(&octets), "{speaker}:{line}");
                same += 1;
            }
        }
        let expected = vectors.join(speaker).join("expected.txt");
        if std::env::var_os("UPDATE_VECTORS").is_some() {
            std::fs::write(&expected, &read).unwrap();
        }
        assert_eq!(read, std::fs::read_to_string(&expected).unwrap(), "{speaker}");
    }
    assert!(same >= 10, "only {same} could be compared");
}
