//! When to connect again. Pure: the randomness is passed in.

use std::time::Duration;

/// Pause after the first failure; a peer that restarts is back soon, and one that takes the first new connection for a
/// collision with its dead old one takes the second.
const FIRST: Duration = Duration::from_millis(200);
/// A session that lasted so long was a good one: start over with short pauses.
const GOOD: Duration = Duration::from_secs(5);

/// Doubling pauses up to a limit, with jitter (RFC 4271 §10).
#[derive(Debug)]
pub(crate) struct Retry {
    most: Duration,
    failures: u32,
}

impl Retry {
    /// Pauses of at most `most`.
    pub(crate) fn new(most: Duration) -> Self {
        Retry { most: most.max(FIRST), failures: 0 }
    }

    /// A session has ended that lasted so long.
    pub(crate) fn session_lasted(&mut self, time: Duration) {
        if time >= GOOD {
            self.failures = 0;
        }
    }

    /// Pause before the next attempt. `random` in 0 to 1.
    pub(crate) fn next(&mut self, random: f64) -> Duration {
        let pause = FIRST.saturating_mul(1 << self.failures.min(20)).min(self.most);
        self.failures = self.failures.saturating_add(1);
        pause.mul_f64(0.75 + 0.25 * random.clamp(0.0, 1.0))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn pauses_double_up_to_the_limit() {
        let mut retry = Retry::new(Duration::from_secs(1));
        let pauses: Vec<_> = (0..6).map(|_| retry.next(1.0).as_millis()).collect();
        assert_eq!(pauses, [200, 400, 800, 1000, 1000, 1000]);
        assert_eq!(retry.next(0.0).as_millis(), 750);
    }

    #[test]
    fn a_good_session_starts_over_and_a_short_one_does_not() {
        let mut retry = Retry::new(Duration::from_secs(10));
        for _ in 0..40 {
            retry.next(1.0);
        }
        retry.session_lasted(Duration::from_secs(1));
        assert_eq!(retry.next(1.0), Duration::from_secs(10));
        retry.session_lasted(Duration::from_secs(60));
        assert_eq!(retry.next(1.0), FIRST);
    }
}
