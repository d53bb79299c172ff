//! The boundary to the codec crate: nothing outside this module names `rustbgpd_wire`. In go bytes of one message, out
//! come our own types; and back. Pure: no sockets, no clock.
//!
//! What the crate is used for: OPEN with its capabilities, NOTIFICATION, and taking UPDATEs apart under RFC 7606.
//! What is our own: framing with the length limits of each message type, and [`pack`], which fills UPDATEs with many
//! routes that share their attributes (the crate refuses what is too long, it does not split).

pub(crate) mod encode;
pub(crate) mod pack;
pub(crate) mod update;

use bytes::{BufMut, Bytes, BytesMut};
use rustbgpd_wire as wire;
use wire::{Afi, Capability, Safi};

/// Address family of EVPN: AFI 25, SAFI 70.
const FAMILY: [u8; 3] = [0x00, 0x19, 0x46];
/// Address family of route target constraint: AFI 1, SAFI 132 (RFC 4684 §4).
const CONSTRAINT_FAMILY: [u8; 3] = [0x00, 0x01, 0x84];
/// The same in the codec's terms.
pub(crate) const CONSTRAINT: (Afi, Safi) = (Afi::Ipv4, Safi::RtConstrain);
/// Octets of a message header.
pub(crate) const HEADER: usize = 19;
/// Largest message without RFC 8654.
pub(crate) const STANDARD_LIMIT: usize = 4096;
/// Largest message with RFC 8654.
pub(crate) const EXTENDED_LIMIT: usize = 65535;

/// The address family of our routes, in the codec's terms.
#[derive(Debug)]
pub(crate) struct Family;

impl Family {
    pub(crate) const AFI: Afi = Afi::L2Vpn;
    pub(crate) const SAFI: Safi = Safi::Evpn;
}

/// A NOTIFICATION (RFC 4271 §4.5).
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Notification {
    pub(crate) code: u8,
    pub(crate) subcode: u8,
    pub(crate) data: Vec<u8>,
}

/// A message that cannot be accepted: what to answer, and why in words.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{text}")]
pub(crate) struct Fault {
    pub(crate) notification: Notification,
    pub(crate) text: String,
}

/// A peer's OPEN, in the codec's form; only the state machine looks inside.
#[derive(Debug, Clone)]
pub(crate) struct Open(pub(crate) wire::OpenMessage);

/// Third octet of a ROUTE-REFRESH for our family (RFC 7313 §3.2).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Refresh {
    /// The peer wants our routes again.
    Request,
    /// What follows is a refresh.
    Begin,
    /// The refresh is complete.
    End,
}

/// A message taken apart.
#[derive(Debug)]
pub(crate) enum Message {
    Open(Open),
    Update(update::Update),
    Notification(Notification),
    Keepalive,
    /// For our family; `None`: another family or an unknown subtype, to be ignored (RFC 7313 §5).
    Refresh(Option<Refresh>),
}

/// What the reading of a message depends on.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Reading {
    /// Largest message accepted, 4096 or 65535.
    pub(crate) limit: usize,
    /// Both sides use four-octet AS numbers.
    pub(crate) four_octet_as: bool,
    /// Same AS on both sides.
    pub(crate) ibgp: bool,
    /// Our AS number, for loops in the AS path.
    pub(crate) own_as: u32,
    /// Our identifier, for reflected routes of our own.
    pub(crate) own_id: u32,
}

impl Notification {
    pub(crate) fn new(code: u8, subcode: u8) -> Self {
        Notification { code, subcode, data: Vec::new() }
    }

    /// Cease (RFC 4486).
    pub(crate) fn cease(subcode: u8) -> Self {
        Notification::new(6, subcode)
    }

    /// Cease, hard reset (RFC 8538 §3): ends graceful restart; the inner reason is in the data.
    pub(crate) fn hard_reset(inner: Notification) -> Self {
        let mut data = vec![inner.code, inner.subcode];
        data.extend(inner.data);
        Notification { code: 6, subcode: 9, data }
    }

    /// True for a Cease that asks to forget all routes.
    pub(crate) fn is_hard_reset(&self) -> bool {
        self.code == 6 && self.subcode == 9
    }

    pub(crate) fn from_wire(n: wire::NotificationMessage) -> Self {
        Notification { code: n.code.as_u8(), subcode: n.subcode, data: n.data.to_vec() }
    }

    pub(crate) fn into_wire(self) -> wire::NotificationMessage {
        let code = wire::NotificationCode::from_u8(self.code);
        wire::NotificationMessage::new(code, self.subcode, self.data.into())
    }

    /// The whole message.
    pub(crate) fn encode(&self) -> Bytes {
        // Data beyond the standard limit is only echoed input: cut it.
        let data = &self.data[..self.data.len().min(STANDARD_LIMIT - HEADER - 2)];
        let mut out = BytesMut::with_capacity(HEADER + 2 + data.len());
        put_header(&mut out, HEADER + 2 + data.len(), 3);
        out.put_slice(&[self.code, self.subcode]);
        out.put_slice(data);
        out.freeze()
    }
}

impl std::fmt::Display for Notification {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        let code = wire::NotificationCode::from_u8(self.code);
        let what = wire::notification::description(code, self.subcode);
        write!(f, "{code}: {what} ({}/{})", self.code, self.subcode)
    }
}

impl Fault {
    fn new(code: u8, subcode: u8, data: Vec<u8>, text: impl Into<String>) -> Self {
        Fault { notification: Notification { code, subcode, data }, text: text.into() }
    }

    fn from_wire(error: &wire::DecodeError) -> Self {
        let (code, subcode, data) = error.to_notification();
        Fault::new(code.as_u8(), subcode, data.to_vec(), error.to_string())
    }
}

/// Length of the message at the start of `input`, which need not be there completely; `None`: fewer octets than a header.
/// Header errors are found here, before the body is waited for (RFC 4271 §6.1).
pub(crate) fn frame(input: &[u8], limit: usize) -> Result<Option<usize>, Fault> {
    let Some(header) = input.first_chunk::<HEADER>() else {
        return Ok(None);
    };
    if header[..16] != [0xff; 16] {
        return Err(Fault::new(1, 1, Vec::new(), "the header's marker is not all ones"));
    }
    let octets = [header[16], header[17]];
    let length = usize::from(u16::from_be_bytes(octets));
    // OPEN and KEEPALIVE are never extended (RFC 8654 §4).
    let (least, most) = match header[18] {
        1 => (29, STANDARD_LIMIT),
        2 => (23, limit),
        3 => (21, limit),
        4 => (19, 19),
        5 => (23, limit),
        other => return Err(Fault::new(1, 3, vec![other], format!("message type {other} is unknown"))),
    };
    if !(least..=most).contains(&length) {
        let text = format!("length {length} of message type {} is not in {least} to {most}", header[18]);
        return Err(Fault::new(1, 2, octets.to_vec(), text));
    }
    Ok(Some(length))
}

/// Takes one whole message apart, as [`frame`] has cut it.
pub(crate) fn decode(message: Bytes, reading: &Reading) -> Result<Message, Fault> {
    let limit = u16::try_from(reading.limit).unwrap_or(u16::MAX);
    let mut rest = message;
    match wire::decode_message(&mut rest, limit).map_err(|error| Fault::from_wire(&error))? {
        wire::Message::Open(open) => Ok(Message::Open(Open(open))),
        wire::Message::Update(update) => update::decode(&update, reading).map(Message::Update),
        wire::Message::Notification(n) => Ok(Message::Notification(Notification::from_wire(n))),
        wire::Message::Keepalive => Ok(Message::Keepalive),
        wire::Message::RouteRefresh(refresh) => Ok(Message::Refresh(our_refresh(&refresh))),
        other => Err(Fault::new(1, 3, vec![other.message_type().as_u8()], "message type is unknown")),
    }
}

fn our_refresh(refresh: &wire::RouteRefreshMessage) -> Option<Refresh> {
    if refresh.afi() != Some(Afi::L2Vpn) || refresh.safi() != Some(Safi::Evpn) {
        return None;
    }
    match refresh.subtype_raw {
        0 => Some(Refresh::Request),
        1 => Some(Refresh::Begin),
        2 => Some(Refresh::End),
        _ => None,
    }
}

impl Open {
    /// BGP identifier.
    pub(crate) fn identifier(&self) -> std::net::Ipv4Addr {
        self.0.bgp_identifier
    }

    /// The sender's AS number, all four octets of it.
    pub(crate) fn asn(&self) -> u32 {
        self.0.four_byte_as()
    }

    /// What a refusal is about, in words.
    pub(crate) fn describe(&self) -> String {
        let open = &self.0;
        format!(
            "AS {}, identifier {}, hold time {} s",
            open.four_byte_as(),
            open.bgp_identifier,
            open.hold_time
        )
    }

    /// The whole message. `graceful`: how to fill the graceful-restart capability, which the state machine leaves with
    /// the R and F bits at 0. Fails only if the capabilities do not fit 4096 octets.
    pub(crate) fn encode(mut self, restarting: bool) -> Result<Bytes, Fault> {
        for capability in &mut self.0.capabilities {
            if let Capability::GracefulRestart { restart_state, families, .. } = capability {
                *restart_state = restarting;
                for family in families {
                    // Forwarding state lives in the VTEPs and outlives us, always.
                    family.forwarding_preserved = true;
                }
            }
        }
        let message = wire::Message::Open(self.0);
        let failed = |error: wire::EncodeError| Fault::new(6, 0, Vec::new(), format!("encode OPEN: {error}"));
        Ok(wire::encode_message(&message).map_err(failed)?.freeze())
    }
}

/// Whether an OPEN's capabilities have graceful restart, for whatever families.
pub(crate) fn offers_graceful_restart(capabilities: &[Capability]) -> bool {
    capabilities.iter().any(|capability| matches!(capability, Capability::GracefulRestart { .. }))
}

/// KEEPALIVE.
pub(crate) fn keepalive() -> Bytes {
    let mut out = BytesMut::with_capacity(HEADER);
    put_header(&mut out, HEADER, 4);
    out.freeze()
}

/// ROUTE-REFRESH for EVPN (RFC 2918, RFC 7313).
pub(crate) fn refresh(kind: Refresh) -> Bytes {
    let subtype = match kind {
        Refresh::Request => 0,
        Refresh::Begin => 1,
        Refresh::End => 2,
    };
    let mut out = BytesMut::with_capacity(HEADER + 4);
    put_header(&mut out, HEADER + 4, 5);
    out.put_slice(&[FAMILY[0], FAMILY[1], subtype, FAMILY[2]]);
    out.freeze()
}

/// End-of-RIB for EVPN: an UPDATE with an empty MP_UNREACH_NLRI (RFC 4724 §2).
pub(crate) fn end_of_rib() -> Bytes {
    end_of_family(FAMILY)
}

/// End-of-RIB for route target constraint: all memberships have been told.
pub(crate) fn end_of_memberships() -> Bytes {
    end_of_family(CONSTRAINT_FAMILY)
}

fn end_of_family([a, b, c]: [u8; 3]) -> Bytes {
    let mut out = BytesMut::with_capacity(29);
    put_header(&mut out, 29, 2);
    out.put_slice(&[0, 0, 0, 6, 0x80, 15, 3, a, b, c]);
    out.freeze()
}

/// Marker, length and type. `length` counts the header; callers keep it within 65535.
fn put_header(out: &mut BytesMut, length: usize, kind: u8) {
    out.put_bytes(0xff, 16);
    out.put_u16(u16::try_from(length).unwrap_or(u16::MAX));
    out.put_u8(kind);
}

#[cfg(test)]
mod tests;
