//! Wanted minus seen, as steps.

use std::borrow::Cow;
use std::collections::{BTreeMap, BTreeSet};

use super::seen::is_ours;
use super::wanted::Wanted;
use super::{LinkKind, LinkObject, Object, RouterObject, Seat, Seen, Step, Thing};
use causeway_proto::Vni;

use crate::dev::{Dev, FabricRole, PROTOCOL, Role};
use crate::observed::{FdbKind, Link, PortFlags};
use crate::op::{FlagChange, LinkChange};
use crate::plan::{Phase, link_change};

/// What is found out about switching and routing.
#[derive(Debug, Default)]
pub(crate) struct Diff {
    pub(crate) steps: Vec<(Phase, Step)>,
    pub(crate) problems: BTreeMap<Thing, String>,
}

/// What stands around: things that are compared elsewhere.
pub(crate) struct Around<'a> {
    /// Who else has a VNI.
    pub(crate) foreign_vxlan: &'a dyn Fn(Vni) -> Option<String>,
    /// True if the bridge of a network is there, or will be when it is needed.
    pub(crate) has_bridge: &'a dyn Fn(Vni) -> bool,
}

/// Compares everything, or only `keys` if no other thing depends on any of them.
pub(crate) fn diff(
    wanted: &Wanted<'_>,
    seen: Cow<'_, Seen>,
    keys: Option<&BTreeSet<Thing>>,
    around: &Around<'_>,
) -> Diff {
    let mut differ = Differ { wanted, seen, around, blocked: BTreeSet::new(), out: Diff::default() };
    differ.out.problems.clone_from(&wanted.problems);
    let small = keys.filter(|keys| !keys.iter().any(Thing::is_structure));
    match small {
        Some(keys) => {
            differ.out.problems.retain(|thing, _| keys.contains(thing));
            for thing in keys {
                differ.one(thing, wanted.thing(thing));
            }
        }
        None => {
            let things = wanted.things();
            differ.make_room(&things);
            let mut keys: BTreeSet<Thing> = differ.seen.things.keys().cloned().collect();
            keys.extend(things.keys().cloned());
            keys.extend(wanted.problems.keys().cloned());
            keys.extend(wanted.route_keys());
            for thing in &in_order(keys) {
                differ.one(thing, things.get(thing).cloned());
            }
        }
    }
    differ.out
}

/// VRFs and bridges before what is in them; everything else as it is ordered by itself.
fn in_order(keys: BTreeSet<Thing>) -> Vec<Thing> {
    let mut keys: Vec<Thing> = keys.into_iter().collect();
    keys.sort_by_key(|thing| match thing {
        Thing::Link(dev) => match (dev.fabric_role(), dev.role()) {
            (Some(FabricRole::Vrf(_)), _) => 0,
            (Some(FabricRole::Switch | FabricRole::Router(_)), _) => 1,
            _ => 2,
        },
        _ => 3,
    });
    keys
}

struct Differ<'a> {
    wanted: &'a Wanted<'a>,
    /// As the kernel will be after the steps so far, as far as later comparisons depend on them.
    seen: Cow<'a, Seen>,
    around: &'a Around<'a>,
    /// Devices that cannot be as they should, and all that is on them.
    blocked: BTreeSet<Dev>,
    out: Diff,
}

impl Differ<'_> {
    fn step(&mut self, phase: Phase, step: Step) {
        let thing = step.thing();
        if thing.is_structure() {
            self.seen.to_mut().apply(&step);
        }
        self.out.steps.push((phase, step));
    }

    fn problem(&mut self, thing: &Thing, text: String) {
        if let Some(dev) = thing.dev().filter(|_| thing.is_structure()) {
            self.blocked.insert(dev.clone());
        }
        self.out.problems.insert(thing.clone(), text);
    }

    /// Devices that shall not be, or shall be of another kind, go first: their names and VNIs may be needed.
    fn make_room(&mut self, things: &BTreeMap<Thing, Object>) {
        let gone =
            self.seen.things.iter().filter_map(|(thing, object)| match (thing, object, things.get(thing)) {
                // What is wanted but cannot be is left as it is.
                (Thing::Link(_), Object::Link(_), None) if self.wanted.problems.contains_key(thing) => None,
                (Thing::Link(_), Object::Link(have), Some(Object::Link(want))) if have.kind == want.kind => {
                    None
                }
                (Thing::Link(dev), Object::Link(_), _) => Some(dev.clone()),
                _ => None,
            });
        for dev in gone.collect::<Vec<_>>() {
            // It may have gone with the bridge that it was on.
            if self.seen.link(&dev).is_some() {
                self.step(Phase::RemoveLinks, Step::Remove(dev));
            }
        }
    }

    fn one(&mut self, thing: &Thing, want: Option<Object>) {
        if let Some(dev) = thing.dev() {
            let bridge = |vni| (self.around.has_bridge)(vni);
            let missing = matches!(dev.role(), Some(Role::Bridge(vni)) if !bridge(vni));
            if missing || self.blocked.contains(dev) {
                return;
            }
        }
        if self.wanted.problems.contains_key(thing) {
            self.blocked.extend(thing.dev().filter(|_| thing.is_structure()).cloned());
            return;
        }
        let have = self.seen.things.get(thing).cloned();
        match (thing, want, have) {
            (Thing::Link(dev), Some(Object::Link(want)), have) => {
                let have = if let Some(Object::Link(have)) = have { Some(have) } else { None };
                self.link(thing, dev, want, have);
            }
            (Thing::Link(_), ..) => {}
            (Thing::Member(dev), want, have) => self.member(thing, dev, want.is_some(), have),
            (Thing::Router(dev), want, have) => {
                let router =
                    |object| if let Some(Object::Router(r)) = object { r } else { RouterObject::default() };
                self.router(dev, &router(want), &router(have));
            }
            (_, want, have) => self.entry(thing, want, have),
        }
    }

    fn link(&mut self, thing: &Thing, dev: &Dev, want: LinkObject, have: Option<LinkObject>) {
        if self.seen.foreign.contains(dev) {
            let text = format!("interface {dev} exists and is not Causeway's; rename or delete it");
            return self.problem(thing, text);
        }
        if let LinkKind::Vxlan { vni, .. } = &want.kind
            && let Some(owner) = (self.around.foreign_vxlan)(*vni)
        {
            let text = format!(
                "VNI {vni} is in use by {owner}, which is not Causeway's; delete it or change its VNI"
            );
            return self.problem(thing, text);
        }
        let phase = match want.kind {
            LinkKind::Vxlan { .. } => Phase::Tunnels,
            _ => Phase::Bridges,
        };
        let mtu = Some(want.link.mtu).filter(|mtu| *mtu != 0);
        if have.is_none() {
            let (kind, mac) = (want.kind.clone(), want.mac);
            self.step(phase, Step::Make { dev: dev.clone(), kind, mac, mtu });
        }
        let made = LinkObject {
            kind: want.kind.clone(),
            link: Link { mtu: want.link.mtu, grouped: true, ..Link::default() },
            mac: want.mac,
            accept_ra: true,
            flags: None,
        };
        let have = have.unwrap_or(made);
        let master = want.link.master.clone().filter(|_| have.link.master != want.link.master);
        let joins = master.is_some();
        let mut change = link_change(&have.link, mtu.unwrap_or(have.link.mtu), master);
        change.mac = want.mac.filter(|_| have.mac != want.mac);
        change.alias = (have.link.alias != want.link.alias).then(|| want.link.alias.clone());
        if change != LinkChange::default() {
            self.step(phase, Step::Change { dev: dev.clone(), change });
        }
        if let Some(flags) = want.flags {
            self.flags(phase, dev, flags, have.flags.filter(|_| !joins));
        }
        if have.accept_ra {
            self.step(phase, Step::QuietRa(dev.clone()));
        }
        // A message of its own: the kernel handles the flag before the rest of a message.
        if !have.link.up {
            let change = LinkChange { up: true, ..LinkChange::default() };
            self.step(phase, Step::Change { dev: dev.clone(), change });
        }
    }

    fn flags(&mut self, phase: Phase, dev: &Dev, want: PortFlags, have: Option<PortFlags>) {
        let equal = |have: PortFlags| {
            let grat = have.forward_gratuitous.is_none()
                || want.forward_gratuitous.is_none()
                || have.forward_gratuitous == want.forward_gratuitous;
            have.learning == want.learning && have.neigh_suppress == want.neigh_suppress && grat
        };
        if !have.is_some_and(equal) {
            let flags = FlagChange {
                learning: want.learning,
                neigh_suppress: want.neigh_suppress,
                forward_gratuitous: want.forward_gratuitous,
                locked: None,
            };
            self.step(phase, Step::Flags { dev: dev.clone(), flags });
        }
    }

    /// An interface of somebody else is taken only if nobody else has it.
    fn member(&mut self, thing: &Thing, dev: &Dev, want: bool, have: Option<Object>) {
        if !want {
            if have.is_some() {
                self.step(Phase::RemoveEntries, Step::Leave(dev.clone()));
            }
            return;
        }
        let Some(interface) = self.seen.interfaces.get(dev).cloned() else {
            return self.problem(thing, format!("switch port {dev}: there is no such interface"));
        };
        let master = interface.master.filter(|m| *m != Dev::switch());
        if let Some(owner) = master {
            let text = format!("switch port {dev} belongs to {owner}: ip link set dev {dev} nomaster");
            return self.problem(thing, text);
        }
        if have.is_none() && !interface.addresses.is_empty() {
            let addresses: Vec<String> = interface.addresses.into_iter().collect();
            let text = format!(
                "switch port {dev} has addresses ({}), which it would lose the use of; remove them",
                addresses.join(", ")
            );
            return self.problem(thing, text);
        }
        if !self.seen.things.contains_key(&Thing::Link(Dev::switch())) {
            return self
                .problem(thing, format!("switch port {dev}: the bridge {} is missing", Dev::switch()));
        }
        let (flags, up) = match have {
            Some(Object::Member { flags, up }) => (flags, up),
            _ => {
                self.step(Phase::Ports, Step::Join(dev.clone()));
                (PortFlags::default(), interface.up)
            }
        };
        self.flags(Phase::Ports, dev, PortFlags::default(), Some(flags));
        if !up {
            self.step(Phase::Ports, Step::Raise(dev.clone()));
        }
    }

    fn router(&mut self, dev: &Dev, want: &RouterObject, have: &RouterObject) {
        if have.vrf != want.vrf {
            if want.vrf.as_ref().is_some_and(|vrf| self.blocked.contains(vrf)) {
                return self.problem(&Thing::Router(dev.clone()), format!("{dev}: its VRF is missing"));
            }
            self.step(Phase::Routers, Step::Enslave { dev: dev.clone(), vrf: want.vrf.clone() });
        }
        if have.routes != want.routes {
            self.step(Phase::Routers, Step::Routing { dev: dev.clone(), on: want.routes });
        }
    }

    fn entry(&mut self, thing: &Thing, want: Option<Object>, have: Option<Object>) {
        if let Thing::Route(table, prefix) = thing
            && let Some(text) = self.wanted.route_problem(*table, *prefix)
        {
            self.problem(thing, text);
            if let Some(have) = have {
                self.step(Phase::RemoveEntries, Step::Take(thing.clone(), have));
            }
            return;
        }
        let phase = match thing {
            Thing::Vlan(dev, _) if dev.role().is_none() && dev.fabric_role().is_none() => Phase::Ports,
            Thing::Vlan(..) => Phase::Tunnels,
            _ => Phase::Entries,
        };
        match (want, have) {
            (Some(want), Some(have)) if equal(&want, &have) => {}
            (Some(Object::Neighbour(_)), Some(Object::Neighbour(have)))
                if have.protocol != 0 && have.protocol != PROTOCOL =>
            {
                let Thing::Neighbour(dev, ip) = thing else { return };
                let text = format!(
                    "neighbour {ip} on {dev} was set by protocol {}, not by Causeway; stop what sets it",
                    have.protocol
                );
                self.problem(thing, text);
            }
            (Some(want), have) => {
                // Without its port, or its device, it cannot be.
                if !self.has_ground(thing, &want) {
                    return;
                }
                // A replaced entry keeps its old flags (sticky, local): it must go first.
                if let (Some(Object::Fdb(old)), Object::Fdb(new)) = (&have, &want)
                    && (old.sticky || old.kind != FdbKind::Extern || new.kind != FdbKind::Extern)
                {
                    self.step(phase, Step::Take(thing.clone(), Object::Fdb(old.clone())));
                }
                self.step(phase, Step::Put(thing.clone(), want));
            }
            (None, Some(_)) if thing.is_entry() && !self.wanted.sets_entries() => {}
            (None, Some(have)) if is_ours(thing, &have) || self.is_old_gateway(thing, &have) => {
                self.step(Phase::RemoveEntries, Step::Take(thing.clone(), have));
            }
            (None, _) => {}
        }
    }

    /// A MAC that the bridge was told to take for its own, and that is not its own.
    fn is_old_gateway(&self, thing: &Thing, have: &Object) -> bool {
        let Thing::Fdb(bridge, Some(_), mac) = thing else { return false };
        let Object::Fdb(Seat { port, kind: FdbKind::Local, .. }) = have else { return false };
        port == bridge && self.seen.link(bridge).is_some_and(|link| link.mac != Some(*mac))
    }

    fn has_ground(&self, thing: &Thing, want: &Object) -> bool {
        let there = |dev: &Dev| match (dev.role(), dev.fabric_role()) {
            // Bridges of networks are looked after elsewhere.
            (Some(Role::Bridge(_)), _) => true,
            (None, None) => self.seen.things.contains_key(&Thing::Member(dev.clone())),
            _ => self.seen.link(dev).is_some(),
        };
        match (thing, want) {
            (Thing::Fdb(bridge, ..), Object::Fdb(seat)) => there(bridge) && there(&seat.port),
            (_, Object::Route(ways)) => ways.iter().all(|(dev, _)| there(dev)),
            _ => thing.dev().is_none_or(there),
        }
    }
}

fn equal(want: &Object, have: &Object) -> bool {
    match (want, have) {
        (Object::Address { .. }, Object::Address { .. }) => true,
        (Object::Fdb(want), Object::Fdb(have)) => {
            let kind = want.kind == have.kind
                || want.kind == FdbKind::Extern && have.kind == FdbKind::Static && !have.sticky;
            want.port == have.port && kind && want.sticky == have.sticky
        }
        _ => want == have,
    }
}
