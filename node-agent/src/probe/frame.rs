//! Frames of probes, and their answers.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr};

use causeway_proto::Mac;
use socket2::SockFilter;

/// Bytes behind the ICMP header: who asked, and which frame it was.
const PAYLOAD: usize = 16;
/// An Ethernet frame without its checksum has at least so many bytes.
const SHORTEST: usize = 60;

/// Who probes whom.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Ends {
    /// MAC that frames carry.
    pub(super) from: Mac,
    /// MAC that they go to.
    pub(super) to: Mac,
    /// The probed address.
    pub(super) target: IpAddr,
}

/// An answer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Reply {
    /// To an echo request: which one.
    Echo { from: Mac, index: u64 },
    /// To an ARP request, which cannot say which one.
    Arp { from: Mac },
}

/// ICMP echo request (RFC 792, RFC 4443). The source is of the target's family, or there is no such frame.
pub(super) fn echo(ends: Ends, source: IpAddr, token: u64, index: u64) -> Option<Vec<u8>> {
    let mut icmp = vec![0_u8; 8];
    icmp[4..6].copy_from_slice(&(token as u16).to_be_bytes());
    icmp[6..8].copy_from_slice(&(index as u16).to_be_bytes());
    icmp.extend(token.to_be_bytes());
    icmp.extend(index.to_be_bytes());
    let mut frame = Vec::with_capacity(SHORTEST + 20);
    frame.extend(ends.to.octets());
    frame.extend(ends.from.octets());
    match (source, ends.target) {
        (IpAddr::V4(source), IpAddr::V4(target)) => {
            icmp[0] = 8;
            let sum = checksum(0, &icmp);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            frame.extend([0x08, 0x00]);
            frame.extend(ipv4_header(source, target, icmp.len()));
        }
        (IpAddr::V6(source), IpAddr::V6(target)) => {
            icmp[0] = 128;
            let sum = checksum(pseudo_header(source, target, icmp.len()), &icmp);
            icmp[2..4].copy_from_slice(&sum.to_be_bytes());
            frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
            frame.extend((icmp.len() as u16).to_be_bytes());
            frame.extend([58, 64]);
            frame.extend(source.octets());
            frame.extend(target.octets());
        }
        _ => return None,
    }
    frame.extend(icmp);
    Some(padded(frame))
}

fn ipv4_header(source: Ipv4Addr, target: Ipv4Addr, payload: usize) -> [u8; 20] {
    let mut header = [0_u8; 20];
    header[0] = 0x45;
    header[2..4].copy_from_slice(&((20 + payload) as u16).to_be_bytes());
    header[6] = 0x40;
    header[8..10].copy_from_slice(&[64, 1]);
    header[12..16].copy_from_slice(&source.octets());
    header[16..20].copy_from_slice(&target.octets());
    let sum = checksum(0, &header);
    header[10..12].copy_from_slice(&sum.to_be_bytes());
    header
}

/// ARP request with sender address 0.0.0.0 (RFC 5227 §1.1), sent to one MAC. A bridge with ARP suppression answers no
/// such request itself (`br_do_proxy_suppress_arp`: `ipv4_is_zeronet(sip)`), and only keeps it from being flooded.
pub(super) fn arp(ends: Ends) -> Option<Vec<u8>> {
    let IpAddr::V4(target) = ends.target else { return None };
    let mut frame = Vec::with_capacity(SHORTEST);
    frame.extend(ends.to.octets());
    frame.extend(ends.from.octets());
    frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
    frame.extend(ends.from.octets());
    frame.extend([0; 10]);
    frame.extend(target.octets());
    Some(padded(frame))
}

fn padded(mut frame: Vec<u8>) -> Vec<u8> {
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// Reads an answer to a probe with this token. Anything else, and anything malformed, is none.
pub(super) fn parse(frame: &[u8], ends: Ends, token: u64) -> Option<Reply> {
    let from = mac(frame.get(6..12)?)?;
    let kind = u16::from_be_bytes(array(frame, 12)?);
    match (kind, ends.target) {
        (0x0806, IpAddr::V4(target)) => {
            let is_reply = array(frame, 20)? == [0, 2] && array(frame, 28)? == target.octets();
            // It answers whoever asked: the same address may exist in another network.
            let is_ours = mac(frame.get(32..38)?)? == ends.from;
            let from = mac(frame.get(22..28)?)?;
            (is_reply && is_ours).then_some(Reply::Arp { from })
        }
        (0x0800, IpAddr::V4(target)) => {
            let header = usize::from(frame.get(14)? & 0x0f) * 4;
            let is_reply = frame.get(23)? == &1 && array(frame, 26)? == target.octets();
            let index = icmp_index(frame.get(14 + header..)?, 0, token)?;
            is_reply.then_some(Reply::Echo { from, index })
        }
        (0x86dd, IpAddr::V6(target)) => {
            let is_reply = frame.get(20)? == &58 && array(frame, 22)? == target.octets();
            let index = icmp_index(frame.get(54..)?, 129, token)?;
            is_reply.then_some(Reply::Echo { from, index })
        }
        _ => None,
    }
}

fn icmp_index(icmp: &[u8], kind: u8, token: u64) -> Option<u64> {
    let is_reply = icmp.first_chunk::<2>()? == &[kind, 0];
    let payload = icmp.get(8..8 + PAYLOAD)?;
    let is_ours = u64::from_be_bytes(array(payload, 0)?) == token;
    (is_reply && is_ours).then_some(u64::from_be_bytes(array(payload, 8)?))
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

fn mac(bytes: &[u8]) -> Option<Mac> {
    array(bytes, 0).map(Mac::new)
}

/// RFC 1071, over 16-bit words, begun with the sum of a pseudo header.
pub(crate) fn checksum(begin: u32, bytes: &[u8]) -> u16 {
    let words = bytes.chunks(2).map(|c| u32::from(c[0]) << 8 | c.get(1).map_or(0, |b| u32::from(*b)));
    let mut sum = begin + words.sum::<u32>();
    while sum > 0xffff {
        sum = (sum & 0xffff) + (sum >> 16);
    }
    !(sum as u16)
}

/// RFC 8200 §8.1, not complemented.
pub(crate) fn pseudo_header(source: Ipv6Addr, target: Ipv6Addr, length: usize) -> u32 {
    let words = |ip: Ipv6Addr| ip.segments().into_iter().map(u32::from).sum::<u32>();
    words(source) + words(target) + length as u32 + 58
}

/// Classic BPF that lets only answers from the target through: the workload's other traffic must not fill the socket.
pub(super) fn filter(target: IpAddr) -> Vec<SockFilter> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const LOAD_INDEXED_BYTE: u16 = 0x50;
    const LOAD_HEADER_LENGTH: u16 = 0xb1;
    const EQUAL: u16 = 0x15;
    const ANY_BIT: u16 = 0x45;
    const RETURN: u16 = 0x06;
    let load = |code, at| SockFilter::new(code, 0, 0, at);
    let test = |code, value, then, otherwise| SockFilter::new(code, then, otherwise, value);
    let mut program = match target {
        // Jumps count from the next line; the last two lines are accept and drop.
        IpAddr::V4(ip) => vec![
            load(LOAD_HALF, 12),
            test(EQUAL, 0x0806, 0, 4),
            load(LOAD_HALF, 20),
            test(EQUAL, 2, 0, 13),
            load(LOAD_WORD, 28),
            test(EQUAL, ip.to_bits(), 10, 11),
            test(EQUAL, 0x0800, 0, 10),
            load(LOAD_BYTE, 23),
            test(EQUAL, 1, 0, 8),
            load(LOAD_WORD, 26),
            test(EQUAL, ip.to_bits(), 0, 6),
            load(LOAD_HALF, 20),
            test(ANY_BIT, 0x1fff, 4, 0),
            load(LOAD_HEADER_LENGTH, 14),
            load(LOAD_INDEXED_BYTE, 14),
            test(EQUAL, 0, 0, 1),
        ],
        IpAddr::V6(ip) => {
            let mut program = vec![
                load(LOAD_HALF, 12),
                test(EQUAL, 0x86dd, 0, 13),
                load(LOAD_BYTE, 20),
                test(EQUAL, 58, 0, 11),
            ];
            let bits = ip.to_bits();
            for word in 0..4_u8 {
                program.push(load(LOAD_WORD, 22 + 4 * u32::from(word)));
                program.push(test(EQUAL, (bits >> (96 - 32 * u32::from(word))) as u32, 0, 9 - 2 * word));
            }
            program.extend([load(LOAD_BYTE, 54), test(EQUAL, 129, 0, 1)]);
            program
        }
    };
    program.extend([load(RETURN, 0xffff), load(RETURN, 0)]);
    program
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    fn ends(target: &str) -> Ends {
        Ends {
            from: Mac::new([2, 0, 0, 0, 0, 1]),
            to: Mac::new([2, 0, 0, 0, 0, 2]),
            target: target.parse().unwrap(),
        }
    }

    /// What the owner of the target would answer.
    fn answered(mut frame: Vec<u8>, ends: Ends) -> Vec<u8> {
        frame[..6].copy_from_slice(&ends.from.octets());
        frame[6..12].copy_from_slice(&ends.to.octets());
        match frame[12..14] {
            [0x08, 0x00] => {
                let (source, target) = (frame[26..30].to_vec(), frame[30..34].to_vec());
                frame[26..30].copy_from_slice(&target);
                frame[30..34].copy_from_slice(&source);
                frame[34] = 0;
            }
            [0x86, 0xdd] => {
                let (source, target) = (frame[22..38].to_vec(), frame[38..54].to_vec());
                frame[22..38].copy_from_slice(&target);
                frame[38..54].copy_from_slice(&source);
                frame[54] = 129;
            }
            _ => {
                let target = frame[38..42].to_vec();
                frame[21] = 2;
                frame[22..28].copy_from_slice(&ends.to.octets());
                frame[28..32].copy_from_slice(&target);
                frame[32..38].copy_from_slice(&ends.from.octets());
                frame[38..42].copy_from_slice(&[0; 4]);
            }
        }
        frame
    }

    #[test]
    fn answers_are_known_again() {
        let v4 = ends("10.8.0.5");
        let v6 = ends("fd00:8::5");
        let request = echo(v4, "10.8.0.9".parse().unwrap(), 77, 70_000).unwrap();
        let reply = answered(request.clone(), v4);
        assert_eq!(parse(&reply, v4, 77), Some(Reply::Echo { from: v4.to, index: 70_000 }));
        assert_eq!(parse(&reply, v4, 78), None, "another probe's");
        assert_eq!(parse(&request, v4, 77), None, "its own request");
        assert_eq!(parse(&reply, ends("10.8.0.6"), 77), None, "another address");
        let reply = answered(echo(v6, "fd00:8::9".parse().unwrap(), 77, 3).unwrap(), v6);
        assert_eq!(parse(&reply, v6, 77), Some(Reply::Echo { from: v6.to, index: 3 }));
        let request = arp(v4).unwrap();
        assert_eq!(request.len(), 60);
        let reply = answered(request.clone(), v4);
        assert_eq!(parse(&reply, v4, 77), Some(Reply::Arp { from: v4.to }));
        assert_eq!(parse(&request, v4, 77), None);
        let other = Ends { from: Mac::new([2, 0, 0, 0, 0, 3]), ..v4 };
        assert_eq!(parse(&reply, other, 77), None, "to somebody else");
        assert!(arp(v6).is_none());
        assert!(echo(v4, "fd00::1".parse().unwrap(), 1, 1).is_none());
    }

    #[test]
    fn checksums_sum_up() {
        let frame = echo(ends("10.8.0.5"), "10.8.0.9".parse().unwrap(), u64::MAX, 9).unwrap();
        assert_eq!(checksum(0, &frame[14..34]), 0);
        assert_eq!(checksum(0, &frame[34..58]), 0);
        let (source, target) = ("fd00:8::9".parse().unwrap(), "fd00:8::5".parse().unwrap());
        let frame = echo(ends("fd00:8::5"), IpAddr::V6(source), u64::MAX, 9).unwrap();
        assert_eq!(checksum(pseudo_header(source, target, 24), &frame[54..78]), 0);
    }

    proptest! {
        #[test]
        fn any_frame_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = parse(&bytes, ends("10.8.0.5"), 1);
            let _ = parse(&bytes, ends("fd00::5"), 1);
        }
    }
}
