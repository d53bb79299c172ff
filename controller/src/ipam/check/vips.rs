//! VIPs against the ports that answer for them. Who holds a VIP is what its own record says, as long as that port can;
//! the holder's record repeats it, and from that alone follows what nodes and switches are told.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_proto::PortKey;

use super::super::{Act, Finding, Problem, Repair};
use super::{as_read, put, seen, told_of_port};
use crate::keys::RecordKey;
use crate::model::{Binding, Held, Port, Vip};
use crate::moves::ledger;
use crate::snapshot::{Record, Snapshot};
use crate::store::Compare;

type Found<'a> = &'a Arc<Record<Port>>;

pub(super) fn check(snapshot: &Snapshot, now_ms: i64, found: &mut Vec<Finding>) {
    let mut told: BTreeMap<&PortKey, Vec<Found<'_>>> = BTreeMap::new();
    for port in snapshot.ports.values() {
        if port.value.vip.is_some() {
            told.entry(&port.value.key).or_default();
        }
        for held in &port.value.held {
            let ports = told.entry(&held.vip).or_default();
            if ports.last().is_none_or(|last| last.value.key != port.value.key) {
                ports.push(port);
            }
        }
    }
    for (key, told) in told {
        let case = Case { snapshot, key, vip: snapshot.ports.get(key), told };
        found.extend(case.finding(now_ms));
    }
}

/// What is written of one VIP.
struct Case<'a> {
    snapshot: &'a Snapshot,
    key: &'a PortKey,
    /// The record of this key, if there is one.
    vip: Option<Found<'a>>,
    /// The ports whose records say that they answer for it.
    told: Vec<Found<'a>>,
}

impl<'a> Case<'a> {
    fn named(&self) -> Option<&'a PortKey> {
        self.vip?.value.vip.as_ref()?.holder.as_ref()
    }

    /// The port that shall answer for it, or why the one that is named cannot.
    fn holder(&self) -> Result<Option<Found<'a>>, &'static str> {
        let (Some(vip), Some(named)) = (self.vip, self.named()) else { return Ok(None) };
        let Some(port) = self.snapshot.ports.get(named) else { return Err("does not exist") };
        match &port.value {
            _ if vip.value.released_ms.is_some() => Err("shall not answer for what is released"),
            Port { released_ms: Some(_), .. } => Err("is released"),
            Port { vip: Some(_), .. } => Err("is a VIP itself"),
            Port { key, .. } if key.network != self.key.network => Err("is in another network"),
            _ => Ok(Some(port)),
        }
    }

    /// True if a port's record says of this VIP what its own says.
    fn is_right(&self, port: Found<'_>) -> bool {
        let mut held = port.value.held.iter().filter(|held| held.vip == *self.key);
        let first = held.next().map(|held| &held.addresses);
        first == self.vip.map(|vip| &vip.value.addresses) && held.next().is_none()
    }

    fn finding(&self, now_ms: i64) -> Option<Finding> {
        let holder = self.holder();
        let owner = holder.unwrap_or_default();
        let is_owner = |port: Found<'_>| owner.is_some_and(|owner| owner.value.key == port.value.key);
        let mut wrong = Vec::new();
        if let (Err(why), Some(named)) = (holder, self.named()) {
            wrong.push(format!("its holder, port {named}, {why}"));
        }
        if let Some(owner) = owner.filter(|owner| !self.is_right(owner)) {
            let key = &owner.value.key;
            wrong.push(match self.told.iter().any(|port| is_owner(port)) {
                true => format!("its holder, port {key}, answers for other addresses than its own"),
                false => format!("its holder, port {key}, does not answer for it"),
            });
        }
        let strays: Vec<Found<'a>> = self.told.iter().copied().filter(|port| !is_owner(port)).collect();
        let why = match self.vip.map(|vip| vip.value.vip.is_some()) {
            None => "and it does not exist",
            Some(false) => "and it is no VIP",
            Some(true) => "and is not its holder",
        };
        wrong.extend(strays.iter().map(|port| format!("port {} answers for it, {why}", port.value.key)));
        if wrong.is_empty() {
            return None;
        }
        Some(self.told_of(wrong.join("; "), owner, &strays, now_ms))
    }

    fn told_of(&self, text: String, owner: Option<Found<'a>>, strays: &[Found<'a>], now_ms: i64) -> Finding {
        let anew = owner.filter(|owner| !self.is_right(owner));
        let moving = owner.filter(|owner| self.snapshot.moving(&owner.value.key).is_some());
        let (repair, hint) = match moving {
            // A new generation would end the move.
            Some(owner) => (None, format!("port {} is moving: repair it when that is over", owner.value.key)),
            None => (self.repair(owner, anew.is_some(), strays, now_ms), String::new()),
        };
        Finding {
            problem: Problem::VipHolder,
            subject: format!("VIP {}", self.key),
            text,
            hint,
            evidence: self.evidence(),
            repair,
        }
    }

    /// All records that are looked at.
    fn evidence(&self) -> Vec<Compare> {
        let mut ports: Vec<&PortKey> = self.told.iter().map(|port| &port.value.key).collect();
        ports.extend(self.named());
        ports.sort_unstable();
        ports.dedup();
        let mut evidence = vec![match self.vip {
            Some(vip) => seen(vip),
            None => as_read(self.snapshot, &RecordKey::Port(self.key.clone())),
        }];
        for key in ports {
            let records = [RecordKey::Binding(key.clone()), RecordKey::Move(key.clone())];
            evidence.extend(records.map(|record| as_read(self.snapshot, &record)));
            if key != self.key {
                evidence.push(as_read(self.snapshot, &RecordKey::Port(key.clone())));
            }
        }
        evidence
    }

    /// The VIP as its record says, at the ports that it names; what others announced it with is outbid.
    fn repair(
        &self,
        owner: Option<Found<'a>>,
        anew: bool,
        strays: &[Found<'a>],
        now_ms: i64,
    ) -> Option<Repair> {
        let (mut ports, mut writes, mut events) = (BTreeMap::new(), Vec::new(), Vec::new());
        let generation = |key| self.snapshot.bindings.get(key).map_or(0, |record| record.value.generation);
        let gone = self.named().filter(|_| owner.is_none());
        let announced = strays.iter().map(|port| &port.value.key).chain(gone).map(generation).max();
        let mut floor = announced.unwrap_or(0);
        for stray in strays {
            ports.insert(&stray.value.key, (without(&stray.value, self.key), "is taken from it"));
        }
        if let Some(vip) = self.vip
            && let Some(known) = &vip.value.vip
        {
            floor = floor.max(known.floor);
            let holder = owner.map(|owner| owner.value.key.clone());
            let (port, _) = ports.remove(self.key).unwrap_or_else(|| (vip.value.clone(), ""));
            let vip = Some(Box::new(Vip { holder, floor }));
            ports.insert(self.key, (Port { vip, ..port }, "is put right: its own record counts"));
        }
        let rebound = owner.and_then(|owner| self.outbid(&owner.value, anew, floor, now_ms));
        if let (Some(owner), Some(vip)) = (owner.filter(|_| anew || rebound.is_some()), self.vip) {
            let mut port = without(&owner.value, self.key);
            port.held.push(Held { vip: self.key.clone(), addresses: vip.value.addresses.clone() });
            ports.insert(&owner.value.key, (port, "is its own alone"));
        }
        for (port, cause) in ports.values() {
            let (write, mut event) = told_of_port(port, &format!("VIP {} {cause}", self.key), now_ms);
            writes.push(write?);
            if let Some((binding, before)) = rebound.as_ref().filter(|(next, _)| next.port == port.key) {
                event.node = Some(binding.node.clone());
                event.generation = binding.generation;
                event.before.extend(*before);
                writes.push(put(RecordKey::Binding(port.key.clone()).path(), binding)?);
            }
            events.push(event);
        }
        let words = match owner {
            Some(owner) => format!("port {} alone answers for it", owner.value.key),
            None => "nobody answers for it; its addresses stay its own".to_owned(),
        };
        Some(Repair { words, act: Act::Write(writes, events) })
    }

    /// The holder's binding above all with which the VIP was announced elsewhere, if it is not; and when it was written.
    fn outbid(&self, owner: &Port, anew: bool, floor: u64, now_ms: i64) -> Option<(Binding, Option<i64>)> {
        let binding = &self.snapshot.bindings.get(&owner.key).filter(|record| record.value.active)?.value;
        if !anew && binding.generation > floor {
            return None;
        }
        let before = self.snapshot.remembered(&owner.key.network, owner.mac);
        let generation = ledger::next_generation(binding.generation.max(floor), before, None);
        let next = Binding { generation, changed_ms: now_ms, ..binding.clone() };
        Some((next, Some(binding.changed_ms).filter(|ms| *ms != 0)))
    }
}

/// A port that does not hold this VIP.
fn without(port: &Port, vip: &PortKey) -> Port {
    let held = port.held.iter().filter(|held| held.vip != *vip).cloned().collect();
    Port { held, ..port.clone() }
}

#[cfg(test)]
mod tests;
