//! What only other records can tell about a declared one: references, uniqueness, and what must not change while it is
//! in use.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_bgp::RouteTarget;
use causeway_proto::{Mac, Name, NetworkKey, Prefix, VlanId, Vni};

use super::message::Declared;
use super::{IntentError, Violation};
use crate::alloc;
use crate::keys;
use crate::model::{Irb, Network, Subnet, Vrf};
use crate::ports::plan::unfit;
use crate::snapshot::Snapshot;

mod node;

/// One declared record and its place in the request.
#[derive(Debug)]
pub(super) struct Item {
    /// Index in the request.
    pub(super) index: usize,
    pub(super) record: Declared,
}

impl Item {
    fn field(&self, field: &str) -> String {
        let kind = match &self.record {
            Declared::Vrf(_) => "vrf",
            Declared::Network(_) => "network",
            Declared::Subnet(_) => "subnet",
            Declared::Node(_) => "node",
            Declared::Peer(_) => "peer",
        };
        format!("resources[{}].{kind}.{field}", self.index)
    }

    fn invalid(&self, field: &str, reason: String) -> IntentError {
        IntentError::Invalid(vec![Violation { field: self.field(field), reason }])
    }
}

/// Who has what, in the store and in the request. What a record of the store has counts as its own even if the request
/// changes it: exchanging two values takes two steps.
#[derive(Debug, Default)]
pub(super) struct Owners {
    vnis: BTreeMap<Vni, Vec<String>>,
    vlans: BTreeMap<VlanId, Vec<String>>,
    vteps: BTreeMap<IpAddr, Vec<String>>,
    anycast: BTreeMap<IpAddr, Vec<String>>,
    router_macs: BTreeMap<Mac, Vec<String>>,
    switch_ports: BTreeMap<(Name, String), Vec<String>>,
    rds: BTreeMap<u16, Vec<String>>,
    subnets: BTreeMap<(Name, Prefix), NetworkKey>,
}

/// How an owner is named, in errors and in index keys' values.
pub(super) fn owner_name(record: &Declared) -> String {
    match record {
        Declared::Vrf(_) => format!("vrf {}", record.name()),
        Declared::Network(_) => format!("network {}", record.name()),
        Declared::Subnet(_) => format!("subnet {}", record.name()),
        Declared::Node(_) => format!("node {}", record.name()),
        Declared::Peer(_) => format!("peer {}", record.name()),
    }
}

impl Owners {
    /// Those of the store.
    pub(super) fn of(snapshot: &Snapshot) -> Owners {
        let mut owners = Owners::default();
        for record in snapshot.vrfs.values() {
            owners.add(&Declared::Vrf(record.value.clone()));
        }
        for record in snapshot.networks.values() {
            owners.add(&Declared::Network(record.value.clone()));
        }
        for record in snapshot.nodes.values() {
            owners.add(&Declared::Node(record.value.clone()));
        }
        for (key, record) in &snapshot.subnets {
            owners.subnets.insert(key.clone(), record.value.network.clone());
        }
        owners
    }

    /// One more record.
    pub(super) fn add(&mut self, record: &Declared) {
        let name = owner_name(record);
        match record {
            Declared::Vrf(vrf) => {
                let numbers = vrf.connected_rds.iter().chain([&vrf.rd_number]).filter(|n| **n != 0);
                for number in numbers {
                    self.rds.entry(*number).or_default().push(name.clone());
                }
                if let Some(vni) = vrf.l3_vni {
                    self.vnis.entry(vni).or_default().push(name);
                }
            }
            Declared::Network(network) => {
                if let Some(vlan) = network.vlan {
                    self.vlans.entry(vlan).or_default().push(name.clone());
                }
                if network.rd_number != 0 {
                    self.rds.entry(network.rd_number).or_default().push(name.clone());
                }
                self.vnis.entry(network.vni).or_default().push(name);
            }
            Declared::Subnet(subnet) => {
                let key = (subnet.network.vrf.clone(), subnet.prefix);
                self.subnets.insert(key, subnet.network.clone());
            }
            Declared::Node(node) => self.add_node(node, &name),
            Declared::Peer(_) => {}
        }
    }

    fn add_node(&mut self, node: &crate::model::Node, name: &str) {
        if let Some(vtep) = node.vtep {
            self.vteps.entry(vtep).or_default().push(name.to_owned());
        }
        if let Some(vtep) = node.anycast_vtep {
            self.anycast.entry(vtep).or_default().push(name.to_owned());
        }
        if let Some(mac) = node.router_mac {
            self.router_macs.entry(mac).or_default().push(name.to_owned());
        }
        for uplink in node.uplinks.iter().filter(|uplink| !uplink.switch_interface.is_empty()) {
            let place = (uplink.switch.clone(), uplink.switch_interface.clone());
            self.switch_ports.entry(place).or_default().push(name.to_owned());
        }
    }

    /// Numbers that no route distinguisher has, the lowest first.
    pub(super) fn free_rds(&self) -> impl Iterator<Item = u16> + '_ {
        (1..=u16::MAX).filter(|n| !self.rds.contains_key(n))
    }
}

/// Checks one record. `all` shows the store with every record of the request in it, `old` as it is.
pub(super) fn check(
    item: &Item,
    old: &Snapshot,
    all: &Snapshot,
    owners: &Owners,
    asn: u32,
) -> Result<(), IntentError> {
    match &item.record {
        Declared::Vrf(vrf) => {
            if let Some(vni) = vrf.l3_vni {
                unique(item, "l3_vni", format!("vni {vni}"), owners.vnis.get(&vni))?;
            }
            let made = vrf.export_targets.is_empty().then_some(vrf.l3_vni).flatten();
            default_target(item, made, asn)?;
            check_vrf(item, vrf, all)
        }
        Declared::Network(network) => check_network(item, network, old, all, owners, asn),
        Declared::Subnet(subnet) => check_subnet(item, subnet, old, all, owners),
        Declared::Node(node) => node::check(item, node, old, all, owners),
        Declared::Peer(_) => Ok(()),
    }
}

fn unique(
    item: &Item,
    field: &str,
    subject: String,
    owners: Option<&Vec<String>>,
) -> Result<(), IntentError> {
    let own = owner_name(&item.record);
    match owners.into_iter().flatten().find(|owner| **owner != own) {
        None => Ok(()),
        Some(owner) => Err(IntentError::Conflict { field: item.field(field), subject, owner: owner.clone() }),
    }
}

/// The route target that is made of the AS and a VNI must fit into eight bytes.
fn default_target(item: &Item, vni: Option<Vni>, asn: u32) -> Result<(), IntentError> {
    match vni {
        Some(vni) if RouteTarget::new(asn, vni.get()).is_none() => {
            let reason = format!(
                "must be given: the default {asn}:{vni} does not fit, as an AS above 65535 leaves 16 bits"
            );
            Err(item.invalid("export_targets", reason))
        }
        _ => Ok(()),
    }
}

fn check_network(
    item: &Item,
    network: &Network,
    old: &Snapshot,
    all: &Snapshot,
    owners: &Owners,
    asn: u32,
) -> Result<(), IntentError> {
    if !all.vrfs.contains_key(&network.key.vrf) {
        return Err(item.invalid("vrf", format!("vrf {} does not exist", network.key.vrf)));
    }
    unique(item, "vni", format!("vni {}", network.vni), owners.vnis.get(&network.vni))?;
    let l3 = all.vrfs.get(&network.key.vrf).and_then(|vrf| vrf.value.l3_vni);
    if network.irb == Some(Irb::Symmetric) && l3.is_none() {
        let reason = format!("symmetric needs an l3_vni in vrf {}", network.key.vrf);
        return Err(item.invalid("irb", reason));
    }
    if let Some(vlan) = network.vlan {
        unique(item, "vlan", format!("vlan {vlan}"), owners.vlans.get(&vlan))?;
    }
    default_target(item, network.export_targets.is_empty().then_some(network.vni), asn)?;
    let Some(before) = old.networks.get(&network.key) else { return Ok(()) };
    if before.value.vni != network.vni
        && let Some(port) = old.ports_of(&network.key).next()
    {
        return Err(IntentError::InUse {
            subject: format!("vni of network {}", network.key),
            reason: format!("cannot change from {} to {} while it has ports", before.value.vni, network.vni),
            owner: format!("port {}", port.value.key),
            hint: "declare a second network with the new vni and create the ports there".to_owned(),
        });
    }
    let same = before.value.mtu == network.mtu
        && before.value.vlan == network.vlan
        && before.value.attachments == network.attachments;
    if same {
        return Ok(());
    }
    let bound = old.ports_of(&network.key).filter_map(|port| old.bindings.get(&port.value.key));
    for binding in bound.filter(|binding| binding.value.active) {
        still_fits(item, network, &binding.value, all)?;
    }
    let lister = all.nodes.values().find(|node| {
        network.vlan.is_none()
            && node.value.mode.needs_vlan()
            && node.value.networks.binary_search(&network.key).is_ok()
    });
    match lister {
        None => Ok(()),
        Some(node) => Err(IntentError::InUse {
            subject: format!("vlan of network {}", network.key),
            reason: "cannot be taken away while a switch bridges it by VLAN".to_owned(),
            owner: format!("node {}", node.value.name),
            hint: "take the network out of the node's networks first".to_owned(),
        }),
    }
}

/// A binding must still be possible with what changes.
fn still_fits(
    item: &Item,
    network: &Network,
    binding: &crate::model::Binding,
    all: &Snapshot,
) -> Result<(), IntentError> {
    let Some(node) = all.nodes.get(&binding.node) else { return Ok(()) };
    match unfit(all, network, &node.value, binding.kind, binding.attachment) {
        None => Ok(()),
        Some(unfit) => Err(IntentError::InUse {
            subject: owner_name(&item.record),
            reason: format!("cannot change so while port {} is bound: {}", binding.port, unfit.reason),
            owner: format!("node {}", binding.node),
            hint: unfit.hint,
        }),
    }
}

fn check_vrf(item: &Item, vrf: &Vrf, all: &Snapshot) -> Result<(), IntentError> {
    for (i, route) in vrf.routes.iter().enumerate() {
        let at = format!("routes[{i}].node");
        let Some(node) = all.nodes.get(&route.node).map(|record| &record.value) else {
            return Err(item.invalid(&at, format!("node {} does not exist", route.node)));
        };
        if node.vtep.is_none() {
            return Err(item.invalid(&at, format!("node {} has no VTEP, being a {}", route.node, node.mode)));
        }
        if !node.mode.is_spoken_for() && node.router_mac.is_none() {
            let reason = format!("node {} needs its router_mac declared: routes carry it", route.node);
            return Err(item.invalid(&at, reason));
        }
    }
    let symmetric = all.networks_of(&vrf.name).find(|network| network.value.irb == Some(Irb::Symmetric));
    match symmetric.filter(|_| vrf.l3_vni.is_none()) {
        None => Ok(()),
        Some(network) => {
            let reason = format!("is required by network {}, whose irb is symmetric", network.value.key);
            Err(item.invalid("l3_vni", reason))
        }
    }
}

fn check_subnet(
    item: &Item,
    subnet: &Subnet,
    old: &Snapshot,
    all: &Snapshot,
    owners: &Owners,
) -> Result<(), IntentError> {
    if !all.networks.contains_key(&subnet.network) {
        return Err(item.invalid("network", format!("network {} does not exist", subnet.network)));
    }
    overlap(item, subnet, owners)?;
    let vrf = &subnet.network.vrf;
    let key = (vrf.clone(), subnet.prefix);
    let range = (vrf.clone(), subnet.prefix.network())..=(vrf.clone(), subnet.prefix.last());
    if let Some(before) = old.subnets.get(&key)
        && before.value.network != subnet.network
        && let Some((_, port)) = old.by_address.range(range.clone()).next()
    {
        return Err(IntentError::InUse {
            subject: format!("subnet {}", item.record.name()),
            reason: format!(
                "cannot move from network {} while addresses of it are in use",
                before.value.network
            ),
            owner: format!("port {}", port.value.key),
            hint: format!("release the port first: causeway port release --forget {}", port.value.key),
        });
    }
    // What is new in the record must not be in use. A first declaration may find no ports at all.
    let before = old.subnets.get(&key).map(|record| &record.value);
    let same = before.is_some_and(|b| b.gateway == subnet.gateway && b.exclusions == subnet.exclusions);
    if same {
        return Ok(());
    }
    for ((_, address), port) in old.by_address.range(range) {
        if let Some(reason) = alloc::refusal(subnet, *address)
            && before.is_none_or(|before| alloc::refusal(before, *address).is_none())
        {
            return Err(IntentError::InUse {
                subject: format!("address {address}"),
                reason: format!("{reason} with this change, and is in use"),
                owner: format!("port {}", port.value.key),
                hint: format!("release the port first: causeway port release --forget {}", port.value.key),
            });
        }
    }
    Ok(())
}

/// Subnets of a VRF never overlap; as those known do not, only the nearest ones can.
fn overlap(item: &Item, subnet: &Subnet, owners: &Owners) -> Result<(), IntentError> {
    let vrf = &subnet.network.vrf;
    let own = (vrf.clone(), subnet.prefix);
    let last = (vrf.clone(), Prefix::host(subnet.prefix.last()));
    let below = owners.subnets.range(..&own).next_back();
    let inside = owners.subnets.range(&own..=&last).find(|(key, _)| **key != own);
    for ((v, prefix), network) in below.into_iter().chain(inside) {
        if v == vrf && prefix.overlaps(subnet.prefix) {
            return Err(IntentError::Conflict {
                field: item.field("prefix"),
                subject: format!("a part of {}", subnet.prefix),
                owner: format!("subnet {prefix} of network {network}"),
            });
        }
    }
    Ok(())
}

/// Index keys that a record claims.
pub(super) fn claims(record: &Declared) -> Vec<String> {
    match record {
        Declared::Vrf(vrf) => {
            let rds = std::iter::once(vrf.rd_number).chain(vrf.connected_rds.iter().copied());
            let rds = rds.filter(|n| *n != 0).map(keys::rd);
            vrf.l3_vni.map(keys::vni).into_iter().chain(rds).collect()
        }
        Declared::Network(network) => {
            let mut claims = vec![keys::vni(network.vni), keys::rd(network.rd_number)];
            claims.extend(network.vlan.map(keys::vlan));
            claims
        }
        Declared::Node(node) => node::claims(node),
        Declared::Subnet(_) | Declared::Peer(_) => Vec::new(),
    }
}
