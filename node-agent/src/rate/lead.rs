//! Frames of one port taken from a link that several share: a macvlan's by its MAC, an ipvlan's by its addresses.
//!
//! A macvlan or ipvlan has no host side. What limits it stands on its parent, where the workload does not reach it:
//! filters lead its frames through a device of its own per direction.
//!
//! ```text
//!  towards the workload:  wire ──> ingress of the parent ──> ifb (cwj…, tbf) ──> workload
//!  from the workload:     workload ──> egress of the parent ──> ifb (cwk…, tbf) ──> wire
//!  to a macvlan beside:   workload ──> ingress of the parent ──> ifb (cwk…, tbf) ──> the other
//! ```
//!
//! The last holds in mode `bridge`, where the kernel passes such a frame to the parent first
//! (`macvlan_queue_xmit`). The filters are classic BPF, which every kernel has and which counts from the beginning of the
//! frame: `u32` counts from the network header, and a tag would hide the MAC from it.

use std::collections::BTreeSet;
use std::fmt;
use std::net::IpAddr;

use causeway_proto::Mac;

use super::{Direction, Found, HANDLE};
use crate::dev::Dev;
use crate::model::{Child, MacvlanMode, Port};

/// Which way frames pass a link.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Side {
    /// They come in.
    Ingress,
    /// They go out.
    Egress,
}

/// An instruction of classic BPF (`struct sock_filter`).
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub struct Instruction {
    /// What to do.
    pub code: u16,
    /// How many to skip if true.
    pub jt: u8,
    /// How many to skip if not.
    pub jf: u8,
    /// Operand.
    pub k: u32,
}

/// A filter that leads frames to the device that limits them.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Lead {
    /// At which link.
    pub link: Dev,
    /// On which side of it.
    pub side: Side,
    /// Lower ones are asked first.
    pub priority: u16,
    /// Which frames.
    pub program: Vec<Instruction>,
}

/// A device that limits frames of a port, and what leads there.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Diverted {
    /// Its token bucket.
    pub bucket: Found,
    /// What leads to it.
    pub leads: BTreeSet<Lead>,
}

/// Asked first: of two limited macvlans that speak to each other, the limit of the one that sends counts.
pub const SENDERS: u16 = HANDLE;
/// Asked after them.
pub const RECEIVERS: u16 = HANDLE + 1;

/// Load four bytes, load two, compare, end.
const LD_W: u16 = 0x20;
const LD_H: u16 = 0x28;
const JEQ: u16 = 0x15;
const RET: u16 = 0x06;
/// What a program ends with for a frame that it means, and for any other.
const YES: Instruction = Instruction { code: RET, jt: 0, jf: 0, k: u32::MAX };
const NO: Instruction = Instruction { code: RET, jt: 0, jf: 0, k: 0 };
/// Bytes of an Ethernet header.
const ETHERNET: u32 = 14;

fn load(code: u16, at: u32) -> Instruction {
    Instruction { code, jt: 0, jf: 0, k: at }
}

/// Goes on if equal, or else skips some.
fn equal(k: u32, skip: u8) -> Instruction {
    Instruction { code: JEQ, jt: 0, jf: skip, k }
}

/// Frames with this MAC at an offset.
fn with_mac(mac: Mac, at: u32) -> Vec<Instruction> {
    let [a, b, c, d, e, f] = mac.octets();
    let (high, low) = (u32::from(u16::from_be_bytes([a, b])), u32::from_be_bytes([c, d, e, f]));
    vec![load(LD_W, at + 2), equal(low, 3), load(LD_H, at), equal(high, 1), YES, NO]
}

/// Packets with one of these addresses as source or destination.
fn with_address(addresses: &BTreeSet<IpAddr>, source: bool) -> Vec<Instruction> {
    let mut program = Vec::new();
    for address in addresses {
        let (kind, at, words) = match address {
            IpAddr::V4(v4) => (0x0800, if source { 12 } else { 16 }, vec![u32::from(*v4)]),
            IpAddr::V6(v6) => {
                let octets = v6.octets();
                let words = octets.chunks_exact(4).map(|w| u32::from_be_bytes([w[0], w[1], w[2], w[3]]));
                (0x86dd, if source { 8 } else { 24 }, words.collect())
            }
        };
        // What is left of this address: two for each word, and the end.
        let mut left = 2 * words.len() as u8 + 1;
        program.extend([load(LD_H, ETHERNET - 2), equal(kind, left)]);
        for (n, word) in (0..).zip(words) {
            left -= 2;
            program.extend([load(LD_W, ETHERNET + at + 4 * n), equal(word, left)]);
        }
        program.push(YES);
    }
    program.push(NO);
    program
}

/// What leads the frames of a macvlan or ipvlan on `parent` through the device that limits them.
pub fn leads(port: &Port, child: Child, parent: &Dev, direction: Direction) -> BTreeSet<Lead> {
    let lead = |side, priority, program| Lead { link: parent.clone(), side, priority, program };
    let outwards = direction == Direction::Out;
    let what = || match child {
        Child::Macvlan(_) => with_mac(port.mac, if outwards { 6 } else { 0 }),
        Child::Ipvlan => with_address(&port.addresses.iter().map(|a| a.ip).collect(), outwards),
    };
    let beside = child == Child::Macvlan(MacvlanMode::Bridge);
    match direction {
        Direction::In => [lead(Side::Ingress, RECEIVERS, what())].into(),
        Direction::Out if beside => {
            [lead(Side::Egress, SENDERS, what()), lead(Side::Ingress, SENDERS, what())].into()
        }
        Direction::Out => [lead(Side::Egress, SENDERS, what())].into(),
    }
}

impl fmt::Display for Side {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(if *self == Side::Ingress { "ingress" } else { "egress" })
    }
}

impl fmt::Display for Lead {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Lead { link, side, priority, program } = self;
        write!(f, "tc qdisc add dev {link} clsact ; tc filter add dev {link} {side} prio {priority} ")?;
        write!(f, "protocol all bpf bytecode '{}", program.len())?;
        program.iter().try_for_each(|i| write!(f, ",{} {} {} {}", i.code, i.jt, i.jf, i.k))?;
        f.write_str("'")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// What the kernel makes of a program.
    fn means(program: &[Instruction], frame: &[u8]) -> bool {
        let (mut at, mut value) = (0, 0u32);
        loop {
            let Instruction { code, jt, jf, k } = program[at];
            let bytes = |n: usize| frame.get(k as usize..k as usize + n);
            at += 1;
            match code {
                RET => return k != 0,
                JEQ => at += usize::from(if value == k { jt } else { jf }),
                LD_W | LD_H => match bytes(if code == LD_W { 4 } else { 2 }) {
                    Some(found) => value = found.iter().fold(0, |v, b| v << 8 | u32::from(*b)),
                    // Behind the frame: the kernel ends with 0.
                    None => return false,
                },
                other => panic!("{other:#x}"),
            }
        }
    }

    fn frame(to: [u8; 6], from: [u8; 6], kind: u16, packet: &[u8]) -> Vec<u8> {
        [&to[..], &from, &kind.to_be_bytes(), packet].concat()
    }

    #[test]
    fn a_macvlan_is_told_by_its_mac() {
        let (own, other) = ([2, 0xca, 0x0a, 8, 0, 5], [2, 0xca, 0x0a, 8, 0, 6]);
        let high = [2, 0xcb, 0x0a, 8, 0, 5];
        let (to, from) = (with_mac(Mac::new(own), 0), with_mac(Mac::new(own), 6));
        for (program, frame, wanted) in [
            (&to, frame(own, other, 0x0800, &[]), true),
            (&to, frame(other, own, 0x0800, &[]), false),
            (&to, frame(high, other, 0x0800, &[]), false),
            (&from, frame(other, own, 0x8100, &[0; 50]), true),
            (&from, frame(own, other, 0x0800, &[]), false),
            (&from, vec![2, 0xca], false),
        ] {
            assert_eq!(means(program, &frame), wanted, "{frame:x?}");
        }
    }

    #[test]
    fn an_ipvlan_is_told_by_its_addresses() {
        let addresses: Vec<IpAddr> =
            ["10.8.0.5", "10.8.0.6", "fd00:8::5", "fd00:8::6"].iter().map(|a| a.parse().unwrap()).collect();
        let own: BTreeSet<IpAddr> = addresses.iter().copied().collect();
        let (from, to) = (with_address(&own, true), with_address(&own, false));
        let v4 = |source: [u8; 4], destination: [u8; 4]| {
            let packet = [&[0x45; 12][..], &source, &destination].concat();
            frame([1; 6], [2; 6], 0x0800, &packet)
        };
        let v6 = |source: &str, destination: &str| {
            let octets = |text: &str| text.parse::<std::net::Ipv6Addr>().unwrap().octets();
            let packet = [&[0x60; 8][..], &octets(source), &octets(destination)].concat();
            frame([1; 6], [2; 6], 0x86dd, &packet)
        };
        for (frame, is_from, is_to) in [
            (v4([10, 8, 0, 5], [10, 8, 0, 9]), true, false),
            (v4([10, 8, 0, 9], [10, 8, 0, 6]), false, true),
            (v4([10, 8, 0, 9], [10, 8, 0, 7]), false, false),
            (v6("fd00:8::6", "fd00:8::9"), true, false),
            (v6("fd00:8::9", "fd00:8::5"), false, true),
            (v6("fd00:8::9", "fd00:9::5"), false, false),
            (frame([1; 6], [2; 6], 0x0806, &[10, 8, 0, 5].repeat(8)), false, false),
        ] {
            assert_eq!((means(&from, &frame), means(&to, &frame)), (is_from, is_to), "{frame:x?}");
        }
        assert!(!means(&with_address(&BTreeSet::new(), true), &v4([10, 8, 0, 5], [10, 8, 0, 9])));
    }
}
