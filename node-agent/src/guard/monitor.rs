//! Hears when rules of the bridge or netdev family change, whoever changes them.
#![allow(unsafe_code, reason = "registering a descriptor with the event loop")]

use std::io;
use std::os::fd::{AsRawFd, RawFd};

use netlink_sys::protocols::NETLINK_NETFILTER;
use netlink_sys::{Socket, SocketAddr};
use tokio::io::unix::AsyncFd;

/// `NFNLGRP_NFTABLES`.
const NFTABLES: u32 = 7;
/// `NFPROTO_NETDEV` and `NFPROTO_BRIDGE`, the first byte behind the netlink header (`struct nfgenmsg`).
const OURS: [u8; 2] = [5, 7];
const HEADER: usize = 16;
const DATAGRAM: usize = 64 * 1024;

/// A subscription, in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct TableMonitor {
    socket: Socket,
    buffer: Vec<u8>,
}

impl AsRawFd for TableMonitor {
    fn as_raw_fd(&self) -> RawFd {
        self.socket.as_raw_fd()
    }
}

impl TableMonitor {
    pub(crate) fn open() -> io::Result<Self> {
        let mut socket = Socket::new(NETLINK_NETFILTER)?;
        socket.bind(&SocketAddr::new(0, 1 << (NFTABLES - 1)))?;
        socket.set_non_blocking(true)?;
        Ok(TableMonitor { socket, buffer: Vec::with_capacity(DATAGRAM) })
    }

    /// Registers it with this thread's event loop.
    pub(crate) fn register(self) -> io::Result<AsyncFd<TableMonitor>> {
        // SAFETY: `as_raw_fd` always gives the same descriptor, which the monitor owns and closes when it is dropped.
        unsafe { AsyncFd::register(self) }.map_err(io::Error::from)
    }

    /// Throws away what has arrived. True if rules of our families may have changed; other software may change rules of other
    /// families all the time.
    pub(crate) fn discard(&mut self) -> io::Result<bool> {
        let mut any = false;
        loop {
            self.buffer.clear();
            match self.socket.recv(&mut self.buffer, 0) {
                Ok(_) => any |= concerns_guards(&self.buffer),
                Err(e) if e.kind() == io::ErrorKind::WouldBlock => return Ok(any),
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) if e.raw_os_error() == Some(libc::ENOBUFS) => any = true,
                Err(e) => return Err(e),
            }
        }
    }
}

fn concerns_guards(datagram: &[u8]) -> bool {
    let mut rest = datagram;
    while let Some(head) = rest.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*head) as usize;
        if length < HEADER || length > rest.len() {
            return false;
        }
        if rest[..length].get(HEADER).is_some_and(|family| OURS.contains(family)) {
            return true;
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    false
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    proptest! {
        #[test]
        fn any_datagram_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            super::concerns_guards(&bytes);
        }
    }
}
