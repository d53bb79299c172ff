//! A real GoBGP in a namespace.

use std::fs;
use std::path::PathBuf;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::netns::Netns;
use crate::process::{Daemon, cache, run};
use crate::slot::{Directory, Slot};
use crate::{met, wait_for};

/// Longest wait for its API to answer.
const START: Duration = Duration::from_secs(30);

/// Which GoBGP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum GoBgpVersion {
    /// The one of this Debian (3.10 on Debian 12).
    Debian,
    /// 4.x, built by `scripts/peers.sh`.
    Newest,
}

impl GoBgpVersion {
    /// Both.
    pub const ALL: [GoBgpVersion; 2] = [GoBgpVersion::Debian, GoBgpVersion::Newest];

    /// The path of `gobgpd` or `gobgp`; an error says how to get it.
    pub fn program(self, name: &str) -> Result<PathBuf> {
        let (path, how) = match self {
            GoBgpVersion::Debian => (PathBuf::from("/usr/bin").join(name), "scripts/setup.sh"),
            GoBgpVersion::Newest => (cache().join("bin").join(name), "scripts/peers.sh"),
        };
        ensure!(path.exists(), "{} is missing: run {how}", path.display());
        Ok(path)
    }
}

/// gobgpd in a namespace. Dropping it kills it.
#[derive(Debug)]
pub struct GoBgp {
    daemon: Option<Daemon>,
    which: GoBgpVersion,
    version: String,
    netns: String,
    directory: Directory,
}

impl GoBgp {
    /// Starts it with this configuration (TOML) and waits until it answers.
    pub async fn start(netns: &Netns, which: GoBgpVersion, config: &str) -> Result<GoBgp> {
        let directory = Slot::get()?.directory("gobgp")?;
        let said = run(&[&which.program("gobgpd")?.to_string_lossy(), "--version"]).await?;
        let version = said.split_whitespace().last().context("gobgpd says no version")?.to_string();
        met(&format!("GoBGP {version}"));
        let mut gobgp = GoBgp { daemon: None, which, version, netns: netns.name().to_string(), directory };
        gobgp.restart(config).await?;
        Ok(gobgp)
    }

    /// The version it says it has.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Kills it (`kill -9`) and starts it with another configuration.
    pub async fn restart(&mut self, config: &str) -> Result<()> {
        self.daemon = None;
        let file = self.directory.path().join("gobgp.toml");
        fs::write(&file, config)?;
        let mut command = std::process::Command::new("ip");
        command.args(["netns", "exec", &self.netns]).arg(self.which.program("gobgpd")?);
        command.args(["-t", "toml", "-l", "info", "--api-hosts", "127.0.0.1:50051", "-f"]).arg(file);
        let name = format!("GoBGP {}", self.version);
        let mut daemon = Daemon::spawn(&name, command, &self.directory.path().join("log"))?;
        wait_for(&format!("{name} answers"), START, async || {
            daemon.must_run()?;
            self.json(&["global"]).await
        })
        .await?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Kills it (`kill -9`), for good.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("GoBGP is not running")?.kill()
    }

    /// Runs its command line client.
    pub async fn cli(&self, args: &[&str]) -> Result<String> {
        let program = self.which.program("gobgp")?;
        run(&[&["ip", "netns", "exec", &self.netns, &program.to_string_lossy()], args].concat()).await
    }

    /// Runs its command line client with JSON output.
    pub async fn json(&self, args: &[&str]) -> Result<Value> {
        let text = self.cli(&[&["-j"], args].concat()).await?;
        serde_json::from_str(&text).with_context(|| format!("gobgp {args:?} gave no JSON: {text}"))
    }

    /// The daemon, for example to read its log.
    pub fn daemon(&self) -> Result<&Daemon> {
        self.daemon.as_ref().context("GoBGP is not running")
    }

    /// Stops it without closing its connections (SIGSTOP).
    pub fn pause(&self) -> Result<()> {
        self.daemon()?.signal(Signal::SIGSTOP)
    }

    /// Ends a [`GoBgp::pause`].
    pub fn resume(&self) -> Result<()> {
        self.daemon()?.signal(Signal::SIGCONT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_versions_start() {
        for which in GoBgpVersion::ALL {
            let netns = Netns::new("gobgp").await.unwrap();
            let config = "[global.config]\nas = 65000\nrouter-id = \"10.9.0.2\"\n";
            let gobgp = GoBgp::start(&netns, which, config).await.unwrap();
            let rib = gobgp.json(&["global", "rib", "-a", "evpn"]).await.unwrap();
            assert!(rib.as_object().is_some_and(serde_json::Map::is_empty), "{rib}");
        }
    }
}
