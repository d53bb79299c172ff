//! Moves for people and for programs.

use causeway_proto::{PortKey, v1};
use serde::Serialize;

use crate::failure::{Failure, printable};
use crate::output::{Format, Output, Table, Tone, plain};
use crate::tables::port_id;
use crate::words::{self, word};

/// A place in JSON.
#[derive(Debug, Serialize)]
struct PlaceView {
    node: String,
    kind: String,
    attachment: String,
    netns: String,
    interface: String,
    generation: u64,
}

/// A move in JSON.
#[derive(Debug, Serialize)]
pub(crate) struct MoveView {
    port: String,
    phase: &'static str,
    from: PlaceView,
    to: PlaceView,
    by: String,
    steps: Vec<StepView>,
    reason: String,
    cost: Option<CostView>,
    window_until_ms: i64,
    max_loss_ms: u32,
    forced: bool,
    old_mac: String,
    new_mac: String,
}

#[derive(Debug, Serialize)]
struct StepView {
    phase: &'static str,
    at_ms: i64,
}

#[derive(Debug, Serialize)]
struct CostView {
    gap_ms: u32,
    probes: Vec<ProbeView>,
    convergence: Vec<ConvergenceView>,
    revision: u64,
    unseen: bool,
}

#[derive(Debug, Serialize)]
struct ProbeView {
    node: String,
    address: String,
    interval_ms: u32,
    sent: u32,
    lost: u32,
    duplicates: u32,
    longest_gap_ms: u32,
}

#[derive(Debug, Serialize)]
struct ConvergenceView {
    node: String,
    after_ms: u32,
}

#[derive(Debug, Serialize)]
struct PlanView {
    port: String,
    addresses: Vec<String>,
    mac: String,
    new_mac: String,
    from: PlaceView,
    to: PlaceView,
    steps: Vec<String>,
    expected_gap_ms: u32,
    expected_from: String,
    warnings: Vec<String>,
}

fn phase_of(phase: v1::MovePhase) -> &'static str {
    match phase {
        v1::MovePhase::Unspecified => "unknown",
        v1::MovePhase::Prepare => "prepare",
        v1::MovePhase::Stop => "stop",
        v1::MovePhase::Verify => "verify",
        v1::MovePhase::Hold => "hold",
        v1::MovePhase::Return => "return",
        v1::MovePhase::Done => "done",
        v1::MovePhase::Undone => "undone",
    }
}

/// The phase that a move is in.
pub(crate) fn phase_word(moving: &v1::Move) -> &'static str {
    phase_of(moving.phase())
}

fn place(binding: Option<&v1::Binding>) -> PlaceView {
    let binding = binding.cloned().unwrap_or_default();
    PlaceView {
        kind: word(words::WORKLOADS, binding.kind).to_owned(),
        attachment: word(words::ATTACHMENTS, binding.attachment).to_owned(),
        node: binding.node,
        netns: binding.netns,
        interface: binding.interface,
        generation: binding.generation,
    }
}

impl From<v1::Move> for MoveView {
    fn from(moving: v1::Move) -> Self {
        let steps = moving.steps.iter().map(|s| StepView { phase: phase_of(s.phase()), at_ms: s.at_ms });
        let probe = |p: v1::MoveProbe| ProbeView {
            node: p.node,
            address: p.address,
            interval_ms: p.interval_ms,
            sent: p.sent,
            lost: p.lost,
            duplicates: p.duplicates,
            longest_gap_ms: p.longest_gap_ms,
        };
        let seen = |c: v1::MoveConvergence| ConvergenceView { node: c.node, after_ms: c.after_ms };
        MoveView {
            port: port_id(moving.key.as_ref()),
            phase: phase_word(&moving),
            from: place(moving.from.as_ref()),
            to: place(moving.to.as_ref()),
            steps: steps.collect(),
            by: moving.by,
            reason: moving.reason,
            cost: moving.cost.map(|cost| CostView {
                gap_ms: cost.gap_ms,
                probes: cost.probes.into_iter().map(probe).collect(),
                convergence: cost.convergence.into_iter().map(seen).collect(),
                revision: cost.revision,
                unseen: cost.unseen,
            }),
            window_until_ms: moving.window_until_ms,
            max_loss_ms: moving.max_loss_ms,
            forced: moving.forced,
            old_mac: moving.old_mac,
            new_mac: moving.new_mac,
        }
    }
}

/// A phase that began, or what the move waits for.
pub(super) fn progress(moving: &v1::Move, last: Option<&v1::Move>, out: Output) {
    if last.is_some_and(|last| last.phase == moving.phase && last.reason == moving.reason) {
        return;
    }
    let began = moving.steps.first().map_or(0, |step| step.at_ms);
    let at = moving.steps.last().map_or(0, |step| step.at_ms).saturating_sub(began);
    let reason =
        if moving.reason.is_empty() { String::new() } else { format!("  {}", printable(&moving.reason)) };
    out.note(&format!("{at:>7} ms  {}{reason}", phase_word(moving)));
}

/// What a move cost.
pub(super) fn report(moving: &v1::Move, out: Output) -> Result<(), Failure> {
    if out.format != Format::Table {
        return out.data(&MoveView::from(moving.clone()));
    }
    let Some(cost) = &moving.cost else { return Ok(()) };
    let mut table = Table::new(&["SEEN FROM", "ADDRESS", "LOST", "OF", "DUPLICATES", "LONGEST GAP"]);
    for probe in &cost.probes {
        let tone = if probe.longest_gap_ms > moving.max_loss_ms { Tone::Bad } else { Tone::Good };
        table.row(vec![
            plain(&probe.node),
            plain(&probe.address),
            plain(probe.lost),
            plain(format!("{} at {} ms", probe.sent, probe.interval_ms)),
            plain(probe.duplicates),
            (format!("{} ms", probe.longest_gap_ms), tone),
        ]);
    }
    let by_hand = moving.to.as_ref().is_some_and(|to| to.kind() == v1::WorkloadKind::BareMetal);
    if cost.unseen {
        out.line("the controllers that saw the switch are gone: what was lost nobody knows")?;
    } else if cost.probes.is_empty() && by_hand {
        out.line("no other node with a workload of the network could probe: what was lost nobody knows")?;
    } else if cost.probes.is_empty() {
        out.line(
            "no other node with a workload of the network could probe; the gap is what the agents said",
        )?;
    } else {
        out.table(&table)?;
    }
    // A machine of its own reports nothing.
    if !by_hand {
        out.line(&format!(
            "silent for at most {} ms, from the order to stop to the target's report",
            cost.gap_ms
        ))?;
    }
    for seen in &cost.convergence {
        out.line(&format!("{} followed after {} ms", printable(&seen.node), seen.after_ms))?;
    }
    Ok(())
}

pub(super) fn list(moves: Vec<v1::Move>, out: Output) -> Result<(), Failure> {
    if out.format != Format::Table {
        return out.data(&moves.into_iter().map(MoveView::from).collect::<Vec<_>>());
    }
    if moves.is_empty() {
        out.note("no moves");
        return Ok(());
    }
    let mut table = Table::new(&["PORT", "PHASE", "FROM", "TO", "GAP", "LOST", "BY", "REASON"]);
    for moving in &moves {
        let node = |b: &Option<v1::Binding>| b.as_ref().map_or_else(String::new, |b| printable(&b.node));
        let gap = moving.cost.as_ref().map_or_else(String::new, |c| format!("{} ms", c.gap_ms));
        let lost = moving.cost.as_ref().and_then(|c| c.probes.iter().map(|p| p.longest_gap_ms).max());
        let tone = match moving.phase() {
            v1::MovePhase::Done | v1::MovePhase::Hold => Tone::Good,
            v1::MovePhase::Undone | v1::MovePhase::Return => Tone::Warn,
            _ => Tone::Plain,
        };
        table.row(vec![
            plain(port_id(moving.key.as_ref())),
            (phase_word(moving).to_owned(), tone),
            plain(node(&moving.from)),
            plain(node(&moving.to)),
            plain(gap),
            plain(lost.map_or_else(String::new, |ms| format!("{ms} ms"))),
            plain(printable(&moving.by)),
            plain(printable(&moving.reason)),
        ]);
    }
    out.table(&table)
}

pub(super) fn plan(key: &PortKey, plan: v1::PlanMoveResponse, out: Output) -> Result<(), Failure> {
    let view = PlanView {
        port: key.to_string(),
        from: place(plan.from.as_ref()),
        to: place(plan.to.as_ref()),
        addresses: plan.addresses,
        mac: plan.mac,
        new_mac: plan.new_mac,
        steps: plan.steps,
        expected_gap_ms: plan.expected_gap_ms,
        expected_from: plan.expected_from,
        warnings: plan.warnings,
    };
    if out.format != Format::Table {
        return out.data(&view);
    }
    let mac = match view.new_mac.as_str() {
        "" => format!("MAC {} (both stay)", view.mac),
        new => format!("which stay, MAC {} → {new}", view.mac),
    };
    out.line(&format!("port {}: {}, {mac}", view.port, view.addresses.join(" ")))?;
    for (number, step) in view.steps.iter().enumerate() {
        out.line(&format!("  {}. {}", number + 1, printable(step)))?;
    }
    out.line(&format!("expected gap: {} ms, {}", view.expected_gap_ms, printable(&view.expected_from)))?;
    for warning in &view.warnings {
        out.line(&format!("note: {}", printable(warning)))?;
    }
    Ok(())
}
