//! From where a port is probed, and how.

use causeway_proto::{Name, PortKey, v1};

use crate::derive::{bound, is_present, ports_on_node};
use crate::model::{Attachment, WorkloadKind};
use crate::snapshot::Snapshot;

/// Between two frames.
const INTERVAL_MS: u32 = 50;
/// How long one node tries before it is another one's turn.
const ROUND_MS: u32 = 1_500;
/// When ARP is tried besides the echo.
const ARP_AFTER_MS: u32 = 500;
/// Rounds in which a VM is not asked by ARP: a guest that checks its own address for duplicates while it starts
/// (RFC 5227 §2.1.1) would take the request for a rival's.
const QUIET_ROUNDS: usize = 40;
/// Longer than any round: never.
const NEVER_MS: u32 = 3_600_000;

/// A port to be probed.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Target {
    /// Its node.
    pub(super) node: Name,
    /// Generation of its binding.
    pub(super) generation: u64,
    /// Address that is probed.
    pub(super) address: String,
    kind: WorkloadKind,
    routed: bool,
    mac: String,
    vni: u32,
}

/// Nodes that can probe a port, the best first, and those that could if their agents were here.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Candidates {
    pub(super) here: Vec<Name>,
    pub(super) elsewhere: Vec<Name>,
}

/// What to probe. An error says why that cannot be known, in words.
pub(super) fn target(snapshot: &Snapshot, key: &PortKey) -> Result<Target, String> {
    let Some(bound) = bound(snapshot, key) else { return Err("the port is bound to no node".into()) };
    let Some(mac) = bound.wire_mac() else {
        return Err(
            "its frames carry its host's MAC (ipvlan), which only the host knows: it cannot be probed; \
                    ask for the level advertised"
                .into(),
        );
    };
    let Some(address) = bound.port.addresses.iter().min_by_key(|address| address.is_ipv6()) else {
        return Err("it has no address".into());
    };
    Ok(Target {
        node: bound.node.name.clone(),
        generation: bound.binding.generation,
        address: address.to_string(),
        kind: bound.binding.kind,
        routed: bound.binding.attachment == Some(Attachment::Routed),
        mac: mac.to_string(),
        vni: bound.network.vni.get(),
    })
}

/// Who can probe it. Best is a node behind another VTEP that has a workload of the network; one behind the same VTEP
/// shows less, but more than nothing.
pub(super) fn candidates(
    snapshot: &Snapshot,
    key: &PortKey,
    target: &Target,
    has_session: impl Fn(&Name) -> bool,
) -> Candidates {
    let vtep = |name: &Name| {
        let node = snapshot.nodes.get(name)?;
        crate::derive::place::place(snapshot, &node.value).map(|place| place.vtep)
    };
    let own = vtep(&target.node);
    let others = snapshot.nodes.keys().filter(|name| **name != target.node);
    let mut ranked: Vec<(bool, bool, u64, &Name)> = others
        .filter(|name| is_present(snapshot, name, &key.network))
        .map(|name| {
            let ported = ports_on_node(snapshot, name, &key.network).next().is_some();
            (vtep(name) == own, !ported, spread(key, name), name)
        })
        .collect();
    ranked.sort();
    let mut found = Candidates::default();
    for (.., name) in ranked {
        let list = if has_session(name) { &mut found.here } else { &mut found.elsewhere };
        list.push(name.clone());
    }
    found
}

/// Another order for each port, so that not one node probes all (FNV-1a).
fn spread(key: &PortKey, node: &Name) -> u64 {
    let text = format!("{key} {node}");
    text.bytes().fold(0xcbf2_9ce4_8422_2325_u64, |h, b| (h ^ u64::from(b)).wrapping_mul(0x0100_0000_01b3))
}

/// The order of a round; `mute`: the round before could send nothing from this node without ARP.
pub(super) fn order(target: &Target, round: usize, mute: bool) -> v1::ProbeOrder {
    let quiet = target.kind == WorkloadKind::Vm && round < QUIET_ROUNDS && !mute;
    v1::ProbeOrder {
        vni: target.vni,
        address: target.address.clone(),
        mac: target.mac.clone(),
        interval_ms: INTERVAL_MS,
        enough: 1,
        lifetime_ms: ROUND_MS,
        report_ms: ROUND_MS,
        // A node that answers ARP for a routed port does not answer one without a sender.
        method: if target.routed { v1::ProbeMethod::Echo } else { v1::ProbeMethod::Unspecified }.into(),
        // Without an echo a container is asked by ARP at once, which is what 0 means.
        arp_after_ms: match (quiet, mute) {
            (true, _) => NEVER_MS,
            (false, true) => 0,
            (false, false) if target.kind == WorkloadKind::Vm => ARP_AFTER_MS,
            (false, false) => 0,
        },
        ..v1::ProbeOrder::default()
    }
}

/// A round without an answer, in words that name both ends.
pub(super) fn failure(from: &Name, target: &Target, result: &v1::ProbeResult) -> String {
    let Target { node, address, .. } = target;
    if !result.problem.is_empty() {
        return format!("from node {from} to {address} on node {node}: {}", result.problem);
    }
    if result.sent == 0 {
        return format!("from node {from} to {address} on node {node}: nothing could be sent");
    }
    let frames = match result.method() {
        v1::ProbeMethod::Arp => "ARP requests",
        _ => "echo requests",
    };
    format!(
        "no frame from node {from} reaches {address} on node {node} and comes back: {} {frames} from {} were not answered",
        result.sent, result.source
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn target(kind: WorkloadKind) -> Target {
        Target {
            node: "h1".parse().unwrap(),
            generation: 1,
            address: "10.8.0.5".into(),
            kind,
            routed: false,
            mac: "02:00:00:00:00:05".into(),
            vni: 100,
        }
    }

    #[test]
    fn a_vm_is_not_asked_by_arp_while_it_starts() {
        let vm = target(WorkloadKind::Vm);
        assert_eq!(order(&vm, 0, false).arp_after_ms, NEVER_MS);
        assert_eq!(order(&vm, QUIET_ROUNDS, false).arp_after_ms, ARP_AFTER_MS);
        assert_eq!(order(&vm, 1, true).arp_after_ms, 0);
        assert_eq!(order(&target(WorkloadKind::Container), 0, false).arp_after_ms, 0);
        let routed = Target { routed: true, ..target(WorkloadKind::Container) };
        assert_eq!(order(&routed, 0, false).method(), v1::ProbeMethod::Echo);
    }

    #[test]
    fn failures_name_both_nodes() {
        let lost = v1::ProbeResult {
            sent: 30,
            source: "port default/web/b".into(),
            method: v1::ProbeMethod::Echo.into(),
            ..Default::default()
        };
        let text = failure(&"h2".parse().unwrap(), &target(WorkloadKind::Container), &lost);
        assert_eq!(
            text,
            "no frame from node h2 reaches 10.8.0.5 on node h1 and comes back: 30 echo requests from port \
             default/web/b were not answered"
        );
    }
}
