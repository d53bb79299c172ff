//! `causeway topology new`.

use std::path::{Path, PathBuf};

use causeway_topology::new::{HostMode, Shape, fabric};
use clap::{Args, ValueEnum};

use crate::failure::{Exit, Failure, Outcome};
use crate::output::Output;

/// Write a spine-leaf fabric as a containerlab file, with the configurations of its nodes
///
/// The file passes `topology check` and comes up with `lab up`. Without --to it is printed, without the
/// configurations that it binds.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway topology new --spines 2 --leaves 4 --hosts 8 --to dc1/dc1.clab.yml
  causeway topology new --name edge --leaves 2 --borders 1 --vpcs 1 --to edge/edge.clab.yml
  causeway topology new --hosts 2 --mode host-vtep")]
pub(crate) struct NewArgs {
    /// Name of the lab
    #[arg(long, default_value = "fabric")]
    name: String,
    /// Spines, each linked to every leaf
    #[arg(long, default_value_t = 2, value_name = "N")]
    spines: usize,
    /// Leaves
    #[arg(long, default_value_t = 2, value_name = "N")]
    leaves: usize,
    /// Hosts, spread over the leaves
    #[arg(long, default_value_t = 0, value_name = "N")]
    hosts: usize,
    /// Border leaves
    #[arg(long, default_value_t = 0, value_name = "N")]
    borders: usize,
    /// Routers of clouds, spread over the borders
    #[arg(long, default_value_t = 0, value_name = "N")]
    vpcs: usize,
    /// Who does VXLAN for the hosts
    #[arg(long, value_enum, default_value = "tor-evpn")]
    mode: Mode,
    /// Write the file here and the configurations beside it; nothing that exists is overwritten
    #[arg(long, value_name = "FILE")]
    to: Option<PathBuf>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Mode {
    /// The leaf, by its own EVPN
    TorEvpn,
    /// The leaf, programmed by our agent
    TorAgent,
    /// The leaf, by rendered configuration alone
    TorStatic,
    /// The host, by our agent
    HostVtep,
}

pub(super) fn run(args: &NewArgs, out: Output) -> Outcome {
    let mode = match args.mode {
        Mode::TorEvpn => HostMode::TorEvpn,
        Mode::TorAgent => HostMode::TorAgent,
        Mode::TorStatic => HostMode::TorStatic,
        Mode::HostVtep => HostMode::HostVtep,
    };
    let NewArgs { spines, leaves, hosts, borders, vpcs, .. } = *args;
    let shape = Shape { name: args.name.clone(), spines, leaves, hosts, borders, vpcs, mode };
    let made = fabric(&shape).map_err(|e| Failure::new(Exit::Failed, e.to_string()))?;
    let Some(path) = &args.to else {
        out.text(&made.topology)?;
        return Ok(Exit::Ok);
    };
    let dir = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let mut files = vec![(path.clone(), &made.topology)];
    files.extend(made.files.iter().map(|(name, text)| (dir.join(name), text)));
    if let Some((taken, _)) = files.iter().find(|(p, _)| p.exists()) {
        let text = format!("{} is there already, nothing was written", taken.display());
        return Err(Failure::new(Exit::Failed, text).hint("take another folder"));
    }
    for (path, text) in &files {
        let parent = path.parent().unwrap_or(dir);
        let written = std::fs::create_dir_all(parent).and_then(|()| std::fs::write(path, text));
        written.map_err(|e| Failure::new(Exit::Failed, format!("cannot write {}: {e}", path.display())))?;
    }
    out.line(&format!("{}: written, with {} files beside it", path.display(), files.len() - 1))?;
    out.next(&format!("causeway topology check {}", path.display()));
    Ok(Exit::Ok)
}
