//! What the fabric says about networks of ours: which received routes are used, by which rule, and what follows.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::Arc;

use causeway_bgp::{Attributes, RouteChange, RouteKey};
use causeway_proto::{Mac, Name, NetworkKey, PortKey, Prefix};
use imbl::ordmap::DiffItem;
use imbl::{OrdMap, OrdSet};

use super::best::{Claim, Rule};
use super::{bound, place};
use crate::snapshot::Snapshot;
use prefixes::PrefixTable;

pub use policy::{Imported, Policy, Prefixed, Unused};

mod policy;
mod prefixes;

/// A type 2 route for a MAC, as far as it competes with others.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Candidate {
    peer: IpAddr,
    key: RouteKey,
    claim: Claim,
    ip: Option<IpAddr>,
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
    /// The highest mobility sequence above 0 with which controllers have said a MAC at our own nodes, as far as the
    /// fabric says it back: a store that was restored from an older copy may not know it.
    pub echoes: OrdMap<(NetworkKey, Mac), u32>,
    /// Sequences with which this controller has itself said MACs, and that its store has forgotten since: it was restored
    /// from an older copy meanwhile. Nothing lower is said of them any more.
    pub own: OrdMap<(NetworkKey, Mac), u32>,
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
        self.echoes = other.echoes.clone();
        self.own = other.own.clone();
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
    /// Routes for our own nodes with a sequence above 0.
    echoes: BTreeMap<(NetworkKey, Mac), BTreeMap<(RouteKey, IpAddr), u32>>,
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
        self.imports.own = before.imports.own.clone();
        for ((key, peer), attributes) in before.received {
            self.announce(peer, key, attributes);
        }
        self.imports = before.imports.changed_to(&self.imports);
        true
    }

    /// Remembers what this controller has said of a MAC.
    pub fn remember(&mut self, place: (NetworkKey, Mac), sequence: u32) {
        let known = self.imports.own.get(&place).copied().unwrap_or(0);
        self.imports.own.insert(place, known.max(sequence));
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
        self.echo(peer, &key, &attributes, true);
        let judged = self.policy.judge(&key, &attributes);
        if let Ok(Imported { network, vtep }) = judged {
            match key {
                RouteKey::MacIp { mac, ip, .. } => {
                    let candidate = Candidate { peer, key, claim: Claim::of(&attributes), ip };
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
        self.echo(peer, key, &attributes, false);
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

    /// A route for one of our own nodes comes or goes.
    fn echo(&mut self, peer: IpAddr, key: &RouteKey, attributes: &Attributes, comes: bool) {
        let RouteKey::MacIp { mac, .. } = *key else { return };
        let Some(network) = self.policy.echo(key, attributes).filter(|_| attributes.sequence > 0) else {
            return;
        };
        let place = (network, mac);
        let said = self.echoes.entry(place.clone()).or_default();
        match comes {
            true => said.insert((*key, peer), attributes.sequence),
            false => said.remove(&(*key, peer)),
        };
        match said.values().max().copied() {
            Some(highest) => {
                self.imports.echoes.insert(place, highest);
            }
            None => {
                self.echoes.remove(&place);
                self.imports.echoes.remove(&place);
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
            let best = list.iter().filter(|c| c.ip == Some(ip)).map(|c| c.claim.rank()).min()?;
            Some((best, *mac))
        });
        ranked.min().map(|(_, mac)| mac)
    }

    fn publish(&mut self, network: &NetworkKey, mac: Mac) {
        let place = (network.clone(), mac);
        let old = self.imports.macs.get(&place).cloned();
        let new = self.best(network, mac).map(|best| {
            let vtep = best.claim.vtep;
            let list = self.candidates.get(&place).into_iter().flatten();
            let mine = |ip: &IpAddr| self.imports.by_address.get(&(network.clone(), *ip)) == Some(&mac);
            let mut sequences: BTreeMap<IpAddr, u32> = BTreeMap::new();
            let mut addresses: BTreeSet<IpAddr> = BTreeSet::new();
            for candidate in list {
                let highest = sequences.entry(candidate.claim.vtep).or_default();
                *highest = (*highest).max(candidate.claim.sequence);
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
        list.iter().min_by_key(|c| (c.claim.rank(), c.key, c.peer))
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
            Some(mine) => match best.claim.against(&mine.claim).0 {
                Rule::Same if mine.ip != best.ip => Ok(imported),
                rule => Err(Unused::Beaten(rule)),
            },
            None => Ok(imported),
        }
    }
}

#[cfg(test)]
mod tests;
