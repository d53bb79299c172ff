//! Reading back what is inside a workload's namespace, and hearing of what happens there.

use std::collections::BTreeMap;
use std::io;
use std::os::fd::AsRawFd;
use std::sync::Arc;

use causeway_proto::Mac;
use netlink_packet_route::route::{RouteMessage, RouteProtocol};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use tokio::io::unix::AsyncFd;

use crate::dev::{Dev, PROTOCOL};
use crate::guard::monitor::TableMonitor;
use crate::kernel::{Kernel, Stirred, Watch};
use crate::model::{Attach, Port};
use crate::netlink::NetlinkError;
use crate::netlink::message::{get_addresses, get_link, get_neighbours, get_routes};
use crate::netlink::monitor::Monitor;
use crate::netlink::parse::{self, Kind, RawLink};
use crate::netlink::socket::Connection;
use crate::netns::{Netns, NetnsError};
use crate::observed::{ChildOf, Inside, Observed, Peer};
use crate::op::At;

impl Kernel {
    pub(super) fn look_inside(&mut self, port: &Port, dev: &Dev, links: &[RawLink], observed: &mut Observed) {
        let host = links.iter().find(|l| l.name == *dev).filter(|l| l.kind == Kind::Veth && l.is_marked());
        let pair = host.and_then(|l| Some((l.index, l.peer?)));
        let inside = match self.enter_and_look(port, dev, pair) {
            Ok(inside) => {
                let (netns, interface) = (port.netns.clone(), port.interface.clone());
                self.note_child(&At { dev: dev.clone(), netns, interface }, &inside);
                inside
            }
            Err(error) => {
                let id = crate::netns::identify(&port.netns);
                self.watches
                    .insert(dev.clone(), Watch { netns: port.netns.clone(), id, task: None, rules: None });
                Inside::Unreachable(error.to_string())
            }
        };
        observed.insides.insert(dev.clone(), inside);
    }

    fn enter_and_look(
        &mut self,
        port: &Port,
        dev: &Dev,
        pair: Option<(u32, u32)>,
    ) -> Result<Inside, NetnsError> {
        let netns = Netns::open(&port.netns)?;
        if netns.id() == self.own {
            return Err(NetnsError::Own(port.netns.clone()));
        }
        let failed = |act, source| NetnsError::Failed { netns: port.netns.clone(), act, source };
        let child = matches!(port.attach, Attach::Child(_));
        let watched = self
            .watches
            .get(dev)
            .is_some_and(|w| w.id == Some(netns.id()) && w.task.is_some() && (w.rules.is_some() || !child));
        let names = &self.names;
        let (monitors, looked) = netns.run(|| {
            // Subscribe first, then look: nothing falls between.
            let subscribe = || -> io::Result<_> {
                Ok((Monitor::of_workload()?, child.then(TableMonitor::open).transpose()?))
            };
            let monitors = if watched { Ok(None) } else { subscribe().map(Some) };
            let mut looked = look(&port.interface, pair, names, port.attach == Attach::Adopted);
            if let Ok(Inside::Present(peer)) = &mut looked
                && child
            {
                peer.guard = crate::guard::nft::read_inside(dev);
            }
            (monitors, looked)
        })?;
        if let Some((links, rules)) = monitors.map_err(|e| failed("subscribe", e))? {
            let unwatched = |e| failed("watch", e);
            let links = links.register().map_err(unwatched)?;
            let rules = rules.map(TableMonitor::register).transpose().map_err(unwatched)?;
            let task = Some(watch(links, Monitor::discard, dev.clone(), &self.stirred));
            let rules = rules.map(|rules| watch(rules, TableMonitor::discard, dev.clone(), &self.stirred));
            let (netns, id) = (port.netns.clone(), Some(netns.id()));
            self.watches.insert(dev.clone(), Watch { netns, id, task, rules });
        }
        looked.map_err(|e| failed("read", io::Error::other(e.to_string())))
    }
}

/// `discard` says whether anything of note had arrived.
fn watch<M: AsRawFd + Send + Sync + 'static>(
    mut monitor: AsyncFd<M>,
    discard: fn(&mut M) -> io::Result<bool>,
    dev: Dev,
    stirred: &Arc<Stirred>,
) -> tokio::task::AbortHandle {
    let stirred = Arc::clone(stirred);
    let task = tokio::spawn(async move {
        loop {
            match monitor.readable_mut().await {
                Ok(mut ready) => ready.clear_ready(),
                Err(_) => return,
            }
            match discard(monitor.get_mut()) {
                Ok(true) => stirred.add(dev.clone()),
                Ok(false) => {}
                Err(_) => return,
            }
        }
    });
    task.abort_handle()
}

/// Inside the namespace: is the peer of our host side here, under the right name, and what has it?
fn look(
    interface: &Dev,
    pair: Option<(u32, u32)>,
    names: &BTreeMap<u32, Dev>,
    adopted: bool,
) -> Result<Inside, NetlinkError> {
    let mut connection = Connection::open()?;
    let found = connection.dump(get_link(None))?;
    let links: Vec<RawLink> = found
        .iter()
        .filter_map(|m| if let RouteNetlinkMessage::NewLink(l) = m { parse::link(l) } else { None })
        .collect();
    let Some(link) = links.iter().find(|l| l.name == *interface) else { return Ok(Inside::Absent) };
    // Indexes are per namespace, so a stranger's pair could have the same two: our group tells them apart.
    let peer = link.kind == Kind::Veth && pair == link.peer.map(|host| (host, link.index));
    let child = match link.kind {
        // Of an adopted one nothing is ours to take away.
        Kind::Child(child) if !adopted => {
            Some(ChildOf { child, parent: link.peer.and_then(|i| names.get(&i).cloned()) })
        }
        _ => None,
    };
    if !adopted && (!link.link.grouped || !peer && child.is_none()) {
        return Ok(Inside::Foreign);
    }
    let mut peer = Peer {
        up: link.link.up,
        loopback_up: links.iter().any(|l| l.name.as_str() == "lo" && l.link.up),
        accept_ra: link.accept_ra,
        child,
        alias: link.link.alias.clone(),
        ..Peer::made(link.mac.unwrap_or(Mac::new([0; 6])), link.link.mtu)
    };
    for message in connection.dump(get_addresses())? {
        if let RouteNetlinkMessage::NewAddress(message) = message
            && let Some((_, address, ours)) = parse::address(&message).filter(|a| a.0 == link.index)
        {
            peer.addresses.insert(address, ours);
        }
    }
    let is_child = peer.child.is_some();
    for family in [AddressFamily::Inet, AddressFamily::Inet6].into_iter().filter(|_| is_child) {
        for message in connection.dump(get_neighbours(family, 0))? {
            if let RouteNetlinkMessage::NewNeighbour(message) = message
                && let Some((_, ip, found)) = parse::neighbour(&message).filter(|n| n.0 == link.index)
                && let Some(mac) = found.mac.filter(|_| found.protocol == PROTOCOL)
            {
                peer.neighbours.insert(ip, mac);
            }
        }
    }
    for family in [AddressFamily::Inet, AddressFamily::Inet6] {
        for message in connection.dump(any_protocol(get_routes(family)))? {
            if let RouteNetlinkMessage::NewRoute(message) = message
                && let Some((_, gateway, ours)) = parse::default_route(&message).filter(|r| r.0 == link.index)
            {
                peer.gateways.insert(gateway, ours);
            }
        }
    }
    Ok(Inside::Present(peer))
}

/// A workload's own default route serves as well as ours.
fn any_protocol(request: RouteNetlinkMessage) -> RouteNetlinkMessage {
    let RouteNetlinkMessage::GetRoute(message) = request else { return request };
    let mut any = RouteMessage::default();
    any.header.address_family = message.header.address_family;
    any.header.protocol = RouteProtocol::Unspec;
    RouteNetlinkMessage::GetRoute(any)
}
