//! What findings mean, in sentences for those who run the fabric.

use std::collections::HashMap;
use std::net::IpAddr;

use causeway_proto::{Name, NetworkKey};

use super::Presence;
use crate::derive::best::{Claim, Rule};
use crate::model::{Node, Port};
use crate::snapshot::Snapshot;

/// Nodes by VTEP.
#[derive(Debug)]
pub(crate) struct Names<'a>(HashMap<IpAddr, &'a Name>);

impl<'a> Names<'a> {
    pub(crate) fn new(snapshot: &'a Snapshot) -> Self {
        Names(
            snapshot
                .nodes
                .iter()
                .flat_map(|(name, record)| vteps(&record.value).map(move |v| (v, name)))
                .collect(),
        )
    }

    /// True for a VTEP of ours.
    pub(crate) fn contains(&self, vtep: IpAddr) -> bool {
        self.0.contains_key(&vtep)
    }

    /// A VTEP with its node's name.
    pub(crate) fn of(&self, vtep: IpAddr) -> String {
        match self.0.get(&vtep) {
            Some(node) => format!("{node} ({vtep})"),
            None => format!("VTEP {vtep} (no node of ours)"),
        }
    }

    fn best(&self, claims: &[Claim]) -> String {
        claims.first().map(|claim| self.of(claim.vtep)).unwrap_or_default()
    }
}

/// Addresses that are a node's as a VTEP.
pub(crate) fn vteps(node: &Node) -> impl Iterator<Item = IpAddr> + use<> {
    node.vtep.into_iter().chain(node.anycast_vtep)
}

/// True for an address that switches have in a network.
pub(super) fn is_gateway(snapshot: &Snapshot, network: &NetworkKey, address: Option<IpAddr>) -> bool {
    let gateway = |ip| snapshot.subnets_of(network).any(|record| record.value.gateway == Some(ip));
    address.is_some_and(gateway)
}

/// A port of which a peer says something.
pub(super) fn claimed(
    names: &Names<'_>,
    presence: Presence,
    rule: Rule,
    own: Claim,
    claims: &[Claim],
    is_right: &impl Fn(&Claim) -> bool,
) -> String {
    let Some(other) = claims.iter().find(|claim| !is_right(claim)) else {
        return match presence {
            Presence::Stale => {
                "kept from before the peer's restart and not confirmed yet; it goes by itself".to_owned()
            }
            _ => format!("claimed by {}", names.best(claims)),
        };
    };
    let place = names.of(other.vtep);
    let (ours, theirs) = (own.sequence, other.sequence);
    match (presence, rule) {
        (Presence::Elsewhere, Rule::Sticky) => format!(
            "{place} claims it as sticky, which beats any sequence: traffic goes there; remove the static entry there \
             or bind the port there"
        ),
        (Presence::Elsewhere, _) => format!(
            "{place} claims it with sequence {theirs} against our {ours}: traffic goes there; if the workload has moved, \
             bind the port there, else find who uses its MAC behind that VTEP"
        ),
        (Presence::Duplicate, _) => {
            let wins = if own.vtep <= other.vtep { "ours wins" } else { "the other wins" };
            format!(
                "{place} claims it too, both with sequence {theirs}: by the lower next hop {wins}; two stations use the \
                 MAC, or the workload has moved without its port: bind the port to where it is"
            )
        }
        _ => format!(
            "{place} still claims it with sequence {theirs}, which loses against {}: a leftover of a former place; it \
             goes when the MAC ages out there",
            own.sequence.max(claims.first().map_or(0, |claim| claim.sequence))
        ),
    }
}

pub(super) fn address_by_us() -> String {
    "announced by the controllers; switches need not know addresses".to_owned()
}

pub(super) fn by_us_only(expected: bool) -> String {
    match expected {
        true => "announced by us; the peer has not sent its whole table yet".to_owned(),
        false => {
            "announced by us; nobody else is expected to claim it, and a peer sends nothing of ours back"
                .to_owned()
        }
    }
}

pub(super) fn missing(names: &Names<'_>, vtep: IpAddr, speaks: bool) -> String {
    let place = names.of(vtep);
    match speaks {
        true => format!(
            "{place} has not learned the MAC: the workload is silent, or not connected, or in another VLAN; others still \
             reach it by our route, frames from its own switch are flooded"
        ),
        false => "the peer sends routes of another controller, but not for this port: that controller lags behind the \
                  store or has lost its session"
            .to_owned(),
    }
}

pub(super) fn bound_nowhere(names: &Names<'_>, claims: &[Claim]) -> String {
    let place = names.best(claims);
    format!(
        "the port is bound nowhere, and {place} claims its MAC: the workload still runs there, or it is a leftover"
    )
}

pub(super) fn foreign_mac(
    names: &Names<'_>,
    snapshot: &Snapshot,
    network: &NetworkKey,
    address: Option<IpAddr>,
    claims: &[Claim],
) -> String {
    let place = names.best(claims);
    let owner = address.and_then(|ip| snapshot.by_address.get(&(network.vrf.clone(), ip)));
    match owner {
        Some(owner) => format!(
            "{place} claims the address of port {} for a MAC that is no port's: an address conflict",
            owner.value.key
        ),
        None => {
            format!("{place} claims a MAC that is no port's: register it as a port, or find out whose it is")
        }
    }
}

pub(super) fn foreign_address(
    names: &Names<'_>,
    snapshot: &Snapshot,
    port: &Port,
    address: IpAddr,
    claims: &[Claim],
) -> String {
    let place = names.best(claims);
    match snapshot.by_address.get(&(port.key.network.vrf.clone(), address)) {
        Some(owner) => format!(
            "{place} claims {address}, which is port {}'s, for the MAC of port {}: an address conflict",
            owner.value.key, port.key
        ),
        None => format!("{place} claims {address} for port {}, which does not have it", port.key),
    }
}
