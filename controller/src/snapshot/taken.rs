//! Which addresses of a subnet are taken, as runs of consecutive ones: the search for a free address steps over whole
//! runs, so that its cost does not grow with the pool.

use std::sync::Arc;

use imbl::OrdMap;

/// A set of numbers, kept as maximal runs. Clones share their content.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Runs {
    /// First to last number of each run; between two runs is at least one number.
    runs: OrdMap<u128, u128>,
}

impl Runs {
    /// The run that contains `n`.
    fn around(&self, n: u128) -> Option<(u128, u128)> {
        let (&first, &last) = self.runs.get_prev(&n)?;
        (n <= last).then_some((first, last))
    }

    /// True if `n` is in the set.
    pub fn contains(&self, n: u128) -> bool {
        self.around(n).is_some()
    }

    /// Adds `n`; false if it was there.
    pub fn insert(&mut self, n: u128) -> bool {
        if self.contains(n) {
            return false;
        }
        let before = n.checked_sub(1).and_then(|below| self.around(below));
        let after = n.checked_add(1).and_then(|above| self.runs.get(&above).copied());
        let first = before.map_or(n, |(first, _)| first);
        if after.is_some() {
            self.runs.remove(&(n + 1));
        }
        self.runs.insert(first, after.unwrap_or(n));
        true
    }

    /// Removes `n`; false if it was not there.
    pub fn remove(&mut self, n: u128) -> bool {
        let Some((first, last)) = self.around(n) else { return false };
        if first == n {
            self.runs.remove(&first);
        } else {
            self.runs.insert(first, n - 1);
        }
        if n < last {
            self.runs.insert(n + 1, last);
        }
        true
    }

    /// The lowest number in `from..=last` that is not in the set.
    pub fn first_absent(&self, from: u128, last: u128) -> Option<u128> {
        let free = match self.around(from) {
            None => from,
            Some((_, end)) => end.checked_add(1)?,
        };
        (free <= last).then_some(free)
    }

    /// How many runs there are.
    pub fn len(&self) -> usize {
        self.runs.len()
    }

    /// True if the set is empty.
    pub fn is_empty(&self) -> bool {
        self.runs.is_empty()
    }
}

/// The taken addresses of one subnet.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    runs: Runs,
    total: u64,
    released: u64,
    /// From where addresses are chosen: [`crate::alloc::choosable`] of the subnet.
    choosable: Arc<[(u128, u128)]>,
}

impl Taken {
    /// The runs of taken addresses, as numbers.
    pub fn runs(&self) -> &Runs {
        &self.runs
    }

    /// How many addresses are taken.
    pub fn total(&self) -> u64 {
        self.total
    }

    /// How many of them are held by released ports.
    pub fn released(&self) -> u64 {
        self.released
    }

    /// From where addresses are chosen, as numbers.
    pub fn choosable(&self) -> &[(u128, u128)] {
        &self.choosable
    }

    pub(crate) fn set_choosable(&mut self, pieces: Vec<(u128, u128)>) {
        self.choosable = pieces.into();
    }

    pub(crate) fn insert(&mut self, address: u128, released: bool) {
        if self.runs.insert(address) {
            self.total += 1;
            self.released += u64::from(released);
        }
    }

    pub(crate) fn remove(&mut self, address: u128, released: bool) {
        if self.runs.remove(address) {
            self.total = self.total.saturating_sub(1);
            self.released = self.released.saturating_sub(u64::from(released));
        }
    }
}

#[cfg(test)]
mod tests {
    use std::collections::BTreeSet;

    use proptest::prelude::*;

    use super::*;

    fn model_runs(set: &BTreeSet<u128>) -> Runs {
        let mut runs: Vec<(u128, u128)> = Vec::new();
        for &n in set {
            match runs.last_mut() {
                Some((_, last)) if last.checked_add(1) == Some(n) => *last = n,
                _ => runs.push((n, n)),
            }
        }
        Runs { runs: runs.into_iter().collect() }
    }

    proptest! {
        #[test]
        fn runs_are_as_a_set_of_numbers(ops in prop::collection::vec((any::<bool>(), 0u128..40, any::<bool>()), 0..200)) {
            let (mut runs, mut set) = (Runs::default(), BTreeSet::new());
            for (add, n, high) in ops {
                let n = if high { u128::MAX - n } else { n };
                if add {
                    prop_assert_eq!(runs.insert(n), set.insert(n));
                } else {
                    prop_assert_eq!(runs.remove(n), set.remove(&n));
                }
                prop_assert_eq!(&runs, &model_runs(&set));
            }
            for from in 0..45 {
                prop_assert_eq!(runs.first_absent(from, 42), (from..=42).find(|n| !set.contains(n)));
                prop_assert_eq!(runs.contains(from), set.contains(&from));
            }
            let high = u128::MAX - 39;
            prop_assert_eq!(runs.first_absent(high, u128::MAX), (high..=u128::MAX).find(|n| !set.contains(n)));
        }
    }
}
