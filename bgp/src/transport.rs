//! TCP: listening sockets, connecting, and the options both need.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::os::fd::AsFd;
use std::time::Duration;

use socket2::{Domain, Protocol, SockRef, Socket, Type};
use tokio::net::{TcpListener, TcpSocket, TcpStream};

use crate::config::PeerConfig;
use crate::socket_options::{self, TTL};
use crate::speaker::SpeakerError;

/// Connections the kernel may keep waiting to be accepted.
const BACKLOG: i32 = 128;
/// An attempt to connect is given up after this time, or after the peer's `connect_retry` if that is longer.
const CONNECT: Duration = Duration::from_secs(5);

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

    /// Sets or removes the MD5 key for connections from a peer. Sessions that are up keep theirs.
    pub(crate) fn set_md5_key(&self, peer: IpAddr, key: Option<&[u8]>) -> io::Result<()> {
        for socket in &self.sockets {
            if socket.local_addr()?.is_ipv4() != peer.is_ipv4() {
                continue;
            }
            match socket_options::set_md5_key(socket.as_fd(), peer, key.unwrap_or_default()) {
                // Nothing to remove.
                Err(error) if key.is_none() && error.raw_os_error() == Some(libc::ENOENT) => {}
                other => other?,
            }
        }
        Ok(())
    }
}

fn bind_one(address: SocketAddr) -> io::Result<TcpListener> {
    let socket = Socket::new(Domain::for_address(address), Type::STREAM, Some(Protocol::TCP))?;
    socket.set_reuse_address(true)?;
    if address.is_ipv6() {
        // Each family has a socket of its own: a mapped address would not compare equal to a configured peer.
        socket.set_only_v6(true)?;
    }
    // The answer to a SYN already has to pass the peer's TTL check.
    set_ttl(SockRef::from(&socket), address.ip())?;
    socket.set_nonblocking(true)?;
    socket.bind(&address.into())?;
    socket.listen(BACKLOG)?;
    TcpListener::from_std(socket.into())
}

fn set_ttl(socket: SockRef<'_>, family: IpAddr) -> io::Result<()> {
    if family.is_ipv4() {
        socket.set_ttl_v4(u32::from(TTL))
    } else {
        socket.set_unicast_hops_v6(u32::from(TTL))
    }
}

/// Connects to a peer, with its options set before the first packet leaves.
pub(crate) async fn connect(peer: PeerConfig) -> io::Result<TcpStream> {
    let socket = if peer.address.is_ipv4() { TcpSocket::new_v4()? } else { TcpSocket::new_v6()? };
    set_ttl(SockRef::from(&socket), peer.address)?;
    if let Some(key) = &peer.md5_key {
        socket_options::set_md5_key(socket.as_fd(), peer.address, key)?;
    }
    if let Some(hops) = peer.gtsm_hops {
        socket_options::set_most_hops(socket.as_fd(), peer.address, hops)?;
    }
    let any = match peer.address {
        IpAddr::V4(_) => IpAddr::V4(Ipv4Addr::UNSPECIFIED),
        IpAddr::V6(_) => IpAddr::V6(Ipv6Addr::UNSPECIFIED),
    };
    socket.bind(SocketAddr::new(peer.local_address.unwrap_or(any), 0))?;
    let attempt = socket.connect(SocketAddr::new(peer.address, peer.port));
    let stream = tokio::time::timeout(peer.connect_retry.max(CONNECT), attempt).await??;
    stream.set_nodelay(true)?;
    Ok(stream)
}

/// Sets the options of a connection that a peer has opened.
pub(crate) fn prepare_accepted(stream: &TcpStream, peer: &PeerConfig) -> io::Result<()> {
    set_ttl(SockRef::from(stream), peer.address)?;
    if let Some(key) = &peer.md5_key {
        // The listening socket's key came with the connection, unless that is older than the key.
        socket_options::set_md5_key(stream.as_fd(), peer.address, key)?;
    }
    if let Some(hops) = peer.gtsm_hops {
        socket_options::set_most_hops(stream.as_fd(), peer.address, hops)?;
    }
    stream.set_nodelay(true)
}
