//! Bringing a lab up in a guest, because this machine's kernel lacks what it needs, or on request.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use causeway_topology::Lab as Topology;

use super::{Place, Reporter, UpOptions, count, first_state};
use crate::cancel::Cancel;
use crate::down::remove;
use crate::error::{Act, LabError};
use crate::guest::frame::Request;
use crate::guest::keeper::{FromKeeper, Keeper, KeeperSpec};
use crate::guest::{Guest, client};
use crate::node::InitProgram;
use crate::prepare::Prepared;
use crate::probe::{Need, unmet};
use crate::running::RunningLab;
use crate::state::{GuestState, LabPhase, LabState, lab_run_dir};

/// MiB for the guest itself, and for each node: a switch with three daemons and what it writes.
const BASE_MEMORY: u32 = 1024;
const NODE_MEMORY: u32 = 96;

/// A lab to be brought up in a guest.
pub(super) struct Wish<'a> {
    pub(super) lab: &'a Topology,
    pub(super) file: &'a Path,
    pub(super) prepared: &'a Prepared,
    pub(super) program: &'a InitProgram,
    pub(super) options: &'a UpOptions,
}

/// Decides, and says why.
pub(super) fn choose(
    place: Place,
    lab: &Topology,
    prepared: &mut Prepared,
    report: &Reporter,
) -> Result<Place, LabError> {
    let needs = std::mem::take(&mut prepared.needs);
    if place == Place::Guest {
        tied_to_machine(lab, prepared).map_or(Ok(()), Err)?;
        report.step("in a QEMU guest, as asked for");
        return Ok(Place::Guest);
    }
    let missing = unmet(needs)?;
    if missing.is_empty() {
        return Ok(Place::Here);
    }
    let tied = tied_to_machine(lab, prepared);
    if place == Place::Auto && tied.is_none() {
        report.step(format!(
            "in a QEMU guest: this kernel has no {} (--no-vm: here all the same)",
            reasons(&missing)
        ));
        return Ok(Place::Guest);
    }
    for Need { feature, node, reason } in missing {
        report.warn(format!("node {node}: this kernel has no {feature}, which {reason} needs"));
    }
    if let (Some(tied), Place::Auto) = (tied, place) {
        report.warn(tied.to_string());
    }
    Ok(Place::Here)
}

/// Each feature once, with the first that needs it.
fn reasons(missing: &[Need]) -> String {
    let mut first = BTreeMap::new();
    for need in missing {
        first.entry(need.feature).or_insert(need);
    }
    let texts = first.values().map(|need| format!("{} (node {}: {})", need.feature, need.node, need.reason));
    texts.collect::<Vec<_>>().join(", ")
}

/// What a guest cannot have: an end in this machine's own namespace.
fn tied_to_machine(lab: &Topology, prepared: &Prepared) -> Option<LabError> {
    if !prepared.links.is_tied_to_machine() {
        return None;
    }
    let what =
        "it has links to this machine's own interfaces or bridges, which no guest reaches: it runs here only";
    Some(LabError::Unsupported { subject: format!("lab {}", lab.name), what: what.to_owned() })
}

/// Boots the guest, has it bring the lab up, and takes note of it.
pub(super) fn up(wish: &Wish<'_>, report: &Reporter) -> Result<RunningLab, LabError> {
    let mut state = first_state(wish.lab, wish.file, wish.prepared);
    let cancel = &wish.options.cancel;
    let result = boot(wish, &mut state, report).and_then(|mut keeper| {
        let failed = bring_up(wish, &mut state, report)?;
        cancel.check()?;
        state.phase = LabPhase::Up;
        state.write()?;
        if wish.options.keep {
            keeper.keep()?;
        }
        Ok((keeper, failed))
    });
    match result {
        Ok((keeper, failed)) => {
            let kept = if wish.options.keep { None } else { Some(keeper) };
            Ok(RunningLab::new(state, Vec::new(), kept, failed))
        }
        Err(error) => {
            let removed = remove(&state);
            if cancel.is_cancelled() {
                return removed.and(Err(LabError::Interrupted));
            }
            Err(error)
        }
    }
}

fn boot(wish: &Wish<'_>, state: &mut LabState, report: &Reporter) -> Result<Keeper, LabError> {
    let folder = lab_run_dir(&state.name);
    let socket = folder.join("guest.sock");
    let logs = state.lab_dir.join("logs");
    fs::create_dir_all(&logs).act(|| format!("create {}", logs.display()))?;
    let client = wish.program.lab_words(&["guest-exec"]);
    state.guest = Some(GuestState { keeper: None, qemu: None, socket: socket.clone(), client });
    state.write()?;

    let guest = guest_of(wish, state)?;
    let (memory, cpus) = (guest.memory, guest.cpus);
    let spec = KeeperSpec { guest, argv: wish.program.lab_words(&["guest-serve"]), socket };
    let words = wish.program.lab_words(&["guest-keep"]);
    let cancel: &Cancel = &wish.options.cancel;
    let mut keeper =
        Keeper::start(&words, &spec, &folder.join("guest.json"), &logs.join("guest.log"), cancel)?;
    note_process(state, |guest| guest.keeper = keeper.id())?;
    loop {
        match keeper.hear()? {
            FromKeeper::Started(qemu) => note_process(state, |guest| guest.qemu = qemu)?,
            FromKeeper::Ready => break,
            FromKeeper::Failed(_) => {}
        }
    }
    report.step(format!("guest booted ({cpus} CPUs, {memory} MiB)"));
    Ok(keeper)
}

fn note_process(state: &mut LabState, change: impl FnOnce(&mut GuestState)) -> Result<(), LabError> {
    state.guest.iter_mut().next().map(change);
    state.write()
}

/// The lab's folder is the machine's own: logs are seen there, and outlive the guest.
fn guest_of(wish: &Wish<'_>, state: &LabState) -> Result<Guest, LabError> {
    let nodes = u32::try_from(state.nodes.len()).unwrap_or(u32::MAX);
    let memory = BASE_MEMORY.saturating_add(NODE_MEMORY.saturating_mul(nodes));
    let cpus = std::thread::available_parallelism().map_or(2, |cpus| u32::try_from(cpus.get()).unwrap_or(4));
    let mut env: Vec<_> = std::env::vars_os().collect();
    env.retain(|(name, _)| name != "PATH" && name != "HOME");
    let share = state.lab_dir.canonicalize().act(|| format!("find {}", state.lab_dir.display()))?;
    Ok(Guest {
        memory: wish.options.guest_memory.unwrap_or(memory),
        cpus: cpus.clamp(2, 4),
        limit: None,
        env,
        shares: vec![share],
        ..Guest::new()
    })
}

/// What the guest tells is told on, with our own clock.
fn bring_up(wish: &Wish<'_>, state: &mut LabState, report: &Reporter) -> Result<usize, LabError> {
    let Some(guest) = state.guest.clone() else { return Ok(0) };
    let request =
        Request::Up { file: wish.file.to_owned(), name: state.name.clone(), stand_in: wish.options.stand_in };
    let told: &dyn Fn(super::Step) = &|step| {
        // Warnings about the file were told before the guest was booted.
        if !(step.is_warning && report.has_told(&step.text)) {
            report.tell(step.is_warning, step.text);
        }
    };
    let (inside, failed) = client::up(&guest, request, &wish.options.cancel, told)?;
    // Its nodes are the guest's: what is known of their processes means nothing here.
    debug_assert_eq!(inside.nodes.len(), state.nodes.len(), "the same file, read twice");
    report.step(format!("lab {} runs in its guest: {}", state.name, count(inside.nodes.len(), "node")));
    Ok(failed)
}
