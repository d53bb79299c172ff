//! VIPs: addresses for which another port, the holder, answers with its own MAC.
//!
//! Why the holder's MAC: hosts of a cluster take an address over with the MAC of their own interface, and so does every
//! kernel that is given a second address; a MAC of its own would need an interface of its own at every holder. The address
//! is announced as one more address of the holder's MAC (RFC 7432 §7.2), and moves with the holder.
//!
//! Two MACs that say one address one after the other are told apart by their sequence numbers: receivers (FRR's
//! zebra among them) ignore the address with a lower one while they remember the other. So the new holder's binding goes above
//! all with which the VIP was ever announced. Its agent, which announces a new generation to its neighbourhood, tells hosts of
//! the same segment by that.
//!
//! Both sides are written in one transaction: the VIP names its holder, the holder's record has the VIP's addresses, so that
//! everything that is derived from a port needs to look at that port alone.

use causeway_proto::{PortKey, Revision};

use super::create::{port_as_seen, unchanged};
use super::place::existing;
use super::{Context, Plan, Planned, Refusal, View, as_seen};
use crate::history::{Event, EventKind};
use crate::keys::RecordKey;
use crate::model::{Binding, Held, Port, Vip};
use crate::moves::ledger;
use crate::ports::PortError;

/// VIPs of one holder at most: a transaction that ends it writes each of them.
const MOST_HELD: usize = 16;

fn refused(key: &PortKey, at: Revision, reason: &str, hint: String) -> Refusal {
    Refusal::seen(PortError::refused(key, reason, hint), &RecordKey::Port(key.clone()), Some(at))
}

/// Gives a VIP to a port, or to none.
pub(super) fn hold(
    view: &View<'_>,
    key: &PortKey,
    holder: Option<&PortKey>,
    context: Context<'_>,
) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    let Some(vip) = &port.vip else {
        return Err(refused(key, at, "is no VIP", "create one: causeway port create KEY --vip".to_owned()));
    };
    if port.released_ms.is_some() {
        let hint = format!("take it back first: causeway port create {key} --vip");
        return Err(refused(key, at, "is released", hint));
    }
    if vip.holder.as_ref() == holder {
        return Ok(unchanged(view, key, port, at));
    }
    let mut planned = Planned::new(key);
    planned.kind = Some(EventKind::Held);
    planned.compares.push(port_as_seen(key, at));
    planned.effect.binding = view.binding_part(key);
    let floor = match &vip.holder {
        Some(old) => vip.floor.max(take_from(view, &mut planned, old, key, context.now_ms)?),
        None => vip.floor,
    };
    let was = vip.holder.as_ref().map_or_else(|| "nobody".to_owned(), |old| format!("port {old}"));
    planned.cause = match holder {
        Some(new) => {
            give_to(view, &mut planned, new, port, floor, context)?;
            format!("held by port {new}, before by {was}")
        }
        None => format!("held by nobody, before by {was}"),
    };
    let vip = Some(Box::new(Vip { holder: holder.cloned(), floor }));
    planned.put_port(Port { vip, ..port.clone() })?;
    Ok(Plan::Write(Box::new(planned)))
}

/// The old holder answers for it no more. Says the generation with which it was announced there.
fn take_from(
    view: &View<'_>,
    planned: &mut Planned,
    holder: &PortKey,
    vip: &PortKey,
    now_ms: i64,
) -> Result<u64, Refusal> {
    // It cannot be gone: its end takes the VIP from it.
    let Some((port, at)) = view.port(holder) else { return Ok(0) };
    planned.compares.push(port_as_seen(holder, at));
    let held = port.held.iter().filter(|held| held.vip != *vip).cloned().collect();
    write_other(
        planned,
        port,
        Port { held, ..port.clone() },
        &format!("VIP {vip} is taken from it"),
        now_ms,
    )?;
    // A binding that changes meanwhile only counts up, and the holder's record with it in what was announced.
    let binding = view.binding(holder);
    planned.compares.push(as_seen(&RecordKey::Binding(holder.clone()), binding.map(|(_, seen)| seen)));
    Ok(binding.map_or(0, |(binding, _)| binding.generation))
}

/// The new holder answers for it, with a generation above all before.
fn give_to(
    view: &View<'_>,
    planned: &mut Planned,
    holder: &PortKey,
    vip: &Port,
    floor: u64,
    context: Context<'_>,
) -> Result<(), Refusal> {
    let field = |reason: String| Refusal::from(PortError::Field { field: "holder".to_owned(), reason });
    if holder.network != vip.key.network {
        return Err(field(format!("{holder} is not in network {} of the VIP", vip.key.network)));
    }
    let (port, at) = existing(view, holder)?;
    if port.vip.is_some() {
        return Err(field(format!("{holder} is a VIP itself")));
    }
    if port.released_ms.is_some() {
        let hint = format!("take it back first: causeway port create {holder}");
        return Err(refused(holder, at, "is released", hint));
    }
    if port.held.len() >= MOST_HELD {
        let reason = format!("holds {MOST_HELD} VIPs already");
        return Err(refused(holder, at, &reason, "create one VIP with several addresses".to_owned()));
    }
    if view.snapshot.moving(holder).is_some() {
        let hint = "wait until the move is over: causeway port moves".to_owned();
        return Err(refused(holder, at, "is moving to another node", hint));
    }
    planned.compares.push(port_as_seen(holder, at));
    let mut held = port.held.clone();
    held.push(Held { vip: vip.key.clone(), addresses: vip.addresses.clone() });
    let cause = format!("VIP {} is given to it", vip.key);
    let told = write_other(planned, port, Port { held, ..port.clone() }, &cause, context.now_ms)?;
    let record = RecordKey::Binding(holder.clone());
    let binding = view.binding(holder);
    planned.compares.push(as_seen(&record, binding.map(|(_, seen)| seen)));
    let Some((binding, _)) = binding.filter(|(binding, _)| binding.active) else { return Ok(()) };
    let moved = RecordKey::Move(holder.clone());
    planned.compares.push(as_seen(&moved, view.snapshot.revision_of(&moved)));
    let before = view.snapshot.remembered(&holder.network, port.mac);
    let generation = ledger::next_generation(binding.generation.max(floor), before, None);
    let next = Binding { generation, changed_ms: context.now_ms, ..binding.clone() };
    if let Some(told) = planned.others.get_mut(told) {
        told.node = Some(next.node.clone());
        told.generation = generation;
        told.before.extend(Some(binding.changed_ms).filter(|ms| *ms != 0));
    }
    Ok(planned.put(record.path(), &next)?)
}

/// The record of a port that is not the transaction's own, with its event, of which the place is said.
fn write_other(
    planned: &mut Planned,
    before: &Port,
    after: Port,
    cause: &str,
    now_ms: i64,
) -> Result<usize, PortError> {
    planned.put(RecordKey::Port(after.key.clone()).path(), &Port { changed_ms: now_ms, ..after })?;
    planned.others.push(Event {
        port: Some(before.key.clone()),
        addresses: before.addresses.clone(),
        mac: Some(before.mac),
        before: vec![before.changed_ms()],
        ..Event::of_record(EventKind::Updated, String::new(), cause.to_owned())
    });
    Ok(planned.others.len() - 1)
}

/// A port ends: it holds no VIP any more, and if it is one nobody holds it.
pub(super) fn part(
    view: &View<'_>,
    planned: &mut Planned,
    port: &Port,
    now_ms: i64,
) -> Result<Port, Refusal> {
    let mut left = Port { held: Vec::new(), ..port.clone() };
    if let Some(vip) = left.vip.as_mut()
        && let Some(holder) = vip.holder.take()
    {
        vip.floor = vip.floor.max(take_from(view, planned, &holder, &port.key, now_ms)?);
    }
    let announced = view.binding(&port.key).map_or(0, |(binding, _)| binding.generation);
    for held in &port.held {
        let Some((vip, at)) = view.port(&held.vip) else { continue };
        let known = vip.vip.as_ref().map_or(0, |vip| vip.floor);
        planned.compares.push(port_as_seen(&held.vip, at));
        let ended = Some(Box::new(Vip { holder: None, floor: known.max(announced) }));
        let cause = format!("held by nobody: port {} ended", port.key);
        let told = write_other(planned, vip, Port { vip: ended, ..vip.clone() }, &cause, now_ms)?;
        if let Some(told) = planned.others.get_mut(told) {
            told.kind = EventKind::Held;
        }
    }
    Ok(left)
}

/// The highest generation with which the VIPs that a port holds were announced elsewhere.
pub(super) fn floor(view: &View<'_>, port: &Port) -> u64 {
    let vips = port.held.iter().filter_map(|held| view.port(&held.vip));
    vips.filter_map(|(vip, _)| vip.vip.as_ref()).map(|vip| vip.floor).max().unwrap_or(0)
}
