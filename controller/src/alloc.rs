//! Choosing addresses and MACs: pure functions of what is taken. The search for a free address steps over runs of
//! taken ones, so that it costs the same in an empty and in a full pool.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_proto::{AddressRange, Mac};

use crate::model::Subnet;
use crate::snapshot::Runs;

/// How often a MAC is derived anew after a collision.
const MAC_TRIES: u32 = 64;

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

/// Why a port can never have an address of a subnet, not even when it asks for it; `None` if it can.
pub fn refusal(subnet: &Subnet, address: IpAddr) -> Option<&'static str> {
    if !subnet.prefix.contains(address) {
        Some("is outside the subnet")
    } else if subnet.gateway == Some(address) {
        Some("is the subnet's gateway")
    } else if has_network_address(subnet) && address == subnet.prefix.network() {
        Some("is the subnet's network address")
    } else if has_broadcast(subnet) && address == subnet.prefix.last() {
        Some("is the subnet's broadcast address")
    } else if subnet.exclusions.iter().any(|range| range.contains(address)) {
        Some("is excluded by the subnet")
    } else {
        None
    }
}

/// All addresses of a /31, /32, /127 or /128 may be used (RFC 3021, RFC 6164). In other IPv6 prefixes the lowest one
/// is the routers' anycast address (RFC 4291 §2.6.1).
fn has_network_address(subnet: &Subnet) -> bool {
    let bits = if subnet.prefix.is_ipv4() { 32 } else { 128 };
    subnet.prefix.length() < bits - 1
}

fn has_broadcast(subnet: &Subnet) -> bool {
    subnet.prefix.is_ipv4() && has_network_address(subnet)
}

/// From where addresses of a subnet are chosen: first and last number of each piece, ascending, apart from each other.
/// Addresses that are only given when asked for are not in it.
pub fn choosable(subnet: &Subnet) -> Vec<(u128, u128)> {
    let bounds = |range: &AddressRange| (number(range.first()), number(range.last()));
    let single = |address: IpAddr| (number(address), number(address));
    let mut blocked: Vec<(u128, u128)> =
        subnet.exclusions.iter().chain(&subnet.reservations).map(bounds).collect();
    blocked.extend(subnet.gateway.map(single));
    if has_network_address(subnet) {
        blocked.push(single(subnet.prefix.network()));
    }
    if has_broadcast(subnet) {
        blocked.push(single(subnet.prefix.last()));
    }
    let whole = bounds(&subnet.prefix.range());
    let wanted =
        if subnet.ranges.is_empty() { vec![whole] } else { subnet.ranges.iter().map(bounds).collect() };
    let blocked = merge(blocked);
    let mut pieces = Vec::new();
    for (first, last) in merge(wanted) {
        cut((first.max(whole.0), last.min(whole.1)), &blocked, &mut pieces);
    }
    pieces
}

/// Sorted and joined where they touch or overlap.
fn merge(mut pieces: Vec<(u128, u128)>) -> Vec<(u128, u128)> {
    pieces.sort_unstable();
    let mut merged: Vec<(u128, u128)> = Vec::with_capacity(pieces.len());
    for (first, last) in pieces {
        match merged.last_mut() {
            Some((_, end)) if first <= end.saturating_add(1) => *end = last.max(*end),
            _ => merged.push((first, last)),
        }
    }
    merged
}

/// What of a piece is not in `blocked`, which is merged.
fn cut((mut first, last): (u128, u128), blocked: &[(u128, u128)], into: &mut Vec<(u128, u128)>) {
    let from = blocked.partition_point(|(_, end)| *end < first);
    for &(start, end) in blocked.iter().skip(from) {
        if start > last {
            break;
        }
        if start > first {
            into.push((first, start - 1));
        }
        match end.checked_add(1) {
            Some(next) => first = next,
            None => return,
        }
    }
    if first <= last {
        into.push((first, last));
    }
}

/// How many numbers lie in pieces, at most `u64::MAX`.
pub fn size(pieces: &[(u128, u128)]) -> u64 {
    let total =
        pieces.iter().fold(0u128, |sum, (first, last)| sum.saturating_add((last - first).saturating_add(1)));
    u64::try_from(total).unwrap_or(u64::MAX)
}

/// A free number in the pieces: the lowest one, or with a `seed` the first one at or after a place that the seed
/// chooses, going round. Several choosers with different seeds so seldom choose the same.
pub fn choose(pieces: &[(u128, u128)], taken: &[&Runs], seed: Option<u64>) -> Option<u128> {
    let start = match seed {
        None => 0,
        Some(seed) => place(pieces, seed)?,
    };
    let from = pieces.partition_point(|(_, last)| *last < start);
    let (before, after) = pieces.split_at_checked(from)?;
    let search = |(first, last): (u128, u128)| first_free(first, last, taken);
    let ahead = after.iter().find_map(|&(first, last)| search((first.max(start), last)));
    let behind = || {
        // The piece in which the search began is looked at once more, from its start.
        let piece = after.first().filter(|(first, _)| *first < start).map(|&(first, _)| (first, start - 1));
        before.iter().copied().chain(piece).find_map(search)
    };
    ahead.or_else(behind)
}

/// The number that a seed chooses.
fn place(pieces: &[(u128, u128)], seed: u64) -> Option<u128> {
    let mut offset = u128::from(seed) % u128::from(size(pieces).max(1));
    for &(first, last) in pieces {
        if offset <= last - first {
            return Some(first + offset);
        }
        offset -= last - first + 1;
    }
    None
}

/// The lowest number from `from` to `last` that is in no set.
fn first_free(mut from: u128, last: u128, taken: &[&Runs]) -> Option<u128> {
    loop {
        let before = from;
        for runs in taken {
            from = runs.first_absent(from, last)?;
        }
        if from == before {
            return (from <= last).then_some(from);
        }
    }
}

/// The MAC derived from an address and how many derivations collided before it; `None` if all are taken, which for
/// IPv4 means the only one.
pub fn derive_mac(address: IpAddr, taken: impl Fn(Mac) -> bool) -> Option<(Mac, u32)> {
    let tries = if address.is_ipv4() { 1 } else { MAC_TRIES };
    (0..tries).map(|n| (Mac::from_ip(address, n), n)).find(|(mac, _)| !taken(*mac))
}

/// A seed from a text and a number: FNV-1a.
pub fn seed(text: &str, n: u32) -> u64 {
    let bytes = text.bytes().chain(n.to_be_bytes());
    let hash =
        bytes.fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3));
    // The high bits of FNV vary little over short texts.
    hash ^ (hash >> 29) ^ hash.rotate_left(32)
}

#[cfg(test)]
mod tests;
