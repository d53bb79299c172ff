//! Routing domains in `frr.conf`.

use std::fmt::Write;

use causeway_proto::Prefix;

use crate::lab::Mode;
use crate::plan::{Domain, InterfaceUse, NodePlan, Plan};

/// Address family in FRR's words: v4 or v6, `ip` or `ipv6`, `ipv4` or `ipv6`, length of an address in bits.
const FAMILIES: [(&str, &str, &str, u8); 2] = [("v4", "ip", "ipv4", 32), ("v6", "ipv6", "ipv6", 128)];

/// Domains of a switch that speaks EVPN; those of others are not FRR's.
fn domains<'a>(fabric: &'a Plan, plan: &'a NodePlan) -> impl Iterator<Item = &'a Domain> + 'a {
    let evpn = plan.mode == Some(Mode::TorEvpn);
    plan.vrfs.iter().filter_map(|name| fabric.vrfs.get(name)).filter(move |_| evpn)
}

/// Prefixes that this switch may announce: those of the domain's networks, of its routed ports, and behind these.
fn announced(fabric: &Plan, plan: &NodePlan, vrf: &str, v4: bool) -> Vec<Prefix> {
    let networks = fabric.networks.values().filter(|n| n.vrf == vrf).flat_map(|n| n.subnets.iter().copied());
    let ports =
        plan.interfaces.iter().filter(|i| i.usage == InterfaceUse::Routed && i.vrf.as_deref() == Some(vrf));
    let ports = ports.flat_map(|i| [i.address, i.second]).flatten();
    let ports = ports.filter_map(|a| Prefix::containing(a.ip(), a.prefix()));
    let behind = plan.routed.iter().filter(|r| r.vrf == vrf).map(|r| r.prefix);
    let mut all: Vec<Prefix> = networks.chain(ports).chain(behind).filter(|p| p.is_ipv4() == v4).collect();
    all.sort_unstable();
    all.dedup();
    all
}

/// Prefixes that the controller announces behind this switch, where another domain takes them from this one. The switch
/// has its own route to them and drops the controller's, whose next hop it is itself: only its own can leak here.
fn given(fabric: &Plan, domain: &Domain, node: &str, v4: bool) -> Vec<Prefix> {
    if !fabric.vrfs.values().any(|other| other.leaks.contains(&domain.vrf.name)) {
        return Vec::new();
    }
    let here = domain.vrf.routes.iter().filter(|(prefix, behind)| behind == node && prefix.is_ipv4() == v4);
    here.map(|(prefix, _)| *prefix).collect()
}

/// The VRFs with their L3 VNIs and static routes, and what may be announced of them.
pub(super) fn write_domains(
    out: &mut String,
    fabric: &Plan,
    plan: &NodePlan,
    node: &str,
) -> std::fmt::Result {
    for domain in domains(fabric, plan) {
        let name = &domain.vrf.name;
        writeln!(out, "vrf {name}")?;
        if let Some(vni) = domain.vrf.l3_vni {
            writeln!(out, " vni {vni}")?;
        }
        for route in plan.routed.iter().filter(|r| r.vrf == *name) {
            let family = if route.prefix.is_ipv4() { "ip" } else { "ipv6" };
            writeln!(out, " {family} route {} {}", route.prefix, route.next_hop)?;
        }
        writeln!(out, "exit-vrf\n!")?;
        for (short, ip, _, width) in FAMILIES {
            let prefixes = announced(fabric, plan, name, width == 32);
            if prefixes.is_empty() {
                continue;
            }
            let list = format!("{name}-{short}");
            for (prefix, sequence) in prefixes.iter().zip((5..).step_by(5)) {
                writeln!(out, "{ip} prefix-list {list} seq {sequence} permit {prefix}")?;
            }
            writeln!(out, "!\nroute-map {list} permit 10\n match {ip} address prefix-list {list}\nexit\n!")?;
            if !domain.leaks.is_empty() {
                write_leak(out, &prefixes, &list, ip, width)?;
            }
            let given = given(fabric, domain, node, width == 32);
            for (prefix, sequence) in given.iter().zip((5..).step_by(5)) {
                writeln!(out, "{ip} prefix-list {list}-given seq {sequence} permit {prefix}")?;
            }
            if !given.is_empty() {
                let map = format!("{list}-given");
                writeln!(out, "!\nroute-map {map} permit 10\n match {ip} address prefix-list {map}\nexit")?;
                writeln!(
                    out,
                    "!\nroute-map {map} permit 20\n match {ip} address prefix-list {list}\nexit\n!"
                )?;
            }
        }
    }
    Ok(())
}

/// What the domain has itself is not taken from another: addresses may overlap, and a host route would win over the
/// connected prefix.
fn write_leak(out: &mut String, own: &[Prefix], list: &str, ip: &str, width: u8) -> std::fmt::Result {
    for (prefix, sequence) in own.iter().zip((5..).step_by(5)) {
        let longer = if prefix.length() == width { String::new() } else { format!(" le {width}") };
        writeln!(out, "{ip} prefix-list {list}-own seq {sequence} permit {prefix}{longer}")?;
    }
    writeln!(out, "!\nroute-map {list}-leak deny 10\n match {ip} address prefix-list {list}-own\nexit")?;
    writeln!(out, "!\nroute-map {list}-leak permit 20\nexit\n!")
}

/// BGP of each VRF: what is connected and static there becomes type 5, and nothing of the underlay. All of it is
/// announced by the route-map once more: what was leaked from another VRF is not announced as this one's.
pub(super) fn write_bgp(out: &mut String, fabric: &Plan, plan: &NodePlan, node: &str) -> std::fmt::Result {
    let (Some(asn), Some(id)) = (plan.asn, plan.router_id) else { return Ok(()) };
    for domain in domains(fabric, plan) {
        let name = &domain.vrf.name;
        writeln!(out, "router bgp {asn} vrf {name}\n bgp router-id {id}\n no bgp ebgp-requires-policy")?;
        let mut announces = Vec::new();
        for (short, _, family, width) in FAMILIES {
            if announced(fabric, plan, name, width == 32).is_empty() {
                continue;
            }
            announces.push((short, family));
            let map = format!("{name}-{short}");
            writeln!(out, " !\n address-family {family} unicast")?;
            writeln!(out, "  redistribute connected route-map {map}")?;
            if !given(fabric, domain, node, width == 32).is_empty() {
                // As an operator configures it here, or as another daemon puts it into the kernel.
                writeln!(out, "  redistribute static route-map {map}-given")?;
                writeln!(out, "  redistribute kernel route-map {map}-given")?;
            } else if plan.routed.iter().any(|r| r.vrf == *name && r.prefix.is_ipv4() == (width == 32)) {
                writeln!(out, "  redistribute static route-map {map}")?;
            }
            if !domain.leaks.is_empty() {
                writeln!(out, "  import vrf route-map {map}-leak")?;
            }
            for other in &domain.leaks {
                writeln!(out, "  import vrf {other}")?;
            }
            writeln!(out, " exit-address-family")?;
        }
        if domain.vrf.l3_vni.is_some() {
            write_evpn(out, domain, &announces)?;
        }
        writeln!(out, "exit\n!")?;
    }
    Ok(())
}

fn write_evpn(out: &mut String, domain: &Domain, announces: &[(&str, &str)]) -> std::fmt::Result {
    let name = &domain.vrf.name;
    writeln!(out, " !\n address-family l2vpn evpn")?;
    for (short, family) in announces {
        writeln!(out, "  advertise {family} unicast route-map {name}-{short}")?;
    }
    let exports = &domain.vrf.exports;
    let imports = if domain.imports.is_empty() { exports } else { &domain.imports };
    for target in imports {
        writeln!(out, "  route-target import {target}")?;
    }
    for target in exports {
        writeln!(out, "  route-target export {target}")?;
    }
    writeln!(out, " exit-address-family")
}
