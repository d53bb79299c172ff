//! Removing a lab, or what is left of one.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};

use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::cancel::Cancel;
use crate::error::{Act, LabError};
use crate::state::{LabLock, LabState, ProcessId, processes_in, remove_run_dir};

/// How long processes may take to disappear after SIGKILL.
const DEATH: Duration = Duration::from_secs(10);
/// How long somebody's program in a node's namespace has between SIGTERM and SIGKILL.
const GRACE: Duration = Duration::from_millis(300);

/// How long the keeper of a guest has to end it.
const GUEST_GRACE: Duration = Duration::from_secs(5);

/// Takes a lab down: its processes, namespaces, links and state; with `cleanup` also its folder beside the topology
/// file. Processes of others are not touched, except those that entered a node's network namespace from outside.
///
/// # Errors
/// No such lab is up; another process works on it; something does not go away. What can be removed is removed.
pub fn down(name: &str, cleanup: bool) -> Result<LabState, LabError> {
    let lock = LabLock::acquire(name, &Cancel::new())?;
    let Some(state) = LabState::read(name)? else { return Err(LabError::NotUp { name: name.to_owned() }) };
    let result = remove(&state);
    if cleanup {
        remove_lab_dir(&state.lab_dir)?;
    }
    drop(lock);
    result.map(|()| state)
}

/// Removes a lab's folder beside its topology file, if it is there and one of ours.
pub(crate) fn remove_lab_dir(dir: &Path) -> Result<(), LabError> {
    if !dir.join("topology-data.json").exists() {
        return Ok(());
    }
    match fs::remove_dir_all(dir) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(LabError::Io { act: format!("remove {}", dir.display()), source: error })
        }
        _ => Ok(()),
    }
}

/// Removes all that a state names. Holds for half-made labs too; doing it twice changes nothing.
pub(crate) fn remove(state: &LabState) -> Result<(), LabError> {
    let guest = remove_guest(state);
    let alive: Vec<_> = state.nodes.iter().filter(|node| node.is_alive()).collect();
    // Found while the namespaces are alive: afterwards the kernel may give their numbers to others.
    let netns: Vec<u64> = alive.iter().map(|node| node.netns).filter(|inode| *inode != 0).collect();
    let inits: Vec<ProcessId> = alive.iter().filter_map(|node| node.init).collect();
    let own = std::process::id();
    let guests: Vec<ProcessId> = if netns.is_empty() {
        Vec::new()
    } else {
        processes_in(&netns).into_iter().filter(|p| p.pid != own).collect()
    };

    for init in &inits {
        signal(*init, Signal::SIGKILL);
    }
    let mut result = guest.and(wait_for_death(&inits, DEATH));
    // The kernel has killed what belonged to a node; who came from outside is asked first.
    for guest in &guests {
        signal(*guest, Signal::SIGTERM);
    }
    if wait_for_death(&guests, GRACE).is_err() {
        for guest in &guests {
            signal(*guest, Signal::SIGKILL);
        }
        result = result.and(wait_for_death(&guests, DEATH));
    }
    result = result.and(remove_host_interfaces(state));
    for node in &state.nodes {
        result = result.and(remove_name(&node.netns_path(), node.init));
    }
    result.and(remove_run_dir(&state.name))
}

/// Ends a lab's guest: its keeper ends QEMU, and if it cannot, the kernel does when the keeper is gone.
fn remove_guest(state: &LabState) -> Result<(), LabError> {
    let Some(guest) = &state.guest else { return Ok(()) };
    let processes: Vec<ProcessId> = guest.keeper.into_iter().chain(guest.qemu).collect();
    if let Some(keeper) = guest.keeper {
        signal(keeper, Signal::SIGTERM);
    }
    if wait_for_death(&processes, GUEST_GRACE).is_ok() {
        return Ok(());
    }
    for process in &processes {
        signal(*process, Signal::SIGKILL);
    }
    wait_for_death(&processes, DEATH)
}

/// Removes what is left of labs whose nodes and whose runner are gone: after kill -9, or after a crash. Gives back their
/// names. A lab that another process works on, or that cannot be removed, is left for later.
pub(crate) fn sweep() -> Vec<String> {
    let mut swept = Vec::new();
    for lab in LabState::all().unwrap_or_default() {
        if lab.is_alive() || lab.owner.is_alive() {
            continue;
        }
        let Some(_lock) = LabLock::try_of(&lab.name) else { continue };
        // Looked at again under the lock: it may have been taken down and brought up meanwhile.
        match LabState::read(&lab.name) {
            Ok(Some(now)) if now == lab && remove(&now).is_ok() => swept.push(lab.name),
            _ => {}
        }
    }
    swept
}

fn signal(process: ProcessId, signal: Signal) {
    let Ok(pid) = i32::try_from(process.pid) else { return };
    if process.is_alive() {
        // It may end at this moment, which is what is wanted.
        let _ = kill(Pid::from_raw(pid), signal);
    }
}

fn wait_for_death(processes: &[ProcessId], patience: Duration) -> Result<(), LabError> {
    let pause = Cancel::new();
    let deadline = Instant::now() + patience;
    loop {
        let Some(left) = processes.iter().find(|process| process.is_alive()) else { return Ok(()) };
        if Instant::now() > deadline {
            let source = std::io::Error::from(std::io::ErrorKind::TimedOut);
            return Err(LabError::Io { act: format!("end process {}", left.pid), source });
        }
        pause.pause(Duration::from_millis(2))?;
    }
}

/// Interfaces on the machine go with their peers, a moment after the namespace; this does not wait for that.
fn remove_host_interfaces(state: &LabState) -> Result<(), LabError> {
    let there = |name: &str| Path::new("/sys/class/net").join(name).exists();
    for name in state.host_interfaces.iter().filter(|name| there(name)) {
        let output = Command::new("ip").args(["link", "del", "dev", name]).stdin(Stdio::null()).output();
        let output = output.act(|| "run ip (package iproute2)".to_owned())?;
        if !output.status.success() && there(name) {
            let output = String::from_utf8_lossy(&output.stderr).trim().to_owned();
            return Err(LabError::Program { program: format!("ip link del {name}"), output });
        }
    }
    Ok(())
}

/// Removes a node's name below /run/netns, if it is the one we made.
fn remove_name(path: &Path, init: Option<ProcessId>) -> Result<(), LabError> {
    let Some(init) = init else { return Ok(()) };
    if fs::read_link(path).is_ok_and(|target| target == netns_target(init)) {
        fs::remove_file(path).act(|| format!("remove {}", path.display()))?;
    }
    Ok(())
}

/// Where a node's name below /run/netns leads. A link like containerlab's and no bind mount: it does not keep a
/// namespace alive whose node is gone.
pub(crate) fn netns_target(init: ProcessId) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/net", init.pid))
}
