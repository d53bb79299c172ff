//! Packet sockets: whole frames, in and out of one interface.
#![allow(unsafe_code, reason = "link-layer socket addresses and the event loop have no safe constructors")]

use std::io;
use std::os::fd::AsRawFd;

use causeway_proto::Mac;
use socket2::{Domain, Protocol, SockAddr, SockAddrStorage, SockFilter, Socket, Type};
use tokio::io::Interest;
use tokio::io::unix::AsyncFd;

use crate::dev::Dev;

/// A socket in the calling thread's namespace that takes what the filter lets through, and the interface's MAC.
/// `promiscuous`: also frames to MACs that are not the interface's.
pub(crate) fn open(dev: &Dev, filter: &[SockFilter], promiscuous: bool) -> io::Result<(Socket, Mac)> {
    // Protocol 0 takes nothing until the filter is there.
    let socket = Socket::new(Domain::PACKET, Type::RAW, Some(Protocol::from(0)))?;
    socket.set_nonblocking(true)?;
    socket.attach_filter(filter)?;
    let index = nix::net::if_::if_nametoindex(dev.as_str()).map_err(io::Error::from)?;
    let index = i32::try_from(index).map_err(io::Error::other)?;
    socket.bind(&link_address(index))?;
    if promiscuous {
        join_promiscuous(&socket, index)?;
    }
    let mac = link_mac(&socket.local_addr()?).ok_or_else(|| io::Error::other("it has no MAC address"))?;
    Ok((socket, mac))
}

/// Registers a socket with the calling thread's event loop.
pub(crate) fn watch(socket: Socket) -> io::Result<AsyncFd<Socket>> {
    // SAFETY: a socket always gives the same descriptor, which it owns and closes when it is dropped.
    unsafe { AsyncFd::register_with_interest(socket, Interest::READABLE) }.map_err(io::Error::from)
}

/// All frames of the interface.
fn link_address(index: i32) -> SockAddr {
    let mut storage = SockAddrStorage::zeroed();
    // SAFETY: sockaddr_ll is a sockaddr shorter than the storage, which is zeroed, and all-zero is valid for its fields.
    let link = unsafe { storage.view_as::<libc::sockaddr_ll>() };
    link.sll_family = libc::AF_PACKET as u16;
    link.sll_protocol = (libc::ETH_P_ALL as u16).to_be();
    link.sll_ifindex = index;
    let length = std::mem::size_of::<libc::sockaddr_ll>() as libc::socklen_t;
    // SAFETY: the first `length` bytes of the storage are the sockaddr_ll just written.
    unsafe { SockAddr::new(storage, length) }
}

fn link_mac(address: &SockAddr) -> Option<Mac> {
    // The kernel says the length up to the end of the MAC, two bytes before that of the structure.
    if i32::from(address.family()) != libc::AF_PACKET || address.len() < 18 {
        return None;
    }
    // SAFETY: the family says what it is; the storage behind it has room for, and is aligned for, any address.
    let link = unsafe { &*address.as_ptr().cast::<libc::sockaddr_ll>() };
    let mac: [u8; 6] = link.sll_addr.first_chunk().copied()?;
    (link.sll_halen == 6).then_some(Mac::new(mac))
}

/// Ends with the socket.
fn join_promiscuous(socket: &Socket, index: i32) -> io::Result<()> {
    let request = libc::packet_mreq {
        mr_ifindex: index,
        mr_type: libc::PACKET_MR_PROMISC as u16,
        mr_alen: 0,
        mr_address: [0; 8],
    };
    let length = std::mem::size_of::<libc::packet_mreq>() as libc::socklen_t;
    // SAFETY: the option takes a packet_mreq of this length, which lives until the call returns.
    let done = unsafe {
        libc::setsockopt(
            socket.as_raw_fd(),
            libc::SOL_PACKET,
            libc::PACKET_ADD_MEMBERSHIP,
            std::ptr::from_ref(&request).cast(),
            length,
        )
    };
    if done == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}
