//! The program as people run it.

use std::process::{Command, Output};

use anyhow::{Result, ensure};

fn agent(arguments: &[&str]) -> Result<Output> {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-agent"));
    for name in ["CAUSEWAY_NODE", "CAUSEWAY_CONTROLLERS", "CAUSEWAY_STATE_DIR", "CAUSEWAY_LOG"] {
        command.env_remove(name);
    }
    Ok(command.args(arguments).output()?)
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn flags_beat_the_file_and_are_printed() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("agent.yaml");
    std::fs::write(&file, "node: h1\nobserve_interval: 60\n")?;
    let path = file.display().to_string();
    let out = agent(&["--config", &path, "--node", "h2", "--controllers", "a:1,b:2", "--print-config"])?;
    let printed = text(&out.stdout);
    for expected in ["node: h2", "observe_interval: 60", "a:1", "b:2"] {
        ensure!(printed.contains(expected), "{printed}");
    }
    // What is printed can be read.
    std::fs::write(&file, &printed)?;
    ensure!(text(&agent(&["--config", &path, "--print-config"])?.stdout) == printed);
    Ok(())
}

#[test]
fn bad_configuration_says_where() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let file = dir.path().join("agent.yaml");
    std::fs::write(&file, "node: h1\nintervall: 60\n")?;
    let path = file.display().to_string();
    let out = agent(&["--config", &path])?;
    let said = text(&out.stderr);
    ensure!(!out.status.success() && said.contains("intervall") && said.contains('2'), "{said}");
    let said = text(&agent(&[])?.stderr);
    ensure!(said.contains("CAUSEWAY_NODE"), "{said}");
    let said = text(&agent(&["--config", "/nonexistent/agent.yaml"])?.stderr);
    ensure!(said.contains("/nonexistent/agent.yaml"), "{said}");
    Ok(())
}

#[test]
fn no_state_is_said() -> Result<()> {
    let dir = tempfile::tempdir()?;
    let path = dir.path().display().to_string();
    let out = agent(&["state", "--state-dir", &path])?;
    ensure!(!out.status.success() && text(&out.stderr).contains("there is no state in"), "{out:?}");
    Ok(())
}
