//! A netlink socket with strict checking, extended error texts and a receive deadline.
#![allow(unsafe_code, reason = "socket options need the raw descriptor of a foreign socket type")]

use std::collections::VecDeque;
use std::io;
use std::os::fd::{AsRawFd, BorrowedFd};
use std::time::Duration;

use netlink_packet_core::{
    ErrorMessage, NLM_F_ACK, NLM_F_DUMP, NLM_F_REQUEST, NetlinkMessage, NetlinkPayload,
};
use netlink_packet_route::RouteNetlinkMessage;
use netlink_sys::protocols::NETLINK_ROUTE;
use netlink_sys::{Socket, SocketAddr};
use nix::sys::socket::{setsockopt, sockopt::RcvBufForce};

use super::NetlinkError;

/// Deadline of one answer.
const TIMEOUT_SECONDS: u64 = 5;
/// The kernel fills dumps up to 32 KiB a datagram.
const BUFFER: usize = 64 * 1024;
/// Replies to as many requests fit the receive buffer many times over.
const BATCH: usize = 64;

/// A connection to the kernel, in the namespace of the thread that opened it.
#[derive(Debug)]
pub(crate) struct Connection {
    socket: Socket,
    sequence: u32,
    buffer: Vec<u8>,
}

/// Borrows the descriptor.
fn borrow(socket: &Socket) -> BorrowedFd<'_> {
    // SAFETY: the descriptor is open as long as `socket` lives, and the borrow ends with it.
    unsafe { BorrowedFd::borrow_raw(socket.as_raw_fd()) }
}

/// A large receive buffer, beyond `rmem_max` where we may; best effort.
pub(super) fn grow_receive_buffer(socket: &Socket, bytes: usize) {
    let fd = borrow(socket);
    if setsockopt(&fd, RcvBufForce, &bytes).is_err() {
        let _ = socket2::SockRef::from(&fd).set_recv_buffer_size(bytes);
    }
}

impl Connection {
    /// Opens one in this thread's namespace.
    pub(crate) fn open() -> Result<Self, NetlinkError> {
        let open = || -> io::Result<Socket> {
            let mut socket = Socket::new(NETLINK_ROUTE)?;
            socket.bind_auto()?;
            socket.connect(&SocketAddr::new(0, 0))?;
            socket.set_netlink_get_strict_chk(true)?;
            socket.set_ext_ack(true)?;
            socket.set_cap_ack(true)?;
            let fd = borrow(&socket);
            socket2::SockRef::from(&fd).set_read_timeout(Some(Duration::from_secs(TIMEOUT_SECONDS)))?;
            Ok(socket)
        };
        let socket = open().map_err(NetlinkError::Socket)?;
        Ok(Connection { socket, sequence: 0, buffer: Vec::with_capacity(BUFFER) })
    }

    /// Sends one request with `flags` (REQUEST and ACK are added) and waits for its end.
    pub(crate) fn request(&mut self, message: RouteNetlinkMessage, flags: u16) -> Result<(), NetlinkError> {
        self.batch(vec![(message, flags)]).pop().unwrap_or(Ok(()))
    }

    /// Sends requests, many a system call, and returns what became of each.
    pub(crate) fn batch(
        &mut self,
        messages: Vec<(RouteNetlinkMessage, u16)>,
    ) -> Vec<Result<(), NetlinkError>> {
        let mut results = Vec::with_capacity(messages.len());
        let mut messages = VecDeque::from(messages);
        while !messages.is_empty() {
            let chunk: Vec<_> = messages.drain(..messages.len().min(BATCH)).collect();
            results.extend(self.chunk(chunk));
        }
        results
    }

    fn chunk(&mut self, messages: Vec<(RouteNetlinkMessage, u16)>) -> Vec<Result<(), NetlinkError>> {
        let first = self.sequence.wrapping_add(1);
        let count = messages.len();
        let mut bytes = Vec::new();
        for (message, flags) in messages {
            self.encode(message, flags | NLM_F_REQUEST | NLM_F_ACK, &mut bytes);
        }
        let mut results: Vec<Option<Result<(), NetlinkError>>> = (0..count).map(|_| None).collect();
        let mut missing = count;
        let mut failure = self.socket.send(&bytes, 0).err().map(NetlinkError::Socket);
        while missing > 0 && failure.is_none() {
            let received = self.receive(|sequence, payload| {
                let at = sequence.wrapping_sub(first) as usize;
                if let (Some(slot @ None), NetlinkPayload::Error(error)) = (results.get_mut(at), payload) {
                    *slot = Some(outcome(&error));
                    missing -= 1;
                }
            });
            failure = received.err();
        }
        let lost = || match &failure {
            Some(NetlinkError::Socket(e)) => NetlinkError::Socket(io::Error::new(e.kind(), e.to_string())),
            _ => NetlinkError::Timeout(TIMEOUT_SECONDS),
        };
        results.into_iter().map(|r| r.unwrap_or_else(|| Err(lost()))).collect()
    }

    /// Asks for one object. `None` if there is no such object.
    pub(crate) fn get(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Option<RouteNetlinkMessage>, NetlinkError> {
        let mut bytes = Vec::new();
        self.encode(message, NLM_F_REQUEST | NLM_F_ACK, &mut bytes);
        match self.collect(&bytes) {
            Ok(found) => Ok(found.into_iter().next()),
            Err(error) if error.is_missing() => Ok(None),
            Err(error) => Err(error),
        }
    }

    /// Asks for all objects that fit `message`.
    pub(crate) fn dump(
        &mut self,
        message: RouteNetlinkMessage,
    ) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let mut bytes = Vec::new();
        self.encode(message, NLM_F_REQUEST | NLM_F_DUMP, &mut bytes);
        self.collect(&bytes)
    }

    fn collect(&mut self, bytes: &[u8]) -> Result<Vec<RouteNetlinkMessage>, NetlinkError> {
        let sequence = self.sequence;
        self.socket.send(bytes, 0).map_err(NetlinkError::Socket)?;
        let mut found = Vec::new();
        let mut end = None;
        while end.is_none() {
            self.receive(|s, payload| match payload {
                _ if s != sequence => {}
                NetlinkPayload::InnerMessage(message) => found.push(message),
                NetlinkPayload::Done(_) => end = Some(Ok(())),
                NetlinkPayload::Error(error) => end = Some(outcome(&error)),
                _ => {}
            })?;
        }
        end.unwrap_or(Ok(())).map(|()| found)
    }

    fn encode(&mut self, message: RouteNetlinkMessage, flags: u16, bytes: &mut Vec<u8>) {
        self.sequence = self.sequence.wrapping_add(1);
        let mut message = NetlinkMessage::from(message);
        message.header.flags = flags;
        message.header.sequence_number = self.sequence;
        message.finalize();
        let start = bytes.len();
        // Messages of one datagram begin at multiples of four.
        bytes.resize(start + message.buffer_len().next_multiple_of(4), 0);
        message.serialize(&mut bytes[start..]);
    }

    fn receive(
        &mut self,
        mut each: impl FnMut(u32, NetlinkPayload<RouteNetlinkMessage>),
    ) -> Result<(), NetlinkError> {
        self.buffer.clear();
        match self.socket.recv(&mut self.buffer, 0) {
            Ok(_) => {}
            Err(e) if e.kind() == io::ErrorKind::Interrupted => return Ok(()),
            Err(e) if e.kind() == io::ErrorKind::WouldBlock => {
                return Err(NetlinkError::Timeout(TIMEOUT_SECONDS));
            }
            Err(e) => return Err(NetlinkError::Socket(e)),
        }
        for_each_message(&self.buffer, |message| each(message.header.sequence_number, message.payload));
        Ok(())
    }
}

/// Walks the messages of a datagram. One that does not parse is skipped: it is of a kind that we did not ask for.
pub(super) fn for_each_message(bytes: &[u8], mut each: impl FnMut(NetlinkMessage<RouteNetlinkMessage>)) {
    let mut rest = bytes;
    while let Some(head) = rest.first_chunk::<4>() {
        let length = u32::from_ne_bytes(*head) as usize;
        if length < 16 || length > rest.len() {
            return;
        }
        match NetlinkMessage::<RouteNetlinkMessage>::deserialize(&rest[..length]) {
            Ok(message) => each(message),
            Err(error) => tracing::trace!(%error, "netlink message not understood"),
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
}

fn outcome(error: &ErrorMessage) -> Result<(), NetlinkError> {
    match error.code {
        None => Ok(()),
        Some(code) => Err(NetlinkError::Refused {
            errno: code.get().checked_neg().unwrap_or(libc::EIO),
            text: extended_text(&error.header),
        }),
    }
}

/// Text of the extended ACK: attribute 1 behind the echoed header (we ask for capped ACKs, so only its 16 bytes).
fn extended_text(echo: &[u8]) -> String {
    let mut rest = echo.get(16..).unwrap_or_default();
    while let Some(&[a, b, c, d]) = rest.first_chunk::<4>() {
        let (length, kind) = (usize::from(u16::from_ne_bytes([a, b])), u16::from_ne_bytes([c, d]));
        let Some(value) = rest.get(4..length) else { break };
        if kind & 0x3fff == 1 {
            return String::from_utf8_lossy(value).trim_end_matches('\0').to_owned();
        }
        rest = rest.get(length.next_multiple_of(4)..).unwrap_or_default();
    }
    String::new()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn kernel_error_text_is_kept() {
        let mut message = netlink_packet_route::link::LinkMessage::default();
        message.header.index = 999_999;
        let mut connection = Connection::open().unwrap();
        let error = connection.request(RouteNetlinkMessage::DelLink(message), 0).unwrap_err();
        assert!(error.is_missing(), "{error}");
        assert_eq!(error.errno(), Some(libc::ENODEV));
    }

    proptest! {
        #[test]
        fn any_datagram_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..200)) {
            for_each_message(&bytes, |_| {});
            let _ = extended_text(&bytes);
        }
    }
}
