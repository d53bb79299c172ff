//! `causeway topology`: checks that need no controller and no root.

use std::path::PathBuf;

use causeway_labs::topology_file;
use causeway_topology::{Diagnostic, LoadOptions, Severity, load, plan};
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Format, Output, Tone, paint};

/// About topology files.
#[derive(Debug, Subcommand)]
pub(crate) enum TopologyCommand {
    Check(CheckArgs),
}

/// Read a containerlab file, derive its fabric and say what is wrong with it
///
/// Exit code 0: fine, 3: with warnings, 1: with errors.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway topology check -t labs/quickstart
  causeway topology check -t dc1.clab.yml -o json")]
pub(crate) struct CheckArgs {
    /// Topology file, or a folder with one *.clab.yml
    #[arg(short, long = "topo", value_name = "FILE", default_value = ".")]
    topo: PathBuf,
}

#[derive(Debug, Serialize)]
struct Report {
    file: String,
    nodes: usize,
    links: usize,
    bgp_speakers: usize,
    diagnostics: Vec<Finding>,
}

#[derive(Debug, Serialize)]
struct Finding {
    severity: String,
    message: String,
    file: String,
    line: usize,
    column: usize,
}

impl From<&Diagnostic> for Finding {
    fn from(d: &Diagnostic) -> Self {
        Finding {
            severity: d.severity.to_string(),
            message: d.message.clone(),
            file: d.file.clone(),
            line: d.line,
            column: d.column,
        }
    }
}

pub(crate) fn run(command: TopologyCommand, out: Output) -> Outcome {
    let TopologyCommand::Check(args) = command;
    let file = topology_file(&args.topo).map_err(|e| {
        let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
        Failure::new(Exit::Failed, format!("{e}{cause}"))
    })?;
    let mut report = Report {
        file: file.display().to_string(),
        nodes: 0,
        links: 0,
        bgp_speakers: 0,
        diagnostics: Vec::new(),
    };
    let diagnostics = match load(&file, &LoadOptions::from_process()) {
        Err(errors) => errors,
        Ok(loaded) => {
            (report.nodes, report.links) = (loaded.lab.nodes.len(), loaded.lab.links.len());
            let mut found = loaded.warnings;
            match plan(&loaded.lab) {
                Ok(plan) => report.bgp_speakers = plan.nodes.values().filter(|n| n.asn.is_some()).count(),
                Err(errors) => found.extend(errors),
            }
            found
        }
    };
    report.diagnostics = diagnostics.iter().map(Finding::from).collect();
    let exit = match diagnostics.iter().map(|d| d.severity).min() {
        Some(Severity::Error) => Exit::Failed,
        Some(Severity::Warning) => Exit::Attention,
        Some(Severity::Note) | None => Exit::Ok,
    };
    if out.format == Format::Table {
        show(&report, &diagnostics, exit, out)?;
    } else {
        out.data(&report)?;
    }
    Ok(exit)
}

fn show(report: &Report, diagnostics: &[Diagnostic], exit: Exit, out: Output) -> Result<(), Failure> {
    if !diagnostics.is_empty() {
        out.line(&format!("{}\n", causeway_topology::render_all(diagnostics)))?;
    }
    let (word, tone) = match exit {
        Exit::Failed => ("wrong", Tone::Bad),
        Exit::Attention => ("warn", Tone::Warn),
        _ => ("ok", Tone::Good),
    };
    let Report { nodes, links, bgp_speakers, file, .. } = report;
    let sum = match exit {
        Exit::Failed => String::new(),
        _ => format!(": {nodes} nodes, {links} links, {bgp_speakers} BGP speakers"),
    };
    out.line(&format!("{}  {file}{sum}", paint(word, tone, out.colour)))?;
    out.next("causeway lab up -t FILE");
    Ok(())
}
