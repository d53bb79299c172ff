//! A real VM: QEMU with Debian's kernel and what `scripts/vm.sh` makes, on a tap of a lab's node.

use std::collections::VecDeque;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use serde_json::{Value, json};
use tokio::io::{AsyncBufReadExt, AsyncWriteExt, BufReader, Lines};
use tokio::net::UnixStream;
use tokio::net::unix::{OwnedReadHalf, OwnedWriteHalf};
use tokio::time::timeout;

use crate::process::{Daemon, cache, run_within};
use crate::{Lab, wait_for};

/// Longest time to boot, or to hear something of QEMU, on a machine that is busy.
const SOON: Duration = Duration::from_secs(90);
/// What makes an emulated kernel start fast, and a VM silent until it is asked.
const KERNEL: &str = "console=ttyS0 quiet panic=-1 mitigations=off nokaslr tsc=reliable no_timer_check random.trust_cpu=on \
     audit=0 apparmor=0 rcupdate.rcu_expedited=1 cryptomgr.notests net.ifnames=0 ipv6.disable=1";

/// What a VM is started with.
#[derive(Debug, Clone, Copy)]
pub struct VmSpec<'a> {
    /// The lab's node on which it runs.
    pub node: &'a str,
    /// Its tap there, which exists.
    pub tap: &'a str,
    /// Its card's MAC.
    pub mac: &'a str,
    /// Its card's address, with the prefix length.
    pub address: &'a str,
    /// Instead of booting it waits here for one that is migrated, for example `tcp:10.0.0.1:4444`.
    pub incoming: Option<&'a str>,
}

/// A running VM; dropping it is pulling its plug.
#[derive(Debug)]
pub struct Vm {
    daemon: Daemon,
    socket: PathBuf,
}

impl Vm {
    /// Starts QEMU in the network of the node, with this machine's files.
    pub async fn start(lab: &Lab, spec: &VmSpec<'_>) -> Result<Vm> {
        let VmSpec { node, tap, mac, address, incoming } = spec;
        let script = Path::new(env!("CARGO_MANIFEST_DIR")).join("../scripts/vm.sh").canonicalize()?;
        run_within(&[&script.to_string_lossy()], SOON).await?;
        let parts = cache().join("guest/current");
        let count = std::fs::read_dir(lab.directory())?.count();
        let socket = lab.directory().join(format!("vm{count}.qmp"));
        let mut qemu = Command::new("nsenter");
        qemu.arg(format!("--net={}", lab.network_of(node).await?.display()));
        // Emulated: all machines can, and a VM that is migrated needs the same processor at both ends.
        qemu.args(["qemu-system-x86_64", "-machine", "pc", "-accel", "tcg", "-cpu", "max", "-m", "128"]);
        qemu.args(["-nodefaults", "-no-user-config", "-display", "none", "-no-reboot", "-serial", "stdio"]);
        qemu.args(["-netdev", &format!("tap,id=net,ifname={tap},script=no,downscript=no")]);
        qemu.args(["-device", &format!("virtio-net-pci,netdev=net,romfile=,mac={mac}")]);
        qemu.args(["-qmp", &format!("unix:{},server=on,wait=off", socket.display())]);
        qemu.arg("-kernel").arg(parts.join("vmlinux")).arg("-initrd").arg(parts.join("vm.gz"));
        qemu.args(["-append", &format!("{KERNEL} causeway.address={address} causeway.mtu=1450")]);
        if let Some(from) = incoming {
            qemu.args(["-incoming", from]);
        }
        let log = lab.directory().join(format!("vm{count}.log"));
        Ok(Vm { daemon: Daemon::spawn(&format!("VM on {node}"), qemu, &log)?, socket })
    }

    /// Waits until it has booted.
    pub async fn booted(&mut self) -> Result<()> {
        wait_for("the VM is up", SOON, async || {
            self.daemon.must_run()?;
            ensure!(self.daemon.log().contains("causeway: the VM is up"), "{}", self.daemon.log());
            Ok(())
        })
        .await
    }

    /// A connection to QEMU itself.
    pub async fn qmp(&mut self) -> Result<Qmp> {
        let stream = wait_for("QEMU listens", SOON, async || {
            self.daemon.must_run()?;
            Ok(UnixStream::connect(&self.socket).await?)
        })
        .await?;
        let (read, writer) = stream.into_split();
        let mut qmp = Qmp { lines: BufReader::new(read).lines(), writer, events: VecDeque::new() };
        let hello = qmp.next().await?;
        ensure!(hello["QMP"].is_object(), "QEMU says: {hello}");
        qmp.run("qmp_capabilities", json!({})).await?;
        Ok(qmp)
    }
}

/// QEMU's machine protocol.
#[derive(Debug)]
pub struct Qmp {
    lines: Lines<BufReader<OwnedReadHalf>>,
    writer: OwnedWriteHalf,
    events: VecDeque<Value>,
}

impl Qmp {
    async fn next(&mut self) -> Result<Value> {
        let line = timeout(SOON, self.lines.next_line()).await.context("QEMU says nothing")??;
        let line = line.context("QEMU has hung up")?;
        serde_json::from_str(&line).with_context(|| format!("QEMU says: {line}"))
    }

    /// Runs a command; its error is one of ours.
    pub async fn run(&mut self, command: &str, arguments: Value) -> Result<Value> {
        let line = json!({"execute": command, "arguments": arguments});
        self.writer.write_all(format!("{line}\n").as_bytes()).await?;
        loop {
            let said = self.next().await?;
            if said["event"].is_string() {
                self.events.push_back(said);
            } else if said["error"].is_object() {
                bail!("QEMU refuses {command}: {}", said["error"]["desc"]);
            } else {
                return Ok(said["return"].clone());
            }
        }
    }

    /// Waits for an event whose data has all of these fields.
    pub async fn event(&mut self, name: &str, data: &[(&str, &str)]) -> Result<Value> {
        let is =
            |e: &Value| e["event"] == name && data.iter().all(|(field, value)| e["data"][field] == *value);
        loop {
            while let Some(event) = self.events.pop_front() {
                if is(&event) {
                    return Ok(event);
                }
                ensure!(event["data"]["status"] != "failed", "QEMU says: {event}");
            }
            let said = self.next().await.with_context(|| format!("waiting for {name} {data:?}"))?;
            self.events.push_back(said);
        }
    }
}
