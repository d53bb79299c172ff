//! From an UPDATE to changes of routes, under the revised error handling of RFC 7606.

use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Mac, Prefix, Vni};
use rustbgpd_wire as wire;
use wire::{
    Afi, ErrorDisposition, EvpnIpPrefixValue, EvpnRoute, ExtendedCommunity, MpReachNlri, PathAttribute,
    PmsiTunnel, PmsiTunnelIdentifier, PmsiTunnelType, Safi,
};

use super::{CONSTRAINT, Fault, Reading};
use crate::constraint::{Membership, MembershipChanges};
use crate::route::{Attributes, Esi, Pmsi, Route, RouteDistinguisher, RouteKey, RouteTarget};

/// VXLAN in the Encapsulation community (RFC 8365 §11).
const VXLAN: u16 = 8;

/// An UPDATE in our terms: the withdrawals take effect before the announcements.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Update {
    pub(crate) withdrawn: Vec<RouteKey>,
    pub(crate) announced: Vec<Route>,
    /// The peer's table is complete (RFC 4724 §2).
    pub(crate) end_of_rib: bool,
    /// What the peer asks for (RFC 4684).
    pub(crate) memberships: MembershipChanges,
    pub(crate) notes: Notes,
}

/// What was odd about an UPDATE, to be counted. Numbers are attribute or route types.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Notes {
    /// Malformed attribute and how many routes were treated as withdrawn for it.
    pub(crate) treated_as_withdrawn: Option<(u8, u64)>,
    /// Malformed attributes left out.
    pub(crate) discarded: Vec<u8>,
    /// Route types that are not ours, with how many.
    pub(crate) unknown: Vec<(u8, u64)>,
    /// Routes that mean nothing to us, by type.
    pub(crate) unusable: Vec<u8>,
    /// An iBGP announcement had no LOCAL_PREF.
    pub(crate) missing_local_pref: bool,
    /// Routes that came back to us.
    pub(crate) loops: u64,
}

/// Takes an UPDATE apart. An error means that the routes in it could not all be found: the session must end.
pub(crate) fn decode(message: &wire::UpdateMessage, reading: &Reading) -> Result<Update, Fault> {
    let (parsed, unknown) = message
        .parse_revised_observed(reading.four_octet_as, reading.ibgp, false, &[])
        .map_err(|error| Fault::from_wire(&error))?;
    let attributes = &parsed.update.attributes;
    let mut update = Update::default();
    update.notes.unknown = unknown.iter().map(|&(kind, n)| (kind, u64::from(n))).collect();

    let (reach, unreach) = multiprotocol(attributes);
    update.memberships = memberships(attributes);
    let asking = update.memberships != MembershipChanges::default();
    if let Some(routes) = unreach {
        update.end_of_rib = routes.is_empty() && unknown.is_empty() && attributes.len() == 1;
        update.withdraw(routes);
    }
    let body = !parsed.update.announced.is_empty();
    let worst = worst(&parsed, reach.is_some() || asks(attributes) || body, body, reading)?;
    update.notes.discarded = parsed
        .malformed
        .iter()
        .filter(|m| m.disposition == ErrorDisposition::AttributeDiscard)
        .map(|m| m.type_code)
        .collect();

    if let Some((type_code, text)) = worst {
        if reach.is_none() && unreach.is_none() && !asking && !body && parsed.update.withdrawn.is_empty() {
            // Nothing to withdraw: the routes may be hidden behind the broken attribute (RFC 7606 §5.2).
            return Err(Fault::new(
                3,
                1,
                Vec::new(),
                format!("attribute {type_code}: {text}, and no routes"),
            ));
        }
        let announced = std::mem::take(&mut update.memberships.announced);
        update.memberships.withdrawn.extend(announced);
        let before = update.withdrawn.len();
        update.withdraw(reach.map_or(&[][..], |reach| &reach.evpn_announced));
        let routes = u64::try_from(update.withdrawn.len() - before).unwrap_or(u64::MAX);
        update.notes.treated_as_withdrawn = Some((type_code, routes));
        return Ok(update);
    }
    if let Some(reach) = reach {
        update.announce(reach, attributes, reading);
    }
    Ok(update)
}

/// The EVPN routes announced and withdrawn; other families were not agreed on and are ignored.
fn multiprotocol(attributes: &[PathAttribute]) -> (Option<&MpReachNlri>, Option<&[EvpnRoute]>) {
    let mut reach = None;
    let mut unreach = None;
    for attribute in attributes {
        match attribute {
            PathAttribute::MpReachNlri(mp) if (mp.afi, mp.safi) == (Afi::L2Vpn, Safi::Evpn) => {
                reach = Some(&**mp);
            }
            PathAttribute::MpUnreachNlri(mp) if (mp.afi, mp.safi) == (Afi::L2Vpn, Safi::Evpn) => {
                unreach = Some(mp.evpn_withdrawn.as_slice());
            }
            _ => {}
        }
    }
    (reach, unreach)
}

/// The MP attributes of route target constraint. Neither an AS path nor an originator makes one of them a loop: a
/// reflector may hand our own question back in place of others that ask the same, and what we send too much is dropped
/// there.
fn memberships(attributes: &[PathAttribute]) -> MembershipChanges {
    let mut changes = MembershipChanges::default();
    let own = |nlri: &wire::RtcNlri| Membership {
        origin: nlri.origin_as,
        target: nlri.route_target_bits,
        length: nlri.prefix_len,
    };
    for attribute in attributes {
        match attribute {
            PathAttribute::MpReachNlri(mp) if (mp.afi, mp.safi) == CONSTRAINT => {
                changes.announced.extend(mp.rtc_announced.iter().map(own));
            }
            PathAttribute::MpUnreachNlri(mp) if (mp.afi, mp.safi) == CONSTRAINT => {
                changes.withdrawn.extend(mp.rtc_withdrawn.iter().map(own));
                changes.complete = mp.rtc_withdrawn.is_empty() && attributes.len() == 1;
            }
            _ => {}
        }
    }
    changes
}

fn asks(attributes: &[PathAttribute]) -> bool {
    attributes.iter().any(
        |attribute| matches!(attribute, PathAttribute::MpReachNlri(mp) if (mp.afi, mp.safi) == CONSTRAINT),
    )
}

/// The attribute for which all routes are to be treated as withdrawn, if any, and why.
fn worst(
    parsed: &wire::RevisedParsedUpdate,
    has_routes: bool,
    has_body: bool,
    reading: &Reading,
) -> Result<Option<(u8, String)>, Fault> {
    let malformed = parsed.malformed.iter().max_by_key(|m| m.disposition);
    match malformed.map(|m| (m.disposition, m)) {
        Some((ErrorDisposition::SessionReset, m)) => return Err(Fault::from_wire(&m.error)),
        Some((ErrorDisposition::TreatAsWithdraw, m)) => {
            return Ok(Some((m.type_code, m.error.to_string())));
        }
        _ => {}
    }
    // What is missing or unusable as a whole: the parser reports only what it cannot read.
    let checked = wire::validate::validate_update_attributes_with_context(
        &parsed.update.attributes,
        has_routes,
        has_body,
        !reading.ibgp,
        wire::UpdateValidationOptions::default(),
    );
    match checked {
        Ok(()) => Ok(None),
        Err(found) if found.error.disposition == ErrorDisposition::SessionReset => {
            let text = format!("attribute {}", found.type_code);
            Err(Fault::new(3, found.error.subcode, found.error.data, text))
        }
        Err(found) if found.error.disposition == ErrorDisposition::TreatAsWithdraw => {
            Ok(Some((found.type_code, format!("missing or unusable (3/{})", found.error.subcode))))
        }
        Err(_) => Ok(None),
    }
}

impl Update {
    fn withdraw(&mut self, routes: &[EvpnRoute]) {
        for route in routes {
            match key(route) {
                Some(key) => self.withdrawn.push(key),
                None => self.notes.unknown.push((route.route_type(), 1)),
            }
        }
    }

    fn announce(&mut self, reach: &MpReachNlri, attributes: &[PathAttribute], reading: &Reading) {
        let shared = Shared::read(reach.next_hop, attributes);
        self.notes.missing_local_pref =
            reading.ibgp && !shared.local_pref && !reach.evpn_announced.is_empty();
        let looped = shared.originator == Some(reading.own_id) || shared.path.contains(&reading.own_as);
        let mut last: Option<Arc<Attributes>> = None;
        for route in &reach.evpn_announced {
            let Some(key) = key(route) else {
                self.notes.unknown.push((route.route_type(), 1));
                continue;
            };
            if looped {
                // It replaces what the peer said before, and what replaces it is not usable (RFC 4271 §9.1.2).
                self.notes.loops += 1;
                self.withdrawn.push(key);
                continue;
            }
            let Some(own) = shared.attributes(route) else {
                self.notes.unusable.push(key.route_type());
                self.withdrawn.push(key);
                continue;
            };
            let attributes = match last.take() {
                Some(same) if *same == own => same,
                _ => Arc::new(own),
            };
            last = Some(Arc::clone(&attributes));
            self.announced.push(Route { key, attributes });
        }
    }
}

/// The path attributes, common to all routes of one UPDATE.
#[derive(Debug)]
struct Shared {
    base: Attributes,
    /// The PMSI attribute was there and describes ingress replication.
    pmsi: Option<Pmsi>,
    /// Tunnels offered by Encapsulation communities, if any.
    tunnels: Vec<u16>,
    local_pref: bool,
    originator: Option<u32>,
    path: Vec<u32>,
}

impl Shared {
    fn read(next_hop: IpAddr, attributes: &[PathAttribute]) -> Self {
        let mut shared = Shared {
            base: Attributes {
                next_hop,
                vni: None,
                l3_vni: None,
                route_targets: Vec::new(),
                sequence: 0,
                sticky: false,
                router_mac: None,
                default_gateway: false,
                pmsi: None,
                esi: Esi::default(),
                gateway: None,
            },
            pmsi: None,
            tunnels: Vec::new(),
            local_pref: false,
            originator: None,
            path: Vec::new(),
        };
        for attribute in attributes {
            match attribute {
                PathAttribute::LocalPref(_) => shared.local_pref = true,
                PathAttribute::OriginatorId(id) => shared.originator = Some(u32::from(*id)),
                PathAttribute::AsPath(path) => {
                    shared.path = path.asns().collect();
                }
                other => {
                    for &community in other.extended_communities().unwrap_or_default() {
                        shared.community(community);
                    }
                    if let Some(tunnel) = other.pmsi_tunnel() {
                        shared.pmsi = ingress_replication(tunnel);
                    }
                }
            }
        }
        shared.base.route_targets.sort_unstable();
        shared.base.route_targets.dedup();
        shared
    }

    fn community(&mut self, community: ExtendedCommunity) {
        let bytes = community.as_u64().to_be_bytes();
        // Route target: sub-type 2 of the three address-carrying types (RFC 4360 §4, RFC 5668).
        if matches!(bytes[0], 0..=2) && bytes[1] == 2 {
            self.base.route_targets.push(RouteTarget(bytes));
        } else if let Some(tunnel) = community.as_bgp_encapsulation() {
            self.tunnels.push(tunnel);
        } else if let Some((sticky, sequence)) = community.as_mac_mobility() {
            self.base.sticky = sticky;
            self.base.sequence = sequence;
        } else if let Some(mac) = community.as_router_mac() {
            self.base.router_mac = Some(Mac::new(mac));
        } else if community.as_default_gateway() {
            self.base.default_gateway = true;
        }
    }

    /// The attributes of one route; `None` if we have no use for it.
    fn attributes(&self, route: &EvpnRoute) -> Option<Attributes> {
        if !self.tunnels.is_empty() && !self.tunnels.contains(&VXLAN) {
            return None;
        }
        let mut own = self.base.clone();
        match route {
            EvpnRoute::EadPerEs(r) => own.esi = Esi(r.esi.0),
            EvpnRoute::EadPerEvi(r) => {
                own.esi = Esi(r.esi.0);
                own.vni = Vni::try_from(r.label.as_vni()).ok();
            }
            EvpnRoute::MacIp(r) => {
                own.esi = Esi(r.esi.0);
                own.vni = Vni::try_from(r.label1.as_vni()).ok();
                own.l3_vni = r.label2.and_then(|label| Vni::try_from(label.as_vni()).ok());
            }
            EvpnRoute::Imet(_) => {
                // Without it there is nowhere to send flooded frames to (RFC 7432 §11.2).
                own.pmsi = Some(self.pmsi?);
            }
            EvpnRoute::Es(r) => own.esi = Esi(r.esi.0),
            EvpnRoute::IpPrefix(r) => {
                own.esi = Esi(r.esi.0);
                own.vni = Vni::try_from(r.label.as_vni()).ok();
                own.gateway = Some(r.gateway).filter(|gateway| !gateway.is_unspecified());
            }
            _ => return None,
        }
        Some(own)
    }
}

fn ingress_replication(tunnel: &PmsiTunnel) -> Option<Pmsi> {
    if tunnel.tunnel_type != PmsiTunnelType::IngressReplication {
        return None;
    }
    let address = match tunnel.tunnel_identifier {
        PmsiTunnelIdentifier::Ipv4(address) => IpAddr::V4(address),
        PmsiTunnelIdentifier::Ipv6(address) => IpAddr::V6(address),
        _ => return None,
    };
    Some(Pmsi { vni: Vni::try_from(tunnel.mpls_label).ok()?, tunnel: address })
}

/// Our key of a route; `None` for types we do not keep.
fn key(route: &EvpnRoute) -> Option<RouteKey> {
    let rd = |rd: &wire::RouteDistinguisher| RouteDistinguisher(rd.0);
    Some(match route {
        EvpnRoute::EadPerEs(r) => {
            RouteKey::EthernetAd { rd: rd(&r.rd), esi: Esi(r.esi.0), etag: r.ethernet_tag.0 }
        }
        EvpnRoute::EadPerEvi(r) => {
            RouteKey::EthernetAd { rd: rd(&r.rd), esi: Esi(r.esi.0), etag: r.ethernet_tag.0 }
        }
        EvpnRoute::MacIp(r) => {
            RouteKey::MacIp { rd: rd(&r.rd), etag: r.ethernet_tag.0, mac: Mac::new(r.mac.0), ip: r.ip }
        }
        EvpnRoute::Imet(r) => {
            RouteKey::Imet { rd: rd(&r.rd), etag: r.ethernet_tag.0, originator: r.originator_ip }
        }
        EvpnRoute::Es(r) => {
            RouteKey::EthernetSegment { rd: rd(&r.rd), esi: Esi(r.esi.0), originator: r.originator_ip }
        }
        EvpnRoute::IpPrefix(r) => {
            let prefix = match r.prefix {
                EvpnIpPrefixValue::V4(p) => Prefix::containing(IpAddr::V4(p.addr), p.len),
                EvpnIpPrefixValue::V6(p) => Prefix::containing(IpAddr::V6(p.addr), p.len),
            };
            RouteKey::IpPrefix { rd: rd(&r.rd), etag: r.ethernet_tag.0, prefix: prefix? }
        }
        _ => return None,
    })
}
