//! EVPN routes in our own terms (RFC 7432, 8365, 9136), independent of any codec.

use std::fmt;
use std::net::{IpAddr, Ipv4Addr};
use std::str::FromStr;
use std::sync::Arc;

use causeway_proto::{Mac, Prefix, Vni};

/// Why a text is not a route distinguisher or route target.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not of the form {1}")]
pub struct RouteTextError(String, &'static str);

/// Route distinguisher, eight bytes as on the wire (RFC 4364 §4.2). Ours are type 1: `ROUTER-ID:NUMBER`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteDistinguisher(pub [u8; 8]);

/// Route target, the eight bytes of the extended community (RFC 4360 §4). Text form `ASN:NUMBER`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct RouteTarget(pub [u8; 8]);

/// Ethernet segment identifier (RFC 7432 §5); all zero: single-homed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Esi(pub [u8; 10]);

/// Identity of a route: what a later announcement replaces and a withdrawal names. Neither labels nor ESI belong to it
/// (RFC 7432 §7.2), but for types 1 and 4, where the ESI does.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum RouteKey {
    /// Type 1. Parsed and kept, never originated.
    EthernetAd { rd: RouteDistinguisher, esi: Esi, etag: u32 },
    /// Type 2, with or without an address.
    MacIp { rd: RouteDistinguisher, etag: u32, mac: Mac, ip: Option<IpAddr> },
    /// Type 3: the VTEP takes part in the segment's flooding.
    Imet { rd: RouteDistinguisher, etag: u32, originator: IpAddr },
    /// Type 4. Parsed and kept, never originated.
    EthernetSegment { rd: RouteDistinguisher, esi: Esi, originator: IpAddr },
    /// Type 5.
    IpPrefix { rd: RouteDistinguisher, etag: u32, prefix: Prefix },
}

/// PMSI tunnel (RFC 6514 §5); ours are always ingress replication.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Pmsi {
    /// The segment's VNI.
    pub vni: Vni,
    /// Where flooded frames are sent.
    pub tunnel: IpAddr,
}

/// Everything about a route but its identity. Routes of one network and VTEP share one value.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Attributes {
    /// The VTEP that must get the frame; never rewritten.
    pub next_hop: IpAddr,
    /// First label as a VNI; `None` for label 0 (types 1 and 4, withdrawals).
    pub vni: Option<Vni>,
    /// Second label: the L3 VNI of symmetric IRB (RFC 9135); type 2 with an address only.
    pub l3_vni: Option<Vni>,
    /// Route targets, ordered, at least one.
    pub route_targets: Vec<RouteTarget>,
    /// MAC mobility sequence (RFC 7432 §7.7); 0 is the same as absent.
    pub sequence: u32,
    /// MAC mobility sticky flag.
    pub sticky: bool,
    /// Router MAC (RFC 9135 §8.1); never with a MAC-only type 2.
    pub router_mac: Option<Mac>,
    /// Default gateway community (RFC 7432 §7.8).
    pub default_gateway: bool,
    /// PMSI tunnel, type 3 only.
    pub pmsi: Option<Pmsi>,
    /// Ethernet segment; zero unless multihomed.
    pub esi: Esi,
    /// Gateway address of a type 5 (RFC 9136 §3.2); `None` in the interface-less model, which is ours.
    pub gateway: Option<IpAddr>,
}

/// A route.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Route {
    /// Its identity.
    pub key: RouteKey,
    /// The rest, shared between routes that agree in it.
    pub attributes: Arc<Attributes>,
}

/// A change of the routes one side announces.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RouteChange {
    /// New, or replaces the one with the same key.
    Announce(Route),
    /// No longer there.
    Withdraw(RouteKey),
}

impl RouteKey {
    /// EVPN route type, 1 to 5.
    pub fn route_type(&self) -> u8 {
        match self {
            RouteKey::EthernetAd { .. } => 1,
            RouteKey::MacIp { .. } => 2,
            RouteKey::Imet { .. } => 3,
            RouteKey::EthernetSegment { .. } => 4,
            RouteKey::IpPrefix { .. } => 5,
        }
    }

    /// Its route distinguisher.
    pub fn rd(&self) -> RouteDistinguisher {
        match *self {
            RouteKey::EthernetAd { rd, .. }
            | RouteKey::MacIp { rd, .. }
            | RouteKey::Imet { rd, .. }
            | RouteKey::EthernetSegment { rd, .. }
            | RouteKey::IpPrefix { rd, .. } => rd,
        }
    }
}

impl RouteDistinguisher {
    /// Type 1: an IPv4 address and a number (RFC 7432 §7.9).
    pub fn new(router_id: Ipv4Addr, number: u16) -> Self {
        let [a, b, c, d] = router_id.octets();
        let [x, y] = number.to_be_bytes();
        RouteDistinguisher([0, 1, a, b, c, d, x, y])
    }
}

impl RouteTarget {
    /// The target `asn:number`: type 0x0002 for a 2-octet AS, else 0x0202 (RFC 5668), whose number has 16 bits only;
    /// `None` if it does not fit.
    pub fn new(asn: u32, number: u32) -> Option<Self> {
        let mut bytes = [0; 8];
        if let Ok(short) = u16::try_from(asn) {
            bytes[..2].copy_from_slice(&[0x00, 0x02]);
            bytes[2..4].copy_from_slice(&short.to_be_bytes());
            bytes[4..].copy_from_slice(&number.to_be_bytes());
        } else {
            bytes[..2].copy_from_slice(&[0x02, 0x02]);
            bytes[2..6].copy_from_slice(&asn.to_be_bytes());
            bytes[6..].copy_from_slice(&u16::try_from(number).ok()?.to_be_bytes());
        }
        Some(RouteTarget(bytes))
    }
}

impl FromStr for RouteTarget {
    type Err = RouteTextError;

    fn from_str(text: &str) -> Result<Self, RouteTextError> {
        let parse = || {
            let (asn, number) = text.split_once(':')?;
            let digits =
                |t: &str| t.bytes().all(|b| b.is_ascii_digit()).then(|| t.parse::<u32>().ok()).flatten();
            RouteTarget::new(digits(asn)?, digits(number)?)
        };
        let form = "ASN:NUMBER (the number has 32 bits with a 2-byte AS, else 16)";
        parse().ok_or_else(|| RouteTextError(text.chars().take(40).collect(), form))
    }
}

impl fmt::Display for RouteDistinguisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [t0, t1, a, b, c, d, x, y] = self.0;
        match (t0, t1) {
            (0, 0) => write!(f, "{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, x, y])),
            (0, 1) => write!(f, "{}:{}", Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([x, y])),
            (0, 2) => write!(f, "{}:{}", u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([x, y])),
            _ => write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

impl fmt::Display for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [t0, _, a, b, c, d, x, y] = self.0;
        match t0 & 0x3f {
            0 => write!(f, "{}:{}", u16::from_be_bytes([a, b]), u32::from_be_bytes([c, d, x, y])),
            1 => write!(f, "{}:{}", Ipv4Addr::new(a, b, c, d), u16::from_be_bytes([x, y])),
            2 => write!(f, "{}:{}", u32::from_be_bytes([a, b, c, d]), u16::from_be_bytes([x, y])),
            _ => write!(f, "0x{:016x}", u64::from_be_bytes(self.0)),
        }
    }
}

impl fmt::Debug for RouteDistinguisher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Debug for RouteTarget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl fmt::Display for Esi {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for (i, byte) in self.0.iter().enumerate() {
            write!(f, "{}{byte:02x}", if i == 0 { "" } else { ":" })?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn texts_are_as_frr_shows_them() {
        assert_eq!(
            RouteDistinguisher::new(Ipv4Addr::new(10, 99, 0, 100), 110).to_string(),
            "10.99.0.100:110"
        );
        assert_eq!("65000:110".parse::<RouteTarget>().unwrap().0, [0, 2, 0xfd, 0xe8, 0, 0, 0, 110]);
        assert_eq!("4200000000:110".parse::<RouteTarget>().unwrap().to_string(), "4200000000:110");
    }

    #[test]
    fn bad_targets_are_refused() {
        for text in ["", "65000", "65000:", "x:1", "4200000000:65536", "65000:4294967296", "-1:1", "1:+1"] {
            assert!(text.parse::<RouteTarget>().is_err(), "{text}");
        }
    }
}
