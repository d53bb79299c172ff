//! What the kernel is like after a step.

use causeway_proto::Mac;

use super::{LanOp, Step};
use crate::dev::Dev;
use crate::lan::seen::{HostAddr, Kind, SeenLink, Switch};
use crate::model::{Child, IfAddr, MacvlanMode};
use crate::observed::{ChildOf, FdbEntry, FdbKind, FdbPort, HostSide, Inside, Observed, Peer, PortFlags};
use crate::op::At;

impl Observed {
    /// What the kernel is like after a step succeeded.
    pub(crate) fn apply_lan(&mut self, op: &LanOp) {
        match &op.step {
            Step::LinkDel { dev } => self.forget_lan_link(dev),
            Step::BridgeAdd { dev, mac, mtu, aware } => {
                let made =
                    SeenLink { mac: Some(*mac), ..SeenLink::made(Kind::Bridge { aware: *aware }, *mtu) };
                self.lan.links.insert(dev.clone(), made);
            }
            Step::VlanAdd { dev, parent, id, mtu } => {
                let kind = Kind::Vlan { id: *id, parent: Some(parent.clone()) };
                // It has its parent's address.
                let mac = self.lan.links.get(parent).and_then(|l| l.mac);
                self.lan.links.insert(dev.clone(), SeenLink { mac, ..SeenLink::made(kind, *mtu) });
            }
            Step::ShimAdd { dev, parent, mac, mtu } => {
                let child = Child::Macvlan(MacvlanMode::Bridge);
                let kind = Kind::Child { child, parent: Some(parent.clone()) };
                let made = SeenLink { mac: Some(*mac), ..SeenLink::made(kind, *mtu) };
                self.lan.links.insert(dev.clone(), made);
            }
            Step::TapAdd { dev, mtu, .. } => {
                let made = SeenLink::made(Kind::Tap, *mtu);
                let side = HostSide { link: made.link.clone(), flags: made.flags, tap: true };
                self.ports.insert(dev.clone(), side);
                self.lan.links.insert(dev.clone(), made);
            }
            Step::VethAdd { .. } | Step::ChildAdd { .. } | Step::ChildDel { .. } => self.apply_port(&op.step),
            Step::Set { .. } | Step::Release { .. } | Step::Unmark { .. } | Step::Flags { .. } => {
                self.apply_set(&op.step);
            }
            Step::Move { uplink, bridge, back } => self.apply_move(uplink, bridge, *back),
            _ => self.apply_lan_entry(&op.step),
        }
    }

    fn apply_port(&mut self, step: &Step) {
        match step {
            Step::VethAdd { at, bridge, mac, mtu } => {
                let mut made = SeenLink::made(Kind::Veth, *mtu);
                made.link.master.clone_from(bridge);
                self.lan.links.insert(at.dev.clone(), made);
                self.insides.insert(at.dev.clone(), Inside::Present(Peer::made(*mac, *mtu)));
            }
            Step::ChildAdd { at, parent, child, mac, mtu } => {
                let own = match child {
                    Child::Ipvlan => self.lan.links.get(parent).and_then(|l| l.mac).unwrap_or(*mac),
                    Child::Macvlan(_) => *mac,
                };
                let child = Some(ChildOf { child: *child, parent: Some(parent.clone()) });
                let peer = Peer { child, ..Peer::made(own, *mtu) };
                self.insides.insert(at.dev.clone(), Inside::Present(peer));
            }
            Step::ChildDel { at } if self.lan.strays.remove(at) => {}
            Step::ChildDel { at } => _ = self.insides.insert(at.dev.clone(), Inside::Absent),
            _ => {}
        }
    }

    fn apply_set(&mut self, step: &Step) {
        match step {
            Step::Set { dev, change } => {
                self.apply_change(dev, change);
                let Some(found) = self.lan.links.get_mut(dev) else { return };
                found.mac = change.mac.or(found.mac);
                let link = &mut found.link;
                link.mtu = change.mtu.unwrap_or(link.mtu);
                link.grouped |= change.group;
                link.addrgen_none |= change.addrgen_none;
                link.up = (link.up || change.up) && !change.down;
                if let Some(alias) = &change.alias {
                    link.alias.clone_from(alias);
                }
                if let Some(master) = &change.master {
                    link.master = Some(master.clone());
                    self.lan.seats.retain(|_, (port, _)| port != dev);
                    found.flags = PortFlags {
                        forward_gratuitous: found.flags.forward_gratuitous,
                        ..PortFlags::default()
                    };
                }
            }
            Step::Release { dev } => {
                self.ports.get_mut(dev).into_iter().for_each(|port| port.link.master = None);
                if let Some(found) = self.lan.links.get_mut(dev) {
                    found.link.master = None;
                }
                self.lan.vlans.remove(dev);
                self.lan.seats.retain(|_, (port, _)| port != dev);
                self.fdb.retain(|_, e| e.port != FdbPort::Port(dev.clone()));
            }
            Step::Unmark { dev } => {
                // Nothing says any more that it is anybody's.
                self.ports.remove(dev);
                if let Some(found) = self.lan.links.get_mut(dev) {
                    found.link.alias.clear();
                }
            }
            Step::Flags { dev, flags } => {
                if let Some(found) = self.flags_mut(dev) {
                    found.learning = flags.learning;
                    found.neigh_suppress = flags.neigh_suppress;
                    found.locked = flags.locked.unwrap_or(found.locked);
                }
                if let Some(found) = self.lan.links.get_mut(dev) {
                    found.flags.learning = flags.learning;
                    found.flags.neigh_suppress = flags.neigh_suppress;
                    found.flags.locked = flags.locked.unwrap_or(found.flags.locked);
                }
            }
            _ => {}
        }
    }

    fn apply_move(&mut self, uplink: &Dev, bridge: &Dev, back: bool) {
        let (from, to) = if back { (bridge, uplink) } else { (uplink, bridge) };
        if let Some(addresses) = self.lan.addresses.get_mut(from) {
            let theirs: Vec<IfAddr> = addresses.iter().filter(|(_, f)| !f.ours).map(|(a, _)| *a).collect();
            theirs.iter().for_each(|a| _ = addresses.remove(a));
            let facts = HostAddr { ours: false, leased: false };
            self.lan.addresses.entry(to.clone()).or_default().extend(theirs.into_iter().map(|a| (a, facts)));
        }
        if let Some(found) = self.lan.links.get_mut(uplink) {
            found.link.master = (!back).then(|| bridge.clone());
            found.flags =
                PortFlags { forward_gratuitous: found.flags.forward_gratuitous, ..PortFlags::default() };
        }
    }

    fn apply_lan_entry(&mut self, step: &Step) {
        let seen = &mut self.lan;
        match step {
            Step::Sysctl { dev, switch: Switch::NoRa } => {
                seen.links.get_mut(dev).into_iter().for_each(|l| l.accept_ra = false);
            }
            Step::Sysctl { dev, switch } => _ = seen.switches.insert((dev.clone(), *switch)),
            Step::AddrAdd { dev, address } => {
                let facts = HostAddr { ours: true, leased: false };
                seen.addresses.entry(dev.clone()).or_default().insert(*address, facts);
            }
            Step::AddrDel { dev, address } => {
                seen.addresses.get_mut(dev).into_iter().for_each(|a| _ = a.remove(address));
            }
            Step::RuleAdd { rule } => _ = seen.rules.insert(rule.clone()),
            Step::RuleDel { rule } => _ = seen.rules.remove(rule),
            Step::WaySet { way } => {
                seen.ways.retain(|w| !w.excludes(way));
                seen.ways.insert(way.clone());
            }
            Step::WayDel { way } => _ = seen.ways.remove(way),
            Step::RouteSet { route } => {
                seen.routes.retain(|r| r.to != route.to);
                seen.routes.insert(route.clone());
            }
            Step::RouteDel { route } => _ = seen.routes.remove(route),
            Step::NeighSet { dev, ip, mac } => _ = seen.neighbours.insert((dev.clone(), *ip), *mac),
            Step::NeighDel { dev, ip } => _ = seen.neighbours.remove(&(dev.clone(), *ip)),
            Step::ProxyAdd { dev, ip } => _ = seen.proxies.insert((dev.clone(), *ip)),
            Step::ProxyDel { dev, ip } => _ = seen.proxies.remove(&(dev.clone(), *ip)),
            Step::OwnMac { dev, mac } => _ = seen.own_macs.insert((dev.clone(), *mac)),
            Step::OwnMacDel { dev, mac } => _ = seen.own_macs.remove(&(dev.clone(), *mac)),
            Step::VlanSet { dev, id, untagged, .. } => {
                _ = seen.vlans.entry(dev.clone()).or_default().insert(*id, *untagged);
            }
            Step::VlanDel { dev, id, .. } => _ = seen.vlans.entry(dev.clone()).or_default().remove(id),
            Step::SeatSet { dev, id, mac } => _ = seen.seats.insert((*id, *mac), (dev.clone(), true)),
            Step::SeatDel { id, mac, .. } => _ = seen.seats.remove(&(*id, *mac)),
            Step::ChildAlias { at, alias } => self.peer_mut(at, |peer| peer.alias.clone_from(alias)),
            Step::PeerNeighSet { at, ip, mac } => {
                self.peer_mut(at, |peer| _ = peer.neighbours.insert(*ip, *mac))
            }
            Step::PeerNeighDel { at, ip } => self.peer_mut(at, |peer| _ = peer.neighbours.remove(ip)),
            _ => {}
        }
    }

    fn peer_mut(&mut self, at: &At, change: impl FnOnce(&mut Peer)) {
        if let Some(Inside::Present(peer)) = self.insides.get_mut(&at.dev) {
            change(peer);
        }
    }

    /// True if frames to a workload go to its port, whatever frames say.
    pub(crate) fn has_static(&self, vni: causeway_proto::Vni, mac: Mac, dev: &Dev) -> bool {
        let want = FdbEntry { port: FdbPort::Port(dev.clone()), kind: FdbKind::Static, sticky: true };
        self.fdb.get(&(vni, mac)) == Some(&want)
    }
}
