//! A real etcd for one test.

use std::net::Ipv4Addr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use etcd_client::Client;
use nix::sys::signal::Signal;

use crate::process::{Daemon, cache, run};
use crate::slot::{Directory, Slot};
use crate::{met, wait_for};

/// Longest wait for etcd to serve.
const START: Duration = Duration::from_secs(30);

/// Which etcd.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum EtcdVersion {
    /// The one of this Debian (3.4 on Debian 12).
    Debian,
    /// The newest release, 3.7, built by `scripts/peers.sh`.
    Newest,
}

impl EtcdVersion {
    /// Both.
    pub const ALL: [EtcdVersion; 2] = [EtcdVersion::Debian, EtcdVersion::Newest];

    /// Its program; an error says how to get it.
    pub fn program(self) -> Result<PathBuf> {
        let (path, how) = match self {
            EtcdVersion::Debian => (PathBuf::from("/usr/bin/etcd"), "scripts/setup.sh"),
            EtcdVersion::Newest => (cache().join("bin/etcd"), "scripts/peers.sh"),
        };
        ensure!(path.exists(), "{} is missing: run {how}", path.display());
        Ok(path)
    }

    /// The program whose `snapshot restore` makes a data directory of a snapshot: since 3.6 no longer `etcdctl`.
    fn restorer(self) -> Result<PathBuf> {
        let (path, how) = match self {
            EtcdVersion::Debian => (PathBuf::from("/usr/bin/etcdctl"), "scripts/setup.sh"),
            EtcdVersion::Newest => (cache().join("bin/etcdutl"), "scripts/peers.sh"),
        };
        ensure!(path.exists(), "{} is missing: run {how}", path.display());
        Ok(path)
    }
}

/// A single-member etcd on a loopback address of its own, with its data on disk. Dropping it kills it and removes
/// everything.
#[derive(Debug)]
pub struct Etcd {
    daemon: Option<Daemon>,
    which: EtcdVersion,
    program: PathBuf,
    address: Ipv4Addr,
    args: Vec<String>,
    version: String,
    directory: Directory,
}

impl Etcd {
    /// Starts one and waits until it serves.
    pub async fn start(version: EtcdVersion) -> Result<Etcd> {
        Etcd::start_with(version, &[]).await
    }

    /// [`Etcd::start`] with more arguments, for example `--auto-compaction-retention=1s`.
    pub async fn start_with(version: EtcdVersion, args: &[&str]) -> Result<Etcd> {
        Etcd::start_at(version, Slot::get()?.loopback()?, args).await
    }

    /// The same at an address of the calling thread's namespace, which others than itself may reach.
    pub async fn start_at(version: EtcdVersion, address: Ipv4Addr, args: &[&str]) -> Result<Etcd> {
        let slot = Slot::get()?;
        let mut etcd = Etcd {
            daemon: None,
            which: version,
            program: version.program()?,
            address,
            args: args.iter().map(ToString::to_string).collect(),
            version: String::new(),
            directory: slot.directory("etcd")?,
        };
        etcd.restart().await?;
        met(&format!("etcd {}", etcd.version));
        Ok(etcd)
    }

    /// Its endpoint, for example `http://127.64.0.1:2379`.
    pub fn endpoint(&self) -> String {
        format!("http://{}:2379", self.address)
    }

    /// The version it says it has.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Its process id.
    pub fn pid(&self) -> Result<u32> {
        Ok(self.daemon.as_ref().context("etcd is not running")?.pid())
    }

    /// Where its data and log are.
    pub fn directory(&self) -> &std::path::Path {
        self.directory.path()
    }

    /// A client of its own.
    pub async fn client(&self) -> Result<Client> {
        Client::connect([self.endpoint()], None)
            .await
            .with_context(|| format!("cannot connect to {}", self.endpoint()))
    }

    /// `kill -9`.
    pub fn kill(&mut self) -> Result<()> {
        self.daemon.take().context("etcd is not running")?.kill()
    }

    /// Starts it again (killing it first if it runs) on the same address with its data, and waits until it serves.
    pub async fn restart(&mut self) -> Result<()> {
        self.daemon = None;
        let client = self.endpoint();
        let peer = format!("http://{}:2380", self.address);
        let mut command = Command::new(&self.program);
        command
            .arg(format!("--data-dir={}", self.directory.path().join("data").display()))
            .arg(format!("--listen-client-urls={client}"))
            .arg(format!("--advertise-client-urls={client}"))
            .arg(format!("--listen-peer-urls={peer}"))
            .arg(format!("--initial-advertise-peer-urls={peer}"))
            .arg(format!("--initial-cluster=default={peer}"))
            .args(["--logger=zap", "--log-level=warn"])
            .args(&self.args);
        let mut daemon = Daemon::spawn("etcd", command, &self.directory.path().join("log"))?;
        let look = async || {
            daemon.must_run()?;
            let mut client = self.client().await?;
            Ok(client.status().await?.version().to_string())
        };
        self.version = wait_for(&format!("etcd at {client} serves"), START, look).await?;
        self.daemon = Some(daemon);
        Ok(())
    }

    /// Saves a snapshot of all that it holds to a file, as `etcdctl snapshot save` does.
    pub async fn save(&self, to: &Path) -> Result<()> {
        let (endpoints, file) = (format!("--endpoints={}", self.endpoint()), to.display().to_string());
        run(&["env", "ETCDCTL_API=3", "etcdctl", &endpoints, "snapshot", "save", &file]).await.map(drop)
    }

    /// Stops it, puts what a snapshot has in the place of its data, and starts it again at the same address. `more`:
    /// arguments of `snapshot restore`.
    pub async fn restore(&mut self, from: &Path, more: &[&str]) -> Result<()> {
        self.daemon = None;
        let data = self.directory.path().join("data");
        std::fs::remove_dir_all(&data)?;
        let peer = format!("http://{}:2380", self.address);
        let program = self.which.restorer()?;
        let words = [
            "env".to_owned(),
            "ETCDCTL_API=3".to_owned(),
            program.display().to_string(),
            "snapshot".to_owned(),
            "restore".to_owned(),
            from.display().to_string(),
            format!("--data-dir={}", data.display()),
            format!("--initial-cluster=default={peer}"),
            format!("--initial-advertise-peer-urls={peer}"),
        ];
        let words: Vec<&str> = words.iter().map(String::as_str).chain(more.iter().copied()).collect();
        run(&words).await?;
        self.restart().await
    }

    /// Stops it without closing anything (SIGSTOP): connections hang.
    pub fn pause(&self) -> Result<()> {
        self.daemon.as_ref().context("etcd is not running")?.signal(Signal::SIGSTOP)
    }

    /// Ends a [`Etcd::pause`].
    pub fn resume(&self) -> Result<()> {
        self.daemon.as_ref().context("etcd is not running")?.signal(Signal::SIGCONT)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn data_outlives_a_kill() {
        for version in EtcdVersion::ALL {
            let mut etcd = Etcd::start(version).await.unwrap();
            let mut client = etcd.client().await.unwrap();
            client.put("k", "v", None).await.unwrap();
            etcd.kill().unwrap();
            assert!(etcd.client().await.unwrap().get("k", None).await.is_err());
            etcd.restart().await.unwrap();
            let got = etcd.client().await.unwrap().get("k", None).await.unwrap();
            assert_eq!(got.kvs()[0].value_str().unwrap(), "v");
            let directory = etcd.directory().to_path_buf();
            drop(etcd);
            assert!(!directory.exists());
        }
    }
}
