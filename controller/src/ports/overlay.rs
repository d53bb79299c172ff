//! What the snapshot does not show yet: ports whose transactions are under way or were committed a moment ago.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, Prefix, Revision};

use super::plan::{Effect, Part};
use crate::alloc::number;
use crate::model::{Binding, Port};
use crate::snapshot::{Runs, Snapshot};

/// Number of a transaction under way.
pub(super) type Flight = u64;

/// What is known beyond the snapshot.
#[derive(Debug, Default)]
pub struct Overlay {
    entries: BTreeMap<PortKey, Entry>,
    /// Keys by the revision at which the snapshot will show them.
    committed: BTreeMap<Revision, Vec<PortKey>>,
    addresses: BTreeMap<(Name, IpAddr), PortKey>,
    runs: BTreeMap<(Name, Prefix), Runs>,
    macs: BTreeMap<(NetworkKey, Mac), PortKey>,
}

#[derive(Debug, Default)]
struct Entry {
    /// As of the last committed transaction that the snapshot may not show.
    committed: Option<(Revision, Effect)>,
    /// As it will be if the transaction under way is committed.
    flight: Option<(Flight, Effect)>,
    /// Addresses with their subnets, and the MACs, that are claimed for it here.
    claims: Vec<(IpAddr, Prefix)>,
    macs: Vec<Mac>,
}

/// The store's content as far as it is known.
#[derive(Debug, Clone, Copy)]
pub struct View<'a> {
    /// What the watch has shown.
    pub snapshot: &'a Snapshot,
    /// What it will show.
    pub overlay: &'a Overlay,
}

impl Overlay {
    /// True if a transaction with this port is under way: what the port will be is not known.
    pub(super) fn in_flight(&self, key: &PortKey) -> bool {
        self.entries.get(key).is_some_and(|entry| entry.flight.is_some())
    }

    /// True if a port whose network was chosen by labels is about to be, or is beyond what the snapshot shows.
    pub(super) fn knows(&self, key: &PortKey) -> bool {
        let selected =
            |effect: &Effect| effect.port.as_ref().is_some_and(|port| !port.value.select.is_empty());
        self.entries.get(key).is_some_and(|entry| {
            entry.flight.as_ref().is_some_and(|(_, effect)| selected(effect))
                || entry.committed.as_ref().is_some_and(|(_, effect)| selected(effect))
        })
    }

    /// The revision that the snapshot must reach to show all that is committed.
    pub(super) fn newest_committed(&self) -> Option<Revision> {
        self.committed.keys().next_back().copied()
    }

    /// A transaction goes out.
    pub(super) fn depart(&mut self, flight: Flight, effect: &Effect, snapshot: &Snapshot) {
        self.change(&effect.key, snapshot, |entry| entry.flight = Some((flight, effect.clone())));
    }

    /// It was not committed, or nobody knows.
    pub(super) fn fail(&mut self, key: &PortKey, snapshot: &Snapshot) {
        self.change(key, snapshot, |entry| entry.flight = None);
    }

    /// It was committed.
    pub(super) fn commit(&mut self, key: &PortKey, at: Revision, snapshot: &Snapshot) {
        self.change(key, snapshot, |entry| {
            if let Some((_, effect)) = entry.flight.take() {
                entry.committed = Some((at, effect.committed(at)));
            }
        });
        self.committed.entry(at).or_default().push(key.clone());
    }

    /// The snapshot shows everything up to its revision.
    pub(super) fn seen(&mut self, snapshot: &Snapshot) {
        let later = self.committed.split_off(&Revision(snapshot.revision.0 + 1));
        let shown = std::mem::replace(&mut self.committed, later);
        for key in shown.into_values().flatten() {
            self.change(&key, snapshot, |entry| {
                if entry.committed.as_ref().is_some_and(|(at, _)| *at <= snapshot.revision) {
                    entry.committed = None;
                }
            });
        }
    }

    fn change(&mut self, key: &PortKey, snapshot: &Snapshot, change: impl FnOnce(&mut Entry)) {
        let mut entry = self.entries.remove(key).unwrap_or_default();
        self.unclaim(key, &entry);
        change(&mut entry);
        if entry.committed.is_none() && entry.flight.is_none() {
            return;
        }
        self.claim(key, &mut entry, snapshot);
        self.entries.insert(key.clone(), entry);
    }

    fn unclaim(&mut self, key: &PortKey, entry: &Entry) {
        let vrf = &key.network.vrf;
        for (address, subnet) in &entry.claims {
            self.addresses.remove(&(vrf.clone(), *address));
            let place = (vrf.clone(), *subnet);
            if let Some(runs) = self.runs.get_mut(&place) {
                runs.remove(number(*address));
                if runs.is_empty() {
                    self.runs.remove(&place);
                }
            }
        }
        for mac in &entry.macs {
            self.macs.remove(&(key.network.clone(), *mac));
        }
    }

    fn claim(&mut self, key: &PortKey, entry: &mut Entry, snapshot: &Snapshot) {
        let vrf = &key.network.vrf;
        let effects = [entry.committed.as_ref().map(|(_, e)| e), entry.flight.as_ref().map(|(_, e)| e)];
        let ports: Vec<&Port> =
            effects.into_iter().flatten().filter_map(|e| e.port.as_ref()).map(|p| &p.value).collect();
        let mut claims: Vec<(IpAddr, Prefix)> = Vec::new();
        for address in ports.iter().flat_map(|port| &port.addresses) {
            if let Some(subnet) = snapshot.subnet_at(vrf, *address)
                && !claims.iter().any(|(known, _)| known == address)
            {
                claims.push((*address, subnet.value.prefix));
            }
        }
        for (address, subnet) in &claims {
            self.addresses.insert((vrf.clone(), *address), key.clone());
            self.runs.entry((vrf.clone(), *subnet)).or_default().insert(number(*address));
        }
        let macs: Vec<Mac> = ports.iter().flat_map(|port| port.macs()).collect();
        for mac in &macs {
            self.macs.insert((key.network.clone(), *mac), key.clone());
        }
        (entry.claims, entry.macs) = (claims, macs);
    }
}

impl Effect {
    /// With the revision of its transaction.
    fn committed(mut self, at: Revision) -> Self {
        if let Some(port) = &mut self.port {
            port.revision.get_or_insert(at);
        }
        if let Some(binding) = &mut self.binding {
            binding.revision.get_or_insert(at);
        }
        self
    }
}

fn with_revision<T>(part: &Part<T>) -> (&T, Revision) {
    (&part.value, part.revision.unwrap_or_default())
}

impl<'a> View<'a> {
    /// What the overlay knows of a port, if it is newer than the snapshot.
    fn newer(&self, key: &PortKey) -> Option<&'a Effect> {
        let (at, effect) = self.overlay.entries.get(key)?.committed.as_ref()?;
        (*at > self.snapshot.revision).then_some(effect)
    }

    /// The port and the revision of its last change.
    pub fn port(&self, key: &PortKey) -> Option<(&'a Port, Revision)> {
        match self.newer(key) {
            Some(effect) => effect.port.as_ref().map(with_revision),
            None => self.snapshot.ports.get(key).map(|r| (&r.value, r.revision)),
        }
    }

    /// Its binding and the revision of that one's last change.
    pub fn binding(&self, key: &PortKey) -> Option<(&'a Binding, Revision)> {
        match self.newer(key) {
            Some(effect) => effect.binding.as_ref().map(with_revision),
            None => self.snapshot.bindings.get(key).map(|r| (&r.value, r.revision)),
        }
    }

    /// Its binding as it is, for an effect.
    pub(super) fn binding_part(&self, key: &PortKey) -> Option<Part<Binding>> {
        self.binding(key).map(|(binding, at)| Part { value: binding.clone(), revision: Some(at) })
    }

    /// Who has an address, and the revision at which that port was seen; `None` for one under way.
    pub fn address_owner(&self, vrf: &Name, address: IpAddr) -> Option<(&'a PortKey, Option<Revision>)> {
        let place = (vrf.clone(), address);
        if let Some(owner) = self.overlay.addresses.get(&place) {
            return Some((owner, None));
        }
        let owner = self.snapshot.by_address.get(&place)?;
        self.still(owner, |port| port.addresses.contains(&address))
    }

    /// Who has a MAC, be it while a move changes it.
    pub fn mac_owner(&self, network: &NetworkKey, mac: Mac) -> Option<(&'a PortKey, Option<Revision>)> {
        let place = (network.clone(), mac);
        if let Some(owner) = self.overlay.macs.get(&place) {
            return Some((owner, None));
        }
        self.still(self.snapshot.mac_holder(&place)?, |port| port.macs().any(|has| has == mac))
    }

    /// The owner that the snapshot names, unless it was given up since.
    fn still(
        &self,
        owner: &'a crate::snapshot::Record<Port>,
        has: impl Fn(&Port) -> bool,
    ) -> Option<(&'a PortKey, Option<Revision>)> {
        match self.newer(&owner.value.key) {
            Some(effect) if !effect.port.as_ref().is_some_and(|port| has(&port.value)) => None,
            _ => Some((&owner.value.key, Some(owner.revision))),
        }
    }

    /// Addresses of a subnet that are taken beyond those of the snapshot.
    pub(super) fn reserved(&self, vrf: &Name, prefix: Prefix) -> Option<&'a Runs> {
        self.overlay.runs.get(&(vrf.clone(), prefix))
    }
}
