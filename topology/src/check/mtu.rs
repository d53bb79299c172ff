//! MTU: what goes into VXLAN must fit on every link that VXLAN takes.

use std::collections::BTreeMap;

use causeway_proto::Vni;

use super::Check;
use crate::diagnostic::Severity;
use crate::lab::{Lab, Link};
use crate::plan::InterfaceUse;

/// VXLAN over IPv4: inner Ethernet 14, VXLAN 8, UDP 8, IPv4 20.
const OVER_IPV4: u32 = 50;
/// VXLAN over IPv6: the header is 20 bytes longer.
const OVER_IPV6: u32 = 70;
/// RFC 8200, section 5.
const IPV6_MINIMUM: u32 = 1280;
/// What a link has whose MTU is not said, see `link.rs`.
const UNSAID: u32 = 9500;

pub(super) fn check(check: &mut Check<'_>) {
    ipv6(check);
    underlay(check);
}

fn ipv6(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    let own = |link: &Link| link.a.ipv6.is_some() || link.b.as_ref().is_some_and(|b| b.ipv6.is_some());
    let behind =
        |name: &str| lab.nodes.get(name).is_some_and(|n| n.causeway.addresses.iter().any(|a| a.is_ipv6()));
    let loopback = |name: &str| plan.nodes.get(name).is_some_and(|p| p.loopback.is_some_and(|a| a.is_ipv6()));
    for link in lab.links.iter().filter(|l| l.mtu < IPV6_MINIMUM) {
        let ends = || [Some(&link.a), link.b.as_ref()].into_iter().flatten();
        let access = link.causeway.vni.is_some() && ends().any(|e| behind(&e.node));
        let routed = link.causeway.vni.is_none() && ends().any(|e| loopback(&e.node));
        if own(link) || access || routed {
            let message =
                format!("this link has an MTU of {} and carries IPv6, which needs {IPV6_MINIMUM}", link.mtu);
            check.error(
                "mtu-ipv6",
                link.place,
                message,
                "raise mtu to 1280 or more: below it the kernel takes IPv6 off the interface",
            );
        }
    }
}

/// The largest frame's payload of each network: the MTU of its access links.
fn networks(lab: &Lab) -> BTreeMap<Vni, u32> {
    let mut all: BTreeMap<Vni, u32> = BTreeMap::new();
    for (vni, mtu) in lab.links.iter().filter_map(|l| Some((l.causeway.vni?, l.mtu))) {
        let largest = all.entry(vni).or_insert(mtu);
        *largest = mtu.max(*largest);
    }
    all
}

fn underlay(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    // Links between switches; what hangs on a leaf by a routed link is no way for others.
    let mut links: BTreeMap<usize, u32> = BTreeMap::new();
    for own in plan.nodes.values().filter(|p| p.role.is_switch()) {
        for i in own.interfaces.iter().filter(|i| i.usage == InterfaceUse::Underlay) {
            if i.peer.as_ref().and_then(|(n, _)| plan.nodes.get(n)).is_some_and(|p| p.role.is_switch()) {
                links.insert(i.link, i.mtu);
            }
        }
    }
    let ipv6 = plan.nodes.values().any(|p| p.vtep.is_some_and(|v| v.is_ipv6()));
    let header = if ipv6 { OVER_IPV6 } else { OVER_IPV4 };
    let wanted = networks(lab).into_iter().max_by_key(|(vni, mtu)| (*mtu, std::cmp::Reverse(*vni)));
    for (place, mtu) in links.iter().filter_map(|(l, mtu)| Some((lab.links.get(*l)?.place, *mtu))) {
        let Some((vni, overlay)) = wanted else { break };
        let need = overlay.saturating_add(header);
        if mtu >= need {
            continue;
        }
        let unsaid = mtu == UNSAID && overlay == UNSAID;
        let severity = if unsaid { Severity::Warning } else { Severity::Error };
        let message = format!(
            "this underlay link has an MTU of {mtu}, and network {vni} sends {overlay} bytes: with VXLAN over {} it needs {need}",
            if ipv6 { "IPv6" } else { "IPv4" }
        );
        let help = match mtu.checked_sub(header) {
            Some(fits) => format!("set mtu: {fits} at the access links, or mtu: {need} here"),
            None => format!("set mtu: {need} here"),
        };
        check.say(severity, "mtu-underlay", place, message, help);
        if unsaid {
            // It is the same with all of them.
            break;
        }
    }
    let (low, high) = (links.iter().min_by_key(|(_, m)| **m), links.values().max());
    if let (Some((link, low)), Some(high)) = (low, high)
        && low < high
        && let Some(place) = lab.links.get(*link).map(|l| l.place)
    {
        let message = format!(
            "links between switches have MTUs from {low} to {high}: what fits depends on the path taken"
        );
        check.warn("mtu-uneven", place, message, "give all links between switches the same mtu");
    }
}
