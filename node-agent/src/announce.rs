//! Telling the neighbourhood where an address lives now: gratuitous ARP (request and well-formed reply, since receivers
//! differ in which they believe) and unsolicited neighbour advertisements, sent on the workload's own interface, so that
//! they enter the bridge where the workload is. The kernel's `arp_notify` does not replace it: it sends one frame at
//! link-up, before the bridge port forwards, and none if the address comes later.
#![allow(unsafe_code, reason = "a link-layer socket address has no safe constructor")]

use std::collections::BTreeSet;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use causeway_proto::Mac;
use netlink_packet_route::link::LinkMessage;
use netlink_packet_route::neighbour::{NeighbourAddress, NeighbourAttribute, NeighbourState};
use netlink_packet_route::{AddressFamily, RouteNetlinkMessage};
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};
use tokio::time::{Instant, sleep, sleep_until};

use crate::kernel::OpError;
use crate::netlink::message::{del_neighbour, get_neighbours};
use crate::netlink::parse;
use crate::netlink::socket::Connection;
use crate::netns::{Netns, identify};
use crate::op::At;

/// When to send, counted from the moment the bridge port forwards. The last ones are for receivers that hold an entry
/// for a second (Linux' locktime) or lose the first.
const SCHEDULE: [Duration; 5] = [
    Duration::ZERO,
    Duration::from_millis(50),
    Duration::from_millis(200),
    Duration::from_millis(1100),
    Duration::from_secs(3),
];
/// Up to this time after that, questions of the workload that were not answered are forgotten.
const FORGET: Duration = Duration::from_millis(200);
/// A port that does not forward by then is announced all the same.
const FORWARDING_DEADLINE: Duration = Duration::from_secs(2);

/// Starts the burst for a workload whose host side has index `port`; returns at once.
pub(crate) fn start(at: &At, port: u32, mac: Mac, addresses: BTreeSet<IpAddr>) -> Result<(), OpError> {
    let netns = Netns::open(&at.netns)?;
    let interface = at.interface.clone();
    let opened = netns.run(|| {
        Ok::<_, OpError>((
            open(interface.as_str()).map_err(OpError::Announce)?,
            Inside::open(interface.as_str())?,
        ))
    });
    let ((socket, to), mut inside) = opened.map_err(OpError::Netns)??;
    let mut host = Connection::open()?;
    let frames: Vec<Vec<u8>> = addresses.into_iter().flat_map(|ip| frames(mac, ip)).collect();
    let (named, id) = (at.netns.clone(), netns.id());
    drop(netns);
    tokio::spawn(async move {
        let deadline = Instant::now() + FORWARDING_DEADLINE;
        while !forwards(&mut host, port) && Instant::now() < deadline {
            sleep(Duration::from_millis(5)).await;
        }
        let start = Instant::now();
        for wait in SCHEDULE {
            sleep_until(start + wait).await;
            // The socket keeps the namespace alive; do not outstay its name.
            if identify(&named) != Some(id) {
                return;
            }
            for frame in &frames {
                if let Err(error) = socket.send_to(frame, &to) {
                    tracing::debug!(%error, netns = %named, "announcement not sent");
                }
            }
            if wait <= FORGET {
                inside.forget_questions();
            }
        }
    });
    Ok(())
}

/// The workload's interface, from inside its namespace.
struct Inside {
    connection: Connection,
    index: u32,
}

impl Inside {
    fn open(interface: &str) -> Result<Self, OpError> {
        let index = nix::net::if_::if_nametoindex(interface).map_err(io::Error::from);
        Ok(Inside { connection: Connection::open()?, index: index.map_err(OpError::Announce)? })
    }

    /// When a link comes up, the kernel lets frames through to the workload a moment before it lets its own out: who hears
    /// something just then asks for a neighbour, the question is lost, and the next one follows after a second
    /// (retrans_time). Without the open question the next packet asks again at once.
    fn forget_questions(&mut self) {
        for family in [AddressFamily::Inet, AddressFamily::Inet6] {
            // The interface is not a filter here: a strict dump refuses it.
            let Ok(found) = self.connection.dump(get_neighbours(family, 0)) else { continue };
            for ip in found.iter().filter_map(|message| question(message, self.index)) {
                // Answered or given up since: so much the better.
                let (message, flags) = del_neighbour(self.index, ip);
                if let Err(error) = self.connection.request(message, flags) {
                    tracing::debug!(%error, %ip, "an open question stays");
                }
            }
        }
    }
}

/// The address that is asked for on an interface.
fn question(message: &RouteNetlinkMessage, index: u32) -> Option<IpAddr> {
    let RouteNetlinkMessage::NewNeighbour(found) = message else { return None };
    if found.header.ifindex != index || found.header.state != NeighbourState::Incomplete {
        return None;
    }
    found.attributes.iter().find_map(|attribute| match attribute {
        NeighbourAttribute::Destination(NeighbourAddress::Inet(ip)) => Some(IpAddr::V4(*ip)),
        NeighbourAttribute::Destination(NeighbourAddress::Inet6(ip)) => Some(IpAddr::V6(*ip)),
        _ => None,
    })
}

/// Starts the burst from a link of the host: as `mac` or as the link itself, with a VLAN tag or without. It ends when
/// the port `of` is down or gone: its addresses may be elsewhere by then, and nobody may claim them here.
pub(crate) fn start_on_host(
    dev: &crate::dev::Dev,
    mac: Option<Mac>,
    vlan: Option<u16>,
    addresses: BTreeSet<IpAddr>,
    of: Option<crate::dev::Dev>,
) -> Result<(), OpError> {
    let (socket, to) = open(dev.as_str()).map_err(OpError::Announce)?;
    let mac = match mac {
        Some(mac) => mac,
        None => own_mac(dev)?,
    };
    let frames: Vec<Vec<u8>> =
        addresses.into_iter().flat_map(|ip| frames(mac, ip)).map(|frame| tagged(frame, vlan)).collect();
    // At once: who sends to the old place loses what it sends.
    for frame in &frames {
        let _ = socket.send_to(frame, &to);
    }
    let mut host = Connection::open()?;
    tokio::spawn(async move {
        let start = Instant::now();
        for wait in SCHEDULE {
            sleep_until(start + wait).await;
            if of.as_ref().is_some_and(|port| !is_up(&mut host, port)) {
                return;
            }
            for frame in &frames {
                if let Err(error) = socket.send_to(frame, &to) {
                    tracing::debug!(%error, "announcement not sent");
                }
            }
        }
    });
    Ok(())
}

/// Announces addresses from a link of the host, once and before it returns. Best effort: it heals by itself, later.
pub(crate) fn once(dev: &crate::dev::Dev, addresses: &BTreeSet<IpAddr>) {
    let Ok(mac) = own_mac(dev) else { return };
    let Ok((socket, to)) = open(dev.as_str()) else { return };
    for frame in addresses.iter().flat_map(|ip| frames(mac, *ip)) {
        if let Err(error) = socket.send_to(&frame, &to) {
            tracing::debug!(%error, "announcement not sent");
        }
    }
}

fn is_up(host: &mut Connection, dev: &crate::dev::Dev) -> bool {
    match host.get(crate::netlink::message::get_link(Some(dev))) {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => parse::link(&link).is_none_or(|l| l.link.up),
        _ => false,
    }
}

/// The address of a link in this thread's namespace.
fn own_mac(dev: &crate::dev::Dev) -> Result<Mac, OpError> {
    let found = Connection::open()?.get(crate::netlink::message::get_link(Some(dev)))?;
    let link = match &found {
        Some(RouteNetlinkMessage::NewLink(link)) => parse::link(link),
        _ => None,
    };
    link.and_then(|l| l.mac).ok_or_else(|| OpError::NoDevice(dev.clone()))
}

/// With an 802.1Q tag behind the two MACs.
fn tagged(mut frame: Vec<u8>, vlan: Option<u16>) -> Vec<u8> {
    if let Some(id) = vlan {
        let [high, low] = id.to_be_bytes();
        frame.splice(12..12, [0x81, 0x00, high, low]);
    }
    frame
}

fn forwards(host: &mut Connection, port: u32) -> bool {
    let mut message = LinkMessage::default();
    message.header.index = port;
    match host.get(RouteNetlinkMessage::GetLink(message)) {
        Ok(Some(RouteNetlinkMessage::NewLink(link))) => parse::link(&link).is_none_or(|l| l.forwarding),
        // Gone: nothing to wait for.
        _ => true,
    }
}

/// Inside the namespace: a socket that sends whole frames, and the interface as its destination.
fn open(interface: &str) -> io::Result<(Socket, SockAddr)> {
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    let index = nix::net::if_::if_nametoindex(interface).map_err(io::Error::from)?;
    Ok((socket, link_address(i32::try_from(index).map_err(io::Error::other)?)))
}

fn link_address(index: i32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a sockaddr shorter than the storage, which is zeroed, and all-zero is valid for its fields.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_ifindex = index;
    let length = std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the first `length` bytes of the storage are the sockaddr_ll just written.
    unsafe { SockAddr::new(storage, length) }
}

/// The Ethernet frames that announce `ip` at `mac`.
pub fn frames(mac: Mac, ip: IpAddr) -> Vec<Vec<u8>> {
    match ip {
        IpAddr::V4(v4) => vec![arp(mac, v4, 1), arp(mac, v4, 2)],
        IpAddr::V6(v6) => vec![advertisement(mac, v6)],
    }
}

/// RFC 5227 §3, RFC 826: sender and target address are the announced one. A request (1) has target MAC 0; a reply (2)
/// must name its target, or Linux ignores it within the locktime.
fn arp(mac: Mac, ip: Ipv4Addr, operation: u8) -> Vec<u8> {
    let mac = mac.octets();
    let mut frame = Vec::with_capacity(42);
    frame.extend([0xff; 6]);
    frame.extend(mac);
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, operation]);
    frame.extend(mac);
    frame.extend(ip.octets());
    frame.extend(if operation == 1 { [0; 6] } else { mac });
    frame.extend(ip.octets());
    frame
}

/// RFC 4861 §4.4: override set, solicited not, target link-layer address option, hop limit 255, to all nodes.
fn advertisement(mac: Mac, ip: Ipv6Addr) -> Vec<u8> {
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 0, 0, 1);
    let mut icmp = vec![136, 0, 0, 0, 0x20, 0, 0, 0];
    icmp.extend(ip.octets());
    icmp.extend([2, 1]);
    icmp.extend(mac.octets());
    let sum = checksum(ip, to, &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0, 0, 0, 1];
    frame.extend(mac.octets());
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((icmp.len() as u16).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(ip.octets());
    frame.extend(to.octets());
    frame.extend(icmp);
    frame
}

/// RFC 4443 §2.3 over the pseudo header of RFC 8200 §8.1.
fn checksum(from: Ipv6Addr, to: Ipv6Addr, icmp: &[u8]) -> u16 {
    let words = |bytes: &[u8]| -> u32 {
        bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b))).sum()
    };
    let mut sum = words(&from.octets()) + words(&to.octets()) + icmp.len() as u32 + 58 + words(icmp);
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// True if the calling process may open packet sockets in its own namespace.
pub fn is_permitted() -> bool {
    Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0))).is_ok_and(|s| s.as_raw_fd() >= 0)
}

#[cfg(test)]
mod tests {
    use super::*;

    const MAC: Mac = Mac::new([2, 0xca, 10, 8, 0, 5]);

    #[test]
    fn arp_request_and_reply_are_well_formed() {
        let frames = frames(MAC, "10.8.0.5".parse().unwrap());
        assert_eq!(frames.len(), 2);
        assert_eq!(frames[0][20..22], [0, 1]);
        assert_eq!(frames[0][32..38], [0; 6]);
        assert_eq!(frames[1][20..22], [0, 2]);
        assert_eq!(frames[1][32..38], MAC.octets());
        for frame in frames {
            assert_eq!(frame.len(), 42);
            assert_eq!(frame[28..32], frame[38..42]);
        }
    }

    #[test]
    fn advertisement_sums_up() {
        let ip: Ipv6Addr = "fd00:8::5".parse().unwrap();
        let frame = &frames(MAC, ip.into())[0];
        assert_eq!(frame.len(), 14 + 40 + 32);
        assert_eq!(frame[21], 255);
        // Over a message with its checksum in place the sum is 0.
        assert_eq!(checksum(ip, "ff02::1".parse().unwrap(), &frame[54..]), 0);
    }
}
