//! Moving the host's own addresses from an uplink to the bridge that takes it as a port, with a way back.
//!
//! A record is on disk before anything moves. A child process then waits for a controller: if one answers, the move
//! stands; if none does in time, or the agent dies meanwhile, it is undone. Whoever renames the record decides, so that
//! it is decided once. A record that nobody decided on, since the child died too, is undone by the next start.

use std::fs;
use std::io::{self, Read, Write};
use std::net::{IpAddr, SocketAddr, TcpStream, ToSocketAddrs};
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use super::seen::Trial;
use super::transfer::{Transfer, TransferError};
use crate::dev::Dev;
use crate::kernel::{Kernel, OpError};
use crate::model::Lan;

/// How long a controller may take to answer before the move is undone.
pub const PATIENCE: Duration = Duration::from_secs(10);
const PENDING: &str = "move.pending";
const UNDOING: &str = "move.undoing";
const FAILED: &str = "move.failed";

/// Why addresses were not moved, or not back.
#[derive(Debug, thiserror::Error)]
pub enum MoveError {
    /// The record cannot be kept.
    #[error("{act} {}: {source}", path.display())]
    Record {
        /// What failed.
        act: &'static str,
        /// On which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: io::Error,
    },
    /// The record cannot be read.
    #[error("{} is damaged: {source}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// Why.
        #[source]
        source: serde_json::Error,
    },
    /// The process that would undo it cannot be started.
    #[error("start the process that would undo the move: {0}")]
    Watchdog(#[source] io::Error),
    /// No controller can confirm it.
    #[error("no controller answers ({0}), so that nobody could confirm the move; nothing was moved")]
    Unconfirmable(String),
    /// The kernel refused.
    #[error(transparent)]
    Transfer(#[from] TransferError),
}

/// What was moved, as the kernel's own messages in hex.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Record {
    pub(crate) uplink: String,
    pub(crate) bridge: String,
    /// The boot in which it was moved: in another one there is nothing to undo.
    pub(crate) boot: String,
    pub(crate) addresses: Vec<String>,
    pub(crate) routes: Vec<String>,
}

#[derive(Debug, Serialize, Deserialize)]
struct Failed {
    uplink: String,
    why: String,
}

/// Where records are kept, and who undoes.
#[derive(Debug, Clone)]
pub struct Moves {
    /// Directory of the records.
    pub dir: PathBuf,
    /// The agent's program, which is started as the child; empty: only to look at records.
    pub program: PathBuf,
    /// Controllers, as in the configuration.
    pub controllers: Vec<String>,
}

fn failed<'a>(act: &'static str, path: &'a Path) -> impl FnOnce(io::Error) -> MoveError + 'a {
    move |source| MoveError::Record { act, path: path.to_owned(), source }
}

fn write(path: &Path, value: &impl Serialize) -> Result<(), MoveError> {
    let text = serde_json::to_vec(value).map_err(|e| failed("write", path)(io::Error::other(e)))?;
    let new = path.with_extension("new");
    let mut file = fs::File::create(&new).map_err(failed("create", &new))?;
    file.write_all(&text).and_then(|()| file.sync_all()).map_err(failed("write", &new))?;
    fs::rename(&new, path).map_err(failed("replace", path))
}

fn read<T: for<'a> Deserialize<'a>>(path: &Path) -> Result<Option<T>, MoveError> {
    match fs::read(path) {
        Ok(bytes) => {
            let damaged = |source| MoveError::Damaged { path: path.to_owned(), source };
            serde_json::from_slice(&bytes).map(Some).map_err(damaged)
        }
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
        Err(error) => Err(failed("read", path)(error)),
    }
}

/// Identifies this boot; empty if the kernel does not say.
pub(crate) fn boot() -> String {
    fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default().trim().to_owned()
}

/// Where a controller listens: `IP:PORT`, several for a name, or `unix:PATH`.
fn targets(controller: &str) -> Vec<String> {
    if controller.starts_with("unix:") {
        return vec![controller.to_owned()];
    }
    let (rest, port) = match controller.split_once("://") {
        Some(("https", rest)) => (rest, 443),
        Some((_, rest)) => (rest, 80),
        None => (controller, 80),
    };
    let authority = rest.split('/').next().unwrap_or(rest);
    let found = authority.to_socket_addrs().or_else(|_| (authority, port).to_socket_addrs());
    found.into_iter().flatten().map(|a| a.to_string()).collect()
}

fn answers(target: &str) -> bool {
    if let Some(path) = target.strip_prefix("unix:") {
        return UnixStream::connect(path.trim_start_matches("//")).is_ok();
    }
    let Ok(address) = target.parse::<SocketAddr>() else { return false };
    TcpStream::connect_timeout(&address, Duration::from_secs(1)).is_ok()
}

impl Moves {
    fn path(&self, name: &str) -> PathBuf {
        self.dir.join(name)
    }

    /// How far the move is. A failure is forgotten when moving is no longer asked for.
    pub(crate) fn trial(&self, lan: Option<&Lan>) -> Option<Trial> {
        for name in [PENDING, UNDOING] {
            if let Ok(Some(record)) = read::<Record>(&self.path(name)) {
                let (uplink, bridge) = (Dev::new(&record.uplink), Dev::new(&record.bridge));
                return Some(Trial::Pending { uplink, bridge });
            }
        }
        let failed: Failed = read(&self.path(FAILED)).ok().flatten()?;
        if lan.is_some_and(|lan| !lan.move_addresses) {
            if !self.program.as_os_str().is_empty() {
                let _ = fs::remove_file(self.path(FAILED));
            }
            return None;
        }
        Some(Trial::Failed { uplink: Dev::new(&failed.uplink), why: failed.why })
    }

    /// Undoes what an agent that died left undecided.
    pub fn recover(&self) -> Result<(), MoveError> {
        let why = "the agent ended before a controller had answered";
        let pending = self.path(PENDING).exists() || self.path(UNDOING).exists();
        if pending { undo(&self.dir, why) } else { Ok(()) }
    }

    /// The addresses of controllers, one of which answers now.
    fn witnesses(&self) -> Result<Vec<String>, MoveError> {
        let targets: Vec<String> = self.controllers.iter().flat_map(|c| targets(c)).collect();
        match targets.iter().any(|t| answers(t)) {
            true => Ok(targets),
            false => Err(MoveError::Unconfirmable(self.controllers.join(", "))),
        }
    }

    /// Writes the record and starts the child. It hears of this process' death by the end of its input.
    fn begin(&self, record: &Record, ended: impl FnOnce() + Send + 'static) -> Result<(), MoveError> {
        let targets = self.witnesses()?;
        fs::create_dir_all(&self.dir).map_err(failed("create", &self.dir))?;
        let _ = fs::remove_file(self.path(FAILED));
        write(&self.path(PENDING), record)?;
        let started = Command::new(&self.program)
            .arg("confirm-move")
            .arg("--dir")
            .arg(&self.dir)
            .arg("--targets")
            .arg(targets.join(","))
            .stdin(Stdio::piped())
            .stdout(Stdio::null())
            .spawn();
        let mut child = match started {
            Ok(child) => child,
            Err(error) => {
                let _ = fs::remove_file(self.path(PENDING));
                return Err(MoveError::Watchdog(error));
            }
        };
        let input = child.stdin.take();
        let (dir, pending) = (self.dir.clone(), self.path(PENDING));
        // In the namespace of the thread that starts it, like the child.
        let wait = move || {
            let _ = child.wait();
            drop(input);
            if pending.exists()
                && let Err(error) = undo(&dir, "the process that waited for a controller died")
            {
                tracing::error!(%error, "addresses could not be moved back");
            }
            ended();
        };
        std::thread::Builder::new().name("move".into()).spawn(wait).map_err(MoveError::Watchdog)?;
        Ok(())
    }
}

/// The child: waits for a controller, and undoes the move if none answers or the agent is gone.
pub fn confirm(dir: &Path, targets: &[String]) -> Result<(), MoveError> {
    let (gone, is_gone) = mpsc::channel();
    std::thread::spawn(move || {
        let mut nothing = [0; 1];
        while io::stdin().read(&mut nothing).is_ok_and(|n| n > 0) {}
        let _ = gone.send(());
    });
    let start = Instant::now();
    // The move comes right after this process starts: what answers before it proves nothing.
    let mut proofs = 0;
    while start.elapsed() < PATIENCE {
        if is_gone.recv_timeout(Duration::from_millis(500)) != Err(mpsc::RecvTimeoutError::Timeout) {
            return undo(dir, "the agent ended before a controller had answered");
        }
        proofs = if targets.iter().any(|t| answers(t)) { proofs + 1 } else { 0 };
        if proofs >= 2 {
            let pending = dir.join(PENDING);
            return fs::remove_file(&pending).map_err(failed("remove", &pending));
        }
    }
    let seconds = PATIENCE.as_secs();
    undo(dir, &format!("no controller answered within {seconds} s"))
}

/// Moves the addresses back. May be repeated.
fn undo(dir: &Path, why: &str) -> Result<(), MoveError> {
    let (pending, undoing) = (dir.join(PENDING), dir.join(UNDOING));
    match fs::rename(&pending, &undoing) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => {
            return Err(failed("rename", &pending)(error));
        }
        _ => {}
    }
    let Some(record) = read::<Record>(&undoing)? else { return Ok(()) };
    if record.boot == boot() {
        Transfer::from_record(&record)?.undo()?;
        let Record { uplink, bridge, .. } = &record;
        let why = format!(
            "addresses of {uplink} were moved to {bridge} and back again: {why}; \
             switch move_addresses off and on again to try once more"
        );
        write(&dir.join(FAILED), &Failed { uplink: uplink.clone(), why })?;
    }
    fs::remove_file(&undoing).map_err(failed("remove", &undoing))
}

impl Kernel {
    /// Moves addresses and routes in one batch; there with a record and a child, back without.
    pub(crate) fn move_addresses(&mut self, uplink: &Dev, bridge: &Dev, back: bool) -> Result<(), OpError> {
        let refused = |error: MoveError| OpError::Conflict(error.to_string());
        let (from, to) = if back { (bridge, uplink) } else { (uplink, bridge) };
        let transfer = Transfer::read(uplink, bridge, from).map_err(|e| refused(e.into()))?;
        if !back {
            let Some(moves) = &self.moves else {
                let why = "this agent keeps no records of moved addresses";
                return Err(OpError::Conflict(why.into()));
            };
            let ended = self.wakes_host();
            moves.begin(&transfer.record(), ended).map_err(refused)?;
        }
        match if back { transfer.undo() } else { transfer.perform() } {
            Ok(()) => {}
            Err(error) if back => return Err(refused(error.into())),
            Err(error) => {
                let dir = self.moves.as_ref().map(|m| m.dir.clone()).unwrap_or_default();
                let undone = undo(&dir, &error.to_string());
                return Err(refused(undone.err().unwrap_or(error.into())));
            }
        }
        let addresses: std::collections::BTreeSet<IpAddr> = transfer.announced();
        if addresses.is_empty() {
            Ok(())
        } else {
            crate::announce::start_on_host(to, None, None, addresses, None)
        }
    }
}
