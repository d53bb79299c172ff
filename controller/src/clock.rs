//! Wall clocks jump, and those of two controllers differ. What has to last for a while is timed by the steady clock of
//! whoever watches it; what is written down has the time of the wall clock, for people.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicI64, Ordering};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

/// How much later than the steady clock a wall clock may say that something began, in milliseconds: as long as news may
/// take. What differs more has jumped.
const NEWS_MS: i64 = 1_000;

/// A controller's wall clock, which a test may set.
#[derive(Debug, Clone, Default)]
pub struct Clock(Arc<AtomicI64>);

impl Clock {
    /// Unix time in milliseconds.
    pub fn now_ms(&self) -> i64 {
        let now = SystemTime::now().duration_since(UNIX_EPOCH);
        let now = now.map_or(0, |since| i64::try_from(since.as_millis()).unwrap_or(i64::MAX));
        now.saturating_add(self.0.load(Ordering::SeqCst))
    }

    /// From now on it is ahead of the machine's by so many milliseconds, or behind it.
    pub fn set_ahead(&self, ms: i64) {
        self.0.store(ms, Ordering::SeqCst);
    }
}

/// How old things are that records date.
#[derive(Debug)]
pub(crate) struct Ages<K> {
    seen: BTreeMap<K, Seen>,
    /// What is seen first now may be older than we are.
    new: bool,
}

#[derive(Debug)]
struct Seen {
    stamp_ms: i64,
    /// By the steady clock.
    first: Duration,
    /// How old it was when it was seen first, in milliseconds.
    before_ms: i64,
}

impl<K: Ord + Clone> Ages<K> {
    /// One that has seen nothing.
    pub(crate) fn new() -> Self {
        Ages { seen: BTreeMap::new(), new: true }
    }

    /// Milliseconds since something began that is dated `stamp_ms`, while the wall clock says `now_ms`, and `steady` any time
    /// that only grows. Whoever was there
    /// when it began trusts no wall clock; only what is older than that is as old as it says.
    pub(crate) fn age_ms(&mut self, key: &K, stamp_ms: i64, now_ms: i64, steady: Duration) -> i64 {
        let wall = now_ms.saturating_sub(stamp_ms);
        let before_ms = if self.new { wall.max(0) } else { 0 };
        let begun = || Seen { stamp_ms, first: steady, before_ms };
        let seen = self.seen.entry(key.clone()).or_insert_with(begun);
        if seen.stamp_ms != stamp_ms {
            *seen = begun();
        }
        let elapsed = i64::try_from(steady.saturating_sub(seen.first).as_millis()).unwrap_or(i64::MAX);
        let age = seen.before_ms.saturating_add(elapsed);
        // It began a moment before it was seen, which the wall clock knows better as long as it makes sense.
        if (age..=age.saturating_add(NEWS_MS)).contains(&wall) { wall } else { age }
    }

    /// Everything was looked at once; forgets what is not there any more.
    pub(crate) fn keep(&mut self, there: impl Fn(&K) -> bool) {
        self.new = false;
        self.seen.retain(|key, _| there(key));
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const DAY: i64 = 24 * 3600 * 1000;

    #[test]
    fn what_was_seen_to_begin_grows_older_by_the_steady_clock() {
        let (mut ages, start) = (Ages::new(), Duration::from_secs(7));
        // Older than we are: as old as it says, and never less than nothing.
        assert_eq!(ages.age_ms(&"old", 1_000, 61_000, start), 60_000);
        assert_eq!(ages.age_ms(&"of tomorrow", DAY, 61_000, start), 0);
        ages.keep(|_| true);
        // Seen to begin: a moment ago, or just now where the clocks make no sense.
        assert_eq!(ages.age_ms(&"new", 61_000, 61_020, start), 20);
        assert_eq!(ages.age_ms(&"of yesterday", 61_000 - DAY, 61_020, start), 0);
        let later = start + Duration::from_secs(10);
        // Whatever the wall clock does.
        for now_ms in [71_000, 71_000 + DAY, 71_000 - DAY] {
            assert_eq!(ages.age_ms(&"old", 1_000, now_ms, later), 70_000, "{now_ms}");
            assert_eq!(ages.age_ms(&"new", 61_000, now_ms, later), 10_000, "{now_ms}");
            assert_eq!(ages.age_ms(&"of yesterday", 61_000 - DAY, now_ms, later), 10_000, "{now_ms}");
            assert_eq!(ages.age_ms(&"of tomorrow", DAY, now_ms, later), 10_000, "{now_ms}");
        }
        // Begun anew it is new.
        assert_eq!(ages.age_ms(&"new", 80_000, 71_000, later), 0);
        ages.keep(|key| *key != "new");
        assert_eq!(ages.seen.len(), 3);
    }
}
