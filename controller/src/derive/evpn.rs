//! Which EVPN routes follow from the store's content and from what the fabric says.
//!
//! | route | when | next hop |
//! |---|---|---|
//! | type 2, MAC+IP, one an address | a port with addresses is bound | the VTEP where it enters the fabric |
//! | type 2, MAC only | a port without addresses is bound | the same |
//! | type 3 | the network is at a VTEP that speaks no EVPN itself | that VTEP, which is originator and tunnel too |
//! | type 5 | a VRF with an L3 VNI has a declared route, or a subnet that is routed somewhere | the route's VTEP |
//!
//! **Who speaks for whom.** For host VTEPs, `tor-agent` and `tor-static` switches this is all that the fabric hears. A
//! `tor-evpn` switch speaks for itself: we add the MAC+IP of ports behind it, and no type 3 or 5.
//!
//! **Routing** (RFC 9135). A MAC+IP of a symmetric network carries the L3 VNI as second label, the VRF's targets and
//! the VTEP's router MAC; a MAC alone carries neither, an asymmetric network's none of the three. Type 5 is
//! interface-less (RFC 9136 §4.4.1). A connected subnet has one at each of its VTEPs, the lowest
//! [`CONNECTED_WAYS`], for receivers to spread over: distinguisher and prefix are a route's whole identity, so each has
//! a distinguisher of its own. Hosts have routes of their own, so only what nobody knows takes these ways. Gateways have no route: they have the same MAC everywhere, so each VTEP answers for itself.
//!
//! **Distinguisher and target.** RD is `router-id:number` with the number of the network or VRF from the store: the
//! same for every VTEP, so that a move is one implicit replace, and another one for each controller. Connected subnets
//! have the VRF's at the lowest VTEP and its further ones at those above. RT is what the
//! network declares, else `asn:vni`; where that does not fit into eight bytes the network is left out as a whole, with
//! a [`Skip`] that says so.
//!
//! **Mobility sequence.** It is the binding's generation less one: 0, thus absent, for the first place, and higher with
//! every later one. The store gives generations, so all controllers send the same number, and a controller that lags
//! behind in the store sends a lower one and loses (RFC 7432 §15.1) instead of winning by a lower next hop. A switch
//! that remembers the number of a MAC it has seen move (zebra of FRR 8.4 does, over a withdrawal) still takes the new
//! place. Generations outlive an unbind, and the store's ledger carries them over to the next port with the same MAC.
//!
//! Behind a `tor-evpn` switch the switch counts too: ours is the higher of both. If another VTEP says the MAC with a
//! higher sequence than that, it has moved and nobody told us: our routes for it are withdrawn until that ends, for
//! nothing is fought over. They are not re-pointed: each controller would take another's for the fabric's word, and
//! the place would live on after the host had left it.

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, Ipv4Addr};
use std::sync::Arc;

use causeway_bgp::{Attributes, Esi, Pmsi, Route, RouteChange, RouteDistinguisher, RouteKey, RouteTarget};
use causeway_proto::{Mac, Name, NetworkKey, PortKey, Prefix, Vni};

use super::presence::{is_bridged_at, networks_of_node, router_mac_at, vteps_of_network};
use super::routing::{asymmetric_networks, domain, irb, vrf_exports};
use super::{Changed, View, bound, drifted, mobility, nodes_of, place, ports_of_network, ports_of_node};
use crate::model::{CONNECTED_WAYS, Irb, Network, NodeMode};
use crate::snapshot::Snapshot;

mod units;

pub use units::{dirty_imports, dirty_units};

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
    /// A network's flooding at a VTEP: type 3.
    Flood(NetworkKey, IpAddr),
    /// A port: type 2.
    Port(PortKey),
    /// A prefix of a VRF: type 5.
    Prefix(Name, Prefix),
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
pub fn routes(view: &View, context: &Context, unit: &Unit) -> Result<Vec<Route>, Skip> {
    match unit {
        Unit::Port(key) => port_routes(view, context, key),
        Unit::Flood(network, vtep) => flood_route(&view.snapshot, context, network, *vtep),
        Unit::Prefix(vrf, prefix) => prefix_routes(&view.snapshot, context, vrf, *prefix),
    }
}

/// Type 2 routes of a port.
pub fn port_routes(view: &View, context: &Context, key: &PortKey) -> Result<Vec<Route>, Skip> {
    let snapshot = &view.snapshot;
    let Some(bound) = bound(snapshot, key) else { return Ok(Vec::new()) };
    let (Some(mac), None) = (bound.wire_mac(), drifted(view, &bound)) else { return Ok(Vec::new()) };
    let (port, network, place) = (bound.port, bound.network, bound.place);
    let mut plain = attributes(network, place.vtep, context)?;
    let Some(sequence) = mobility(view, &bound).announce else { return Ok(Vec::new()) };
    plain.sequence = sequence;
    plain.esi = place.esi;
    let rd = RouteDistinguisher::new(context.router_id, network.rd_number);
    let route = |ip, attributes: &Arc<Attributes>| Route {
        key: RouteKey::MacIp { rd, etag: 0, mac, ip },
        attributes: Arc::clone(attributes),
    };
    if port.answers().next().is_none() {
        return Ok(vec![route(None, &Arc::new(plain))]);
    }
    let routed = domain(snapshot, &key.network.vrf).filter(|_| irb(snapshot, &key.network) == Irb::Symmetric);
    if let (Some(domain), Some(router_mac)) = (routed, place.router_mac) {
        plain.route_targets.extend(vrf_exports(&domain, context.asn)?);
        plain.route_targets.sort_unstable();
        plain.route_targets.dedup();
        plain.l3_vni = Some(domain.vni);
        plain.router_mac = Some(router_mac);
    }
    let attributes = Arc::new(plain);
    Ok(port.answers().map(|address| route(Some(address), &attributes)).collect())
}

/// The type 3 route of a network at a VTEP.
fn flood_route(
    snapshot: &Snapshot,
    context: &Context,
    network: &NetworkKey,
    vtep: IpAddr,
) -> Result<Vec<Route>, Skip> {
    if !is_bridged_at(snapshot, vtep, network) {
        return Ok(Vec::new());
    }
    let Some(network) = snapshot.networks.get(network) else { return Ok(Vec::new()) };
    let network = &network.value;
    let mut attributes = attributes(network, vtep, context)?;
    attributes.pmsi = Some(Pmsi { vni: network.vni, tunnel: vtep });
    let rd = RouteDistinguisher::new(context.router_id, network.rd_number);
    let key = RouteKey::Imet { rd, etag: 0, originator: vtep };
    Ok(vec![Route { key, attributes: Arc::new(attributes) }])
}

/// The type 5 routes of a prefix: as declared, else of a connected subnet.
fn prefix_routes(
    snapshot: &Snapshot,
    context: &Context,
    vrf: &Name,
    prefix: Prefix,
) -> Result<Vec<Route>, Skip> {
    let Some(domain) = domain(snapshot, vrf) else { return Ok(Vec::new()) };
    let declared = domain.vrf.routes.iter().find(|route| route.prefix == prefix);
    let hops: Vec<(IpAddr, Mac)> = match declared {
        Some(route) => {
            let node = snapshot.nodes.get(&route.node).map(|record| &record.value);
            node.and_then(|node| Some((node.vtep?, place::router_mac(node)?))).into_iter().collect()
        }
        None => connected(snapshot, vrf, prefix).map_or_else(Vec::new, |network| {
            let vteps = vteps_of_network(snapshot, network);
            let known = vteps.filter_map(|vtep| Some((vtep, router_mac_at(snapshot, vtep)?)));
            known.take(CONNECTED_WAYS).collect()
        }),
    };
    let targets = vrf_exports(&domain, context.asn)?;
    let numbers = std::iter::once(&domain.vrf.rd_number).chain(&domain.vrf.connected_rds);
    let route = |((next_hop, router_mac), number): ((IpAddr, Mac), &u16)| {
        let attributes = Attributes {
            next_hop,
            vni: Some(domain.vni),
            l3_vni: None,
            route_targets: targets.clone(),
            sequence: 0,
            sticky: false,
            router_mac: Some(router_mac),
            default_gateway: false,
            pmsi: None,
            esi: Esi::default(),
            gateway: None,
        };
        let rd = RouteDistinguisher::new(context.router_id, *number);
        Route { key: RouteKey::IpPrefix { rd, etag: 0, prefix }, attributes: Arc::new(attributes) }
    };
    Ok(hops.into_iter().zip(numbers).map(route).collect())
}

/// The network of a subnet that is told to the fabric as connected.
pub fn connected<'a>(snapshot: &'a Snapshot, vrf: &Name, prefix: Prefix) -> Option<&'a NetworkKey> {
    let network = &snapshot.subnets.get(&(vrf.clone(), prefix))?.value.network;
    let told = domain(snapshot, vrf).is_some_and(|domain| !domain.vrf.no_connected);
    (told && irb(snapshot, network) != Irb::None).then_some(network)
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

/// All routes. A million ports pass through here at the start: nothing but the result is collected.
pub fn all_routes(view: &View, context: &Context, interner: &mut Interner) -> Vec<Route> {
    let snapshot = &view.snapshot;
    let mut all = Vec::with_capacity(snapshot.by_node.len());
    for (_, key) in &snapshot.by_node {
        let routes = port_routes(view, context, key).unwrap_or_default();
        all.extend(routes.into_iter().map(|route| share(route, interner)));
    }
    let mut places: BTreeSet<(NetworkKey, IpAddr)> = BTreeSet::new();
    for node in snapshot.nodes.values().map(|record| &record.value).filter(|node| node.mode.is_spoken_for()) {
        for network in networks_of_node(snapshot, &node.name) {
            let vteps = node.vtep.into_iter().chain(node.anycast_vtep);
            places.extend(vteps.map(|vtep| (network.clone(), vtep)));
        }
    }
    for (network, vtep) in &places {
        let routes = flood_route(snapshot, context, network, *vtep).unwrap_or_default();
        all.extend(routes.into_iter().map(|route| share(route, interner)));
    }
    for vrf in snapshot.vrfs.values().map(|record| &record.value).filter(|vrf| vrf.l3_vni.is_some()) {
        let subnets = snapshot.subnets_of_vrf(&vrf.name).map(|record| record.value.prefix);
        let prefixes: BTreeSet<Prefix> = subnets.chain(vrf.routes.iter().map(|route| route.prefix)).collect();
        for prefix in prefixes {
            let routes = prefix_routes(snapshot, context, &vrf.name, prefix).unwrap_or_default();
            all.extend(routes.into_iter().map(|route| share(route, interner)));
        }
    }
    all
}

fn share(route: Route, interner: &mut Interner) -> Route {
    let attributes = Arc::try_unwrap(route.attributes).unwrap_or_else(|shared| (*shared).clone());
    Route { key: route.key, attributes: interner.share(attributes) }
}

/// What turns the routes of one view into those of another: new and moved routes first, then withdrawals.
pub fn route_changes(
    old: &View,
    new: &View,
    context: &Context,
    units: &BTreeSet<Unit>,
    interner: &mut Interner,
) -> Vec<RouteChange> {
    // By key over all units, as a route may pass from one port to another: that is a replace and not a withdrawal.
    let collect = |view: &View| -> BTreeMap<RouteKey, Arc<Attributes>> {
        let routes = units.iter().flat_map(|unit| routes(view, context, unit).unwrap_or_default());
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
