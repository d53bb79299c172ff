//! Keeping switching and routing up to date by what the kernel says happened.

use netlink_packet_route::RouteNetlinkMessage;
use netlink_packet_route::neighbour::NeighbourMessage;

use crate::dev::{Dev, FabricRole, Role};
use crate::fabric::{Object, Seat, Seen, Thing};
use crate::kernel::{Heard, Kernel};
use crate::model::{Desired, Key};
use crate::netlink::NetlinkError;
use crate::netlink::fabric as wire;
use crate::netlink::parse;
use crate::observed::{FdbKind, Observed, TunnelEntry};

impl Kernel {
    fn entry_thing(&self, message: &NeighbourMessage) -> Option<(Thing, Object)> {
        if let Some((raw, vlan)) = wire::entry(message) {
            let dev = self.fabric.names.get(&raw.index)?;
            let tunnel = matches!(dev.role(), Some(Role::Vxlan(_)))
                || matches!(dev.fabric_role(), Some(FabricRole::Transit(_)));
            if raw.own && tunnel {
                if raw.mac.is_zero() {
                    return Some((Thing::Flood(dev.clone(), raw.vtep?), Object::Flood));
                }
                let entry = TunnelEntry { vtep: raw.vtep, lasting: raw.kind != FdbKind::Dynamic };
                return Some((Thing::Tunnel(dev.clone(), raw.mac), Object::Tunnel(entry)));
            }
            let bridge = self.fabric.names.get(&raw.bridge?)?;
            let switch = *bridge == Dev::switch();
            // Entries for no VLAN concern nobody in a bridge that knows VLANs, and the other way round.
            if switch != vlan.is_some() {
                return None;
            }
            let seat = Seat { port: dev.clone(), kind: raw.kind, sticky: raw.sticky };
            return Some((Thing::Fdb(bridge.clone(), vlan, raw.mac), Object::Fdb(seat)));
        }
        let (index, ip, found) = parse::neighbour(message)?;
        let dev = self.fabric.names.get(&index)?;
        let ours = matches!(dev.fabric_role(), Some(FabricRole::Svi(_) | FabricRole::Router(_)));
        ours.then(|| (Thing::Neighbour(dev.clone(), ip), Object::Neighbour(found)))
    }

    pub(super) fn take_fabric_entry(&self, message: &NeighbourMessage, seen: &mut Seen) -> Option<Thing> {
        let (thing, object) = self.entry_thing(message)?;
        seen.things.insert(thing.clone(), object);
        Some(thing)
    }

    /// Notes what an event means for switching and routing.
    pub(in crate::kernel) fn hear_fabric(
        &mut self,
        message: &RouteNetlinkMessage,
        observed: &mut Observed,
        heard: &mut Heard,
    ) {
        let seen = &mut observed.fabric;
        match message {
            RouteNetlinkMessage::NewLink(message) | RouteNetlinkMessage::DelLink(message) => {
                let known = self.fabric.names.contains_key(&message.header.index);
                let named = parse::link(message).is_some_and(|raw| {
                    let bridge = matches!(raw.name.role(), Some(Role::Bridge(_) | Role::Vxlan(_)));
                    raw.name.fabric_role().is_some() || bridge || self.fabric.wanted.contains(&raw.name)
                });
                self.fabric.stirred |= known || named;
            }
            RouteNetlinkMessage::NewAddress(message) | RouteNetlinkMessage::DelAddress(message) => {
                self.fabric.stirred |= self.routing_dev(message.header.index).is_some();
            }
            RouteNetlinkMessage::DelRoute(message) => {
                self.fabric.stirred |= wire::read_route(message).is_some();
            }
            RouteNetlinkMessage::NewNeighbour(message) if !wire::is_echo(message) => {
                heard.keys.extend(self.take_fabric_entry(message, seen).map(Key::Fabric));
            }
            RouteNetlinkMessage::DelNeighbour(message) => {
                let Some((thing, object)) = self.entry_thing(message) else { return };
                // A late event of what has been replaced says nothing about the new one.
                let same = match (seen.things.get(&thing), &object) {
                    (Some(Object::Fdb(now)), Object::Fdb(gone)) => now.port == gone.port,
                    (Some(Object::Tunnel(now)), Object::Tunnel(gone)) => now.vtep == gone.vtep,
                    (now, _) => now.is_some(),
                };
                if same {
                    seen.things.remove(&thing);
                }
                heard.keys.insert(Key::Fabric(thing));
            }
            _ => {}
        }
    }

    /// Reads back what events were about.
    pub(in crate::kernel) fn settle_fabric(
        &mut self,
        desired: &Desired,
        observed: &mut Observed,
        heard: &mut Heard,
    ) -> Result<(), NetlinkError> {
        if self.fabric.stirred {
            let before = observed.fabric.clone();
            self.refresh_fabric(desired, observed)?;
            if before != observed.fabric {
                heard.keys.insert(Key::Fabric(Thing::structure()));
            }
        }
        Ok(())
    }
}
