//! What is on a wire, as tcpdump tells it.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::process::Daemon;
use crate::{Lab, wait_for};

/// Longest wait for a frame to show in a capture.
pub const SEEN: Duration = Duration::from_secs(15);

/// A running tcpdump.
#[derive(Debug)]
pub struct Capture {
    /// What it listens on.
    pub what: String,
    daemon: Daemon,
}

impl Capture {
    /// Starts to listen on an interface (or `any`) of a node.
    pub async fn start(lab: &Lab, node: &str, interface: &str, filter: &str) -> Result<Capture> {
        let what = format!("{interface} of {node}");
        // A capture of a killed test ends by itself.
        let dump = ["timeout", "240", "tcpdump", "-nn", "-e", "-l", "-t", "-i", interface, filter];
        let capture = Capture { daemon: lab.spawn(node, &dump)?, what };
        let what = format!("a capture on {}", capture.what);
        wait_for(&what, Duration::from_secs(20), async || {
            ensure!(capture.daemon.log().contains("istening on"), "{}", capture.daemon.log());
            Ok(())
        })
        .await?;
        Ok(capture)
    }

    /// The frames so far, one a line; an encapsulated one follows on the same line.
    pub fn frames(&self) -> Vec<String> {
        let log = self.daemon.log();
        let mut frames: Vec<String> = Vec::new();
        let mut inside = false;
        // What tcpdump says of itself is no frame: "listening on …", "(Promiscuous mode not supported …)".
        let own = |l: &&str| l.starts_with("tcpdump:") || l.starts_with('(') || l.contains("istening on");
        for line in log.lines().filter(|l| !own(l)) {
            match frames.last_mut().filter(|_| inside) {
                Some(last) => {
                    last.push_str(" ⟨");
                    last.push_str(line);
                }
                None => frames.push(line.to_string()),
            }
            inside = line.contains("VXLAN, flags");
        }
        frames
    }

    /// Those with all these parts.
    pub fn having(&self, parts: &[&str]) -> Vec<String> {
        self.frames().into_iter().filter(|f| parts.iter().all(|part| f.contains(part))).collect()
    }

    /// Waits for a frame with all these parts; prints the first.
    pub async fn shows(&self, parts: &[&str]) -> Result<()> {
        let what = format!("{parts:?} on {}", self.what);
        let first = wait_for(&what, SEEN, async || {
            let all = || self.frames().into_iter().take(30).collect::<Vec<_>>();
            self.having(parts).into_iter().next().with_context(|| format!("there are only: {:#?}", all()))
        });
        println!("  {}", first.await?);
        Ok(())
    }

    /// An error if there is a frame with all these parts.
    pub fn never(&self, parts: &[&str]) -> Result<()> {
        let found = self.having(parts);
        ensure!(found.is_empty(), "{} shows {parts:?}: {:#?}", self.what, &found[..found.len().min(5)]);
        Ok(())
    }
}
