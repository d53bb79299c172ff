//! Where a port lives, and its end.

use std::net::IpAddr;

use causeway_proto::{PortKey, Revision};

use super::create::{done_or_write, port_as_seen, unchanged};
use super::{Part, Plan, Planned, Refusal, as_seen, claim_path, expires_ms, network_record};
use crate::keys::{self, RecordKey};
use crate::model::{Binding, Network, Node, Port};
use crate::ports::overlay::View;
use crate::ports::{Place, PortError};
use crate::store::Write;

/// Longest interface name: the kernel's IFNAMSIZ less the final zero.
const LONGEST_INTERFACE: usize = 15;
/// Longest path of a namespace: the kernel's PATH_MAX less the final zero.
const LONGEST_PATH: usize = 4095;

/// What VXLAN adds to a workload's frame on the underlay in bytes: outer IP, UDP, VXLAN and the inner Ethernet header.
pub fn vxlan_overhead(vtep: IpAddr) -> u32 {
    if vtep.is_ipv4() { 50 } else { 70 }
}

/// True if a network's frames pass between its VTEPs by way of this node.
pub fn mtu_fits(network: &Network, node: &Node) -> bool {
    network.mtu.saturating_add(vxlan_overhead(node.vtep)) <= node.underlay_mtu
}

/// What can be said of a place without the store.
pub(super) fn check(place: &Place, at: &str) -> Result<(), PortError> {
    let wrong = |field: &str, reason: &str| {
        Err(PortError::Field { field: format!("{at}.{field}"), reason: reason.to_owned() })
    };
    let pid = place
        .netns
        .strip_prefix("pid:")
        .map(|n| n.bytes().all(|b| b.is_ascii_digit()) && n.parse::<u32>().is_ok_and(|n| n > 0));
    if place.netns.len() > LONGEST_PATH || place.netns.contains('\0') {
        return wrong("netns", "is longer than a path can be, or has a zero byte");
    }
    if !(pid == Some(true) || place.netns.starts_with('/')) {
        return wrong("netns", "must be an absolute path on the node or pid:NUMBER");
    }
    let name = place.interface.as_str();
    // The kernel's rule, dev_valid_name().
    let bad = |c: char| c == '/' || c == ':' || c == '\0' || c.is_whitespace();
    if name.is_empty() || name.len() > LONGEST_INTERFACE || name == "." || name == ".." || name.contains(bad)
    {
        return wrong("interface", "must be 1 to 15 bytes without '/', ':' and blanks");
    }
    Ok(())
}

fn existing<'v>(view: &'v View<'_>, key: &PortKey) -> Result<(&'v Port, Revision), Refusal> {
    let missing = || Refusal::missing(PortError::NoPort(key.clone()), &RecordKey::Port(key.clone()));
    view.port(key).ok_or_else(missing)
}

pub(super) fn bind(view: &View<'_>, key: &PortKey, place: &Place) -> Result<Plan, Refusal> {
    check(place, "binding")?;
    let (port, at) = existing(view, key)?;
    if port.released_ms.is_some() {
        let error = PortError::Precondition {
            subject: format!("port {key}"),
            reason: "is released".to_owned(),
            owner: String::new(),
            hint: format!("take it back first: causeway port create {key}"),
        };
        return Err(Refusal::seen(error, &RecordKey::Port(key.clone()), Some(at)));
    }
    let mut planned = Planned::new(key);
    planned.effect.port = Some(Part { value: port.clone(), revision: Some(at) });
    planned.effect.binding = view.binding_part(key);
    add(view, &mut planned, port, place, at)?;
    Ok(done_or_write(planned))
}

/// Adds the binding of an existing port, unless it is bound there already. `at`: the port's revision.
pub(super) fn add(
    view: &View<'_>,
    planned: &mut Planned,
    port: &Port,
    place: &Place,
    at: Revision,
) -> Result<(), Refusal> {
    let key = &port.key;
    let record = RecordKey::Binding(key.clone());
    let old = view.binding(key);
    if let Some((binding, seen)) = old.filter(|(binding, _)| binding.active) {
        let same = binding.node == place.node
            && binding.netns == place.netns
            && binding.interface == place.interface;
        if same {
            return Ok(());
        }
        let error = PortError::Precondition {
            subject: format!("port {key}"),
            reason: format!("is bound to {} {} on node {}", binding.netns, binding.interface, binding.node),
            owner: format!("node {}", binding.node),
            hint: format!("unbind it first: causeway port unbind {key}"),
        };
        return Err(Refusal::seen(error, &record, Some(seen)));
    }
    if planned.writes.is_empty() {
        planned.compares.push(port_as_seen(key, at));
    }
    planned.compares.push(as_seen(&record, old.map(|(_, seen)| seen)));
    put(view, planned, port, place, old.map_or(0, |(binding, _)| binding.generation))
}

/// Adds the binding of a port that the same transaction makes: with the port's absence is compared that of its binding,
/// as both always go together.
pub(super) fn add_new(
    view: &View<'_>,
    planned: &mut Planned,
    port: &Port,
    place: &Place,
) -> Result<(), Refusal> {
    put(view, planned, port, place, 0)
}

fn put(
    view: &View<'_>,
    planned: &mut Planned,
    port: &Port,
    place: &Place,
    generation: u64,
) -> Result<(), Refusal> {
    let key = &port.key;
    let node_key = RecordKey::Node(place.node.clone());
    let Some(node) = view.snapshot.nodes.get(&place.node) else {
        return Err(Refusal::missing(PortError::NoNode(place.node.clone()), &node_key));
    };
    let Some(network) = view.snapshot.networks.get(&key.network) else {
        let error = PortError::NoNetwork(key.network.clone());
        return Err(Refusal::missing(error, &network_record(&key.network)));
    };
    if !mtu_fits(&network.value, &node.value) {
        let error = PortError::Precondition {
            subject: format!("node {}", place.node),
            reason: format!(
                "has an underlay of {} bytes, network {} needs {} and {} of VXLAN",
                node.value.underlay_mtu,
                key.network,
                network.value.mtu,
                vxlan_overhead(node.value.vtep)
            ),
            owner: format!("network {}", key.network),
            hint: "lower the network's mtu, or raise the node's underlay and its underlay_mtu".to_owned(),
        };
        return Err(Refusal::seen(error, &node_key, Some(node.revision)));
    }
    for same in [
        as_seen(&node_key, Some(node.revision)),
        as_seen(&network_record(&key.network), Some(network.revision)),
    ] {
        if !planned.shared.contains(&same) {
            planned.shared.push(same);
        }
    }
    let before = view.snapshot.ledger.get(&(key.network.clone(), port.mac)).map_or(0, |l| l.value);
    let binding = Binding {
        port: key.clone(),
        node: place.node.clone(),
        netns: place.netns.clone(),
        interface: place.interface.clone(),
        generation: generation.max(before).saturating_add(1),
        active: true,
    };
    Ok(planned.put_binding(binding)?)
}

pub(super) fn unbind(view: &View<'_>, key: &PortKey) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    let mut planned = Planned::new(key);
    planned.effect.port = Some(Part { value: port.clone(), revision: Some(at) });
    end_binding(view, &mut planned, key)?;
    Ok(done_or_write(planned))
}

/// The binding record stays, for its generation.
fn end_binding(view: &View<'_>, planned: &mut Planned, key: &PortKey) -> Result<(), PortError> {
    planned.effect.binding = view.binding_part(key);
    if let Some((binding, seen)) = view.binding(key).filter(|(binding, _)| binding.active) {
        planned.compares.push(as_seen(&RecordKey::Binding(key.clone()), Some(seen)));
        planned.put_binding(Binding { active: false, ..binding.clone() })?;
    }
    Ok(())
}

pub(super) fn release(view: &View<'_>, key: &PortKey, now_ms: i64) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    if port.released_ms.is_some() {
        return Ok(unchanged(view, key, port, at));
    }
    let mut planned = Planned::new(key);
    planned.compares.push(port_as_seen(key, at));
    planned.put_port(Port { released_ms: Some(now_ms), ..port.clone() })?;
    if view.binding(key).is_none_or(|(binding, _)| !binding.active) {
        // Nobody may bind it meanwhile.
        planned
            .compares
            .push(as_seen(&RecordKey::Binding(key.clone()), view.binding(key).map(|(_, seen)| seen)));
    }
    end_binding(view, &mut planned, key)?;
    Ok(Plan::Write(Box::new(planned)))
}

/// Forgets a released port whose time is over.
pub(super) fn expire(view: &View<'_>, key: &PortKey, now_ms: i64) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    let sticky = view.snapshot.networks.get(&key.network).map_or(0, |network| network.value.sticky_seconds);
    if expires_ms(port, sticky).is_none_or(|end| end > now_ms) {
        let error = PortError::Precondition {
            subject: format!("port {key}"),
            reason: "is in use, or its addresses are still reserved for it".to_owned(),
            owner: String::new(),
            hint: String::new(),
        };
        return Err(Refusal::seen(error, &RecordKey::Port(key.clone()), Some(at)));
    }
    forget(view, key)
}

pub(super) fn forget(view: &View<'_>, key: &PortKey) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    let vrf = &key.network.vrf;
    let mut planned = Planned::new(key);
    planned.compares.push(port_as_seen(key, at));
    planned.writes.push(Write::Delete(RecordKey::Port(key.clone()).path()));
    for &address in &port.addresses {
        let Some(subnet) = view.snapshot.subnet_at(vrf, address) else {
            let reason = format!("subnet of address {address} of port {key} is not known");
            return Err(PortError::Internal(reason).into());
        };
        planned.writes.push(Write::Delete(claim_path(vrf, subnet.value.prefix, address)));
    }
    planned.writes.push(Write::Delete(keys::mac(&key.network, port.mac)));
    let record = RecordKey::Binding(key.clone());
    let old = view.binding(key);
    planned.compares.push(as_seen(&record, old.map(|(_, seen)| seen)));
    if let Some((binding, _)) = old {
        planned.writes.push(Write::Delete(record.path()));
        // The next port with this MAC goes on counting: the fabric may remember the last sequence number.
        let known = view.snapshot.ledger.get(&(key.network.clone(), port.mac)).map_or(1, |l| l.value);
        if binding.generation > known {
            planned.put(RecordKey::Ledger(key.network.clone(), port.mac).path(), &binding.generation)?;
        }
    }
    Ok(Plan::Write(Box::new(planned)))
}
