//! Socket options that no safe library offers: TCP MD5 signatures (RFC 2385) and the lowest TTL accepted (RFC 5082).
#![allow(unsafe_code, reason = "setsockopt with structures libc does not define")]

use std::io;
use std::mem::size_of;
use std::net::{IpAddr, SocketAddr};
use std::os::fd::{AsRawFd, BorrowedFd};

/// Longest key (`TCP_MD5SIG_MAXKEYLEN`).
pub(crate) const MD5_KEY: usize = 80;
/// TTL of everything we send; RFC 5082 §3 asks for it, and others do not care.
pub(crate) const TTL: u8 = 255;

/// `struct tcp_md5sig` of linux/tcp.h.
#[repr(C)]
struct TcpMd5Sig {
    address: libc::sockaddr_storage,
    flags: u8,
    prefix_length: u8,
    key_length: u16,
    interface: libc::c_int,
    key: [u8; MD5_KEY],
}

/// Sets, or with an empty key removes, the key for segments to and from `peer`. On a listening socket it counts for
/// connections accepted from there.
pub(crate) fn set_md5_key(socket: BorrowedFd<'_>, peer: IpAddr, key: &[u8]) -> io::Result<()> {
    if key.len() > MD5_KEY {
        return Err(io::Error::new(io::ErrorKind::InvalidInput, "an MD5 key has at most 80 bytes"));
    }
    // SAFETY: all-zero is a valid value of this plain structure.
    let mut option: TcpMd5Sig = unsafe { std::mem::zeroed() };
    let address = socket2::SockAddr::from(SocketAddr::new(peer, 0));
    // SAFETY: a SockAddr holds an initialised sockaddr_storage, which is copied.
    option.address = unsafe { address.as_ptr().cast::<libc::sockaddr_storage>().read() };
    option.key_length = u16::try_from(key.len()).unwrap_or(0);
    option.key[..key.len()].copy_from_slice(key);
    set(socket, libc::IPPROTO_TCP, libc::TCP_MD5SIG, &option)
}

/// Drops packets that came from more than `hops` hops away, by their TTL. 1: directly connected.
pub(crate) fn set_most_hops(socket: BorrowedFd<'_>, peer: IpAddr, hops: u8) -> io::Result<()> {
    let least = libc::c_int::from(TTL.saturating_sub(hops.saturating_sub(1)));
    match peer {
        IpAddr::V4(_) => set(socket, libc::IPPROTO_IP, libc::IP_MINTTL, &least),
        IpAddr::V6(_) => set(socket, libc::IPPROTO_IPV6, libc::IPV6_MINHOPCOUNT, &least),
    }
}

fn set<T>(socket: BorrowedFd<'_>, level: libc::c_int, name: libc::c_int, value: &T) -> io::Result<()> {
    let length = libc::socklen_t::try_from(size_of::<T>()).unwrap_or(0);
    // SAFETY: the descriptor is open for the time of the borrow; the kernel reads `length` octets of `value`.
    let result = unsafe {
        libc::setsockopt(socket.as_raw_fd(), level, name, std::ptr::from_ref(value).cast(), length)
    };
    if result == 0 { Ok(()) } else { Err(io::Error::last_os_error()) }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr, TcpListener};
    use std::os::fd::AsFd;

    use super::*;

    #[test]
    fn the_structure_has_the_kernels_size() {
        assert_eq!(size_of::<TcpMd5Sig>(), 216);
    }

    #[test]
    fn the_kernel_takes_keys_and_hops() {
        let v4 = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).unwrap();
        let v6 = TcpListener::bind((Ipv6Addr::LOCALHOST, 0)).unwrap();
        for (socket, peer) in [(v4.as_fd(), "127.0.0.9"), (v6.as_fd(), "::1")] {
            let peer = peer.parse().unwrap();
            set_md5_key(socket, peer, b"secret").unwrap();
            set_md5_key(socket, peer, &[b'x'; MD5_KEY]).unwrap();
            set_md5_key(socket, peer, b"").unwrap();
            // Removing what is not there.
            assert_eq!(set_md5_key(socket, peer, b"").unwrap_err().raw_os_error(), Some(libc::ENOENT));
            assert!(set_md5_key(socket, peer, &[b'x'; MD5_KEY + 1]).is_err());
            set_most_hops(socket, peer, 1).unwrap();
            set_most_hops(socket, peer, 255).unwrap();
        }
    }
}
