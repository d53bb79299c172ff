//! Pings that run while something is done to a fabric, and what they lost meanwhile.

use std::time::Duration;

use anyhow::{Context, Result, ensure};

use crate::lab::Lab;
use crate::process::Daemon;
use crate::wait_for;

/// Longest time for pings to be answered again after the worst that is done to a fabric.
const SOON: Duration = Duration::from_secs(60);

/// One ping that goes on.
#[derive(Debug)]
pub struct Pings {
    who: String,
    interval: Duration,
    daemon: Daemon,
}

/// What was lost.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Loss {
    /// Packets answered.
    pub answered: usize,
    /// Packets not answered between the first and the last that was.
    pub lost: u64,
    /// Longest time without an answer beyond the interval.
    pub gap: Duration,
}

impl Pings {
    /// Starts pinging `target` from a namespace of a node, and waits for the first answer.
    pub async fn start(
        lab: &Lab,
        node: &str,
        netns: &str,
        target: &str,
        interval: Duration,
    ) -> Result<Pings> {
        let seconds = format!("{:.3}", interval.as_secs_f64());
        let ping = ["ip", "netns", "exec", netns, "ping", "-n", "-i", &seconds, target];
        let pings = Pings {
            who: format!("{netns} on {node} to {target}"),
            interval,
            daemon: lab.spawn(node, &ping)?.quiet(),
        };
        let what = format!("pings of {}", pings.who);
        wait_for(&what, SOON, async || {
            ensure!(!pings.replies()?.is_empty(), "none is answered");
            Ok(())
        })
        .await?;
        Ok(pings)
    }

    /// Who pings whom.
    pub fn who(&self) -> &str {
        &self.who
    }

    /// Sequence numbers of the answers so far, in the order of their arrival.
    pub fn replies(&self) -> Result<Vec<u64>> {
        let log = self.daemon.log();
        let answers = log.lines().filter(|l| l.contains("bytes from"));
        answers
            .map(|l| {
                let rest = l.split("icmp_seq=").nth(1).with_context(|| format!("odd reply: {l}"))?;
                let digits = rest.split_whitespace().next().unwrap_or_default();
                digits.parse().with_context(|| format!("odd reply: {l}"))
            })
            .collect()
    }

    /// Waits until so many more were answered without a gap: what was broken works again.
    pub async fn settle(&self, more: usize) -> Result<()> {
        let from = self.replies()?.len();
        wait_for(&format!("{more} pings in a row of {}", self.who), SOON, async || {
            let replies = self.replies()?;
            ensure!(replies.len() >= from + more, "only {} answered since", replies.len() - from);
            let last = &replies[replies.len() - more..];
            ensure!(last.windows(2).all(|pair| pair[1] == pair[0] + 1), "answers still have gaps");
            Ok(())
        })
        .await
    }

    /// What was lost so far.
    pub fn loss(&self) -> Result<Loss> {
        Ok(loss(&self.replies()?, self.interval))
    }
}

fn loss(replies: &[u64], interval: Duration) -> Loss {
    let missing = replies.windows(2).map(|pair| pair[1].saturating_sub(pair[0] + 1));
    let worst = missing.clone().max().unwrap_or_default();
    Loss {
        answered: replies.len(),
        lost: missing.sum(),
        gap: interval * u32::try_from(worst).unwrap_or(u32::MAX),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn gaps_are_counted() {
        let ms = Duration::from_millis;
        assert_eq!(loss(&[1, 2, 3], ms(10)), Loss { answered: 3, lost: 0, gap: ms(0) });
        assert_eq!(loss(&[1, 4, 5, 7], ms(10)), Loss { answered: 4, lost: 3, gap: ms(20) });
        assert_eq!(loss(&[], ms(10)), Loss { answered: 0, lost: 0, gap: ms(0) });
    }
}
