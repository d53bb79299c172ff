//! Counting: what was sent, what came back, and when nothing did. Pure: times are given, from the first frame on.

use std::collections::{BTreeSet, VecDeque};
use std::time::Duration;

/// An answer that comes later than this counts as lost.
pub(super) const LATE: Duration = Duration::from_secs(1);
/// Gaps that are listed; more are only measured.
const GAPS: usize = 100;
/// Lost frames that are remembered, so that a late answer is not taken for a second one.
const REMEMBERED: usize = 1024;

/// A time without an answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Gap {
    /// Last answer before; `None`: there was none.
    pub(super) begin: Option<Duration>,
    /// First answer after; `None`: not yet.
    pub(super) end: Option<Duration>,
    /// Frames lost in it.
    pub(super) lost: u32,
}

/// A frame whose fate is open, or not yet counted because an earlier one's is.
#[derive(Debug, Clone, Copy)]
struct Sent {
    at: Duration,
    answered: Option<Duration>,
}

/// All that a probe has seen.
#[derive(Debug, Default)]
pub(super) struct Tally {
    /// Index of the first of `open`.
    first_open: u64,
    open: VecDeque<Sent>,
    pub(super) sent: u32,
    pub(super) received: u32,
    pub(super) duplicated: u32,
    pub(super) lost: u32,
    gaps: Vec<Gap>,
    /// The gap that goes on.
    gap: Option<Gap>,
    longest: Duration,
    lost_indexes: BTreeSet<u64>,
    pub(super) first_reply: Option<Duration>,
    /// Latest answer at all.
    pub(super) last_reply: Option<Duration>,
    /// Latest answer among the frames that are counted.
    last_counted: Option<Duration>,
    pub(super) rtt: Option<Duration>,
}

impl Tally {
    /// A frame goes out; returns its index.
    pub(super) fn send(&mut self, at: Duration) -> u64 {
        let index = self.first_open + self.open.len() as u64;
        self.open.push_back(Sent { at, answered: None });
        self.sent = self.sent.saturating_add(1);
        index
    }

    /// Index of the latest frame; `None` before the first.
    pub(super) fn latest(&self) -> Option<u64> {
        (self.first_open + self.open.len() as u64).checked_sub(1)
    }

    /// A frame was answered.
    pub(super) fn answer(&mut self, index: u64, at: Duration) {
        let Some(place) = index.checked_sub(self.first_open) else {
            // One that was answered before, unless it had been given up.
            if !self.lost_indexes.remove(&index) {
                self.duplicated = self.duplicated.saturating_add(1);
            }
            return;
        };
        // Nobody answers what was not sent; a forged index is no answer.
        let Some(sent) = usize::try_from(place).ok().and_then(|place| self.open.get_mut(place)) else {
            return;
        };
        if sent.answered.is_some() {
            self.duplicated = self.duplicated.saturating_add(1);
            return;
        }
        let rtt = at.saturating_sub(sent.at);
        if rtt > LATE {
            return;
        }
        sent.answered = Some(at);
        self.received = self.received.saturating_add(1);
        self.rtt = Some(self.rtt.map_or(rtt, |least| least.min(rtt)));
        self.first_reply.get_or_insert(at);
        self.last_reply = self.last_reply.max(Some(at));
        self.settle(at);
    }

    /// Gives up what is late.
    pub(super) fn settle(&mut self, now: Duration) {
        while let Some(sent) = self.open.front().copied() {
            match sent.answered {
                Some(at) => self.count_answer(at),
                None if now.saturating_sub(sent.at) > LATE => self.count_loss(),
                None => break,
            }
            self.open.pop_front();
            self.first_open += 1;
        }
    }

    fn count_answer(&mut self, at: Duration) {
        if let Some(gap) = self.gap.take() {
            self.longest = self.longest.max(at.saturating_sub(gap.begin.unwrap_or_default()));
            if self.gaps.len() < GAPS {
                self.gaps.push(Gap { end: Some(at), ..gap });
            }
        }
        self.last_counted = self.last_counted.max(Some(at));
    }

    fn count_loss(&mut self) {
        self.lost = self.lost.saturating_add(1);
        self.lost_indexes.insert(self.first_open);
        if self.lost_indexes.len() > REMEMBERED {
            self.lost_indexes.pop_first();
        }
        let begin = self.last_counted;
        let gap = self.gap.get_or_insert(Gap { begin, end: None, lost: 0 });
        gap.lost = gap.lost.saturating_add(1);
    }

    /// True if nothing is under way.
    pub(super) fn is_settled(&self) -> bool {
        self.open.is_empty()
    }

    /// Gaps so far, the open one last.
    pub(super) fn gaps(&self) -> impl Iterator<Item = Gap> {
        self.gaps.iter().copied().chain(self.gap).take(GAPS)
    }

    /// The longest gap so far.
    pub(super) fn longest(&self, now: Duration) -> Duration {
        let open = self.gap.map_or(Duration::ZERO, |gap| now.saturating_sub(gap.begin.unwrap_or_default()));
        self.longest.max(open)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ms(n: u64) -> Duration {
        Duration::from_millis(n)
    }

    #[test]
    fn a_gap_lasts_from_answer_to_answer() {
        let mut tally = Tally::default();
        for n in 0..20 {
            let index = tally.send(ms(10 * n));
            // Those at 50, 60, 70 and 80 ms are lost.
            if !(5..=8).contains(&n) {
                tally.answer(index, ms(10 * n + 1));
            }
        }
        assert_eq!(tally.gaps().count(), 0, "they may still be answered");
        tally.settle(ms(1100));
        assert_eq!((tally.sent, tally.received, tally.lost, tally.duplicated), (20, 16, 4, 0));
        let gaps: Vec<Gap> = tally.gaps().collect();
        assert_eq!(gaps, [Gap { begin: Some(ms(41)), end: Some(ms(91)), lost: 4 }]);
        assert_eq!(tally.longest(ms(1100)), ms(50));
        assert_eq!((tally.first_reply, tally.last_reply), (Some(ms(1)), Some(ms(191))));
        assert_eq!(tally.rtt, Some(ms(1)));
    }

    #[test]
    fn an_owner_that_never_answers_is_one_open_gap() {
        let mut tally = Tally::default();
        for n in 0..5 {
            tally.send(ms(100 * n));
        }
        tally.settle(ms(2000));
        assert!(tally.is_settled());
        assert_eq!(tally.gaps().collect::<Vec<_>>(), [Gap { begin: None, end: None, lost: 5 }]);
        assert_eq!(tally.longest(ms(2000)), ms(2000));
    }

    #[test]
    fn second_and_late_answers_are_told_apart() {
        let mut tally = Tally::default();
        let (a, b) = (tally.send(ms(0)), tally.send(ms(10)));
        tally.answer(a, ms(1));
        tally.answer(a, ms(2));
        tally.settle(ms(1500));
        tally.answer(b, ms(1501));
        assert_eq!((tally.received, tally.duplicated, tally.lost), (1, 1, 1), "late is lost, not doubled");
        tally.answer(a, ms(1502));
        assert_eq!(tally.duplicated, 2);
        tally.answer(99, ms(1503));
        assert_eq!(tally.received, 1, "what was not sent is not answered");
    }

    proptest! {
        #[test]
        fn every_frame_is_counted_once(answers in prop::collection::vec((0_u64..60, 0_u64..3000), 0..200)) {
            let mut tally = Tally::default();
            for n in 0..50 {
                tally.send(ms(10 * n));
            }
            let mut now = ms(0);
            for (index, after) in answers {
                now = now.max(ms(after));
                tally.settle(now);
                tally.answer(index, now);
            }
            tally.settle(now + ms(10_000));
            prop_assert!(tally.is_settled());
            prop_assert_eq!(tally.received + tally.lost, tally.sent);
            let in_gaps: u32 = tally.gaps().map(|gap| gap.lost).sum();
            prop_assert_eq!(in_gaps, tally.lost);
        }
    }
}
