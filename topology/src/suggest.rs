//! "Did you mean".

/// The candidate nearest to `word`, if one is near enough to be a slip of the fingers.
pub(crate) fn nearest<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    // A long word is no slip of anything here, and the distance is quadratic.
    if word.chars().count() > 64 {
        return None;
    }
    let allowed = 1 + word.chars().count() / 4;
    let word = word.to_lowercase();
    // Of equals the one that begins like the word: `bind` is `binds` rather than `kind`.
    candidates
        .into_iter()
        .map(|c| (2 * distance(&word, c) + usize::from(c.chars().next() != word.chars().next()), c))
        .filter(|(d, _)| *d / 2 <= allowed)
        .min_by_key(|(d, _)| *d)
        .map(|(_, c)| c)
}

/// `; did you mean 'x'?` or nothing.
pub(crate) fn did_you_mean<'a>(word: &str, candidates: impl IntoIterator<Item = &'a str>) -> String {
    nearest(word, candidates).map_or_else(String::new, |c| format!("; did you mean '{c}'?"))
}

/// Edits (insert, delete, replace, swap of neighbours) between two words.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for (i, ca) in a.iter().enumerate() {
        let mut row = vec![i + 1; b.len() + 1];
        for (j, cb) in b.iter().enumerate() {
            let replaced = last[j] + usize::from(ca != cb);
            row[j + 1] = replaced.min(last[j + 1] + 1).min(row[j] + 1);
            if i > 0 && j > 0 && *ca == b[j - 1] && a[i - 1] == *cb {
                row[j + 1] = row[j + 1].min(before[j - 1] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_are_found_and_strangers_are_not() {
        let keys = ["image", "kind", "labels", "exec", "binds"];
        for (word, want) in [
            ("imgae", Some("image")),
            ("Kind", Some("kind")),
            ("label", Some("labels")),
            ("bind", Some("binds")),
            ("colour", None),
            ("", None),
        ] {
            assert_eq!(nearest(word, keys), want, "{word}");
        }
    }
}
