//! Taps: netlink cannot make them.
#![allow(unsafe_code, reason = "ioctl on /dev/net/tun")]

use std::fs::OpenOptions;
use std::io;
use std::os::fd::AsRawFd;

use crate::dev::Dev;

/// `_IOW('T', 202, int)`.
const TUNSETIFF: libc::c_ulong = 0x4004_54ca;
/// `_IOW('T', 203, int)`.
const TUNSETPERSIST: libc::c_ulong = 0x4004_54cb;

/// A tap that outlives this process, for one pair of queues or for several: whoever runs the VM opens it once for each,
/// and as the one or the other, or is refused (`tun_set_iff`). In the network namespace of the calling thread.
pub(crate) fn make(dev: &Dev, queues: u32) -> io::Result<()> {
    let tun = OpenOptions::new().read(true).write(true).open("/dev/net/tun")?;
    // SAFETY: all-zero is a valid ifreq.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    let name = dev.as_str().as_bytes();
    if name.len() >= request.ifr_name.len() {
        return Err(io::Error::from_raw_os_error(libc::ERANGE));
    }
    for (to, from) in request.ifr_name.iter_mut().zip(name) {
        *to = *from as libc::c_char;
    }
    let many = if queues > 1 { libc::IFF_MULTI_QUEUE } else { 0 };
    let flags = libc::IFF_TAP | libc::IFF_NO_PI | libc::IFF_TUN_EXCL | many;
    request.ifr_ifru.ifru_flags = flags as libc::c_short;
    // SAFETY: the kernel reads and writes one ifreq, which lives on this stack.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETIFF, &mut request) })?;
    // SAFETY: the argument is a number.
    check(unsafe { libc::ioctl(tun.as_raw_fd(), TUNSETPERSIST, 1 as libc::c_ulong) })
}

fn check(result: libc::c_int) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}
