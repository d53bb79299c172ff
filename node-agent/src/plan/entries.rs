//! Entries of a network: where frames to a MAC go, flood lists, and neighbours for suppression.

use std::net::IpAddr;

use causeway_proto::{Mac, Vni};

use super::{Phase, Planner};
use crate::dev::{Dev, PROTOCOL};
use crate::model::{Key, Place};
use crate::observed::{FdbKind, FdbPort};
use crate::op::{Half, Op};

impl Planner<'_> {
    pub(super) fn mac(&mut self, vni: Vni, mac: Mac) {
        if self.desired.protects_network(vni) && !self.desired.networks().contains_key(&vni) {
            return;
        }
        let place = self.desired.place(vni, mac).filter(|_| self.obstacle(vni).is_none());
        let entry = self.observed.fdb.get(&(vni, mac)).filter(|e| match &e.port {
            FdbPort::Vxlan => !self.new_tunnels.contains(&vni) && !self.new_bridges.contains(&vni),
            FdbPort::Port(dev) => !self.new_ports.contains(dev) && !self.new_bridges.contains(&vni),
            FdbPort::Other => !self.new_bridges.contains(&vni),
        });
        let tunnel = self.observed.tunnels.get(&(vni, mac)).filter(|_| !self.new_tunnels.contains(&vni));
        let gone = !self.desired.networks().contains_key(&vni);
        let del = |half, dev: &Dev| Op::FdbDel { vni, mac, half, dev: dev.clone() };
        let vxlan = Dev::vxlan(vni);
        let is_remote = matches!(place, Some(Place::Remote(_)));
        // With the network its entries go.
        if tunnel.is_some() && !is_remote && !gone {
            self.push(Phase::RemoveEntries, del(Half::Tunnel, &vxlan));
        }
        let port_of = |e: &crate::observed::FdbEntry| match &e.port {
            FdbPort::Vxlan => Some(vxlan.clone()),
            FdbPort::Port(dev) => Some(dev.clone()),
            FdbPort::Other => None,
        };
        let Some(place) = place else {
            if let Some(entry) = entry.filter(|e| e.kind != FdbKind::Local && !gone)
                && let Some(dev) = port_of(entry).filter(|dev| self.stays(dev))
            {
                self.push(Phase::RemoveEntries, del(Half::Bridge, &dev));
            }
            return;
        };
        let right = match &place {
            Place::Remote(vtep) => {
                let half = tunnel.is_some_and(|t| t.vtep == Some(*vtep) && t.lasting);
                let kinds = [FdbKind::Static, FdbKind::Extern];
                half && entry
                    .is_some_and(|e| e.port == FdbPort::Vxlan && kinds.contains(&e.kind) && !e.sticky)
            }
            Place::Local(dev) => {
                if !self.new_ports.contains(dev) && !self.observed.ports.contains_key(dev) {
                    return;
                }
                entry.is_some_and(|e| {
                    e.port == FdbPort::Port(dev.clone()) && e.kind == FdbKind::Static && e.sticky
                })
            }
        };
        if right {
            return;
        }
        // A replaced entry keeps its old flags (sticky, local): it must go first.
        if let Some(entry) = entry {
            let clean = !entry.sticky && entry.kind == FdbKind::Extern && is_remote;
            if let Some(dev) = port_of(entry).filter(|dev| !clean && self.stays(dev)) {
                self.push(Phase::Entries, del(Half::Bridge, &dev));
            }
        }
        self.push(Phase::Entries, Op::FdbSet { vni, mac, place });
    }

    pub(super) fn flood(&mut self, vni: Vni, vtep: IpAddr) {
        let want = self.desired.floods_to(vni, vtep) && self.obstacle(vni).is_none();
        let have = self.observed.floods.contains(&(vni, vtep)) && !self.new_tunnels.contains(&vni);
        if want && !have {
            self.push(Phase::Entries, Op::FloodAdd { vni, vtep });
        } else if have && !want && self.desired.networks().contains_key(&vni) {
            self.push(Phase::RemoveEntries, Op::FloodDel { vni, vtep });
        }
    }

    pub(super) fn neighbour(&mut self, vni: Vni, ip: IpAddr) {
        let have = self.observed.neighbours.get(&(vni, ip)).filter(|_| !self.new_bridges.contains(&vni));
        let want = self.desired.neighbour(vni, ip).filter(|_| self.obstacle(vni).is_none());
        match (want, have) {
            (Some(_), Some(n)) if n.protocol != 0 && n.protocol != PROTOCOL => {
                let protocol = n.protocol;
                let problem = format!(
                    "neighbour {ip} on {} was set by protocol {protocol}, not by Causeway; stop what sets it",
                    Dev::bridge(vni)
                );
                self.problems.insert(Key::Neigh(vni, ip), problem);
            }
            (Some(mac), Some(n)) if n.mac == Some(mac) && n.lasting && n.protocol == PROTOCOL => {}
            (Some(mac), have) => {
                self.push(Phase::Entries, Op::NeighSet { vni, ip, mac });
                // A VIP's new holder on another host: suppression keeps its own announcement from the tunnels.
                if have.is_some_and(|n| n.protocol == PROTOCOL && n.mac.is_some_and(|old| old != mac)) {
                    self.push(Phase::Announce, Op::NeighTell { vni, ip, mac });
                }
            }
            (None, Some(n)) if n.protocol == PROTOCOL && self.desired.networks().contains_key(&vni) => {
                self.push(Phase::RemoveEntries, Op::NeighDel { vni, ip });
            }
            (None, _) => {}
        }
    }
}
