//! Probes of a port that moves, from nodes that stay where they are.

use std::collections::BTreeMap;
use std::sync::Arc;

use causeway_proto::{Name, PortKey, v1};

use crate::agents::{Agents, Probe};
use crate::derive::is_present;
use crate::model::{Move, MovePhase, MoveProbe, NodeMode, Port, WorkloadKind};
use crate::snapshot::{Record, Snapshot};

/// Between two probes of an address, in milliseconds.
const INTERVAL_MS: u32 = 10;
/// Between two results, in milliseconds.
const REPORT_MS: u32 = 20;
/// Nodes that probe one port.
const WATCHERS: usize = 2;
/// Addresses of one port that each of them probes.
const PROBED: usize = 8;
/// How long a first answer is waited for before the source stops, in milliseconds.
const FIRST_MS: i64 = 700;
/// How long is looked after the target forwards, in milliseconds: what is not answered counts as lost after a second.
const LOOK_MS: i64 = 1_200;
/// How much longer than the allowed loss an answer is waited for, in milliseconds.
const BEYOND_MS: i64 = 500;
/// An answer as recent as this is one of now, in milliseconds.
const FRESH_MS: u64 = 150;

/// Probes of ports that move.
#[derive(Debug, Default)]
pub(crate) struct Watchers {
    of: BTreeMap<PortKey, Watch>,
}

#[derive(Debug)]
struct Watch {
    /// When the move began: of another one these are not the probes.
    begun_ms: i64,
    /// When they were ordered, in Unix milliseconds.
    since_ms: i64,
    probes: Vec<(Name, std::net::IpAddr, Probe)>,
    /// Another controller's nodes may be able to probe.
    others_may: bool,
    /// They began behind the switch: whoever saw it is gone.
    late: bool,
}

/// What is known of a switch.
#[derive(Debug, Default, PartialEq, Eq)]
pub(super) struct Sight {
    pub(super) probes: Vec<MoveProbe>,
    /// Nobody who could tell saw it.
    pub(super) unseen: bool,
}

impl Watchers {
    /// Ends those of moves that are measured or over.
    pub(super) fn keep(&mut self, moves: &[Arc<Record<Move>>]) {
        let wanted = |key: &PortKey, watch: &Watch| {
            moves.iter().map(|record| &record.value).any(|m| {
                let phase = matches!(m.phase, MovePhase::Prepare | MovePhase::Stop | MovePhase::Verify);
                m.port == *key && phase && m.steps.first().map(|s| s.1) == Some(watch.begun_ms)
            })
        };
        self.of.retain(|key, watch| wanted(key, watch));
    }

    /// Orders probes, the first time; true once they are answered, or will not be.
    pub(super) fn begin(&mut self, agents: &Agents, snapshot: &Snapshot, moving: &Move, now_ms: i64) -> bool {
        let watch =
            self.of.entry(moving.port.clone()).or_insert_with(|| order(agents, snapshot, moving, now_ms));
        // A machine that is silent already, as it should be, gives no first answer.
        let silent = moving.from.kind == WorkloadKind::BareMetal;
        if silent || (watch.probes.is_empty() && !watch.others_may) {
            return true;
        }
        let settled = |probe: &Probe| {
            let latest = probe.latest();
            latest.received > 0 || latest.finished
        };
        let all = !watch.probes.is_empty() && watch.probes.iter().all(|(_, _, probe)| settled(probe));
        all || now_ms.saturating_sub(watch.since_ms) >= FIRST_MS
    }

    /// Orders probes of a switch that this controller did not see coming.
    pub(super) fn catch_up(&mut self, agents: &Agents, snapshot: &Snapshot, moving: &Move, now_ms: i64) {
        self.of
            .entry(moving.port.clone())
            .or_insert_with(|| Watch { late: true, ..order(agents, snapshot, moving, now_ms) });
    }

    /// What they saw, once they have seen enough; `None`: not yet. `forwards_ms`: since when the target forwards.
    pub(super) fn seen(&self, moving: &Move, forwards_ms: i64, now_ms: i64) -> Option<Sight> {
        let elapsed = now_ms.saturating_sub(forwards_ms);
        let longest = i64::from(moving.max_loss_ms).max(LOOK_MS) + BEYOND_MS;
        let watch = self.of.get(&moving.port)?;
        let unseen = watch.late;
        if watch.probes.is_empty() {
            // Who probes says more than who does not, and says it sooner.
            let enough = !watch.others_may || elapsed >= longest + BEYOND_MS;
            return enough.then(|| Sight { unseen, ..Sight::default() });
        }
        let results: Vec<(Name, std::net::IpAddr, v1::ProbeResult)> =
            watch.probes.iter().map(|(node, ip, probe)| (node.clone(), *ip, probe.latest())).collect();
        // One that was never answered tells nothing of the move.
        let results: Vec<_> = results.into_iter().filter(|(_, _, r)| r.received > 0).collect();
        let back = results.iter().all(|(_, _, result)| is_answered(result));
        if elapsed < LOOK_MS || (!back && elapsed < longest) {
            return None;
        }
        // Those that began late show that it is back, and not what was lost.
        if unseen {
            return Some(Sight { unseen, ..Sight::default() });
        }
        let probes = results.iter().map(|(node, ip, result)| summary(node, *ip, result)).collect();
        Some(Sight { probes, unseen })
    }
}

fn is_answered(result: &v1::ProbeResult) -> bool {
    let open = result.gaps.last().is_some_and(|gap| gap.end_ms == 0);
    let age = u64::from(result.elapsed_ms).saturating_sub(result.last_reply_us / 1000);
    result.finished || (!open && age <= FRESH_MS)
}

/// Where there was no answer yet at the beginning, nothing was lost.
fn summary(node: &Name, address: std::net::IpAddr, result: &v1::ProbeResult) -> MoveProbe {
    let real = || result.gaps.iter().filter(|gap| gap.begin_ms > 0);
    let length = |gap: &v1::ProbeGap| {
        let end = if gap.end_ms == 0 { result.elapsed_ms } else { gap.end_ms };
        end.saturating_sub(gap.begin_ms)
    };
    MoveProbe {
        node: node.clone(),
        address,
        interval_ms: INTERVAL_MS,
        sent: result.sent,
        lost: real().map(|gap| gap.lost).sum(),
        duplicates: result.duplicated,
        longest_gap_ms: real().map(length).max().unwrap_or(0),
    }
}

/// The addresses of a port that are looked at: all, those that it holds for others too; of very many the first of each family.
fn probed(port: &Port) -> Vec<std::net::IpAddr> {
    let (v4, v6): (Vec<_>, Vec<_>) = port.answers().partition(std::net::IpAddr::is_ipv4);
    let room = PROBED.saturating_sub(v6.len().min(PROBED / 2));
    let mut probed: Vec<_> = v4.into_iter().take(room).collect();
    let left = PROBED.saturating_sub(probed.len());
    probed.extend(v6.into_iter().take(left));
    probed
}

fn order(agents: &Agents, snapshot: &Snapshot, moving: &Move, now_ms: i64) -> Watch {
    let mut watch = Watch {
        begun_ms: moving.steps.first().map_or(0, |step| step.1),
        since_ms: now_ms,
        probes: Vec::new(),
        others_may: false,
        late: false,
    };
    let (Some(port), Some(network)) =
        (snapshot.ports.get(&moving.port), snapshot.networks.get(&moving.port.network))
    else {
        return watch;
    };
    let stays = |name: &Name| *name != moving.from.node && *name != moving.to.node;
    let can = |mode: NodeMode| matches!(mode, NodeMode::HostVtep | NodeMode::Host);
    let nodes = snapshot.nodes.values().map(|record| &record.value);
    let present = nodes.filter(|node| {
        stays(&node.name)
            && can(node.mode)
            && agents.hearing(&node.name).connected
            && is_present(snapshot, &node.name, &moving.port.network)
    });
    let (here, elsewhere): (Vec<_>, Vec<_>) = present.partition(|node| agents.has_session(&node.name));
    watch.others_may = here.is_empty() && !elsewhere.is_empty();
    for node in here.into_iter().take(WATCHERS) {
        for address in probed(&port.value) {
            let order = v1::ProbeOrder {
                vni: network.value.vni.get(),
                address: address.to_string(),
                mac: port.value.mac.to_string(),
                other_mac: port.value.spare_mac.map_or_else(String::new, |mac| mac.to_string()),
                interval_ms: INTERVAL_MS,
                report_ms: REPORT_MS,
                ..v1::ProbeOrder::default()
            };
            match agents.probe(&node.name, order) {
                Ok(probe) => watch.probes.push((node.name.clone(), address, probe)),
                Err(error) => tracing::debug!(port = %moving.port, %error, "no probe"),
            }
        }
    }
    watch
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::derive::fixture::{World, port_key};

    #[test]
    fn of_each_family_as_many_as_there_is_room_for() {
        for (v4, v6, expected) in
            [(1, 1, (1, 1)), (3, 2, (3, 2)), (16, 16, (4, 4)), (1, 10, (1, 7)), (10, 1, (7, 1))]
        {
            let mut world = World::default();
            let four = (1..=v4).map(|n| format!("10.8.0.{n}"));
            let all: Vec<String> = four.chain((1..=v6).map(|n| format!("fd00::{n}"))).collect();
            world.port("web/a", &all.iter().map(String::as_str).collect::<Vec<_>>());
            let probed = probed(&world.snapshot.ports[&port_key("web/a")].value);
            let of_four = probed.iter().filter(|ip| ip.is_ipv4()).count();
            assert_eq!((of_four, probed.len() - of_four), expected, "{v4} and {v6}");
        }
    }
}
