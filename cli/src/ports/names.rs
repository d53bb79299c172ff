//! Keys, name patterns and labels as people type them.

use causeway_proto::{Name, NameError, PortKey, PortName, v1};

use crate::failure::{Exit, Failure};

/// A key, or a usage error.
pub(crate) fn key(text: &str) -> Result<PortKey, Failure> {
    text.parse().map_err(|e| {
        Failure::new(Exit::Usage, format!("'{text}' is not the key of a port: {e}"))
            .hint("write NETWORK/NAME or VRF/NETWORK/NAME")
    })
}

/// The name alone, of a port whose network is chosen by labels.
pub(crate) fn name(text: &str, vrf: &str) -> Result<v1::PortKey, Failure> {
    let wrong = |what: &str, text: &str, e: NameError| {
        Failure::new(Exit::Usage, format!("'{text}' is not the name of a {what}: {e}"))
    };
    let vrf: Name = vrf.parse().map_err(|e| wrong("VRF", vrf, e))?;
    let name: PortName = text.parse().map_err(|e| wrong("port", text, e))?;
    Ok(v1::PortKey { vrf: vrf.to_string(), network: String::new(), name: name.to_string() })
}

/// "KEY=VALUE".
pub(crate) fn label(text: &str) -> Result<(String, String), String> {
    match text.split_once('=') {
        Some((key, value)) if !key.is_empty() => Ok((key.to_owned(), value.to_owned())),
        _ => Err("not of the form KEY=VALUE".to_owned()),
    }
}

/// A text with one place for a number: `db-{}` or, with leading zeros, `db-{:03}`. Without a place the number is appended
/// after a dash.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Pattern {
    before: String,
    width: usize,
    after: String,
}

impl Pattern {
    pub(crate) fn new(text: &str) -> Result<Self, Failure> {
        let bad = || {
            Failure::new(Exit::Usage, format!("'{text}' is not a name pattern"))
                .hint("write {} where the number goes, or {:03} for three digits, once")
        };
        let Some((before, rest)) = text.split_once('{') else {
            let before = if text.contains('}') { return Err(bad()) } else { format!("{text}-") };
            return Ok(Pattern { before, width: 0, after: String::new() });
        };
        let (inner, after) = rest.split_once('}').ok_or_else(bad)?;
        if after.contains(['{', '}']) {
            return Err(bad());
        }
        let width = match inner.strip_prefix(":0") {
            Some(width) => width.parse().ok().filter(|w| (1..=9).contains(w)).ok_or_else(bad)?,
            None if inner.is_empty() => 0,
            None => return Err(bad()),
        };
        Ok(Pattern { before: before.to_owned(), width, after: after.to_owned() })
    }

    /// The text with the number.
    pub(crate) fn with(&self, number: u32) -> String {
        format!("{}{number:0width$}{}", self.before, self.after, width = self.width)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn patterns_place_the_number() {
        for (pattern, want) in [("db-{}", "db-7"), ("db-{:03}-x", "db-007-x"), ("db", "db-7")] {
            assert_eq!(Pattern::new(pattern).unwrap().with(7), want);
        }
        for bad in ["{", "}", "{}{}", "{:3}", "{:0}", "{:099}", "{x}", "a}b{"] {
            assert_eq!(Pattern::new(bad).unwrap_err().exit, Exit::Usage, "{bad}");
        }
    }

    proptest! {
        #[test]
        fn any_pattern_is_answered(text in "[a{}:0-9é]{0,12}") {
            let _ = Pattern::new(&text).map(|p| p.with(1));
        }

        #[test]
        fn numbers_give_different_names(pattern in "[a-z]{0,3}(\\{(:0[1-9])?\\})?[a-z]{0,3}", a: u32, b: u32) {
            let pattern = Pattern::new(&pattern).unwrap();
            prop_assert_eq!(a == b, pattern.with(a) == pattern.with(b));
        }
    }
}
