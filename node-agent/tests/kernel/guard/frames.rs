//! Frames as a workload may craft them, with raw sockets to send and see them.
#![allow(unsafe_code, reason = "a link-layer socket address has no safe constructor")]

use std::io::Read;
use std::net::{Ipv4Addr, Ipv6Addr};
use std::os::fd::AsRawFd;
use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_agent::model::NetnsRef;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, Socket, Type};

use crate::netns::Netns;

pub(crate) type Mac = [u8; 6];

/// Every frame ends with its own one, behind what the headers count.
pub(crate) const MARKER: usize = 16;

/// An interface inside a namespace, for whole frames.
pub(crate) struct Wire {
    socket: Socket,
    index: libc::c_int,
    /// Ethernet type; `None`: all.
    kind: Option<u16>,
}

/// The address of an interface, for frames of a type.
fn link_address(index: libc::c_int, kind: u16) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a sockaddr shorter than the storage, and all-zero is valid for its fields.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = kind.to_be();
    link.sll_ifindex = index;
    let length = std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the first `length` bytes of the storage are the sockaddr_ll just written.
    unsafe { SockAddr::new(storage, length) }
}

impl Wire {
    /// `eth0`, and frames of any type.
    pub(crate) fn open(netns: &Netns) -> Result<Self> {
        let all = Self::of_type(netns, "eth0", libc::ETH_P_ALL as u16)?;
        Ok(Wire { kind: None, ..all })
    }

    /// Frames that the kernel is told are of a type, and those of that type alone.
    pub(crate) fn of_type(netns: &Netns, device: &str, kind: u16) -> Result<Self> {
        let inside = causeway_agent::netns::Netns::open(&NetnsRef::Path(netns.path()))?;
        inside.run(|| -> Result<Wire> {
            let protocol = Protocol::from(i32::from(kind.to_be()));
            let socket = Socket::new(Domain::PACKET, Type::RAW, Some(protocol))?;
            let index = libc::c_int::try_from(nix::net::if_::if_nametoindex(device)?)?;
            socket.bind(&link_address(index, kind))?;
            socket.set_read_timeout(Some(Duration::from_secs(5)))?;
            Ok(Wire { socket, index, kind: Some(kind) })
        })?
    }

    /// The next frame.
    pub(crate) fn next(&mut self) -> Result<Vec<u8>> {
        let mut buffer = vec![0; 4096];
        let length = self.socket.read(&mut buffer).context("no frame")?;
        buffer.truncate(length);
        Ok(buffer)
    }

    /// What is said to be of any type is sent as what it is. Most links find that out by themselves; ipvlans do not
    /// before Linux 6.2, and their frames are then of no type at all, which no rule lets pass.
    pub(crate) fn send(&self, frame: &[u8]) -> Result<()> {
        let own = frame.get(12..14).map_or(0, |kind| u16::from_be_bytes([kind[0], kind[1]]));
        match self.socket.send_to(frame, &link_address(self.index, self.kind.unwrap_or(own))) {
            // What a hook at egress drops.
            Err(error) if error.raw_os_error() == Some(libc::ENOBUFS) => Ok(()),
            sent => sent.map(|_| ()).with_context(|| format!("send {} bytes", frame.len())),
        }
    }

    /// Reads until a frame with the marker `last` has come. True if one with `first` came before it.
    fn sees(&mut self, first: &[u8; MARKER], last: &[u8; MARKER]) -> Result<bool> {
        let mut seen = false;
        let mut buffer = [0; 4096];
        loop {
            let length = match self.socket.read(&mut buffer) {
                Ok(length) => length,
                Err(error) => bail!("descriptor {}: no closing frame: {error}", self.socket.as_raw_fd()),
            };
            let marker = &buffer[length.saturating_sub(MARKER)..length];
            if marker == last {
                return Ok(seen);
            }
            seen |= marker == first;
        }
    }
}

/// All that hear what arrives at an interface.
pub(crate) struct Ears(Vec<Wire>);

impl Ears {
    /// One for all types, in front of every hook at ingress.
    pub(crate) fn all(netns: &Netns, device: &str) -> Result<Self> {
        Ok(Ears(vec![Wire::of_type(netns, device, libc::ETH_P_ALL as u16)?]))
    }

    /// One for each type that is tried, behind the hooks at ingress; that for IPv4 first.
    pub(crate) fn by_type(netns: &Netns, device: &str) -> Result<Self> {
        let kinds = [0x0800, 0x0806, 0x86dd, 0x8100, 0x88a8, 0x88b5, libc::ETH_P_802_2 as u16];
        Ok(Ears(kinds.iter().map(|kind| Wire::of_type(netns, device, *kind)).collect::<Result<_>>()?))
    }

    /// True if a frame with the marker `first` came before that with `last`, which is IPv4.
    pub(crate) fn sees(&mut self, first: &[u8; MARKER], last: &[u8; MARKER]) -> Result<bool> {
        let Some((ear, others)) = self.0.split_first_mut() else { bail!("nobody listens") };
        let mut seen = ear.sees(first, last)?;
        for other in others {
            let mut buffer = [0; 4096];
            other.socket.set_nonblocking(true)?;
            while let Ok(length) = other.socket.read(&mut buffer) {
                seen |= buffer[..length].ends_with(first);
            }
        }
        Ok(seen)
    }
}

fn ethernet(to: Mac, from: Mac, kind: u16, payload: &[u8]) -> Vec<u8> {
    [&to[..], &from, &kind.to_be_bytes(), payload].concat()
}

/// Puts 802.1Q or 802.1ad tags (type, VLAN) behind the addresses, outermost first.
pub(crate) fn tagged(frame: &[u8], tags: &[(u16, u16)]) -> Vec<u8> {
    let tags: Vec<u8> =
        tags.iter().flat_map(|(kind, vlan)| [kind.to_be_bytes(), vlan.to_be_bytes()].concat()).collect();
    [&frame[..12], &tags, &frame[12..]].concat()
}

/// An ARP message whose Ethernet source is `from`.
pub(crate) fn arp(
    from: Mac,
    to: Mac,
    operation: u16,
    sender: (Mac, Ipv4Addr),
    target: (Mac, Ipv4Addr),
) -> Vec<u8> {
    let mut body = vec![0, 1, 8, 0, 6, 4];
    body.extend(operation.to_be_bytes());
    body.extend(sender.0);
    body.extend(sender.1.octets());
    body.extend(target.0);
    body.extend(target.1.octets());
    ethernet(to, from, 0x0806, &body)
}

pub(crate) fn udp4(from: Mac, to: Mac, ips: (Ipv4Addr, Ipv4Addr), ports: (u16, u16)) -> Vec<u8> {
    let mut packet = vec![0x45, 0, 0, 28, 0, 0, 0, 0, 64, 17, 0, 0];
    packet.extend(ips.0.octets());
    packet.extend(ips.1.octets());
    let sum = checksum(&packet);
    packet[10..12].copy_from_slice(&sum.to_be_bytes());
    packet.extend([ports.0.to_be_bytes(), ports.1.to_be_bytes(), [0, 8], [0, 0]].concat());
    ethernet(to, from, 0x0800, &packet)
}

/// RFC 1071.
fn checksum(bytes: &[u8]) -> u16 {
    let mut sum: u32 = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | u32::from(c[1])).sum();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

fn ipv6(from: Mac, to: Mac, ips: (Ipv6Addr, Ipv6Addr), next: u8, payload: &[u8]) -> Vec<u8> {
    let mut packet = vec![0x60, 0, 0, 0];
    packet.extend((payload.len() as u16).to_be_bytes());
    packet.extend([next, 255]);
    packet.extend(ips.0.octets());
    packet.extend(ips.1.octets());
    packet.extend(payload);
    ethernet(to, from, 0x86dd, &packet)
}

pub(crate) fn udp6(from: Mac, to: Mac, ips: (Ipv6Addr, Ipv6Addr), ports: (u16, u16)) -> Vec<u8> {
    let udp = [ports.0.to_be_bytes(), ports.1.to_be_bytes(), [0, 8], [0, 0]].concat();
    ipv6(from, to, ips, 17, &udp)
}

/// An ICMPv6 message of a type with `rest` behind type, code, checksum; `hops`: behind a hop-by-hop header with router
/// alert, as MLD has it.
pub(crate) fn icmp6(
    from: Mac,
    to: Mac,
    ips: (Ipv6Addr, Ipv6Addr),
    kind: u8,
    rest: &[u8],
    hops: bool,
) -> Vec<u8> {
    let message = [&[kind, 0, 0, 0], rest].concat();
    if hops {
        let header = [58, 0, 5, 2, 0, 0, 1, 0];
        return ipv6(from, to, ips, 0, &[&header, &message[..]].concat());
    }
    ipv6(from, to, ips, 58, &message)
}

/// Body of a neighbour solicitation or advertisement: flags, target, link-layer address option (RFC 4861 §4.3, §4.4).
pub(crate) fn neighbour(target: Ipv6Addr, option: u8, mac: Mac) -> Vec<u8> {
    let flags = if option == 2 { 0x60 } else { 0 };
    [&[flags, 0, 0, 0], &target.octets()[..], &[option, 1], &mac].concat()
}

/// An 802.3 frame with an LLC header.
pub(crate) fn llc(from: Mac, to: Mac, header: [u8; 3]) -> Vec<u8> {
    let body = [&header[..], &[0; 43]].concat();
    ethernet(to, from, body.len() as u16, &body)
}
