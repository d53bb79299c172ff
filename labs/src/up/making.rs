//! A lab while it is being made: processes, names, links, entry points and commands, in this order.

use std::fs;
use std::path::Path;

use causeway_topology::Lab as Topology;

use super::starter::Starter;
use super::{Reporter, UpOptions, count, first_state};
use crate::cancel::Cancel;
use crate::down::netns_target;
use crate::error::{Act, LabError};
use crate::node::{InitProgram, NodeProcess};
use crate::prepare::Prepared;
use crate::report;
use crate::spec::EntryStatus;
use crate::state::{LabPhase, LabState, log_path};

/// A lab while it is being made.
pub(super) struct Making {
    pub(super) state: LabState,
    pub(super) processes: Vec<NodeProcess>,
}

impl Making {
    pub(super) fn new(lab: &Topology, file: &Path, prepared: &Prepared) -> Result<Self, LabError> {
        let state = first_state(lab, file, prepared);
        state.write()?;
        Ok(Making { state, processes: Vec::new() })
    }

    /// Everything from the first process to the last command; gives back how many commands failed.
    pub(super) fn run(
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
