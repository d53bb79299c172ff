//! Our own routes as octets: path attributes and NLRI (RFC 7432, 8365, 9136), and the checks without which they must not
//! be sent: some peers end the whole session over one bad attribute.

use std::net::IpAddr;

use causeway_proto::{Mac, Vni};

use crate::route::{Attributes, Esi, Route, RouteDistinguisher, RouteKey};

/// Type 2 octets of an AS number that does not fit them (RFC 6793 §4.2.3).
const AS_TRANS: u16 = 23456;
/// Encapsulation community: VXLAN.
const VXLAN: [u8; 8] = [0x03, 0x0c, 0, 0, 0, 0, 0, 8];
/// Default gateway community.
const DEFAULT_GATEWAY: [u8; 8] = [0x03, 0x0d, 0, 0, 0, 0, 0, 0];

/// Attribute flags (RFC 4271 §4.3).
const WELL_KNOWN: u8 = 0x40;
const OPTIONAL: u8 = 0x80;
const TRANSITIVE: u8 = 0x40;
const EXTENDED: u8 = 0x10;

/// What the form of an UPDATE depends on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Writing {
    /// Largest message, 4096 or 65535.
    pub(crate) limit: usize,
    /// Same AS on both sides: LOCAL_PREF and an empty AS path.
    pub(crate) ibgp: bool,
    /// Our AS number.
    pub(crate) own_as: u32,
    /// Both sides use four-octet AS numbers.
    pub(crate) four_octet_as: bool,
}

/// Why a route cannot be announced; `Ok` if it can.
pub(crate) fn check(route: &Route) -> Result<(), &'static str> {
    let attributes = &*route.attributes;
    if attributes.route_targets.is_empty() {
        return Err("it has no route target");
    }
    check_next_hop(attributes.next_hop)?;
    if attributes.router_mac.is_some_and(|mac| !mac.is_unicast() || mac.is_zero()) {
        return Err("the router MAC is no unicast address");
    }
    if attributes.pmsi.is_some() != matches!(route.key, RouteKey::Imet { .. }) {
        return Err("a PMSI tunnel belongs to type 3, and only there");
    }
    match route.key {
        RouteKey::EthernetAd { .. } | RouteKey::EthernetSegment { .. } => {
            Err("types 1 and 4 are not originated here")
        }
        RouteKey::MacIp { mac, ip, .. } => check_mac_ip(mac, ip, attributes),
        RouteKey::Imet { originator, .. } if originator.is_unspecified() => {
            Err("the originator is the unspecified address")
        }
        RouteKey::Imet { .. } => Ok(()),
        RouteKey::IpPrefix { prefix, .. } => check_prefix(prefix.is_ipv4(), attributes),
    }
}

fn check_next_hop(address: IpAddr) -> Result<(), &'static str> {
    let bad = match address {
        IpAddr::V4(v4) => v4.is_unspecified() || v4.is_loopback() || v4.is_multicast() || v4.is_broadcast(),
        IpAddr::V6(v6) => {
            v6.is_unspecified() || v6.is_loopback() || v6.is_multicast() || v6.is_unicast_link_local()
        }
    };
    if bad { Err("the next hop is no unicast address of a host") } else { Ok(()) }
}

fn check_mac_ip(mac: Mac, ip: Option<IpAddr>, attributes: &Attributes) -> Result<(), &'static str> {
    if !mac.is_unicast() || mac.is_zero() {
        return Err("the MAC is no unicast address");
    }
    if ip.is_some_and(|ip| ip.is_unspecified() || ip.is_multicast()) {
        return Err("the IP address is not one of a host");
    }
    if attributes.vni.is_none() {
        return Err("a type 2 needs a VNI");
    }
    if ip.is_none() && (attributes.l3_vni.is_some() || attributes.router_mac.is_some()) {
        // Some switches take the whole route for a routed one (RFC 9135 §4.1 is for MAC+IP only).
        return Err("a MAC-only type 2 carries neither an L3 VNI nor a router MAC");
    }
    if attributes.gateway.is_some() {
        return Err("a gateway belongs to type 5");
    }
    Ok(())
}

fn check_prefix(ipv4: bool, attributes: &Attributes) -> Result<(), &'static str> {
    if attributes.gateway.is_some_and(|gateway| gateway.is_ipv4() != ipv4) {
        return Err("the gateway is of another family than the prefix");
    }
    if attributes.gateway.is_some() && attributes.esi != Esi::default() {
        return Err("ESI and gateway exclude each other (RFC 9136 §3.2)");
    }
    if attributes.vni.is_none() && attributes.gateway.is_none() {
        return Err("a type 5 needs an L3 VNI or a gateway (RFC 9136 §3.2)");
    }
    Ok(())
}

/// Appends all path attributes but the MP ones, in order of their type.
pub(crate) fn path_attributes(attributes: &Attributes, writing: &Writing, out: &mut Vec<u8>) {
    mandatory_attributes(writing, out);
    let mut communities = Vec::with_capacity(8 * (attributes.route_targets.len() + 4));
    for target in &attributes.route_targets {
        communities.extend(target.0);
    }
    communities.extend(VXLAN);
    if attributes.sequence > 0 || attributes.sticky {
        communities.extend([0x06, 0x00, u8::from(attributes.sticky), 0]);
        communities.extend(attributes.sequence.to_be_bytes());
    }
    if let Some(mac) = attributes.router_mac {
        communities.extend([0x06, 0x03]);
        communities.extend(mac.octets());
    }
    if attributes.default_gateway {
        communities.extend(DEFAULT_GATEWAY);
    }
    attribute(OPTIONAL | TRANSITIVE, 16, &communities, out);
    as4_path(writing, out);
    if let Some(pmsi) = attributes.pmsi {
        let mut value = vec![0, 6];
        label(Some(pmsi.vni), &mut value);
        address(pmsi.tunnel, &mut value);
        attribute(OPTIONAL | TRANSITIVE, 22, &value, out);
    }
}

/// Appends what a membership carries beside the MP attribute: nothing that every route would not have.
pub(crate) fn membership_attributes(writing: &Writing, out: &mut Vec<u8>) {
    mandatory_attributes(writing, out);
    as4_path(writing, out);
}

fn mandatory_attributes(writing: &Writing, out: &mut Vec<u8>) {
    out.extend([WELL_KNOWN, 1, 1, 0]); // ORIGIN: IGP
    as_path(writing, out);
    if writing.ibgp {
        out.extend([WELL_KNOWN, 5, 4, 0, 0, 0, 100]); // LOCAL_PREF
    }
}

fn as4_path(writing: &Writing, out: &mut Vec<u8>) {
    if !writing.ibgp && !writing.four_octet_as && writing.own_as > u32::from(u16::MAX) {
        let [a, b, c, d] = writing.own_as.to_be_bytes();
        attribute(OPTIONAL | TRANSITIVE, 17, &[2, 1, a, b, c, d], out); // AS4_PATH
    }
}

fn as_path(writing: &Writing, out: &mut Vec<u8>) {
    if writing.ibgp {
        out.extend([WELL_KNOWN, 2, 0]);
    } else if writing.four_octet_as {
        out.extend([WELL_KNOWN, 2, 6, 2, 1]);
        out.extend(writing.own_as.to_be_bytes());
    } else {
        out.extend([WELL_KNOWN, 2, 4, 2, 1]);
        out.extend(u16::try_from(writing.own_as).unwrap_or(AS_TRANS).to_be_bytes());
    }
}

/// Appends an attribute; a long one gets the two-octet length.
pub(crate) fn attribute(flags: u8, kind: u8, value: &[u8], out: &mut Vec<u8>) {
    attribute_header(flags, kind, value.len(), out);
    out.extend_from_slice(value);
}

/// Appends flags, type and length. `length` is at most 65535: messages are no longer.
pub(crate) fn attribute_header(flags: u8, kind: u8, length: usize, out: &mut Vec<u8>) {
    match u8::try_from(length) {
        Ok(short) => out.extend([flags, kind, short]),
        Err(_) => {
            out.extend([flags | EXTENDED, kind]);
            out.extend(u16::try_from(length).unwrap_or(u16::MAX).to_be_bytes());
        }
    }
}

/// Appends the NLRI of a route. Without attributes: for a withdrawal, where only the key counts.
pub(crate) fn nlri(key: &RouteKey, attributes: Option<&Attributes>, out: &mut Vec<u8>) {
    let start = out.len();
    out.extend([key.route_type(), 0]);
    let RouteDistinguisher(rd) = key.rd();
    out.extend(rd);
    let vni = attributes.and_then(|a| a.vni);
    let esi = attributes.map_or(Esi::default(), |a| a.esi);
    match *key {
        RouteKey::EthernetAd { esi, etag, .. } => {
            out.extend(esi.0);
            out.extend(etag.to_be_bytes());
            label(vni, out);
        }
        RouteKey::MacIp { etag, mac, ip, .. } => {
            out.extend(esi.0);
            out.extend(etag.to_be_bytes());
            out.push(48);
            out.extend(mac.octets());
            match ip {
                None => out.push(0),
                Some(ip) => sized_address(ip, out),
            }
            label(vni, out);
            if let Some(l3_vni) = attributes.and_then(|a| a.l3_vni) {
                label(Some(l3_vni), out);
            }
        }
        RouteKey::Imet { etag, originator, .. } => {
            out.extend(etag.to_be_bytes());
            sized_address(originator, out);
        }
        RouteKey::EthernetSegment { esi, originator, .. } => {
            out.extend(esi.0);
            sized_address(originator, out);
        }
        RouteKey::IpPrefix { etag, prefix, .. } => {
            out.extend(esi.0);
            out.extend(etag.to_be_bytes());
            out.push(prefix.length());
            address(prefix.network(), out);
            match attributes.and_then(|a| a.gateway) {
                Some(gateway) => address(gateway, out),
                None => out.resize(out.len() + if prefix.is_ipv4() { 4 } else { 16 }, 0),
            }
            label(vni, out);
        }
    }
    // At most 58 octets: the longest is a type 5 with IPv6.
    out[start + 1] = u8::try_from(out.len() - start - 2).unwrap_or(u8::MAX);
}

/// A VNI takes all 24 bits of a label (RFC 8365 §5.1.3).
fn label(vni: Option<Vni>, out: &mut Vec<u8>) {
    let [_, a, b, c] = vni.map_or(0, Vni::get).to_be_bytes();
    out.extend([a, b, c]);
}

fn sized_address(ip: IpAddr, out: &mut Vec<u8>) {
    out.push(if ip.is_ipv4() { 32 } else { 128 });
    address(ip, out);
}

/// Appends the 4 or 16 octets of an address.
pub(crate) fn address(ip: IpAddr, out: &mut Vec<u8>) {
    match ip {
        IpAddr::V4(v4) => out.extend(v4.octets()),
        IpAddr::V6(v6) => out.extend(v6.octets()),
    }
}
