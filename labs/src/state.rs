//! What is known about labs that run: `/run/causeway/labs/LAB/`, gone after a reboot like the labs themselves.

use std::collections::BTreeMap;
use std::fs::{self, File, OpenOptions};
use std::io::{self, Write};
use std::os::unix::fs::MetadataExt;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::error::{Act, LabError};
use crate::spec::EntryStatus;

const RUN_DIR: &str = "/run/causeway/labs";
/// How long a command waits for another one that works on the same lab.
const LOCK_PATIENCE: Duration = Duration::from_secs(5);

/// A process that cannot be mistaken for a later one with the same number.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct ProcessId {
    /// Number, in the machine's own PID namespace.
    pub pid: u32,
    /// Start, in clock ticks since the machine started (`/proc/PID/stat`, field 22).
    pub start: u64,
}

impl ProcessId {
    /// The process that has this number now; `None`: there is none, or it has ended.
    pub fn of(pid: u32) -> Option<Self> {
        let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        let (state, start) = parse_stat(&stat)?;
        (!matches!(state, 'Z' | 'X')).then_some(ProcessId { pid, start })
    }

    /// True while the process runs.
    pub fn is_alive(self) -> bool {
        Self::of(self.pid) == Some(self)
    }
}

/// State letter and start of a process. Its name, in parentheses, may contain anything.
fn parse_stat(stat: &str) -> Option<(char, u64)> {
    let rest = stat.get(stat.rfind(')')? + 1..)?;
    let mut fields = rest.split_ascii_whitespace();
    let state = fields.next()?.chars().next()?;
    // `rest` begins with field 3; the start is field 22.
    let start = fields.nth(18)?.parse().ok()?;
    Some((state, start))
}

/// How far a lab is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum LabPhase {
    /// It is being brought up.
    Starting,
    /// All its nodes were started.
    Up,
}

/// Who brought a lab up.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Runner {
    /// This program.
    #[default]
    Causeway,
    /// containerlab.
    Containerlab,
}

/// A lab that runs, or what is left of one.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct LabState {
    /// Its name.
    pub name: String,
    /// The topology file, absolute.
    pub file: PathBuf,
    /// `clab-LAB` beside the file.
    pub lab_dir: PathBuf,
    /// Who brought it up.
    #[serde(default)]
    pub runner: Runner,
    /// How far it is.
    pub phase: LabPhase,
    /// The process that brought it up.
    pub owner: ProcessId,
    /// Seconds since 1970 when it was started.
    pub created: u64,
    /// Its nodes, in the order of the file.
    pub nodes: Vec<NodeState>,
    /// Interfaces of the lab in the machine's own network namespace.
    pub host_interfaces: Vec<String>,
    /// The guest it runs in; `None`: it runs on this machine's kernel. Its nodes then have no processes here.
    #[serde(default)]
    pub guest: Option<GuestState>,
}

/// The guest of a lab.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct GuestState {
    /// The process that holds it and speaks with it.
    pub keeper: Option<ProcessId>,
    /// QEMU.
    pub qemu: Option<ProcessId>,
    /// Where the keeper takes requests.
    pub socket: PathBuf,
    /// The program, and its first arguments, that makes such requests: `causeway lab guest-exec`.
    pub client: Vec<String>,
}

impl GuestState {
    /// True while the guest can be spoken with.
    pub fn is_alive(&self) -> bool {
        self.keeper.is_some_and(ProcessId::is_alive)
    }
}

/// A node of a lab that runs.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
pub struct NodeState {
    /// Short name.
    pub name: String,
    /// Name on the machine, for example `clab-LAB-NODE`: that of its network namespace.
    pub long_name: String,
    /// Kind.
    pub kind: String,
    /// Group; empty if there is none.
    pub group: String,
    /// Image; `None`: the machine's own root.
    pub image: Option<String>,
    /// The file in which its PID 1 says how the entry point is.
    pub status: PathBuf,
    /// Its PID 1; `None`: it was not started yet.
    pub init: Option<ProcessId>,
    /// Inode of its network namespace; 0: not started yet.
    pub netns: u64,
    /// Environment of the node's processes.
    pub env: BTreeMap<String, String>,
    /// Its container, if containerlab brought it up.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub container: Option<String>,
}

impl NodeState {
    /// True while its PID 1 runs.
    pub fn is_alive(&self) -> bool {
        self.init.is_some_and(ProcessId::is_alive)
    }

    /// How its entry point is; `None`: the node does not run.
    pub fn entry_status(&self) -> Option<EntryStatus> {
        if !self.is_alive() {
            return None;
        }
        Some(entry_status(&self.status).unwrap_or(EntryStatus::Idle))
    }

    /// The node's network namespace, for `ip netns exec` and the like.
    pub fn netns_path(&self) -> PathBuf {
        Path::new("/run/netns").join(&self.long_name)
    }
}

impl LabState {
    /// The state of a lab by name; `None`: there is none.
    ///
    /// # Errors
    /// It is there but cannot be read.
    pub fn read(name: &str) -> Result<Option<Self>, LabError> {
        let path = lab_run_dir(name).join("state.json");
        match fs::read(&path) {
            Ok(bytes) => {
                serde_json::from_slice(&bytes).map(Some).act(|| format!("understand {}", path.display()))
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(source) => Err(LabError::Io { act: format!("read {}", path.display()), source }),
        }
    }

    /// All labs on this machine, in the order of their names, those that died included.
    ///
    /// # Errors
    /// A state cannot be read.
    pub fn all() -> Result<Vec<Self>, LabError> {
        let entries = match fs::read_dir(RUN_DIR) {
            Ok(entries) => entries,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Vec::new()),
            Err(source) => return Err(LabError::Io { act: format!("read {RUN_DIR}"), source }),
        };
        let mut labs = Vec::new();
        for entry in entries.flatten().filter(|entry| entry.path().is_dir()) {
            labs.extend(Self::read(&entry.file_name().to_string_lossy())?);
        }
        labs.sort_by(|a, b| a.name.cmp(&b.name));
        Ok(labs)
    }

    /// Writes the state; a reader sees the old or the new one.
    pub(crate) fn write(&self) -> Result<(), LabError> {
        let dir = lab_run_dir(&self.name);
        let path = dir.join("state.json");
        let new = dir.join("state.json.new");
        let write = || -> io::Result<()> {
            fs::create_dir_all(&dir)?;
            let mut bytes = serde_json::to_vec_pretty(self)?;
            bytes.push(b'\n');
            fs::write(&new, bytes)?;
            fs::rename(&new, &path)
        };
        write().act(|| format!("write {}", path.display()))
    }

    /// The node of that name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, name: &str) -> Result<&NodeState, LabError> {
        self.nodes.iter().find(|n| n.name == name || n.long_name == name).ok_or_else(|| LabError::NoNode {
            lab: self.name.clone(),
            node: name.to_owned(),
            known: self.nodes.iter().map(|n| n.name.as_str()).collect::<Vec<_>>().join(", "),
        })
    }

    /// True while any of its nodes runs, or its guest.
    pub fn is_alive(&self) -> bool {
        self.nodes.iter().any(NodeState::is_alive) || self.guest.as_ref().is_some_and(GuestState::is_alive)
    }

    /// How many of its nodes run. Those of a guest are taken to run while it does.
    pub fn running_nodes(&self) -> usize {
        match &self.guest {
            Some(guest) if guest.is_alive() => self.nodes.len(),
            _ => self.nodes.iter().filter(|node| node.is_alive()).count(),
        }
    }

    /// The log of a node's entry point and of the commands that `up` ran in it.
    pub fn log_path(&self, node: &str) -> PathBuf {
        log_path(&self.lab_dir, node)
    }
}

/// What PID 1 wrote about the entry point; `None`: nothing yet.
pub(crate) fn entry_status(path: &Path) -> Option<EntryStatus> {
    serde_json::from_slice(&fs::read(path).ok()?).ok()
}

/// See [`LabState::log_path`].
pub(crate) fn log_path(lab_dir: &Path, node: &str) -> PathBuf {
    lab_dir.join("logs").join(format!("{node}.log"))
}

/// Where a lab's state is.
pub(crate) fn lab_run_dir(name: &str) -> PathBuf {
    Path::new(RUN_DIR).join(name)
}

/// Removes a lab's state, and the folders above that it leaves empty.
pub(crate) fn remove_run_dir(name: &str) -> Result<(), LabError> {
    let dir = lab_run_dir(name);
    match fs::remove_dir_all(&dir) {
        Ok(()) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(source) => return Err(LabError::Io { act: format!("remove {}", dir.display()), source }),
    }
    Ok(())
}

/// The right to change a lab; given up when dropped, and by the kernel when the process dies.
#[derive(Debug)]
pub(crate) struct LabLock {
    path: PathBuf,
    _file: File,
}

impl LabLock {
    /// Waits a few seconds for another process that has it.
    pub(crate) fn acquire(name: &str, cancel: &Cancel) -> Result<Self, LabError> {
        let path = Path::new(RUN_DIR).join(format!("{name}.lock"));
        let deadline = Instant::now() + LOCK_PATIENCE;
        loop {
            fs::create_dir_all(RUN_DIR).act(|| format!("create {RUN_DIR}"))?;
            match Self::try_acquire(&path).act(|| format!("lock {}", path.display()))? {
                Some(lock) => return Ok(lock),
                None if Instant::now() < deadline => cancel.pause(Duration::from_millis(20))?,
                None => {
                    let pid = fs::read_to_string(&path).unwrap_or_default();
                    return Err(LabError::Busy { name: name.to_owned(), pid: pid.trim().to_owned() });
                }
            }
        }
    }

    /// The right, if nobody has it now.
    pub(crate) fn try_of(name: &str) -> Option<Self> {
        Self::try_acquire(&Path::new(RUN_DIR).join(format!("{name}.lock"))).ok()?
    }

    fn try_acquire(path: &Path) -> io::Result<Option<Self>> {
        let opened = OpenOptions::new().create(true).truncate(false).read(true).write(true).open(path);
        let mut file = match opened {
            Ok(file) => file,
            // The folder went away with the lab that had it.
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(error),
        };
        match file.try_lock() {
            Ok(()) => {}
            Err(fs::TryLockError::WouldBlock) => return Ok(None),
            Err(fs::TryLockError::Error(error)) => return Err(error),
        }
        // The one who had it before may have removed the file that we opened.
        let same =
            fs::metadata(path).is_ok_and(|there| file.metadata().is_ok_and(|ours| ours.ino() == there.ino()));
        if !same {
            return Ok(None);
        }
        file.set_len(0)?;
        write!(file, "{}", std::process::id())?;
        Ok(Some(LabLock { path: path.to_owned(), _file: file }))
    }
}

impl Drop for LabLock {
    fn drop(&mut self) {
        // Removed while still locked: whoever opens it from now on makes a new one.
        let _ = fs::remove_file(&self.path);
        // Nothing stays of the last lab; a folder in use is not empty.
        let _ = fs::remove_dir(RUN_DIR);
        let _ = Path::new(RUN_DIR).parent().map(fs::remove_dir);
    }
}

/// All processes in one of the network namespaces, for those that entered from outside.
pub(crate) fn processes_in(netns: &[u64]) -> Vec<ProcessId> {
    let Ok(entries) = fs::read_dir("/proc") else { return Vec::new() };
    entries
        .flatten()
        .filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok())
        .filter(|pid| netns_inode(*pid).is_some_and(|inode| netns.contains(&inode)))
        .filter_map(ProcessId::of)
        .collect()
}

/// Inode of a process's network namespace.
pub(crate) fn netns_inode(pid: u32) -> Option<u64> {
    fs::metadata(format!("/proc/{pid}/ns/net")).ok().map(|m| m.ino())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_name_may_contain_anything() {
        let tail = "S 1 2 3 0 -1 4194560 1 2 3 4 5 6 7 8 20 0 1 0 4711 999 1";
        assert_eq!(parse_stat(&format!("12 (a) b) c) {tail}")), Some(('S', 4711)));
        assert_eq!(parse_stat("12 (a"), None);
        assert_eq!(parse_stat("12 (a) S 1"), None);
    }

    #[test]
    fn this_process_is_alive_and_its_number_alone_is_not_enough() {
        let own = ProcessId::of(std::process::id()).unwrap();
        assert!(own.is_alive());
        assert!(!ProcessId { start: own.start + 1, ..own }.is_alive());
    }
}
