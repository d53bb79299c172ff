//! The program: flags, files, signals and exit codes.

use std::path::Path;
use std::process::{Child, Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

fn program() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_causeway-controller"));
    command.env_clear().stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Result<(Option<i32>, String, String)> {
    let Output { status, stdout, stderr } = program().args(arguments).output()?;
    Ok((status.code(), String::from_utf8(stdout)?, String::from_utf8(stderr)?))
}

/// Killed if a test fails before it has ended.
struct Running(Child);

impl Drop for Running {
    fn drop(&mut self) {
        // Ended already is fine.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

#[test]
fn printed_configuration_reads_back_the_same() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("c.yaml");
    let path = file.to_str().context("a path")?;
    std::fs::write(&file, "name: c7\nrouter_id: 10.0.0.7\nasn: 65000\nlog: {format: json}\n")?;
    let (code, first, _) =
        run(&["--config", path, "--asn", "65001", "--listen", "127.0.0.1:1", "--print-config"])?;
    assert_eq!(code, Some(0));
    assert!(first.contains("asn: 65001") && first.contains("127.0.0.1:1"), "{first}");
    std::fs::write(&file, &first)?;
    let (_, second, _) = run(&["--config", path, "--print-config"])?;
    assert_eq!(first, second);
    assert_eq!(run(&["--config", path, "--check-config"])?.0, Some(0));
    Ok(())
}

#[test]
fn wrong_configurations_are_refused_with_their_place() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let file = directory.path().join("c.yaml");
    let path = file.to_str().context("a path")?;
    for (text, parts) in [
        ("asn: 65000\nrouterid: 1.2.3.4\n", vec!["c.yaml", "line 2", "column 1", "routerid", "^"]),
        ("asn: [\n", vec!["c.yaml", "line"]),
        ("asn: 65000\n", vec!["router_id: is required", "--router-id"]),
    ] {
        std::fs::write(&file, text)?;
        let (code, out, error) = run(&["--config", path, "--check-config"])?;
        assert_eq!((code, out.as_str()), (Some(1), ""), "{error}");
        for part in parts {
            assert!(error.contains(part), "no {part} in {error}");
        }
    }
    let (code, _, error) = run(&["--config", "/nonexistent/c.yaml"])?;
    assert_eq!(code, Some(1));
    assert!(error.contains("/nonexistent/c.yaml") && error.contains("No such file"), "{error}");
    assert_eq!(run(&["--nonsense"])?.0, Some(2));
    Ok(())
}

fn start(directory: &Path) -> Result<Running> {
    let child = program()
        .args(["--router-id", "10.0.0.9", "--asn", "65000", "--http-listen", "127.0.0.1:0"])
        .args(["--bgp-listen", "127.0.0.1:0", "--log-format", "json"])
        .arg("--listen")
        .arg(format!("unix:{}", directory.join("api.sock").display()))
        .arg("--store-file")
        .arg(directory.join("store"))
        .stderr(std::fs::File::create(directory.join("log"))?)
        .spawn()?;
    Ok(Running(child))
}

fn wait(what: &str, mut look: impl FnMut() -> Result<bool>) -> Result<()> {
    let deadline = Instant::now() + Duration::from_secs(20);
    while !look()? {
        ensure!(Instant::now() < deadline, "{what}: not in time");
        #[expect(
            clippy::disallowed_methods,
            reason = "a blocking test that waits for a condition with a deadline"
        )]
        std::thread::sleep(Duration::from_millis(10));
    }
    Ok(())
}

/// Waits until it serves.
fn wait_serving(directory: &Path) -> Result<()> {
    wait(
        "serving",
        || Ok(std::fs::read_to_string(directory.join("log"))?.contains("\"message\":\"serving\"")),
    )
}

#[test]
fn a_signal_ends_it_cleanly_and_a_second_run_takes_over() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api.sock");
    for signal in ["TERM", "INT"] {
        let mut running = start(directory.path())?;
        wait_serving(directory.path())?;
        let pid = running.0.id().to_string();
        ensure!(Command::new("kill").args([&format!("-{signal}"), &pid]).status()?.success());
        let told = Instant::now();
        wait("its end", || Ok(running.0.try_wait()?.is_some()))?;
        assert!(told.elapsed() < Duration::from_secs(5), "{:?}", told.elapsed());
        assert_eq!(running.0.wait()?.code(), Some(0));
        let logs = std::fs::read_to_string(directory.path().join("log"))?;
        for line in logs.lines() {
            assert!(!line.contains("\"WARN\"") && !line.contains("\"ERROR\""), "{line}");
        }
        assert!(!socket.exists(), "its socket stays behind");
    }
    Ok(())
}

#[test]
fn a_killed_run_leaves_nothing_that_keeps_the_next_one_out() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let socket = directory.path().join("api.sock");
    let mut running = start(directory.path())?;
    wait_serving(directory.path())?;
    running.0.kill()?;
    running.0.wait()?;
    assert!(socket.exists());
    let _next = start(directory.path())?;
    wait_serving(directory.path())
}

#[test]
fn a_store_that_another_has_open_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let _first = start(directory.path())?;
    wait_serving(directory.path())?;
    let (code, _, error) = run(&[
        "--router-id",
        "10.0.0.9",
        "--asn",
        "65000",
        "--http-listen",
        "127.0.0.1:0",
        "--bgp-listen",
        "127.0.0.1:0",
        "--listen",
        "127.0.0.1:0",
        "--store-file",
        directory.path().join("store").to_str().context("a path")?,
    ])?;
    assert_eq!(code, Some(1));
    assert!(error.contains("open the store") && error.contains("another process has it open"), "{error}");
    Ok(())
}
