//! `causeway topology render`.

use std::fs;
use std::path::{Path, PathBuf};

use causeway_topology::{Lab, LoadOptions, Plan, Severity, load, plan, render, render_all};
use clap::{Args, ValueEnum};
use serde::Serialize;

use super::FileArg;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Format, Output};

/// Write what is derived from a containerlab file: switch configuration, records, address plan
///
/// The same file gives the same text, byte for byte. Without --to it goes to standard output, with it into files:
/// NAME.clab.yml, resources.yaml, plan.txt and configs/NODE/{frr.conf,setup.sh}.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway topology render labs/quickstart --what plan
  causeway topology render labs/tor-offload --node leaf1 --what frr
  causeway topology render labs/tor-offload --what records | causeway apply -f -
  causeway topology render dc1.clab.yml --to rendered/")]
pub(crate) struct RenderArgs {
    #[command(flatten)]
    file: FileArg,
    /// Only this node
    #[arg(long)]
    node: Option<String>,
    /// Only this. Default: all of it; of one node its frr.conf and setup.sh
    #[arg(long)]
    what: Option<What>,
    /// Write files into this folder, made if it is not there
    #[arg(long, value_name = "DIR")]
    to: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum What {
    /// FRR configuration of the switches
    Frr,
    /// Set-up commands of the nodes: bridges, VXLAN, VRFs, gateways; addresses of machines
    Setup,
    /// The controller's records, for `causeway apply`
    Records,
    /// The address plan
    Plan,
    /// The containerlab file, without inheritance and with the rendered files bound
    Clab,
}

/// One rendered file.
#[derive(Debug, Serialize)]
struct File {
    path: String,
    text: String,
}

#[derive(Debug, Serialize)]
struct Shown {
    plan: render::AddressPlan,
    files: Vec<File>,
}

pub(crate) fn run(args: &RenderArgs, out: Output) -> Outcome {
    let file = args.file.find()?;
    // Files that a lab binds may be those that are to be rendered.
    let options = LoadOptions { check_files: false, ..LoadOptions::from_process() };
    let failed = |found: &[causeway_topology::Diagnostic]| Failure::new(Exit::Failed, render_all(found));
    let loaded = load(&file, &options).map_err(|e| failed(&e))?;
    let plan = plan(&loaded.lab).map_err(|e| failed(&e))?;
    for warning in loaded.warnings.iter().filter(|w| w.severity == Severity::Warning) {
        eprintln!("{warning}");
    }
    let lab = &loaded.lab;
    if let Some(node) = args.node.as_ref().filter(|n| !lab.nodes.contains_key(*n)) {
        let nodes: Vec<&str> = lab.nodes_in_order().into_iter().map(|n| n.name.as_str()).collect();
        let message =
            format!("there is no node '{node}' in {}; there are {}", file.display(), nodes.join(", "));
        return Err(Failure::new(Exit::Failed, message));
    }
    let files = files(args, lab, &plan)?;
    if let Some(folder) = &args.to {
        return write(folder, &files, out);
    }
    if out.format != Format::Table {
        let mut address_plan = render::address_plan(lab, &plan);
        if let Some(node) = &args.node {
            address_plan.nodes.retain(|n| n.name == *node);
        }
        if args.what == Some(What::Plan) {
            out.data(&address_plan)?;
        } else {
            out.data(&Shown { plan: address_plan, files })?;
        }
        return Ok(Exit::Ok);
    }
    for (position, file) in files.iter().enumerate() {
        // One file is printed as it is, so that it can go into a pipe.
        if files.len() > 1 {
            let gap = if position == 0 { "" } else { "\n" };
            out.line(&format!("{gap}# ---- {}", file.path))?;
        }
        out.line(file.text.trim_end_matches('\n'))?;
    }
    Ok(Exit::Ok)
}

/// The files asked for, empty ones left out.
fn files(args: &RenderArgs, lab: &Lab, plan: &Plan) -> Result<Vec<File>, Failure> {
    let wants = |what: What| args.what.is_none_or(|w| w == what);
    // Of the whole lab; a node's part is asked for by name.
    let whole = |what: What| args.what.map_or(args.node.is_none(), |w| w == what);
    let mut files = Vec::new();
    let mut add = |path: String, text: Option<String>| {
        files.extend(text.filter(|t| !t.is_empty()).map(|text| File { path, text }));
    };
    if whole(What::Clab) {
        add(format!("{}.clab.yml", lab.name), Some(render::clab(lab, plan)));
    }
    if whole(What::Records) {
        add("resources.yaml".to_owned(), Some(render::records(lab, plan)));
    }
    if whole(What::Plan) {
        let mut address_plan = render::address_plan(lab, plan);
        if let Some(node) = &args.node {
            address_plan.nodes.retain(|n| n.name == *node);
        }
        add("plan.txt".to_owned(), Some(address_plan.to_string()));
    }
    let nodes = lab.nodes_in_order().into_iter().map(|n| n.name.as_str());
    for node in nodes.filter(|n| args.node.as_ref().is_none_or(|only| only == n)) {
        if wants(What::Frr) {
            add(format!("configs/{node}/frr.conf"), render::frr(lab, plan, node));
        }
        if wants(What::Setup) {
            add(format!("configs/{node}/setup.sh"), render::setup(lab, plan, node));
        }
    }
    match (&args.node, files.is_empty()) {
        (Some(node), true) => {
            let message = format!("node '{node}' needs nothing of what was asked for");
            Err(Failure::new(Exit::Failed, message))
        }
        _ => Ok(files),
    }
}

fn write(folder: &Path, files: &[File], out: Output) -> Outcome {
    for file in files {
        let path = folder.join(&file.path);
        let failed = |e: std::io::Error| Failure::new(Exit::Failed, format!("write {}: {e}", path.display()));
        if let Some(parent) = path.parent() {
            fs::create_dir_all(parent).map_err(failed)?;
        }
        fs::write(&path, &file.text).map_err(failed)?;
    }
    if out.format == Format::Table {
        for file in files {
            out.line(&folder.join(&file.path).display().to_string())?;
        }
    } else {
        let paths: Vec<String> = files.iter().map(|f| folder.join(&f.path).display().to_string()).collect();
        out.data(&paths)?;
    }
    Ok(Exit::Ok)
}
