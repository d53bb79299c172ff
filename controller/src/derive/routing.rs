//! Routing domains: which networks are routed and how, and which domain takes up routes of which.

use std::collections::BTreeSet;

use causeway_bgp::RouteTarget;
use causeway_proto::{Name, NetworkKey, Prefix, Vni};

use super::View;
use super::evpn::{Skip, export_targets};
use crate::model::{Irb, Vrf};
use crate::snapshot::Snapshot;

/// The main table, that of the VRF `default`.
const MAIN_TABLE: u32 = 254;
/// Tables of VRFs are numbered above this.
const FIRST_TABLE: u32 = 1000;

/// A VRF whose traffic can be routed through the fabric.
#[derive(Debug, Clone, Copy)]
pub struct Domain<'a> {
    /// The record.
    pub vrf: &'a Vrf,
    /// Its L3 VNI.
    pub vni: Vni,
}

/// The VRF, if it has an L3 VNI, and a number for its distinguisher.
pub fn domain<'a>(snapshot: &'a Snapshot, vrf: &Name) -> Option<Domain<'a>> {
    let vrf = &snapshot.vrfs.get(vrf)?.value;
    (vrf.rd_number != 0).then_some(Domain { vrf, vni: vrf.l3_vni? })
}

/// Number of a VRF's kernel table, the same on all nodes; `None` for one that nobody declared since controllers route.
pub fn table(vrf: &Vrf) -> Option<u32> {
    if vrf.name == Name::default_vrf() {
        return Some(MAIN_TABLE);
    }
    (vrf.rd_number != 0).then(|| FIRST_TABLE + u32::from(vrf.rd_number))
}

/// How a network is routed: as it says, if its VRF can.
pub fn irb(snapshot: &Snapshot, network: &NetworkKey) -> Irb {
    let Some(record) = snapshot.networks.get(network) else { return Irb::None };
    match record.value.irb {
        Some(Irb::None) => Irb::None,
        Some(Irb::Asymmetric) => {
            let can = snapshot.vrfs.get(&network.vrf).is_some_and(|vrf| table(&vrf.value).is_some());
            if can { Irb::Asymmetric } else { Irb::None }
        }
        Some(Irb::Symmetric) | None if domain(snapshot, &network.vrf).is_some() => Irb::Symmetric,
        Some(Irb::Symmetric) | None => Irb::None,
    }
}

/// Networks of a VRF that are routed asymmetrically.
pub fn asymmetric_networks<'a>(
    snapshot: &'a Snapshot,
    vrf: &'a Name,
) -> impl Iterator<Item = NetworkKey> + 'a {
    let networks = snapshot.networks_of(vrf).map(|record| &record.value);
    // Most do not say so; only then is the VRF looked up.
    let networks = networks.filter(|network| network.irb == Some(Irb::Asymmetric));
    networks
        .filter(|network| irb(snapshot, &network.key) == Irb::Asymmetric)
        .map(|network| network.key.clone())
}

/// Route targets of a VRF's routes: declared, else `asn:l3vni`.
pub fn vrf_exports(domain: &Domain<'_>, asn: u32) -> Result<Vec<RouteTarget>, Skip> {
    let mut targets = domain.vrf.export_targets.clone();
    if targets.is_empty() {
        let target = RouteTarget::new(asn, domain.vni.get());
        targets.push(target.ok_or(Skip::TargetDoesNotFit { asn, vni: domain.vni })?);
    }
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}

/// Route targets that a VRF takes up: declared, else those it exports, else none.
pub fn vrf_imports(domain: &Domain<'_>, asn: u32) -> Vec<RouteTarget> {
    if domain.vrf.import_targets.is_empty() {
        vrf_exports(domain, asn).unwrap_or_default()
    } else {
        domain.vrf.import_targets.clone()
    }
}

/// What a VRF takes up of another one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Leak {
    /// The other one.
    pub from: Name,
    /// Only these networks' subnets; `None`: all prefixes.
    pub networks: Option<BTreeSet<NetworkKey>>,
}

/// What a VRF takes up of others, by their targets or those of their networks. A VRF that declares no imports takes up
/// its own only.
pub fn leaks(view: &View, vrf: &Name) -> Vec<Leak> {
    let snapshot = &view.snapshot;
    let Some(own) = domain(snapshot, vrf).filter(|own| !own.vrf.import_targets.is_empty()) else {
        return Vec::new();
    };
    let wanted: BTreeSet<RouteTarget> = vrf_imports(&own, view.asn).into_iter().collect();
    let takes = |targets: Result<Vec<RouteTarget>, Skip>| {
        targets.is_ok_and(|targets| targets.iter().any(|target| wanted.contains(target)))
    };
    let mut leaks = Vec::new();
    for name in snapshot.vrfs.keys().filter(|name| *name != vrf) {
        let Some(other) = domain(snapshot, name) else { continue };
        if takes(vrf_exports(&other, view.asn)) {
            leaks.push(Leak { from: name.clone(), networks: None });
            continue;
        }
        let networks: BTreeSet<NetworkKey> = snapshot
            .networks_of(name)
            .filter(|network| takes(export_targets(&network.value, view.asn)))
            .map(|network| network.value.key.clone())
            .collect();
        if !networks.is_empty() {
            leaks.push(Leak { from: name.clone(), networks: Some(networks) });
        }
    }
    leaks
}

impl Leak {
    /// True if this prefix of the other VRF is taken up: a subnet that is routed, a declared route, or one that the
    /// fabric says.
    pub fn takes(&self, view: &View, prefix: Prefix) -> bool {
        let snapshot = &view.snapshot;
        let subnet = snapshot.subnets.get(&(self.from.clone(), prefix)).map(|record| &record.value.network);
        let of_network = subnet.is_some_and(|network| {
            self.networks.as_ref().is_none_or(|networks| networks.contains(network))
                && irb(snapshot, network) != Irb::None
        });
        if of_network || self.networks.is_some() {
            return of_network;
        }
        let declared = domain(snapshot, &self.from)
            .is_some_and(|domain| domain.vrf.routes.iter().any(|route| route.prefix == prefix));
        let host = if prefix.is_ipv4() { 32 } else { 128 };
        let heard = || view.imports.prefixes.contains_key(&(self.from.clone(), prefix));
        declared || (prefix.length() < host && heard())
    }

    /// Every prefix that may be taken up, and perhaps more.
    pub fn prefixes<'a>(&'a self, view: &'a View) -> impl Iterator<Item = Prefix> + 'a {
        prefixes_of(view, &self.from)
    }
}

/// Prefixes of a VRF other than ports' hosts: subnets, declared routes, what the fabric says.
pub fn prefixes_of<'a>(view: &'a View, vrf: &'a Name) -> impl Iterator<Item = Prefix> + 'a {
    let subnets = view.snapshot.subnets_of_vrf(vrf).map(|record| record.value.prefix);
    let record = view.snapshot.vrfs.get(vrf);
    let declared = record.into_iter().flat_map(|vrf| vrf.value.routes.iter().map(|route| route.prefix));
    let lowest = Prefix::containing(std::net::Ipv4Addr::UNSPECIFIED.into(), 0)
        .unwrap_or_else(|| Prefix::host(std::net::Ipv4Addr::UNSPECIFIED.into()));
    let heard = view.imports.prefixes.range((vrf.clone(), lowest)..);
    let heard = heard.take_while(move |((v, _), _)| v == vrf).map(|((_, prefix), _)| *prefix);
    subnets.chain(declared).chain(heard)
}
