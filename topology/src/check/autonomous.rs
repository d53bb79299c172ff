//! AS numbers: reserved ones, public ones.

use std::collections::BTreeMap;

use super::{Check, list};

/// Why no router may have an AS number.
fn reserved(asn: u32) -> Option<&'static str> {
    match asn {
        0 => Some("reserved (RFC 7607)"),
        23_456 => Some("AS_TRANS, which stands for four-byte numbers (RFC 6793)"),
        65_535 | u32::MAX => Some("reserved (RFC 7300)"),
        _ => None,
    }
}

/// RFC 6996: private use; RFC 5398: documentation.
fn is_private(asn: u32) -> bool {
    matches!(asn, 64_512..=65_534 | 4_200_000_000..=4_294_967_294 | 64_496..=64_511 | 65_536..=65_551)
}

pub(super) fn check(check: &mut Check<'_>) {
    let mut speakers: BTreeMap<u32, Vec<&str>> = BTreeMap::new();
    for node in check.lab.nodes_in_order() {
        if let Some(asn) = check.plan.nodes.get(&node.name).and_then(|p| p.asn) {
            speakers.entry(asn).or_default().push(&node.name);
        }
    }
    for (asn, nodes) in speakers {
        let Some(place) = nodes.first().and_then(|n| check.node(n)).map(|n| n.place) else { continue };
        let help = "private numbers are 64512 to 65534 and 4200000000 to 4294967294";
        if let Some(why) = reserved(asn) {
            let message = format!("AS {asn} of {} is {why}", list(&nodes));
            check.error("as-reserved", place, message, help);
        } else if !is_private(asn) {
            let message = format!("AS {asn} of {} is a public number", list(&nodes));
            check.warn("as-not-private", place, message, help);
        }
    }
}
