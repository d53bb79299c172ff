//! What the benchmarks measure beside the speaker itself. Not part of the API: it may change at any time.

use std::sync::Arc;

use crate::codec::encode::Writing;
use crate::codec::pack::Packed;
use crate::codec::{self, Message, Reading};
use crate::route::{Attributes, Route, RouteKey};

/// The UPDATEs that announce these routes to an iBGP peer, messages of at most 4096 octets, followed by End-of-RIB.
/// Neighbouring routes with equal attributes share messages.
pub fn encode(routes: &[Route], own_as: u32) -> Vec<u8> {
    let writing = Writing { limit: codec::STANDARD_LIMIT, ibgp: true, own_as, four_octet_as: true };
    let mut packed = Packed::new();
    for group in routes.chunk_by(|a, b| Arc::ptr_eq(&a.attributes, &b.attributes)) {
        let attributes: Option<&Attributes> = group.first().map(|route| &*route.attributes);
        let keys = group.iter().map(|route: &Route| -> &RouteKey { &route.key });
        if let Some(attributes) = attributes {
            packed.announce(attributes, keys, &writing);
        }
    }
    packed.message(&codec::end_of_rib());
    packed.octets
}

/// Reads such octets; how many routes they announce. `None`: something in them could not be read.
pub fn decode(octets: &[u8]) -> Option<usize> {
    let reading =
        Reading { limit: codec::STANDARD_LIMIT, four_octet_as: true, ibgp: true, own_as: 0, own_id: 0 };
    let mut octets = bytes::Bytes::copy_from_slice(octets);
    let mut routes = 0;
    while !octets.is_empty() {
        let length = codec::frame(&octets, reading.limit).ok()??;
        if length > octets.len() {
            return None;
        }
        match codec::decode(octets.split_to(length), &reading).ok()? {
            Message::Update(update) => routes += update.announced.len(),
            _ => return None,
        }
    }
    Some(routes)
}
