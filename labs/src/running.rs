//! A lab that this process brought up.

use std::ffi::OsStr;
use std::path::PathBuf;
use std::process::Command;

use crate::down::down;
use crate::enter::{self, ExecResult};
use crate::error::LabError;
use crate::guest::keeper::Keeper;
use crate::node::NodeProcess;
use crate::state::{LabState, NodeState};

/// A lab that runs. Unless it was made to be kept, it is taken down when this is dropped, and ends with this process
/// in any case.
#[derive(Debug)]
pub struct RunningLab {
    state: LabState,
    /// Holds the nodes; empty when they were told to live on.
    processes: Vec<NodeProcess>,
    /// Holds the guest, likewise.
    keeper: Option<Keeper>,
    failed_exec: usize,
    is_down: bool,
}

impl RunningLab {
    pub(crate) fn new(
        state: LabState,
        processes: Vec<NodeProcess>,
        keeper: Option<Keeper>,
        failed_exec: usize,
    ) -> Self {
        RunningLab { state, processes, keeper, failed_exec, is_down: false }
    }

    /// Its name.
    pub fn name(&self) -> &str {
        &self.state.name
    }

    /// All that is known about it.
    pub fn state(&self) -> &LabState {
        &self.state
    }

    /// How many commands of the file's `exec` lists failed.
    pub fn failed_exec(&self) -> usize {
        self.failed_exec
    }

    /// A node by its short or long name.
    ///
    /// # Errors
    /// There is none.
    pub fn node(&self, node: &str) -> Result<&NodeState, LabError> {
        self.state.node(node)
    }

    /// PID 1 of a node, by its number on the machine.
    ///
    /// # Errors
    /// There is no such node; the lab runs in a guest.
    pub fn pid(&self, node: &str) -> Result<u32, LabError> {
        self.refuse_guest(node)?;
        Ok(self.node(node)?.init.map_or(0, |init| init.pid))
    }

    /// A path by which a node's network namespace can be opened.
    ///
    /// # Errors
    /// There is no such node; the lab runs in a guest.
    pub fn netns(&self, node: &str) -> Result<PathBuf, LabError> {
        self.refuse_guest(node)?;
        Ok(self.node(node)?.netns_path())
    }

    fn refuse_guest(&self, node: &str) -> Result<(), LabError> {
        if self.state.guest.is_none() {
            return Ok(());
        }
        let what = "it runs in a guest: it has no process and no namespace on this machine".to_owned();
        Err(LabError::Node { node: node.to_owned(), what })
    }

    /// Runs a command in a node to its end; blocks. A command that fails is no error.
    ///
    /// # Errors
    /// There is no such node, or it does not run any more.
    pub fn exec<S: AsRef<OsStr>>(&self, node: &str, argv: &[S]) -> Result<ExecResult, LabError> {
        enter::exec(&self.state, self.node(node)?, argv)
    }

    /// A command that will run in a node, to be started by the caller. See [`enter::command`].
    ///
    /// # Errors
    /// There is no such node, or it does not run any more.
    pub fn command<S: AsRef<OsStr>>(&self, node: &str, argv: &[S]) -> Result<Command, LabError> {
        enter::command(&self.state, self.node(node)?, argv)
    }

    /// The log of a node's entry point.
    pub fn log(&self, node: &str) -> String {
        std::fs::read_to_string(self.state.log_path(node)).unwrap_or_default()
    }

    /// Lets the lab live on after this process.
    ///
    /// # Errors
    /// A node has ended.
    pub fn keep(mut self) -> Result<LabState, LabError> {
        self.processes.iter_mut().try_for_each(NodeProcess::keep)?;
        self.processes.clear();
        if let Some(mut keeper) = self.keeper.take() {
            keeper.keep()?;
        }
        Ok(self.state.clone())
    }

    /// Takes the lab down and removes its `clab-LAB` folder.
    ///
    /// # Errors
    /// See [`down()`].
    pub fn down(mut self) -> Result<(), LabError> {
        self.is_down = true;
        down(&self.state.name, true).map(drop)
    }
}

impl Drop for RunningLab {
    fn drop(&mut self) {
        if !self.is_down && (!self.processes.is_empty() || self.keeper.is_some()) {
            // Its folder stays: after a failed test the logs in it tell why.
            let _ = down(&self.state.name, false);
        }
    }
}
