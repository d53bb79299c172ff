//! What the fabric says about networks of ours: which received routes are used, by which rule, and what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::fmt;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_bgp::{Attributes, RouteChange, RouteKey, RouteTarget};
use causeway_proto::{Mac, Name, NetworkKey, PortKey, Prefix, Vni};
use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use super::evpn::{Context, import_targets};
use super::routing::{domain, vrf_imports};
use super::{bound, place};
use crate::snapshot::Snapshot;
use prefixes::PrefixTable;

mod prefixes;

/// Which networks import what, and whose word does not count: what a verdict needs to know of a snapshot.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Policy {
    networks: BTreeMap<RouteTarget, Vec<(NetworkKey, Vni)>>,
    vrfs: BTreeMap<RouteTarget, Vec<(Name, Vni)>>,
    /// VTEPs for which the controllers speak.
    nodes: BTreeMap<IpAddr, Name>,
    router_id: Option<[u8; 4]>,
}

impl Policy {
    /// The policy that follows from the snapshot's networks and nodes.
    pub fn new(snapshot: &Snapshot, context: &Context) -> Self {
        let mut networks: BTreeMap<RouteTarget, Vec<(NetworkKey, Vni)>> = BTreeMap::new();
        for (key, record) in &snapshot.networks {
            for target in import_targets(&record.value, context.asn) {
                networks.entry(target).or_default().push((key.clone(), record.value.vni));
            }
        }
        let mut vrfs: BTreeMap<RouteTarget, Vec<(Name, Vni)>> = BTreeMap::new();
        for domain in snapshot.vrfs.keys().filter_map(|name| domain(snapshot, name)) {
            for target in vrf_imports(&domain, context.asn) {
                vrfs.entry(target).or_default().push((domain.vrf.name.clone(), domain.vni));
            }
        }
        let nodes = snapshot.by_vtep.iter().filter(|(_, name)| {
            snapshot.nodes.get(name).is_some_and(|record| record.value.mode.is_spoken_for())
        });
        Policy {
            networks,
            vrfs,
            nodes: nodes.cloned().collect(),
            router_id: Some(context.router_id.octets()),
        }
    }

    fn is_ours(&self, key: &RouteKey) -> bool {
        self.router_id.is_some_and(|id| key.rd().0[..2] == [0, 1] && key.rd().0[2..6] == id)
    }

    /// What a received route means to routing: a prefix for VRFs, or a host by the L3 part of a type 2.
    pub fn judge_prefix(&self, key: &RouteKey, attributes: &Attributes) -> Result<Prefixed, Unused> {
        if self.is_ours(key) {
            return Err(Unused::Ours);
        }
        let (prefix, label) = match *key {
            RouteKey::IpPrefix { prefix, .. } => (prefix, attributes.vni),
            RouteKey::MacIp { ip: Some(ip), .. } => (Prefix::host(ip), attributes.l3_vni),
            _ => return Err(Unused::Type(key.route_type())),
        };
        if attributes.gateway.is_some() {
            return Err(Unused::Gateway);
        }
        let vtep = attributes.next_hop;
        if let Some(node) = self.nodes.get(&vtep) {
            return Err(Unused::Node(node.clone()));
        }
        let Some(router_mac) = attributes.router_mac.filter(|mac| mac.is_unicast()) else {
            return Err(Unused::NoRouterMac);
        };
        let matching = attributes.route_targets.iter().filter_map(|target| self.vrfs.get(target)).flatten();
        // Frames leave with the VRF's own VNI: a VTEP that asks for another one would not find its table. What is
        // imported from another VRF of ours is looked up there, and thus leaves with that one's.
        let (fitting, other): (Vec<_>, Vec<_>) = matching.partition(|(_, vni)| label == Some(*vni));
        match (fitting.is_empty(), other.first(), label) {
            (false, _, _) => {
                let vrfs: BTreeSet<Name> = fitting.into_iter().map(|(vrf, _)| vrf.clone()).collect();
                Ok(Prefixed { vrfs, prefix, vtep, router_mac })
            }
            (true, Some((vrf, vni)), Some(label)) => {
                Err(Unused::OtherL3Vni { vrf: vrf.clone(), vni: *vni, label })
            }
            (true, Some(_), None) => Err(Unused::NoL3Vni),
            (true, None, _) => Err(Unused::NoVrf(attributes.route_targets.clone())),
        }
    }

    /// What a received route means to us.
    pub fn judge(&self, key: &RouteKey, attributes: &Attributes) -> Result<Imported, Unused> {
        if self.is_ours(key) {
            return Err(Unused::Ours);
        }
        if !matches!(key, RouteKey::MacIp { .. } | RouteKey::Imet { .. }) {
            return Err(Unused::Type(key.route_type()));
        }
        let vtep = match (key, attributes.pmsi) {
            (RouteKey::Imet { .. }, Some(pmsi)) => pmsi.tunnel,
            (RouteKey::Imet { .. }, None) => return Err(Unused::NoTunnel),
            _ => attributes.next_hop,
        };
        if let Some(node) = self.nodes.get(&vtep) {
            return Err(Unused::Node(node.clone()));
        }
        let label = match key {
            RouteKey::Imet { .. } => attributes.pmsi.map(|pmsi| pmsi.vni),
            _ => attributes.vni,
        };
        let mut matching =
            attributes.route_targets.iter().filter_map(|target| self.networks.get(target)).flatten();
        let Some(first) = matching.next() else {
            return Err(Unused::NoNetwork(attributes.route_targets.clone()));
        };
        // Hosts encapsulate with the network's own VNI; a VTEP that asks for another one would not find its segment.
        let fits = std::iter::once(first).chain(matching).find(|(_, vni)| label.is_none_or(|l| l == *vni));
        match (fits, label) {
            (Some((network, _)), _) => Ok(Imported { network: network.clone(), vtep }),
            (None, Some(label)) => Err(Unused::OtherVni { network: first.0.clone(), vni: first.1, label }),
            (None, None) => Err(Unused::NoNetwork(attributes.route_targets.clone())),
        }
    }
}

/// A received route that belongs to a network of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Imported {
    /// The network.
    pub network: NetworkKey,
    /// Where its frames go.
    pub vtep: IpAddr,
}

/// A received route that leads to a prefix of VRFs of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Prefixed {
    /// The VRFs whose L3 VNI and targets it has.
    pub vrfs: BTreeSet<Name>,
    /// The prefix; a host's for a type 2.
    pub prefix: Prefix,
    /// Where its packets go.
    pub vtep: IpAddr,
    /// That VTEP's router MAC.
    pub router_mac: Mac,
}

/// Why a received route is not used.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Unused {
    /// Our own, reflected.
    Ours,
    /// Hosts do nothing with this route type.
    Type(u8),
    /// A type 3 without PMSI tunnel.
    NoTunnel,
    /// It points at a node whose workloads the store knows.
    Node(Name),
    /// No network imports its targets.
    NoNetwork(Vec<RouteTarget>),
    /// The target is a network's, the label is not.
    OtherVni {
        /// The network.
        network: NetworkKey,
        /// Its VNI.
        vni: Vni,
        /// The route's.
        label: Vni,
    },
    /// A type 5 with a gateway address: the interface-ful models (RFC 9136 §4.4.2) are not ours.
    Gateway,
    /// Routed without a router MAC: nobody knows whom to send frames to.
    NoRouterMac,
    /// No VRF imports its targets.
    NoVrf(Vec<RouteTarget>),
    /// A VRF imports it, but it has no L3 VNI.
    NoL3Vni,
    /// The target is a VRF's, the label is not.
    OtherL3Vni {
        /// The VRF.
        vrf: Name,
        /// Its L3 VNI.
        vni: Vni,
        /// The route's.
        label: Vni,
    },
    /// The MAC is a port's: what the store says counts.
    Port(PortKey),
    /// Another route for the same MAC is better.
    Beaten(Rule),
}

/// Why one route is better than another (RFC 7432 §15.1, and FRR's order for what that leaves open).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Rule {
    /// Sticky beats dynamic.
    Sticky,
    /// The higher mobility sequence.
    Sequence,
    /// The lower next hop.
    NextHop,
    /// Equal in all that matters: the same VTEP.
    Same,
}

impl fmt::Display for Unused {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Unused::Ours => f.write_str("our own route, reflected"),
            Unused::Type(n) => write!(f, "hosts do nothing with type {n}"),
            Unused::Gateway => f.write_str("it has a gateway address, which is not followed"),
            Unused::NoRouterMac => f.write_str("it has no router MAC"),
            Unused::NoVrf(targets) if targets.is_empty() => f.write_str("it has no route target"),
            Unused::NoVrf(targets) => {
                f.write_str("no VRF imports ")?;
                list(f, targets)
            }
            Unused::NoL3Vni => f.write_str("a VRF imports it, but it names no L3 VNI"),
            Unused::OtherL3Vni { vrf, vni, label } => {
                write!(f, "its label {label} is not L3 VNI {vni} of VRF {vrf}")
            }
            Unused::NoTunnel => f.write_str("type 3 without a PMSI tunnel"),
            Unused::Node(node) => write!(f, "its next hop is node {node}, whose ports the store knows"),
            Unused::NoNetwork(targets) if targets.is_empty() => f.write_str("it has no route target"),
            Unused::NoNetwork(targets) => {
                f.write_str("no network imports ")?;
                list(f, targets)
            }
            Unused::OtherVni { network, vni, label } => {
                write!(f, "its label {label} is not VNI {vni} of network {network}")
            }
            Unused::Port(owner) => write!(f, "its MAC belongs to port {owner}"),
            Unused::Beaten(Rule::Sticky) => f.write_str("a sticky route for the MAC wins"),
            Unused::Beaten(Rule::Sequence) => f.write_str("a route with a higher mobility sequence wins"),
            Unused::Beaten(Rule::NextHop) => f.write_str("a route with a lower next hop wins"),
            Unused::Beaten(Rule::Same) => f.write_str("the same as a route that is used"),
        }
    }
}

fn list(f: &mut fmt::Formatter<'_>, targets: &[RouteTarget]) -> fmt::Result {
    for (i, target) in targets.iter().enumerate() {
        write!(f, "{}{target}", if i == 0 { "" } else { ", " })?;
    }
    Ok(())
}

/// A type 2 route for a MAC, as far as it competes with others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    peer: IpAddr,
    key: RouteKey,
    vtep: IpAddr,
    sequence: u32,
    sticky: bool,
    ip: Option<IpAddr>,
}

impl Candidate {
    /// Smaller is better.
    fn rank(&self) -> (bool, u32, IpAddr) {
        (!self.sticky, u32::MAX - self.sequence, self.vtep)
    }

    fn beats(&self, other: &Candidate) -> Rule {
        if self.sticky != other.sticky {
            Rule::Sticky
        } else if self.sequence != other.sequence {
            Rule::Sequence
        } else if self.vtep != other.vtep {
            Rule::NextHop
        } else {
            Rule::Same
        }
    }
}

/// A MAC that the fabric knows in a network of ours.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ImportedMac {
    /// Where it lives.
    pub vtep: IpAddr,
    /// Its addresses, ordered.
    pub addresses: Vec<IpAddr>,
    /// The highest mobility sequence with which each VTEP says it.
    pub sequences: BTreeMap<IpAddr, u32>,
}

impl ImportedMac {
    /// The highest mobility sequence with which a VTEP says it; 0 if it does not.
    pub fn sequence_at(&self, vtep: IpAddr) -> u32 {
        self.sequences.get(&vtep).copied().unwrap_or(0)
    }
}

/// VTEPs of equal cost, each with its router MAC.
pub type Ways = BTreeSet<(IpAddr, Mac)>;

/// What the fabric says, ready for nodes. Cheap to clone, never changed in place.
#[derive(Debug, Clone, Default)]
pub struct Imports {
    /// The best place of each MAC.
    pub macs: OrdMap<(NetworkKey, Mac), Arc<ImportedMac>>,
    /// VTEPs to flood to.
    pub floods: OrdSet<(NetworkKey, IpAddr)>,
    /// Index: who has an address.
    pub by_address: OrdMap<(NetworkKey, IpAddr), Mac>,
    /// Prefixes, and hosts by the L3 part of their type 2, of each VRF: VTEPs of equal cost with their router MACs.
    pub prefixes: OrdMap<(Name, Prefix), Arc<Ways>>,
}

impl Imports {
    /// Equal to `other`, but sharing with `self` what is the same, so that comparing the two costs their difference.
    fn changed_to(mut self, other: &Imports) -> Imports {
        let old = self.clone();
        for item in old.macs.diff(&other.macs) {
            match item {
                DiffItem::Remove(key, _) => self.macs.remove(key),
                DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => {
                    self.macs.insert(key.clone(), Arc::clone(value))
                }
            };
        }
        for item in old.by_address.diff(&other.by_address) {
            match item {
                DiffItem::Remove(key, _) => self.by_address.remove(key),
                DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => {
                    self.by_address.insert(key.clone(), *value)
                }
            };
        }
        for item in old.prefixes.diff(&other.prefixes) {
            match item {
                DiffItem::Remove(key, _) => self.prefixes.remove(key),
                DiffItem::Add(key, value) | DiffItem::Update { new: (key, value), .. } => {
                    self.prefixes.insert(key.clone(), Arc::clone(value))
                }
            };
        }
        self.floods = other.floods.clone();
        self
    }
}

/// All that peers have announced, and what of it is used. Types 2, 3 and 5 only.
#[derive(Debug, Default)]
pub struct ImportTable {
    policy: Policy,
    received: BTreeMap<(RouteKey, IpAddr), Arc<Attributes>>,
    candidates: BTreeMap<(NetworkKey, Mac), Vec<Candidate>>,
    addresses: BTreeMap<(NetworkKey, IpAddr), BTreeSet<Mac>>,
    flooders: BTreeMap<(NetworkKey, IpAddr), BTreeSet<(RouteKey, IpAddr)>>,
    prefixes: PrefixTable,
    imports: Imports,
}

impl ImportTable {
    /// What follows for nodes.
    pub fn imports(&self) -> &Imports {
        &self.imports
    }

    /// The policy in force.
    pub fn policy(&self) -> &Policy {
        &self.policy
    }

    /// Routes of types 2, 3 and 5 that are held.
    pub fn len(&self) -> usize {
        self.received.len()
    }

    /// True if nothing was received.
    pub fn is_empty(&self) -> bool {
        self.received.is_empty()
    }

    /// Takes over another policy: every route is judged again. True if it is a different one.
    pub fn set_policy(&mut self, policy: Policy) -> bool {
        if policy == self.policy {
            return false;
        }
        let before = std::mem::take(self);
        self.policy = policy;
        for ((key, peer), attributes) in before.received {
            self.announce(peer, key, attributes);
        }
        self.imports = before.imports.changed_to(&self.imports);
        true
    }

    /// Takes over what a peer said.
    pub fn apply(&mut self, peer: IpAddr, changes: Vec<RouteChange>) {
        for change in changes {
            match change {
                RouteChange::Announce(route) => {
                    self.withdraw(peer, &route.key);
                    self.announce(peer, route.key, route.attributes);
                }
                RouteChange::Withdraw(key) => self.withdraw(peer, &key),
            }
        }
    }

    fn announce(&mut self, peer: IpAddr, key: RouteKey, attributes: Arc<Attributes>) {
        if !matches!(key, RouteKey::MacIp { .. } | RouteKey::Imet { .. } | RouteKey::IpPrefix { .. }) {
            return;
        }
        if let Ok(prefixed) = self.policy.judge_prefix(&key, &attributes) {
            self.prefixes.add(&mut self.imports, peer, key, attributes.sequence, &prefixed);
        }
        let judged = self.policy.judge(&key, &attributes);
        if let Ok(Imported { network, vtep }) = judged {
            match key {
                RouteKey::MacIp { mac, ip, .. } => {
                    let (sequence, sticky) = (attributes.sequence, attributes.sticky);
                    let candidate = Candidate { peer, key, vtep, sequence, sticky, ip };
                    self.candidates.entry((network.clone(), mac)).or_default().push(candidate);
                    if let Some(ip) = ip {
                        self.addresses.entry((network.clone(), ip)).or_default().insert(mac);
                    }
                    self.settle(&network, mac, ip);
                }
                _ => {
                    self.flooders.entry((network.clone(), vtep)).or_default().insert((key, peer));
                    self.imports.floods.insert((network, vtep));
                }
            }
        }
        self.received.insert((key, peer), attributes);
    }

    fn withdraw(&mut self, peer: IpAddr, key: &RouteKey) {
        let Some(attributes) = self.received.remove(&(*key, peer)) else { return };
        if let Ok(prefixed) = self.policy.judge_prefix(key, &attributes) {
            self.prefixes.remove(&mut self.imports, peer, key, &prefixed);
        }
        let Ok(Imported { network, vtep }) = self.policy.judge(key, &attributes) else { return };
        match *key {
            RouteKey::MacIp { mac, ip, .. } => {
                let place = (network.clone(), mac);
                if let Some(candidates) = self.candidates.get_mut(&place) {
                    candidates.retain(|c| c.peer != peer || c.key != *key);
                    if candidates.is_empty() {
                        self.candidates.remove(&place);
                    }
                }
                self.settle(&network, mac, ip);
            }
            _ => {
                let place = (network, vtep);
                let Some(said) = self.flooders.get_mut(&place) else { return };
                said.remove(&(*key, peer));
                if said.is_empty() {
                    self.flooders.remove(&place);
                    self.imports.floods.remove(&place);
                }
            }
        }
    }

    /// Chooses again for a MAC and for those that share the address that changed.
    fn settle(&mut self, network: &NetworkKey, mac: Mac, ip: Option<IpAddr>) {
        let mut macs = BTreeSet::from([mac]);
        // A MAC whose best route changed may win or lose any of its addresses.
        let own = self.candidates.get(&(network.clone(), mac));
        let ips: BTreeSet<IpAddr> =
            own.into_iter().flatten().filter_map(|candidate| candidate.ip).chain(ip).collect();
        for ip in ips {
            let place = (network.clone(), ip);
            let Some(sharing) = self.addresses.get_mut(&place) else { continue };
            let candidates = &self.candidates;
            sharing.retain(|m| {
                let known = candidates.get(&(network.clone(), *m));
                known.is_some_and(|list| list.iter().any(|c| c.ip == Some(ip)))
            });
            macs.extend(sharing.iter().copied());
            let owner = self.owner_of(network, ip);
            if self.addresses.get(&place).is_some_and(BTreeSet::is_empty) {
                self.addresses.remove(&place);
            }
            match owner {
                Some(owner) => self.imports.by_address.insert(place, owner),
                None => self.imports.by_address.remove(&place),
            };
        }
        for mac in macs {
            self.publish(network, mac);
        }
    }

    /// The MAC that has an address: the one whose best route for it ranks first.
    fn owner_of(&self, network: &NetworkKey, ip: IpAddr) -> Option<Mac> {
        let macs = self.addresses.get(&(network.clone(), ip))?;
        let ranked = macs.iter().filter_map(|mac| {
            let list = self.candidates.get(&(network.clone(), *mac))?;
            let best = list.iter().filter(|c| c.ip == Some(ip)).map(Candidate::rank).min()?;
            Some((best, *mac))
        });
        ranked.min().map(|(_, mac)| mac)
    }

    fn publish(&mut self, network: &NetworkKey, mac: Mac) {
        let place = (network.clone(), mac);
        let old = self.imports.macs.get(&place).cloned();
        let new = self.best(network, mac).map(|best| {
            let vtep = best.vtep;
            let list = self.candidates.get(&place).into_iter().flatten();
            let mine = |ip: &IpAddr| self.imports.by_address.get(&(network.clone(), *ip)) == Some(&mac);
            let mut sequences: BTreeMap<IpAddr, u32> = BTreeMap::new();
            let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
            for candidate in list {
                let highest = sequences.entry(candidate.vtep).or_default();
                *highest = (*highest).max(candidate.sequence);
                addresses.extend(candidate.ip.filter(mine));
            }
            Arc::new(ImportedMac { vtep, addresses: addresses.into_iter().collect(), sequences })
        });
        if old == new {
            return;
        }
        match new {
            Some(new) => self.imports.macs.insert(place, new),
            None => self.imports.macs.remove(&place),
        };
    }

    fn best(&self, network: &NetworkKey, mac: Mac) -> Option<&Candidate> {
        let list = self.candidates.get(&(network.clone(), mac))?;
        list.iter().min_by_key(|c| (c.rank(), c.key, c.peer))
    }

    /// The port whose MAC a received route is about, and where the route says that it lives; `None` if there is no such
    /// route or it is no conflict.
    pub fn conflict(&self, snapshot: &Snapshot, peer: IpAddr, key: &RouteKey) -> Option<(PortKey, IpAddr)> {
        let RouteKey::MacIp { mac, .. } = *key else { return None };
        let attributes = self.received.get(&(*key, peer))?;
        let Imported { network, vtep } = self.policy.judge(key, attributes).ok()?;
        let owner = snapshot.by_mac.get(&(network, mac))?;
        // A switch with EVPN of its own says the port where it is, as it shall.
        let there = bound(snapshot, &owner.value.key).is_some_and(|bound| {
            place::vteps(snapshot, bound.node).any(|node| node.vtep == Some(vtep)) || bound.place.vtep == vtep
        });
        (!there).then(|| (owner.value.key.clone(), vtep))
    }

    /// Whether a received route is used, and by which rule not.
    pub fn verdict(
        &self,
        snapshot: &Snapshot,
        peer: IpAddr,
        key: &RouteKey,
        attributes: &Attributes,
    ) -> Result<Imported, Unused> {
        let imported = self.policy.judge(key, attributes)?;
        let RouteKey::MacIp { mac, .. } = *key else { return Ok(imported) };
        if let Some(owner) = snapshot.by_mac.get(&(imported.network.clone(), mac)) {
            return Err(Unused::Port(owner.value.key.clone()));
        }
        let Some(best) = self.best(&imported.network, mac) else { return Ok(imported) };
        if best.peer == peer && best.key == *key {
            return Ok(imported);
        }
        let list = self.candidates.get(&(imported.network.clone(), mac));
        match list.into_iter().flatten().find(|c| c.peer == peer && c.key == *key) {
            // MAC-only and MAC+IP of one VTEP both count: one for the FDB, the other for suppression.
            Some(mine) if best.beats(mine) != Rule::Same => Err(Unused::Beaten(best.beats(mine))),
            Some(mine) if mine.ip == best.ip => Err(Unused::Beaten(Rule::Same)),
            _ => Ok(imported),
        }
    }
}

#[cfg(test)]
mod tests;
