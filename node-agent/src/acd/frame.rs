//! Questions whether somebody has an address, and what says that somebody does.

use std::net::{IpAddr, Ipv6Addr};

use causeway_proto::Mac;
use socket2::SockFilter;

use crate::probe::frame::{checksum, pseudo_header};

/// An Ethernet frame without its checksum has at least so many bytes.
const SHORTEST: usize = 60;

/// Somebody says that an address is his.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Claim {
    pub(super) address: IpAddr,
    pub(super) mac: Mac,
}

/// Who asks in IPv6.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Asker {
    /// Nobody, as RFC 4862 §5.4.2 has it; the answer goes to all.
    Nobody,
    /// The link-local address that follows from the MAC (RFC 4291 §2.5.1), to which alone the answer goes.
    LinkLocal,
}

/// The question: an ARP probe (RFC 5227 §2.1.1) or a neighbour solicitation. The former, and the latter by nobody, leave
/// no trace with who hears them. `vlan`: with an 802.1Q tag.
pub(super) fn question(from: Mac, address: IpAddr, vlan: Option<u16>, asker: Asker) -> Vec<u8> {
    let mut frame = match address {
        IpAddr::V4(address) => {
            let mut frame = vec![0xff; 6];
            frame.extend(from.octets());
            frame.extend([0x08, 0x06, 0, 1, 0x08, 0, 6, 4, 0, 1]);
            frame.extend(from.octets());
            frame.extend([0; 10]);
            frame.extend(address.octets());
            frame
        }
        IpAddr::V6(address) => solicitation(from, address, asker),
    };
    if let Some(id) = vlan {
        let [high, low] = id.to_be_bytes();
        frame.splice(12..12, [0x81, 0x00, high, low]);
    }
    frame.resize(frame.len().max(SHORTEST), 0);
    frame
}

/// RFC 4861 §4.3, to the solicited-node multicast address (RFC 4291 §2.7.1), hop limit 255.
fn solicitation(from: Mac, address: Ipv6Addr, asker: Asker) -> Vec<u8> {
    let [.., a, b, c] = address.octets();
    let to = Ipv6Addr::new(0xff02, 0, 0, 0, 0, 1, 0xff00 | u16::from(a), u16::from_be_bytes([b, c]));
    let mut icmp = vec![135, 0, 0, 0, 0, 0, 0, 0];
    icmp.extend(address.octets());
    let source = match asker {
        Asker::Nobody => Ipv6Addr::UNSPECIFIED,
        Asker::LinkLocal => {
            // Source link-layer address, which goes with a source only.
            icmp.extend([1, 1]);
            icmp.extend(from.octets());
            link_local(from)
        }
    };
    let sum = checksum(pseudo_header(source, to, icmp.len()), &icmp);
    icmp[2..4].copy_from_slice(&sum.to_be_bytes());
    let mut frame = vec![0x33, 0x33, 0xff, a, b, c];
    frame.extend(from.octets());
    frame.extend([0x86, 0xdd, 0x60, 0, 0, 0]);
    frame.extend((icmp.len() as u16).to_be_bytes());
    frame.extend([58, 255]);
    frame.extend(source.octets());
    frame.extend(to.octets());
    frame.extend(icmp);
    frame
}

fn link_local(mac: Mac) -> Ipv6Addr {
    let [a, b, c, d, e, f] = mac.octets();
    Ipv6Addr::from([0xfe, 0x80, 0, 0, 0, 0, 0, 0, a ^ 2, b, c, 0xff, 0xfe, d, e, f])
}

/// Who says what: any ARP packet names its sender's address (RFC 5227 §2.1.1), a neighbour advertisement its target
/// (RFC 4861 §4.4). Anything else, and anything malformed, says nothing.
pub(super) fn claim(frame: &[u8]) -> Option<Claim> {
    match array(frame, 12)? {
        [0x08, 0x06] => {
            let is_ethernet = array(frame, 14)? == [0, 1, 0x08, 0, 6, 4];
            let address: [u8; 4] = array(frame, 28)?;
            let claim = Claim { address: IpAddr::from(address), mac: Mac::new(array(frame, 22)?) };
            (is_ethernet && address != [0; 4]).then_some(claim)
        }
        [0x86, 0xdd] => {
            // Next header, and a hop limit that no router has touched.
            let is_local = array(frame, 20)? == [58, 255] && array(frame, 54)? == [136, 0];
            let address: [u8; 16] = array(frame, 62)?;
            // Target link-layer address; without it, who sent the frame.
            let mac = match array(frame, 78) {
                Some([2, 1]) => array(frame, 80)?,
                _ => array(frame, 6)?,
            };
            is_local.then_some(Claim { address: IpAddr::from(address), mac: Mac::new(mac) })
        }
        _ => None,
    }
}

fn array<const N: usize>(bytes: &[u8], at: usize) -> Option<[u8; N]> {
    bytes.get(at..at.checked_add(N)?)?.try_into().ok()
}

/// Classic BPF that lets only ARP and neighbour advertisements through, of a VLAN or of none. The kernel takes a frame's
/// tag aside before a socket sees it, so that the rest looks the same with and without.
pub(super) fn filter(vlan: Option<u16>) -> Vec<SockFilter> {
    program(vlan).into_iter().map(|(code, jt, jf, k)| SockFilter::new(code, jt, jf, k)).collect()
}

/// Code, jumps if true and if false, operand.
type Line = (u16, u8, u8, u32);

fn program(vlan: Option<u16>) -> Vec<Line> {
    const LOAD_WORD: u16 = 0x20;
    const LOAD_HALF: u16 = 0x28;
    const LOAD_BYTE: u16 = 0x30;
    const AND: u16 = 0x54;
    const EQUAL: u16 = 0x15;
    const RETURN: u16 = 0x06;
    // SKF_AD_OFF, and what lies beyond it (linux/filter.h).
    const ASIDE: u32 = 0xffff_f000;
    const TAG: u32 = ASIDE + 44;
    const IS_TAGGED: u32 = ASIDE + 48;
    let load = |code, at| (code, 0, 0, at);
    let test = |value, then, otherwise| (EQUAL, then, otherwise, value);
    let mut program = match vlan {
        None => vec![load(LOAD_WORD, IS_TAGGED), test(0, 0, 8)],
        Some(id) => vec![
            load(LOAD_WORD, IS_TAGGED),
            test(0, 11, 0),
            load(LOAD_WORD, TAG),
            load(AND, 0x0fff),
            test(id.into(), 0, 8),
        ],
    };
    // Jumps count from the next line; the last two lines are accept and drop.
    program.extend([
        load(LOAD_HALF, 12),
        test(0x0806, 5, 0),
        test(0x86dd, 0, 5),
        load(LOAD_BYTE, 20),
        test(58, 0, 3),
        load(LOAD_BYTE, 54),
        test(136, 0, 1),
        load(RETURN, u32::MAX),
        load(RETURN, 0),
    ]);
    program
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const NODE: Mac = Mac::new([10, 0, 0, 0, 0, 1]);
    const OTHER: Mac = Mac::new([2, 0x11, 0x22, 0x33, 0x44, 0x55]);

    #[test]
    fn a_question_claims_nothing_and_its_answer_names_who_answers() {
        let v4: IpAddr = "10.8.0.5".parse().unwrap();
        let asked = question(NODE, v4, None, Asker::Nobody);
        assert_eq!((asked.len(), claim(&asked)), (60, None), "a probe has no sender address");
        // What an owner answers: operation 2, addresses swapped.
        let mut reply = asked.clone();
        reply[21] = 2;
        reply[22..28].copy_from_slice(&OTHER.octets());
        reply[28..32].copy_from_slice(&[10, 8, 0, 5]);
        assert_eq!(claim(&reply), Some(Claim { address: v4, mac: OTHER }));
        let v6: IpAddr = "fd00:8::1:2345".parse().unwrap();
        let asked = question(NODE, v6, None, Asker::Nobody);
        assert_eq!(asked[..6], [0x33, 0x33, 0xff, 0x01, 0x23, 0x45]);
        assert_eq!(claim(&asked), None);
        let advertised = &crate::announce::frames(OTHER, v6)[0];
        assert_eq!(claim(advertised), Some(Claim { address: v6, mac: OTHER }));
        let mut routed = advertised.clone();
        routed[21] = 254;
        assert_eq!(claim(&routed), None, "it came through a router");
        let tagged = question(NODE, v4, Some(110), Asker::Nobody);
        assert_eq!(tagged[12..16], [0x81, 0, 0, 110]);
    }

    #[test]
    fn a_solicitation_sums_up() {
        let address: Ipv6Addr = "fd00:8::1:2345".parse().unwrap();
        let to: Ipv6Addr = "ff02::1:ff01:2345".parse().unwrap();
        let own: Ipv6Addr = "fe80::800:ff:fe00:1".parse().unwrap();
        for (asker, source, length) in
            [(Asker::Nobody, Ipv6Addr::UNSPECIFIED, 24), (Asker::LinkLocal, own, 32)]
        {
            let frame = solicitation(NODE, address, asker);
            assert_eq!((&frame[22..38], &frame[38..54]), (&source.octets()[..], &to.octets()[..]));
            assert_eq!(checksum(pseudo_header(source, to, length), &frame[54..]), 0);
        }
    }

    /// What the filter says of a frame, by the rules of classic BPF.
    fn passes(program: &[Line], frame: &[u8], vlan: Option<u16>) -> bool {
        let (mut at, mut a) = (0_usize, 0_u32);
        loop {
            let (code, jt, jf, k) = program[at];
            at += 1;
            match (code, k) {
                (0x20, 0xffff_f030) => a = vlan.is_some().into(),
                (0x20, 0xffff_f02c) => a = vlan.unwrap_or(0).into(),
                (0x28, k) => a = u16::from_be_bytes(array(frame, k as usize).unwrap()).into(),
                (0x30, k) => a = frame[k as usize].into(),
                (0x54, k) => a &= k,
                (0x15, k) => at += usize::from(if a == k { jt } else { jf }),
                (0x06, k) => return k > 0,
                other => panic!("{other:?}"),
            }
        }
    }

    #[test]
    fn the_filter_passes_what_may_be_a_claim_on_its_own_vlan() {
        let arp = question(NODE, "10.8.0.5".parse().unwrap(), None, Asker::Nobody);
        let v6: IpAddr = "fd00::5".parse().unwrap();
        let advertised = crate::announce::frames(OTHER, v6).remove(0);
        let asked = question(NODE, v6, None, Asker::LinkLocal);
        let mut tcp = advertised.clone();
        tcp[20] = 6;
        let mut ip = arp.clone();
        ip[12..14].copy_from_slice(&[0x08, 0x00]);
        let cases = [(&arp, true), (&advertised, true), (&asked, false), (&tcp, false), (&ip, false)];
        for wanted in [None, Some(110)] {
            for vlan in [None, Some(110), Some(111)] {
                for (n, (frame, claims)) in cases.iter().enumerate() {
                    let passed = passes(&program(wanted), frame, vlan);
                    assert_eq!(passed, *claims && vlan == wanted, "frame {n}, {vlan:?} for {wanted:?}");
                }
            }
        }
    }

    proptest! {
        #[test]
        fn any_frame_is_survived(bytes in prop::collection::vec(any::<u8>(), 0..120)) {
            let _ = claim(&bytes);
        }
    }
}
