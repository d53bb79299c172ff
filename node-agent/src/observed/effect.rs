//! What the kernel is like after a step, or after a link has gone.

use causeway_proto::{Mac, Vni};

use super::{
    Bridge, FdbEntry, FdbKind, FdbPort, HostSide, Inside, Link, Neighbour, Observed, Peer, PortFlags,
    TunnelEntry, Vxlan,
};
use crate::dev::{Dev, Role};
use crate::model::Place;
use crate::op::{Half, LinkChange, Op};
use crate::rate::lead::Diverted;
use crate::rate::{Found, Led, Shaping};

impl Observed {
    /// Forgets the bridge of a network and all that the kernel deletes with it.
    pub fn forget_bridge(&mut self, vni: Vni) {
        self.bridges.remove(&vni);
        self.fabric.forget(&Dev::bridge(vni));
        self.fdb.retain(|(v, _), _| *v != vni);
        self.neighbours.retain(|(v, _), _| *v != vni);
        let bridge = Dev::bridge(vni);
        let links = self.vxlans.values_mut().map(|x| (&mut x.link, &mut x.flags));
        for (link, flags) in links.chain(self.ports.values_mut().map(|p| (&mut p.link, &mut p.flags))) {
            if link.master.as_ref() == Some(&bridge) {
                link.master = None;
                *flags = PortFlags { forward_gratuitous: flags.forward_gratuitous, ..PortFlags::default() };
            }
        }
    }

    /// Forgets the VXLAN device of a network and all that the kernel deletes with it.
    pub fn forget_vxlan(&mut self, vni: Vni) {
        self.vxlans.remove(&vni);
        self.tunnels.retain(|(v, _), _| *v != vni);
        self.floods.retain(|(v, _)| *v != vni);
        self.fdb.retain(|(v, _), e| *v != vni || e.port != FdbPort::Vxlan);
    }

    /// Forgets a host side and all that the kernel deletes with it.
    pub fn forget_port(&mut self, dev: &Dev) {
        self.ports.remove(dev);
        self.leftovers.remove(dev);
        self.guards.forget_link(dev);
        self.fdb.retain(|_, e| e.port != FdbPort::Port(dev.clone()));
        let shaping = self.rates.remove(dev).unwrap_or_default().orphaned();
        self.set_rates(dev, shaping);
        if let Some(inside @ Inside::Present(_)) = self.insides.get_mut(dev) {
            *inside = Inside::Absent;
        }
    }

    fn set_rates(&mut self, dev: &Dev, shaping: Shaping) {
        if shaping == Shaping::default() {
            self.rates.remove(dev);
        } else {
            self.rates.insert(dev.clone(), shaping);
        }
    }

    /// What the kernel is like after `op` succeeded.
    pub fn apply(&mut self, op: &Op) {
        match op {
            Op::LinkDel { dev } => match dev.role() {
                Some(Role::Bridge(vni)) => self.forget_bridge(vni),
                Some(Role::Vxlan(vni)) => self.forget_vxlan(vni),
                Some(Role::Diverter) => {
                    self.diverted.remove(dev);
                    self.leftovers.remove(dev);
                }
                _ => self.forget_port(dev),
            },
            Op::Divert { dev, shape, leads } => {
                let bucket = shape.found(Led::ByFilter);
                self.diverted.insert(dev.clone(), Diverted { bucket, leads: leads.clone() });
            }
            Op::DivertClean { link } => _ = self.astray.remove(link),
            Op::BridgeAdd { .. } | Op::VxlanAdd { .. } | Op::PortAdd { .. } => self.apply_add(op),
            Op::LinkSet { dev, change } => self.apply_change(dev, change),
            Op::PortFlags { dev, flags } => {
                if let Some(found) = self.flags_mut(dev) {
                    found.learning = flags.learning;
                    found.neigh_suppress = flags.neigh_suppress;
                    found.locked = flags.locked.unwrap_or(found.locked);
                    // An old kernel ignores the attribute and never shows it.
                    if found.forward_gratuitous.is_some() {
                        found.forward_gratuitous = flags.forward_gratuitous;
                    }
                }
            }
            Op::AcceptRaOff { dev } => {
                if let Some(Role::Bridge(vni)) = dev.role()
                    && let Some(bridge) = self.bridges.get_mut(&vni)
                {
                    bridge.accept_ra = false;
                }
            }
            Op::GuardSet { dev, guard, .. } => {
                self.guards.chains.insert((guard.hook.family(), dev.clone()), guard.chain(dev));
            }
            Op::GuardDel { family, dev, .. } => {
                self.guards.chains.remove(&(*family, dev.clone()));
            }
            Op::Rate { dev, direction, shape, led } => {
                let mut shaping = self.rates.get(dev).copied().unwrap_or_default();
                *shaping.of_mut(*direction) = shape.map_or(Found::None, |shape| shape.found(*led));
                self.set_rates(dev, shaping);
            }
            Op::FdbSet { vni, mac, place } => self.apply_fdb(*vni, *mac, place),
            Op::FdbDel { vni, mac, half: Half::Bridge, .. } => {
                self.fdb.remove(&(*vni, *mac));
            }
            Op::FdbDel { vni, mac, half: Half::Tunnel, .. } => {
                self.tunnels.remove(&(*vni, *mac));
            }
            Op::FloodAdd { vni, vtep } => {
                self.floods.insert((*vni, *vtep));
            }
            Op::FloodDel { vni, vtep } => {
                self.floods.remove(&(*vni, *vtep));
            }
            Op::NeighSet { vni, ip, mac } => {
                let new = Neighbour { mac: Some(*mac), lasting: true, protocol: crate::dev::PROTOCOL };
                self.neighbours.insert((*vni, *ip), new);
            }
            Op::NeighDel { vni, ip } => {
                self.neighbours.remove(&(*vni, *ip));
            }
            Op::Fabric(step) => self.fabric.apply(step),
            Op::Lan(op) => self.apply_lan(op),
            _ => self.apply_inside(op),
        }
    }

    fn apply_add(&mut self, op: &Op) {
        match op {
            Op::BridgeAdd { vni, mac, mtu } => {
                let link = Link { mtu: *mtu, grouped: true, ..Link::default() };
                self.bridges.insert(*vni, Bridge { link, mac: *mac, accept_ra: true });
            }
            Op::VxlanAdd { vni, local, port, mtu } => {
                let link = Link { mtu: *mtu, grouped: true, ..Link::default() };
                let flags = PortFlags::default();
                let (local, port) = (Some(*local), *port);
                self.vxlans.insert(*vni, Vxlan { link, vni: vni.get(), local, port, learning: false, flags });
            }
            Op::PortAdd { at, vni, mac, mtu } => {
                let master = Some(Dev::bridge(*vni));
                let link = Link { mtu: *mtu, grouped: true, master, ..Link::default() };
                self.ports.insert(at.dev.clone(), HostSide { link, flags: PortFlags::default(), tap: false });
                let peer = Peer::made(*mac, *mtu);
                self.insides.insert(at.dev.clone(), Inside::Present(peer));
            }
            _ => {}
        }
    }

    fn link_mut(&mut self, dev: &Dev) -> Option<&mut Link> {
        match dev.role() {
            Some(Role::Bridge(vni)) => self.bridges.get_mut(&vni).map(|b| &mut b.link),
            Some(Role::Vxlan(vni)) => self.vxlans.get_mut(&vni).map(|x| &mut x.link),
            _ => self.ports.get_mut(dev).map(|p| &mut p.link),
        }
    }

    pub(crate) fn flags_mut(&mut self, dev: &Dev) -> Option<&mut PortFlags> {
        match dev.role() {
            Some(Role::Vxlan(vni)) => self.vxlans.get_mut(&vni).map(|x| &mut x.flags),
            _ => self.ports.get_mut(dev).map(|p| &mut p.flags),
        }
    }

    pub(crate) fn apply_change(&mut self, dev: &Dev, change: &LinkChange) {
        if let (Some(mac), Some(Role::Bridge(vni))) = (change.mac, dev.role())
            && let Some(bridge) = self.bridges.get_mut(&vni)
        {
            bridge.mac = mac;
        }
        let Some(link) = self.link_mut(dev) else { return };
        link.mtu = change.mtu.unwrap_or(link.mtu);
        link.grouped |= change.group;
        link.addrgen_none |= change.addrgen_none;
        link.up = (link.up || change.up) && !change.down;
        if let Some(alias) = &change.alias {
            link.alias.clone_from(alias);
        }
        if let Some(master) = &change.master {
            link.master = Some(master.clone());
            if let Some(flags) = self.flags_mut(dev) {
                *flags = PortFlags { forward_gratuitous: flags.forward_gratuitous, ..PortFlags::default() };
            }
        }
    }

    fn apply_fdb(&mut self, vni: Vni, mac: Mac, place: &Place) {
        let entry = match place {
            Place::Remote(vtep) => {
                self.tunnels.insert((vni, mac), TunnelEntry { vtep: Some(*vtep), lasting: true });
                FdbEntry { port: FdbPort::Vxlan, kind: FdbKind::Extern, sticky: false }
            }
            Place::Local(dev) => {
                FdbEntry { port: FdbPort::Port(dev.clone()), kind: FdbKind::Static, sticky: true }
            }
        };
        self.fdb.insert((vni, mac), entry);
    }

    fn apply_inside(&mut self, op: &Op) {
        let Some(at) = op.inside() else { return };
        let Some(Inside::Present(peer)) = self.insides.get_mut(&at.dev) else { return };
        match op {
            Op::PeerSet { mac, mtu, up, .. } => {
                peer.mac = mac.unwrap_or(peer.mac);
                peer.mtu = mtu.unwrap_or(peer.mtu);
                peer.up |= *up;
            }
            // What the kernel does with the default routes is read back.
            Op::PeerDown { .. } => peer.up = false,
            Op::LoopbackUp { .. } => peer.loopback_up = true,
            Op::PeerAcceptRaOff { .. } => peer.accept_ra = false,
            Op::AddrAdd { address, .. } => {
                peer.addresses.insert(*address, true);
            }
            Op::AddrDel { address, .. } => {
                peer.addresses.remove(address);
            }
            Op::GuardInside { at, guard } => {
                peer.guard = guard.as_ref().map(|guard| guard.chain(&at.dev));
            }
            Op::GatewayAdd { gateway, .. } => {
                peer.gateways.insert(*gateway, true);
            }
            Op::GatewayDel { gateway, .. } => {
                peer.gateways.remove(gateway);
            }
            _ => {}
        }
    }
}
