//! New namespaces for a process that is about to start a node.

use std::io;
use std::os::fd::AsRawFd;

use nix::sched::CloneFlags;
use nix::sys::socket::{
    AddressFamily, MsgFlags, NetlinkAddr, SockFlag, SockProtocol, SockType, recv, sendto, socket,
};

/// Moves the calling thread into network, mount, UTS and IPC namespaces of its own; the next process that it starts
/// is PID 1 of a PID namespace of its own. Call it from the thread that will start that process.
///
/// # Errors
/// The kernel refuses: no root, or too many namespaces.
pub(crate) fn unshare_all() -> nix::Result<()> {
    let flags = CloneFlags::CLONE_NEWNET
        | CloneFlags::CLONE_NEWNS
        | CloneFlags::CLONE_NEWPID
        | CloneFlags::CLONE_NEWUTS
        | CloneFlags::CLONE_NEWIPC;
    #[expect(clippy::disallowed_methods, reason = "this process does nothing else: it starts PID 1 and ends")]
    nix::sched::unshare(flags)
}

/// Sets the loopback interface of this namespace up: `ip link set lo up` without starting a program, which in an emulated
/// machine takes a tenth of a second for each node.
///
/// # Errors
/// The kernel refuses.
pub(crate) fn set_loopback_up() -> io::Result<()> {
    let netlink =
        socket(AddressFamily::Netlink, SockType::Raw, SockFlag::SOCK_CLOEXEC, SockProtocol::NetlinkRoute)?;
    sendto(netlink.as_raw_fd(), &loopback_up(), &NetlinkAddr::new(0, 0), MsgFlags::empty())?;
    let mut answer = [0; 128];
    let length = recv(netlink.as_raw_fd(), &mut answer, MsgFlags::empty())?;
    match answer.get(..length).and_then(|answer| answer.get(16..20)) {
        Some(&[a, b, c, d]) => match i32::from_ne_bytes([a, b, c, d]) {
            0 => Ok(()),
            error => Err(io::Error::from_raw_os_error(-error)),
        },
        _ => Err(io::ErrorKind::InvalidData.into()),
    }
}

/// RTM_NEWLINK, acknowledged, for interface 1, which is the loopback in every namespace: flag IFF_UP, and of the flags only
/// that one. The answer is a header of 16 bytes and an errno, negative, or 0.
fn loopback_up() -> Vec<u8> {
    const RTM_NEWLINK: u16 = 16;
    const REQUEST_AND_ACK: u16 = 1 | 4;
    const IFF_UP: u32 = 1;
    let mut message = Vec::with_capacity(32);
    message.extend(32u32.to_ne_bytes());
    message.extend(RTM_NEWLINK.to_ne_bytes());
    message.extend(REQUEST_AND_ACK.to_ne_bytes());
    // Sequence number, port; family, type; index; flags, mask of flags.
    for word in [1u32, 0, 0, 1, IFF_UP, IFF_UP] {
        message.extend(word.to_ne_bytes());
    }
    message
}
