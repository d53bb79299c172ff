//! The program inside a node. It runs twice:
//!
//! ```text
//! runner ── starts ──> outer: makes the namespaces, starts ──> inner: PID 1 of the node
//!    ^                   tells its number, ends                   root, binds, sysctls ── ready
//!    └───────────────────────── one socket ────────────────────── go: entry point ── keep
//! ```
//!
//! PID 1 waits for children, passes SIGTERM on to them, and when it ends the kernel kills everything in the node: to
//! end a node, kill its PID 1.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{BufRead, BufReader, Write};
use std::os::fd::AsFd;
use std::os::unix::fs::FileExt;
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::process::{Command, ExitCode, Stdio};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::{Pid, sethostname, setsid};

use crate::error::{Act, LabError, chain};
use crate::note::note;
use crate::spec::{EntryStatus, FromNode, NodeSpec, ToNode};
use crate::{netns, root};

/// How long processes of a node have between SIGTERM and SIGKILL when its PID 1 is asked to end.
const GRACE: Duration = Duration::from_secs(1);

/// Runs the outer or the inner part; its standard input is the socket to the runner.
pub(crate) fn run(spec: &Path, inner: bool) -> ExitCode {
    let Ok(mut socket) = std::io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return ExitCode::FAILURE;
    };
    let result = if inner { run_inner(spec, &socket) } else { run_outer(&mut socket) };
    match result {
        Ok(code) => code,
        Err(error) => {
            // If nobody reads it, the runner is gone, and this node ends in any case.
            let _ = say(&mut socket, &FromNode::Failed(chain(&error)));
            ExitCode::FAILURE
        }
    }
}

fn say(socket: &mut UnixStream, message: &FromNode) -> std::io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    socket.write_all(&line)
}

fn run_outer(socket: &mut UnixStream) -> Result<ExitCode, LabError> {
    let exe = std::env::current_exe().act(|| "find this program".to_owned())?;
    netns::unshare_all().act(|| "make namespaces".to_owned())?;
    let arguments = std::env::args_os().skip(1);
    let child = Command::new(&exe)
        .args(arguments)
        .arg("--inner")
        .spawn()
        .act(|| format!("start {}", exe.display()))?;
    say(socket, &FromNode::Pid(child.id())).act(|| "tell the runner".to_owned())?;
    // The child is not waited for: it belongs to the machine's own PID 1 from now on.
    Ok(ExitCode::SUCCESS)
}

fn run_inner(spec: &Path, socket: &UnixStream) -> Result<ExitCode, LabError> {
    // Blocked before there is a second thread: only `watch` takes signals, one after another.
    let signals = handled();
    signals.thread_block().act(|| "block signals".to_owned())?;
    // A Ctrl-C at the terminal of `up` is the runner's matter.
    setsid().act(|| "start a session".to_owned())?;

    let text = fs::read(spec).act(|| format!("read {}", spec.display()))?;
    let spec: NodeSpec = serde_json::from_slice(&text).act(|| format!("understand {}", spec.display()))?;
    let status = OpenOptions::new().create(true).truncate(true).write(true).open(&spec.status);
    let entry = Arc::new(Mutex::new(Entry {
        pid: None,
        status: status.act(|| format!("open {}", spec.status.display()))?,
    }));
    lock(&entry).set(EntryStatus::Idle);
    netns::set_loopback_up().act(|| "set lo up".to_owned())?;
    root::enter_root(&spec)?;
    sethostname(&spec.hostname).act(|| format!("set the host name {}", spec.hostname))?;

    let talk = socket.try_clone().act(|| "copy the socket".to_owned())?;
    let starting = Arc::clone(&entry);
    std::thread::Builder::new()
        .name("runner".to_owned())
        .spawn(move || {
            match obey_runner(&spec, talk, &starting) {
                Ok(true) => return,
                Ok(false) => {}
                Err(error) => note(&format!("causeway: node {}: {}", spec.node, chain(&error))),
            }
            // The runner is gone before the lab was complete. Ending PID 1 ends the node.
            std::process::exit(1)
        })
        .act(|| "start a thread".to_owned())?;
    watch(&signals, &entry)
}

/// The entry point: its number in the node, and the file that says how it is.
struct Entry {
    pid: Option<Pid>,
    status: File,
}

impl Entry {
    fn set(&mut self, status: EntryStatus) {
        let mut text = serde_json::to_string(&status).unwrap_or_default();
        text.push('\n');
        // The file is for people who ask how the node is: no reason to end the node.
        let _ = self.status.set_len(0).and_then(|()| self.status.write_all_at(text.as_bytes(), 0));
    }
}

fn lock(entry: &Mutex<Entry>) -> std::sync::MutexGuard<'_, Entry> {
    entry.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Does what the runner says until it says that the node may stay: true. False, or an error: the runner died before.
fn obey_runner(spec: &NodeSpec, mut socket: UnixStream, entry: &Mutex<Entry>) -> Result<bool, LabError> {
    let tell = || "tell the runner".to_owned();
    let early = set_sysctls(&spec.sysctls);
    say(&mut socket, &FromNode::Ready).act(tell)?;
    let lines = BufReader::new(socket.try_clone().act(|| "copy the socket".to_owned())?).lines();
    for line in lines.map_while(Result::ok) {
        match serde_json::from_str::<ToNode>(&line) {
            Ok(ToNode::Go) => {
                for warning in set_sysctls(&early).into_keys() {
                    let text = format!(
                        "sysctl {warning}: the kernel has no such parameter here, or refuses the value"
                    );
                    say(&mut socket, &FromNode::Warning(text)).act(tell)?;
                }
                match start_entry(spec, entry) {
                    Ok(()) => say(&mut socket, &FromNode::Started).act(tell)?,
                    Err(error) => say(&mut socket, &FromNode::Failed(chain(&error))).act(tell)?,
                }
            }
            Ok(ToNode::Keep) => return Ok(true),
            Err(_) => break,
        }
    }
    Ok(false)
}

/// Sets kernel parameters and gives back those that could not be set.
fn set_sysctls(sysctls: &BTreeMap<String, String>) -> BTreeMap<String, String> {
    let mut failed = BTreeMap::new();
    for (name, value) in sysctls {
        if fs::write(Path::new("/proc/sys").join(sysctl_path(name)), value).is_err() {
            failed.insert(name.clone(), value.clone());
        }
    }
    failed
}

/// `net.ipv4.ip_forward` is `net/ipv4/ip_forward`. A name written with slashes may have dots in its parts.
fn sysctl_path(name: &str) -> String {
    let path = if name.contains('/') { name.to_owned() } else { name.replace('.', "/") };
    path.split('/').filter(|part| !part.is_empty() && *part != "..").collect::<Vec<_>>().join("/")
}

fn start_entry(spec: &NodeSpec, entry: &Mutex<Entry>) -> Result<(), LabError> {
    let Some((program, arguments)) = spec.argv.split_first() else { return Ok(()) };
    // Held while it starts, so that its end is not noticed before its number is known.
    let mut locked = lock(entry);
    // A child inherits the mask of the thread that starts it, and a daemon with SIGTERM blocked cannot be stopped.
    let signals = handled();
    signals.thread_unblock().act(|| "unblock signals".to_owned())?;
    let child = Command::new(program)
        .args(arguments)
        .env_clear()
        .envs(&spec.env)
        .stdin(Stdio::null())
        .spawn()
        .act(|| format!("start the entry point {program}"));
    signals.thread_block().act(|| "block signals".to_owned())?;
    locked.pid = i32::try_from(child?.id()).ok().map(Pid::from_raw);
    locked.set(EntryStatus::Running);
    drop(locked);
    // A SIGCHLD of the moment before may have been taken by this thread.
    reap(entry);
    Ok(())
}

/// The signals that PID 1 waits for; blocked in all its threads.
fn handled() -> SigSet {
    let mut signals = SigSet::empty();
    signals.add(Signal::SIGCHLD);
    signals.add(Signal::SIGTERM);
    signals
}

/// What PID 1 is for.
fn watch(signals: &SigSet, entry: &Mutex<Entry>) -> Result<ExitCode, LabError> {
    loop {
        match signals.wait().act(|| "wait for a signal".to_owned())? {
            Signal::SIGTERM => {
                // -1: every process of this PID namespace but PID 1 itself. None left is no error.
                let _ = kill(Pid::from_raw(-1), Signal::SIGTERM);
                let _ = reap_until_alone(GRACE);
                return Ok(ExitCode::SUCCESS);
            }
            _ => reap(entry),
        }
    }
}

/// Takes note of every process that has ended, also of those that lost their parents.
fn reap(entry: &Mutex<Entry>) {
    loop {
        let (pid, code) = match waitpid(None, Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, code)) => (pid, code),
            Ok(WaitStatus::Signaled(pid, signal, _)) => (pid, 128 + signal as i32),
            Ok(WaitStatus::StillAlive) | Err(_) => return,
            Ok(_) => continue,
        };
        let mut entry = lock(entry);
        if entry.pid == Some(pid) {
            entry.pid = None;
            entry.set(EntryStatus::Exited(code));
            note(&format!("causeway: the entry point exited with {code}"));
        }
    }
}

/// Waits until no child is left, that long at most.
fn reap_until_alone(time: Duration) -> std::io::Result<()> {
    let (done, is_done) = std::sync::mpsc::channel();
    std::thread::Builder::new().spawn(move || {
        while waitpid(None, None).is_ok() {}
        let _ = done.send(());
    })?;
    let _ = is_done.recv_timeout(time);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sysctl_names_stay_below_proc_sys() {
        assert_eq!(sysctl_path("net.ipv4.ip_forward"), "net/ipv4/ip_forward");
        assert_eq!(sysctl_path("net/ipv4/conf/eth0.100/rp_filter"), "net/ipv4/conf/eth0.100/rp_filter");
        assert_eq!(sysctl_path("/../../etc/passwd"), "etc/passwd");
    }
}
