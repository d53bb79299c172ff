//! Programming a host behind switches.

mod look;
mod table;

use std::io;
use std::os::fd::AsRawFd;

use causeway_proto::VlanId;

use super::{Kernel, OpError};
use crate::announce;
use crate::dev::Dev;
use crate::fabric::Seat;
use crate::lan::seen::Switch;
use crate::lan::step::{LanOp, Step};
use crate::model::NetnsRef;
use crate::netlink::fabric;
use crate::netlink::lan as message;
use crate::netlink::message::{del_address, del_link, del_neighbour, set_flags, set_link};
use crate::netlink::socket::Connection;
use crate::netlink::table as wire;
use crate::netns::{Netns, NetnsError};
use crate::observed::FdbKind;
use crate::op::Op;

impl Kernel {
    pub(super) fn apply_lan(&mut self, op: &LanOp) -> Result<(), OpError> {
        match &op.step {
            Step::LinkDel { dev } => self.delete_link(dev),
            Step::BridgeAdd { dev, mac, mtu, aware } => {
                let made = self.add_link(dev, message::add_bridge(dev, *mac, *mtu, *aware));
                made.and_then(|()| self.pin_mtu(dev, *mtu)).map_err(|e| {
                    without(e, "VLAN-aware bridges (CONFIG_BRIDGE_VLAN_FILTERING): use a bridge per network")
                })
            }
            Step::VlanAdd { dev, parent, id, mtu } => {
                let made = self
                    .index(parent)
                    .and_then(|parent| self.add_link(dev, message::add_vlan(dev, parent, *id, *mtu)));
                made.map_err(|e| without(e, "802.1Q (module 8021q): load it, or use an untagged network"))
            }
            Step::ShimAdd { dev, parent, mac, mtu } => {
                let parent = self.index(parent)?;
                self.add_link(dev, message::add_shim(dev, parent, *mac, *mtu))
            }
            Step::VethAdd { at, bridge, mac, mtu } => {
                let bridge = bridge.as_ref().map(|b| self.index(b)).transpose()?;
                let netns = self.foreign_netns(&at.netns)?;
                let request =
                    message::add_veth(&at.dev, bridge, &at.interface, *mac, *mtu, netns.fd().as_raw_fd());
                self.add_link(&at.dev, request)
            }
            Step::ChildAdd { at, parent, child, mac, mtu } => self.add_child(at, parent, *child, *mac, *mtu),
            Step::TapAdd { dev, mtu, queues } => self.add_tap(dev, *mtu, *queues),
            Step::Move { uplink, bridge, back } => self.move_addresses(uplink, bridge, *back),
            Step::Announce { dev, mac, vlan, addresses, of } => {
                announce::start_on_host(dev, *mac, *vlan, addresses.clone(), Some(of.clone()))
            }
            step => self.apply_lan_entry(step),
        }
    }

    /// Makes the reconciler look at the host again, from any thread.
    pub(crate) fn wakes_host(&self) -> impl FnOnce() + Send + 'static {
        let stirred = std::sync::Arc::clone(&self.stirred);
        move || stirred.add(Dev::trunk())
    }

    pub(super) fn foreign_netns(&self, netns: &NetnsRef) -> Result<Netns, OpError> {
        let opened = Netns::open(netns)?;
        if opened.id() == self.own {
            return Err(NetnsError::Own(netns.clone()).into());
        }
        Ok(opened)
    }

    fn apply_lan_entry(&mut self, step: &Step) -> Result<(), OpError> {
        let deletes = matches!(
            step,
            Step::RouteDel { .. }
                | Step::RuleDel { .. }
                | Step::WayDel { .. }
                | Step::AddrDel { .. }
                | Step::NeighDel { .. }
                | Step::ProxyDel { .. }
                | Step::OwnMacDel { .. }
                | Step::VlanDel { .. }
                | Step::SeatDel { .. }
        );
        let adds = matches!(step, Step::AddrAdd { .. } | Step::RuleAdd { .. });
        let (request, flags) = match step {
            Step::Set { dev, change } => return self.change_link(dev, change),
            Step::Release { dev } => message::release(self.index(dev)?),
            Step::Unmark { dev } => message::set_alias(self.index(dev)?, ""),
            Step::Flags { dev, flags } => set_flags(self.index(dev)?, flags),
            Step::Sysctl { dev, switch } => return write_setting(dev, *switch),
            Step::AddrAdd { dev, address } => message::add_address(self.index(dev)?, *address),
            Step::AddrDel { dev, address } => del_address(self.index(dev)?, *address),
            Step::RuleAdd { rule } => wire::add_rule(rule),
            Step::RuleDel { rule } => wire::del_rule(rule),
            Step::WaySet { way } => wire::set_way(&self.raw_way(way)?),
            Step::WayDel { way } => wire::del_way(&self.raw_way(way)?),
            Step::RouteSet { route } => message::set_route(route.to, self.index(&route.dev)?, route.source),
            Step::RouteDel { route } => message::del_route(route.to, self.index(&route.dev)?),
            Step::NeighSet { dev, ip, mac } => message::set_neighbour(self.index(dev)?, *ip, *mac),
            Step::NeighDel { dev, ip } => del_neighbour(self.index(dev)?, *ip),
            Step::ProxyAdd { dev, ip } => message::set_proxy(self.index(dev)?, *ip),
            Step::ProxyDel { dev, ip } => message::del_proxy(self.index(dev)?, *ip),
            Step::OwnMac { dev, mac } => message::set_own_mac(self.index(dev)?, *mac),
            Step::OwnMacDel { dev, mac } => message::del_own_mac(self.index(dev)?, *mac),
            Step::VlanSet { dev, id, untagged, itself } => {
                message::add_port_vlan(self.index(dev)?, *id, *untagged, *itself)
            }
            Step::VlanDel { dev, id, itself } => message::del_port_vlan(self.index(dev)?, *id, *itself),
            Step::SeatSet { dev, id, mac } => {
                let seat = Seat { port: dev.clone(), kind: FdbKind::Static, sticky: true };
                fabric::set_seat(self.index(dev)?, false, vlan(*id), *mac, &seat)
            }
            Step::SeatDel { dev, id, mac } => fabric::del_seat(self.index(dev)?, false, vlan(*id), *mac),
            other => return Err(OpError::Conflict(format!("not a step for the host: {other:?}"))),
        };
        match self.connection.request(request, flags) {
            Err(error) if deletes && error.is_missing() => Ok(()),
            Err(error) if adds && error.is_existing() => Ok(()),
            result => Ok(result?),
        }
    }

    /// A bridge takes the lowest MTU of its ports, until somebody has changed its own (BROPT_MTU_SET_BY_USER, which what it
    /// was made with does not count for, nor a change to what it is).
    fn pin_mtu(&mut self, bridge: &Dev, mtu: u32) -> Result<(), OpError> {
        for mtu in [mtu.saturating_sub(1), mtu] {
            self.change_link(bridge, &crate::op::LinkChange { mtu: Some(mtu), ..Default::default() })?;
        }
        Ok(())
    }

    fn add_tap(&mut self, dev: &Dev, mtu: u32, queues: u32) -> Result<(), OpError> {
        crate::tap::make(dev, queues).map_err(|source| OpError::Tap { dev: dev.clone(), source })?;
        let Some(link) = self.get_link(dev)? else { return Err(OpError::NoDevice(dev.clone())) };
        self.learn_index(dev, link.index);
        let change = crate::op::LinkChange { mtu: Some(mtu), group: true, ..Default::default() };
        let (request, flags) = set_link(link.index, &change, None);
        Ok(self.connection.request(request, flags)?)
    }
}

fn vlan(id: u16) -> Option<VlanId> {
    VlanId::try_from(u32::from(id)).ok()
}

/// What the kernel says when it lacks a feature, in words.
pub(super) fn without(error: OpError, feature: &str) -> OpError {
    match error.errno() {
        Some(libc::EOPNOTSUPP) => OpError::Conflict(format!("this kernel has no {feature}")),
        _ => error,
    }
}

/// What it says of a parent that cannot have children.
pub(super) fn busy(error: OpError, parent: &Dev) -> OpError {
    let why = match error.errno() {
        Some(libc::EBUSY) => "is a port of a bridge, or has children of another kind",
        Some(libc::EINVAL) => "has a passthru macvlan, which shares it with nobody",
        Some(libc::EADDRINUSE) => "has a macvlan with the same MAC already",
        _ => return error,
    };
    OpError::Conflict(format!("{parent} {why} ({error})"))
}

/// Without IPv6 there is no such file, and nothing to set.
fn write_setting(dev: &Dev, switch: Switch) -> Result<(), OpError> {
    let (name, value) = switch.setting(dev);
    match std::fs::write(format!("/proc/sys/{name}"), value) {
        Err(source) if source.kind() != io::ErrorKind::NotFound => Err(OpError::Sysctl { name, source }),
        _ => Ok(()),
    }
}

/// A step inside a workload's namespace, on the interface with this index.
pub(super) fn apply_inside(connection: &mut Connection, index: u32, op: &LanOp) -> Result<(), OpError> {
    let (request, flags) = match &op.step {
        Step::ChildDel { .. } => del_link(index),
        Step::ChildAlias { alias, .. } => message::set_alias(index, alias),
        Step::PeerNeighSet { ip, mac, .. } => message::set_neighbour(index, *ip, *mac),
        Step::PeerNeighDel { ip, .. } => del_neighbour(index, *ip),
        other => return Err(OpError::Conflict(format!("not a step for a namespace: {other:?}"))),
    };
    let deletes = matches!(op.step, Step::ChildDel { .. } | Step::PeerNeighDel { .. });
    match connection.request(request, flags) {
        Err(error) if deletes && error.is_missing() => Ok(()),
        result => Ok(result?),
    }
}

/// True if nothing is left to do when the interface inside is gone.
pub(super) fn ends_with_interface(op: &Op) -> bool {
    matches!(op, Op::Lan(LanOp { step: Step::ChildDel { .. }, .. }))
}
