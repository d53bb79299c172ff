//! Intended against observed: what each peer says of each port, compared with where the port is bound.
//!
//! Pure functions of a snapshot and of what peers have sent. Nothing here, and nothing that follows from it, changes
//! what is announced: the fabric is told what is intended and is not fought with.
//!
//! | presence | when |
//! |---|---|
//! | present | the best claim, ours included, leads to the place of the port; or nobody else is expected to claim it |
//! | missing | a claim is expected and there is none (see below) |
//! | elsewhere | the best claim leads to another VTEP: a higher sequence, or a sticky one |
//! | duplicate | two VTEPs claim it with the same sequence: the lower next hop wins, which need not be right |
//! | stale | another VTEP claims it and loses; or claims it though it is bound nowhere; or the only claim is one kept over the peer's restart |
//! | foreign | a MAC of no port, or an address that the port does not have, in a network of ours; not the link-local ones of a port's MAC, nor the MAC of a bridge behind its own switch |
//!
//! **When a claim is expected.** A peer never sends our own routes back (they would be dropped as loops), so that what
//! it says of a port comes from somebody else. Behind a switch that speaks EVPN that is the switch: if it claims
//! nothing, it has not learned the MAC. A peer that is another switch, and hands on nothing, is not expected to know.
//! Where the controllers speak for the VTEP it is another controller: its claim is expected once the peer sends any
//! claim of it. With one controller nobody else is expected and nothing is missing. A peer that has not sent its whole
//! table yet misses nothing.
//!
//! Nothing is expected of ports that do not show their MAC on the wire (routed, ipvlan): of these only a claim of their
//! address from another place is told.

pub(crate) mod alarms;
pub(crate) mod choose;
mod dropped;
pub(crate) mod words;

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::net::IpAddr;

use causeway_bgp::{Attributes, Esi, ReceivedRoute, RouteDistinguisher, RouteKey, RouteTarget};
use causeway_proto::{Mac, NetworkKey, PortKey, Vni};

use crate::derive::best::{Claim, Rule};
use crate::derive::evpn::{Context, export_targets, import_targets, sequence};
use crate::derive::node::bridge_mac;
use crate::derive::{bound, place};
use crate::model::{NodeMode, Port};
use crate::snapshot::Snapshot;
use words::Names;

/// What a peer says of a port.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Presence {
    Present,
    Missing,
    Elsewhere,
    Duplicate,
    Stale,
    Foreign,
}

/// What is compared. Ordered by MAC first: what is known of one MAC lies together.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) struct Subject {
    pub(crate) mac: Mac,
    pub(crate) network: NetworkKey,
    /// `None`: the MAC itself.
    pub(crate) address: Option<IpAddr>,
    /// Who says so.
    pub(crate) peer: IpAddr,
}

/// The outcome of a comparison.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Finding {
    /// Absent where nobody has the MAC.
    pub(crate) port: Option<PortKey>,
    pub(crate) presence: Presence,
    /// Where it is bound and the sequence we announce; `None`: bound nowhere.
    pub(crate) intended: Option<(IpAddr, u32)>,
    /// VTEPs that the peer names, the best first.
    pub(crate) observed: Vec<IpAddr>,
    /// Sequence of the best of them.
    pub(crate) sequence: u32,
    /// What it means and what to do.
    pub(crate) text: String,
}

/// An established peer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Asked {
    pub(crate) address: IpAddr,
    /// It has sent its whole table, or has had time to.
    pub(crate) complete: bool,
}

/// Where a port enters the fabric.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Place {
    /// The VTEP that we announce.
    vtep: IpAddr,
    /// All that may be named: with two uplinks both switches'.
    accepted: Vec<IpAddr>,
    /// The switch speaks EVPN itself.
    speaks: bool,
    /// The port's frames carry another MAC than its own (routed, ipvlan).
    hidden: bool,
    sequence: u32,
}

/// What the comparison needs to know.
#[derive(Debug)]
pub(crate) struct View<'a> {
    snapshot: &'a Snapshot,
    context: Context,
    targets: HashMap<RouteTarget, Vec<(&'a NetworkKey, Vni)>>,
    names: Names<'a>,
    /// What kind of peers they are.
    pub(crate) heard: Heard,
    /// What is as intended is told too.
    with_present: bool,
    /// Where ports are that do not show their MACs; found when first asked for.
    hiding: OnceCell<HashSet<(&'a NetworkKey, IpAddr)>>,
}

/// What is known of peers by what they send.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Heard {
    /// Peers that send claims of another controller.
    twins: BTreeSet<IpAddr>,
    /// Up to two next hops of each: with two it hands on routes of others, with one it is a switch that speaks for itself.
    next_hops: BTreeMap<IpAddr, BTreeSet<IpAddr>>,
}

impl Heard {
    fn hear(&mut self, peer: IpAddr, next_hop: IpAddr) {
        let known = self.next_hops.entry(peer).or_default();
        if known.len() < 2 {
            known.insert(next_hop);
        }
    }

    /// Whether a peer would send what the switch at one of these VTEPs says.
    fn would_say(&self, peer: IpAddr, vteps: &[IpAddr], names: &Names<'_>) -> bool {
        match self.next_hops.get(&peer) {
            Some(known) if known.len() > 1 => true,
            Some(known) => known.iter().any(|next_hop| vteps.contains(next_hop)),
            None => !names.contains(peer) || vteps.contains(&peer),
        }
    }
}

/// Claims by peer, network and MAC.
type Groups<'a> = HashMap<(IpAddr, &'a NetworkKey, Mac), Vec<&'a ReceivedRoute>>;

impl<'a> View<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot, context: Context, heard: Heard, with_present: bool) -> Self {
        let mut targets: HashMap<RouteTarget, Vec<(&NetworkKey, Vni)>> = HashMap::new();
        for (key, record) in &snapshot.networks {
            let network = &record.value;
            let mut own: BTreeSet<RouteTarget> = import_targets(network, context.asn).into_iter().collect();
            own.extend(export_targets(network, context.asn).unwrap_or_default());
            for target in own {
                targets.entry(target).or_default().push((key, network.vni));
            }
        }
        View {
            snapshot,
            context,
            targets,
            names: Names::new(snapshot),
            heard,
            with_present,
            hiding: OnceCell::new(),
        }
    }

    /// The network a route belongs to: by its targets, and of several by its label.
    fn network_of(&self, attributes: &Attributes) -> Option<&'a NetworkKey> {
        let mut matching = attributes.route_targets.iter().filter_map(|t| self.targets.get(t)).flatten();
        let first = matching.next()?;
        let fits = std::iter::once(first).chain(matching).find(|(_, vni)| attributes.vni == Some(*vni));
        Some(fits.unwrap_or(first).0)
    }

    /// True for a route of another controller: as controllers make them, not ours, and to a VTEP of ours.
    fn is_twin(&self, network: &NetworkKey, route: &ReceivedRoute) -> bool {
        let Some(record) = self.snapshot.networks.get(network) else { return false };
        is_controllers(&self.names, route.route.key.rd(), record.value.rd_number)
            && route.route.key.rd().0[2..6] != self.context.router_id.octets()
            && self.names.contains(route.route.attributes.next_hop)
    }

    fn group(&mut self, routes: &'a [ReceivedRoute]) -> Groups<'a> {
        let mut groups = Groups::new();
        for route in routes {
            self.heard.hear(route.peer, route.route.attributes.next_hop);
            let RouteKey::MacIp { mac, .. } = route.route.key else { continue };
            let Some(network) = self.network_of(&route.route.attributes) else { continue };
            if !self.heard.twins.contains(&route.peer) && self.is_twin(network, route) {
                self.heard.twins.insert(route.peer);
            }
            groups.entry((route.peer, network, mac)).or_default().push(route);
        }
        groups
    }

    /// Compares everything: every bound port with what every peer says, and what peers say beyond that.
    pub(crate) fn all(&mut self, peers: &[Asked], routes: &'a [ReceivedRoute]) -> BTreeMap<Subject, Finding> {
        let mut groups = self.group(routes);
        let mut found = BTreeMap::new();
        for (_, key) in &self.snapshot.by_node {
            let Some(port) = self.snapshot.ports.get(key) else { continue };
            for peer in peers {
                let said = groups.remove(&(peer.address, &key.network, port.value.mac)).unwrap_or_default();
                self.compare(peer, &key.network, port.value.mac, &said, &mut found);
            }
        }
        let asked: HashMap<IpAddr, &Asked> = peers.iter().map(|peer| (peer.address, peer)).collect();
        for ((peer, network, mac), said) in groups {
            if let Some(peer) = asked.get(&peer) {
                self.compare(peer, network, mac, &said, &mut found);
            }
        }
        found
    }

    /// Compares what is known of these MACs. `routes`: all that peers say of them.
    pub(crate) fn of_macs(
        &mut self,
        peers: &[Asked],
        macs: &BTreeSet<Mac>,
        routes: &'a [ReceivedRoute],
    ) -> BTreeMap<Subject, Finding> {
        let groups = self.group(routes);
        let mut found = BTreeMap::new();
        let mut places: BTreeSet<(&NetworkKey, Mac)> = groups.keys().map(|(_, n, mac)| (*n, *mac)).collect();
        for network in self.snapshot.networks.keys() {
            let has_port = |mac: &&Mac| self.snapshot.by_mac.contains_key(&(network.clone(), **mac));
            places.extend(macs.iter().filter(has_port).map(|mac| (network, *mac)));
        }
        for (network, mac) in places {
            for peer in peers {
                let said = groups.get(&(peer.address, network, mac)).map_or(&[][..], Vec::as_slice);
                self.compare(peer, network, mac, said, &mut found);
            }
        }
        found
    }

    fn compare(
        &self,
        peer: &Asked,
        network: &NetworkKey,
        mac: Mac,
        said: &[&ReceivedRoute],
        found: &mut BTreeMap<Subject, Finding>,
    ) {
        let subject = |address| Subject { mac, network: network.clone(), address, peer: peer.address };
        let addresses: BTreeSet<Option<IpAddr>> = said.iter().map(|route| address(route)).collect();
        let Some(owner) = self.snapshot.by_mac.get(&(network.clone(), mac)) else {
            for address in addresses {
                let claims = claims(said, |route| self::address(route) == address);
                if let Some(finding) = self.foreign(network, mac, address, said, &claims) {
                    found.insert(subject(address), finding);
                }
            }
            return;
        };
        let port = &owner.value;
        let Some(place) = place(self.snapshot, &port.key) else {
            let all = claims(said, |_| true);
            if !all.is_empty() {
                found.insert(subject(None), self.nowhere(port, &all));
            }
            return;
        };
        // A MAC is where the best of all its routes says (FRR 10), whatever address they are for.
        let of_mac = claims(said, |_| true);
        let mut put = |address, finding: Finding| {
            if self.with_present || finding.presence != Presence::Present {
                found.insert(subject(address), finding);
            }
        };
        put(None, self.judge(peer, port, &place, None, &of_mac, &of_mac));
        for own in port.answers() {
            let with = claims(said, |route| address(route) == Some(own));
            put(Some(own), self.judge(peer, port, &place, Some(own), &with, &of_mac));
        }
        // Every machine with IPv6 makes itself link-local addresses: on its link alone, and of its own.
        let others = addresses.into_iter().flatten().filter(|address| !is_link_local(*address));
        for other in others.filter(|address| port.answers().all(|own| own != *address)) {
            let with = claims(said, |route| address(route) == Some(other));
            let text = words::foreign_address(&self.names, self.snapshot, port, other, &with);
            let mut finding = finding(Some(port), Presence::Foreign, &with, text);
            finding.intended = Some((place.vtep, place.sequence));
            put(Some(other), finding);
        }
    }

    /// A bound port, or one of its addresses. `claims`: what the peer says of it; `of_mac`: of its MAC in any way.
    fn judge(
        &self,
        peer: &Asked,
        port: &Port,
        place: &Place,
        address: Option<IpAddr>,
        claims: &[Claim],
        of_mac: &[Claim],
    ) -> Finding {
        let own = Claim { vtep: place.vtep, sequence: place.sequence, sticky: false, stale: false };
        let is_right = |claim: &Claim| place.accepted.contains(&claim.vtep);
        let presence = presence(own, claims, is_right);
        let would_say = place.speaks && self.heard.would_say(peer.address, &place.accepted, &self.names);
        let expected = !place.hidden && (would_say || self.heard.twins.contains(&peer.address));
        let (presence, text) = match presence {
            Some((presence, rule)) => {
                (presence, words::claimed(&self.names, presence, rule, own, claims, &is_right))
            }
            // The MAC's own row says what is wrong with it; a switch need not know addresses.
            None if address.is_some() && (!of_mac.is_empty() || place.speaks) => {
                (Presence::Present, words::address_by_us())
            }
            None if expected && peer.complete => {
                (Presence::Missing, words::missing(&self.names, place.vtep, would_say))
            }
            None => (Presence::Present, words::by_us_only(expected)),
        };
        let mut finding = finding(Some(port), presence, claims, text);
        finding.intended = Some((place.vtep, place.sequence));
        finding
    }

    /// A port that is bound nowhere, of which a peer says something.
    fn nowhere(&self, port: &Port, claims: &[Claim]) -> Finding {
        finding(Some(port), Presence::Stale, claims, words::bound_nowhere(&self.names, claims))
    }

    /// True for a MAC behind a VTEP where ports of the network do not show theirs: it may be theirs.
    fn hides(&self, network: &NetworkKey, address: Option<IpAddr>, claims: &[Claim]) -> bool {
        let Some(claim) = claims.first() else { return false };
        let owner = address.and_then(|ip| self.snapshot.by_address.get(&(network.vrf.clone(), ip)));
        if let Some(owner) = owner {
            let place = place(self.snapshot, &owner.value.key);
            return place.is_some_and(|place| place.hidden && place.accepted.contains(&claim.vtep));
        }
        if address.is_some_and(|address| !is_link_local(address)) {
            return false;
        }
        let hiding = self.hiding.get_or_init(|| {
            let bound = self.snapshot.by_node.iter().filter_map(|(_, key)| bound(self.snapshot, key));
            bound.filter(|b| !b.has_own_mac()).map(|b| (&b.port.key.network, b.place.vtep)).collect()
        });
        hiding.contains(&(network, claim.vtep))
    }

    /// True for the MAC of a bridge that an agent has made behind the VTEP that claims it: the kernel speaks for itself
    /// there, of multicast groups for one.
    fn is_bridges(&self, network: &NetworkKey, mac: Mac, claims: &[Claim]) -> bool {
        let Some(claim) = claims.first() else { return false };
        let Some(vni) = self.snapshot.networks.get(network).map(|record| record.value.vni) else {
            return false;
        };
        let mut nodes = self.snapshot.nodes.values().map(|record| &record.value);
        nodes.any(|node| {
            bridge_mac(vni, node) == mac
                && place::vteps(self.snapshot, node).any(|at| at.vtep == Some(claim.vtep))
        })
    }

    /// A MAC of nobody. `None`: it is a gateway's, a switch's own, or a host's bridge's.
    fn foreign(
        &self,
        network: &NetworkKey,
        mac: Mac,
        address: Option<IpAddr>,
        said: &[&ReceivedRoute],
        claims: &[Claim],
    ) -> Option<Finding> {
        let gateway = said.iter().any(|route| {
            let attributes = &route.route.attributes;
            attributes.default_gateway || attributes.router_mac == Some(mac)
        });
        if gateway
            || words::is_gateway(self.snapshot, network, address)
            || self.hides(network, address, claims)
            || address.is_none_or(is_link_local) && self.is_bridges(network, mac, claims)
        {
            return None;
        }
        let text = words::foreign_mac(&self.names, self.snapshot, network, address, claims);
        Some(finding(None, Presence::Foreign, claims, text))
    }
}

/// What follows from claims about a port, with the rule that decided; `None`: there are none.
fn presence(own: Claim, claims: &[Claim], is_right: impl Fn(&Claim) -> bool) -> Option<(Presence, Rule)> {
    let first = claims.first()?;
    let (rule, order) = first.against(&own);
    // What a third VTEP decides, which hears us too.
    let winner = if order.is_lt() { *first } else { own };
    let ties = |claim: &&Claim| !is_right(claim) && winner.same_rank(claim);
    if !is_right(&winner) && winner.vtep != own.vtep {
        let right_ties = winner.same_rank(&own) || claims.iter().any(|c| is_right(c) && winner.same_rank(c));
        return Some((if right_ties { Presence::Duplicate } else { Presence::Elsewhere }, rule));
    }
    if claims.iter().any(|claim| ties(&claim)) {
        return Some((Presence::Duplicate, Rule::NextHop));
    }
    if let Some(left) = claims.iter().find(|claim| !is_right(claim)) {
        return Some((Presence::Stale, left.against(&winner).0));
    }
    match claims.iter().all(|claim| claim.stale) {
        true => Some((Presence::Stale, Rule::Same)),
        false => Some((Presence::Present, Rule::Same)),
    }
}

/// Where a port enters the fabric; `None`: it is bound nowhere.
fn place(snapshot: &Snapshot, key: &PortKey) -> Option<Place> {
    let bound = bound(snapshot, key)?;
    let vtep = bound.place.vtep;
    let mut accepted = vec![vtep];
    if bound.place.esi != Esi::default() {
        // Both switches of a multihomed host claim it, each with its own VTEP (RFC 7432 §8).
        accepted.extend(place::vteps(snapshot, bound.node).filter_map(|node| node.vtep));
    }
    let speaks = bound.place.mode == NodeMode::TorEvpn;
    let hidden = !bound.has_own_mac();
    Some(Place { vtep, accepted, speaks, hidden, sequence: sequence(bound.binding.generation) })
}

/// True if a port is bound behind this VTEP: it may be named for its MAC.
pub(crate) fn is_intended(snapshot: &Snapshot, key: &PortKey, vtep: IpAddr) -> bool {
    place(snapshot, key).is_some_and(|place| place.accepted.contains(&vtep))
}

/// True for a distinguisher as controllers make them: type 1 with the network's number. Switches number theirs from 1, too,
/// behind the address of their own VTEP, which no controller has.
pub(crate) fn is_controllers(names: &Names<'_>, rd: RouteDistinguisher, number: u16) -> bool {
    let [kind @ .., a, b, c, d, _, _] = rd.0;
    kind == [0, 1] && rd.0[6..] == number.to_be_bytes() && !names.contains([a, b, c, d].into())
}

/// An address that a machine gives itself on a link and that means nothing beyond (RFC 4291 §2.5.6).
fn is_link_local(address: IpAddr) -> bool {
    matches!(address, IpAddr::V6(v6) if v6.is_unicast_link_local())
}

fn address(route: &ReceivedRoute) -> Option<IpAddr> {
    match route.route.key {
        RouteKey::MacIp { ip, .. } => ip,
        _ => None,
    }
}

/// Claims of routes, the best first.
fn claims(said: &[&ReceivedRoute], wanted: impl Fn(&ReceivedRoute) -> bool) -> Vec<Claim> {
    let wanted = said.iter().filter(|route| wanted(route));
    let mut claims: Vec<Claim> =
        wanted.map(|route| Claim { stale: route.stale, ..Claim::of(&route.route.attributes) }).collect();
    claims.sort_by(|a, b| a.against(b).1);
    claims
}

fn finding(port: Option<&Port>, presence: Presence, claims: &[Claim], text: String) -> Finding {
    let mut observed = Vec::new();
    for claim in claims {
        if !observed.contains(&claim.vtep) {
            observed.push(claim.vtep);
        }
    }
    Finding {
        port: port.map(|port| port.key.clone()),
        presence,
        intended: None,
        observed,
        sequence: claims.first().map_or(0, |claim| claim.sequence),
        text,
    }
}

impl Presence {
    /// As metrics and people name it.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Presence::Present => "present",
            Presence::Missing => "missing",
            Presence::Elsewhere => "elsewhere",
            Presence::Duplicate => "duplicate",
            Presence::Stale => "stale",
            Presence::Foreign => "foreign",
        }
    }
}

#[cfg(test)]
mod tests;
