//! Choosing a port's network by labels.

use std::collections::BTreeMap;

use causeway_proto::{NetworkKey, PortKey};

use super::{Context, Refusal, create};
use crate::keys::RecordKey;
use crate::model::Network;
use crate::ports::error::show_labels;
use crate::ports::overlay::View;
use crate::ports::{CreatePort, Pool, PortError};
use crate::snapshot::Snapshot;

/// Networks with labels that an error names at most.
const MOST_NAMED: usize = 100;

/// Puts the network in the request's key, if it is to be chosen: the one where the name has a port already, else the first
/// one by name with all the labels in which the port can be made.
pub(in crate::ports) fn select(
    view: &View<'_>,
    request: &mut CreatePort,
    context: Context<'_>,
) -> Result<(), Refusal> {
    if request.select.is_empty() {
        return Ok(());
    }
    create::check(request)?;
    let (snapshot, vrf) = (view.snapshot, request.key.network.vrf.clone());
    let matching: Vec<NetworkKey> = snapshot
        .networks_of(&vrf)
        .filter(|network| has(&network.value, &request.select))
        .map(|network| network.value.key.clone())
        .collect();
    let key = |network: &NetworkKey| PortKey { network: network.clone(), name: request.key.name.clone() };
    if let Some(found) = known(view, request, &matching)? {
        request.key = found;
        return Ok(());
    }
    let mut pools = Vec::new();
    let mut other = None;
    for network in &matching {
        let there = CreatePort { key: key(network), ..request.clone() };
        match create::plan(view, &there, context) {
            Ok(_) => {
                request.key = there.key;
                return Ok(());
            }
            Err(Refusal { error: PortError::Exhausted { network, subnets, size, released }, .. }) => {
                let taken = subnets.iter().map(|subnet| snapshot.taken_in(&vrf, *subnet).0).sum();
                pools.push(Pool { network, subnets, size, taken, released });
            }
            // Without a subnet, for example, or its frames do not fit the node: perhaps the next one.
            Err(refusal) => other = other.or(Some(refusal)),
        }
    }
    let labels = request.select.clone();
    Err(match other {
        Some(refusal) if pools.is_empty() => refusal,
        _ if matching.is_empty() => PortError::NoMatch { vrf, labels, labelled: labelled(snapshot) }.into(),
        _ => PortError::Full { labels, pools }.into(),
    })
}

fn has(network: &Network, labels: &BTreeMap<String, String>) -> bool {
    labels.iter().all(|(key, value)| network.labels.get(key) == Some(value))
}

/// The port that the name has already: one whose network was chosen before, wherever that is, or one in a network that
/// matches. What is under way counts, too: the request waits for it then.
fn known(view: &View<'_>, request: &CreatePort, matching: &[NetworkKey]) -> Result<Option<PortKey>, Refusal> {
    let (vrf, name) = (&request.key.network.vrf, &request.key.name);
    let key = |network: &NetworkKey| PortKey { network: network.clone(), name: name.clone() };
    if let Some(port) = view.snapshot.selected(vrf, name) {
        let (found, select) = (&port.value.key, &port.value.select);
        // It may be gone since.
        let there = view.port(found).is_some() || view.overlay.in_flight(found);
        if there && *select != request.select && !matching.contains(&found.network) {
            let error = PortError::Taken {
                subject: format!("name {name} of VRF {vrf}"),
                owner: format!("port {found}, whose network was chosen by {}", show_labels(select)),
                hint: format!("ask with these labels, or give it up: causeway port release --forget {found}"),
            };
            return Err(Refusal::seen(error, &RecordKey::Port(found.clone()), Some(port.revision)));
        }
        if there {
            return Ok(Some(found.clone()));
        }
    }
    let mut keys = view.snapshot.networks_of(vrf).map(|network| key(&network.value.key));
    // One that this controller has just made, or is about to make.
    let under_way = keys.find(|key| view.overlay.knows(key));
    let found = under_way.or_else(|| matching.iter().map(key).find(|key| view.port(key).is_some()));
    Ok(found)
}

fn labelled(snapshot: &Snapshot) -> Vec<String> {
    let some = snapshot.networks.values().filter(|network| !network.value.labels.is_empty());
    some.map(|network| format!("{} {}", network.value.key, show_labels(&network.value.labels)))
        .take(MOST_NAMED)
        .collect()
}
