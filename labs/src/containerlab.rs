//! Labs that containerlab brought up: found by the labels of their containers, shown and entered like our own, since a
//! container is a process with namespaces too; taken down by containerlab itself, or without it by Docker.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::num::NonZero;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::Deserialize;

use crate::down::remove_lab_dir;
use crate::error::{Act, LabError};
use crate::state::{LabPhase, LabState, NodeState, ProcessId, Runner, netns_inode};

/// What `docker inspect` says of a container, as far as it matters here.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Container {
    id: String,
    state: State,
    config: Config,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct State {
    #[serde(default)]
    pid: u32,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct Config {
    #[serde(default)]
    image: String,
    #[serde(default)]
    env: Option<Vec<String>>,
    #[serde(default)]
    labels: Option<BTreeMap<String, String>>,
}

/// Labs of containerlab on this machine, in the order of their names. Without Docker, or while it does not run, there are
/// none.
///
/// # Errors
/// Docker runs but cannot be understood.
pub fn labs() -> Result<Vec<LabState>, LabError> {
    if !is_there() {
        return Ok(Vec::new());
    }
    let Some(ids) = docker(&["ps", "--all", "--quiet", "--no-trunc", "--filter", "label=containerlab"])?
    else {
        return Ok(Vec::new());
    };
    let ids: Vec<&str> = ids.split_whitespace().collect();
    if ids.is_empty() {
        return Ok(Vec::new());
    }
    // One that has gone meanwhile makes docker fail, but it tells of the others all the same.
    let text = docker(&[&["inspect"], &ids[..]].concat())?.unwrap_or_default();
    parse(&text)
}

/// Docker's answers as labs.
fn parse(text: &str) -> Result<Vec<LabState>, LabError> {
    let containers: Vec<Container> =
        serde_json::from_str(text).act(|| "understand docker inspect".to_owned())?;
    let mut labs: BTreeMap<String, LabState> = BTreeMap::new();
    for container in containers {
        let labels = container.config.labels.clone().unwrap_or_default();
        let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
        let name = label("containerlab");
        let Some(owner) = ProcessId::of(std::process::id()) else { continue };
        let lab = labs.entry(name.clone()).or_insert_with(|| LabState {
            lab_dir: Path::new(&label("clab-node-lab-dir")).parent().map(Path::to_owned).unwrap_or_default(),
            file: PathBuf::from(label("clab-topo-file")),
            runner: Runner::Containerlab,
            phase: LabPhase::Up,
            // Nobody brings it up now.
            owner,
            created: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs(),
            nodes: Vec::new(),
            host_interfaces: Vec::new(),
            guest: None,
            name,
        });
        lab.nodes.push(node(&container, &label));
    }
    for lab in labs.values_mut() {
        lab.nodes.sort_by(|a, b| a.name.cmp(&b.name));
        let started = lab.nodes.iter().filter_map(|node| started(node.init?)).min();
        lab.created = started.unwrap_or(lab.created);
    }
    Ok(labs.into_values().collect())
}

fn node(container: &Container, label: &dyn Fn(&str) -> String) -> NodeState {
    let env = container.config.env.iter().flatten().filter_map(|pair| pair.split_once('='));
    // What Docker adds to an image that does not say otherwise.
    let env = [("PATH", crate::enter::PATH), ("HOME", "/root")].into_iter().chain(env);
    NodeState {
        name: label("clab-node-name"),
        long_name: label("clab-node-longname"),
        kind: label("clab-node-kind"),
        group: label("clab-node-group"),
        image: Some(container.config.image.clone()),
        status: PathBuf::new(),
        init: ProcessId::of(container.state.pid).filter(|process| process.pid != 0),
        netns: netns_inode(container.state.pid).unwrap_or_default(),
        env: env.map(|(name, value)| (name.to_owned(), value.to_owned())).collect(),
        container: Some(container.id.clone()),
    }
}

/// Seconds since 1970 at which a process was started, from its `/proc` folder.
fn started(process: ProcessId) -> Option<u64> {
    let made = std::fs::metadata(format!("/proc/{}", process.pid)).ok()?.modified().ok()?;
    Some(made.duration_since(UNIX_EPOCH).ok()?.as_secs())
}

/// Takes such a lab down: with containerlab, which knows all that it made, else with Docker alone.
///
/// # Errors
/// The program fails.
pub fn destroy(lab: &LabState, cleanup: bool) -> Result<(), LabError> {
    if let Some(containerlab) = program() {
        let mut command = Command::new(containerlab);
        command.args(["destroy", "--name", &lab.name, "--max-workers", &at_once().to_string()]);
        command.args(cleanup.then_some("--cleanup"));
        succeed(command, "containerlab destroy")?;
    }
    // Without it, and with it if the lab was deployed under another name than its file's, which it then does not find.
    remove_containers(&lab.name)?;
    let left = labs()?;
    if left.is_empty() {
        remove_networks()?;
    }
    if cleanup {
        remove_lab_dir(&lab.lab_dir)?;
    }
    // containerlab leaves the names of the namespaces behind, as links that lead nowhere.
    let names = lab.nodes.iter().map(NodeState::netns_path);
    for name in names.filter(|name| name.is_symlink() && !name.exists()) {
        std::fs::remove_file(&name).act(|| format!("remove {}", name.display()))?;
    }
    Ok(())
}

/// Removes what is left of a lab's containers, as many at a time as there are processors: Docker gives each ten seconds to
/// end after it is killed, and where a busy machine needs longer for all of them at once it forgets to take down their
/// ends of the management network, which then cannot be removed.
fn remove_containers(name: &str) -> Result<(), LabError> {
    let mut tries = 3;
    while let Some(lab) = labs()?.into_iter().find(|lab| lab.name == name) {
        tries -= 1;
        let containers: Vec<String> = lab.nodes.into_iter().filter_map(|node| node.container).collect();
        let removed = containers.chunks(at_once()).try_for_each(|some| {
            let mut command = Command::new("docker");
            command.args(["rm", "--force", "--volumes"]).args(some);
            succeed(command, "docker rm").map(drop)
        });
        match removed {
            Err(error) if tries == 0 => return Err(error),
            Ok(()) => break,
            Err(_) => {}
        }
    }
    Ok(())
}

/// How many containers are removed at a time.
fn at_once() -> usize {
    std::thread::available_parallelism().map_or(1, NonZero::get)
}

/// The management networks, when no lab needs them any more.
fn remove_networks() -> Result<(), LabError> {
    let ids = docker(&["network", "ls", "--quiet", "--filter", "label=containerlab"])?.unwrap_or_default();
    if ids.trim().is_empty() {
        return Ok(());
    }
    let mut command = Command::new("docker");
    command.args(["network", "rm"]).args(ids.split_whitespace());
    succeed(command, "docker network rm").map(drop)
}

/// A command that will run in such a node. `how` are options of `docker exec`.
pub(crate) fn exec<S: AsRef<OsStr>>(container: &str, how: &[&str], argv: &[S]) -> Command {
    let mut command = Command::new("docker");
    command.arg("exec").args(how).arg(container).args(argv);
    command
}

/// What the entry point of such a node has printed.
pub fn logs(container: &str, follow: bool) -> Command {
    let mut command = Command::new("docker");
    command.arg("logs").args(follow.then_some("--follow")).arg(container);
    command
}

/// containerlab: `$CONTAINERLAB`, else as the path has it.
pub fn program() -> Option<OsString> {
    let named = std::env::var_os("CONTAINERLAB").filter(|value| !value.is_empty());
    named.or_else(|| on_path("containerlab").map(PathBuf::into_os_string))
}

fn on_path(name: &str) -> Option<PathBuf> {
    let path = std::env::var_os("PATH")?;
    std::env::split_paths(&path).map(|folder| folder.join(name)).find(|file| file.is_file())
}

/// True if there is a Docker to ask: asking one that is not there takes its client a moment each time.
fn is_there() -> bool {
    let elsewhere = std::env::var_os("DOCKER_HOST").is_some_and(|host| !host.is_empty());
    (elsewhere || Path::new("/var/run/docker.sock").exists()) && on_path("docker").is_some()
}

/// What docker prints; `None`: it does not answer.
fn docker(arguments: &[&str]) -> Result<Option<String>, LabError> {
    let mut command = Command::new("docker");
    let output = command.args(arguments).stdin(Stdio::null()).output().act(|| "run docker".to_owned())?;
    let printed = String::from_utf8_lossy(&output.stdout).into_owned();
    Ok((output.status.success() || !printed.trim().is_empty()).then_some(printed))
}

fn succeed(mut command: Command, what: &str) -> Result<String, LabError> {
    let output = command.stdin(Stdio::null()).output().act(|| format!("run {what}"))?;
    if output.status.success() {
        return Ok(String::from_utf8_lossy(&output.stdout).into_owned());
    }
    let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
    Err(LabError::Program { program: what.to_owned(), output: said })
}

#[cfg(test)]
mod tests {
    use super::*;

    const INSPECT: &str = r#"[{"Id":"0f2a","State":{"Pid":0,"Status":"exited"},"Config":{"Image":"causeway/frr:8.4",
        "Env":["PATH=/bin","CLAB_INTFS=2"],"Labels":{"containerlab":"q","clab-node-name":"leaf1",
        "clab-node-longname":"clab-q-leaf1","clab-node-kind":"linux","clab-node-group":"switches",
        "clab-node-lab-dir":"/l/clab-q/leaf1","clab-topo-file":"/l/q.clab.yml"}}},
        {"Id":"1","State":{},"Config":{"Labels":null,"Env":null}}]"#;

    #[test]
    fn containers_are_labs() {
        let labs = parse(INSPECT).unwrap();
        let lab = labs.iter().find(|lab| lab.name == "q").unwrap();
        assert_eq!((lab.runner, lab.lab_dir.as_path()), (Runner::Containerlab, Path::new("/l/clab-q")));
        assert_eq!(lab.file, Path::new("/l/q.clab.yml"));
        let node = lab.node("leaf1").unwrap();
        assert_eq!(node.long_name, "clab-q-leaf1");
        assert_eq!((node.env["PATH"].as_str(), node.env["HOME"].as_str()), ("/bin", "/root"));
        assert_eq!((node.env["CLAB_INTFS"].as_str(), node.container.as_deref()), ("2", Some("0f2a")));
        assert!(!lab.is_alive());
    }

    #[test]
    fn what_is_no_answer_is_said() {
        assert!(parse("Cannot connect").unwrap_err().to_string().contains("docker inspect"));
    }
}
