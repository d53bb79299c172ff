//! SONiC's own commands, in the order in which it accepts them.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write;

use causeway_proto::{Name, VlanId, Vni};

use super::head;
use crate::dev::Dev;
use crate::model::{Desired, Network};

/// Name of the tunnel.
const TUNNEL: &str = "cwvtep";

pub(super) fn commands(desired: &Desired, problems: &[String]) -> String {
    let mut text = head("#", desired, "SONiC commands", problems);
    let Some(vtep) = desired.vtep() else { return text };
    let mut vlans: BTreeMap<VlanId, (Vni, &Network)> = BTreeMap::new();
    for (&vni, network) in desired.networks() {
        if let Some(vlan) = network.vlan {
            vlans.entry(vlan).or_insert((vni, network));
        }
    }
    // Writing to a String cannot fail.
    let _ = write_all(&mut text, desired, &vtep.to_string(), &vlans);
    text
}

fn write_all(
    text: &mut String,
    desired: &Desired,
    vtep: &str,
    vlans: &BTreeMap<VlanId, (Vni, &Network)>,
) -> std::fmt::Result {
    writeln!(text, "config vxlan add {TUNNEL} {vtep}")?;
    writeln!(text, "config vxlan evpn_nvo add cwnvo {TUNNEL}")?;
    let ports = desired.fabric().switch_ports();
    let members = ports.values().flat_map(|port| port.untagged.iter().chain(&port.tagged));
    let all: BTreeSet<VlanId> = members.chain(vlans.keys()).copied().collect();
    for vlan in &all {
        writeln!(text, "config vlan add {vlan}")?;
    }
    for (dev, port) in ports {
        members_of(text, dev, port.untagged, &port.tagged)?;
    }
    for (vlan, (vni, _)) in vlans {
        writeln!(text, "config vxlan map add {TUNNEL} {vlan} {vni}")?;
    }
    write_vrfs(text, desired, &all)?;
    write_gateways(text, vlans)?;
    let remotes = desired.remotes().len();
    writeln!(
        text,
        "# MACs and routes of other VTEPs ({remotes} MACs) come by EVPN: SONiC has no commands for them."
    )
}

fn members_of(
    text: &mut String,
    dev: &Dev,
    untagged: Option<VlanId>,
    tagged: &BTreeSet<VlanId>,
) -> std::fmt::Result {
    if let Some(vlan) = untagged {
        writeln!(text, "config vlan member add -u {vlan} {dev}")?;
    }
    tagged.iter().try_for_each(|vlan| writeln!(text, "config vlan member add {vlan} {dev}"))
}

/// SONiC wants VRFs to be called so, and names of at most 15 bytes.
fn vrf_name(name: &Name) -> String {
    format!("Vrf{name}").chars().take(15).collect()
}

/// An L3 VNI needs a VLAN too: the highest that nobody has.
fn write_vrfs(text: &mut String, desired: &Desired, taken: &BTreeSet<VlanId>) -> std::fmt::Result {
    let mut free =
        (2..=4094_u32).rev().filter_map(|id| VlanId::try_from(id).ok()).filter(|v| !taken.contains(v));
    for (name, vrf) in desired.fabric().vrfs().iter().filter(|(_, vrf)| vrf.table.is_some()) {
        let sonic = vrf_name(name);
        writeln!(text, "config vrf add {sonic}")?;
        let Some((l3, vlan)) = vrf.l3.and_then(|l3| Some((l3, free.next()?))) else { continue };
        writeln!(text, "config vlan add {vlan}")?;
        writeln!(text, "config vxlan map add {TUNNEL} {vlan} {}", l3.vni)?;
        writeln!(text, "config interface vrf bind Vlan{vlan} {sonic}")?;
        writeln!(text, "config vrf add_vrf_vni_map {sonic} {}", l3.vni)?;
    }
    Ok(())
}

fn write_gateways(text: &mut String, vlans: &BTreeMap<VlanId, (Vni, &Network)>) -> std::fmt::Result {
    let macs: BTreeSet<_> = vlans.values().filter_map(|(_, network)| network.gateway_mac).collect();
    // SONiC has one MAC for all anycast gateways.
    if let Some(mac) = macs.first() {
        writeln!(text, "config static-anycast-gateway mac_address add {mac}")?;
    }
    for other in macs.iter().skip(1) {
        writeln!(text, "# SONiC has one gateway MAC: {other} is not used.")?;
    }
    for (vlan, (_, network)) in vlans {
        if network.gateways.is_empty() {
            continue;
        }
        if network.name.vrf != Name::default_vrf() {
            writeln!(text, "config interface vrf bind Vlan{vlan} {}", vrf_name(&network.name.vrf))?;
        }
        for gateway in &network.gateways {
            writeln!(text, "config interface ip add Vlan{vlan} {gateway}")?;
        }
        writeln!(text, "config vlan static-anycast-gateway enable {vlan}")?;
    }
    Ok(())
}
