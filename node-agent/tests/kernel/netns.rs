//! Namespaces for one test: hosts, workloads, and what happens inside them.

use std::path::PathBuf;
use std::process::{Command, Output};
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, bail, ensure};

static NEXT: AtomicU32 = AtomicU32::new(0);

/// A namespace with a name of its own; deleted when dropped, also when the test fails.
#[derive(Debug)]
pub(crate) struct Netns {
    pub(crate) name: String,
}

/// Runs a command to its end and returns what it printed.
pub(crate) fn run(command: &str) -> Result<String> {
    let words: Vec<&str> = command.split_whitespace().collect();
    let (program, arguments) = words.split_first().context("no command")?;
    let Output { status, stdout, stderr } =
        Command::new(program).args(arguments).output().with_context(|| command.to_owned())?;
    ensure!(status.success(), "{command}: {status}: {}", String::from_utf8_lossy(&stderr).trim());
    Ok(String::from_utf8_lossy(&stdout).into_owned())
}

impl Netns {
    /// A new one with `lo` up and bridge filtering off.
    pub(crate) fn new(label: &str) -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "this test changes the kernel and needs root");
        let number = NEXT.fetch_add(1, Ordering::Relaxed);
        let netns = Netns { name: format!("cwt{}-{number}-{label}", std::process::id()) };
        run(&format!("ip netns add {}", netns.name))?;
        netns.run("ip link set lo up")?;
        for table in ["iptables", "ip6tables", "arptables"] {
            netns.run(&format!("sysctl -e -qw net.bridge.bridge-nf-call-{table}=0"))?;
        }
        Ok(netns)
    }

    /// The file that names it.
    pub(crate) fn path(&self) -> PathBuf {
        PathBuf::from(format!("/run/netns/{}", self.name))
    }

    /// Runs a command inside.
    pub(crate) fn run(&self, command: &str) -> Result<String> {
        run(&format!("ip netns exec {} {command}", self.name))
    }

    /// Starts a command inside.
    pub(crate) fn spawn(&self, command: &str) -> Result<std::process::Child> {
        let words = command.split_whitespace();
        let child = Command::new("ip")
            .args(["netns", "exec", &self.name])
            .args(words)
            .stdout(std::process::Stdio::piped())
            .stderr(std::process::Stdio::piped())
            .spawn()?;
        Ok(child)
    }

    /// True if `address` answers at least one of a few pings.
    pub(crate) fn pings(&self, address: &str) -> bool {
        self.run(&format!("ping -n -c 1 -W 1 {address}")).is_ok()
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        let _ = run(&format!("ip netns del {}", self.name));
    }
}

/// Waits until `condition` holds and returns how long that took.
pub(crate) async fn wait_for(
    what: &str,
    deadline: Duration,
    mut condition: impl FnMut() -> Result<bool>,
) -> Result<Duration> {
    let start = Instant::now();
    loop {
        if condition()? {
            return Ok(start.elapsed());
        }
        if start.elapsed() > deadline {
            bail!("{what}: not within {deadline:?}");
        }
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}
