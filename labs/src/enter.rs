//! Running programs inside a node that runs.

use std::collections::BTreeMap;
use std::ffi::OsStr;
use std::process::{Command, ExitStatus, Stdio};

use std::os::unix::process::ExitStatusExt;

use serde::Serialize;

use crate::error::{Act, LabError};
use crate::state::{LabState, NodeState};

/// Where programs are looked for in a node.
pub(crate) const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

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
/// command. Killing it does not kill what it started in the node.
///
/// # Errors
/// The node does not run.
pub fn command<S: AsRef<OsStr>>(lab: &LabState, node: &NodeState, argv: &[S]) -> Result<Command, LabError> {
    let Some(init) = node.init.filter(|init| init.is_alive()) else {
        return Err(LabError::Node {
            node: node.name.clone(),
            what: format!("it does not run: causeway lab down --name {}, then up again", lab.name),
        });
    };
    Ok(command_in(init.pid, &node.env, argv))
}

pub(crate) fn command_in<S: AsRef<OsStr>>(pid: u32, env: &BTreeMap<String, String>, argv: &[S]) -> Command {
    let mut command = Command::new("nsenter");
    command.args([
        "--target",
        &pid.to_string(),
        "--mount",
        "--uts",
        "--ipc",
        "--net",
        "--pid",
        "--root",
        "--wd",
        "--",
    ]);
    command.args(argv).env_clear().envs(env);
    for name in ["TERM", "COLUMNS", "LINES"] {
        if let Some(value) = std::env::var_os(name) {
            command.env(name, value);
        }
    }
    command
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
