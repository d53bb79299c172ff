//! "Did you mean …?"

/// Similarity (Jaro-Winkler, 0 to 1) from which a word is worth suggesting.
const ENOUGH: f64 = 0.8;

/// The word of `known` that `given` most probably stands for.
pub(crate) fn nearest<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let plain = |text: &str| text.to_lowercase().replace(['-', '_', ' '], "");
    let wanted = plain(given);
    let rated = known.into_iter().map(|word| (strsim::jaro_winkler(&wanted, &plain(word)), word));
    rated.filter(|(score, _)| *score >= ENOUGH).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, word)| word)
}

/// "; did you mean 'X'?" or nothing.
pub(crate) fn did_you_mean<'a>(given: &str, known: impl IntoIterator<Item = &'a str>) -> String {
    nearest(given, known).map(|word| format!("; did you mean '{word}'?")).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_and_other_spellings_are_recognised() {
        let known = ["vni", "vlan", "export_targets", "import_targets", "name"];
        for (given, want) in [
            ("vnni", Some("vni")),
            ("VLAN", Some("vlan")),
            ("exportTargets", Some("export_targets")),
            ("import-targets", Some("import_targets")),
            ("nmae", Some("name")),
            ("colour", None),
        ] {
            assert_eq!(nearest(given, known), want, "{given}");
        }
    }
}
