//! Hears what changes in the kernel.
#![allow(unsafe_code, reason = "registering a descriptor with the event loop")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_packet_core::NetlinkPayload;
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use tokio::io::unix::AsyncFd;

use super::socket::{for_each_message, grow_receive_buffer};

/// rtnetlink multicast groups (`RTNLGRP_*`).
const LINK: u32 = 1;
const NEIGH: u32 = 3;
const TC: u32 = 4;
const IPV4_IFADDR: u32 = 5;
const IPV4_ROUTE: u32 = 7;
const IPV4_RULE: u32 = 8;
const IPV6_IFADDR: u32 = 9;
const IPV6_ROUTE: u32 = 11;
const IPV6_RULE: u32 = 19;

/// Holds the events of several ten thousand entries programmed at once.
const HOST_BUFFER: usize = 32 * 1024 * 1024;
const DATAGRAM: usize = 64 * 1024;

/// A subscription, in the namespace of the thread that opened it. Not blocking: wait for readiness first.
#[derive(Debug)]
pub(crate) struct Monitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl AsRawFd for Monitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl Monitor {
    /// Links, FDB entries, neighbours, qdiscs, addresses, routes and rules of the host. FDB events arrive in the neighbour
    /// group.
    pub(crate) fn of_host() -> io::Result<Self> {
        let addresses = [IPV4_IFADDR, IPV6_IFADDR];
        let routes = [IPV4_ROUTE, IPV6_ROUTE, IPV4_RULE, IPV6_RULE];
        let groups = [&[LINK, NEIGH, TC][..], &addresses, &routes].concat();
        let monitor = Monitor::open(&groups)?;
        grow_receive_buffer(&monitor.socket, HOST_BUFFER);
        Ok(monitor)
    }

    /// Links, addresses and routes of a workload's namespace.
    pub(crate) fn of_workload() -> io::Result<Self> {
        Monitor::open(&[LINK, IPV4_IFADDR, IPV4_ROUTE, IPV6_IFADDR, IPV6_ROUTE])
    }

    fn open(groups: &[u32]) -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_ROUTE)?;
        let mask = groups.iter().fold(0, |mask, group| mask | 1 << (group - 1));
        socket.bind(&SocketAddr::new(0, mask))?;
        socket.set_non_blocking(true)?;
        Ok(Monitor { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Registers it with this thread's event loop.
    pub(crate) fn register(self) -> io::Result<AsyncFd<Monitor>> {
        // SAFETY: `as_raw_fd` always gives the same descriptor, which the monitor owns and closes when it is dropped.
        unsafe { AsyncFd::register(self) }.map_err(io::Error::from)
    }

    /// Hands out all that has arrived. False: events were lost, and only a full look tells what is.
    pub(crate) fn drain(&mut self, mut each: impl FnMut(RouteNetlinkMessage)) -> io::Result<bool> {
        let mut complete = true;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => for_each_message(&self.buffer, |message| {
                    if let NetlinkPayload::InnerMessage(message) = message.payload {
                        each(message);
                    }
                }),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(complete),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => complete = false,
                Err(e) => return Err(e),
            }
        }
    }

    /// Throws away all that has arrived. False if nothing had.
    pub(crate) fn discard(&mut self) -> io::Result<bool> {
        let mut any = false;
        let complete = self.drain(|_| any = true)?;
        Ok(any || !complete)
    }
}
