//! Desired states as messages for agents, and their words as ours.

use std::net::IpAddr;

use causeway_proto::{Mac, Revision, Vni, v1};

use super::board::PortSaid;
use crate::derive::Stage;
use crate::derive::node::{NodeDelta, NodeNetwork, NodePort, NodeSelf, NodeState, RemoteMac};
use crate::intent::message::words;
use crate::model::{Attachment, Duplicate, NodeMode};

mod routed;

/// Problems kept of one status, and bytes of each.
const PROBLEMS: usize = 100;
const PROBLEM_BYTES: usize = 1000;
/// Bytes kept of the name of an interface: the kernel has no longer ones.
const INTERFACE: usize = 15;

/// A complete state, for its agent.
pub(super) fn snapshot(me: &NodeSelf, state: &NodeState, revision: Revision) -> v1::ControllerMessage {
    let state = node_state(me, state, revision);
    v1::ControllerMessage { message: Some(v1::controller_message::Message::Snapshot(state)) }
}

/// A complete state.
pub(crate) fn node_state(me: &NodeSelf, state: &NodeState, revision: Revision) -> v1::NodeState {
    let uplink = |interface: &String| v1::NodeUplink { interface: interface.clone() };
    v1::NodeState {
        revision: revision.0,
        node: me.name.to_string(),
        vtep: me.vtep.map_or_else(String::new, |vtep| vtep.to_string()),
        underlay_mtu: me.underlay_mtu,
        networks: networks(state),
        ports: ports(state),
        remotes: remotes(state),
        floods: floods(&state.floods),
        mode: words::mode(me.mode).into(),
        uplinks: me.uplinks.iter().map(uplink).collect(),
        host_bridge: match me.mode {
            NodeMode::Host => words::host_bridge(me.host_bridge).into(),
            _ => v1::HostBridge::Unspecified.into(),
        },
        move_addresses: me.move_addresses,
        vrfs: routed::vrfs(state),
        routes: routed::routes(state),
        switch_ports: routed::switch_ports(state),
        locals: routed::locals(state),
    }
}

/// Changes.
pub(super) fn delta(delta: &NodeDelta, revision: Revision) -> v1::ControllerMessage {
    let gone = |(vni, mac): &(Vni, Mac)| v1::RemoteMac {
        vni: vni.get(),
        mac: mac.to_string(),
        ..v1::RemoteMac::default()
    };
    let delta = v1::NodeDelta {
        revision: revision.0,
        networks: networks(&delta.set),
        ports: ports(&delta.set),
        remotes: remotes(&delta.set),
        floods: floods(&delta.set.floods),
        deleted_networks: delta.deleted_networks.iter().map(|vni| vni.get()).collect(),
        deleted_ports: delta.deleted_ports.iter().map(ToString::to_string).collect(),
        deleted_remotes: delta.deleted_remotes.iter().map(gone).collect(),
        deleted_floods: floods(&delta.deleted_floods),
        vrfs: routed::vrfs(&delta.set),
        routes: routed::routes(&delta.set),
        switch_ports: routed::switch_ports(&delta.set),
        locals: routed::locals(&delta.set),
        deleted_vrfs: delta.deleted_vrfs.iter().map(ToString::to_string).collect(),
        deleted_routes: delta.deleted_routes.iter().map(routed::gone_route).collect(),
        deleted_switch_ports: delta.deleted_switch_ports.iter().cloned().collect(),
        deleted_locals: delta.deleted_locals.iter().map(routed::gone_local).collect(),
    };
    v1::ControllerMessage { message: Some(v1::controller_message::Message::Delta(delta)) }
}

fn networks(state: &NodeState) -> Vec<v1::NodeNetwork> {
    let message = |(vni, network): (&Vni, &NodeNetwork)| v1::NodeNetwork {
        vni: vni.get(),
        vrf: network.key.vrf.to_string(),
        network: network.key.network.to_string(),
        mtu: network.mtu,
        bridge_mac: network.bridge_mac.to_string(),
        vlan: network.vlan.map_or(0, u32::from),
        gateways: network.gateways.iter().map(|(ip, length)| format!("{ip}/{length}")).collect(),
        gateway_mac: network.gateway_mac.map_or_else(String::new, |mac| mac.to_string()),
    };
    state.networks.iter().map(message).collect()
}

fn ports(state: &NodeState) -> Vec<v1::NodePort> {
    let message = |(key, port): (&causeway_proto::PortKey, &NodePort)| v1::NodePort {
        id: key.to_string(),
        vni: port.vni.get(),
        mac: port.mac.to_string(),
        addresses: port.addresses.iter().map(|(ip, length)| format!("{ip}/{length}")).collect(),
        gateways: port.gateways.iter().map(ToString::to_string).collect(),
        mtu: port.mtu,
        netns: port.netns.clone(),
        interface: port.interface.clone(),
        generation: port.generation,
        kind: words::kind(port.kind).into(),
        attachment: words::attachment(port.attachment).into(),
        macvlan_mode: match port.attachment {
            Attachment::Macvlan => words::macvlan_mode(port.macvlan_mode).into(),
            _ => v1::MacvlanMode::Unspecified.into(),
        },
        rate: (!port.rate.is_none())
            .then_some(v1::RateLimit { in_kbit: port.rate.in_kbit, out_kbit: port.rate.out_kbit }),
        guarded: port.guarded,
        stage: stage(port.stage).into(),
        gateway_mac: port.gateway_mac.map_or_else(String::new, |mac| mac.to_string()),
        address_check_ms: port.address_check_ms,
        adopted: port.adopted,
        queues: port.queues,
    };
    state.ports.iter().map(message).collect()
}

fn stage(stage: Stage) -> v1::PortStage {
    match stage {
        Stage::Active => v1::PortStage::Active,
        Stage::Prepared => v1::PortStage::Prepared,
        Stage::Held => v1::PortStage::Held,
    }
}

fn remotes(state: &NodeState) -> Vec<v1::RemoteMac> {
    let message = |((vni, mac), RemoteMac { vtep, addresses }): (&(Vni, Mac), &RemoteMac)| v1::RemoteMac {
        vni: vni.get(),
        mac: mac.to_string(),
        vtep: vtep.to_string(),
        addresses: addresses.iter().map(ToString::to_string).collect(),
    };
    state.remotes.iter().map(message).collect()
}

fn floods<'a>(floods: impl IntoIterator<Item = &'a (Vni, IpAddr)>) -> Vec<v1::FloodTarget> {
    let message = |(vni, vtep): &(Vni, IpAddr)| v1::FloodTarget { vni: vni.get(), vtep: vtep.to_string() };
    floods.into_iter().map(message).collect()
}

/// What an agent says, without what cannot be read: a port that does not exist any more is nothing to quarrel about.
pub(super) fn said(status: v1::AgentStatus) -> (Revision, Vec<PortSaid>, Vec<String>) {
    let short = |text: String| text.chars().take(PROBLEM_BYTES).collect::<String>();
    let port = |port: v1::PortStatus| {
        let absent = port.absent && !port.programmed;
        let result = match (port.programmed, port.problem) {
            (true, _) => Ok(()),
            (false, problem) if problem.is_empty() => {
                Err("not programmed; the agent gives no reason".to_owned())
            }
            (false, problem) => Err(short(problem)),
        };
        let stage = match v1::PortStage::try_from(port.stage) {
            Ok(v1::PortStage::Prepared) => Stage::Prepared,
            Ok(v1::PortStage::Held) => Stage::Held,
            _ => Stage::Active,
        };
        Some(PortSaid { port: port.port.parse().ok()?, generation: port.generation, stage, result, absent })
    };
    let ports = status.ports.into_iter().filter_map(port).collect();
    let problems = status.problems.into_iter().take(PROBLEMS).map(short).collect();
    (Revision(status.revision), ports, problems)
}

/// Who else has an address of a port, as the agent of its node says it; `None` of what cannot be read.
pub(super) fn duplicate(status: &v1::PortStatus) -> Option<Duplicate> {
    let found = status.duplicate.as_ref()?;
    Some(Duplicate {
        generation: status.generation,
        address: found.address.parse().ok()?,
        mac: found.mac.parse().ok()?,
        interface: found.interface.chars().take(INTERFACE).collect(),
        seen_ms: found.seen_ms,
    })
}
