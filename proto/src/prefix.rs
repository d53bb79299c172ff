//! IP prefixes and address ranges.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use ipnetwork::IpNetwork;
use serde::{Deserialize, Serialize};

/// Why a text is not a prefix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PrefixError {
    /// Not CIDR notation.
    #[error("'{0}' is not a prefix (for example 10.8.0.0/20 or fd00:8::/64)")]
    Syntax(String),
    /// Bits set behind the prefix length.
    #[error("'{0}' has host bits; the prefix is {1}")]
    HostBits(String, Prefix),
}

/// Why a text is not a range of addresses.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum RangeError {
    /// Neither address, range nor prefix.
    #[error("'{0}' is not an address, a range FIRST-LAST or a prefix")]
    Syntax(String),
    /// The last address is lower than the first, or of another family.
    #[error("range '{0}' ends before it begins or mixes families")]
    Order(String),
}

/// An IPv4 or IPv6 prefix without host bits.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Prefix(IpNetwork);

/// Consecutive addresses of one family, both ends included. Text form: `FIRST-LAST`, one address, or a prefix.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct AddressRange {
    first: IpAddr,
    last: IpAddr,
}

impl Prefix {
    /// The prefix of this length that contains `address`; `None` if the length does not fit the family.
    pub fn containing(address: IpAddr, length: u8) -> Option<Self> {
        let net = IpNetwork::new(address, length).ok()?;
        IpNetwork::new(net.network(), length).ok().map(Prefix)
    }

    /// /32 or /128 of one address.
    pub fn host(address: IpAddr) -> Self {
        Prefix(IpNetwork::from(address))
    }

    /// First address.
    pub fn network(self) -> IpAddr {
        self.0.network()
    }

    /// Last address; for IPv4 the broadcast address.
    pub fn last(self) -> IpAddr {
        self.0.broadcast()
    }

    /// Length in bits.
    pub fn length(self) -> u8 {
        self.0.prefix()
    }

    /// True for IPv4.
    pub fn is_ipv4(self) -> bool {
        self.0.is_ipv4()
    }

    /// True if the address lies inside.
    pub fn contains(self, address: IpAddr) -> bool {
        self.0.contains(address)
    }

    /// True if the two share an address.
    pub fn overlaps(self, other: Prefix) -> bool {
        self.contains(other.network()) || other.contains(self.network())
    }

    /// All its addresses.
    pub fn range(self) -> AddressRange {
        AddressRange { first: self.network(), last: self.last() }
    }
}

impl AddressRange {
    /// From `first` to `last`; `None` if `last` is lower or of the other family.
    pub fn new(first: IpAddr, last: IpAddr) -> Option<Self> {
        (first.is_ipv4() == last.is_ipv4() && first <= last).then_some(AddressRange { first, last })
    }

    /// First address.
    pub fn first(self) -> IpAddr {
        self.first
    }

    /// Last address.
    pub fn last(self) -> IpAddr {
        self.last
    }

    /// True if the address lies inside.
    pub fn contains(self, address: IpAddr) -> bool {
        address.is_ipv4() == self.first.is_ipv4() && (self.first..=self.last).contains(&address)
    }
}

impl FromStr for Prefix {
    type Err = PrefixError;

    fn from_str(text: &str) -> Result<Self, PrefixError> {
        let syntax = || PrefixError::Syntax(text.chars().take(60).collect());
        let (address, length) = text.split_once('/').ok_or_else(syntax)?;
        let address: IpAddr = address.parse().map_err(|_| syntax())?;
        // `u8::from_str` reads "+8": only digits are a prefix length.
        let length = length.bytes().all(|b| b.is_ascii_digit()).then_some(length).ok_or_else(syntax)?;
        let prefix = Prefix::containing(address, length.parse().map_err(|_| syntax())?).ok_or_else(syntax)?;
        if prefix.network() == address {
            Ok(prefix)
        } else {
            Err(PrefixError::HostBits(text.chars().take(60).collect(), prefix))
        }
    }
}

impl FromStr for AddressRange {
    type Err = RangeError;

    fn from_str(text: &str) -> Result<Self, RangeError> {
        let short = || text.chars().take(90).collect::<String>();
        let address = |t: &str| t.trim().parse::<IpAddr>().map_err(|_| RangeError::Syntax(short()));
        if let Some((first, last)) = text.split_once('-') {
            return AddressRange::new(address(first)?, address(last)?)
                .ok_or_else(|| RangeError::Order(short()));
        }
        if text.contains('/') {
            return text.parse::<Prefix>().map(Prefix::range).map_err(|_| RangeError::Syntax(short()));
        }
        let one = address(text)?;
        Ok(AddressRange { first: one, last: one })
    }
}

impl fmt::Display for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Debug for Prefix {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.first == self.last { self.first.fmt(f) } else { write!(f, "{}-{}", self.first, self.last) }
    }
}

impl fmt::Debug for AddressRange {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl TryFrom<String> for Prefix {
    type Error = PrefixError;

    fn try_from(text: String) -> Result<Self, PrefixError> {
        text.parse()
    }
}

impl From<Prefix> for String {
    fn from(prefix: Prefix) -> String {
        prefix.to_string()
    }
}

impl TryFrom<String> for AddressRange {
    type Error = RangeError;

    fn try_from(text: String) -> Result<Self, RangeError> {
        text.parse()
    }
}

impl From<AddressRange> for String {
    fn from(range: AddressRange) -> String {
        range.to_string()
    }
}

impl From<Ipv4Addr> for Prefix {
    fn from(address: Ipv4Addr) -> Self {
        Prefix::host(address.into())
    }
}

impl From<Ipv6Addr> for Prefix {
    fn from(address: Ipv6Addr) -> Self {
        Prefix::host(address.into())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn host_bits_are_refused_with_the_right_prefix() {
        let error = "10.8.0.5/20".parse::<Prefix>().unwrap_err();
        assert_eq!(error.to_string(), "'10.8.0.5/20' has host bits; the prefix is 10.8.0.0/20");
    }

    #[test]
    fn bad_prefixes_are_refused() {
        for text in [
            "",
            "10.0.0.0",
            "10.0.0.0/33",
            "10.0.0.0/+8",
            "::/129",
            "10.0/8",
            "10.0.0.0/255.0.0.0",
            "10.0.0.0/",
        ] {
            assert!(text.parse::<Prefix>().is_err(), "{text}");
        }
    }

    #[test]
    fn ranges_are_read_in_three_forms() {
        for (text, first, last) in [
            ("10.0.0.5-10.0.0.9", "10.0.0.5", "10.0.0.9"),
            ("10.0.0.5", "10.0.0.5", "10.0.0.5"),
            ("10.0.0.4/30", "10.0.0.4", "10.0.0.7"),
        ] {
            let range: AddressRange = text.parse().unwrap();
            assert_eq!((range.first().to_string(), range.last().to_string()), (first.into(), last.into()));
        }
        assert!(matches!("10.0.0.9-10.0.0.5".parse::<AddressRange>(), Err(RangeError::Order(_))));
        assert!(matches!("10.0.0.9-::1".parse::<AddressRange>(), Err(RangeError::Order(_))));
        assert!(matches!("ten".parse::<AddressRange>(), Err(RangeError::Syntax(_))));
    }

    #[test]
    fn overlap_is_symmetric_and_by_family() {
        let p = |t: &str| t.parse::<Prefix>().unwrap();
        assert!(p("10.0.0.0/8").overlaps(p("10.8.0.0/16")) && p("10.8.0.0/16").overlaps(p("10.0.0.0/8")));
        assert!(!p("10.0.0.0/9").overlaps(p("10.128.0.0/9")));
        assert!(!p("0.0.0.0/0").overlaps(p("::/0")));
    }

    proptest! {
        #[test]
        fn prefixes_round_trip(bits: u128, v4: bool, length in 0u8..=128) {
            let address: IpAddr = if v4 { Ipv4Addr::from(bits as u32).into() } else { Ipv6Addr::from(bits).into() };
            let prefix = Prefix::containing(address, if v4 { length % 33 } else { length }).unwrap();
            prop_assert_eq!(prefix.to_string().parse(), Ok(prefix));
            prop_assert!(prefix.contains(address));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,60}") {
            let _ = (text.parse::<Prefix>(), text.parse::<AddressRange>());
        }
    }
}
