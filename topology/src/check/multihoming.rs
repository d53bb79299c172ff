//! Machines in one network by two leaves that do not know of each other.

use std::collections::BTreeMap;

use super::Check;
use crate::lab::Role;

/// Without a segment or a pair the fabric sees the machine's MAC move from leaf to leaf.
pub(super) fn check(check: &mut Check<'_>) {
    let (lab, plan) = (check.lab, check.plan);
    for node in lab.nodes_in_order().into_iter().filter(|n| matches!(n.role, Role::Host | Role::Server)) {
        let Some(own) = plan.nodes.get(&node.name).filter(|p| p.multihoming.is_none()) else { continue };
        let mut leaves = BTreeMap::new();
        for port in &own.interfaces {
            let Some((leaf, _)) = &port.peer else { continue };
            for vni in port.untagged.iter().chain(&port.tagged) {
                let first = *leaves.entry(*vni).or_insert(leaf);
                let Some(link) = lab.links.get(port.link).filter(|_| first != leaf) else { continue };
                let name = plan.network(*vni).map_or_else(|| vni.to_string(), |n| format!("'{}'", n.name));
                let message = format!(
                    "{} '{}' is in network {name} by '{first}' and by '{leaf}', which are no pair: its MAC will move between them",
                    node.role, node.name
                );
                let help = "give both links one causeway.esi, or both leaves one causeway.anycast-vtep; or take one link away";
                check.warn("multihoming", link.place, message, help);
            }
        }
    }
}
