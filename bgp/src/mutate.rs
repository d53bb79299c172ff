//! Decoders and sessions fed with arbitrary octets: for the fuzz targets, the mutation run and the tests. Not part of the
//! API: it may change at any time.

use std::net::IpAddr;
use std::sync::Arc;
use std::time::Duration;

use tokio::time::Instant;

use crate::codec::encode::{self, Writing};
use crate::codec::pack::Packed;
use crate::codec::{self, Message, Notification, Reading, Refresh};
use crate::config::{PeerConfig, SpeakerConfig};
use crate::connection::Connection;
use crate::route::{Route, RouteKey};

/// What became of the messages of a run.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct Report {
    /// All.
    pub messages: u64,
    /// Read.
    pub accepted: u64,
    /// Answered with an error.
    pub refused: u64,
    /// Announced and withdrawn routes found.
    pub routes: u64,
    /// Announced routes written again and read again, with the same result.
    pub round_trips: u64,
}

/// Valid messages to start from: every type of message, every type of route.
pub const SEEDS: &[&str] = &[
    "006b0200000054800e30001946040a62000100022500010a630064006e0000000000000000000000000000300200000000552\
     00a000a3700006e4001010040020040050400000064c010100002fde80000006e030c000000000008",
    "00960200 00007f800e53001946040a62000200022100010a630064006e00000000000000000000000000003002000000005500\
     00006e022500010a630064006e000000000000000000000000000030020000000055200a000a3700006e4001010040020040050\
     400000064c010180002fde80000006e030c0000000000080600000000000001",
    "0044020000002d800f2a001946022500010a630064006e000000000000000000000000000030020000000055200a000a37000000",
    "0041020000002a900f002600194602210001 0a620001 0002000000000000000000000000000030020000000001 00 000000",
    "006302000000 4c800e1c001946040a6200010003110001 0a630064006e 00000000200a6200014001010040020040050400000064\
     c010100002fde80000006e030c000000000008c0160900060000 6e0a620001",
    "00700200000059800e2d001946040a6200010005220001 0a0000010064 00000000000000000000 00000000 20c000020a000000\
     00000fa14001010040020040050400000064c010180002fde800000fa1030c0000000000080603443839000001",
    "001d0200000006800f03001946",
    "003901 04fde800090a6300641c021a010400190046 4006403c0019460002004600060041040000fde8",
    "003903 0602 0102030405060708090a0b0c0d0e0f101112131415161718191a1b1c1d1e1f2021222324",
    "00170500190046",
    "001304",
];

/// A seed as octets, marker included.
pub fn seed(number: usize) -> Vec<u8> {
    let text = SEEDS.get(number % SEEDS.len()).copied().unwrap_or_default();
    let digits: Vec<u8> = text.bytes().filter_map(|c| char::from(c).to_digit(16)).map(|d| d as u8).collect();
    let mut octets = vec![0xff; 16];
    octets.extend(digits.chunks_exact(2).map(|pair| pair[0] << 4 | pair[1]));
    octets
}

/// Reads one message as a peer of one of eight kinds; whatever is read and could be ours is written and read again.
pub fn message(octets: &[u8], role: u8, report: &mut Report) {
    report.messages += 1;
    let reading = Reading {
        limit: if role & 1 == 0 { codec::STANDARD_LIMIT } else { codec::EXTENDED_LIMIT },
        four_octet_as: role & 2 == 0,
        ibgp: role & 4 == 0,
        own_as: 65001,
        own_id: 1,
    };
    let whole = match codec::frame(octets, reading.limit) {
        Ok(Some(length)) if length <= octets.len() => &octets[..length],
        _ => {
            report.refused += 1;
            return;
        }
    };
    match codec::decode(bytes::Bytes::copy_from_slice(whole), &reading) {
        Ok(Message::Update(update)) => {
            report.accepted += 1;
            report.routes += (update.announced.len() + update.withdrawn.len()) as u64;
            for route in update.announced.iter().filter(|route| encode::check(route).is_ok()) {
                round_trip(route, &reading);
                report.round_trips += 1;
            }
        }
        Ok(_) => report.accepted += 1,
        Err(fault) => {
            assert!(fault.notification.encode().len() <= codec::STANDARD_LIMIT);
            report.refused += 1;
        }
    }
}

/// A route that may be announced reads as it was written.
fn round_trip(route: &Route, reading: &Reading) {
    let writing = Writing {
        limit: reading.limit,
        ibgp: reading.ibgp,
        own_as: 65000,
        four_octet_as: reading.four_octet_as,
    };
    let mut packed = Packed::new();
    if packed.announce(&route.attributes, std::iter::once(&route.key), &writing) > 0 {
        return;
    }
    let read = match codec::decode(packed.octets.into(), reading) {
        Ok(Message::Update(update)) => update.announced,
        _ => Vec::new(),
    };
    assert_eq!(read, [expected(route)]);
}

/// What is not on the wire of a route's type is not read back.
fn expected(route: &Route) -> Route {
    let mut attributes = (*route.attributes).clone();
    if let RouteKey::Imet { .. } = route.key {
        attributes.vni = None;
        attributes.l3_vni = None;
    }
    Route { key: route.key, attributes: Arc::new(attributes) }
}

/// Runs a connection on a stream of octets, cut as the first two say: before the OPEN, or in an Established session.
/// Returns whether it came to an end.
pub fn session(octets: &[u8]) -> bool {
    let [how, size, stream @ ..] = octets else { return false };
    let speaker =
        SpeakerConfig { router_id: [10, 0, 0, 1].into(), asn: 65000, listen: Vec::new(), restarting: false };
    let peer = PeerConfig::new(IpAddr::from([10, 0, 0, 2]), 65000);
    let mut now = Instant::now();
    let mut connection = Connection::start(&speaker, &peer, false, now);
    if how & 1 == 1 {
        connection.buffer().extend_from_slice(&seed(7));
        connection.buffer().extend_from_slice(&codec::keepalive());
        connection.received(now);
    }
    for part in stream.chunks(usize::from(*size).max(1)) {
        connection.buffer().extend_from_slice(part);
        connection.received(now);
        connection.take_output();
        connection.take_happened();
        if how & 2 == 2 {
            now += Duration::from_secs(1);
            connection.on_time(now);
        }
    }
    connection.stop(&Notification::cease(2), "end");
    connection.deadline().is_none()
}

/// Messages with which a session can be driven in a fuzz dictionary: refreshes, End-of-RIB, KEEPALIVE.
pub fn small_messages() -> Vec<Vec<u8>> {
    let refreshes = [Refresh::Request, Refresh::Begin, Refresh::End].map(codec::refresh);
    let others = [codec::end_of_rib(), codec::keepalive()];
    refreshes.into_iter().chain(others).map(|octets| octets.to_vec()).collect()
}

/// Mutates the seeds `count` times and reads the results. The same seed makes the same run.
pub fn run(random_seed: u64, count: u64) -> Report {
    let mut random = Random(random_seed | 1);
    let seeds: Vec<Vec<u8>> = (0..SEEDS.len()).map(seed).collect();
    let mut report = Report::default();
    let mut octets = Vec::new();
    for _ in 0..count {
        octets.clear();
        octets.extend_from_slice(&seeds[random.below(seeds.len())]);
        for _ in 0..random.below(4) + 1 {
            mutate(&mut octets, &seeds, &mut random);
        }
        // Most headers are made to fit again, or nothing behind them would ever be looked at.
        if random.below(16) > 0 && octets.len() >= codec::HEADER {
            let [high, low] = u16::try_from(octets.len()).unwrap_or(u16::MAX).to_be_bytes();
            octets[16] = high;
            octets[17] = low;
            // And so is the length of an UPDATE's attributes, mostly.
            if octets.len() >= 23 && octets[18..21] == [2, 0, 0] && random.below(4) > 0 {
                let [high, low] = u16::try_from(octets.len() - 23).unwrap_or(u16::MAX).to_be_bytes();
                octets[21] = high;
                octets[22] = low;
            }
        }
        message(&octets, (random.next() & 7) as u8, &mut report);
    }
    report
}

fn mutate(octets: &mut Vec<u8>, seeds: &[Vec<u8>], random: &mut Random) {
    let at = random.below(octets.len().max(1));
    match random.below(8) {
        0 | 1 => {
            if let Some(octet) = octets.get_mut(at) {
                *octet ^= 1 << random.below(8);
            }
        }
        2 => {
            if let Some(octet) = octets.get_mut(at) {
                *octet = [0, 1, 0x7f, 0x80, 0xff][random.below(5)];
            }
        }
        3 => {
            if let Some(octet) = octets.get_mut(at) {
                *octet = octet.wrapping_add(1).wrapping_sub(2 * (random.next() & 1) as u8);
            }
        }
        4 => octets.truncate(at),
        5 => {
            let some: Vec<u8> = (0..random.below(8)).map(|_| random.next() as u8).collect();
            octets.splice(at..at, some);
        }
        6 => {
            let until = (at + random.below(8)).min(octets.len());
            octets.drain(at..until);
        }
        _ => {
            let other = &seeds[random.below(seeds.len())];
            let from = random.below(other.len());
            octets.truncate(at);
            octets.extend_from_slice(&other[from..]);
        }
    }
}

/// xorshift64*, for repeatable runs.
struct Random(u64);

impl Random {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 8
    }

    fn below(&mut self, limit: usize) -> usize {
        usize::try_from(self.next() % limit.max(1) as u64).unwrap_or(0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_seed_is_valid() {
        for number in 0..SEEDS.len() {
            let mut report = Report::default();
            let octets = seed(number);
            message(&octets, 0, &mut report);
            assert_eq!(report.accepted, 1, "seed {number}: {octets:02x?}");
        }
    }

    #[test]
    fn sessions_end_on_garbage_and_go_on_otherwise() {
        for how in 0..4 {
            assert!(session(&[&[how, 7], &[0; 64][..]].concat()));
            let mut good = vec![how, 3];
            for octets in small_messages() {
                good.extend(octets);
            }
            session(&good);
        }
    }
}
