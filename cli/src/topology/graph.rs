//! `causeway topology graph`.

use std::path::PathBuf;

use causeway_topology::{LoadOptions, graph, load, plan, render_all};
use clap::{Args, ValueEnum};

use super::FileArg;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;

/// Draw a topology: SVG to look at, Mermaid for documents, dot for Graphviz
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway topology graph labs/quickstart --to quickstart.svg
  causeway topology graph dc1.clab.yml --format mermaid
  causeway topology graph dc1.clab.yml --format dot | dot -Tpdf > dc1.pdf")]
pub(crate) struct GraphArgs {
    #[command(flatten)]
    file: FileArg,
    /// Form of the picture
    #[arg(long, value_enum, default_value = "svg")]
    format: Picture,
    /// Write it here and not to standard output
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Picture {
    Svg,
    Mermaid,
    Dot,
}

pub(super) fn run(args: &GraphArgs, out: Output) -> Outcome {
    let path = args.file.find()?;
    // A picture needs no files but this one.
    let options = LoadOptions { check_files: false, ..LoadOptions::from_process() };
    let lab = load(&path, &options).map_err(|errors| Failure::new(Exit::Failed, render_all(&errors)))?.lab;
    let text = match args.format {
        // A fabric that contradicts itself is drawn without addresses.
        Picture::Svg => graph::svg(&lab, plan(&lab).ok().as_ref()),
        Picture::Mermaid => graph::mermaid(&lab),
        Picture::Dot => graph::dot(&lab),
    };
    match &args.to {
        None => out.text(&text)?,
        Some(to) => std::fs::write(to, text)
            .map_err(|e| Failure::new(Exit::Failed, format!("cannot write {}: {e}", to.display())))?,
    }
    Ok(Exit::Ok)
}
