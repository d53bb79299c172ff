//! A daemon under test, and commands that end by themselves.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail};
use nix::sys::signal::{Signal, kill};
use nix::unistd::Pid;
use tokio::io::{AsyncBufReadExt, BufReader};

use crate::slot::{Record, Slot};

/// Lines of a log that are printed when its daemon is dropped.
const TAIL: usize = 40;

/// A running daemon. Dropping it kills it and prints the end of its log, which the test runner shows for failing tests
/// only.
#[derive(Debug)]
pub struct Daemon {
    name: String,
    log: PathBuf,
    child: Child,
    /// Whether dropping it prints the end of its log.
    tells: bool,
    _record: Record,
}

/// Whether the ends of logs are printed at all.
static TELLING: AtomicBool = AtomicBool::new(true);

/// From now on no daemon prints the end of its log: for a program that prints figures.
pub fn keep_logs_quiet() {
    TELLING.store(false, Ordering::Relaxed);
}

impl Daemon {
    /// Starts `command` with its output appended to `log`.
    pub fn spawn(name: &str, mut command: Command, log: &Path) -> Result<Daemon> {
        let out = fs::OpenOptions::new().create(true).append(true).open(log)?;
        command.stdin(Stdio::null()).stdout(out.try_clone()?).stderr(out);
        let child = command.spawn().with_context(|| format!("cannot start {name}: {command:?}"))?;
        let record = Slot::get()?.record_process(child.id())?;
        Ok(Daemon { name: name.to_string(), log: log.to_path_buf(), child, tells: true, _record: record })
    }

    /// For what writes a line each few milliseconds, and is asked for them: its end prints nothing.
    #[must_use]
    pub fn quiet(mut self) -> Daemon {
        self.tells = false;
        self
    }

    /// Its process id.
    pub fn pid(&self) -> u32 {
        self.child.id()
    }

    /// What it has written so far.
    pub fn log(&self) -> String {
        fs::read(&self.log).map(|b| String::from_utf8_lossy(&b).into_owned()).unwrap_or_default()
    }

    /// Sends a signal; an error if the process has ended.
    pub fn signal(&self, signal: Signal) -> Result<()> {
        let pid = Pid::from_raw(i32::try_from(self.child.id())?);
        kill(pid, signal).with_context(|| format!("cannot send {signal} to {} ({pid})", self.name))
    }

    /// Its exit status if it has ended.
    pub fn ended(&mut self) -> Result<Option<ExitStatus>> {
        Ok(self.child.try_wait()?)
    }

    /// An error with the end of its log if it has ended.
    pub fn must_run(&mut self) -> Result<()> {
        if let Some(status) = self.ended()? {
            bail!("{} has ended ({status}); its log ends:\n{}", self.name, self.tail());
        }
        Ok(())
    }

    /// `kill -9`, and waits for the end.
    pub fn kill(&mut self) -> Result<()> {
        self.child.kill().with_context(|| format!("cannot kill {}", self.name))?;
        self.child.wait()?;
        Ok(())
    }

    /// SIGTERM, then waits for the end; still alive after `limit` is an error.
    pub async fn terminate(&mut self, limit: Duration) -> Result<ExitStatus> {
        self.signal(Signal::SIGTERM)?;
        let what = format!("{} stops on SIGTERM", self.name);
        crate::wait_for(&what, limit, async || self.ended()?.context("still running")).await
    }

    fn tail(&self) -> String {
        let log = self.log();
        let lines: Vec<_> = log.lines().collect();
        lines[lines.len().saturating_sub(TAIL)..].join("\n")
    }
}

impl Drop for Daemon {
    fn drop(&mut self) {
        let state = match self.child.try_wait() {
            Ok(Some(status)) => format!("ended before: {status}"),
            _ => "killed now".to_string(),
        };
        let _ = self.child.kill();
        let _ = self.child.wait();
        if self.tells && TELLING.load(Ordering::Relaxed) {
            println!("--- log of {} ({state})\n{}\n---", self.name, self.tail());
        }
    }
}

/// Runs a command to its end and gives its standard output. A failure says the command and what it wrote.
pub async fn run(command: &[&str]) -> Result<String> {
    run_within(command, Duration::from_secs(20)).await
}

/// [`run`] with its own time limit.
pub async fn run_within(command: &[&str], limit: Duration) -> Result<String> {
    let [program, args @ ..] = command else { bail!("no command") };
    let text = command.join(" ");
    let output =
        tokio::process::Command::new(program).args(args).stdin(Stdio::null()).kill_on_drop(true).output();
    let output = tokio::time::timeout(limit, output)
        .await
        .with_context(|| format!("'{text}' took more than {limit:?}"))?
        .with_context(|| format!("cannot run '{text}'"))?;
    let stdout = String::from_utf8_lossy(&output.stdout).into_owned();
    if !output.status.success() {
        let stderr = String::from_utf8_lossy(&output.stderr);
        bail!("'{text}' failed ({}): {}{stdout}", output.status, stderr);
    }
    Ok(stdout)
}

/// Runs a command to its end and prints its standard output as it comes, each line with the seconds since the start: for what
/// takes minutes. Gives back all of it; a failure says the command only.
pub async fn run_telling(command: &[&str], limit: Duration) -> Result<String> {
    let [program, args @ ..] = command else { bail!("no command") };
    let text = command.join(" ");
    let mut start = tokio::process::Command::new(program);
    start.args(args).stdin(Stdio::null()).stdout(Stdio::piped()).kill_on_drop(true);
    let mut child = start.spawn().with_context(|| format!("cannot run '{text}'"))?;
    let (begun, out) = (Instant::now(), child.stdout.take().context("no standard output")?);
    let told = async {
        let (mut lines, mut all) = (BufReader::new(out).lines(), String::new());
        while let Some(line) = lines.next_line().await? {
            println!("{:>6.1} s  {line}", begun.elapsed().as_secs_f64());
            all.push_str(&line);
            all.push('\n');
        }
        Ok::<_, anyhow::Error>((all, child.wait().await?))
    };
    let told = tokio::time::timeout(limit, told).await;
    let (all, status) = told.with_context(|| format!("'{text}' took more than {limit:?}"))??;
    if !status.success() {
        bail!("'{text}' failed ({status})");
    }
    Ok(all)
}

/// One of our own programs, as built beside the running test or benchmark.
pub fn program(name: &str) -> Result<PathBuf> {
    let exe = std::env::current_exe()?;
    // target/debug/deps/TEST or target/debug/BENCH
    let found = exe.ancestors().skip(1).take(2).map(|dir| dir.join(name)).find(|path| path.is_file());
    found.with_context(|| {
        format!("{name} is not built beside {}: cargo build --workspace --bins", exe.display())
    })
}

/// Where newer peers are kept that this Debian does not have.
pub(crate) fn cache() -> PathBuf {
    std::env::var_os("CAUSEWAY_CACHE").map_or_else(|| PathBuf::from("/var/cache/causeway"), PathBuf::from)
}
