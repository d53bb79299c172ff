//! Running programs inside a node that runs.

use std::collections::BTreeMap;
use std::ffi::{OsStr, OsString};
use std::process::{Command, ExitStatus, Stdio};

use std::os::unix::fs::MetadataExt;
use std::os::unix::process::ExitStatusExt;
use std::path::Path;

use serde::Serialize;

use crate::containerlab;
use crate::error::{Act, LabError};
use crate::note::note;
use crate::state::{GuestState, LabState, NodeState};

/// Where programs are looked for in a node.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

const NSENTER: &str = "/usr/bin/nsenter";

/// What a command in a node did, with the keys of `containerlab exec`.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct ExecResult {
    /// The argument list.
    pub cmd: Vec<String>,
    /// Exit status; 128 and the signal's number if a signal ended it; 127 if there is no such program.
    #[serde(rename = "return-code")]
    pub return_code: i32,
    /// Standard output, bytes that are no UTF-8 replaced.
    pub stdout: String,
    /// Standard error, likewise.
    pub stderr: String,
}

/// A command that will run in all namespaces of `node`, with the node's environment; standard streams as in any other
/// command. When it is killed, what it started in the node gets SIGTERM.
///
/// # Errors
/// The node does not run.
pub fn command<S: AsRef<OsStr>>(lab: &LabState, node: &NodeState, argv: &[S]) -> Result<Command, LabError> {
    if let Some(guest) = &lab.guest {
        return guest_command(lab, guest, node, argv);
    }
    let pid = alive(lab, node)?;
    if let Some(container) = node.container.as_ref().filter(|_| !can_be_entered(pid)) {
        return Ok(containerlab::exec(container, &[], argv));
    }
    Ok(with_environment(Command::new(NSENTER), arguments(pid, &GUARD, argv), &node.env))
}

/// [`command`] for somebody at a terminal: Ctrl-C reaches the program in the node only, which may live on.
pub(crate) fn terminal_command<S: AsRef<OsStr>>(
    lab: &LabState,
    node: &NodeState,
    argv: &[S],
) -> Result<Command, LabError> {
    if let Some(guest) = &lab.guest {
        note("this lab runs in a guest: the command has no terminal, its input is passed on line by line");
        return guest_command(lab, guest, node, argv);
    }
    let pid = alive(lab, node)?;
    if let Some(container) = &node.container {
        return Ok(containerlab::exec(container, &["--interactive", "--tty"], argv));
    }
    let mut command = Command::new("/bin/sh");
    // nsenter waits for the program and must not die of its signals; the program gets them back from env.
    command.args(["-c", "trap '' INT QUIT; exec \"$@\"", "sh", NSENTER]);
    let mut words = arguments(pid, &GUARD, argv);
    let place = words.iter().position(|word| word == "--").map_or(words.len(), |place| place + 1);
    words.splice(place..place, ["/usr/bin/env", "--default-signal=INT,QUIT"].map(OsString::from));
    Ok(with_environment(command, words, &node.env))
}

/// A program of ours on this machine that has the command run in the guest.
fn guest_command<S: AsRef<OsStr>>(
    lab: &LabState,
    guest: &GuestState,
    node: &NodeState,
    argv: &[S],
) -> Result<Command, LabError> {
    let Some((program, arguments)) = guest.client.split_first().filter(|_| guest.is_alive()) else {
        return Err(gone(lab, node));
    };
    let mut command = Command::new(program);
    command.args(arguments).args(["--lab", &lab.name, "--node", &node.name, "--socket"]);
    command.arg(&guest.socket).arg("--").args(argv);
    Ok(command)
}

fn gone(lab: &LabState, node: &NodeState) -> LabError {
    let what = format!("it does not run: causeway lab down --name {}, then up again", lab.name);
    LabError::Node { node: node.name.clone(), what }
}

fn alive(lab: &LabState, node: &NodeState) -> Result<u32, LabError> {
    node.init.filter(|init| init.is_alive()).map(|init| init.pid).ok_or_else(|| gone(lab, node))
}

/// Whether a container is one for [`command`]'s own way, which is quicker than Docker's by far and ends what it started when
/// it is killed: it must run as root and have the programs for it.
fn can_be_entered(pid: u32) -> bool {
    let process = format!("/proc/{pid}");
    let runs_as_root = std::fs::metadata(&process).is_ok_and(|process| process.uid() == 0);
    runs_as_root && GUARD.first().is_some_and(|guard| Path::new(&format!("{process}/root{guard}")).exists())
}

/// A process in another PID namespace is nobody's child there: without this it would outlive its caller.
const GUARD: [&str; 4] = ["/usr/bin/setpriv", "--pdeathsig", "TERM", "--"];

/// What nsenter is told. Programs have whole paths: the node's PATH may be anything.
fn arguments<S: AsRef<OsStr>>(pid: u32, guard: &[&str], argv: &[S]) -> Vec<OsString> {
    let target = pid.to_string();
    let enter = ["--target", &target, "--mount", "--uts", "--ipc", "--net", "--pid", "--root", "--wd", "--"];
    let mut words: Vec<OsString> = enter.iter().chain(guard).map(OsString::from).collect();
    words.extend(argv.iter().map(|word| word.as_ref().to_owned()));
    words
}

fn with_environment(mut command: Command, words: Vec<OsString>, env: &BTreeMap<String, String>) -> Command {
    command.args(words).env_clear().envs(env);
    for name in ["TERM", "COLUMNS", "LINES"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
}

/// [`command`] for a node that is still being brought up. It needs no guard: the node ends with its runner, and what runs in
/// it with the node.
pub(crate) fn command_in<S: AsRef<OsStr>>(pid: u32, env: &BTreeMap<String, String>, argv: &[S]) -> Command {
    with_environment(Command::new(NSENTER), arguments(pid, &[], argv), env)
}

/// Runs a command in a node to its end.
///
/// # Errors
/// The node does not run. A command that fails is no error.
pub fn exec<S: AsRef<OsStr>>(lab: &LabState, node: &NodeState, argv: &[S]) -> Result<ExecResult, LabError> {
    collect(command(lab, node, argv)?, argv)
}

pub(crate) fn collect<S: AsRef<OsStr>>(mut command: Command, argv: &[S]) -> Result<ExecResult, LabError> {
    let output =
        command.stdin(Stdio::null()).output().act(|| "run nsenter (package util-linux)".to_owned())?;
    Ok(ExecResult {
        cmd: argv.iter().map(|a| a.as_ref().to_string_lossy().into_owned()).collect(),
        return_code: exit_number(output.status),
        stdout: String::from_utf8_lossy(&output.stdout).into_owned(),
        stderr: String::from_utf8_lossy(&output.stderr).into_owned(),
    })
}

/// The exit status as a shell would say it.
pub(crate) fn exit_number(status: ExitStatus) -> i32 {
    status.code().or_else(|| status.signal().map(|signal| 128 + signal)).unwrap_or(1)
}
