//! Bringing a lab up.
//!
//! ```text
//! read file ── images ── PID 1 of every node ── links ── per node: entry point, ready, exec ── keep
//!                         (in parallel)                   (nodes in parallel)
//! ```
//!
//! Until the last step every node hangs on this process: if it dies, however it dies, they die.

use std::collections::BTreeSet;
use std::fs;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use causeway_topology::{Lab as Topology, LoadOptions};
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::down::{remove, sweep};
use crate::error::LabError;
use crate::find::topology_file;
use crate::image::Images;
use crate::node::InitProgram;
use crate::prepare::{Context, Prepared, prepare};
use crate::running::RunningLab;
use crate::state::{LabLock, LabPhase, LabState, NodeState, ProcessId, Runner, lab_run_dir, remove_run_dir};

mod guest;
mod making;
mod starter;

use making::Making;

/// How to bring a lab up.
#[derive(Clone)]
pub struct UpOptions {
    /// The topology file, or a folder with exactly one `*.clab.yml`.
    pub file: PathBuf,
    /// Name of the lab in place of the one in the file: so the same file can be up several times.
    pub name: Option<String>,
    /// True: the lab outlives this process, until `down`. False: it ends with the [`RunningLab`], and with this
    /// process however that ends.
    pub keep: bool,
    /// Run images that are not defined on a stand-in: FRR's on `causeway/frr:8.4`, others on the machine's own root.
    pub stand_in: bool,
    /// Which kernel it runs on.
    pub place: Place,
    /// Memory in MiB if it runs in a guest; `None`: by the number of its nodes.
    pub guest_memory: Option<u32>,
    /// Stops a lab that is half-way up; what was made is removed.
    pub cancel: Cancel,
    /// Is told each step as it is done.
    pub progress: Arc<dyn Fn(&Step) + Send + Sync>,
    /// The program that becomes PID 1 of nodes; `None`: `$CAUSEWAY_BIN`, or `causeway` beside this program.
    pub init_program: Option<PathBuf>,
}

impl UpOptions {
    /// A lab that ends with its [`RunningLab`], without progress.
    pub fn new(file: impl Into<PathBuf>) -> Self {
        UpOptions {
            file: file.into(),
            name: None,
            keep: false,
            stand_in: false,
            place: Place::Auto,
            guest_memory: None,
            cancel: Cancel::new(),
            progress: Arc::new(|_| {}),
            init_program: None,
        }
    }
}

impl std::fmt::Debug for UpOptions {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("UpOptions")
            .field("file", &self.file)
            .field("name", &self.name)
            .finish_non_exhaustive()
    }
}

/// Which kernel a lab runs on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub enum Place {
    /// This machine's if it has what the lab's commands need, else that of a QEMU guest.
    #[default]
    Auto,
    /// This machine's.
    Here,
    /// That of a QEMU guest.
    Guest,
}

/// Something that was done, or that the user should know.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Step {
    /// Time since the start of `up`.
    pub at: Duration,
    /// True if not all is as the file says.
    pub is_warning: bool,
    /// What.
    pub text: String,
}

/// The clock and the listener of one `up`.
struct Reporter {
    start: Instant,
    progress: Arc<dyn Fn(&Step) + Send + Sync>,
    warnings: Mutex<BTreeSet<String>>,
}

impl Reporter {
    fn step(&self, text: impl Into<String>) {
        self.tell(false, text.into());
    }

    fn warn(&self, text: impl Into<String>) {
        self.tell(true, text.into());
    }

    fn tell(&self, is_warning: bool, text: String) {
        if is_warning {
            self.warnings.lock().unwrap_or_else(PoisonError::into_inner).insert(text.clone());
        }
        (self.progress)(&Step { at: self.start.elapsed(), is_warning, text });
    }

    /// True if that warning was told.
    fn has_told(&self, warning: &str) -> bool {
        self.warnings.lock().unwrap_or_else(PoisonError::into_inner).contains(warning)
    }
}

/// Brings a lab up. Takes a second or two, longer the first time, when images are built.
///
/// # Errors
/// The file is wrong or asks for what cannot be done; the lab is already up; an image cannot be built; the machine
/// refuses. What had been made is removed then.
pub fn up(options: &UpOptions) -> Result<RunningLab, LabError> {
    let report = Reporter {
        start: Instant::now(),
        progress: Arc::clone(&options.progress),
        warnings: Mutex::default(),
    };
    let file = topology_file(&options.file)?;
    let lab = read_topology(&file, options.name.as_deref(), &report)?;
    if !nix::unistd::geteuid().is_root() {
        return Err(LabError::NotRoot);
    }
    report.step(format!(
        "lab {}: {}, {} ({})",
        lab.name,
        count(lab.nodes.len(), "node"),
        count(lab.links.len(), "link"),
        file.display()
    ));
    let cancel = &options.cancel;
    let lock = LabLock::acquire(&lab.name, cancel)?;
    make_room(&lab.name, &report)?;
    for name in sweep() {
        report.step(format!("removed what was left of lab {name}, whose nodes and runner are gone"));
    }

    let images = Images::open()?;
    let program = InitProgram::find(options.init_program.as_deref())?;
    let programs = program.folder();
    let context = Context { images: &images, programs: &programs, stand_in: options.stand_in };
    let mut prepared = prepare(&lab, &context)?;
    for warning in &prepared.warnings {
        report.warn(warning);
    }
    let place = guest::choose(options.place, &lab, &mut prepared, &report)?;
    build_images(&images, &mut prepared, cancel, &report)?;
    if place == Place::Guest {
        let wish = guest::Wish { lab: &lab, file: &file, prepared: &prepared, program: &program, options };
        return guest::up(&wish, &report).inspect(|_| drop(lock));
    }
    refuse_taken_names(&prepared)?;

    let mut making = Making::new(&lab, &file, &prepared)?;
    match making.run(&lab, &prepared, &program, options, &report) {
        Ok(failed) => {
            let state = making.state;
            let failures = if failed == 0 {
                String::new()
            } else {
                format!(", {} failed", count(failed, "exec command"))
            };
            let (nodes, links) = (count(state.nodes.len(), "node"), count(lab.links.len(), "link"));
            report.step(format!("lab {} is up: {nodes}, {links}{failures}", lab.name));
            drop(lock);
            Ok(RunningLab::new(state, if options.keep { Vec::new() } else { making.processes }, None, failed))
        }
        Err(error) => {
            drop(making.processes);
            let removed = remove(&making.state);
            drop(lock);
            if cancel.is_cancelled() {
                return removed.and(Err(LabError::Interrupted));
            }
            // The first error is the one that matters; what stays is found by the next `up` or `down`.
            Err(error)
        }
    }
}

/// `1 node`, `2 nodes`.
fn count(number: usize, what: &str) -> String {
    format!("{number} {what}{}", if number == 1 { "" } else { "s" })
}

/// Reads and validates a topology file, telling its warnings.
fn read_topology(file: &Path, name: Option<&str>, report: &Reporter) -> Result<Topology, LabError> {
    let loaded = causeway_topology::load(file, &LoadOptions::from_process()).map_err(LabError::Topology)?;
    for warning in &loaded.warnings {
        // The listener says "warning" itself.
        let text = warning.to_string();
        report.warn(text.strip_prefix("warning: ").unwrap_or(&text));
    }
    let mut lab = loaded.lab;
    if let Some(name) = name {
        name.clone_into(&mut lab.name);
    }
    check_name(&lab.name)?;
    if let Ok(base) = std::env::var("CLAB_LABDIR_BASE") {
        lab.dir = PathBuf::from(base);
    }
    Ok(lab)
}

/// The name becomes part of paths and of names of namespaces.
fn check_name(name: &str) -> Result<(), LabError> {
    let good = |c: char| c.is_ascii_alphanumeric() || matches!(c, '-' | '_' | '.');
    if !name.is_empty() && name.len() <= 64 && name.chars().all(good) && !name.starts_with(['.', '-']) {
        return Ok(());
    }
    let what = "a lab's name is 1 to 64 letters, digits, '-', '_' or '.', and begins with a letter or digit"
        .to_owned();
    Err(LabError::Unsupported { subject: format!("lab name {name:?}"), what })
}

/// Refuses a lab that runs; removes what is left of one that does not.
fn make_room(name: &str, report: &Reporter) -> Result<(), LabError> {
    match LabState::read(name) {
        Ok(None) => remove_run_dir(name),
        Ok(Some(state)) if state.phase == LabPhase::Up && state.is_alive() => {
            Err(LabError::AlreadyUp { name: state.name, file: state.file })
        }
        Ok(Some(state)) => {
            report.step(format!("removing what is left of an earlier lab {name}"));
            remove(&state)
        }
        Err(error) => Err(error),
    }
}

fn build_images(
    images: &Images,
    prepared: &mut Prepared,
    cancel: &Cancel,
    report: &Reporter,
) -> Result<(), LabError> {
    for image in &prepared.images {
        if !images.is_built(image)? {
            images.build(image, cancel, &|line| report.step(line))?;
        }
    }
    for node in &mut prepared.nodes {
        if let Some(image) = &node.image {
            node.spec.layers = images.layers(image)?;
        }
    }
    Ok(())
}

/// A namespace of the same name may be somebody else's; with a prefix of its own a lab can meet any name.
fn refuse_taken_names(prepared: &Prepared) -> Result<(), LabError> {
    for node in &prepared.nodes {
        let path = Path::new("/run/netns").join(&node.long_name);
        // A link into /proc whose process is gone is what a crashed tool leaves.
        let dangling = fs::read_link(&path).is_ok_and(|target| target.starts_with("/proc")) && !path.exists();
        if fs::symlink_metadata(&path).is_ok() && !dangling {
            let what = format!(
                "{} is already there and not ours: ip netns del {}, or use another --name",
                path.display(),
                node.long_name
            );
            return Err(LabError::Node { node: node.name.clone(), what });
        }
    }
    Ok(())
}

/// What is known of a lab before its first process.
fn first_state(lab: &Topology, file: &Path, prepared: &Prepared) -> LabState {
    let owner = ProcessId::of(std::process::id()).unwrap_or(ProcessId { pid: 0, start: 0 });
    let created = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
    let nodes = prepared.nodes.iter().map(|node| NodeState {
        name: node.name.clone(),
        long_name: node.long_name.clone(),
        kind: node.kind.clone(),
        group: node.group.clone(),
        image: node.image_name.clone(),
        status: node.spec.status.clone(),
        init: None,
        netns: 0,
        env: node.spec.env.clone(),
        container: None,
    });
    LabState {
        name: lab.name.clone(),
        file: file.to_owned(),
        lab_dir: lab.lab_dir(),
        runner: Runner::Causeway,
        phase: LabPhase::Starting,
        owner,
        created,
        nodes: nodes.collect(),
        host_interfaces: Vec::new(),
        guest: None,
    }
}

/// Folder of the running lab's state, for tests and tools.
pub fn state_dir(name: &str) -> PathBuf {
    lab_run_dir(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_would_leave_their_folder_are_refused() {
        for good in ["quickstart", "a", "q-1_2.3"] {
            assert!(check_name(good).is_ok(), "{good}");
        }
        for bad in ["", "..", "a/b", "-x", "a b", &"x".repeat(65)] {
            assert!(check_name(bad).is_err(), "{bad}");
        }
    }
}
