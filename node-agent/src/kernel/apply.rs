//! Taking steps in the kernel.

use std::collections::BTreeSet;
use std::io;
use std::os::fd::AsRawFd;

use super::{Kernel, OpError, lan};
use crate::announce;
use crate::dev::{Dev, Role};
use crate::model::Place;
use crate::netlink::message::{self, Request};
use crate::netlink::socket::Connection;
use crate::netlink::{NetlinkError, parse};
use crate::netns::Netns;
use crate::op::{At, Half, LinkChange, Op};

impl Kernel {
    pub(super) fn apply_ops(&mut self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        let mut results = Vec::with_capacity(ops.len());
        let mut rest = ops;
        while let Some(first) = rest.first() {
            if first.is_guard() {
                let count = rest.iter().take_while(|op| op.is_guard()).count();
                let (now, later) = rest.split_at(count);
                results.extend(crate::guard::nft::apply(now));
                rest = later;
                continue;
            }
            let fabric = rest.iter().take_while(|op| matches!(op, Op::Fabric(_))).count();
            if fabric > 0 {
                let (now, later) = rest.split_at(fabric);
                results.extend(self.apply_fabric(now));
                rest = later;
                continue;
            }
            let same = |op: &&Op| match (entry(first), first.inside()) {
                (true, _) => entry(op),
                (false, Some(at)) => op.inside() == Some(at) && !matches!(op, Op::Announce { .. }),
                (false, None) => false,
            };
            let count = match first {
                Op::Announce { .. } => 1,
                _ => rest.iter().take_while(same).count().max(1),
            };
            let (now, later) = rest.split_at(count);
            results.extend(match first.inside() {
                _ if entry(first) => self.apply_entries(now),
                Some(at) if !matches!(first, Op::Announce { .. }) => inside(at, now),
                _ => now.iter().map(|op| self.apply_link(op)).collect(),
            });
            rest = later;
        }
        let broken = |r: &Result<(), OpError>| {
            matches!(r, Err(OpError::Netlink(NetlinkError::Socket(_) | NetlinkError::Timeout(_))))
        };
        self.reopen_after(results.iter().any(broken));
        results
    }

    pub(super) fn index(&self, dev: &Dev) -> Result<u32, OpError> {
        self.indexes.get(dev).copied().ok_or_else(|| OpError::NoDevice(dev.clone()))
    }

    /// FDB entries, flood lists and neighbours: many a system call.
    fn apply_entries(&mut self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        let mut requests = Vec::with_capacity(ops.len());
        let mut results: Vec<Option<Result<(), OpError>>> = Vec::with_capacity(ops.len());
        for op in ops {
            match self.entry_request(op) {
                Ok(request) => {
                    requests.push(request);
                    results.push(None);
                }
                // With the device its entries are gone.
                Err(OpError::NoDevice(_)) if is_deletion(op) => results.push(Some(Ok(()))),
                Err(error) => results.push(Some(Err(error))),
            }
        }
        let mut answers = self.connection.batch(requests).into_iter();
        let answer = |op: &Op, result: Option<Result<(), NetlinkError>>| match result {
            Some(Err(e)) if is_deletion(op) && e.is_missing() => Ok(()),
            Some(Err(e)) if matches!(op, Op::FloodAdd { .. }) && e.is_existing() => Ok(()),
            Some(Err(e)) => Err(OpError::Netlink(e)),
            _ => Ok(()),
        };
        let with = ops.iter().zip(results);
        with.map(|(op, done)| done.unwrap_or_else(|| answer(op, answers.next()))).collect()
    }

    fn entry_request(&self, op: &Op) -> Result<Request, OpError> {
        Ok(match op {
            Op::FdbSet { vni, mac, place: Place::Remote(vtep) } => {
                message::set_remote(self.index(&Dev::vxlan(*vni))?, *mac, *vtep)
            }
            Op::FdbSet { mac, place: Place::Local(dev), .. } => message::set_local(self.index(dev)?, *mac),
            Op::FdbDel { mac, half, dev, .. } => {
                message::del_fdb(self.index(dev)?, *mac, *half == Half::Tunnel)
            }
            Op::FloodAdd { vni, vtep } => message::add_flood(self.index(&Dev::vxlan(*vni))?, *vtep),
            Op::FloodDel { vni, vtep } => message::del_flood(self.index(&Dev::vxlan(*vni))?, *vtep),
            Op::NeighSet { vni, ip, mac } => {
                message::set_neighbour(self.index(&Dev::bridge(*vni))?, *ip, *mac)
            }
            Op::NeighDel { vni, ip } => message::del_neighbour(self.index(&Dev::bridge(*vni))?, *ip),
            other => return Err(OpError::Conflict(format!("not an entry: {other}"))),
        })
    }

    fn apply_link(&mut self, op: &Op) -> Result<(), OpError> {
        match op {
            Op::LinkDel { dev } => self.delete_link(dev),
            Op::BridgeAdd { vni, mac, mtu } => {
                self.add_link(&Dev::bridge(*vni), message::add_bridge(*vni, *mac, *mtu))
            }
            Op::VxlanAdd { vni, local, port, mtu } => {
                self.add_link(&Dev::vxlan(*vni), message::add_vxlan(*vni, *local, *port, *mtu))
            }
            Op::PortAdd { at, vni, mac, mtu } => {
                let bridge = self.index(&Dev::bridge(*vni))?;
                let netns = Netns::open(&at.netns)?;
                if netns.id() == self.own {
                    return Err(crate::netns::NetnsError::Own(at.netns.clone()).into());
                }
                let fd = netns.fd().as_raw_fd();
                let request = message::add_veth(&at.dev, bridge, &at.interface, *mac, *mtu, fd);
                self.add_link(&at.dev, request)
            }
            Op::LinkSet { dev, change } => self.change_link(dev, change),
            Op::PortFlags { dev, flags } => {
                let (request, f) = message::set_flags(self.index(dev)?, flags);
                Ok(self.connection.request(request, f)?)
            }
            Op::Divert { dev, shape, leads } => self.divert(dev, shape, leads),
            Op::DivertClean { link } => self.remove_astray(link),
            Op::Rate { dev, direction, shape, led } => self.apply_rate(dev, *direction, shape.as_ref(), *led),
            Op::AcceptRaOff { dev } => ignore_ra(dev),
            Op::Lan(op) => self.apply_lan(op),
            // Best effort: who missed it asks when nobody answers any more.
            Op::NeighTell { vni, ip, mac } => {
                announce::start_on_host(&Dev::bridge(*vni), Some(*mac), None, BTreeSet::from([*ip]), None)
            }
            Op::Announce { at, mac, addresses } => {
                // A macvlan or ipvlan has no host side.
                let port = self.indexes.get(&at.dev).copied().unwrap_or(0);
                announce::start(at, port, *mac, addresses.clone())
            }
            other => Err(OpError::Conflict(format!("not a step for the host: {other}"))),
        }
    }

    pub(super) fn delete_link(&mut self, dev: &Dev) -> Result<(), OpError> {
        self.watches.remove(dev);
        if dev.role() == Some(Role::Diverter) {
            self.divert_no_more(dev)?;
        }
        let Some(index) = self.indexes.get(dev).copied() else { return Ok(()) };
        let (request, flags) = message::del_link(index);
        match self.connection.request(request, flags) {
            Err(error) if !error.is_missing() => Err(error.into()),
            _ => {
                self.forget_index(dev);
                Ok(())
            }
        }
    }

    pub(super) fn add_link(&mut self, dev: &Dev, (request, flags): Request) -> Result<(), OpError> {
        let added = self.connection.request(request, flags);
        // Also when it exists: made by an earlier run that was killed before it could know.
        let link = self.get_link(dev)?.filter(parse::RawLink::is_marked);
        match (added, link) {
            (Ok(()), Some(link)) => {
                self.learn_index(dev, link.index);
                Ok(())
            }
            (Ok(()), None) => Err(OpError::NoDevice(dev.clone())),
            (Err(error), _) => Err(error.into()),
        }
    }

    pub(super) fn change_link(&mut self, dev: &Dev, change: &LinkChange) -> Result<(), OpError> {
        let index = self.index(dev)?;
        let master = change.master.as_ref().map(|m| self.index(m)).transpose()?;
        let (request, flags) = message::set_link(index, change, master);
        Ok(self.connection.request(request, flags)?)
    }
}

/// FDB entries, flood lists and neighbours.
fn entry(op: &Op) -> bool {
    matches!(
        op,
        Op::FdbSet { .. }
            | Op::FdbDel { .. }
            | Op::FloodAdd { .. }
            | Op::FloodDel { .. }
            | Op::NeighSet { .. }
            | Op::NeighDel { .. }
    )
}

fn is_deletion(op: &Op) -> bool {
    matches!(op, Op::FdbDel { .. } | Op::FloodDel { .. } | Op::NeighDel { .. })
}

/// /proc/sys/net follows the thread's namespace. Without IPv6 there is no such file, and nothing to switch off.
pub(super) fn ignore_ra(dev: &Dev) -> Result<(), OpError> {
    let name = format!("net/ipv6/conf/{dev}/accept_ra");
    match std::fs::write(format!("/proc/sys/{name}"), "0") {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OpError::Sysctl { name, source }),
        _ => Ok(()),
    }
}

/// All steps in one visit.
fn inside(at: &At, ops: &[Op]) -> Vec<Result<(), OpError>> {
    let visit = Netns::open(&at.netns).and_then(|netns| {
        netns.run(|| {
            let mut connection = Connection::open()?;
            let found = connection.get(message::get_link(Some(&at.interface)))?;
            let link = match &found {
                Some(netlink_packet_route::RouteNetlinkMessage::NewLink(l)) => parse::link(l),
                _ => None,
            };
            let link = link.filter(|l| l.link.grouped);
            if ops.iter().any(lan::ends_with_interface) && crate::guard::nft::read_inside(&at.dev).is_some() {
                crate::guard::nft::set_inside(&at.dev, None)?;
            }
            if link.is_none() && ops.iter().all(lan::ends_with_interface) {
                return Ok(ops.iter().map(|_| Ok(())).collect());
            }
            let link = link.ok_or(OpError::NoDevice(at.interface.clone()))?;
            Ok(ops.iter().map(|op| apply_inside(&mut connection, link.index, at, op)).collect::<Vec<_>>())
        })
    });
    let failed = match visit {
        Ok(Ok(results)) => return results,
        Ok(Err(error)) => error,
        Err(error) => OpError::Netns(error),
    };
    let text = failed.to_string();
    let mut first = Some(failed);
    ops.iter().map(|_| Err(first.take().unwrap_or_else(|| OpError::Conflict(text.clone())))).collect()
}

fn apply_inside(connection: &mut Connection, index: u32, at: &At, op: &Op) -> Result<(), OpError> {
    let (request, flags) = match op {
        Op::Lan(op) => return lan::apply_inside(connection, index, op),
        Op::GuardInside { at, guard } => {
            return Ok(crate::guard::nft::set_inside(&at.dev, guard.as_ref())?);
        }
        Op::PeerSet { mac, mtu, up, .. } => {
            let change = LinkChange { mac: *mac, mtu: *mtu, up: *up, ..LinkChange::default() };
            message::set_link(index, &change, None)
        }
        Op::PeerDown { .. } => {
            message::set_link(index, &LinkChange { down: true, ..LinkChange::default() }, None)
        }
        // Index 1 is loopback in every namespace.
        Op::LoopbackUp { .. } => {
            message::set_link(1, &LinkChange { up: true, ..LinkChange::default() }, None)
        }
        Op::PeerAcceptRaOff { .. } => return ignore_ra(&at.interface),
        Op::AddrAdd { address, .. } => message::add_address(index, *address),
        Op::AddrDel { address, .. } => message::del_address(index, *address),
        Op::GatewayAdd { gateway, .. } => message::add_gateway(index, *gateway),
        Op::GatewayDel { gateway, .. } => message::del_gateway(index, *gateway),
        other => return Err(OpError::Conflict(format!("not a step for a namespace: {other}"))),
    };
    match (connection.request(request, flags), op) {
        (Err(error), Op::AddrDel { .. } | Op::GatewayDel { .. }) if error.is_missing() => Ok(()),
        (Err(error), Op::AddrAdd { .. }) if error.is_existing() => Ok(()),
        (Err(error), Op::GatewayAdd { gateway, .. }) if error.is_existing() => {
            let netns = &at.netns;
            let text = format!("netns {netns} has another default route; none through {gateway} was added");
            Err(OpError::Conflict(text))
        }
        (result, _) => Ok(result?),
    }
}
