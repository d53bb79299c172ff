//! Bringing a lab up.
//!
//! ```text
//! read file ── images ── PID 1 of every node ── links ── per node: entry point, ready, exec ── keep
//!                         (in parallel)                   (nodes in parallel)
//! ```
//!
//! Until the last step every node hangs on this process: if it dies, however it dies, they die.

use std::collections::BTreeSet;
use std::fs::{self, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use causeway_topology::{Lab as Topology, LoadOptions};
use serde::{Deserialize, Serialize};

use crate::cancel::Cancel;
use crate::down::{netns_target, remove, sweep};
use crate::enter::{self, ExecResult};
use crate::error::{Act, LabError};
use crate::find::topology_file;
use crate::image::Images;
use crate::node::{InitProgram, NodeProcess};
use crate::prepare::{Context, Prepared, PreparedNode, prepare};
use crate::report;
use crate::running::RunningLab;
use crate::spec::EntryStatus;
use crate::state::{
    LabLock, LabPhase, LabState, NodeState, ProcessId, Runner, entry_status, lab_run_dir, log_path,
    remove_run_dir,
};

mod guest;

/// How long a node may take until commands of the file can run in it.
const READY: Duration = Duration::from_secs(120);

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

/// A lab while it is being made.
struct Making {
    state: LabState,
    processes: Vec<NodeProcess>,
}

impl Making {
    fn new(lab: &Topology, file: &Path, prepared: &Prepared) -> Result<Self, LabError> {
        let state = first_state(lab, file, prepared);
        state.write()?;
        Ok(Making { state, processes: Vec::new() })
    }

    /// Everything from the first process to the last command; gives back how many commands failed.
    fn run(
        &mut self,
        lab: &Topology,
        prepared: &Prepared,
        program: &InitProgram,
        options: &UpOptions,
        report: &Reporter,
    ) -> Result<usize, LabError> {
        let cancel = &options.cancel;
        prepare_lab_dir(&self.state, lab)?;
        self.start_nodes(prepared, program, cancel)?;
        report.step(format!("{} started", count(self.processes.len(), "node")));
        self.state.write()?;
        self.name_namespaces()?;
        cancel.check()?;
        prepared.links.apply()?;
        self.state.host_interfaces.clone_from(&prepared.links.machine);
        self.state.write()?;
        report.step(format!("{} made", count(lab.links.len(), "link")));
        let failed = self.start_entries(prepared, cancel, report)?;
        self.note_ended_entries(report);
        cancel.check()?;
        self.state.phase = LabPhase::Up;
        self.state.write()?;
        if options.keep {
            self.processes.iter_mut().try_for_each(NodeProcess::keep)?;
        }
        Ok(failed)
    }

    /// Starts PID 1 of all nodes, in parallel.
    fn start_nodes(
        &mut self,
        prepared: &Prepared,
        program: &InitProgram,
        cancel: &Cancel,
    ) -> Result<(), LabError> {
        let state = &self.state;
        let started: Vec<Result<NodeProcess, LabError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = prepared
                .nodes
                .iter()
                .map(|node| {
                    scope.spawn(move || {
                        NodeProcess::start(program, &node.spec, &state.log_path(&node.name), cancel)
                    })
                })
                .collect();
            threads.into_iter().map(join).collect()
        });
        let mut first_error = None;
        for (node, started) in self.state.nodes.iter_mut().zip(started) {
            match started {
                Ok(process) => {
                    node.init = Some(process.init);
                    node.netns = process.netns;
                    self.processes.push(process);
                }
                Err(error) => first_error = first_error.or(Some(error)),
            }
        }
        first_error.map_or(Ok(()), Err)
    }

    /// Makes `ip netns exec NAME` work for every node.
    fn name_namespaces(&self) -> Result<(), LabError> {
        for node in &self.state.nodes {
            let Some(init) = node.init else { continue };
            let path = node.netns_path();
            let link = || -> std::io::Result<()> {
                fs::create_dir_all("/run/netns")?;
                if fs::symlink_metadata(&path).is_ok() {
                    fs::remove_file(&path)?;
                }
                std::os::unix::fs::symlink(netns_target(init), &path)
            };
            link().act(|| format!("make {}", path.display()))?;
        }
        Ok(())
    }

    fn note_ended_entries(&self, report: &Reporter) {
        for node in &self.state.nodes {
            if let Some(EntryStatus::Exited(code)) = node.entry_status() {
                let (lab, node) = (&self.state.name, &node.name);
                report.warn(format!(
                    "node {node}: the entry point exited with {code}: see causeway lab logs --name {lab} {node}"
                ));
            }
        }
    }

    /// Entry points and commands of all nodes, in parallel; gives back how many commands failed.
    fn start_entries(
        &mut self,
        prepared: &Prepared,
        cancel: &Cancel,
        report: &Reporter,
    ) -> Result<usize, LabError> {
        let lab_dir = &self.state.lab_dir;
        let results: Vec<Result<usize, LabError>> = std::thread::scope(|scope| {
            let threads: Vec<_> = prepared
                .nodes
                .iter()
                .zip(&mut self.processes)
                .map(|(node, process)| {
                    scope.spawn(move || {
                        let log = log_path(lab_dir, &node.name);
                        Starter { node, process, log: &log, cancel, report }.run()
                    })
                })
                .collect();
            threads.into_iter().map(join).collect()
        });
        results.into_iter().sum()
    }
}

fn join<T>(thread: std::thread::ScopedJoinHandle<'_, T>) -> T {
    thread.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic))
}

/// `clab-LAB/` with what containerlab would write there, and the logs.
fn prepare_lab_dir(state: &LabState, lab: &Topology) -> Result<(), LabError> {
    let logs = state.lab_dir.join("logs");
    fs::create_dir_all(&logs).act(|| format!("create {}", logs.display()))?;
    for node in &state.nodes {
        let log = state.log_path(&node.name);
        fs::write(&log, "").act(|| format!("write {}", log.display()))?;
    }
    for (name, text) in report::lab_files(lab) {
        let path = state.lab_dir.join(name);
        fs::write(&path, text).act(|| format!("write {}", path.display()))?;
    }
    Ok(())
}

/// One node between its links and the end of its commands.
struct Starter<'a> {
    node: &'a PreparedNode,
    process: &'a mut NodeProcess,
    log: &'a Path,
    cancel: &'a Cancel,
    report: &'a Reporter,
}

impl Starter<'_> {
    fn run(mut self) -> Result<usize, LabError> {
        let name = &self.node.name;
        let mut failed = 0;
        if self.node.startup_delay > 0 {
            self.report.step(format!("node {name}: waiting {} s (startup-delay)", self.node.startup_delay));
            self.cancel.pause(Duration::from_secs(self.node.startup_delay.into()))?;
        }
        if let Some(setup) = &self.node.setup {
            self.report.step(format!(
                "node {name}: the file gives no configuration: using the one derived from the fabric"
            ));
            failed += self.exec(&["sh".to_owned(), "-ec".to_owned(), setup.clone()], "set-up")?;
        }
        for warning in self.process.go()? {
            self.report.warn(format!("node {name}: {warning}"));
        }
        self.wait_until_ready()?;
        for argv in &self.node.exec {
            failed += self.exec(argv, &argv.join(" "))?;
        }
        Ok(failed)
    }

    /// Waits until the image's own test passes.
    fn wait_until_ready(&mut self) -> Result<(), LabError> {
        let start = Instant::now();
        let name = &self.node.name;
        loop {
            let looked = Instant::now();
            // What has ended will not get ready; that it ended is told when all nodes are done.
            let has_ended = matches!(entry_status(&self.node.spec.status), Some(EntryStatus::Exited(_)));
            if has_ended || self.node.ready.is_empty() || self.run_in_node(&self.node.ready)?.return_code == 0
            {
                return Ok(());
            }
            if start.elapsed() > READY {
                self.report.warn(format!("node {name}: not ready after {} s: going on", READY.as_secs()));
                return Ok(());
            }
            // Looking must not take the CPU from what is looked at: in an emulated machine a look takes half a second.
            self.cancel.pause(looked.elapsed().saturating_mul(2).max(Duration::from_millis(30)))?;
        }
    }

    /// Runs one command of the file; 1 if it failed, which does not stop the lab.
    fn exec(&self, argv: &[String], what: &str) -> Result<usize, LabError> {
        let result = self.run_in_node(argv)?;
        self.cancel.check()?;
        append_to_log(self.log, what, &result);
        if result.return_code == 0 {
            return Ok(0);
        }
        let words = if result.stderr.trim().is_empty() { &result.stdout } else { &result.stderr };
        let words = words.trim().replace('\n', "; ");
        self.report.warn(format!(
            "node {}: exec `{what}` failed with {}: {words}",
            self.node.name, result.return_code
        ));
        Ok(1)
    }

    fn run_in_node(&self, argv: &[String]) -> Result<ExecResult, LabError> {
        enter::collect(enter::command_in(self.process.init.pid, &self.node.spec.env, argv), argv)
    }
}

fn append_to_log(log: &Path, what: &str, result: &ExecResult) {
    let text = format!(
        "causeway: exec {what} (exit status {})\n{}{}",
        result.return_code, result.stdout, result.stderr
    );
    // The log is for people; a full disk must not stop the lab.
    let _ = OpenOptions::new().append(true).open(log).and_then(|mut file| file.write_all(text.as_bytes()));
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
