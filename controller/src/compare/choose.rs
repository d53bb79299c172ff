//! Which of several routes a VTEP takes, told step by step.

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_bgp::{Attributes, RouteKey};
use causeway_proto::{Mac, Vni};

use super::dropped::dropped;
use super::words::Names;
use crate::derive::best::{Claim, Rule};

/// A route that takes part.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Candidate {
    pub(crate) key: RouteKey,
    pub(crate) attributes: Arc<Attributes>,
    /// Who says so; `None`: we do.
    pub(crate) peer: Option<IpAddr>,
    /// A controller has made it, on behalf of its next hop.
    pub(crate) by_controller: bool,
}

/// The switch that decides.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct At {
    pub(crate) name: String,
    pub(crate) vteps: Vec<IpAddr>,
    pub(crate) router_mac: Option<Mac>,
}

/// What becomes of the routes, VNI by VNI, the most specific prefix first. `at`: none is any VTEP that is not concerned.
pub(crate) fn choose(names: &Names<'_>, candidates: &[Candidate], at: Option<&At>) -> Vec<String> {
    let mut groups: BTreeMap<(u8, Option<Vni>, u8), Vec<&Candidate>> = BTreeMap::new();
    for candidate in candidates {
        let length = match candidate.key {
            RouteKey::MacIp { .. } => 0,
            RouteKey::IpPrefix { prefix, .. } => prefix.length(),
            _ => continue,
        };
        let place = (candidate.key.route_type(), candidate.attributes.vni, u8::MAX - length);
        let group = groups.entry(place).or_default();
        // Several reflectors hand on the same route.
        if !group.iter().any(|known| known.key == candidate.key && known.attributes == candidate.attributes) {
            group.push(candidate);
        }
    }
    let mut told = Vec::new();
    let mut covered: Vec<Option<Vni>> = Vec::new();
    for ((kind, vni, _), group) in groups {
        let who = at.map_or("another VTEP", |at| &at.name);
        let vni_text = vni.map_or_else(|| "no VNI".to_owned(), |vni| format!("VNI {vni}"));
        let what = match (kind, group.first().map(|candidate| candidate.key)) {
            (5, Some(RouteKey::IpPrefix { prefix, .. })) => format!("{vni_text}, prefix {prefix}"),
            _ => vni_text,
        };
        if kind == 5 && covered.contains(&vni) {
            told.push(format!("{what}: not looked at, a longer prefix matches"));
            continue;
        }
        told.push(format!("as {who} decides, {what}:"));
        if decide(names, &group, at, &mut told) && kind == 5 {
            covered.push(vni);
        }
    }
    told
}

/// Decides within one table. True if something remains.
fn decide(names: &Names<'_>, group: &[&Candidate], at: Option<&At>, told: &mut Vec<String>) -> bool {
    let mut remaining: Vec<(&Candidate, Claim)> = Vec::new();
    let mut local: Option<Claim> = None;
    for candidate in group {
        let claim = Claim::of(&candidate.attributes);
        let reason = at.and_then(|at| {
            dropped(&candidate.key, &candidate.attributes, &at.vteps, at.router_mac).map(|d| (at, d))
        });
        match reason {
            None => remaining.push((candidate, claim)),
            Some((at, _)) if !candidate.by_controller && at.vteps.contains(&claim.vtep) => {
                told.push(format!("  {}: {}'s own, learned there", describe(names, candidate), at.name));
                local = Some(local.filter(|known| known.against(&claim).1.is_le()).unwrap_or(claim));
            }
            Some((at, why)) => {
                told.push(format!("  {}: dropped at {}, {why}", describe(names, candidate), at.name));
            }
        }
    }
    remaining.sort_by(|a, b| a.1.against(&b.1).1.then(a.0.key.cmp(&b.0.key)));
    let Some(((winner, best), losers)) = remaining.split_first() else {
        if let (Some(at), None) = (at, local) {
            told.push(format!(
                "  nothing remains: {} knows only what it learns from its own links, and floods until it has",
                at.name
            ));
        }
        return local.is_some();
    };
    if let Some(local) = local.filter(|local| !best.sticky && best.sequence < local.sequence) {
        told.push(format!(
            "  {}: loses against the local one, whose sequence {} is higher",
            describe(names, winner),
            local.sequence
        ));
    } else {
        // zebra takes a remote MAC with a sequence that is not lower for a move away from its own link.
        let over =
            local.map_or("", |_| " over the local one (its sequence is not lower: the host has moved away)");
        let by = losers.iter().map(|(_, claim)| best.against(claim).0).find(|rule| *rule != Rule::Same);
        let by = by.map_or_else(|| " (nothing else remains)".to_owned(), |rule| format!(", by {rule}"));
        told.push(format!("  {}: wins{by}{over}", describe(names, winner)));
    }
    for (loser, claim) in losers {
        told.push(match best.against(claim).0 {
            Rule::Same => format!("  {}: leads to the same VTEP", describe(names, loser)),
            rule => format!("  {}: loses, {rule} wins", describe(names, loser)),
        });
    }
    true
}

fn describe(names: &Names<'_>, candidate: &Candidate) -> String {
    let attributes = &candidate.attributes;
    let from = candidate.peer.map_or_else(|| "us".to_owned(), |peer| peer.to_string());
    let address = match candidate.key {
        RouteKey::MacIp { ip: Some(ip), .. } => format!(" with {ip}"),
        _ => String::new(),
    };
    let sticky = if attributes.sticky { ", sticky" } else { "" };
    format!(
        "{}{address}, sequence {}{sticky}, RD {} from {from}",
        names.of(attributes.next_hop),
        attributes.sequence,
        candidate.key.rd()
    )
}
