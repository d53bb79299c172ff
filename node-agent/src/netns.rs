//! Network namespaces. `setns` changes the calling thread for good, so work inside a namespace runs on a thread made
//! for it, and sockets opened there are handed back. This is the only place that changes a thread's namespace.

use std::fs::{File, Metadata};
use std::io;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::fs::MetadataExt;
use std::path::Path;

use nix::sched::CloneFlags;

use crate::model::NetnsRef;

/// Which namespace a file stands for. Names and pids are reused, this is not while somebody holds it.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct NetnsId {
    device: u64,
    inode: u64,
}

/// Why a namespace cannot be entered.
#[derive(Debug, thiserror::Error)]
pub enum NetnsError {
    /// No such file or process.
    #[error("netns {0} not found")]
    NotFound(NetnsRef),
    /// Anything else.
    #[error("netns {netns}: {act}: {source}")]
    Failed {
        /// Which.
        netns: NetnsRef,
        /// What failed.
        act: &'static str,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// It is the one that the agent itself runs in.
    #[error("netns {0} is the host's own; a port needs a namespace of its workload")]
    Own(NetnsRef),
}

/// An open namespace.
#[derive(Debug)]
pub struct Netns {
    netns: NetnsRef,
    fd: OwnedFd,
    id: NetnsId,
}

fn id_of(meta: &Metadata) -> NetnsId {
    NetnsId { device: meta.dev(), inode: meta.ino() }
}

/// Which namespace a name stands for now; `None` if for none.
pub fn identify(netns: &NetnsRef) -> Option<NetnsId> {
    std::fs::metadata(netns.file()).ok().map(|meta| id_of(&meta))
}

/// The namespace of the calling thread.
pub fn own_id() -> io::Result<NetnsId> {
    std::fs::metadata("/proc/thread-self/ns/net").map(|meta| id_of(&meta))
}

impl Netns {
    /// Opens it. It lives as long as this does, so keep it for a moment only.
    pub fn open(netns: &NetnsRef) -> Result<Self, NetnsError> {
        let failed = |source: io::Error| match source.kind() {
            io::ErrorKind::NotFound => NetnsError::NotFound(netns.clone()),
            _ => NetnsError::Failed { netns: netns.clone(), act: "open", source },
        };
        let file = File::open(netns.file()).map_err(failed)?;
        let id = id_of(&file.metadata().map_err(failed)?);
        Ok(Netns { netns: netns.clone(), fd: file.into(), id })
    }

    /// Which one it is.
    pub fn id(&self) -> NetnsId {
        self.id
    }

    /// Its descriptor.
    pub fn fd(&self) -> &OwnedFd {
        &self.fd
    }

    /// Runs `work` on a thread of its own inside, and waits for it.
    pub fn run<T: Send>(&self, work: impl FnOnce() -> T + Send) -> Result<T, NetnsError> {
        let failed = |act, source| NetnsError::Failed { netns: self.netns.clone(), act, source };
        std::thread::scope(|scope| {
            let inside = move || enter_fd(&self.fd).map(|()| work());
            let thread = std::thread::Builder::new().name("netns".into()).spawn_scoped(scope, inside);
            let thread = thread.map_err(|e| failed("start a thread", e))?;
            match thread.join() {
                Ok(done) => done.map_err(|e| failed("enter", e)),
                Err(_) => Err(failed("run", io::Error::other("the thread panicked"))),
            }
        })
    }
}

/// Moves the calling thread into the namespace for good. Only for a thread that was made for it and has started nothing.
pub fn enter(file: &Path) -> io::Result<()> {
    enter_fd(&File::open(file)?)
}

#[expect(
    clippy::disallowed_methods,
    reason = "on a thread of its own, which ends with its work or belongs there"
)]
fn enter_fd(fd: &impl AsFd) -> io::Result<()> {
    nix::sched::setns(fd, CloneFlags::CLONE_NEWNET).map_err(io::Error::from)
}
