//! MTU: what goes into VXLAN must fit on every link that VXLAN takes.

use std::collections::BTreeMap;

use causeway_proto::Vni;

use super::Check;
use crate::diagnostic::Severity;
use crate::lab::{Lab, Link, Role};
use crate::plan::{Interface, InterfaceUse, Plan};

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
    access(check);
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
        let carries = link.causeway.carries_networks();
        let access = carries && ends().any(|e| behind(&e.node));
        let routed = !carries && ends().any(|e| loopback(&e.node));
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

/// The networks on a link.
fn carried(port: &Interface) -> impl Iterator<Item = Vni> + '_ {
    port.untagged.into_iter().chain(port.tagged.iter().copied())
}

/// The largest frame's payload of each network: what is declared, else the MTU of its access links.
fn networks(lab: &Lab, plan: &Plan) -> BTreeMap<Vni, u32> {
    let mut all: BTreeMap<Vni, u32> = BTreeMap::new();
    let bridged = plan.nodes.values().flat_map(|p| &p.access).map(|a| a.vni);
    all.extend(bridged.filter_map(|vni| Some((vni, plan.network(vni)?.mtu))));
    for (vni, mtu) in lab.links.iter().filter_map(|l| Some((l.causeway.vni?, l.mtu))) {
        if plan.network(vni).is_none() {
            let largest = all.entry(vni).or_insert(mtu);
            *largest = mtu.max(*largest);
        }
    }
    all
}

/// A port must take what its networks send; and a server's untagged frames have the size of its link, not of the network.
fn access(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    let ends = plan.nodes.values().filter(|p| !p.role.is_switch());
    for (role, port) in ends.flat_map(|p| p.interfaces.iter().map(|i| (p.role, i))) {
        let Some(place) = lab.links.get(port.link).map(|l| l.place) else { continue };
        for network in carried(port).filter_map(|vni| plan.network(vni)) {
            let (name, mtu) = (&network.name, network.mtu);
            let untagged = port.untagged == Some(network.vni);
            if port.mtu < mtu {
                let message =
                    format!("this link has an MTU of {}, and network '{name}' sends {mtu} bytes", port.mtu);
                let help =
                    format!("set mtu: {mtu} or more here, or a smaller mtu= at causeway.network.{name}");
                check.error("mtu-access", place, message, help);
            } else if port.mtu > mtu && untagged && role == Role::Server {
                let message = format!(
                    "a server sends up to {} bytes here, and network '{name}' takes {mtu}: larger frames are lost",
                    port.mtu
                );
                check.warn("mtu-access", place, message, format!("set mtu: {mtu} at this link"));
            }
        }
    }
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
    let wanted = networks(lab, plan).into_iter().max_by_key(|(vni, mtu)| (*mtu, std::cmp::Reverse(*vni)));
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
