//! Switching and routing in the kernel: taking steps. Reading back and hearing of changes have modules of their own.

mod hear;
mod read;

use std::collections::{BTreeMap, BTreeSet};
use std::io;

use super::{Kernel, OpError};
use crate::dev::Dev;
use crate::fabric::{LinkKind, Object, Seat, Step, Thing};
use crate::netlink::NetlinkError;
use crate::netlink::fabric as wire;
use crate::netlink::message::{self, Request};
use crate::netlink::parse;
use crate::observed::TunnelEntry;
use crate::op::Op;

/// Devices that take part in switching and routing, by index and back; somebody else's switch ports too.
#[derive(Debug, Default)]
pub(super) struct Index {
    names: BTreeMap<u32, Dev>,
    indexes: BTreeMap<Dev, u32>,
    /// Interfaces wanted as switch ports: their coming and going counts.
    wanted: BTreeSet<Dev>,
    /// Entries of the switch's VXLAN devices are compared here.
    switch: bool,
    /// Something happened to a device, an address or a route.
    stirred: bool,
}

impl Index {
    fn learn(&mut self, dev: &Dev, index: u32) {
        if let Some(old) = self.indexes.insert(dev.clone(), index) {
            self.names.remove(&old);
        }
        self.names.insert(index, dev.clone());
    }

    fn forget(&mut self, dev: &Dev) {
        if let Some(index) = self.indexes.remove(dev) {
            self.names.remove(&index);
        }
    }
}

impl Kernel {
    fn fabric_index(&self, dev: &Dev) -> Result<u32, OpError> {
        let found = self.fabric.indexes.get(dev).or_else(|| self.indexes.get(dev));
        found.copied().ok_or_else(|| OpError::NoDevice(dev.clone()))
    }

    /// Takes steps; entries many a system call.
    pub(super) fn apply_fabric(&mut self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        let mut results = Vec::with_capacity(ops.len());
        let mut rest = ops;
        while let [Op::Fabric(first), ..] = rest {
            let batched = |op: &&Op| matches!(op, Op::Fabric(Step::Put(..) | Step::Take(..)));
            let count = rest.iter().take_while(batched).count();
            if count == 0 {
                results.push(self.fabric_step(first));
                rest = &rest[1..];
            } else {
                let (now, later) = rest.split_at(count);
                results.extend(self.fabric_entries(now));
                rest = later;
            }
        }
        results
    }

    fn fabric_entries(&mut self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        let mut requests = Vec::with_capacity(ops.len());
        let mut results: Vec<Option<Result<(), OpError>>> = Vec::with_capacity(ops.len());
        let takes = |op: &Op| matches!(op, Op::Fabric(Step::Take(..)));
        for op in ops {
            let Op::Fabric(step) = op else { continue };
            match self.fabric_request(step) {
                Ok(request) => {
                    requests.push(request);
                    results.push(None);
                }
                // With the device what was on it is gone.
                Err(OpError::NoDevice(_)) if takes(op) => results.push(Some(Ok(()))),
                Err(error) => results.push(Some(Err(error))),
            }
        }
        let mut answers = self.connection.batch(requests).into_iter();
        let answer = |op: &Op, result: Option<Result<(), NetlinkError>>| match result {
            Some(Err(e)) if takes(op) && e.is_missing() => Ok(()),
            Some(Err(e)) if matches!(op, Op::Fabric(Step::Put(Thing::Flood(..), _))) && e.is_existing() => {
                Ok(())
            }
            Some(Err(e)) => Err(OpError::Netlink(e)),
            _ => Ok(()),
        };
        let with = ops.iter().zip(results);
        with.map(|(op, done)| done.unwrap_or_else(|| answer(op, answers.next()))).collect()
    }

    fn fabric_request(&self, step: &Step) -> Result<Request, OpError> {
        let index = |dev: &Dev| self.fabric_index(dev);
        let switch = |dev: &Dev| *dev == Dev::switch();
        Ok(match step {
            Step::Put(Thing::Vlan(dev, vlan), Object::Vlan { pvid, untagged }) => {
                wire::set_vlan(index(dev)?, switch(dev), *vlan, *pvid, *untagged)
            }
            Step::Take(Thing::Vlan(dev, vlan), _) => wire::del_vlan(index(dev)?, switch(dev), *vlan),
            Step::Put(Thing::Barrier(table, v6), _) => wire::set_barrier(*table, *v6),
            Step::Take(Thing::Barrier(table, v6), _) => wire::del_barrier(*table, *v6),
            Step::Put(Thing::Address(dev, address), _) => wire::set_address(index(dev)?, *address),
            Step::Take(Thing::Address(dev, address), _) => message::del_address(index(dev)?, *address),
            Step::Put(Thing::Flood(dev, vtep), _) => message::add_flood(index(dev)?, *vtep),
            Step::Take(Thing::Flood(dev, vtep), _) => message::del_flood(index(dev)?, *vtep),
            Step::Put(Thing::Tunnel(dev, mac), Object::Tunnel(TunnelEntry { vtep: Some(vtep), .. })) => {
                wire::set_tunnel(index(dev)?, *mac, *vtep)
            }
            Step::Take(Thing::Tunnel(dev, mac), _) => message::del_fdb(index(dev)?, *mac, true),
            Step::Put(Thing::Fdb(bridge, vlan, mac), Object::Fdb(seat)) => {
                wire::set_seat(index(&seat.port)?, seat.port == *bridge, *vlan, *mac, seat)
            }
            Step::Take(Thing::Fdb(bridge, vlan, mac), Object::Fdb(Seat { port, .. })) => {
                wire::del_seat(index(port)?, port == bridge, *vlan, *mac)
            }
            Step::Put(Thing::Neighbour(dev, ip), Object::Neighbour(neighbour)) => {
                let mac = neighbour.mac.ok_or_else(|| OpError::Conflict("a neighbour needs a MAC".into()))?;
                message::set_neighbour(index(dev)?, *ip, mac)
            }
            Step::Take(Thing::Neighbour(dev, ip), _) => message::del_neighbour(index(dev)?, *ip),
            Step::Put(Thing::Route(table, prefix), Object::Route(ways)) => {
                let ways = ways.iter().map(|(dev, gateway)| Ok((index(dev)?, *gateway)));
                wire::set_route(*table, *prefix, &ways.collect::<Result<Vec<_>, OpError>>()?)
            }
            Step::Take(Thing::Route(table, prefix), _) => wire::del_route(*table, *prefix),
            other => return Err(OpError::Conflict(format!("not an entry: {other}"))),
        })
    }

    fn fabric_step(&mut self, step: &Step) -> Result<(), OpError> {
        let (request, flags) = match step {
            Step::Remove(dev) => {
                let Ok(index) = self.fabric_index(dev) else { return Ok(()) };
                self.fabric.forget(dev);
                self.forget_index(dev);
                return match self.send_fabric(message::del_link(index)) {
                    Err(OpError::Netlink(error)) if error.is_missing() => Ok(()),
                    result => result,
                };
            }
            Step::Make { dev, kind, mac, mtu } => {
                let parent = match kind {
                    LinkKind::Vlan(_) => Some(self.fabric_index(&Dev::switch())?),
                    _ => None,
                };
                let added = self.send_fabric(wire::make(dev, kind, *mac, *mtu, parent));
                if let Some(link) = self.get_link(dev)?.filter(parse::RawLink::is_marked) {
                    self.fabric.learn(dev, link.index);
                }
                return added;
            }
            Step::Change { dev, change } => {
                let master = change.master.as_ref().map(|m| self.fabric_index(m)).transpose()?;
                message::set_link(self.fabric_index(dev)?, change, master)
            }
            Step::Flags { dev, flags } => message::set_flags(self.fabric_index(dev)?, flags),
            Step::QuietRa(dev) => return super::apply::ignore_ra(dev),
            Step::Join(dev) => wire::set_master(self.fabric_index(dev)?, self.fabric_index(&Dev::switch())?),
            Step::Raise(dev) => {
                let up = crate::op::LinkChange { up: true, ..Default::default() };
                message::set_link(self.fabric_index(dev)?, &up, None)
            }
            // The interface may be gone.
            Step::Leave(dev) => match self.fabric_index(dev) {
                Ok(index) => wire::set_master(index, 0),
                Err(_) => return Ok(()),
            },
            Step::Enslave { dev, vrf } => {
                let master = vrf.as_ref().map_or(Ok(0), |vrf| self.fabric_index(vrf))?;
                wire::set_master(self.fabric_index(dev)?, master)
            }
            Step::Routing { dev, on } => return set_routing(dev, *on),
            entry @ (Step::Put(..) | Step::Take(..)) => self.fabric_request(entry)?,
        };
        self.send_fabric((request, flags))
    }

    fn send_fabric(&mut self, (request, flags): Request) -> Result<(), OpError> {
        Ok(self.connection.request(request, flags)?)
    }
}

/// /proc/sys/net follows the thread's namespace.
fn set_routing(dev: &Dev, on: bool) -> Result<(), OpError> {
    for (name, value) in crate::fabric::routing_sysctls(on) {
        let name = format!("net/ipv4/conf/{dev}/{name}");
        match std::fs::write(format!("/proc/sys/{name}"), value) {
            Err(source) if source.kind() == io::ErrorKind::NotFound => {
                return Err(OpError::NoDevice(dev.clone()));
            }
            Err(source) => return Err(OpError::Sysctl { name, source }),
            Ok(()) => {}
        }
    }
    Ok(())
}
