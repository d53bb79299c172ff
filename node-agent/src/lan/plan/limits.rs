//! Guards and limits of ports with a host side.

use std::collections::BTreeSet;

use super::Planner;
use crate::dev::{Dev, Role};
use crate::model::{Attach, Key, Port, Rate};
use crate::op::Op;
use crate::plan::guard::{guard_step, unguard_step};
use crate::rate::{Direction, Found, Shape};

/// The link of the host that a port's frames pass.
fn host_side(port: &Port) -> Option<Dev> {
    match port.attach {
        Attach::Bridge | Attach::Routed => Some(Dev::port(&port.id)),
        Attach::Tap => Some(port.interface.clone()),
        Attach::Child(_) | Attach::VxlanBridge | Attach::BareMetal => None,
    }
}

impl Planner<'_> {
    /// Brings the guard of a port to what it shall be, or says why that cannot be: then the port must not be made, for
    /// it would be open.
    pub(super) fn guard(&mut self, port: &Port) -> Result<(), String> {
        if !port.guarded {
            return Ok(());
        }
        // The others do not pass the bridge, where the guard is; the node's checks say so.
        if !matches!(port.attach, Attach::Bridge | Attach::Tap) {
            return Ok(());
        }
        let Some(interface) = host_side(port) else { return Ok(()) };
        if let Some(op) = guard_step(&self.now, port, &Dev::port(&port.id), &interface)? {
            self.push(op);
        }
        Ok(())
    }

    /// Guards and limits that no port wants any more.
    pub(super) fn remove_limits(&mut self) {
        let wanted = |limited: fn(&Port) -> bool| -> BTreeSet<Dev> {
            let ports = self.desired.ports().values().filter(|p| limited(p) && host_side(p).is_some());
            ports.map(|p| Dev::port(&p.id)).collect()
        };
        let guarded = wanted(|p| p.guarded && p.attach != Attach::Routed);
        let limited = wanted(|p| p.rate != Rate::default());
        let unread = |dev: &Dev| dev.role() == Some(Role::Port) && self.desired.protects_port(dev);
        let chains: Vec<Dev> =
            self.now.guards.chains.keys().filter(|d| !guarded.contains(*d) && !unread(d)).cloned().collect();
        let rates: Vec<Dev> =
            self.now.rates.keys().filter(|d| !limited.contains(*d) && !unread(d)).cloned().collect();
        for dev in chains {
            if let Some(op) = unguard_step(&self.now, &dev) {
                self.push(op);
            }
        }
        for dev in rates {
            self.limits(Rate::default(), 0, &dev);
        }
    }

    pub(super) fn rates(&mut self, port: &Port) {
        match host_side(port) {
            // What limits a port has its name from the port's host side, which a tap names as it likes.
            Some(dev) if dev.role() == Some(Role::Port) && self.now.lan.links.contains_key(&dev) => {
                self.limits(port.rate, port.mtu, &dev);
            }
            // Not made: why, another problem says.
            Some(dev) if dev.role() == Some(Role::Port) => {}
            _ if port.rate != Rate::default() && port.attach != Attach::BareMetal => {
                let why =
                    "its rate cannot be limited: only veths are; attach a container by BRIDGE or ROUTED";
                self.problems.entry(Key::Port(Dev::port(&port.id))).or_insert_with(|| why.to_owned());
            }
            _ => {}
        }
    }

    fn limits(&mut self, rate: Rate, mtu: u32, dev: &Dev) {
        let found = self.now.rates.get(dev).copied().unwrap_or_default();
        for direction in [Direction::In, Direction::Out] {
            let set = |shape| Op::Rate { dev: dev.clone(), direction, shape };
            match (Shape::new(rate.of(direction), mtu), found.of(direction)) {
                (None, Found::None | Found::Foreign) => {}
                (None, _) => self.push(set(None)),
                (Some(want), have) if want.found() == have => {}
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
