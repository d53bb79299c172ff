//! One node of a lab between its links and the end of its commands.

use std::fs::OpenOptions;
use std::io::Write;
use std::path::Path;
use std::time::{Duration, Instant};

use super::Reporter;
use crate::cancel::Cancel;
use crate::enter::{self, ExecResult};
use crate::error::LabError;
use crate::node::NodeProcess;
use crate::prepare::PreparedNode;
use crate::spec::EntryStatus;
use crate::state::entry_status;

/// How long a node may take until commands of the file can run in it.
const READY: Duration = Duration::from_secs(120);

/// One node between its links and the end of its commands.
pub(super) struct Starter<'a> {
    pub(super) node: &'a PreparedNode,
    pub(super) process: &'a mut NodeProcess,
    pub(super) log: &'a Path,
    pub(super) cancel: &'a Cancel,
    pub(super) report: &'a Reporter,
}

impl Starter<'_> {
    /// Everything that is to be done in it; gives back how many commands failed.
    pub(super) fn run(mut self) -> Result<usize, LabError> {
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
