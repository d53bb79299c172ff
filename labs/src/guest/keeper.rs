//! The process that holds a lab's guest. It outlives `up` when it is told so, and the guest ends with it.
//!
//! ```text
//! up ── stdin: dies before "keep" ── keeper ── dies ── QEMU
//! exec, inspect ── guest.sock ─────────┤                 │
//!                                      └── ports ── server in the guest
//! ```

use std::fs::{self, OpenOptions};
use std::io::{self, BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::{AsFd, OwnedFd};
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, Stdio};
use std::sync::{Arc, Condvar, Mutex, PoisonError};

use nix::sys::signal::{Signal, kill};
use nix::unistd::{Pid, setsid};
use serde::{Deserialize, Serialize};

use super::frame::{Frame, Request};
use super::process::GuestProcess;
use super::server::{PORTS, port};
use super::{Guest, GuestError};
use crate::cancel::Cancel;
use crate::error::{Act, LabError, chain};
use crate::note::note;
use crate::spec::ToNode;
use crate::state::ProcessId;

/// What the keeper is told, as a file.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct KeeperSpec {
    pub(crate) guest: Guest,
    /// The server in the guest.
    pub(crate) argv: Vec<String>,
    /// Where to take requests.
    pub(crate) socket: PathBuf,
}

/// A line from the keeper to who started it.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub(crate) enum FromKeeper {
    /// QEMU runs.
    Started(Option<ProcessId>),
    /// The guest has booted and takes requests.
    Ready,
    /// It has ended.
    Failed(String),
}

/// The keeper, as who started it sees it. The guest ends when this is dropped before [`Keeper::keep`].
#[derive(Debug)]
pub(crate) struct Keeper {
    child: Child,
    socket: UnixStream,
    lines: BufReader<UnixStream>,
}

impl Keeper {
    /// Starts it; its words go to `log`.
    pub(crate) fn start(
        words: &[String],
        spec: &KeeperSpec,
        path: &Path,
        log: &Path,
        cancel: &Cancel,
    ) -> Result<Self, LabError> {
        let text = serde_json::to_vec(spec).act(|| "write a specification".to_owned())?;
        fs::write(path, text).act(|| format!("write {}", path.display()))?;
        let log = OpenOptions::new()
            .create(true)
            .append(true)
            .open(log)
            .act(|| format!("open {}", log.display()))?;
        let errors = log.try_clone().act(|| "copy the log".to_owned())?;
        let (socket, theirs) = UnixStream::pair().act(|| "make a socket pair".to_owned())?;
        let stopper = socket.try_clone().act(|| "copy a socket".to_owned())?;
        cancel.on_cancel(move || drop(stopper.shutdown(Shutdown::Both)));
        let lines = BufReader::new(socket.try_clone().act(|| "copy a socket".to_owned())?);
        let (program, arguments) =
            words.split_first().map_or(("", words), |(first, rest)| (first.as_str(), rest));
        let child = Command::new(program)
            .args(arguments)
            .arg("--spec")
            .arg(path)
            .stdin(Stdio::from(OwnedFd::from(theirs)))
            .stdout(log)
            .stderr(errors)
            .spawn()
            .act(|| format!("start {program}"))?;
        Ok(Keeper { child, socket, lines })
    }

    pub(crate) fn id(&self) -> Option<ProcessId> {
        ProcessId::of(self.child.id())
    }

    /// The next that it tells.
    pub(crate) fn hear(&mut self) -> Result<FromKeeper, LabError> {
        let mut line = String::new();
        let act = || "hear from the keeper of the guest".to_owned();
        if self.lines.read_line(&mut line).act(act)? == 0 {
            let what = "its keeper has ended: see logs/guest.log in the lab's folder".to_owned();
            return Err(LabError::Unsupported { subject: "the guest".to_owned(), what });
        }
        match serde_json::from_str(&line).act(act)? {
            FromKeeper::Failed(what) => Err(LabError::Unsupported { subject: "the guest".to_owned(), what }),
            other => Ok(other),
        }
    }

    /// From now on the guest lives without this process.
    pub(crate) fn keep(&mut self) -> Result<(), LabError> {
        let mut line = serde_json::to_vec(&ToNode::Keep).act(|| "write a message".to_owned())?;
        line.push(b'\n');
        self.socket.write_all(&line).act(|| "talk to the keeper of the guest".to_owned())
    }
}

impl Drop for Keeper {
    fn drop(&mut self) {
        // A keeper that was ended by `down` is no zombie of ours; one that goes on is nobody's business here.
        drop(self.child.try_wait());
    }
}

/// The keeper itself; its standard input is the socket to who started it.
pub(crate) fn run(spec: &Path) -> ExitCode {
    let Ok(mut runner) = io::stdin().as_fd().try_clone_to_owned().map(UnixStream::from) else {
        return ExitCode::FAILURE;
    };
    match keep_guest(spec, &runner) {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            let text = chain(&error);
            note(&format!("causeway: {text}"));
            // Nobody may listen any more.
            let _ = say(&mut runner, &FromKeeper::Failed(text));
            ExitCode::FAILURE
        }
    }
}

fn say(runner: &mut UnixStream, message: &FromKeeper) -> io::Result<()> {
    let mut line = serde_json::to_vec(message)?;
    line.push(b'\n');
    runner.write_all(&line)
}

fn keep_guest(spec: &Path, runner: &UnixStream) -> Result<(), LabError> {
    // A Ctrl-C at the terminal of `up` is the runner's matter.
    setsid().act(|| "start a session".to_owned())?;
    let text = fs::read(spec).act(|| format!("read {}", spec.display()))?;
    let spec: KeeperSpec = serde_json::from_slice(&text).act(|| format!("understand {}", spec.display()))?;
    let end = Cancel::new();
    end.on_signals()?;

    let names: Vec<String> = (0..PORTS).map(port).collect();
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let mut process = GuestProcess::start(&spec.guest, &spec.argv, &names)?;
    let qemu = process.id();
    end.on_cancel(move || {
        // Everything here ends with it.
        if let Some(pid) = qemu.filter(|qemu| qemu.is_alive()).and_then(|qemu| i32::try_from(qemu.pid).ok()) {
            let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
        }
    });
    let copy = || runner.try_clone().act(|| "copy a socket".to_owned());
    let mut tell = copy()?;
    say(&mut tell, &FromKeeper::Started(qemu)).act(|| "tell the runner".to_owned())?;
    let watched = copy()?;
    let stop = end.clone();
    let ports = std::mem::take(&mut process.ports);
    let start = |name: &str, work: Box<dyn FnOnce() + Send>| {
        std::thread::Builder::new()
            .name(name.to_owned())
            .spawn(work)
            .map(drop)
            .act(|| "start a thread".to_owned())
    };
    start("runner", Box::new(move || watch(watched, &stop)))?;
    let stop = end.clone();
    start(
        "requests",
        Box::new(move || {
            if let Err(error) = take_requests(ports, &spec.socket, &mut tell) {
                note(&format!("causeway: the guest takes no requests: {error}"));
                stop.cancel();
            }
        }),
    )?;
    let result = process.stream(None, io::stdout(), io::stderr());
    match result {
        Err(_) if end.is_cancelled() => Ok(()),
        Err(error) => Err(error.into()),
        Ok((status, _)) => Err(GuestError::Died {
            status: format!("exit status {status}"),
            words: "the server in the guest has ended".to_owned(),
        }
        .into()),
    }
}

/// Ends the guest when the runner is gone before it said that the lab may stay.
fn watch(runner: UnixStream, end: &Cancel) {
    for line in BufReader::new(runner).lines().map_while(Result::ok) {
        if matches!(serde_json::from_str(&line), Ok(ToNode::Keep)) {
            return;
        }
    }
    end.cancel();
}

/// Waits for the guest, then for clients.
fn take_requests(mut ports: Vec<UnixStream>, path: &Path, runner: &mut UnixStream) -> io::Result<()> {
    let first = ports.first_mut().ok_or(io::ErrorKind::NotFound)?;
    Frame::Request(Request::Hello).write(&mut *first)?;
    match Frame::read(&mut *first)? {
        Some(Frame::Exit(0)) => {}
        other => return Err(io::Error::other(format!("its first answer is {other:?}"))),
    }
    let listener = UnixListener::bind(path)?;
    // Who started this may have gone, which is noticed elsewhere.
    let _ = say(runner, &FromKeeper::Ready);
    let pool = Arc::new(Pool { free: Mutex::new(ports), freed: Condvar::new() });
    for client in listener.incoming() {
        let (client, pool) = (client?, Arc::clone(&pool));
        std::thread::Builder::new().spawn(move || serve(&client, &pool))?;
    }
    Ok(())
}

/// Ports that carry no request now.
struct Pool {
    free: Mutex<Vec<UnixStream>>,
    freed: Condvar,
}

impl Pool {
    /// Waits for one: there is an end to every request, or to its client's patience.
    fn take(&self) -> Option<UnixStream> {
        let free = self.free.lock().unwrap_or_else(PoisonError::into_inner);
        self.freed.wait_while(free, |free| free.is_empty()).unwrap_or_else(PoisonError::into_inner).pop()
    }

    fn give_back(&self, port: UnixStream) {
        self.free.lock().unwrap_or_else(PoisonError::into_inner).push(port);
        self.freed.notify_one();
    }
}

fn serve(client: &UnixStream, pool: &Pool) {
    let Ok(Some(request @ Frame::Request(_))) = Frame::read(client) else { return };
    let Some(port) = pool.take() else { return };
    match carry(client, &port, &request) {
        Ok(()) => pool.give_back(port),
        // The port is out of step, or the guest is gone: it is not used again.
        Err(error) => {
            let _ = Frame::Failed(format!("the guest has ended: {error}")).write(client);
        }
    }
    drop(client.shutdown(Shutdown::Both));
}

/// Carries one request, to its last frame whatever becomes of the client.
fn carry(client: &UnixStream, port: &UnixStream, request: &Frame) -> io::Result<()> {
    request.write(port)?;
    std::thread::scope(|scope| {
        // Joined before the port is free again: what it writes last, a `Kill`, meets no other request.
        scope.spawn(|| {
            while let Ok(Some(frame @ Frame::Input(_))) = Frame::read(client) {
                if frame.write(port).is_err() {
                    return;
                }
            }
            let _ = Frame::Kill.write(port);
        });
        let result = relay(client, port);
        drop(client.shutdown(Shutdown::Read));
        result
    })
}

fn relay(client: &UnixStream, port: &UnixStream) -> io::Result<()> {
    let mut is_there = true;
    loop {
        let Some(frame) = Frame::read(port)? else { return Err(io::ErrorKind::UnexpectedEof.into()) };
        is_there = is_there && frame.write(client).is_ok();
        if frame.is_last() {
            return Ok(());
        }
    }
}
