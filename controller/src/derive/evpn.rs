//! Which EVPN routes follow from the store's content.
//!
//! | route | when | next hop |
//! |---|---|---|
//! | type 2, MAC+IP, one an address | a port with addresses is bound | its node's VTEP |
//! | type 2, MAC only | a port without addresses is bound | its node's VTEP |
//! | type 3 | at least one port of the network is bound to the node | the node's VTEP, which is originator and tunnel too |
//!
//! No type 5 is originated: where hosts are the VTEPs and nobody routes between networks there is no router that a
//! prefix could point at.
//!
//! **Distinguisher and target.** RD is `router-id:number` with the network's number from the store: the same for every
//! VTEP of the network, so that a move is one implicit replace, and another one for each controller. RT is what the
//! network declares, else `asn:vni`; where that does not fit into eight bytes the network is left out as a whole, with
//! a [`Skip`] that says so.
//!
//! **Mobility sequence.** It is the binding's generation less one: 0, thus absent, for the first place, and higher with
//! every later one. The store gives generations, so all controllers send the same number, and a controller that lags
//! behind in the store sends a lower one and loses (RFC 7432 §15.1) instead of winning by a lower next hop. A switch
//! that remembers the number of a MAC it has seen move (zebra of FRR 8.4 does, over a withdrawal) still takes the new
//! place. Generations outlive an unbind, and the store's ledger carries them over to the next port with the same MAC.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use causeway_bgp::{Attributes, Esi, Pmsi, Route, RouteChange, RouteDistinguisher, RouteKey, RouteTarget};
use causeway_proto::{Name, NetworkKey, PortKey, Vni};

use super::{Bound, Changed, bound, is_present, ports_of_network, ports_of_node};
use crate::model::Network;
use crate::snapshot::Snapshot;

/// What this controller puts into its routes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Context {
    /// Its AS number.
    pub asn: u32,
    /// Its BGP identifier.
    pub router_id: Ipv4Addr,
}

/// What routes are derived from, each by itself.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub enum Unit {
    /// A network's flooding at a node: type 3.
    Flood(NetworkKey, Name),
    /// A port: type 2.
    Port(PortKey),
}

/// Why a bound port or a network gets no route.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Skip {
    /// A route target holds a 4-octet AS and 16 bits, or a 2-octet AS and 32 bits (RFC 4360, RFC 5668).
    #[error(
        "no route target can be made of AS {asn} and VNI {vni}: with an AS above 65535 only VNIs up to 65535 fit; \
         declare export_targets"
    )]
    TargetDoesNotFit {
        /// The controller's AS.
        asn: u32,
        /// The network's VNI.
        vni: Vni,
    },
}

/// Shares equal attributes between routes: there are as many as (network, VTEP, sequence), not as routes.
#[derive(Debug, Default)]
pub struct Interner {
    known: BTreeSet<Arc<Attributes>>,
    sweep_at: usize,
}

impl Interner {
    /// The shared value.
    pub fn share(&mut self, attributes: Attributes) -> Arc<Attributes> {
        if let Some(known) = self.known.get(&attributes) {
            return Arc::clone(known);
        }
        if self.known.len() >= self.sweep_at {
            self.known.retain(|value| Arc::strong_count(value) > 1);
            self.sweep_at = (self.known.len() * 2).max(1024);
        }
        let value = Arc::new(attributes);
        self.known.insert(Arc::clone(&value));
        value
    }
}

/// Route targets that the network's MAC routes carry, ordered.
pub fn export_targets(network: &Network, asn: u32) -> Result<Vec<RouteTarget>, Skip> {
    let mut targets = network.export_targets.clone();
    if targets.is_empty() {
        let target = RouteTarget::new(asn, network.vni.get());
        targets.push(target.ok_or(Skip::TargetDoesNotFit { asn, vni: network.vni })?);
    }
    targets.sort_unstable();
    targets.dedup();
    Ok(targets)
}

/// Route targets whose MAC routes belong to the network: declared, else those it exports, else none.
pub fn import_targets(network: &Network, asn: u32) -> Vec<RouteTarget> {
    if network.import_targets.is_empty() {
        export_targets(network, asn).unwrap_or_default()
    } else {
        network.import_targets.clone()
    }
}

/// The unit's routes; empty where nothing is bound.
pub fn routes(snapshot: &Snapshot, context: &Context, unit: &Unit) -> Result<Vec<Route>, Skip> {
    match unit {
        Unit::Port(key) => port_routes(snapshot, context, key),
        Unit::Flood(network, node) => flood_route(snapshot, context, network, node),
    }
}

/// Type 2 routes of a port.
pub fn port_routes(snapshot: &Snapshot, context: &Context, key: &PortKey) -> Result<Vec<Route>, Skip> {
    let Some(Bound { port, binding, network, place, .. }) = bound(snapshot, key) else {
        return Ok(Vec::new());
    };
    let mut attributes = attributes(network, place.vtep, context)?;
    attributes.sequence = sequence(binding.generation);
    let attributes = Arc::new(attributes);
    let rd = RouteDistinguisher::new(context.router_id, network.rd_number);
    let route = |ip| Route {
        key: RouteKey::MacIp { rd, etag: 0, mac: port.mac, ip },
        attributes: Arc::clone(&attributes),
    };
    if port.addresses.is_empty() {
        Ok(vec![route(None)])
    } else {
        Ok(port.addresses.iter().map(|address| route(Some(*address))).collect())
    }
}

/// The type 3 route of a network at a node.
fn flood_route(
    snapshot: &Snapshot,
    context: &Context,
    network: &NetworkKey,
    node: &Name,
) -> Result<Vec<Route>, Skip> {
    if !is_present(snapshot, node, network) {
        return Ok(Vec::new());
    }
    let (Some(network), Some(node)) = (snapshot.networks.get(network), snapshot.nodes.get(node)) else {
        return Ok(Vec::new());
    };
    let network = &network.value;
    let Some(vtep) = node.value.vtep else { return Ok(Vec::new()) };
    let mut attributes = attributes(network, vtep, context)?;
    attributes.pmsi = Some(Pmsi { vni: network.vni, tunnel: vtep });
    let rd = RouteDistinguisher::new(context.router_id, network.rd_number);
    let key = RouteKey::Imet { rd, etag: 0, originator: vtep };
    Ok(vec![Route { key, attributes: Arc::new(attributes) }])
}

/// Mobility sequence of a binding. 32 bits are four thousand million moves of one port.
pub fn sequence(generation: u64) -> u32 {
    u32::try_from(generation.saturating_sub(1)).unwrap_or(u32::MAX)
}

fn attributes(network: &Network, vtep: IpAddr, context: &Context) -> Result<Attributes, Skip> {
    Ok(Attributes {
        next_hop: vtep,
        vni: Some(network.vni),
        l3_vni: None,
        route_targets: export_targets(network, context.asn)?,
        sequence: 0,
        sticky: false,
        router_mac: None,
        default_gateway: false,
        pmsi: None,
        esi: Esi::default(),
        gateway: None,
    })
}

/// All routes of a snapshot. A million ports pass through here at the start: nothing but the result is collected.
pub fn all_routes(snapshot: &Snapshot, context: &Context, interner: &mut Interner) -> Vec<Route> {
    let mut all = Vec::with_capacity(snapshot.by_node.len());
    let mut last: Option<(&Name, &NetworkKey)> = None;
    // Ordered by node, then by network: each network at a node is one run.
    for (node, key) in &snapshot.by_node {
        if last != Some((node, &key.network)) {
            last = Some((node, &key.network));
            let flood = flood_route(snapshot, context, &key.network, node).unwrap_or_default();
            all.extend(flood.into_iter().map(|route| share(route, interner)));
        }
        let routes = port_routes(snapshot, context, key).unwrap_or_default();
        all.extend(routes.into_iter().map(|route| share(route, interner)));
    }
    all
}

fn share(route: Route, interner: &mut Interner) -> Route {
    let attributes = Arc::try_unwrap(route.attributes).unwrap_or_else(|shared| (*shared).clone());
    Route { key: route.key, attributes: interner.share(attributes) }
}

/// Units whose routes may differ between two snapshots.
pub fn dirty_units(old: &Snapshot, new: &Snapshot, changed: &Changed) -> BTreeSet<Unit> {
    let mut units = BTreeSet::new();
    for key in &changed.ports {
        add_port(&mut units, [old, new], key);
    }
    for snapshot in [old, new] {
        for network in &changed.networks {
            for key in ports_of_network(snapshot, network) {
                add_port(&mut units, [old, new], key);
            }
        }
        for node in &changed.nodes {
            for key in ports_of_node(snapshot, node) {
                add_port(&mut units, [old, new], key);
            }
        }
    }
    units
}

fn add_port(units: &mut BTreeSet<Unit>, snapshots: [&Snapshot; 2], key: &PortKey) {
    for snapshot in snapshots {
        if let Some(binding) = snapshot.bindings.get(key) {
            units.insert(Unit::Flood(key.network.clone(), binding.value.node.clone()));
        }
    }
    units.insert(Unit::Port(key.clone()));
}

/// What turns the routes of one snapshot into those of another: new and moved routes first, then withdrawals.
pub fn route_changes(
    old: &Snapshot,
    new: &Snapshot,
    context: &Context,
    units: &BTreeSet<Unit>,
    interner: &mut Interner,
) -> Vec<RouteChange> {
    // By key over all units, as a route may pass from one port to another: that is a replace and not a withdrawal.
    let collect = |snapshot: &Snapshot| -> BTreeMap<RouteKey, Arc<Attributes>> {
        let routes = units.iter().flat_map(|unit| routes(snapshot, context, unit).unwrap_or_default());
        routes.map(|route| (route.key, route.attributes)).collect()
    };
    let (before, after) = (collect(old), collect(new));
    let mut changes = Vec::new();
    for (key, attributes) in &after {
        if before.get(key) != Some(attributes) {
            let route = Route { key: *key, attributes: interner.share((**attributes).clone()) };
            changes.push(RouteChange::Announce(route));
        }
    }
    let gone = before.keys().filter(|key| !after.contains_key(key));
    changes.extend(gone.map(|key| RouteChange::Withdraw(*key)));
    changes
}

#[cfg(test)]
mod tests;
