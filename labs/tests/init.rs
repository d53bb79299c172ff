//! PID 1 of a node, driven directly: what happens when the runner goes away at an unlucky moment.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

mod common;

use std::io::{BufRead, BufReader, Write};
use std::net::Shutdown;
use std::os::fd::OwnedFd;
use std::os::unix::net::UnixStream;
use std::process::{Command, Stdio};

use anyhow::{Context as _, Result, ensure};
use causeway_labs::ProcessId;
use common::{PROGRAM, wait_for};

/// Starts a node as the runner does; gives back our end of the socket and its PID 1.
fn start(dir: &std::path::Path, argv: &[&str]) -> Result<(UnixStream, ProcessId)> {
    ensure!(nix::unistd::geteuid().is_root(), "these tests need root: run them with sudo");
    let scratch = dir.join("scratch");
    std::fs::create_dir_all(&scratch)?;
    let spec = serde_json::json!({
        "node": "n", "hostname": "n", "layers": ["/"], "scratch": scratch, "binds": [], "files": [],
        "sysctls": {"net.ipv4.no_such_thing": "1"}, "env": {"PATH": "/usr/bin:/bin"}, "argv": argv,
        "status": dir.join("status"),
    });
    let path = dir.join("spec.json");
    std::fs::write(&path, spec.to_string())?;
    let (ours, theirs) = UnixStream::pair()?;
    let status = Command::new(PROGRAM)
        .args(["init", "--spec"])
        .arg(&path)
        .stdin(Stdio::from(OwnedFd::from(theirs)))
        .stdout(Stdio::null())
        .stderr(Stdio::null())
        .status()?;
    ensure!(status.success(), "{status}");
    // Its number comes from the outer process, "ready" from PID 1: in any order.
    let (mut pid, mut is_ready) = (None, false);
    let mut lines = BufReader::new(ours.try_clone()?).lines();
    while pid.is_none() || !is_ready {
        let message: serde_json::Value = serde_json::from_str(&lines.next().context("it ended")??)?;
        ensure!(message.get("failed").is_none(), "{message}");
        pid = pid.or(message["pid"].as_u64());
        is_ready |= message == "ready";
    }
    let pid = u32::try_from(pid.context("it did not tell its number")?)?;
    Ok((ours, ProcessId::of(pid).context("it ended")?))
}

#[test]
fn a_node_ends_when_its_runner_dies_at_any_moment_before_keep() -> Result<()> {
    let dir = tempfile::tempdir()?;
    // In the middle of "go", PID 1 finds nobody to tell that it started.
    for words in ["", "\"go\"\n", "\"go\"\n\"go\"\n", "nonsense\n", "\"go"] {
        for _ in 0..5 {
            let (mut ours, init) = start(dir.path(), &["sleep", "1000"])?;
            ours.write_all(words.as_bytes())?;
            drop(ours);
            wait_for("PID 1 to end", || Ok(!init.is_alive())).with_context(|| format!("after {words:?}"))?;
        }
    }
    Ok(())
}

#[test]
fn a_node_that_may_stay_outlives_its_runner() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let (mut ours, init) = start(dir.path(), &["sleep", "1000"])?;
    ours.write_all(b"\"go\"\n\"keep\"\n")?;
    ours.shutdown(Shutdown::Write)?;
    // It answers, closes its end after "keep", and stays.
    let said: Vec<_> = BufReader::new(ours).lines().take(2).collect::<Result<_, _>>()?;
    assert!(said[0].contains("no_such_thing") && said[1] == r#""started""#, "{said:?}");
    wait_for("the entry point to be noted", || {
        Ok(std::fs::read_to_string(dir.path().join("status"))?.contains("running"))
    })?;
    assert!(init.is_alive());
    nix::sys::signal::kill(
        nix::unistd::Pid::from_raw(i32::try_from(init.pid)?),
        nix::sys::signal::Signal::SIGKILL,
    )?;
    wait_for("PID 1 to end", || Ok(!init.is_alive()))
}
