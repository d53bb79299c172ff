//! What tests of labs share whose switches do VXLAN: parties with addresses, pings, captures, and how such a test goes.
//!
//! One boot a test, and few commands in it: starting a program costs in a guest, so what is to be done in one node is one
//! shell script.

pub mod capture;
mod party;
mod ping;
mod tcp;

use std::sync::{Mutex, PoisonError};
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};

use crate::guest::TestGuest;
use crate::lab::{Lab, Switches, in_guest_instead, leftovers};
use crate::wait_for;
pub use capture::Capture;
pub use party::{Machine, Parties, Party, Workload, create};
pub use ping::{join_all, ping, reach};
pub use tcp::tcp;

/// For a guest that shares its processors with other work; alone it takes a fraction.
const LIMIT: Duration = Duration::from_secs(900);

/// Two guests at once are slower than one after the other, and two labs in one kernel see each other's load.
static TURN: tokio::sync::Mutex<()> = tokio::sync::Mutex::const_new(());

/// Runs the test of a lab whose nodes need `features` of the kernel: here, or in a guest; one at a time.
pub async fn on<F: Future<Output = Result<()>>>(
    features: &[&str],
    test: &str,
    body: impl FnOnce() -> F,
) -> Result<()> {
    let _turn = TURN.lock().await;
    let wishes = TestGuest { memory: 3072, limit: LIMIT, ..TestGuest::default() };
    if in_guest_instead(features, test, &wishes)? {
        return Ok(());
    }
    Box::pin(body()).await
}

/// Prints what a part took.
pub async fn phase<T>(name: &str, part: impl Future<Output = Result<T>>) -> Result<T> {
    let start = Instant::now();
    println!("\n== {name}");
    let result = part.await;
    println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    result.map_err(|error| error.context(name.to_string()))
}

/// A lab under test. A boot is dear: what fails is collected, and the rest looked at all the same.
#[derive(Debug)]
pub struct Trial {
    /// The lab.
    pub lab: Lab,
    failures: Mutex<Vec<String>>,
}

impl Trial {
    /// Brings a lab up.
    pub async fn begin(lab: &str, switches: Switches) -> Result<Trial> {
        Ok(Trial { lab: phase("lab up", Lab::up(lab, switches)).await?, failures: Mutex::default() })
    }

    /// A part of the test: prints what it took, and notes how it failed.
    pub async fn part(&self, name: &str, part: impl Future<Output = Result<()>>) {
        let failure = phase(name, part).await.err().map(|error| format!("{error:#}"));
        self.failures.lock().unwrap_or_else(PoisonError::into_inner).extend(failure);
    }

    /// Looks at the logs of nodes with daemons of ours, takes the lab down, looks for what it left, and says what failed.
    pub async fn end(self, ours: &[&str]) -> Result<()> {
        self.part("logs", nobody_complains(&self.lab, ours)).await;
        let name = self.lab.name().to_string();
        phase("lab down", self.lab.down()).await?;
        let left = leftovers(&name)?;
        ensure!(left.is_empty(), "left behind: {left:#?}");
        let failures = self.failures.into_inner().unwrap_or_else(PoisonError::into_inner);
        ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
        Ok(())
    }
}

/// No line that a human would have to look at.
async fn nobody_complains(lab: &Lab, nodes: &[&str]) -> Result<()> {
    for node in nodes {
        let lines = lab.complaints(node).await?;
        ensure!(lines.is_empty(), "{node}: {lines:#?}");
    }
    Ok(())
}

/// Sessions with all peers of the lab's controller.
pub async fn established(lab: &Lab, count: usize) -> Result<()> {
    wait_for("the controller's sessions", Duration::from_secs(60), async || {
        let peers = lab.json("ctl", &["causeway", "bgp", "peers", "-o", "json"]).await?;
        let text = peers.to_string();
        ensure!(text.matches("Established").count() == count, "{text}");
        Ok(())
    })
    .await
}

/// Waits until what a shell line prints on a node has all parts.
pub async fn says(lab: &Lab, node: &str, line: &str, parts: &[&str]) -> Result<String> {
    wait_for(&format!("{node} has {}", parts.join(", ")), Duration::from_secs(90), async || {
        let said = lab.shell(node, line).await?;
        for part in parts {
            ensure!(said.contains(part), "nothing of {part} in: {said}");
        }
        Ok(said)
    })
    .await
}

/// These nodes' agents have done all that they were told so far, and have nothing to complain of.
pub async fn caught_up(lab: &Lab, agents: &[&str]) -> Result<()> {
    wait_for(&format!("{} have caught up", agents.join(", ")), Duration::from_secs(60), async || {
        let table = lab.exec("ctl", &["causeway", "node", "list"]).await?;
        for agent in agents {
            let row = table.lines().find(|line| line.split_whitespace().next() == Some(agent));
            let words: Vec<&str> = row.unwrap_or_default().split_whitespace().collect();
            // NODE VTEP AGENT VERSION REVISION BEHIND PORTS PROBLEMS
            ensure!(words.get(5) == Some(&"0") && words.get(7) == Some(&"-"), "{table}");
        }
        Ok(())
    })
    .await
}

/// All ports are where they are meant to be, nobody else claims anything, and nobody is there who is not known.
pub async fn as_intended(lab: &Lab, ports: usize) -> Result<()> {
    wait_for("everything is as intended", Duration::from_secs(30), async || {
        let diff = lab.json("ctl", &["causeway", "fabric", "diff", "-o", "json"]).await?;
        ensure!(diff["ports"] == ports, "{diff:#}");
        let findings = diff["findings"].as_array().context("no findings")?;
        ensure!(findings.is_empty(), "{findings:#?}");
        Ok(())
    })
    .await
}
