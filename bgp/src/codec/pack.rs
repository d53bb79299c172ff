//! Fills UPDATEs with routes that share their attributes: one MP attribute per UPDATE, first in it (RFC 7606 §5.1), as many
//! routes as the agreed size holds. The attributes are encoded once per set, the routes are appended straight to the
//! output. Memberships (RFC 4684) go the same way.

use std::net::IpAddr;

use super::encode::{self, Writing};
use super::{CONSTRAINT_FAMILY, FAMILY, HEADER};
use crate::constraint::Membership;
use crate::route::{Attributes, RouteKey};

/// Header, length of withdrawn routes, length of path attributes.
const FIXED: usize = HEADER + 4;
/// Flags, type and two-octet length of an attribute.
const ATTRIBUTE: usize = 4;
const OPTIONAL: u8 = 0x80;
const REACH: u8 = 14;
const UNREACH: u8 = 15;

/// Messages one after the other, ready to be written.
#[derive(Debug, Default)]
pub(crate) struct Packed {
    pub(crate) octets: Vec<u8>,
    pub(crate) messages: u64,
    /// Reused between messages.
    routes: Vec<u8>,
    one: Vec<u8>,
    tail: Vec<u8>,
}

impl Packed {
    pub(crate) fn new() -> Self {
        Packed::default()
    }

    /// Appends another whole message.
    pub(crate) fn message(&mut self, octets: &[u8]) {
        self.octets.extend_from_slice(octets);
        self.messages += 1;
    }

    /// Announces routes that share `attributes`. Returns how many did not fit any message (attributes too long).
    pub(crate) fn announce<'a>(
        &mut self,
        attributes: &Attributes,
        keys: impl Iterator<Item = &'a RouteKey>,
        writing: &Writing,
    ) -> u64 {
        let mut tail = std::mem::take(&mut self.tail);
        tail.clear();
        encode::path_attributes(attributes, writing, &mut tail);
        let mut head = FAMILY.to_vec();
        next_hop(attributes.next_hop, &mut head);
        let form = Form { kind: REACH, head: &head, tail: &tail, limit: writing.limit };
        let left = self.fill(&form, keys, |key, out| encode::nlri(key, Some(attributes), out));
        self.tail = tail;
        left
    }

    /// Withdraws routes.
    pub(crate) fn withdraw<'a>(&mut self, keys: impl Iterator<Item = &'a RouteKey>, writing: &Writing) {
        let form = Form { kind: UNREACH, head: &FAMILY, tail: &[], limit: writing.limit };
        self.fill(&form, keys, |key, out| encode::nlri(key, None, out));
    }

    /// Asks for routes. `address`: ours, which the next hop of a membership is.
    pub(crate) fn ask<'a>(
        &mut self,
        memberships: impl Iterator<Item = &'a Membership>,
        address: IpAddr,
        writing: &Writing,
    ) {
        let mut tail = Vec::new();
        encode::membership_attributes(writing, &mut tail);
        let mut head = CONSTRAINT_FAMILY.to_vec();
        next_hop(address, &mut head);
        let form = Form { kind: REACH, head: &head, tail: &tail, limit: writing.limit };
        self.fill(&form, memberships, Membership::encode);
    }

    /// Asks no longer for routes.
    pub(crate) fn ask_no_more<'a>(
        &mut self,
        memberships: impl Iterator<Item = &'a Membership>,
        writing: &Writing,
    ) {
        let form = Form { kind: UNREACH, head: &CONSTRAINT_FAMILY, tail: &[], limit: writing.limit };
        self.fill(&form, memberships, Membership::encode);
    }

    fn fill<'a, T: 'a>(
        &mut self,
        form: &Form<'_>,
        items: impl Iterator<Item = &'a T>,
        encode: impl Fn(&T, &mut Vec<u8>),
    ) -> u64 {
        let room = form.limit.saturating_sub(FIXED + ATTRIBUTE + form.head.len() + form.tail.len());
        let mut left = 0;
        for item in items {
            self.one.clear();
            encode(item, &mut self.one);
            if self.one.len() > room {
                left += 1;
                continue;
            }
            if self.routes.len() + self.one.len() > room {
                self.finish(form);
            }
            self.routes.extend_from_slice(&self.one);
        }
        if !self.routes.is_empty() {
            self.finish(form);
        }
        left
    }

    /// Writes a message with the routes collected so far.
    fn finish(&mut self, form: &Form<'_>) {
        let value = form.head.len() + self.routes.len();
        let attribute = value + if value > 255 { 4 } else { 3 };
        let attributes = attribute + form.tail.len();
        let out = &mut self.octets;
        out.extend([0xff; 16]);
        // Within 65535, as `room` keeps the whole below the limit.
        out.extend(u16::try_from(FIXED + attributes).unwrap_or(u16::MAX).to_be_bytes());
        out.extend([2, 0, 0]);
        out.extend(u16::try_from(attributes).unwrap_or(u16::MAX).to_be_bytes());
        encode::attribute_header(OPTIONAL, form.kind, value, out);
        out.extend_from_slice(form.head);
        out.extend_from_slice(&self.routes);
        out.extend_from_slice(form.tail);
        self.messages += 1;
        self.routes.clear();
    }
}

/// Appends a next hop and its length.
fn next_hop(address: IpAddr, out: &mut Vec<u8>) {
    out.push(if address.is_ipv4() { 4 } else { 16 });
    encode::address(address, out);
    out.push(0); // reserved, once the number of SNPAs
}

/// What messages of one kind have in common.
#[derive(Debug)]
struct Form<'a> {
    /// MP_REACH_NLRI or MP_UNREACH_NLRI.
    kind: u8,
    /// Its value up to the routes.
    head: &'a [u8],
    /// The attributes behind it.
    tail: &'a [u8],
    limit: usize,
}
