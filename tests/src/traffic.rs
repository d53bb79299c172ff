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

/// What happened to pings during a part of the time.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Cost {
    /// Never answered.
    pub lost: u64,
    /// Answered more than once.
    pub duplicates: usize,
    /// Longest time in which no answer arrived, less the interval: also of those that were only late.
    pub silent: Duration,
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
        let who = format!("{netns} on {node} to {target}");
        Pings::run(lab, node, &["ip", "netns", "exec", netns], who, target, interval).await
    }

    /// [`Pings::start`] from the node itself.
    pub async fn of_node(lab: &Lab, node: &str, target: &str, interval: Duration) -> Result<Pings> {
        Pings::run(lab, node, &[], format!("{node} to {target}"), target, interval).await
    }

    async fn run(
        lab: &Lab,
        node: &str,
        inside: &[&str],
        who: String,
        target: &str,
        interval: Duration,
    ) -> Result<Pings> {
        let seconds = format!("{:.3}", interval.as_secs_f64());
        let ping = ["ping", "-n", "-D", "-i", &seconds, target];
        let daemon = lab.spawn(node, &[inside, &ping].concat())?.quiet();
        let pings = Pings { who, interval, daemon };
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

    /// Sequence numbers of the answers so far and when they arrived, in seconds.
    fn arrivals(&self) -> Result<Vec<(u64, f64)>> {
        let (replies, log) = (self.replies()?, self.daemon.log());
        let times = log.lines().filter(|l| l.contains("bytes from")).map(|l| {
            let time = l.strip_prefix('[').and_then(|l| l.split_once(']')).and_then(|(t, _)| t.parse().ok());
            time.with_context(|| format!("an answer without a time: {l}"))
        });
        let times: Vec<f64> = times.collect::<Result<_>>()?;
        Ok(replies.into_iter().zip(times).collect())
    }

    /// How many answers there were so far: where [`Pings::cost`] begins.
    pub fn mark(&self) -> Result<usize> {
        Ok(self.replies()?.len())
    }

    /// What was lost, and how long it was silent, since a mark.
    pub fn cost(&self, mark: usize) -> Result<Cost> {
        let arrivals = self.arrivals()?;
        Ok(cost(arrivals.get(mark.saturating_sub(1)..).unwrap_or_default(), self.interval))
    }

    /// Waits until so many more were answered without a gap: what was broken works again.
    pub async fn settle(&self, more: usize) -> Result<()> {
        self.settle_within(more, SOON).await
    }

    /// [`Pings::settle`] with its own time limit.
    pub async fn settle_within(&self, more: usize, limit: Duration) -> Result<()> {
        let from = self.replies()?.len();
        wait_for(&format!("{more} pings in a row of {}", self.who), limit, async || {
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

fn cost(arrivals: &[(u64, f64)], interval: Duration) -> Cost {
    let mut sequence: Vec<u64> = arrivals.iter().map(|(number, _)| *number).collect();
    sequence.sort_unstable();
    let all = sequence.len();
    sequence.dedup();
    let between = arrivals.windows(2).map(|pair| pair[1].1 - pair[0].1);
    let silent = Duration::try_from_secs_f64(between.fold(0.0, f64::max)).unwrap_or_default();
    Cost {
        lost: sequence.windows(2).map(|pair| pair[1] - pair[0] - 1).sum(),
        duplicates: all - sequence.len(),
        silent: silent.saturating_sub(interval),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn late_is_not_lost_but_silent() {
        let ms = Duration::from_millis;
        let all = [(1, 10.0), (2, 10.01), (4, 10.1), (3, 10.1), (3, 10.11), (6, 10.12)];
        let found = cost(&all, ms(10));
        assert_eq!((found.lost, found.duplicates, found.silent.as_millis()), (1, 1, 80));
        assert_eq!(cost(&[], ms(10)), Cost::default());
    }

    #[test]
    fn gaps_are_counted() {
        let ms = Duration::from_millis;
        assert_eq!(loss(&[1, 2, 3], ms(10)), Loss { answered: 3, lost: 0, gap: ms(0) });
        assert_eq!(loss(&[1, 4, 5, 7], ms(10)), Loss { answered: 4, lost: 3, gap: ms(20) });
        assert_eq!(loss(&[], ms(10)), Loss { answered: 0, lost: 0, gap: ms(0) });
    }
}
