//! Routes and octets for tests.

use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Mac, Vni};

use crate::codec::encode::Writing;
use crate::codec::{self, Fault, Message, Reading, update::Update};
use crate::route::{Attributes, Esi, Pmsi, Route, RouteDistinguisher, RouteKey, RouteTarget};

pub(crate) fn vni(number: u32) -> Vni {
    Vni::try_from(number).unwrap()
}

pub(crate) fn attributes() -> Attributes {
    Attributes {
        next_hop: IpAddr::from([10, 98, 0, 1]),
        vni: Some(vni(110)),
        l3_vni: None,
        route_targets: vec!["65000:110".parse::<RouteTarget>().unwrap()],
        sequence: 0,
        sticky: false,
        router_mac: None,
        default_gateway: false,
        pmsi: None,
        esi: Esi::default(),
        gateway: None,
    }
}

pub(crate) fn rd() -> RouteDistinguisher {
    RouteDistinguisher::new([10, 99, 0, 100].into(), 110)
}

pub(crate) fn mac_only(mac: [u8; 6]) -> RouteKey {
    RouteKey::MacIp { rd: rd(), etag: 0, mac: Mac::new(mac), ip: None }
}

pub(crate) fn key(host: u32) -> RouteKey {
    let [a, b, c, d] = host.to_be_bytes();
    let ip = IpAddr::from([10 + a, b, c, d]);
    RouteKey::MacIp { rd: rd(), etag: 0, mac: Mac::new([2, 0, a, b, c, d]), ip: Some(ip) }
}

pub(crate) fn mac_ip(host: impl Into<u32>) -> Route {
    Route { key: key(host.into()), attributes: Arc::new(attributes()) }
}

pub(crate) fn imet(vtep: IpAddr) -> Route {
    let pmsi = Some(Pmsi { vni: vni(110), tunnel: vtep });
    let attributes = Attributes { next_hop: vtep, pmsi, vni: None, ..attributes() };
    Route { key: RouteKey::Imet { rd: rd(), etag: 0, originator: vtep }, attributes: Arc::new(attributes) }
}

/// Octets from hexadecimal; blanks and `|` are ignored, `M` is the marker.
pub(crate) fn hex(text: &str) -> Vec<u8> {
    let mut digits = String::new();
    for c in text.chars() {
        match c {
            'M' => digits.push_str(&"ff".repeat(16)),
            c if c.is_ascii_hexdigit() => digits.push(c),
            c => assert!(c.is_whitespace() || c == '|', "{c:?} in {text}"),
        }
    }
    let pair = |pair: &[u8]| u8::from_str_radix(std::str::from_utf8(pair).unwrap(), 16).unwrap();
    assert!(digits.len().is_multiple_of(2), "{text}");
    digits.as_bytes().chunks(2).map(pair).collect()
}

pub(crate) fn ibgp() -> Reading {
    Reading { limit: 4096, four_octet_as: true, ibgp: true, own_as: 65000, own_id: 0x0a63_0064 }
}

pub(crate) fn ebgp() -> Reading {
    Reading { ibgp: false, own_as: 65100, ..ibgp() }
}

pub(crate) fn writing() -> Writing {
    Writing { limit: 4096, ibgp: true, own_as: 65000, four_octet_as: true }
}

/// Messages cut out of a stream of octets.
pub(crate) fn messages(mut octets: &[u8], limit: usize) -> Vec<Vec<u8>> {
    let mut found = Vec::new();
    while !octets.is_empty() {
        let length = codec::frame(octets, limit).unwrap().unwrap();
        found.push(octets[..length].to_vec());
        octets = &octets[length..];
    }
    found
}

/// Decodes one UPDATE.
pub(crate) fn update(octets: &[u8], reading: &Reading) -> Result<Update, Fault> {
    let length = codec::frame(octets, reading.limit)?.expect("a whole header");
    assert_eq!(length, octets.len(), "one whole message");
    match codec::decode(bytes::Bytes::copy_from_slice(octets), reading)? {
        Message::Update(update) => Ok(update),
        other => panic!("{other:?}"),
    }
}

/// An UPDATE with these path attributes, and nothing else.
pub(crate) fn with_attributes(attributes: &str) -> Vec<u8> {
    let attributes = hex(attributes);
    let mut out = hex("M");
    out.extend(u16::try_from(23 + attributes.len()).unwrap().to_be_bytes());
    out.extend([2, 0, 0]);
    out.extend(u16::try_from(attributes.len()).unwrap().to_be_bytes());
    out.extend(attributes);
    out
}
