//! A number that belongs to one test process as long as it lives, and a record of what it started.
//!
//! The number is a locked file, so the kernel gives it back even after `kill -9`. Whoever takes a number next (or starts
//! at all: free numbers are looked through once) first removes what its former owner left: processes, namespaces,
//! directories. Names and loopback addresses are made of the number, so runs side by side do not meet.

use std::fs;
use std::io::ErrorKind;
use std::net::Ipv4Addr;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;
use std::sync::atomic::{AtomicU32, Ordering};

use anyhow::{Context, Result, anyhow, bail};
use nix::errno::Errno;
use nix::fcntl::{Flock, FlockArg};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;

use crate::process::program;

/// Where slots and their records are.
const ROOT: &str = "/run/causeway-tests";
/// Slots there may be; a machine runs a handful of test processes at a time.
const SLOTS: u32 = 4096;

/// The slot of this process.
#[derive(Debug)]
pub struct Slot {
    number: u32,
    record: PathBuf,
    next: AtomicU32,
    next_address: AtomicU32,
    _lock: Flock<fs::File>,
}

/// A record of something to remove; dropping it says it has been removed.
#[derive(Debug)]
pub struct Record(PathBuf);

impl Drop for Record {
    fn drop(&mut self) {
        // Nothing can be done about a failure here; the next owner of the slot then looks for something already gone.
        let _ = fs::remove_file(&self.0);
    }
}

impl Slot {
    /// This process's slot; taken, and leftovers of dead processes removed, at the first call. Needs root.
    pub fn get() -> Result<&'static Slot> {
        static SLOT: OnceLock<Result<Slot, String>> = OnceLock::new();
        let slot = SLOT.get_or_init(|| Slot::take().map_err(|err| format!("{err:#}")));
        slot.as_ref().map_err(|err| anyhow!("{err}"))
    }

    fn take() -> Result<Slot> {
        if !nix::unistd::geteuid().is_root() {
            bail!("these tests start daemons in network namespaces and need root: sudo make test");
        }
        fs::create_dir_all(ROOT).with_context(|| format!("cannot create {ROOT}"))?;
        let mut taken = None;
        for number in 0..SLOTS {
            let record = Path::new(ROOT).join(number.to_string());
            if taken.is_some() && !record.exists() {
                break;
            }
            let Some(lock) = try_lock(&record)? else { continue };
            sweep(&record)?;
            if taken.is_none() {
                taken = Some(Slot {
                    number,
                    record,
                    next: AtomicU32::new(1),
                    next_address: AtomicU32::new(1),
                    _lock: lock,
                });
            }
        }
        taken.with_context(|| format!("all {SLOTS} slots in {ROOT} are taken"))
    }

    /// A number not given out before in this process.
    fn unique(&self) -> u32 {
        self.next.fetch_add(1, Ordering::Relaxed)
    }

    /// A name for a namespace or lab, unique on this machine, of at most 12 characters plus the label.
    pub fn name(&self, label: &str) -> String {
        format!("cwt{}n{}-{label}", self.number, self.unique())
    }

    /// A loopback address that no other test uses: all its ports are free.
    pub fn loopback(&self) -> Result<Ipv4Addr> {
        // 127.64.0.0/10 split into 4096 slots of 1024 addresses.
        let n = self.next_address.fetch_add(1, Ordering::Relaxed);
        if n >= 1024 {
            bail!("this process has used all its loopback addresses");
        }
        Ok(Ipv4Addr::from(u32::from(Ipv4Addr::new(127, 64, 0, 0)) + self.number * 1024 + n))
    }

    /// A new directory that other users may enter (daemons drop privileges), below the system's temporary directory.
    pub fn directory(&self, label: &str) -> Result<Directory> {
        // A guest sees the directories of this machine and not its slots: the number alone is not enough.
        let path = tempfile::Builder::new()
            .prefix(&format!("causeway-tests-{}-{label}-", self.number))
            .tempdir()
            .context("cannot create a temporary directory")?
            .keep();
        let record = self.record("dir", &path.to_string_lossy())?;
        fs::set_permissions(&path, fs::Permissions::from_mode(0o755))?;
        Ok(Directory { path, _record: record })
    }

    /// Notes something for the sweep: `kind` is `lab` (its name and file), `docker` (its directory), `pid`, `netns` or `dir`.
    pub(crate) fn record(&self, kind: &str, value: &str) -> Result<Record> {
        let path = self.record.join(format!("{}.{kind}", self.unique()));
        fs::write(&path, value).with_context(|| format!("cannot write {}", path.display()))?;
        Ok(Record(path))
    }

    /// Notes a process by its id and start time, so that a later process of the same id is left alone.
    pub(crate) fn record_process(&self, pid: u32) -> Result<Record> {
        let start = start_time(pid).with_context(|| format!("process {pid} ended at once"))?;
        self.record("pid", &format!("{pid} {start}"))
    }
}

/// A directory that is removed when dropped.
#[derive(Debug)]
pub struct Directory {
    path: PathBuf,
    _record: Record,
}

impl Directory {
    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for Directory {
    fn drop(&mut self) {
        let _ = fs::remove_dir_all(&self.path);
    }
}

fn try_lock(record: &Path) -> Result<Option<Flock<fs::File>>> {
    fs::create_dir_all(record).with_context(|| format!("cannot create {}", record.display()))?;
    let path = record.join("lock");
    let file = fs::OpenOptions::new().create(true).truncate(false).write(true).open(&path)?;
    match Flock::lock(file, FlockArg::LockExclusiveNonblock) {
        Ok(lock) => Ok(Some(lock)),
        Err((_, Errno::EWOULDBLOCK)) => Ok(None),
        Err((_, errno)) => Err(errno).with_context(|| format!("cannot lock {}", path.display())),
    }
}

/// Removes what the records name. Processes first: they use the rest.
fn sweep(record: &Path) -> Result<()> {
    let mut entries = Vec::new();
    for entry in fs::read_dir(record)? {
        let path = entry?.path();
        let kind = path.extension().and_then(|e| e.to_str()).unwrap_or("").to_string();
        let order = ["lab", "docker", "pid", "netns", "dir"].iter().position(|k| *k == kind);
        if let Some(order) = order {
            entries.push((order, kind, path));
        }
    }
    entries.sort();
    for (_, kind, path) in entries {
        let value = fs::read_to_string(&path)?;
        println!("removing what a killed test run left: {kind} {value}");
        match kind.as_str() {
            "lab" => take_down(&value),
            "docker" => crate::docker::stop(Path::new(&value)),
            "pid" => kill_recorded(&value),
            "netns" => remove_netns(&value),
            _ => match fs::remove_dir_all(&value) {
                Err(err) if err.kind() != ErrorKind::NotFound => println!("cannot remove {value}: {err}"),
                _ => {}
            },
        }
        fs::remove_file(&path)?;
    }
    Ok(())
}

/// Takes a lab down by its recorded "NAME FILE".
fn take_down(value: &str) {
    let (Some((name, file)), Ok(causeway)) = (value.split_once(' '), program("causeway")) else { return };
    let down = Command::new(causeway).args(["lab", "down", "--cleanup", "--name", name, "-t", file]).status();
    if !down.as_ref().is_ok_and(|status| status.success()) {
        println!("lab {name} could not be taken down: {down:?}");
    }
}

fn kill_recorded(value: &str) {
    let Some((pid, start)) = value.split_once(' ') else { return };
    let Ok(pid) = pid.parse::<u32>() else { return };
    if start_time(pid).is_some_and(|now| now == start) {
        kill_now(pid);
    }
}

/// SIGKILL to one process; gone already is fine.
pub(crate) fn kill_now(pid: u32) {
    if let Ok(pid) = i32::try_from(pid) {
        let _ = kill(Pid::from_raw(pid), Signal::SIGKILL);
    }
}

/// Kills what lives in a namespace and deletes it; missing is fine.
pub(crate) fn remove_netns(name: &str) {
    if let Ok(out) = Command::new("ip").args(["netns", "pids", name]).output() {
        for pid in String::from_utf8_lossy(&out.stdout).lines().filter_map(|l| l.trim().parse().ok()) {
            // Our own threads that entered the namespace show up as our own id.
            if pid != std::process::id() {
                kill_now(pid);
            }
        }
    }
    if Path::new("/run/netns").join(name).exists() {
        let _ = Command::new("ip").args(["netns", "delete", name]).status();
    }
}

/// Start time of a process in clock ticks since boot, as text (field 22 of `/proc/PID/stat`).
fn start_time(pid: u32) -> Option<String> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
    // The command's name, in parentheses, may contain anything; fields are counted from behind it.
    let (_, fields) = stat.rsplit_once(')')?;
    fields.split_whitespace().nth(19).map(str::to_string)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_addresses_are_never_given_twice() {
        let slot = Slot::get().unwrap();
        let addresses: std::collections::HashSet<_> = (0..50).map(|_| slot.loopback().unwrap()).collect();
        assert_eq!(addresses.len(), 50);
        assert!(addresses.iter().all(|a| a.is_loopback()));
        assert_ne!(slot.name("a"), slot.name("a"));
    }

    #[test]
    fn a_sweep_removes_what_was_recorded_and_nothing_else() {
        let record = tempfile::tempdir().unwrap();
        let left = tempfile::tempdir().unwrap().keep();
        let mut child = Command::new("sleep").arg("600").spawn().unwrap();
        let mut spared = Command::new("sleep").arg("600").spawn().unwrap();
        let start = start_time(child.id()).unwrap();
        fs::write(record.path().join("1.pid"), format!("{} {start}", child.id())).unwrap();
        fs::write(record.path().join("2.pid"), format!("{} 1", spared.id())).unwrap();
        fs::write(record.path().join("3.dir"), left.to_str().unwrap()).unwrap();
        sweep(record.path()).unwrap();
        assert!(!child.wait().unwrap().success());
        assert!(spared.try_wait().unwrap().is_none(), "its recorded start time is another one's");
        spared.kill().unwrap();
        spared.wait().unwrap();
        assert!(!left.exists());
        assert_eq!(fs::read_dir(record.path()).unwrap().count(), 0);
    }
}
