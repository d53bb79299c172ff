//! A small rtnetlink client: blocking requests with a deadline, and a monitor.
//!
//! The messages are those of `netlink-packet-route`; the sockets are driven here, because the data plane has a thread
//! of its own that may block, requests to the kernel are answered in microseconds, and a plain socket is faster than
//! an asynchronous connection, works inside a workload's namespace the same way, keeps the kernel's error text and
//! cannot lose a reply silently.

pub(crate) mod fabric;
pub(crate) mod lan;
pub(crate) mod message;
pub(crate) mod monitor;
pub(crate) mod parse;
pub(crate) mod socket;
pub(crate) mod table;

use std::io;

/// Why a request to the kernel failed.
#[derive(Debug, thiserror::Error)]
pub enum NetlinkError {
    /// The kernel refused.
    #[error("{}{}", io::Error::from_raw_os_error(*errno), if text.is_empty() { String::new() } else { format!(": {text}") })]
    Refused {
        /// Positive errno.
        errno: i32,
        /// What the kernel says beyond it (extended ACK); may be empty.
        text: String,
    },
    /// The socket failed.
    #[error("netlink socket: {0}")]
    Socket(#[source] io::Error),
    /// No answer in time.
    #[error("the kernel did not answer within {0} s")]
    Timeout(u64),
}

impl NetlinkError {
    /// The kernel's errno.
    pub fn errno(&self) -> Option<i32> {
        match self {
            NetlinkError::Refused { errno, .. } => Some(*errno),
            _ => None,
        }
    }

    /// True if what should be deleted was not there: success.
    pub fn is_missing(&self) -> bool {
        let missing = [libc::ENOENT, libc::ESRCH, libc::ENODEV, libc::EADDRNOTAVAIL];
        self.errno().is_some_and(|e| missing.contains(&e))
    }

    /// True if what should be made is there: success if it is equal, which reading back says.
    pub fn is_existing(&self) -> bool {
        self.errno() == Some(libc::EEXIST)
    }
}
