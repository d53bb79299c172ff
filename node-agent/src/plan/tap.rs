//! Taps of VMs, in the bridge of a network with a VXLAN port. One that is there already is taken, and never deleted.

use std::collections::BTreeSet;

use super::{Phase, Planner, link_change};
use crate::dev::{Dev, Role};
use crate::lan::step::{LanOp, Step};
use crate::model::{Key, Port};
use crate::observed::HostSide;
use crate::op::{FlagChange, LinkChange, Op};

impl Planner<'_> {
    fn tap_step(&mut self, phase: Phase, dev: &Dev, step: Step) {
        self.push(phase, Op::Lan(LanOp { key: Key::Port(dev.clone()), after: None, step }));
    }

    /// `dev` is what the port's host side would be named if it had a choice.
    pub(super) fn tap(&mut self, port: &Port, dev: &Dev) {
        if let Some(why) = self.tap_obstacle(port) {
            self.problems.insert(Key::Port(dev.clone()), why);
            return;
        }
        if let Err(why) = self.guard(port, dev) {
            self.problems.insert(Key::Port(dev.clone()), why);
            return;
        }
        let tap = port.interface.clone();
        for other in [dev, &tap] {
            // A veth of an earlier attachment.
            if self.observed.ports.get(other).is_some_and(|host| !host.tap) {
                self.remove(&other.clone());
            }
        }
        let found = self.observed.ports.get(&tap).filter(|host| host.tap).cloned();
        let host = found.clone().unwrap_or_else(|| {
            let made = LinkChange { mtu: Some(port.mtu), ..LinkChange::default() };
            self.new_ports.insert(tap.clone());
            self.tap_step(
                Phase::Ports,
                dev,
                Step::TapAdd { dev: tap.clone(), mtu: port.mtu, queues: port.queues },
            );
            let mut host = HostSide { tap: true, ..HostSide::default() };
            (host.link.mtu, host.link.grouped) = (made.mtu.unwrap_or_default(), true);
            host
        });
        let bridge = Dev::bridge(port.vni);
        let lost = self.new_bridges.contains(&port.vni) && found.is_some();
        let enslave = lost || host.link.master.as_ref() != Some(&bridge);
        let change = link_change(&host.link, port.mtu, enslave.then_some(bridge.clone()));
        // The group says who made it.
        let change = LinkChange { group: false, ..change };
        if change != LinkChange::default() {
            self.tap_step(Phase::Ports, dev, Step::Set { dev: tap.clone(), change });
        }
        let locked = port.guarded;
        let have = host.flags;
        if enslave || have.learning || have.neigh_suppress || have.locked != locked {
            let flags = FlagChange {
                learning: false,
                neigh_suppress: false,
                forward_gratuitous: None,
                locked: Some(locked),
            };
            self.tap_step(Phase::Ports, dev, Step::Flags { dev: tap.clone(), flags });
        }
        self.tap_rates(port, dev);
        if port.stage.is_active() && !host.link.up {
            let change = LinkChange { up: true, ..LinkChange::default() };
            self.tap_step(Phase::Ports, dev, Step::Set { dev: tap.clone(), change });
        } else if !port.stage.is_active() && host.link.up {
            let change = LinkChange { down: true, ..LinkChange::default() };
            self.tap_step(Phase::Silence, dev, Step::Set { dev: tap.clone(), change });
        }
        let alias = port.alias();
        if host.link.alias != alias {
            let addresses: BTreeSet<_> = port.addresses.iter().map(|a| a.ip).collect();
            if port.stage.is_active() && !addresses.is_empty() {
                // Towards all ports of the bridge, as if the VM had sent it.
                let step = Step::Announce {
                    dev: bridge,
                    mac: Some(port.mac),
                    vlan: None,
                    addresses,
                    of: tap.clone(),
                };
                self.tap_step(Phase::Announce, dev, step);
            }
            let change = LinkChange { alias: Some(alias), ..LinkChange::default() };
            self.tap_step(Phase::Announce, dev, Step::Set { dev: tap, change });
        }
    }

    fn tap_obstacle(&self, port: &Port) -> Option<String> {
        let tap = &port.interface;
        if let Some(owner) = self.desired.tap_at(tap).filter(|owner| owner.id != port.id) {
            return Some(format!("its tap {tap} belongs to port {} on this node", owner.id));
        }
        if self.observed.foreign.contains(tap) {
            return Some(format!("interface {tap} exists and is no tap of ours; rename or delete it"));
        }
        let master = self.observed.ports.get(tap).and_then(|host| host.link.master.as_ref())?;
        let ours = matches!(master.role(), Some(Role::Bridge(vni)) if self.observed.bridges.contains_key(&vni))
            || self.observed.leftovers.contains(master);
        (!ours).then(|| format!("tap {tap} is a port of {master}, which is not Causeway's; take it out"))
    }

    fn tap_rates(&mut self, port: &Port, dev: &Dev) {
        if port.interface == *dev {
            self.rates(port, dev);
        } else if port.rate != crate::model::Rate::default() {
            let why = format!(
                "its rate cannot be limited: what limits a tap is named after it, and {} is a name of others; let the \
                 agent name it (no interface)",
                port.interface
            );
            self.problems.insert(Key::Port(dev.clone()), why);
        }
    }

    /// A tap that no port wants: one that others made only leaves our bridge.
    pub(super) fn leave_tap(&mut self, dev: &Dev, host: &HostSide) {
        if self.desired.protects_alias(&host.link.alias) || self.desired.protects_port(dev) {
            return;
        }
        if host.link.grouped {
            self.remove(dev);
        } else {
            let ours = host.link.master.as_ref().is_some_and(|m| matches!(m.role(), Some(Role::Bridge(_))));
            if ours {
                self.tap_step(Phase::RemoveLinks, dev, Step::Release { dev: dev.clone() });
            }
            self.tap_step(Phase::RemoveLinks, dev, Step::Unmark { dev: dev.clone() });
        }
        self.unguard(dev);
        self.unlimit(dev);
    }
}
