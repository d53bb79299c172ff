//! What routes, and switches, as messages.

use std::collections::BTreeSet;

use causeway_proto::{Mac, Name, Prefix, Vni, v1};

use crate::derive::node::{LocalMac, NextHop, NodeState, NodeVrf, SwitchPort};

pub(super) fn vrfs(state: &NodeState) -> Vec<v1::NodeVrf> {
    let message = |(name, vrf): (&Name, &NodeVrf)| v1::NodeVrf {
        name: name.to_string(),
        l3_vni: vrf.l3_vni.map_or(0, |vni| vni.get()),
        router_mac: vrf.router_mac.to_string(),
        table: vrf.table,
    };
    state.vrfs.iter().map(message).collect()
}

pub(super) fn routes(state: &NodeState) -> Vec<v1::NodeRoute> {
    let hop = |hop: &NextHop| match hop {
        NextHop::Vtep { vtep, router_mac } => {
            v1::NextHop { vtep: vtep.to_string(), router_mac: router_mac.to_string(), vrf: String::new() }
        }
        NextHop::Vrf(vrf) => v1::NextHop { vrf: vrf.to_string(), ..v1::NextHop::default() },
    };
    let message = |((vrf, prefix), hops): (&(Name, Prefix), &BTreeSet<NextHop>)| v1::NodeRoute {
        vrf: vrf.to_string(),
        prefix: prefix.to_string(),
        next_hops: hops.iter().map(hop).collect(),
    };
    state.routes.iter().map(message).collect()
}

pub(super) fn gone_route((vrf, prefix): &(Name, Prefix)) -> v1::NodeRoute {
    v1::NodeRoute { vrf: vrf.to_string(), prefix: prefix.to_string(), ..v1::NodeRoute::default() }
}

pub(super) fn switch_ports(state: &NodeState) -> Vec<v1::SwitchPort> {
    let message = |(interface, port): (&String, &SwitchPort)| v1::SwitchPort {
        interface: interface.clone(),
        untagged_vlan: port.untagged.map_or(0, u32::from),
        tagged_vlans: port.tagged.iter().map(|vlan| u32::from(*vlan)).collect(),
    };
    state.switch_ports.iter().map(message).collect()
}

pub(super) fn locals(state: &NodeState) -> Vec<v1::LocalMac> {
    let message = |((vni, mac), local): (&(Vni, Mac), &LocalMac)| v1::LocalMac {
        vni: vni.get(),
        mac: mac.to_string(),
        interface: local.interface.clone(),
        addresses: local.addresses.iter().map(ToString::to_string).collect(),
    };
    state.locals.iter().map(message).collect()
}

pub(super) fn gone_local((vni, mac): &(Vni, Mac)) -> v1::LocalMac {
    v1::LocalMac { vni: vni.get(), mac: mac.to_string(), ..v1::LocalMac::default() }
}
