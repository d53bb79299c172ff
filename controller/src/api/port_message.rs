//! Ports as messages: intent from the snapshot, state from what the node and the fabric say.

use std::sync::Arc;

use causeway_proto::{Name, PortKey, Revision, v1};

use super::App;
use super::parse::Filter;
use crate::agents::PortProgress;
use crate::intent::message::words;
use crate::model::{Attachment, Binding, Held, Move, MovePhase, Port};
use crate::moves;
use crate::ports::plan::quarantine_ends_ms;
use crate::snapshot::{Record, Snapshot};

/// A key as a message.
pub(super) fn key_message(key: &PortKey) -> v1::PortKey {
    v1::PortKey {
        vrf: key.network.vrf.to_string(),
        network: key.network.network.to_string(),
        name: key.name.to_string(),
    }
}

/// A port of the snapshot; `None` if there is none.
pub(super) fn from_snapshot(app: &App, snapshot: &Snapshot, key: &PortKey) -> Option<v1::Port> {
    let port = snapshot.ports.get(key)?;
    let binding = snapshot.bindings.get(key);
    let revision = binding.map_or(port.revision, |binding| binding.revision.max(port.revision));
    let binding = binding.map(|record| (&record.value, record.revision));
    Some(message(app, snapshot, &port.value, binding, revision))
}

/// A port with its binding and that one's revision.
pub(super) fn message(
    app: &App,
    snapshot: &Snapshot,
    port: &Port,
    binding: Option<(&Binding, Revision)>,
    revision: Revision,
) -> v1::Port {
    let binding = binding.filter(|(binding, _)| binding.active && port.released_ms.is_none());
    let (mut state, problem) = match holder(snapshot, port) {
        Some((holder, binding)) => state(app, holder, Some(binding)),
        None => state(app, port, binding),
    };
    let moves = |record: &Arc<Record<Move>>| {
        let moving = record.value.phase != MovePhase::Hold;
        moving && binding.is_some_and(|(binding, _)| moves::holds(&record.value, binding))
    };
    if state != v1::PortState::Failed && snapshot.moving(&port.key).is_some_and(moves) {
        state = v1::PortState::Moving;
    }
    v1::Port {
        key: Some(key_message(&port.key)),
        addresses: port.addresses.iter().map(ToString::to_string).collect(),
        mac: port.mac.to_string(),
        labels: port.labels.clone(),
        state: state.into(),
        binding: binding.map(|(binding, _)| binding_message(binding)),
        revision: revision.0,
        problem,
        created_ms: port.created_ms,
        expires_ms: expires(snapshot, port),
        rate: (!port.rate.is_none())
            .then_some(v1::RateLimit { in_kbit: port.rate.in_kbit, out_kbit: port.rate.out_kbit }),
        guard: words::guard(port.guard).into(),
        address_check: words::address_check(port.address_check).into(),
        network_labels: port.select.clone(),
        kind: if port.vip.is_some() { v1::PortKind::Vip } else { v1::PortKind::Workload }.into(),
        holder: port.vip.as_ref().and_then(|vip| vip.holder.as_ref()).map(key_message),
        vips: port.held.iter().map(held_message).collect(),
    }
}

/// The port that answers for a VIP in use, with its binding; `None` if none does, or it lives nowhere.
fn holder<'a>(snapshot: &'a Snapshot, vip: &Port) -> Option<(&'a Port, (&'a Binding, Revision))> {
    let key = vip.vip.as_ref().filter(|_| vip.released_ms.is_none())?.holder.as_ref()?;
    let (port, binding) = (snapshot.ports.get(key)?, snapshot.bindings.get(key)?);
    let bound = binding.value.active && port.value.released_ms.is_none();
    bound.then_some((&port.value, (&binding.value, binding.revision)))
}

fn held_message(held: &Held) -> v1::HeldVip {
    v1::HeldVip {
        key: Some(key_message(&held.vip)),
        addresses: held.addresses.iter().map(ToString::to_string).collect(),
    }
}

fn state(app: &App, port: &Port, binding: Option<(&Binding, Revision)>) -> (v1::PortState, String) {
    let state = match binding {
        _ if port.quarantined_ms.is_some() => v1::PortState::Quarantined,
        _ if port.released_ms.is_some() => v1::PortState::Released,
        None => v1::PortState::Reserved,
        Some((binding, at)) => match app.agents.port_progress(binding, at) {
            PortProgress::Failed(problem) => return (v1::PortState::Failed, problem),
            PortProgress::Waiting => v1::PortState::Bound,
            PortProgress::Programmed if app.fabric.is_advertised(&port.key) => {
                match app.ready.proof(&port.key, binding.generation) {
                    Some(_) => v1::PortState::Ready,
                    None => v1::PortState::Advertised,
                }
            }
            PortProgress::Programmed => v1::PortState::Programmed,
        },
    };
    (state, String::new())
}

pub(super) fn binding_message(binding: &Binding) -> v1::Binding {
    v1::Binding {
        node: binding.node.to_string(),
        kind: words::kind(binding.kind).into(),
        attachment: binding.attachment.map_or(v1::Attachment::Unspecified, words::attachment).into(),
        netns: binding.netns.clone(),
        interface: binding.interface.clone(),
        generation: binding.generation,
        macvlan_mode: match binding.attachment {
            Some(Attachment::Macvlan) => words::macvlan_mode(binding.macvlan_mode).into(),
            _ => v1::MacvlanMode::Unspecified.into(),
        },
        adopted: binding.adopted,
        apart: binding.apart,
        queues: binding.queues,
        mtu: binding.mtu,
    }
}

fn expires(snapshot: &Snapshot, port: &Port) -> i64 {
    let network = snapshot.networks.get(&port.key.network).map(|network| &network.value);
    if let Some(end) = quarantine_ends_ms(port, network) {
        return end;
    }
    let Some(released) = port.released_ms else { return 0 };
    let sticky = snapshot.networks.get(&port.key.network).map_or(0, |network| network.value.sticky_seconds);
    match sticky {
        0 => 0,
        seconds => released.saturating_add(i64::try_from(seconds).unwrap_or(i64::MAX).saturating_mul(1000)),
    }
}

impl Filter {
    /// True if the port is one of these.
    pub(super) fn matches(&self, snapshot: &Snapshot, port: &Port) -> bool {
        let node = |node: &Name| {
            let binding = snapshot.bindings.get(&port.key);
            binding.is_some_and(|b| b.value.active && b.value.node == *node && port.released_ms.is_none())
        };
        self.vrf.as_ref().is_none_or(|vrf| port.key.network.vrf == *vrf)
            && self.network.as_ref().is_none_or(|network| port.key.network.network == *network)
            && port.key.name.as_str().starts_with(&self.name_prefix)
            && self.address.is_none_or(|address| port.addresses.contains(&address))
            && self.labels.iter().all(|(key, value)| port.labels.get(key) == Some(value))
            && self.node.as_ref().is_none_or(node)
    }
}
