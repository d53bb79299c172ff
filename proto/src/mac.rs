//! MAC addresses and how they are derived from IP addresses.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};
use std::str::FromStr;

use serde::{Deserialize, Serialize};

/// A 48-bit MAC address. Text form: lower-case hexadecimal with colons; dashes and dots (`0200.0a00.0001`) are read too.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct Mac([u8; 6]);

/// Why a text is not a MAC address.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a MAC address (six bytes, for example 02:ca:0a:08:00:05)")]
pub struct MacError(String);

/// First two bytes of a MAC derived from an IPv4 address: locally administered, unicast.
const IPV4_PREFIX: [u8; 2] = [0x02, 0xca];
/// First byte of a MAC derived from an IPv6 address: locally administered, unicast, never equal to [`IPV4_PREFIX`].
const IPV6_PREFIX: u8 = 0x06;

impl Mac {
    /// The MAC with these bytes.
    pub const fn new(bytes: [u8; 6]) -> Self {
        Mac(bytes)
    }

    /// Its six bytes in wire order.
    pub const fn octets(self) -> [u8; 6] {
        self.0
    }

    /// `02:ca` and the 32 bits of the address: injective, so two addresses never share a MAC.
    pub const fn from_ipv4(address: Ipv4Addr) -> Self {
        let [a, b, c, d] = address.octets();
        Mac([IPV4_PREFIX[0], IPV4_PREFIX[1], a, b, c, d])
    }

    /// `06` and 40 bits of FNV-1a over the 16 bytes of the address and `attempt`. Not injective: a collision inside a
    /// network is answered by the next `attempt`, which is recorded with the port.
    pub fn from_ipv6(address: Ipv6Addr, attempt: u32) -> Self {
        let bytes = address.octets().into_iter().chain(attempt.to_be_bytes());
        let hash =
            bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
        let [.., a, b, c, d, e] = (hash ^ (hash >> 40)).to_be_bytes();
        Mac([IPV6_PREFIX, a, b, c, d, e])
    }

    /// [`Mac::from_ipv4`] or [`Mac::from_ipv6`].
    pub fn from_ip(address: IpAddr, attempt: u32) -> Self {
        match address {
            IpAddr::V4(v4) => Mac::from_ipv4(v4),
            IpAddr::V6(v6) => Mac::from_ipv6(v6, attempt),
        }
    }

    /// True for group addresses (IEEE 802, bit 0 of the first byte), broadcast included.
    pub const fn is_multicast(self) -> bool {
        self.0[0] & 1 != 0
    }

    /// True for 00:00:00:00:00:00.
    pub fn is_zero(self) -> bool {
        self.0 == [0; 6]
    }

    /// True for an address that one interface may have: neither group nor zero.
    pub fn is_unicast(self) -> bool {
        !self.is_multicast() && !self.is_zero()
    }
}

impl fmt::Display for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [a, b, c, d, e, g] = self.0;
        write!(f, "{a:02x}:{b:02x}:{c:02x}:{d:02x}:{e:02x}:{g:02x}")
    }
}

impl fmt::Debug for Mac {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Mac {
    type Err = MacError;

    fn from_str(text: &str) -> Result<Self, MacError> {
        let bad = || MacError(text.chars().take(40).collect());
        let group = match text.len() {
            17 => 2,
            14 => 4,
            _ => return Err(bad()),
        };
        let mut digits = Vec::with_capacity(12);
        for (i, c) in text.bytes().enumerate() {
            let separator = i % (group + 1) == group;
            match (separator, c) {
                (true, b':' | b'-') if group == 2 => {}
                (true, b'.') if group == 4 => {}
                (false, c) => digits.push(char::from(c).to_digit(16).ok_or_else(bad)? as u8),
                _ => return Err(bad()),
            }
        }
        let mut bytes = [0; 6];
        for (byte, pair) in bytes.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = pair[0] << 4 | pair[1];
        }
        Ok(Mac(bytes))
    }
}

impl TryFrom<String> for Mac {
    type Error = MacError;

    fn try_from(text: String) -> Result<Self, MacError> {
        text.parse()
    }
}

impl From<Mac> for String {
    fn from(mac: Mac) -> String {
        mac.to_string()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    #[test]
    fn derived_from_ipv4_is_prefix_and_address() {
        assert_eq!(Mac::from_ipv4(Ipv4Addr::new(10, 8, 0, 5)).to_string(), "02:ca:0a:08:00:05");
    }

    #[test]
    fn derived_macs_are_local_unicast() {
        for mac in [Mac::from_ipv4(Ipv4Addr::BROADCAST), Mac::from_ipv6(Ipv6Addr::LOCALHOST, 7)] {
            assert!(mac.is_unicast() && mac.octets()[0] & 2 == 2, "{mac}");
        }
    }

    #[test]
    fn ipv6_attempts_differ() {
        let macs: std::collections::BTreeSet<_> =
            (0..1000).map(|n| Mac::from_ipv6(Ipv6Addr::LOCALHOST, n)).collect();
        assert_eq!(macs.len(), 1000);
    }

    #[test]
    fn other_spellings_are_read() {
        let want = Mac::new([2, 0, 0x0a, 0, 0, 0xff]);
        for text in ["02:00:0a:00:00:ff", "02-00-0A-00-00-FF", "0200.0a00.00ff"] {
            assert_eq!(text.parse(), Ok(want), "{text}");
        }
        for text in [
            "",
            "02:00:0a:00:00",
            "02:00:0a:00:00:fg",
            "02.00.0a.00.00.ff",
            "0200:0a00:00ff",
            "02:00:0a:00:00:ff:11",
        ] {
            assert!(text.parse::<Mac>().is_err(), "{text}");
        }
    }

    proptest! {
        #[test]
        fn text_round_trips(bytes: [u8; 6]) {
            prop_assert_eq!(Mac::new(bytes).to_string().parse(), Ok(Mac::new(bytes)));
        }

        #[test]
        fn any_text_is_answered(text in ".{0,20}") {
            let _ = text.parse::<Mac>();
        }
    }
}
