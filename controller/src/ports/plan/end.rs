//! The end of a port: released, quarantined, gone. A quarantined port keeps its record and with it every claim, so that what
//! makes addresses unique makes quarantine hold too, and whoever comes back finds what it had.

use causeway_proto::{PortKey, Revision};

use super::create::{port_as_seen, unchanged};
use super::place::{existing, unconfirmed};
use super::{Context, Plan, Planned, Refusal, as_seen, claim_path, expires_ms, new_mac, vip};
use crate::keys::{self, RecordKey};
use crate::model::{Binding, Network, Port};
use crate::ports::PortError;
use crate::ports::overlay::View;
use crate::store::{Compare, Write};

/// When the quarantine of a port ends, in Unix milliseconds by the clock of whoever began it; `None`: it is not quarantined.
pub fn quarantine_ends_ms(port: &Port, network: Option<&Network>) -> Option<i64> {
    let seconds = network.map_or(0, Network::quarantine_seconds);
    let ms = i64::try_from(seconds.saturating_mul(1000)).unwrap_or(i64::MAX);
    Some(port.quarantined_ms?.saturating_add(ms))
}

/// The binding record stays, for its generation.
pub(super) fn end_binding(view: &View<'_>, planned: &mut Planned, key: &PortKey) -> Result<(), PortError> {
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
    let port = vip::part(view, &mut planned, port, now_ms)?;
    planned.put_port(Port { released_ms: Some(now_ms), ..port })?;
    leave(view, &mut planned, key)?;
    Ok(Plan::Write(Box::new(planned)))
}

/// Gives up the addresses of a released port whose time is over.
pub(super) fn expire(
    view: &View<'_>,
    key: &PortKey,
    now_ms: i64,
    context: Context<'_>,
) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    let sticky = view.snapshot.networks.get(&key.network).map_or(0, |network| network.value.sticky_seconds);
    if expires_ms(port, sticky).is_none_or(|end| end > now_ms) {
        let error = PortError::refused(key, "is in use, or its addresses are still reserved for it", "");
        return Err(Refusal::seen(error, &RecordKey::Port(key.clone()), Some(at)));
    }
    forget(view, key, now_ms, "its reservation is over", context)
}

/// Why somebody may still have a port's addresses although it lives nowhere, or lives there still.
pub(super) fn answered_for(view: &View<'_>, key: &PortKey, context: Context<'_>) -> Option<PortError> {
    let (binding, seen) = view.binding(key)?;
    // What ends only now nobody can have confirmed.
    let since = if binding.active { Revision(u64::MAX) } else { seen };
    unconfirmed(view.snapshot, key, binding, since, context)
}

/// Gives up the addresses: they are quarantined, or free at once where the network has no quarantine and certainly nobody
/// answers for them any more.
pub(super) fn forget(
    view: &View<'_>,
    key: &PortKey,
    now_ms: i64,
    cause: &str,
    context: Context<'_>,
) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    if port.quarantined_ms.is_some() {
        return Ok(unchanged(view, key, port, at));
    }
    let network = view.snapshot.networks.get(&key.network);
    let at_once = network.is_none_or(|network| network.value.quarantine_seconds() == 0);
    if at_once && answered_for(view, key, context).is_none() {
        return free(view, key, false, cause, context);
    }
    let mut planned = Planned::new(key);
    cause.clone_into(&mut planned.cause);
    planned.compares.push(port_as_seen(key, at));
    let released_ms = Some(port.released_ms.unwrap_or(now_ms));
    let port = vip::part(view, &mut planned, port, now_ms)?;
    planned.put_port(Port { released_ms, quarantined_ms: Some(now_ms), ..port })?;
    leave(view, &mut planned, key)?;
    Ok(Plan::Write(Box::new(planned)))
}

/// Gives up a port whose workload is gone, if it is bound still as it was when that was seen, and goes nowhere.
pub(super) fn collect(
    view: &View<'_>,
    key: &PortKey,
    generation: u64,
    evidence: &[Compare],
    cause: &str,
    context: Context<'_>,
) -> Result<Plan, Refusal> {
    let changed = |record: &RecordKey, seen| {
        let error = PortError::refused(key, "was bound otherwise, unbound or moved meanwhile", "");
        Refusal::seen(error, record, seen)
    };
    let record = RecordKey::Binding(key.clone());
    let binding = view.binding(key);
    if binding.is_none_or(|(binding, _)| !binding.active || binding.generation != generation) {
        return Err(changed(&record, binding.map(|(_, seen)| seen)));
    }
    let moved = RecordKey::Move(key.clone());
    let last = view.snapshot.moves.get(key);
    if last.is_some_and(|last| !last.value.phase.is_over()) {
        return Err(changed(&moved, last.map(|last| last.revision)));
    }
    let mut plan = forget(view, key, context.now_ms, cause, context)?;
    if let Plan::Write(planned) = &mut plan {
        planned.compares.extend(evidence.iter().cloned());
        if !planned.compares.iter().any(
            |c| matches!(c, Compare::Unchanged(path, _) | Compare::Absent(path) if *path == moved.path()),
        ) {
            planned.compares.push(as_seen(&moved, last.map(|last| last.revision)));
        }
    }
    Ok(plan)
}

/// Ends the binding of a port that is given up; nobody may bind it meanwhile.
fn leave(view: &View<'_>, planned: &mut Planned, key: &PortKey) -> Result<(), PortError> {
    let binding = view.binding(key);
    if binding.is_none_or(|(binding, _)| !binding.active) {
        planned.compares.push(as_seen(&RecordKey::Binding(key.clone()), binding.map(|(_, seen)| seen)));
    }
    end_binding(view, planned, key)
}

/// Removes the record and all its claims. With `quarantined` only if it is quarantined still, and its node has said that
/// it is down: a node that nobody hears from may have it up for longer than any quarantine.
pub(super) fn free(
    view: &View<'_>,
    key: &PortKey,
    quarantined: bool,
    cause: &str,
    context: Context<'_>,
) -> Result<Plan, Refusal> {
    let (port, at) = existing(view, key)?;
    if quarantined && port.quarantined_ms.is_none() {
        let error = PortError::refused(key, "is not quarantined any more", "");
        return Err(Refusal::seen(error, &RecordKey::Port(key.clone()), Some(at)));
    }
    if quarantined && let Some(error) = answered_for(view, key, context) {
        let seen = view.binding(key).map(|(_, seen)| seen);
        return Err(Refusal::seen(error, &RecordKey::Binding(key.clone()), seen));
    }
    let vrf = &key.network.vrf;
    let mut planned = Planned::new(key);
    cause.clone_into(&mut planned.cause);
    planned.compares.push(port_as_seen(key, at));
    vip::part(view, &mut planned, port, context.now_ms)?;
    planned.writes.push(Write::Delete(RecordKey::Port(key.clone()).path()));
    for &address in &port.addresses {
        let Some(subnet) = view.snapshot.subnet_at(vrf, address) else {
            let reason = format!("subnet of address {address} of port {key} is not known");
            return Err(PortError::Internal(reason).into());
        };
        planned.writes.push(Write::Delete(claim_path(vrf, subnet.value.prefix, address)));
    }
    for mac in port.macs() {
        new_mac::give_up(view, &mut planned, key, mac)?;
    }
    if !port.select.is_empty() {
        planned.writes.push(Write::Delete(keys::selected(vrf, &key.name)));
    }
    let record = RecordKey::Binding(key.clone());
    let old = view.binding(key);
    planned.compares.push(as_seen(&record, old.map(|(_, seen)| seen)));
    if let Some(moved) = view.snapshot.moves.get(key) {
        planned.moved_ms = Some(moved.value.changed_ms);
        planned.writes.push(Write::Delete(RecordKey::Move(key.clone()).path()));
    }
    if old.is_some() {
        planned.writes.push(Write::Delete(record.path()));
    }
    Ok(Plan::Write(Box::new(planned)))
}
