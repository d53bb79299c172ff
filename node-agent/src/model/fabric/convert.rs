//! From the contract's messages to the types of switching and routing.

use std::net::IpAddr;

use causeway_proto::{Mac, Name, Prefix, VlanId, Vni, v1};

use super::super::convert::{address, interface, mac, other_vtep, short};
use super::{Hops, ItemError, L3, Local, MAIN_TABLE, Mode, SwitchPort, Vrf};
use crate::dev::Dev;

/// Tables below are the kernel's and other software's.
const LOWEST_TABLE: u32 = 1000;

pub(super) fn mode(mode: i32) -> Result<Mode, ItemError> {
    match v1::NodeMode::try_from(mode) {
        Ok(v1::NodeMode::Unspecified | v1::NodeMode::HostVtep) => Ok(Mode::HostVtep),
        Ok(v1::NodeMode::TorEvpn) => Ok(Mode::TorEvpn),
        Ok(v1::NodeMode::TorAgent) => Ok(Mode::TorAgent),
        Ok(v1::NodeMode::TorStatic) => Ok(Mode::TorStatic),
        Ok(v1::NodeMode::Host) => Ok(Mode::Host),
        Err(_) => Err(ItemError::Unknown("mode", mode.to_string())),
    }
}

pub(super) fn vrf(vrf: &v1::NodeVrf) -> Result<(Name, Vrf), ItemError> {
    let name: Name = vrf.name.parse().map_err(|e| ItemError::Name("name", e))?;
    let l3 = match vrf.l3_vni {
        0 => None,
        vni => {
            let vni = Vni::try_from(vni).map_err(|e| ItemError::Number("l3_vni", e))?;
            Some(L3 { vni, router_mac: mac("router_mac", &vrf.router_mac)? })
        }
    };
    let main = name == Name::default_vrf();
    let table = match vrf.table {
        MAIN_TABLE | 0 if main => None,
        table if !main && table >= LOWEST_TABLE => Some(table),
        table => return Err(ItemError::Table(table)),
    };
    Ok((name, Vrf { l3, table }))
}

pub(super) fn switch_port(port: &v1::SwitchPort) -> Result<(Dev, SwitchPort), ItemError> {
    let dev = interface(&port.interface)?;
    if dev.role().is_some() || dev.fabric_role().is_some() {
        return Err(ItemError::OwnName(dev.to_string()));
    }
    let untagged = match port.untagged_vlan {
        0 => None,
        vlan => Some(VlanId::try_from(vlan).map_err(|e| ItemError::Number("untagged_vlan", e))?),
    };
    let tagged = port.tagged_vlans.iter().map(|&vlan| VlanId::try_from(vlan));
    let mut tagged: std::collections::BTreeSet<VlanId> =
        tagged.collect::<Result<_, _>>().map_err(|e| ItemError::Number("tagged_vlans", e))?;
    tagged.retain(|vlan| Some(*vlan) != untagged);
    Ok((dev, SwitchPort { untagged, tagged }))
}

pub(super) fn local(local: &v1::LocalMac) -> Result<((Vni, Mac), Local), ItemError> {
    let key = (Vni::try_from(local.vni)?, mac("mac", &local.mac)?);
    let addresses = local.addresses.iter().map(|a| address("addresses", a)).collect::<Result<_, _>>()?;
    Ok((key, Local { interface: interface(&local.interface)?, addresses }))
}

pub(super) fn route(
    route: &v1::NodeRoute,
    ours: Option<IpAddr>,
) -> Result<((Name, Prefix), Hops), ItemError> {
    let vrf: Name = route.vrf.parse().map_err(|e| ItemError::Name("vrf", e))?;
    let prefix: Prefix =
        route.prefix.parse().map_err(|_| ItemError::Prefix("prefix", short(&route.prefix)))?;
    let mut hops = Hops::default();
    for hop in &route.next_hops {
        if hop.vrf.is_empty() {
            hops.vteps.insert(other_vtep(&hop.vtep, ours)?, mac("router_mac", &hop.router_mac)?);
            continue;
        }
        let name: Name = hop.vrf.parse().map_err(|e| ItemError::Name("next_hops.vrf", e))?;
        if name == vrf {
            return Err(ItemError::LeakToItself(name));
        }
        hops.vrfs.insert(name);
    }
    if hops == Hops::default() {
        return Err(ItemError::NoNextHop);
    }
    Ok(((vrf, prefix), hops))
}
