//! New namespaces for a process that is about to start a node.

use nix::sched::CloneFlags;

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
