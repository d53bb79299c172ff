//! A real FRR in a namespace: the machine's own (8.4 on Debian 12) or a newer one from a root directory.

use std::fs;
use std::path::PathBuf;
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, ensure};
use nix::sys::signal::Signal;
use serde_json::Value;

use crate::netns::Netns;
use crate::process::{Daemon, cache, run, run_within};
use crate::slot::{Directory, Slot};
use crate::{met, wait_for};

/// Longest wait for the daemons to answer.
const START: Duration = Duration::from_secs(30);

/// Makes a mount namespace whose `/etc/frr` and `/run/frr` are the instance's own, over the machine's root or another
/// one, and holds it. Another root is entered by `pivot_root`; in a plain chroot FRR's children could not make mounts
/// private. $1: root directory; $2: the instance's directory.
const ENTER: &str = r#"set -e
mount --make-rprivate /
root=
if [ "$1" != / ]; then
  root=$2/root
  mount --bind "$1" "$root"
  mount -t proc proc "$root/proc"
  mount -t sysfs sysfs "$root/sys"
  mount --rbind /dev "$root/dev"
  mount -t tmpfs tmpfs "$root/tmp"
fi
mount --bind "$2/etc" "$root/etc/frr"
mount -t tmpfs tmpfs "$root/run"
mkdir "$root/run/frr"
mount --bind "$2/run" "$root/run/frr"
if [ "$root" ]; then
  cd "$root"
  pivot_root . .
  umount -l .
fi
cd /
chown -R frr:frr /etc/frr /run/frr
: > /run/frr/ready
exec sleep infinity"#;

/// Which FRR.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum FrrVersion {
    /// The one of this Debian (8.4 on Debian 12).
    Debian,
    /// 10.7, a root directory made by `scripts/peers.sh`.
    Newest,
}

impl FrrVersion {
    /// Both.
    pub const ALL: [FrrVersion; 2] = [FrrVersion::Debian, FrrVersion::Newest];

    /// The root directory it is in; an error says how to get it.
    pub fn root(self) -> Result<PathBuf> {
        let (root, how) = match self {
            FrrVersion::Debian => (PathBuf::from("/"), "scripts/setup.sh"),
            FrrVersion::Newest => (cache().join("images/causeway/frr/10.7/root"), "scripts/peers.sh"),
        };
        let bgpd = root.join("usr/lib/frr/bgpd");
        ensure!(bgpd.exists(), "{} is missing: run {how}", bgpd.display());
        Ok(root)
    }

    /// Its daemons in the order they start. From 10 on, mgmtd holds zebra's configuration.
    fn daemons(self) -> &'static [&'static str] {
        match self {
            FrrVersion::Debian => &["zebra", "bgpd"],
            FrrVersion::Newest => &["mgmtd", "zebra", "bgpd"],
        }
    }
}

/// zebra and bgpd (and mgmtd) in a namespace. Dropping it kills them and removes their files.
#[derive(Debug)]
pub struct Frr {
    // Dropped in this order: daemons, then what they live in.
    daemons: Vec<(&'static str, Daemon)>,
    holder: Daemon,
    which: FrrVersion,
    version: String,
    netns: String,
    directory: Directory,
}

impl Frr {
    /// Starts it with this configuration (as in `frr.conf`) and waits until it has taken it.
    pub async fn start(netns: &Netns, which: FrrVersion, config: &str) -> Result<Frr> {
        let directory = Slot::get()?.directory("frr")?;
        for name in ["etc", "run", "root"] {
            fs::create_dir(directory.path().join(name))?;
        }
        fs::write(directory.path().join("etc/vtysh.conf"), "service integrated-vtysh-config\n")?;
        let mut enter = netns.command("unshare");
        enter.args(["--mount", "bash", "-c", ENTER, "enter"]).arg(which.root()?).arg(directory.path());
        let holder = Daemon::spawn("frr's mount namespace", enter, &directory.path().join("enter.log"))?;
        let netns = netns.name().to_string();
        let mut frr = Frr { daemons: Vec::new(), holder, which, version: String::new(), netns, directory };
        wait_for("frr's mount namespace", START, async || {
            frr.holder.must_run()?;
            ensure!(frr.directory.path().join("run/ready").exists(), "not ready");
            Ok(())
        })
        .await?;
        let said = frr.inside(&["/usr/lib/frr/bgpd", "--version"]).await?;
        frr.version = said.split_whitespace().nth(2).context("bgpd says no version")?.to_string();
        met(&format!("FRR {}", frr.version));
        frr.start_daemons(config).await?;
        Ok(frr)
    }

    /// The version it says it has.
    pub fn version(&self) -> &str {
        &self.version
    }

    /// Which of the two it is.
    pub fn which(&self) -> FrrVersion {
        self.which
    }

    /// Kills the daemons (`kill -9`) and starts them with another configuration.
    pub async fn restart(&mut self, config: &str) -> Result<()> {
        self.daemons.clear();
        self.start_daemons(config).await
    }

    /// Kills one daemon (`kill -9`), for good.
    pub fn kill(&mut self, daemon: &str) -> Result<()> {
        let at = self.daemons.iter().position(|(name, _)| *name == daemon);
        let (_, mut killed) =
            self.daemons.swap_remove(at.with_context(|| format!("{daemon} is not running"))?);
        killed.kill()
    }

    async fn start_daemons(&mut self, config: &str) -> Result<()> {
        fs::write(self.directory.path().join("etc/frr.conf"), config)?;
        for name in self.which.daemons() {
            self.start_daemon(name).await?;
        }
        let refuses = format!("FRR {} refuses its configuration", self.version);
        // Not every version exits with an error for a line it does not understand.
        let said = self.inside(&["sh", "-c", "vtysh -b 2>&1"]).await.context(refuses.clone())?;
        let wrong: Vec<_> = said.lines().filter(|l| l.contains("% ")).collect();
        ensure!(wrong.is_empty(), "{refuses}: {}", wrong.join("; "));
        Ok(())
    }

    async fn start_daemon(&mut self, name: &'static str) -> Result<()> {
        let pid = self.holder.pid().to_string();
        let mut command = Command::new("nsenter");
        command.args(["-t", &pid, "-m", "-n", &format!("/usr/lib/frr/{name}")]);
        command.args(["--log", "stdout", "--log-level", "debugging"]);
        if name == "zebra" {
            // A large netlink buffer: bursts must not be lost.
            command.args(["-s", "90000000"]);
        }
        let log = self.directory.path().join(format!("{name}.log"));
        let mut daemon = Daemon::spawn(&format!("FRR {} {name}", self.version), command, &log)?;
        let what = format!("{name} answers");
        wait_for(&what, START, async || {
            daemon.must_run()?;
            self.inside(&["vtysh", "-d", name, "-c", "show version"]).await
        })
        .await?;
        self.daemons.push((name, daemon));
        Ok(())
    }

    async fn inside(&self, command: &[&str]) -> Result<String> {
        let pid = self.holder.pid().to_string();
        run_within(&[&["nsenter", "-t", &pid, "-m", "-n"], command].concat(), Duration::from_secs(60)).await
    }

    /// What a vtysh command prints.
    pub async fn vtysh(&self, command: &str) -> Result<String> {
        self.inside(&["vtysh", "-c", command]).await
    }

    /// What a vtysh command ending in `json` prints.
    pub async fn json(&self, command: &str) -> Result<Value> {
        let text = self.vtysh(command).await?;
        serde_json::from_str(&text).with_context(|| format!("'{command}' gave no JSON: {text}"))
    }

    /// Enters configuration lines.
    pub async fn configure(&self, lines: &[&str]) -> Result<()> {
        let mut command = vec!["vtysh", "-c", "configure terminal"];
        for line in lines {
            command.extend(["-c", line]);
        }
        let said = self.inside(&command).await?;
        ensure!(!said.contains('%'), "FRR {} refuses {lines:?}: {said}", self.version);
        Ok(())
    }

    /// A daemon, for example to send it a signal or to read its log.
    pub fn daemon(&self, name: &str) -> Result<&Daemon> {
        let found = self.daemons.iter().find(|(n, _)| *n == name);
        found.map(|(_, daemon)| daemon).with_context(|| format!("{name} is not running"))
    }

    /// The socket on which a daemon answers the commands of vtysh.
    pub fn socket(&self, daemon: &str) -> PathBuf {
        self.directory.path().join(format!("run/{daemon}.vty"))
    }

    /// Stops bgpd without closing its connections (SIGSTOP).
    pub fn pause(&self) -> Result<()> {
        self.daemon("bgpd")?.signal(Signal::SIGSTOP)
    }

    /// Ends a [`Frr::pause`].
    pub fn resume(&self) -> Result<()> {
        self.daemon("bgpd")?.signal(Signal::SIGCONT)
    }

    /// Runs a command in its network namespace, with the machine's own programs.
    pub async fn netns_run(&self, command: &[&str]) -> Result<String> {
        run(&[&["ip", "netns", "exec", &self.netns], command].concat()).await
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn both_versions_take_a_configuration_and_refuse_a_wrong_one() {
        for which in FrrVersion::ALL {
            let netns = Netns::new("frr").await.unwrap();
            let mut frr =
                Frr::start(&netns, which, "router bgp 65000\n bgp router-id 10.9.0.2\n").await.unwrap();
            let shown = frr.vtysh("show running-config").await.unwrap();
            assert!(shown.contains("bgp router-id 10.9.0.2"), "{shown}");
            let err = frr.restart("router bgp 65000\n no such line\n").await.unwrap_err();
            assert!(format!("{err:#}").contains("refuses"), "{err:#}");
        }
    }
}
