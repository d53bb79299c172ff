//! A lab, brought up by the command that users type.

use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_labs::{LabState, running_lab};
use serde_json::Value;

use crate::guest::{self, TestGuest};
use crate::process::{Daemon, program, run_telling, run_within};
use crate::slot::{Directory, Record, Slot};

/// Longest time for a lab to come up or go down; building an image the first time, and a busy machine, included.
const UP: Duration = Duration::from_secs(480);
/// The same for containerlab, also in a guest.
const DEPLOY: Duration = Duration::from_secs(900);

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
            Ok(other) => bail!("CAUSEWAY_LAB_RUNNER={other}: there are causeway and containerlab"),
        }
    }
}

/// The folder of a lab of this repository.
fn folder(lab: &str) -> Result<PathBuf> {
    let folder = Path::new(env!("CARGO_MANIFEST_DIR")).join("../labs").join(lab).canonicalize();
    folder.with_context(|| format!("there is no lab {lab}"))
}

/// The first line of a test of labs, as [`guest::in_guest_instead`] is of others. With containerlab as the runner, the guest
/// has a Docker Engine of its own, and the images of this machine's.
pub fn in_guest_instead(features: &[&str], test: &str, wishes: &TestGuest) -> Result<bool> {
    let mut wishes = wishes.clone();
    if Runner::chosen()? == Runner::Containerlab && guest::will_be_in_guest(features)? {
        let script =
            Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/with-docker.sh").canonicalize()?;
        wishes.through = vec![script.into(), docker_data()?.into()];
        // Docker's own programs start slowly there, and need room.
        wishes.memory += 1024;
        wishes.limit *= 3;
    }
    Ok(guest::in_guest_instead(features, test, &wishes)?)
}

/// Where this machine's Docker Engine keeps its images, if a guest can use them there.
fn docker_data() -> Result<String> {
    let mut info = Command::new("docker");
    info.args(["info", "--format", "{{.Driver}} {{.DockerRootDir}}"]).stdin(Stdio::null());
    let output = info.output().context("cannot run docker")?;
    ensure!(output.status.success(), "{info:?}: {}", String::from_utf8_lossy(&output.stderr));
    let said = String::from_utf8_lossy(&output.stdout).into_owned();
    let (driver, directory) = said.trim().split_once(' ').context("docker info says nothing of its data")?;
    ensure!(
        driver == "overlay2",
        "a guest reads the images of this machine's Docker where they lie, in overlay2, but it has them in {driver}: \
         stop it, and make test-containerlab starts one of its own"
    );
    Ok(directory.to_string())
}

/// A running lab. Dropping it takes it down.
#[derive(Debug)]
pub struct Lab {
    runner: Runner,
    /// Under containerlab: the containers, asked for once, because to ask Docker takes seconds in a guest.
    containers: Option<LabState>,
    name: String,
    file: PathBuf,
    directory: Directory,
    _record: Record,
}

impl Lab {
    /// `causeway lab up` of `labs/LAB` under a name of its own.
    pub async fn up(lab: &str, switches: Switches) -> Result<Lab> {
        let file = folder(lab)?;
        let slot = Slot::get()?;
        let name = slot.name("lab");
        let record = slot.record("lab", &format!("{name} {}", file.display()))?;
        let runner = Runner::chosen()?;
        let mut lab =
            Lab { runner, containers: None, name, file, directory: slot.directory("lab")?, _record: record };
        let mut command = vec!["env".to_string(), format!("FRR_IMAGE={}", switches.image())];
        command.extend(lab.up_words()?);
        if runner == Runner::Causeway {
            println!("{}", run_within(&refs(&command), UP).await?);
            return Ok(lab);
        }
        let said = run_telling(&refs(&command), DEPLOY).await?;
        // It takes a failed command of a node's for a success.
        ensure!(!said.contains(" ERRO "), "containerlab deploy had errors");
        let (file, name) = (lab.file.clone(), lab.name.clone());
        let found = tokio::task::spawn_blocking(move || running_lab(&file, Some(&name))).await?;
        lab.containers = Some(found?);
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
                // What it has to say is on standard error.
                let all = ["sh", "-c", "exec \"$@\" 2>&1", "sh", &containerlab];
                let words =
                    [&[&base as &str], &all[..], &["deploy", "-t", &file, "--name", &self.name]].concat();
                Ok(words.iter().map(ToString::to_string).collect())
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

    /// A command line that runs another one in a node.
    fn words_in(&self, node: &str, command: &[&str]) -> Result<Vec<String>> {
        let Some(lab) = &self.containers else {
            return self.words("exec", &[&["--node", node, "--"], command].concat());
        };
        let enter = causeway_labs::command(lab, lab.node(node)?, command)?;
        let set = enter.get_envs().filter_map(|(name, value)| Some((name, value?)));
        let set = set.map(|(name, value)| format!("{}={}", name.to_string_lossy(), value.to_string_lossy()));
        let words = [enter.get_program()].into_iter().chain(enter.get_args());
        let words = words.map(|word| word.to_string_lossy().into_owned());
        Ok(["env".to_string(), "-i".to_string()].into_iter().chain(set).chain(words).collect())
    }

    /// What a command prints in a node; its failure is an error.
    pub async fn exec(&self, node: &str, command: &[&str]) -> Result<String> {
        let words = self.words_in(node, command)?;
        run_within(&refs(&words), Duration::from_secs(30)).await
    }

    /// [`Lab::exec`] of a shell line.
    pub async fn shell(&self, node: &str, line: &str) -> Result<String> {
        self.exec(node, &["sh", "-c", line]).await
    }

    /// [`Lab::shell`] of what may take longer, such as many commands in a slow guest.
    pub async fn script(&self, node: &str, lines: &str, limit: Duration) -> Result<String> {
        let words = self.words_in(node, &["sh", "-c", lines])?;
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
        let words = self.words_in(node, command)?;
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
            run_within(&refs(&self.words("inspect", &["-o", "json"])?), Duration::from_secs(60)).await?;
        let labs: Value = serde_json::from_str(&text).context("understand lab inspect")?;
        labs[&self.name].as_array().cloned().with_context(|| format!("lab inspect knows no {}", self.name))
    }

    /// The network namespace of a node, under our own runner.
    pub async fn network_of(&self, node: &str) -> Result<PathBuf> {
        let nodes = self.inspect().await?;
        let end = format!("-{node}");
        let found = nodes.iter().find(|n| n["name"].as_str().is_some_and(|name| name.ends_with(&end)));
        let pid =
            found.and_then(|n| n["container_id"].as_str()).with_context(|| format!("no node {node}"))?;
        let pid: u32 = pid.parse().with_context(|| format!("{node} is no process but {pid}"))?;
        Ok(PathBuf::from(format!("/proc/{pid}/ns/net")))
    }

    /// The nodes' interfaces, as `causeway lab inspect interfaces` tells them.
    pub async fn interfaces(&self) -> Result<Vec<Value>> {
        let mut words = self.words("inspect", &["-o", "json"])?;
        words.insert(3, "interfaces".to_string());
        let text = run_within(&refs(&words), Duration::from_secs(60)).await?;
        serde_json::from_str(&text).context("understand lab inspect interfaces")
    }

    /// What the entry point of a node has written.
    pub async fn log(&self, node: &str) -> Result<String> {
        run_within(&refs(&self.words("logs", &[node])?), Duration::from_secs(60)).await
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
        let limit = if self.runner == Runner::Containerlab { DEPLOY } else { UP };
        run_within(&refs(&self.words("down", &["--cleanup"])?), limit).await.map(drop)
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
