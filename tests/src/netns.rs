//! Network namespaces for one test.

use std::process::Command;
use std::thread;

use anyhow::{Context, Result, bail};
use nix::sched::CloneFlags;

use crate::process::run;
use crate::slot::{Record, Slot, remove_netns};

/// A namespace with a unique name and `lo` up. Dropping it kills what runs in it and deletes it.
#[derive(Debug)]
pub struct Netns {
    name: String,
    _record: Record,
}

impl Netns {
    /// Creates one. The label, at most 8 characters, is part of the name.
    pub async fn new(label: &str) -> Result<Netns> {
        let slot = Slot::get()?;
        let name = slot.name(label);
        let netns = Netns { _record: slot.record("netns", &name)?, name };
        run(&["ip", "netns", "add", &netns.name]).await?;
        netns.run(&["ip", "link", "set", "lo", "up"]).await?;
        Ok(netns)
    }

    /// Its name, as `ip netns` shows it.
    pub fn name(&self) -> &str {
        &self.name
    }

    /// A command that will run inside.
    pub fn command(&self, program: &str) -> Command {
        let mut command = Command::new("ip");
        command.args(["netns", "exec", &self.name, program]);
        command
    }

    /// Runs a command inside to its end.
    pub async fn run(&self, command: &[&str]) -> Result<String> {
        run(&[&["ip", "netns", "exec", &self.name], command].concat()).await
    }

    /// Runs `ip` inside for each line.
    pub async fn ip(&self, lines: &[&str]) -> Result<()> {
        for line in lines {
            let words: Vec<_> = line.split_whitespace().collect();
            run(&[&["ip", "-n", &self.name], words.as_slice()].concat()).await?;
        }
        Ok(())
    }

    /// Joins two namespaces by a veth pair whose ends have the names and addresses given (`10.9.0.1/24`).
    pub async fn join(a: (&Netns, &str, &[&str]), b: (&Netns, &str, &[&str])) -> Result<()> {
        let (ns_a, dev_a, _) = a;
        let (ns_b, dev_b, _) = b;
        let add = format!("link add {dev_a} type veth peer name {dev_b} netns {}", ns_b.name);
        ns_a.ip(&[&add]).await?;
        for (ns, dev, addresses) in [a, b] {
            for address in addresses {
                let nodad = if address.contains(':') { "nodad" } else { "" };
                ns.ip(&[&format!("addr add {address} dev {dev} {nodad}")]).await?;
            }
            ns.ip(&[&format!("link set {dev} up")]).await?;
        }
        Ok(())
    }

    /// Runs `body` on a thread of its own inside the namespace, with a runtime of its own: sockets opened there belong
    /// to the namespace.
    #[expect(clippy::disallowed_methods, reason = "the thread is the test's own and ends with it")]
    pub fn enter<T: Send>(&self, body: impl AsyncFnOnce() -> Result<T> + Send) -> Result<T> {
        let inside = || -> Result<T> {
            let file = std::fs::File::open(format!("/run/netns/{}", self.name))?;
            nix::sched::setns(&file, CloneFlags::CLONE_NEWNET)
                .with_context(|| format!("cannot enter the namespace {}", self.name))?;
            let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
            runtime.block_on(body())
        };
        thread::scope(|scope| match scope.spawn(inside).join() {
            Ok(result) => result,
            Err(panic) => std::panic::resume_unwind(panic),
        })
    }
}

impl Drop for Netns {
    fn drop(&mut self) {
        remove_netns(&self.name);
    }
}

/// Runs a test's body with a namespace `us` that it is in, and a namespace `peer` behind a veth pair: 10.9.0.1 and
/// fd00:9::1 here, 10.9.0.2 and fd00:9::2 there.
pub fn with_pair(body: impl AsyncFnOnce(&Netns, &Netns) -> Result<()> + Send) -> Result<()> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build()?;
    let (us, peer) = runtime.block_on(async {
        let us = Netns::new("us").await?;
        let peer = Netns::new("peer").await?;
        let ours: &[&str] = &["10.9.0.1/24", "fd00:9::1/64"];
        let theirs: &[&str] = &["10.9.0.2/24", "fd00:9::2/64"];
        Netns::join((&us, "eth0", ours), (&peer, "eth0", theirs)).await?;
        anyhow::Ok((us, peer))
    })?;
    us.enter(async || body(&us, &peer).await)
}

/// An error unless the kernel has what the tests need.
pub async fn probe() -> Result<()> {
    let netns = Netns::new("probe").await?;
    for line in [
        "link add br0 type bridge",
        "link add vx0 type vxlan id 1 dstport 4789 nolearning",
        "link add v0 type veth",
    ] {
        if let Err(err) = netns.ip(&[line]).await {
            bail!("this kernel cannot run the tests: {err:#}");
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::path::Path;

    #[test]
    fn a_pair_reaches_itself_and_leaves_nothing() {
        let mut names = Vec::new();
        with_pair(async |us, peer| {
            names = vec![us.name().to_string(), peer.name().to_string()];
            probe().await?;
            run(&["ping", "-c1", "-W2", "10.9.0.2"]).await?;
            run(&["ping", "-c1", "-W2", "fd00:9::2"]).await?;
            // Left running on purpose: the namespace's end is its end.
            peer.command("sleep").arg("600").spawn()?;
            Ok(())
        })
        .unwrap();
        for name in names {
            assert!(!Path::new("/run/netns").join(name).exists());
        }
    }
}
