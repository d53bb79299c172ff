//! Choosing addresses and MACs: pure functions of a snapshot.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

/// An address as a number, in the order of addresses of its family.
pub fn number(address: IpAddr) -> u128 {
    match address {
        IpAddr::V4(v4) => u128::from(v4.to_bits()),
        IpAddr::V6(v6) => v6.to_bits(),
    }
}

/// The address of a number; one that is no IPv4 address is `None` for IPv4.
pub fn address(number: u128, ipv4: bool) -> Option<IpAddr> {
    if ipv4 {
        u32::try_from(number).ok().map(|bits| Ipv4Addr::from_bits(bits).into())
    } else {
        Some(Ipv6Addr::from_bits(number).into())
    }
}
