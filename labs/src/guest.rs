//! QEMU guests: what needs a kernel other than this machine's runs in one.
//!
//! A guest has Debian's kernel and this machine's root, read-only below a tmpfs: every program, library, image and build
//! is there under its own path, and what is written is gone with the guest, except below [`Guest::shares`].
//!
//! ```text
//! caller ── setpriv (dies with the caller) ── QEMU ─┬─ kernel, initrd ── /run/stage: the command
//!   └── one Unix socket per stream <────────────────┘      stdout, stderr, further ports (virtio-serial)
//! ```
//!
//! `scripts/setup.sh` prepares the kernel. CPU work is two to three times slower inside than outside, starting a program
//! ten to fifty times: a command that does much in one process is the one to run here.
//!
//! ```no_run
//! let guest = causeway_labs::guest::Guest::new();
//! let ended = guest.run(&["ip", "link", "add", "red", "type", "vrf", "table", "7"])?;
//! assert_eq!(ended.status, 0);
//! # Ok::<(), causeway_labs::guest::GuestError>(())
//! ```

pub(crate) mod client;
mod error;
pub(crate) mod frame;
pub(crate) mod keeper;
mod kernel;
mod process;
pub(crate) mod server;
mod stage;
mod stream;
pub mod test;

use std::ffi::{OsStr, OsString};
use std::io::Write;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

pub use error::GuestError;
use process::GuestProcess;

/// Exit status of a command that its guest's time limit has ended, as that of timeout(1).
pub const TIMED_OUT: i32 = 124;

/// A guest to be: how large it is, how long it may live, what of this machine it sees besides the root.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Guest {
    /// Memory in MiB. Four fifths of it at most hold what is written.
    pub memory: u32,
    /// Virtual CPUs.
    pub cpus: u32,
    /// Longest life, boot included; `None`: as long as its command takes.
    pub limit: Option<Duration>,
    /// Working directory of the command.
    pub directory: PathBuf,
    /// Environment of the command, whole, but for PATH and HOME, which it has in any case.
    pub env: Vec<(OsString, OsString)>,
    /// Directories of this machine that can be written to, under the same path inside. They must exist.
    pub shares: Vec<PathBuf>,
    /// Further words of the kernel's command line.
    pub kernel_flags: Vec<String>,
}

impl Guest {
    /// 1 GiB, two CPUs, ten minutes, in the caller's working directory, with an empty environment.
    pub fn new() -> Self {
        Guest {
            memory: 1024,
            cpus: 2,
            limit: Some(Duration::from_secs(600)),
            directory: std::env::current_dir().unwrap_or_else(|_| PathBuf::from("/")),
            env: Vec::new(),
            shares: Vec::new(),
            kernel_flags: Vec::new(),
        }
    }

    /// Boots, runs a command to its end with this process's standard output and error, and ends. The command's standard
    /// input is empty.
    ///
    /// # Errors
    /// The guest cannot be started, or ends before the command. A command that fails is no error.
    pub fn run<S: AsRef<OsStr>>(&self, argv: &[S]) -> Result<Ended, GuestError> {
        self.run_into(argv, std::io::stdout(), std::io::stderr())
    }

    /// [`Guest::run`] with the command's streams, byte for byte, in these places. A place that takes no more is no error:
    /// the rest of that stream is dropped.
    ///
    /// # Errors
    /// Those of [`Guest::run`].
    pub fn run_into<S: AsRef<OsStr>>(
        &self,
        argv: &[S],
        out: impl Write + Send,
        err: impl Write + Send,
    ) -> Result<Ended, GuestError> {
        let start = Instant::now();
        let mut process = GuestProcess::start(self, argv, &[])?;
        let result = process.stream(self.limit.map(|limit| start + limit), out, err);
        process.end();
        let (status, booted) = result?;
        let booted = booted.map_or(start.elapsed(), |at| at - start);
        Ok(Ended { status, boot: booted, command: start.elapsed().saturating_sub(booted) })
    }
}

impl Default for Guest {
    fn default() -> Self {
        Self::new()
    }
}

/// How a command in a guest went.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Ended {
    /// The command's exit status; 127: there is no such program; 128 and the signal's number: a signal ended it;
    /// [`TIMED_OUT`]: the guest's limit has.
    pub status: i32,
    /// From the start of QEMU to that of the command.
    pub boot: Duration,
    /// From the start of the command to its end.
    pub command: Duration,
}

impl std::fmt::Display for Ended {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let (boot, command) = (self.boot.as_secs_f64(), self.command.as_secs_f64());
        write!(f, "guest booted in {boot:.1} s, command took {command:.1} s, exit status {}", self.status)
    }
}
