//! Nodes: how they hang together.

use std::net::IpAddr;

use causeway_proto::Name;

use super::{IntentError, Item, Owners, still_fits, unique};
use crate::keys;
use crate::model::{Node, NodeMode};
use crate::snapshot::Snapshot;

/// Switches that may share one VTEP.
const SHARERS: usize = 2;

pub(super) fn check(
    item: &Item,
    node: &Node,
    old: &Snapshot,
    all: &Snapshot,
    owners: &Owners,
) -> Result<(), IntentError> {
    if let Some(vtep) = node.vtep {
        unique(item, "vtep", format!("vtep {vtep}"), owners.vteps.get(&vtep))?;
        unique(item, "vtep", format!("vtep {vtep}"), owners.anycast.get(&vtep))?;
    }
    if let Some(vtep) = node.anycast_vtep {
        check_shared(item, node, vtep, all, owners)?;
    }
    if let Some(mac) = node.router_mac {
        check_router_mac(item, node, mac, all, owners)?;
    }
    check_uplinks(item, node, all, owners)?;
    check_networks(item, node, all)?;
    referred(node, old, all)?;
    check_ports(item, node, old, all)
}

/// Two switches of one mode share a VTEP.
fn check_shared(
    item: &Item,
    node: &Node,
    vtep: IpAddr,
    all: &Snapshot,
    owners: &Owners,
) -> Result<(), IntentError> {
    unique(item, "anycast_vtep", format!("vtep {vtep}"), owners.vteps.get(&vtep))?;
    let sharers: Vec<&Node> =
        all.nodes_at(vtep).map(|record| &record.value).filter(|other| other.name != node.name).collect();
    if sharers.len() >= SHARERS {
        return Err(IntentError::Conflict {
            field: item.field("anycast_vtep"),
            subject: format!("vtep {vtep}"),
            owner: format!("nodes {} and {}", sharers[0].name, sharers[1].name),
        });
    }
    match sharers.first().filter(|other| other.mode != node.mode) {
        None => Ok(()),
        Some(other) => Err(item.invalid(
            "anycast_vtep",
            format!("{vtep} is shared with {}, which is a {}: both need one mode", other.name, other.mode),
        )),
    }
}

/// One router MAC a VTEP; only switches that share a VTEP may share it.
fn check_router_mac(
    item: &Item,
    node: &Node,
    mac: causeway_proto::Mac,
    all: &Snapshot,
    owners: &Owners,
) -> Result<(), IntentError> {
    let partner = |owner: &String| {
        let name = owner.strip_prefix("node ").and_then(|name| name.parse::<Name>().ok());
        let other = name.and_then(|name| all.nodes.get(&name).map(|record| record.value.anycast_vtep));
        node.anycast_vtep.is_some() && other.flatten() == node.anycast_vtep
    };
    let others: Vec<String> =
        owners.router_macs.get(&mac).into_iter().flatten().filter(|owner| !partner(owner)).cloned().collect();
    unique(item, "router_mac", format!("router MAC {mac}"), Some(&others))
}

fn check_uplinks(item: &Item, node: &Node, all: &Snapshot, owners: &Owners) -> Result<(), IntentError> {
    let mut switches: Vec<&Node> = Vec::new();
    for (i, uplink) in node.uplinks.iter().enumerate() {
        let at = |field: &str| format!("uplinks[{i}].{field}");
        let Some(switch) = all.nodes.get(&uplink.switch).map(|record| &record.value) else {
            return Err(item.invalid(&at("switch"), format!("node {} does not exist", uplink.switch)));
        };
        if !switch.mode.is_switch() {
            let reason = format!("node {} is a {} and no switch", uplink.switch, switch.mode);
            return Err(item.invalid(&at("switch"), reason));
        }
        if uplink.switch_interface.is_empty() {
            if switch.mode.needs_vlan() {
                let reason = format!("is required, as node {} is a {}", uplink.switch, switch.mode);
                return Err(item.invalid(&at("switch_interface"), reason));
            }
        } else {
            let subject = format!("interface {} of {}", uplink.switch_interface, uplink.switch);
            let place = (uplink.switch.clone(), uplink.switch_interface.clone());
            unique(item, &at("switch_interface"), subject, owners.switch_ports.get(&place))?;
        }
        switches.push(switch);
    }
    let [first, second] = switches[..] else { return Ok(()) };
    if first.mode != second.mode {
        let reason = format!(
            "go to a {} and a {}: two uplinks need two switches of one mode",
            first.mode, second.mode
        );
        return Err(item.invalid("uplinks", reason));
    }
    let shared = first.anycast_vtep.is_some() && first.anycast_vtep == second.anycast_vtep;
    match (shared, node.esi, first.mode) {
        (true, None, _) | (false, Some(_), NodeMode::TorEvpn) => Ok(()),
        (true, Some(_), _) => {
            let reason = "makes no sense with switches that share an anycast_vtep".to_owned();
            Err(item.invalid("esi", reason))
        }
        (false, Some(_), mode) => {
            let reason = format!(
                "needs switches that speak EVPN multihoming themselves; with a {mode} give {} and {} a shared \
                 anycast_vtep",
                first.name, second.name
            );
            Err(item.invalid("esi", reason))
        }
        (false, None, _) => {
            let reason = format!(
                "to {} and {} need an esi, or an anycast_vtep that both switches share",
                first.name, second.name
            );
            Err(item.invalid("uplinks", reason))
        }
    }
}

fn check_networks(item: &Item, node: &Node, all: &Snapshot) -> Result<(), IntentError> {
    for (i, key) in node.networks.iter().enumerate() {
        let at = format!("networks[{i}]");
        let Some(network) = all.networks.get(key) else {
            return Err(item.invalid(&at, format!("network {key} does not exist")));
        };
        if node.mode.needs_vlan() && network.value.vlan.is_none() {
            let reason = format!("network {key} has no vlan: a {} tells networks apart by it", node.mode);
            return Err(item.invalid(&at, reason));
        }
    }
    Ok(())
}

/// What others say of this node must stay true.
fn referred(node: &Node, old: &Snapshot, all: &Snapshot) -> Result<(), IntentError> {
    if old.nodes.get(&node.name).is_none() {
        return Ok(());
    }
    let in_use = |reason: &str, owner: String| {
        Err(IntentError::InUse {
            subject: format!("node {}", node.name),
            reason: reason.to_owned(),
            owner,
            hint: "change or delete that one first, or apply both together".to_owned(),
        })
    };
    for host in all.hosts_behind(&node.name).map(|record| &record.value) {
        let owner = format!("node {}", host.name);
        if !node.mode.is_switch() {
            return in_use("cannot become something else than a switch while hosts are behind it", owner);
        }
        let uplink = host.uplinks.iter().find(|uplink| uplink.switch == node.name);
        if node.mode.needs_vlan() && uplink.is_some_and(|uplink| uplink.switch_interface.is_empty()) {
            return in_use("needs the switch_interface of every host behind it", owner);
        }
        let others: Vec<&Node> = host
            .uplinks
            .iter()
            .filter(|uplink| uplink.switch != node.name)
            .filter_map(|uplink| all.nodes.get(&uplink.switch).map(|record| &record.value))
            .collect();
        for other in others {
            let shared = node.anycast_vtep.is_some() && node.anycast_vtep == other.anycast_vtep;
            if other.mode != node.mode || shared != host.esi.is_none() {
                return in_use(
                    "must agree in mode and anycast_vtep with the other switch of a host with two uplinks",
                    owner,
                );
            }
        }
    }
    for vrf in all.vrfs.values().map(|record| &record.value) {
        if vrf.routes.iter().any(|route| route.node == node.name)
            && (node.vtep.is_none() || (!node.mode.is_spoken_for() && node.router_mac.is_none()))
        {
            return in_use(
                "needs a VTEP and a router MAC while routes lead to it",
                format!("vrf {}", vrf.name),
            );
        }
    }
    Ok(())
}

/// Ports on the node, and on the hosts behind it, must still be possible.
fn check_ports(item: &Item, node: &Node, old: &Snapshot, all: &Snapshot) -> Result<(), IntentError> {
    let Some(before) = old.nodes.get(&node.name).map(|record| &record.value) else { return Ok(()) };
    let family = |node: &Node| node.vtep.map(|vtep| vtep.is_ipv4());
    let same = before.mode == node.mode
        && before.underlay_mtu <= node.underlay_mtu
        && family(before) == family(node)
        && before.uplinks == node.uplinks;
    if same {
        return Ok(());
    }
    let hosts = all.hosts_behind(&node.name).map(|record| &record.value.name);
    for name in std::iter::once(&node.name).chain(hosts) {
        for binding in old.bindings_at(name) {
            if let Some(network) = all.networks.get(&binding.value.port.network) {
                still_fits(item, &network.value, &binding.value, all)?;
            }
        }
    }
    Ok(())
}

/// Index keys that a node claims. Switches that share a VTEP may share a router MAC too, so theirs is not claimed.
pub(super) fn claims(node: &Node) -> Vec<String> {
    let mut claims: Vec<String> = node.vtep.map(keys::vtep).into_iter().collect();
    claims.extend(node.anycast_vtep.map(|vtep| keys::anycast_vtep(vtep, &node.name)));
    if node.anycast_vtep.is_none() {
        claims.extend(node.router_mac.map(keys::router_mac));
    }
    claims
}
