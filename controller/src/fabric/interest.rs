//! Which routes peers with route target constraint (RFC 4684) are asked for.

use std::collections::BTreeSet;

use causeway_bgp::{Interest, RouteTarget};

use crate::derive::evpn::{Context, export_targets, import_targets};
use crate::model::Vrf;
use crate::snapshot::Snapshot;

/// What networks and VRFs import, and what they export: what others say about our own ports is looked at too. Never
/// "all", which some route reflectors do not bear, and of which most would be of no use here.
pub(super) fn interest(snapshot: &Snapshot, context: &Context) -> Interest {
    let mut targets = BTreeSet::new();
    for record in snapshot.networks.values() {
        targets.extend(import_targets(&record.value, context.asn));
        targets.extend(export_targets(&record.value, context.asn).unwrap_or_default());
    }
    for record in snapshot.vrfs.values() {
        targets.extend(vrf_targets(&record.value, context.asn));
    }
    Interest::Targets(targets)
}

/// Route targets of a VRF's prefixes: those declared, else the one of its L3 VNI.
fn vrf_targets(vrf: &Vrf, asn: u32) -> BTreeSet<RouteTarget> {
    let mut targets: BTreeSet<RouteTarget> =
        vrf.import_targets.iter().chain(&vrf.export_targets).copied().collect();
    if vrf.export_targets.is_empty() {
        targets.extend(vrf.l3_vni.and_then(|vni| RouteTarget::new(asn, vni.get())));
    }
    targets
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn everything_imported_or_exported_is_asked_for() {
        let target = |text: &str| text.parse::<RouteTarget>().unwrap();
        let vrf = |l3_vni: Option<u32>, export: &[&str], import: &[&str]| Vrf {
            l3_vni: l3_vni.map(|vni| vni.try_into().unwrap()),
            export_targets: export.iter().copied().map(target).collect(),
            import_targets: import.iter().copied().map(target).collect(),
            ..Snapshot::default().vrfs.values().next().unwrap().value.clone()
        };
        let cases = [
            (vrf(None, &[], &[]), vec![]),
            (vrf(Some(4000), &[], &[]), vec!["65000:4000"]),
            (vrf(Some(4000), &[], &["65000:1"]), vec!["65000:1", "65000:4000"]),
            (vrf(Some(4000), &["65000:2"], &["65000:1"]), vec!["65000:1", "65000:2"]),
        ];
        for (vrf, expected) in cases {
            let expected: BTreeSet<RouteTarget> = expected.into_iter().map(target).collect();
            assert_eq!(vrf_targets(&vrf, 65000), expected, "{vrf:?}");
        }
    }
}
