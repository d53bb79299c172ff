//! What of switching and routing is in the kernel, and how steps change it.

use std::collections::{BTreeMap, BTreeSet};

use super::{LinkKind, LinkObject, Object, RouterObject, Seat, Step, Thing};
use crate::dev::{Dev, PROTOCOL};
use crate::observed::{FdbKind, Link, PortFlags};
use crate::op::LinkChange;

/// An interface of somebody else that is wanted as a switch port.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Interface {
    /// What it is a port of.
    pub master: Option<Dev>,
    /// Its addresses, link-local ones left out.
    pub addresses: BTreeSet<String>,
    /// Its flags as bridge port.
    pub flags: PortFlags,
    /// Administratively up.
    pub up: bool,
}

/// Things in the kernel that are or may be ours.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Seen {
    /// By key.
    pub things: BTreeMap<Thing, Object>,
    /// Links with a name of our form that are not ours.
    pub foreign: BTreeSet<Dev>,
    /// Interfaces that are wanted as switch ports, as far as they exist.
    pub interfaces: BTreeMap<Dev, Interface>,
}

impl Seen {
    /// A device of ours.
    pub fn link(&self, dev: &Dev) -> Option<&LinkObject> {
        match self.things.get(&Thing::Link(dev.clone())) {
            Some(Object::Link(link)) => Some(link),
            _ => None,
        }
    }

    fn link_mut(&mut self, dev: &Dev) -> Option<&mut LinkObject> {
        match self.things.get_mut(&Thing::Link(dev.clone())) {
            Some(Object::Link(link)) => Some(link),
            _ => None,
        }
    }

    /// A port leaves its bridge: its VLANs and the entries that point to it go, its flags are the kernel's again.
    pub fn forget_membership(&mut self, dev: &Dev) {
        self.things.retain(|thing, object| match (thing, object) {
            (Thing::Vlan(of, _), _) | (Thing::Member(of), _) => of != dev,
            (Thing::Fdb(..), Object::Fdb(seat)) => seat.port != *dev,
            _ => true,
        });
        if let Some(interface) = self.interfaces.get_mut(dev) {
            interface.master = None;
            interface.flags = fresh(interface.flags);
        }
        if let Some(link) = self.link_mut(dev) {
            link.link.master = None;
            link.flags = link.flags.map(fresh);
        }
    }

    /// A device goes, and all that the kernel deletes with it.
    pub fn forget(&mut self, dev: &Dev) {
        let gone = self.things.remove(&Thing::Link(dev.clone()));
        self.forget_membership(dev);
        self.things.retain(|thing, object| match object {
            Object::Route(ways) => {
                // The kernel drops a way; with IPv4 the whole route.
                !ways.iter().any(|(of, _)| of == dev)
            }
            _ => thing.dev() != Some(dev),
        });
        for object in self.things.values_mut() {
            if let Object::Router(router) = object
                && router.vrf.as_ref() == Some(dev)
            {
                router.vrf = None;
            }
        }
        let Some(Object::Link(LinkObject { kind, .. })) = gone else { return };
        if matches!(kind, LinkKind::Switch | LinkKind::Bridge) {
            let ports = self.things.iter().filter_map(|(thing, object)| match (thing, object) {
                (Thing::Link(port), Object::Link(l)) if l.link.master.as_ref() == Some(dev) => Some(port),
                _ => None,
            });
            let members = self.interfaces.iter().filter(|(_, i)| i.master.as_ref() == Some(dev));
            let ports: Vec<Dev> = ports.chain(members.map(|(port, _)| port)).cloned().collect();
            ports.iter().for_each(|port| self.forget_membership(port));
        }
        if kind == LinkKind::Switch {
            let upper = self.things.iter().filter_map(|(thing, object)| match (thing, object) {
                (Thing::Link(svi), Object::Link(LinkObject { kind: LinkKind::Vlan(_), .. })) => Some(svi),
                _ => None,
            });
            let upper: Vec<Dev> = upper.cloned().collect();
            upper.iter().for_each(|svi| self.forget(svi));
        }
    }

    /// What the kernel is like after `step` succeeded.
    pub fn apply(&mut self, step: &Step) {
        match step {
            Step::Remove(dev) => self.forget(dev),
            Step::Make { dev, kind, mac, mtu } => {
                self.forget(dev);
                let link = Link { mtu: mtu.unwrap_or(0), grouped: true, ..Link::default() };
                let flags = matches!(kind, LinkKind::Vxlan { .. }).then(PortFlags::default);
                let made = LinkObject { kind: kind.clone(), link, mac: *mac, accept_ra: true, flags };
                self.things.insert(Thing::Link(dev.clone()), Object::Link(made));
            }
            Step::Change { dev, change } => self.apply_change(dev, change),
            Step::Flags { dev, flags } => {
                let set = |found: &mut PortFlags| {
                    found.learning = flags.learning;
                    found.neigh_suppress = flags.neigh_suppress;
                    // An old kernel ignores the attribute and never shows it.
                    if found.forward_gratuitous.is_some() {
                        found.forward_gratuitous = flags.forward_gratuitous;
                    }
                };
                if let Some(found) = self.link_mut(dev).and_then(|l| l.flags.as_mut()) {
                    set(found);
                }
                if let Some(Object::Member { flags: found, .. }) =
                    self.things.get_mut(&Thing::Member(dev.clone()))
                {
                    set(found);
                }
            }
            Step::QuietRa(dev) => {
                if let Some(link) = self.link_mut(dev) {
                    link.accept_ra = false;
                }
            }
            Step::Join(dev) => {
                self.forget_membership(dev);
                let interface = self.interfaces.entry(dev.clone()).or_default();
                interface.master = Some(Dev::switch());
                let member = Object::Member { flags: interface.flags, up: interface.up };
                self.things.insert(Thing::Member(dev.clone()), member);
            }
            Step::Raise(dev) => {
                if let Some(interface) = self.interfaces.get_mut(dev) {
                    interface.up = true;
                }
                if let Some(Object::Member { up, .. }) = self.things.get_mut(&Thing::Member(dev.clone())) {
                    *up = true;
                }
            }
            Step::Leave(dev) => self.forget_membership(dev),
            Step::Enslave { dev, vrf } => {
                let cycled = |thing: &Thing| match thing {
                    Thing::Address(of, address) => of == dev && address.ip.is_ipv6(),
                    Thing::Neighbour(of, _) => of == dev,
                    _ => false,
                };
                let on_it = |object: &Object| matches!(object, Object::Route(ways) if ways.iter().any(|(of, _)| of == dev));
                // The kernel takes the device down and up.
                self.things.retain(|thing, object| !cycled(thing) && !on_it(object));
                self.router_mut(dev).vrf.clone_from(vrf);
                self.tidy_router(dev);
            }
            Step::Routing { dev, on } => {
                self.router_mut(dev).routes = *on;
                self.tidy_router(dev);
            }
            Step::Put(thing, object) => {
                self.things.insert(thing.clone(), object.clone());
                if let (Thing::Vlan(dev, vlan), Object::Vlan { pvid: true, .. }) = (thing, object) {
                    // A port has one VLAN for untagged frames at most.
                    for (other, found) in &mut self.things {
                        if let (Thing::Vlan(of, id), Object::Vlan { pvid, .. }) = (other, found)
                            && of == dev
                            && id != vlan
                        {
                            *pvid = false;
                        }
                    }
                }
            }
            Step::Take(thing, _) => {
                self.things.remove(thing);
            }
        }
    }

    fn router_mut(&mut self, dev: &Dev) -> &mut RouterObject {
        let thing = Thing::Router(dev.clone());
        let entry = self.things.entry(thing).or_insert(Object::Router(RouterObject::default()));
        if !matches!(entry, Object::Router(_)) {
            *entry = Object::Router(RouterObject::default());
        }
        match entry {
            Object::Router(router) => router,
            _ => unreachable!("it has just been made one"),
        }
    }

    fn tidy_router(&mut self, dev: &Dev) {
        let thing = Thing::Router(dev.clone());
        if self.things.get(&thing) == Some(&Object::Router(RouterObject::default())) {
            self.things.remove(&thing);
        }
    }

    fn apply_change(&mut self, dev: &Dev, change: &LinkChange) {
        if let Some(master) = &change.master {
            self.forget_membership(dev);
            if let Some(link) = self.link_mut(dev) {
                link.link.master = Some(master.clone());
            }
        }
        let Some(found) = self.link_mut(dev) else { return };
        found.mac = change.mac.or(found.mac);
        found.link.mtu = change.mtu.unwrap_or(found.link.mtu);
        found.link.grouped |= change.group;
        found.link.addrgen_none |= change.addrgen_none;
        found.link.up |= change.up;
        if let Some(alias) = &change.alias {
            found.link.alias.clone_from(alias);
        }
    }
}

/// What the kernel gives a new port.
fn fresh(flags: PortFlags) -> PortFlags {
    PortFlags { forward_gratuitous: flags.forward_gratuitous, ..PortFlags::default() }
}

/// True if we set it, so that it goes when it is no longer wanted.
pub(super) fn is_ours(thing: &Thing, object: &Object) -> bool {
    match (thing, object) {
        (_, Object::Address { ours }) => *ours,
        (_, Object::Neighbour(neighbour)) => neighbour.protocol == PROTOCOL,
        (_, Object::Fdb(Seat { port, kind, sticky })) => match kind {
            FdbKind::Static => *sticky,
            FdbKind::Extern => port.role().is_some() || port.fabric_role().is_some(),
            FdbKind::Local | FdbKind::Dynamic => false,
        },
        _ => true,
    }
}
