//! The mobility ledger: what is known of where a MAC of a network is, and what follows from what the fabric says.
//!
//! **Which sequence number.** That of a binding is its generation less one. Generations are given by the store's
//! transactions: written before any controller announces them, the same on all, and only growing, over unbinding
//! (`intent/binding` stays) and over a port's end (`intent/ledger`). A new binding goes above what other places say,
//! which also covers a store that was restored from an older copy: the fabric remembers what the copy does not.
//!
//! **What happens when the fabric says something** is [`judge`]. We never raise a number because somebody contradicts:
//! two that do so end with switches that stop following the MAC (RFC 7432 §15.1: five changes in 180 s).

use std::net::IpAddr;

use crate::model::{Move, MovePhase};

/// Changes of place that are made within [`WINDOW_MS`] at most. Switches count five, some of them count also what is no
/// change for others.
pub const MOST_CHANGES: usize = 3;
/// The time that switches look at, in milliseconds (RFC 7432 §15.1).
pub const WINDOW_MS: i64 = 180_000;

/// What is known of where a MAC is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sighting {
    /// Nobody but us has said it.
    Planned,
    /// Its own switch says it where it shall be.
    Settled,
    /// The fabric says it elsewhere, and has it there: nobody told us.
    Drifted,
}

/// When a further change may be made, in Unix milliseconds; `None`: now. A change in the future, by a clock that was
/// set back, counts like one of now, and no longer than the window.
pub fn next_change_ms(changes: &[i64], now_ms: i64) -> Option<i64> {
    let recent = |at: &i64| now_ms.saturating_sub(*at) < WINDOW_MS;
    let mut recent: Vec<i64> = changes.iter().filter(|at| recent(at)).map(|at| (*at).min(now_ms)).collect();
    recent.sort_unstable();
    let over = recent.len().checked_sub(MOST_CHANGES)?;
    recent.get(over).map(|oldest| oldest.saturating_add(WINDOW_MS))
}

/// What the fabric says of a MAC at one VTEP.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Seen {
    /// The VTEP.
    pub vtep: IpAddr,
    /// The sequence number, 0 if the route carries none.
    pub sequence: u32,
}

/// What to do about it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Verdict {
    /// What is known of the MAC now.
    pub sighting: Sighting,
    /// What to announce at our place; `None`: nothing.
    pub announce: Option<u32>,
    /// Somebody should look.
    pub alarm: bool,
}

/// What follows for a MAC bound at `here` with a sequence of ours when the fabric says it in these places. `learns`: the
/// VTEP's switch speaks for itself, so that what it says of its own place counts.
pub fn judge(here: IpAddr, ours: u32, learns: bool, seen: &[Seen]) -> Verdict {
    let own = seen.iter().filter(|s| s.vtep == here).map(|s| s.sequence).max();
    let ours = if learns { ours.max(own.unwrap_or(0)) } else { ours };
    // What receivers choose: the higher sequence, of equal ones the lower next hop.
    let rival =
        seen.iter().filter(|s| s.vtep != here).max_by_key(|s| (s.sequence, std::cmp::Reverse(s.vtep)));
    let settled = if own.is_some() { Sighting::Settled } else { Sighting::Planned };
    match rival {
        Some(rival) if rival.sequence > ours && learns => {
            Verdict { sighting: Sighting::Drifted, announce: None, alarm: true }
        }
        // Here the store knows where the workload is: the other one is wrong, and is not fought either.
        Some(rival) if rival.sequence > ours => {
            Verdict { sighting: Sighting::Drifted, announce: Some(ours), alarm: true }
        }
        Some(rival) if rival.sequence == ours => {
            Verdict { sighting: settled, announce: Some(ours), alarm: rival.vtep < here }
        }
        _ => Verdict { sighting: settled, announce: Some(ours), alarm: false },
    }
}

/// The generation of a new binding: above all that was given, and above what other places say.
pub fn next_generation(given: u64, ledger: u64, elsewhere: Option<u32>) -> u64 {
    let outbid = elsewhere.map_or(0, |sequence| u64::from(sequence).saturating_add(1));
    given.max(ledger).max(outbid).saturating_add(1)
}

impl Move {
    /// When the port changed its place in this move, in Unix milliseconds, with the times of the moves before.
    pub fn changes(&self) -> Vec<i64> {
        let switched = self.began_ms(MovePhase::Verify);
        let back = self.began_ms(MovePhase::Return).and_then(|_| self.began_ms(MovePhase::Undone));
        self.before.iter().copied().chain(switched).chain(back).collect()
    }
}

#[cfg(test)]
mod tests;
