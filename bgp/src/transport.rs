//! TCP: listening sockets, connecting, options.

use std::net::SocketAddr;

use socket2::{Domain, Protocol, Socket, Type};
use tokio::net::TcpListener;

use crate::speaker::SpeakerError;

/// Connections the kernel may keep waiting to be accepted.
const BACKLOG: i32 = 128;

/// The sockets peers connect to.
#[derive(Debug)]
pub(crate) struct Listeners {
    pub(crate) sockets: Vec<TcpListener>,
}

impl Listeners {
    /// Binds all of them, or none.
    pub(crate) fn bind(addresses: &[SocketAddr]) -> Result<Self, SpeakerError> {
        let sockets = addresses
            .iter()
            .map(|&address| bind_one(address).map_err(|source| SpeakerError::Listen { address, source }))
            .collect::<Result<_, _>>()?;
        Ok(Listeners { sockets })
    }

    /// Where they listen.
    pub(crate) fn addresses(&self) -> Vec<SocketAddr> {
        self.sockets.iter().filter_map(|socket| socket.local_addr().ok()).collect()
    }
}

fn bind_one(address: SocketAddr) -> std::io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Each family has a socket of its own: a mapped address would not compare equal to a configured peer.
        socket.set_only_v6(true)?;
    }
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}
