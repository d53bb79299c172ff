//! Names of records and keys made of them.

use std::cmp::Ordering;
use std::fmt;
use std::str::FromStr;
use std::sync::Arc;

use serde::{Deserialize, Serialize};

/// The VRF that always exists.
const DEFAULT_VRF: &str = "default";

/// Why a text is not a name or key.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum NameError {
    /// Nothing given.
    #[error("is empty")]
    Empty,
    /// Longer than allowed.
    #[error("is longer than {0} bytes")]
    TooLong(usize),
    /// A character that is not allowed, or not at the start.
    #[error("has '{0}' at position {1}; allowed are {2}, and a letter or digit first")]
    Character(char, usize, &'static str),
    /// A key with too few or too many parts.
    #[error("'{0}' is not of the form {1}")]
    Form(String, &'static str),
}

/// Name of a VRF, network or node: 1 to 63 of a-z, 0-9, '-', '.', '_', starting with a letter or digit. Cheap to clone,
/// and one word in size: few names are in many keys.
#[derive(Clone, PartialEq, Eq, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Name(Arc<Box<str>>);

/// Name of a port: 1 to 253 of letters, digits and `-._:/`, starting with a letter or digit. Cheap to clone.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortName(Arc<str>);

/// Identity of a network. Text form `VRF/NETWORK`; `NETWORK` alone is in the VRF `default`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct NetworkKey {
    /// The VRF.
    pub vrf: Name,
    /// The network's name in it.
    pub network: Name,
}

/// Identity of a port and owner of its addresses. Text form `VRF/NETWORK/NAME`; `NETWORK/NAME` is in `default`. As a
/// port's name may itself contain `/`, text with two or more slashes is always read as `VRF/NETWORK/NAME`.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct PortKey {
    /// The network.
    pub network: NetworkKey,
    /// The port's name in it.
    pub name: PortName,
}

fn check(
    text: &str,
    limit: usize,
    allowed: impl Fn(u8) -> bool,
    words: &'static str,
) -> Result<(), NameError> {
    if text.is_empty() {
        return Err(NameError::Empty);
    }
    if text.len() > limit {
        return Err(NameError::TooLong(limit));
    }
    for (at, c) in text.char_indices() {
        let fine = u8::try_from(c).is_ok_and(|b| allowed(b) && (at > 0 || b.is_ascii_alphanumeric()));
        if !fine {
            return Err(NameError::Character(c, at, words));
        }
    }
    Ok(())
}

impl Name {
    /// The VRF `default`, which always exists.
    pub fn default_vrf() -> Self {
        Name(Arc::new(DEFAULT_VRF.into()))
    }

    /// The lowest of all names in their order: where a search in an ordered map begins.
    pub fn lowest() -> Self {
        Name(Arc::new("0".into()))
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

/// By the text. Most names that meet are clones of one another, which is seen without reading it.
impl Ord for Name {
    fn cmp(&self, other: &Self) -> Ordering {
        if Arc::ptr_eq(&self.0, &other.0) { Ordering::Equal } else { self.0.cmp(&other.0) }
    }
}

impl PartialOrd for Name {
    fn partial_cmp(&self, other: &Self) -> Option<Ordering> {
        Some(self.cmp(other))
    }
}

impl PortName {
    /// The lowest of all names in their order: where a network's ports begin in a map ordered by key.
    pub fn lowest() -> Self {
        PortName("0".into())
    }

    /// Higher than every name, and itself none: where a network's ports end in a map ordered by key.
    pub fn beyond() -> Self {
        PortName("~".into())
    }

    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for Name {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_lowercase() || b.is_ascii_digit() || b"-._".contains(&b);
        check(text, 63, allowed, "a-z, 0-9, '-', '.', '_'")?;
        Ok(Name(Arc::new(text.into())))
    }
}

impl FromStr for PortName {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let allowed = |b: u8| b.is_ascii_alphanumeric() || b"-._:/".contains(&b);
        check(text, 253, allowed, "letters, digits, '-', '.', '_', ':', '/'")?;
        Ok(PortName(text.into()))
    }
}

impl FromStr for NetworkKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        match text.split_once('/') {
            Some((vrf, network)) => Ok(NetworkKey { vrf: vrf.parse()?, network: network.parse()? }),
            None => Ok(NetworkKey { vrf: Name::default_vrf(), network: text.parse()? }),
        }
    }
}

impl FromStr for PortKey {
    type Err = NameError;

    fn from_str(text: &str) -> Result<Self, NameError> {
        let parts: Vec<&str> = text.splitn(3, '/').collect();
        let (vrf, network, name) = match parts[..] {
            [network, name] => (Name::default_vrf(), network, name),
            [vrf, network, name] => (vrf.parse()?, network, name),
            _ => {
                return Err(NameError::Form(
                    text.chars().take(80).collect(),
                    "VRF/NETWORK/NAME or NETWORK/NAME",
                ));
            }
        };
        Ok(PortKey { network: NetworkKey { vrf, network: network.parse()? }, name: name.parse()? })
    }
}

macro_rules! text_forms {
    ($($t:ty),*) => {$(
        impl fmt::Debug for $t {
            fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                fmt::Display::fmt(self, f)
            }
        }

        impl TryFrom<String> for $t {
            type Error = NameError;

            fn try_from(text: String) -> Result<Self, NameError> {
                text.parse()
            }
        }

        impl From<$t> for String {
            fn from(value: $t) -> String {
                value.to_string()
            }
        }
    )*};
}

text_forms!(Name, PortName, NetworkKey, PortKey);

impl fmt::Display for Name {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for PortName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for NetworkKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.vrf, self.network)
    }
}

impl fmt::Display for PortKey {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.network, self.name)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn short_keys_are_in_the_default_vrf() {
        assert_eq!("web/a".parse::<PortKey>().unwrap().to_string(), "default/web/a");
        assert_eq!("web".parse::<NetworkKey>().unwrap().to_string(), "default/web");
        assert_eq!("red/web/ns/pod".parse::<PortKey>().unwrap().name.as_str(), "ns/pod");
    }

    #[test]
    fn bad_names_say_where() {
        assert_eq!("".parse::<Name>(), Err(NameError::Empty));
        assert!(matches!("Web".parse::<Name>(), Err(NameError::Character('W', 0, _))));
        assert!(matches!("-web".parse::<Name>(), Err(NameError::Character('-', 0, _))));
        assert!(matches!("a b".parse::<PortName>(), Err(NameError::Character(' ', 1, _))));
        assert!(matches!("é".parse::<Name>(), Err(NameError::Character('é', 0, _))));
        assert_eq!("a".repeat(64).parse::<Name>(), Err(NameError::TooLong(63)));
        assert!("web".parse::<PortKey>().is_err());
    }

    proptest! {
        #[test]
        fn keys_round_trip(vrf in "[a-z0-9][a-z0-9._-]{0,20}", net in "[a-z0-9]{1,9}", name in "[A-Za-z0-9][A-Za-z0-9._:/-]{0,30}") {
            let text = format!("{vrf}/{net}/{name}");
            prop_assert_eq!(text.parse::<PortKey>().unwrap().to_string(), text);
        }

        #[test]
        fn any_text_is_answered(text in ".{0,80}") {
            let _ = text.parse::<PortKey>();
        }
    }
}
