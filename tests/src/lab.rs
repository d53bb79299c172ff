//! A lab, brought up by the command that users type.

use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use crate::process::{Daemon, program, run_within};
use crate::slot::{Directory, Record, Slot};

/// Longest time for a lab to come up or go down; building an image the first time included.
const UP: Duration = Duration::from_secs(240);

/// Which FRR the lab's switches run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Switches {
    /// 8.4, Debian 12's.
    Frr8,
    /// 10.7, a later suite's.
    Frr10,
}

impl Switches {
    /// Both.
    pub const ALL: [Switches; 2] = [Switches::Frr8, Switches::Frr10];

    fn image(self) -> &'static str {
        match self {
            Switches::Frr8 => "causeway/frr:8.4",
            Switches::Frr10 => "causeway/frr:10.7",
        }
    }
}

/// Who brings labs up: our runner, or with `CAUSEWAY_LAB_RUNNER=containerlab` the real containerlab, on Docker.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Runner {
    Causeway,
    Containerlab,
}

impl Runner {
    fn chosen() -> Result<Runner> {
        match std::env::var("CAUSEWAY_LAB_RUNNER").as_deref() {
            Err(_) | Ok("" | "causeway") => Ok(Runner::Causeway),
            Ok("containerlab") => Ok(Runner::Containerlab),
            Ok(other) => anyhow::bail!("CAUSEWAY_LAB_RUNNER={other}: there are causeway and containerlab"),
        }
    }
}

/// A running lab. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    runner: Runner,
    name: String,
    file: PathBuf,
    directory: Directory,
    _record: Record,
}

impl Lab {
    /// `causeway lab up` of `labs/LAB` under a name of its own.
    pub async fn up(lab: &str, switches: Switches) -> Result<Lab> {
        let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("../labs").join(lab).canonicalize();
        let file = file.with_context(|| format!("there is no lab {lab}"))?;
        let slot = Slot::get()?;
        let name = slot.name("lab");
        let record = slot.record("lab", &format!("{name} {}", file.display()))?;
        let runner = Runner::chosen()?;
        let lab = Lab { runner, name, file, directory: slot.directory("lab")?, _record: record };
        let mut command = vec!["env".to_string(), format!("FRR_IMAGE={}", switches.image())];
        command.extend(lab.up_words()?);
        let said = run_within(&refs(&command), UP).await?;
        println!("{said}");
        Ok(lab)
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A directory for what a test writes.
    pub fn directory(&self) -> &Path {
        self.directory.path()
    }

    fn up_words(&self) -> Result<Vec<String>> {
        match self.runner {
            Runner::Causeway => self.words("up", &[]),
            Runner::Containerlab => {
                let containerlab = std::env::var("CONTAINERLAB").unwrap_or_else(|_| "containerlab".into());
                let base = format!("CLAB_LABDIR_BASE={}", self.directory.path().display());
                let file = self.file.display().to_string();
                let words = [&base, &containerlab, "deploy", "-t", &file, "--name", &self.name];
                Ok(words.map(ToString::to_string).to_vec())
            }
        }
    }

    fn words(&self, verb: &str, rest: &[&str]) -> Result<Vec<String>> {
        let causeway = program("causeway")?;
        let words = [
            &causeway.to_string_lossy(),
            "lab",
            verb,
            "-t",
            &self.file.to_string_lossy(),
            "--name",
            &self.name,
        ];
        Ok(words.iter().chain(rest).map(ToString::to_string).collect())
    }

    /// What a command prints in a node; its failure is an error.
    pub async fn exec(&self, node: &str, command: &[&str]) -> Result<String> {
        let words = self.words("exec", &[&["--node", node, "--"], command].concat())?;
        run_within(&refs(&words), Duration::from_secs(30)).await
    }

    /// [`Lab::exec`] of a shell line.
    pub async fn shell(&self, node: &str, line: &str) -> Result<String> {
        self.exec(node, &["sh", "-c", line]).await
    }

    /// [`Lab::shell`] of what may take longer, such as many commands in a slow guest.
    pub async fn script(&self, node: &str, lines: &str, limit: Duration) -> Result<String> {
        let words = self.words("exec", &["--node", node, "--", "sh", "-c", lines])?;
        run_within(&refs(&words), limit).await
    }

    /// `causeway apply` of the lab's resources on a controller's node.
    pub async fn apply(&self, controller: &str) -> Result<()> {
        crate::wait_for("the controller takes the lab's resources", Duration::from_secs(20), async || {
            self.exec(controller, &["causeway", "apply", "-f", "/etc/causeway/resources.yaml"]).await
        })
        .await
        .map(drop)
    }

    /// What a command prints in a node, as JSON.
    pub async fn json(&self, node: &str, command: &[&str]) -> Result<Value> {
        let text = self.exec(node, command).await?;
        serde_json::from_str(&text).with_context(|| format!("{command:?} on {node} gave no JSON: {text}"))
    }

    /// Starts a command in a node that runs until it is dropped or ends.
    pub fn spawn(&self, node: &str, command: &[&str]) -> Result<Daemon> {
        let words = self.words("exec", &[&["--node", node, "--"], command].concat())?;
        let mut start = Command::new(&words[0]);
        start.args(&words[1..]);
        let count = std::fs::read_dir(self.directory.path())?.count();
        Daemon::spawn(
            &format!("{} on {node}", command[0]),
            start,
            &self.directory.path().join(format!("{count}.log")),
        )
    }

    /// The nodes, as `causeway lab inspect -o json` tells them.
    pub async fn inspect(&self) -> Result<Vec<Value>> {
        let text =
            run_within(&refs(&self.words("inspect", &["-o", "json"])?), Duration::from_secs(20)).await?;
        let labs: Value = serde_json::from_str(&text).context("understand lab inspect")?;
        labs[&self.name].as_array().cloned().with_context(|| format!("lab inspect knows no {}", self.name))
    }

    /// What the entry point of a node has written.
    pub async fn log(&self, node: &str) -> Result<String> {
        run_within(&refs(&self.words("logs", &[node])?), Duration::from_secs(20)).await
    }

    /// Lines of our daemons' logs that a human would have to look at.
    pub async fn complaints(&self, node: &str) -> Result<Vec<String>> {
        let log = self.log(node).await?;
        Ok(log
            .lines()
            .filter(|l| l.contains(" ERROR ") || l.contains("\"ERROR\""))
            .map(ToString::to_string)
            .collect())
    }

    /// `causeway lab down`: an error if it fails. Dropping does the same but only prints.
    pub async fn down(self) -> Result<()> {
        run_within(&refs(&self.words("down", &["--cleanup"])?), UP).await.map(drop)
    }
}

impl Drop for Lab {
    fn drop(&mut self) {
        let Ok(words) = self.words("down", &["--cleanup"]) else { return };
        match Command::new(&words[0]).args(&words[1..]).output() {
            Ok(out) if out.status.success() => {}
            other => println!("lab {} could not be taken down: {other:?}", self.name),
        }
    }
}

fn refs<S: AsRef<str>>(words: &[S]) -> Vec<&str> {
    words.iter().map(AsRef::as_ref).collect()
}

/// What namespaces, links, mounts, and processes of a lab are left on the machine.
pub fn leftovers(name: &str) -> Result<Vec<String>> {
    let mut left = Vec::new();
    for (what, command) in [
        ("namespace", &["ip", "netns", "list"][..]),
        ("link", &["ip", "-o", "link"]),
        ("mount", &["cat", "/proc/mounts"]),
        ("process", &["ps", "-eo", "pid,args"]),
    ] {
        let out = Command::new(command[0]).args(&command[1..]).output().context("look for leftovers")?;
        ensure!(out.status.success(), "{command:?} failed");
        let text = String::from_utf8_lossy(&out.stdout).into_owned();
        left.extend(text.lines().filter(|l| l.contains(name)).map(|l| format!("{what}: {l}")));
    }
    Ok(left)
}
