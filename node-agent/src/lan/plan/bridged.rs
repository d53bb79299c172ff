//! Where a bridge has a workload's MAC.

use causeway_proto::Mac;

use super::Planner;
use super::ports::key;
use crate::dev::Dev;
use crate::lan::step::Step;
use crate::lan::want::{Net, UNTAGGED};
use crate::model::{Place, Port};
use crate::observed::{FdbKind, FdbPort};
use crate::op::{Half, Op};

impl Planner<'_> {
    /// A workload's port in a bridge: its MAC is fixed there, and nothing is learned.
    pub(super) fn bridge_port(&mut self, port: &Port, dev: &Dev, net: &Net) {
        let key = key(port);
        if net.bridge == Some(Dev::trunk()) {
            self.trunk_port(port, dev, net.id.unwrap_or(UNTAGGED));
            return;
        }
        self.flags(&key, dev, false, Some(port.guarded));
        let (vni, mac) = (port.vni, port.mac);
        if self.now.has_static(vni, mac, dev) {
            // Frames for a MAC that is elsewhere must not end at a port that is down.
            if !port.stage.is_active() {
                self.push(Op::FdbDel { vni, mac, half: Half::Bridge, dev: dev.clone() });
            }
            return;
        }
        if !port.stage.is_active() {
            return;
        }
        // A replaced entry keeps its old flags (sticky, local): it must go first.
        if let Some(entry) = self.now.fdb.get(&(vni, mac))
            && let FdbPort::Port(old) = &entry.port
            && (entry.sticky || entry.kind == FdbKind::Local)
        {
            let old = old.clone();
            self.push(Op::FdbDel { vni, mac, half: Half::Bridge, dev: old });
        }
        self.push(Op::FdbSet { vni, mac, place: Place::Local(dev.clone()) });
    }

    /// The same in the VLAN-aware bridge, which has an entry for each VLAN.
    fn trunk_port(&mut self, port: &Port, dev: &Dev, id: u16) {
        let key = key(port);
        self.unseat(port, dev, id);
        let have = self.now.lan.vlans.get(dev).cloned().unwrap_or_default();
        for other in have.into_keys().filter(|other| *other != id) {
            self.step(&key, Step::VlanDel { dev: dev.clone(), id: other, itself: false });
        }
        self.vlan(&key, dev, id, true, false);
        if port.stage.is_active() && !self.now.lan.seats.contains_key(&(id, port.mac)) {
            self.step(&key, Step::SeatSet { dev: dev.clone(), id, mac: port.mac });
        }
        self.flags(&key, dev, false, Some(port.guarded));
    }

    /// Takes away what else is fixed at the port, and where else its MAC is: an entry that is replaced keeps its old
    /// flags. At a port that is not up nothing is fixed: frames for a MAC that is elsewhere must not end there.
    fn unseat(&mut self, port: &Port, dev: &Dev, id: u16) {
        let active = port.stage.is_active();
        let wrong = |seat: (u16, Mac), at: &Dev, fixed: bool| match seat == (id, port.mac) {
            true => {
                if active {
                    at != dev || !fixed
                } else {
                    at == dev
                }
            }
            false => at == dev,
        };
        let seats = self.now.lan.seats.iter().filter(|(seat, (at, fixed))| wrong(**seat, at, *fixed));
        let seats: Vec<((u16, Mac), Dev)> = seats.map(|(seat, (at, _))| (*seat, at.clone())).collect();
        let key = key(port);
        for ((id, mac), at) in seats {
            // The kernel neither deletes such an entry with its VLAN, nor then lets it be deleted.
            if at == *dev && !self.now.lan.vlans.get(dev).is_some_and(|vlans| vlans.contains_key(&id)) {
                self.vlan(&key, dev, id, false, false);
            }
            self.step(&key, Step::SeatDel { dev: at, id, mac });
        }
    }
}
