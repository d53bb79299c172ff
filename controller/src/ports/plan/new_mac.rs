//! Another MAC for a port that moves.
//!
//! From the beginning of the move until it is over the port has both, and both are claimed: its own, with which it answers
//! where it is bound, and a spare one for the other place. The switch exchanges them, the way back exchanges them again, and
//! the end of the move gives up whichever is spare then. Receivers hear of the new MAC with a higher sequence number, as of a
//! VIP's new holder ([`super::vip`]), and workloads by the announcements of the target.

use causeway_proto::{Mac, PortKey};

use super::create::{derived, free_mac, port_as_seen};
use super::{Planned, Refusal};
use crate::keys::{self, RecordKey};
use crate::model::{Binding, Move, Port};
use crate::ports::overlay::View;
use crate::ports::{NewMac, PortError};
use crate::store::Write;

/// The MAC that a port is to have at its new place; `None`: the one that it has.
pub(super) fn resolve(
    view: &View<'_>,
    port: &Port,
    to: &Binding,
    asked: Option<NewMac>,
    now_ms: i64,
) -> Result<Option<Mac>, Refusal> {
    let wrong = |reason: String| PortError::Field { field: "mac".to_owned(), reason };
    let mac = match asked {
        None => return Ok(None),
        Some(NewMac::Given(mac)) if !mac.is_unicast() => {
            return Err(wrong(format!("{mac} is no unicast MAC")).into());
        }
        Some(NewMac::Given(mac)) => mac,
        // Its own, if that follows already.
        Some(NewMac::Computed) => derived(view, &port.key, port.addresses.first().copied())?.0,
    };
    if mac == port.mac {
        return Ok(None);
    }
    if let Some(attachment) = to.attachment.filter(|attachment| attachment.hides_mac()) {
        let reason =
            format!("means nothing with the attachment {attachment}: its frames carry a MAC of the host");
        return Err(wrong(reason).into());
    }
    free_mac(view, &port.key, mac, now_ms)?;
    Ok(Some(mac))
}

/// True if what is asked for is what a move under way gives to the port.
pub(super) fn is_same(moving: &Move, port: &Port, asked: Option<NewMac>) -> bool {
    match (asked, moving.macs) {
        (None, macs) => macs.is_none(),
        (Some(NewMac::Given(mac)), Some((_, new))) => mac == new,
        (Some(NewMac::Given(mac)), None) => mac == port.mac,
        (Some(NewMac::Computed), _) => true,
    }
}

/// The port has this MAC beside its own, or none.
pub(super) fn set_spare(
    view: &View<'_>,
    planned: &mut Planned,
    port: &Port,
    spare: Option<Mac>,
) -> Result<(), PortError> {
    if port.spare_mac == spare {
        return Ok(());
    }
    if let Some(old) = port.spare_mac {
        give_up(view, planned, &port.key, old)?;
    }
    if let Some(new) = spare {
        planned.claim(keys::mac(&port.key.network, new), &port.key);
    }
    write(view, planned, Port { spare_mac: spare, ..port.clone() })
}

/// The port answers with the other one of its MACs from now on. Says how it is then.
pub(super) fn exchange(view: &View<'_>, planned: &mut Planned, port: &Port) -> Result<Port, PortError> {
    let Some(spare) = port.spare_mac else { return Ok(port.clone()) };
    let port = Port { mac: spare, spare_mac: Some(port.mac), ..port.clone() };
    write(view, planned, port.clone())?;
    Ok(port)
}

/// Gives the claim on a MAC up. The next port with it goes on counting: the fabric may remember its last sequence number.
pub(super) fn give_up(
    view: &View<'_>,
    planned: &mut Planned,
    key: &PortKey,
    mac: Mac,
) -> Result<(), PortError> {
    planned.writes.push(Write::Delete(keys::mac(&key.network, mac)));
    // A first binding begins there anyway.
    let known = view.snapshot.remembered(&key.network, mac).max(1);
    match view.binding(key) {
        Some((binding, _)) if binding.generation > known => {
            planned.put(RecordKey::Ledger(key.network.clone(), mac).path(), &binding.generation)
        }
        _ => Ok(()),
    }
}

/// Puts the port's record, once, if it is still as it was seen.
fn write(view: &View<'_>, planned: &mut Planned, port: Port) -> Result<(), PortError> {
    if let Some(part) = planned.effect.port.as_mut().filter(|part| part.revision.is_none()) {
        part.value = port;
        return Ok(());
    }
    if let Some((_, at)) = view.port(&port.key) {
        let same = port_as_seen(&port.key, at);
        if !planned.compares.contains(&same) {
            planned.compares.push(same);
        }
    }
    planned.put_port(port)
}
