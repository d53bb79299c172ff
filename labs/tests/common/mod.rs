#![allow(dead_code, reason = "each test file uses its part of this")]
//! What the tests of the runner share.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, Output};
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, bail, ensure};
use causeway_labs::{Cancel, LabState, RunningLab, UpOptions, up};

pub(crate) const PROGRAM: &str = env!("CARGO_BIN_EXE_causeway-lab");
const DEADLINE: Duration = Duration::from_secs(60);

/// A folder with a topology file, and a lab name that no other test or run has. Removes both when dropped.
pub(crate) struct Case {
    pub(crate) dir: tempfile::TempDir,
    pub(crate) name: String,
}

impl Case {
    /// `topology` is the value of the key `topology:`, indented by two.
    pub(crate) fn new(topology: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "these tests need root: run them with sudo");
        static COUNT: AtomicUsize = AtomicUsize::new(0);
        let name = format!("t{}-{}", std::process::id(), COUNT.fetch_add(1, Ordering::Relaxed));
        let case = Case { dir: tempfile::tempdir()?, name };
        case.write("lab.clab.yml", &format!("name: {}\ntopology:\n{topology}", case.name))?;
        Ok(case)
    }

    /// A file beside the topology file.
    pub(crate) fn write(&self, path: &str, text: &str) -> Result<PathBuf> {
        let path = self.dir.path().join(path);
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, text)?;
        Ok(path)
    }

    pub(crate) fn options(&self) -> UpOptions {
        UpOptions { init_program: Some(PathBuf::from(PROGRAM)), ..UpOptions::new(self.dir.path()) }
    }

    pub(crate) fn up(&self) -> Result<RunningLab> {
        let progress =
            Arc::new(|step: &causeway_labs::Step| println!("{:>6} ms  {}", step.at.as_millis(), step.text));
        Ok(up(&UpOptions { progress, ..self.options() })?)
    }

    /// `causeway-lab WORDS -t FOLDER …`, which must succeed.
    pub(crate) fn cli(&self, words: &[&str]) -> Result<Output> {
        let output = self.try_cli(words)?;
        let errors = String::from_utf8_lossy(&output.stderr);
        ensure!(output.status.success(), "{words:?}: {}\n{errors}", output.status);
        Ok(output)
    }

    pub(crate) fn try_cli(&self, words: &[&str]) -> Result<Output> {
        Ok(self.command(words).output()?)
    }

    pub(crate) fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(PROGRAM);
        let (verb, rest) = words.split_first().unwrap_or((&"", &[]));
        command.arg(verb).arg("-t").arg(self.dir.path()).args(rest);
        command
    }

    /// Everything on this machine that bears the lab's name: namespaces, mounts, links, processes, state.
    pub(crate) fn traces(&self) -> Result<Vec<String>> {
        traces_of(&self.name)
    }

    pub(crate) fn assert_no_traces(&self) -> Result<()> {
        // The kernel ends interfaces of a dead namespace a moment later.
        wait_for("the lab to leave nothing", || Ok(self.traces()?.is_empty()))
            .with_context(|| format!("{:?}", self.traces()))
    }

    pub(crate) fn state(&self) -> Result<Option<LabState>> {
        Ok(LabState::read(&self.name)?)
    }
}

impl Drop for Case {
    fn drop(&mut self) {
        let _ = causeway_labs::down(&self.name, false);
    }
}

fn traces_of(name: &str) -> Result<Vec<String>> {
    let mut found = Vec::new();
    for dir in ["/run/netns", "/run/causeway/labs"] {
        let entries = fs::read_dir(dir).into_iter().flatten().flatten();
        found.extend(entries.map(|e| e.path().display().to_string()).filter(|path| path.contains(name)));
    }
    found.extend(
        fs::read_to_string("/proc/self/mounts")?
            .lines()
            .filter(|line| line.contains(name))
            .map(str::to_owned),
    );
    let links = Command::new("ip").args(["-o", "link"]).output()?;
    found.extend(
        String::from_utf8_lossy(&links.stdout).lines().filter(|line| line.contains(name)).map(str::to_owned),
    );
    for entry in fs::read_dir("/proc")?.flatten() {
        let read = |file: &str| fs::read_to_string(entry.path().join(file)).unwrap_or_default();
        let is_zombie =
            read("stat").rsplit(')').next().is_some_and(|rest| rest.trim_start().starts_with('Z'));
        let command = read("cmdline").replace('\0', " ");
        if command.contains("init --spec") && command.contains(&format!("/{name}/")) && !is_zombie {
            found.push(format!("{}: {command}", entry.path().display()));
        }
    }
    Ok(found)
}

/// Processes of this PID namespace that are in that network namespace.
pub(crate) fn processes_in(netns: u64) -> Vec<u32> {
    use std::os::unix::fs::MetadataExt;
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<u32>().ok());
    pids.filter(|pid| fs::metadata(format!("/proc/{pid}/ns/net")).is_ok_and(|m| m.ino() == netns)).collect()
}

/// Waits for a condition, and fails when it does not come true.
pub(crate) fn wait_for(what: &str, mut condition: impl FnMut() -> Result<bool>) -> Result<()> {
    let start = Instant::now();
    while !condition()? {
        if start.elapsed() > DEADLINE {
            bail!("waited {} s for {what}", DEADLINE.as_secs());
        }
        Cancel::new().pause(Duration::from_millis(5))?;
    }
    Ok(())
}

pub(crate) fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).trim().to_owned()
}

/// Standard output of a command in a node, which must succeed.
pub(crate) fn out(lab: &RunningLab, node: &str, argv: &[&str]) -> Result<String> {
    let result = lab.exec(node, argv)?;
    ensure!(result.return_code == 0, "{argv:?} on {node}: {} {}", result.return_code, result.stderr);
    Ok(result.stdout.trim().to_owned())
}

pub(crate) fn exists(path: impl AsRef<Path>) -> bool {
    path.as_ref().exists()
}
