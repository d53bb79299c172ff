//! Guards and limits of ports with a host side.

use std::collections::BTreeSet;

use super::Planner;
use crate::dev::{Dev, Role};
use crate::guard::{Family, Guard, Hook};
use crate::model::{Attach, Child, Key, Port, Rate};
use crate::observed::Inside;
use crate::op::{At, Op};
use crate::plan::guard::{guard_of, guard_step, unguard_step};
use crate::rate::lead::{Diverted, leads};
use crate::rate::{Direction, Found, Led, Shape};

/// The link of the host that a port's frames pass.
fn host_side(port: &Port) -> Option<Dev> {
    match port.attach {
        Attach::Bridge | Attach::Routed => Some(Dev::port(&port.id)),
        Attach::Tap => Some(port.interface.clone()),
        Attach::Child(_) | Attach::VxlanBridge | Attach::BareMetal | Attach::Adopted => None,
    }
}

/// How what a port sends gets to the device that limits it.
fn led(port: &Port) -> Led {
    if port.attach == Attach::Routed && port.guarded { Led::ByGuard } else { Led::ByFilter }
}

impl Planner<'_> {
    /// Brings the guard of a port to what it shall be, or says why that cannot be: then the port must not be made, for
    /// it would be open.
    pub(super) fn guard(&mut self, port: &Port) -> Result<(), String> {
        let Some((hook, interface)) = self.hook(port).filter(|_| port.guarded) else { return Ok(()) };
        let guard = guard_of(&self.now, port, hook, &interface)?;
        // A chain at a device needs the device: its turn is when that has been made.
        if hook == Hook::Bridge
            && let Some(op) = guard_step(&self.now, guard, &Dev::port(&port.id))
        {
            self.push(op);
        }
        Ok(())
    }

    /// Where the frames of a port are looked at, and at which interface.
    fn hook(&self, port: &Port) -> Option<(Hook, Dev)> {
        match port.attach {
            Attach::Bridge | Attach::Tap => Some((Hook::Bridge, host_side(port)?)),
            Attach::Routed => Some((Hook::Ingress, host_side(port)?)),
            Attach::Child(Child::Macvlan(_)) => {
                Some((Hook::Parent, self.wanted.nets.get(&port.vni)?.parent.clone()))
            }
            Attach::Child(Child::Ipvlan) => Some((Hook::Inside, port.interface.clone())),
            Attach::VxlanBridge | Attach::BareMetal | Attach::Adopted => None,
        }
    }

    /// Guards a port at a device of the host that is there now and not up, or has nothing of the port on it yet.
    pub(super) fn guard_device(&mut self, port: &Port) {
        let Some((hook, interface)) = self.hook(port).filter(|_| port.guarded) else { return };
        if !matches!(hook, Hook::Ingress | Hook::Parent) {
            return;
        }
        let dev = Dev::port(&port.id);
        let through = led(port) == Led::ByGuard && port.rate.out_kbit > 0;
        if through {
            // What the rules lead to must be there before them; and goes after them.
            self.rates(port);
        }
        let outwards = self.now.rates.get(&dev).map(|found| found.outwards).unwrap_or_default();
        let through = (through && outwards != Found::Foreign).then(|| dev.shaper());
        // What speaks against it has been found before.
        if let Ok(guard) = guard_of(&self.now, port, hook, &interface)
            && let Some(op) = guard_step(&self.now, Guard { through, ..guard }, &dev)
        {
            self.push(op);
        }
    }

    /// Guards a macvlan or ipvlan where its frames leave the workload, by the MAC that it has.
    pub(super) fn guard_inside(&mut self, port: &Port, at: &At) {
        let Some(Inside::Present(peer)) = self.now.insides.get(&at.dev) else { return };
        if !port.guarded {
            if peer.guard.is_some() {
                self.push(Op::GuardInside { at: at.clone(), guard: None });
            }
            return;
        }
        if let Ok(guard) = guard_of(&self.now, port, Hook::Inside, &at.interface)
            && peer.guard.as_ref() != Some(&guard.chain(&at.dev))
        {
            self.push(Op::GuardInside { at: at.clone(), guard: Some(guard) });
        }
    }

    /// Guards and limits that no port wants any more.
    pub(super) fn remove_limits(&mut self) {
        let ports = || self.desired.ports().values();
        let limited = ports().filter(|p| p.rate != Rate::default() && host_side(p).is_some());
        let limited: BTreeSet<Dev> = limited.map(|p| Dev::port(&p.id)).collect();
        // One whose network has no place on the host, for now, keeps what it has.
        let family = |port: &Port| match port.attach {
            Attach::Bridge | Attach::Tap => Some(Family::Bridge),
            Attach::Routed | Attach::Child(Child::Macvlan(_)) => Some(Family::Netdev),
            Attach::Child(Child::Ipvlan) | Attach::VxlanBridge | Attach::BareMetal | Attach::Adopted => None,
        };
        let guarded = ports().filter(|p| p.guarded);
        let guarded: BTreeSet<(Family, Dev)> =
            guarded.filter_map(|p| Some((family(p)?, Dev::port(&p.id)))).collect();
        let unread = |dev: &Dev| {
            let port = dev.shaped().unwrap_or_else(|| dev.clone());
            port.role() == Some(Role::Port) && self.desired.protects_port(&port)
        };
        let chains = self.now.guards.chains.keys().filter(|k| !guarded.contains(*k) && !unread(&k.1));
        let chains: Vec<(Family, Dev)> = chains.cloned().collect();
        let rates: Vec<Dev> =
            self.now.rates.keys().filter(|d| !limited.contains(*d) && !unread(d)).cloned().collect();
        for (family, dev) in chains {
            if let Some(op) = unguard_step(&self.now, family, &dev) {
                self.push(op);
            }
        }
        let diverts = |p: &&Port, d| matches!(p.attach, Attach::Child(_)) && p.rate.of(d) > 0;
        let directions = [Direction::In, Direction::Out];
        let diverters: BTreeSet<Dev> = directions
            .into_iter()
            .flat_map(|d| ports().filter(move |p| diverts(p, d)).map(move |p| Dev::port(&p.id).diverter(d)))
            .collect();
        let found = self.now.diverted.iter().filter(|(_, found)| found.bucket != Found::Foreign);
        let found = found.map(|(dev, _)| dev).filter(|dev| !diverters.contains(*dev) && !unread(dev));
        for dev in found.cloned().collect::<Vec<_>>() {
            self.push(Op::LinkDel { dev });
        }
        for dev in rates {
            self.limits(Rate::default(), 0, &dev, Led::ByFilter);
        }
    }

    pub(super) fn rates(&mut self, port: &Port) {
        match host_side(port) {
            // What limits a port has its name from the port's host side, which a tap names as it likes.
            Some(dev) if dev.role() == Some(Role::Port) && self.now.lan.links.contains_key(&dev) => {
                self.limits(port.rate, port.mtu, &dev, led(port));
            }
            // Not made: why, another problem says.
            Some(dev) if dev.role() == Some(Role::Port) => {}
            Some(dev) if port.rate != Rate::default() => {
                let why = format!(
                    "its rate cannot be limited: what limits a tap is named after it, and {dev} is a name of others; let \
                     the agent name it (no interface)"
                );
                self.problems.entry(Key::Port(Dev::port(&port.id))).or_insert(why);
            }
            _ => self.divert(port),
        }
    }

    /// Limits a macvlan or ipvlan at its parent, or lifts that.
    fn divert(&mut self, port: &Port) {
        let dev = Dev::port(&port.id);
        for direction in [Direction::In, Direction::Out] {
            let shaper = dev.diverter(direction);
            let (Attach::Child(child), Some(shape)) =
                (port.attach, Shape::new(port.rate.of(direction), port.mtu))
            else {
                continue;
            };
            let (Some(net), true) = (self.wanted.nets.get(&port.vni), self.is_present(port)) else {
                continue;
            };
            let want = Diverted {
                bucket: shape.found(Led::ByFilter),
                leads: leads(port, child, &net.parent, direction),
            };
            let have = self.now.diverted.get(&shaper);
            let why = match have.map(|have| have.bucket) {
                Some(Found::Foreign) => format!("interface {shaper} is not Causeway's; delete it"),
                _ if child == Child::Ipvlan && port.addresses.is_empty() => {
                    "an ipvlan is told from others by its addresses, and it has none".to_owned()
                }
                _ if have == Some(&want) => continue,
                _ => {
                    self.push(Op::Divert { dev: shaper, shape, leads: want.leads });
                    continue;
                }
            };
            let why = format!("its rate cannot be limited: {why}");
            self.problems.entry(Key::Port(dev.clone())).or_insert(why);
        }
    }

    /// What a device that somebody deleted has left: it swallows frames.
    pub(super) fn remove_astray(&mut self) {
        for link in self.now.astray.clone() {
            self.push(Op::DivertClean { link });
        }
    }

    fn limits(&mut self, rate: Rate, mtu: u32, dev: &Dev, out: Led) {
        let found = self.now.rates.get(dev).copied().unwrap_or_default();
        for direction in [Direction::In, Direction::Out] {
            let led = if direction == Direction::Out { out } else { Led::ByFilter };
            let set = |shape| Op::Rate { dev: dev.clone(), direction, shape, led };
            match (Shape::new(rate.of(direction), mtu), found.of(direction)) {
                (None, Found::None | Found::Foreign) => {}
                (None, _) => self.push(set(None)),
                (Some(want), have) if want.found(led) == have => {}
                (Some(_), Found::Foreign) => {
                    let why =
                        format!("its rate cannot be limited: what limits {dev} is not Causeway's; delete it");
                    self.problems.entry(Key::Port(dev.clone())).or_insert(why);
                }
                (Some(want), _) => self.push(set(Some(want))),
            }
        }
    }
}
