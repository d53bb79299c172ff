//! `causeway topology`: what needs no controller and no root.

mod check;
mod graph;
mod new;
mod render;

use std::path::PathBuf;

use causeway_labs::topology_file;
use clap::{Args, Subcommand};

use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;

/// About topology files.
#[derive(Debug, Subcommand)]
pub(crate) enum TopologyCommand {
    Check(check::CheckArgs),
    Render(render::RenderArgs),
    Graph(graph::GraphArgs),
    New(new::NewArgs),
}

/// Which file.
#[derive(Debug, Args)]
pub(crate) struct FileArg {
    /// Topology file, or a folder with one *.clab.yml
    #[arg(value_name = "FILE", default_value = ".")]
    file: PathBuf,
    /// The same as FILE, as the lab's commands have it
    #[arg(short, long = "topo", value_name = "FILE", conflicts_with = "file")]
    topo: Option<PathBuf>,
}

impl FileArg {
    fn find(&self) -> Result<PathBuf, Failure> {
        topology_file(self.topo.as_ref().unwrap_or(&self.file)).map_err(|e| {
            let cause = std::error::Error::source(&e).map(|s| format!(": {s}")).unwrap_or_default();
            Failure::new(Exit::Failed, format!("{e}{cause}"))
        })
    }
}

pub(crate) fn run(command: TopologyCommand, out: Output) -> Outcome {
    match command {
        TopologyCommand::Check(args) => check::run(&args, out),
        TopologyCommand::Render(args) => render::run(&args, out),
        TopologyCommand::Graph(args) => graph::run(&args, out),
        TopologyCommand::New(args) => new::run(&args, out),
    }
}
