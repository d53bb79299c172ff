//! Why a guest could not do its work.

use std::io;
use std::path::PathBuf;

/// What went wrong with a guest.
#[derive(Debug, thiserror::Error)]
pub enum GuestError {
    /// The guest's root is this machine's, which only root may read whole.
    #[error("guests need root to show them this machine's files: run this with sudo")]
    NotRoot,
    /// A part of what guests are made of is missing.
    #[error("{missing} is missing, which guests need: run scripts/setup.sh")]
    NotPrepared {
        /// The program or file.
        missing: PathBuf,
    },
    /// A directory to be shared is not there, or its name cannot be told to QEMU.
    #[error("cannot share {path} with a guest: {what}")]
    Share {
        /// The directory.
        path: PathBuf,
        /// Why not.
        what: String,
    },
    /// It ended before the command did: a kernel panic, too little memory, QEMU killed.
    #[error("the guest ended before its command ({status}); its last words:\n{words}")]
    Died {
        /// How QEMU ended.
        status: String,
        /// End of QEMU's standard error and of the guest's console.
        words: String,
    },
    /// A test in a guest, see [`crate::guest::test`].
    #[error("{0}")]
    Test(String),
    /// This machine refused something.
    #[error("cannot {act}")]
    Io {
        /// What was tried, with its subject.
        act: String,
        /// Why not.
        #[source]
        source: io::Error,
    },
}

/// Completes "cannot …" for an error of the machine.
pub(super) fn failed(act: impl Into<String>) -> impl FnOnce(io::Error) -> GuestError {
    let act = act.into();
    move |source| GuestError::Io { act, source }
}
