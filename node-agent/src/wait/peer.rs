//! Who is at the other end of a unix socket: the kernel's word, not the caller's.
//!
//! The process that connected is known by SO_PEERCRED, its namespace by `/proc/PID/ns/net`. A pid may be given to another
//! process meanwhile, so the process is held by a descriptor where the kernel gives one (SO_PEERPIDFD, Linux 6.5), and
//! looked at again after the namespace has been read.
#![allow(unsafe_code, reason = "SO_PEERPIDFD has no safe wrapper")]

use std::io;
use std::os::fd::{AsRawFd, FromRawFd, OwnedFd};

use tokio::net::UnixStream;

use crate::model::NetnsRef;
use crate::netns::{NetnsId, identify};

/// `asm-generic/socket.h`; younger than the C library of some systems.
const SO_PEERPIDFD: libc::c_int = 77;

/// A caller.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Peer {
    pub(super) pid: i32,
    pub(super) uid: u32,
    /// The namespace of the process that connected.
    pub(super) netns: NetnsId,
}

/// Looks at the caller. An error says, in words for the caller, why it cannot be known.
pub(super) fn peer(stream: &UnixStream) -> Result<Peer, String> {
    let credentials = stream.peer_cred().map_err(|error| format!("the caller is not known: {error}"))?;
    let held = hold(stream);
    let pid = credentials.pid().filter(|pid| *pid > 0).ok_or(
        "the agent cannot see the calling process: it runs in another PID namespace; run the agent in the host's",
    )?;
    let number = u32::try_from(pid).map_err(|_| format!("process {pid} is none"))?;
    let netns = identify(&NetnsRef::Pid(number)).ok_or_else(|| {
        let why = std::fs::metadata(format!("/proc/{pid}/ns/net"));
        let why = why.err().map_or_else(|| "it changed".to_owned(), |error| error.to_string());
        format!("the network namespace of process {pid} cannot be read ({why}); the agent needs CAP_SYS_PTRACE for it")
    })?;
    if held.is_some_and(|held| !is_alive(&held)) {
        return Err(format!("process {pid} ended"));
    }
    Ok(Peer { pid, uid: credentials.uid(), netns })
}

/// A descriptor of the process; `None` on a kernel that has none.
fn hold(stream: &UnixStream) -> Option<OwnedFd> {
    let mut fd: libc::c_int = -1;
    let mut length = std::mem::size_of::<libc::c_int>() as libc::socklen_t;
    // SAFETY: the option writes one int of this length, and both live until the call returns.
    let done = unsafe {
        let value = std::ptr::from_mut(&mut fd).cast();
        libc::getsockopt(stream.as_raw_fd(), libc::SOL_SOCKET, SO_PEERPIDFD, value, &mut length)
    };
    // SAFETY: on success it is a new descriptor that nobody else has.
    (done == 0 && fd >= 0).then(|| unsafe { OwnedFd::from_raw_fd(fd) })
}

/// A descriptor of a process becomes readable when it ends.
fn is_alive(held: &OwnedFd) -> bool {
    let mut poll = libc::pollfd { fd: held.as_raw_fd(), events: libc::POLLIN, revents: 0 };
    // SAFETY: one entry, which lives until the call returns; it does not wait.
    let ready = unsafe { libc::poll(&mut poll, 1, 0) };
    ready == 0 || (ready < 0 && io::Error::last_os_error().kind() == io::ErrorKind::Interrupted)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn a_caller_is_who_the_kernel_says() {
        let (one, _two) = UnixStream::pair().unwrap();
        let peer = peer(&one).unwrap();
        assert_eq!(u32::try_from(peer.pid).unwrap(), std::process::id());
        assert_eq!(peer.uid, nix::unistd::geteuid().as_raw());
        assert_eq!(Some(peer.netns), identify(&NetnsRef::Pid(std::process::id())));
    }
}
