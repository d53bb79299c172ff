//! Where a port lives.

mod valid;

use causeway_proto::{Name, PortKey, Revision};

pub(super) use super::create::port_as_seen;
use super::create::{done_or_write, unchanged};
use super::{Context, Part, Plan, Planned, Refusal, as_seen, end, fit, network_record, vip};
use crate::derive::imports::Imports;
use crate::history::EventKind;
use crate::keys::RecordKey;
use crate::model::{
    AddressCheck, Attachment, Binding, Duplicate, Guard, Node, NodeMode, Port, RateLimit, WorkloadKind,
};
use crate::moves::ledger;
use crate::ports::overlay::View;
use crate::ports::{Hearing, Place, PortError};
use crate::snapshot::Snapshot;
pub(super) use valid::check;
pub use valid::interface_name;

pub(super) fn existing<'v>(view: &'v View<'_>, key: &PortKey) -> Result<(&'v Port, Revision), Refusal> {
    let missing = || Refusal::missing(PortError::NoPort(key.clone()), &RecordKey::Port(key.clone()));
    view.port(key).ok_or_else(missing)
}

/// `force`: who binds it although the node before may still answer for it.
pub(super) fn bind(
    view: &View<'_>,
    key: &PortKey,
    place: &Place,
    force: Option<&str>,
    context: Context<'_>,
) -> Result<Plan, Refusal> {
    check(place, "binding")?;
    let (port, at) = existing(view, key)?;
    if port.vip.is_some() {
        let error = PortError::refused(
            key,
            "is a VIP: it lives where its holder lives",
            format!("give it to a port: causeway port vip hold {key} --holder PORT"),
        );
        return Err(Refusal::seen(error, &RecordKey::Port(key.clone()), Some(at)));
    }
    if port.released_ms.is_some() {
        let error =
            PortError::refused(key, "is released", format!("take it back first: causeway port create {key}"));
        return Err(Refusal::seen(error, &RecordKey::Port(key.clone()), Some(at)));
    }
    let mut planned = Planned::new(key);
    planned.effect.port = Some(Part { value: port.clone(), revision: Some(at) });
    planned.effect.binding = view.binding_part(key);
    add(view, &mut planned, port, place, force, at, context)?;
    Ok(done_or_write(planned))
}

/// Adds the binding of an existing port, unless it is bound there already. `at`: the port's revision.
pub(super) fn add(
    view: &View<'_>,
    planned: &mut Planned,
    port: &Port,
    place: &Place,
    force: Option<&str>,
    at: Revision,
    context: Context<'_>,
) -> Result<(), Refusal> {
    let key = &port.key;
    let record = RecordKey::Binding(key.clone());
    let old = view.binding(key);
    if let Some((binding, seen)) = old.filter(|(binding, _)| binding.active) {
        if same_place(view, binding, place) {
            return Ok(());
        }
        if started_anew(binding, place) && view.snapshot.moving(key).is_none() {
            if planned.writes.is_empty() {
                planned.compares.push(port_as_seen(key, at));
            }
            planned.compares.push(as_seen(&record, Some(seen)));
            let binding = target(view, planned, port, place, binding.generation, context.heard)?;
            return Ok(planned.put_binding(binding)?);
        }
        let error = PortError::Precondition {
            subject: format!("port {key}"),
            reason: bound_words(binding),
            owner: format!("node {}", binding.node),
            hint: format!(
                "move it: causeway port migrate {key}; or unbind it first: causeway port unbind {key}"
            ),
        };
        return Err(Refusal::seen(error, &record, Some(seen)));
    }
    let mut forced = String::new();
    if let Some((binding, seen)) = old.filter(|(binding, _)| binding.node != place.node)
        && let Some(error) = unconfirmed(view.snapshot, key, binding, seen, context)
    {
        let Some(by) = force else { return Err(Refusal::seen(error, &record, Some(seen))) };
        forced = format!("by {by} at {} ms, while node {} was silent", context.now_ms, binding.node);
        planned.cause = format!("by force: node {} is silent and may still answer for it", binding.node);
    }
    if planned.writes.is_empty() {
        planned.compares.push(port_as_seen(key, at));
    }
    planned.compares.push(as_seen(&record, old.map(|(_, seen)| seen)));
    let generation = old.map_or(0, |(binding, _)| binding.generation);
    let binding = target(view, planned, port, place, generation, context.heard)?;
    Ok(planned.put_binding(Binding { forced, ..binding })?)
}

/// Why a port that was unbound may still be answered for where it was: its agent has not said that it is down, and nothing
/// keeps it out. That it is connected says nothing: it may be cut off since a moment ago.
pub(super) fn unconfirmed(
    snapshot: &Snapshot,
    key: &PortKey,
    binding: &Binding,
    seen: Revision,
    context: Context<'_>,
) -> Option<PortError> {
    let gone = !snapshot.nodes.contains_key(&binding.node) || snapshot.fences.contains_key(&binding.node);
    let hearing = (context.hearing)(&binding.node);
    let confirmed = !hearing.known || hearing.applied >= seen;
    if gone || confirmed || binding.kind == WorkloadKind::BareMetal {
        return None;
    }
    if hearing.connected {
        return Some(PortError::Unconfirmed { subject: key.clone(), node: binding.node.clone() });
    }
    Some(silent(key, &binding.node, hearing, context.now_ms))
}

/// The refusal to have a port elsewhere while nobody hears from the node that had it last.
pub(super) fn silent(key: &PortKey, node: &Name, hearing: Hearing, now_ms: i64) -> PortError {
    let how_long = match hearing.silent_ms {
        Some(since) => format!("for {} s", now_ms.saturating_sub(since).max(0) / 1000),
        None if hearing.known => "since before this controller started".to_owned(),
        None => "ever".to_owned(),
    };
    PortError::Precondition {
        subject: format!("port {key}"),
        reason: format!(
            "was last on node {node}, whose agent has not been connected {how_long} and has not confirmed that the port \
             is down: it may still answer there"
        ),
        owner: format!("node {node}"),
        hint: format!("keep that node out first: causeway node fence {node} --reason …; or insist: --force"),
    }
}

/// Adds the binding of a port that the same transaction makes: with the port's absence is compared that of its binding,
/// as both always go together.
pub(super) fn add_new(
    view: &View<'_>,
    planned: &mut Planned,
    port: &Port,
    place: &Place,
    heard: &Imports,
) -> Result<(), Refusal> {
    let binding = target(view, planned, port, place, 0, heard)?;
    Ok(planned.put_binding(binding)?)
}

/// The binding of a port at a place, if it can be there; what that rests on is compared.
pub(super) fn target(
    view: &View<'_>,
    planned: &mut Planned,
    port: &Port,
    place: &Place,
    generation: u64,
    heard: &Imports,
) -> Result<Binding, Refusal> {
    let key = &port.key;
    let node_key = RecordKey::Node(place.node.clone());
    let Some(node) = view.snapshot.nodes.get(&place.node) else {
        return Err(Refusal::missing(PortError::NoNode(place.node.clone()), &node_key));
    };
    let Some(network) = view.snapshot.networks.get(&key.network) else {
        let error = PortError::NoNetwork(key.network.clone());
        return Err(Refusal::missing(error, &network_record(&key.network)));
    };
    if place.mtu > network.value.mtu {
        let reason = format!("{} is more than the network's {}", place.mtu, network.value.mtu);
        return Err(PortError::Field { field: "binding.mtu".to_owned(), reason }.into());
    }
    let low = place.mtu > 0 && place.mtu < 1280 && port.addresses.iter().any(std::net::IpAddr::is_ipv6);
    if low {
        let reason = format!("{} is less than the 1280 that IPv6 needs (RFC 8200)", place.mtu);
        return Err(PortError::Field { field: "binding.mtu".to_owned(), reason }.into());
    }
    if place.adopted {
        planned.kind = Some(EventKind::Adopted);
    }
    let (kind, attachment) = (place.kind, resolved(place, &node.value));
    if let Some(unfit) = fit::unfit(view.snapshot, &network.value, &node.value, kind, attachment) {
        let error = PortError::Precondition {
            subject: format!("node {}", place.node),
            reason: unfit.reason,
            owner: format!("network {}", key.network),
            hint: unfit.hint,
        };
        return Err(Refusal::seen(error, &node_key, Some(node.revision)));
    }
    let interface = interface(place, key, &node.value)?;
    let macvlan_mode = place.macvlan_mode.unwrap_or_default();
    let crowded = || {
        fit::crowded(view.snapshot, key, &network.value, &node.value, attachment, &interface, macvlan_mode)
    };
    // Where it is apart from everything, nothing is in its way.
    if let Some((in_way, reason)) = (!place.apart).then(crowded).flatten() {
        let error = PortError::Precondition {
            subject: format!("node {}", place.node),
            reason,
            owner: format!("port {in_way}"),
            hint: format!("bind it elsewhere, or unbind the other first: causeway port unbind {in_way}"),
        };
        return Err(Refusal::seen(
            error,
            &RecordKey::Binding(in_way.clone()),
            view.binding(&in_way).map(|(_, at)| at),
        ));
    }
    for same in [
        as_seen(&node_key, Some(node.revision)),
        as_seen(&network_record(&key.network), Some(network.revision)),
    ] {
        if !planned.shared.contains(&same) {
            planned.shared.push(same);
        }
    }
    let before = view.snapshot.remembered(&key.network, port.mac);
    Ok(Binding {
        port: key.clone(),
        node: place.node.clone(),
        kind,
        attachment,
        macvlan_mode,
        netns: place.netns.clone(),
        interface,
        generation: ledger::next_generation(
            generation,
            before.max(vip::floor(view, port)),
            sequence_elsewhere(view.snapshot, port, &node.value, heard),
        ),
        active: true,
        changed_ms: 0,
        forced: String::new(),
        adopted: place.adopted,
        apart: place.apart,
        queues: place.queues,
        mtu: place.mtu,
    })
}

/// The highest sequence with which other places say the port's MAC, which a new binding must exceed: switches with EVPN
/// of their own count up by themselves when a MAC moves. What the new place says already is no matter.
pub fn sequence_elsewhere(snapshot: &Snapshot, port: &Port, node: &Node, heard: &Imports) -> Option<u32> {
    let place = (port.key.network.clone(), port.mac);
    let echoed = [heard.echoes.get(&place), heard.own.get(&place)].into_iter().flatten().copied();
    let here = crate::derive::place::place(snapshot, node).map(|place| place.vtep);
    let seen = heard.macs.get(&place).into_iter().flat_map(|seen| &seen.sequences);
    seen.filter(|(vtep, _)| Some(**vtep) != here).map(|(_, n)| *n).chain(echoed).max()
}

/// Announces a bound port with a sequence that the fabric remembers of it, if its own is lower. Not with a higher one:
/// whoever else says it, by another store, is not fought.
pub(super) fn raise(view: &View<'_>, key: &PortKey, sequence: u32) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    let generation = u64::from(sequence).saturating_add(1);
    let bound = view.binding(key).filter(|(binding, _)| binding.active && binding.generation < generation);
    let Some((binding, seen)) = bound.filter(|_| view.snapshot.moving(key).is_none()) else {
        return Ok(unchanged(view, key, port, at));
    };
    let mut planned = Planned::new(key);
    planned.kind = Some(EventKind::Repaired);
    planned.cause = format!(
        "the fabric remembers its MAC with sequence {sequence}, the store knew {}: it was restored from an older copy",
        crate::derive::evpn::sequence(binding.generation)
    );
    planned.effect.port = Some(Part { value: port.clone(), revision: Some(at) });
    planned.compares.push(as_seen(&RecordKey::Binding(key.clone()), Some(seen)));
    planned.put_binding(Binding { generation, ..binding.clone() })?;
    Ok(Plan::Write(Box::new(planned)))
}

/// How a workload is attached when nobody says.
fn resolved(place: &Place, node: &Node) -> Option<Attachment> {
    match (place.kind, node.mode) {
        (WorkloadKind::BareMetal, _) => None,
        (WorkloadKind::Vm, _) => Some(place.attachment.unwrap_or(Attachment::Tap)),
        (WorkloadKind::Container, NodeMode::Host) => Some(place.attachment.unwrap_or(Attachment::Bridge)),
        (WorkloadKind::Container, _) => Some(place.attachment.unwrap_or(Attachment::VxlanBridge)),
    }
}

/// The interface's name when nobody says: `eth0` inside a container, for a tap `cwp` and 48 bits of a hash (FNV-1a) of
/// the port's key. Bare metal at a switch has the switch's interface, which must be given.
fn interface(place: &Place, key: &PortKey, node: &Node) -> Result<String, PortError> {
    let wrong = |reason: String| Err(PortError::Field { field: "binding.interface".to_owned(), reason });
    match (place.kind, place.interface.as_str()) {
        (WorkloadKind::BareMetal, "") if node.mode.is_switch() => {
            wrong(format!("is required: which interface of {} the machine hangs on", node.name))
        }
        (WorkloadKind::BareMetal, given) if !given.is_empty() && !node.mode.is_switch() => {
            wrong(format!("makes no sense: nothing is programmed for bare metal on a {}", node.mode))
        }
        (WorkloadKind::Container, "") => Ok("eth0".to_owned()),
        (WorkloadKind::Vm, "") => {
            let hash = fnv1a(key.to_string().as_bytes());
            Ok(format!("cwp{:012x}", (hash ^ (hash >> 48)) & 0xffff_ffff_ffff))
        }
        (_, given) => Ok(given.to_owned()),
    }
}

/// FNV-1a, 64 bits.
fn fnv1a(bytes: &[u8]) -> u64 {
    bytes
        .iter()
        .fold(0xcbf2_9ce4_8422_2325, |hash, byte| (hash ^ u64::from(*byte)).wrapping_mul(0x0100_0000_01b3))
}

/// True if the port is bound there already, with what nobody said filled in.
pub(super) fn same_place(view: &View<'_>, binding: &Binding, place: &Place) -> bool {
    let Some(node) = view.snapshot.nodes.get(&binding.node) else { return false };
    binding.node == place.node
        && binding.kind == place.kind
        && binding.attachment == resolved(place, &node.value)
        && binding.macvlan_mode == place.macvlan_mode.unwrap_or_default()
        && binding.netns == place.netns
        && (binding.adopted, binding.apart) == (place.adopted, place.apart)
        && (binding.queues, binding.mtu) == (place.queues, place.mtu)
        && interface(place, &binding.port, &node.value).is_ok_and(|name| name == binding.interface)
}

/// True for an adopted workload that has been started anew where it was: it has another namespace, and nothing there was
/// made by us, so that nothing has to end first.
fn started_anew(binding: &Binding, place: &Place) -> bool {
    let same =
        (&binding.node, binding.kind) == (&place.node, place.kind) && binding.interface == place.interface;
    same && binding.adopted && place.adopted
}

fn bound_words(binding: &Binding) -> String {
    let attachment = binding.attachment.map_or_else(|| binding.kind.to_string(), |a| a.to_string());
    let parts = [attachment.as_str(), binding.netns.as_str(), binding.interface.as_str()];
    let words: Vec<&str> = parts.into_iter().filter(|part| !part.is_empty()).collect();
    format!("is bound to node {} ({})", binding.node, words.join(" "))
}

/// Changes what may change while a port lives.
pub(super) fn update(
    view: &View<'_>,
    key: &PortKey,
    rate: Option<RateLimit>,
    guard: Option<Option<Guard>>,
    address_check: Option<AddressCheck>,
) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    let changed = Port {
        rate: rate.unwrap_or(port.rate),
        guard: guard.unwrap_or(port.guard),
        address_check: address_check.or(port.address_check),
        ..port.clone()
    };
    if changed == *port {
        return Ok(unchanged(view, key, port, at));
    }
    let mut planned = Planned::new(key);
    planned.compares.push(port_as_seen(key, at));
    planned.effect.binding = view.binding_part(key);
    planned.put_port(changed)?;
    Ok(Plan::Write(Box::new(planned)))
}

/// Somebody else was found with an address of the port, or is not any more; only if it is still bound so.
pub(super) fn found(
    view: &View<'_>,
    key: &PortKey,
    generation: u64,
    found: Option<&Duplicate>,
) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    let bound = |(binding, _): (&Binding, _)| binding.active && binding.generation == generation;
    if port.duplicate.as_ref() == found || !view.binding(key).is_some_and(bound) {
        return Ok(unchanged(view, key, port, at));
    }
    let mut planned = Planned::new(key);
    planned.compares.push(port_as_seen(key, at));
    planned.effect.binding = view.binding_part(key);
    if let Some(Duplicate { address, mac, interface, .. }) = found.or(port.duplicate.as_ref()) {
        planned.cause = match found {
            Some(_) => format!("{address} is in use by {mac}, which answered on {interface} of its node"),
            None => format!("{mac} does not answer for {address} any more"),
        };
    }
    planned.kind = found.map(|_| EventKind::Duplicate);
    planned.put_port(Port { duplicate: found.cloned(), ..port.clone() })?;
    Ok(Plan::Write(Box::new(planned)))
}

pub(super) fn unbind(view: &View<'_>, key: &PortKey) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    let mut planned = Planned::new(key);
    planned.effect.port = Some(Part { value: port.clone(), revision: Some(at) });
    end::end_binding(view, &mut planned, key)?;
    Ok(done_or_write(planned))
}
