//! `causeway lab guest`: a command in a guest; and what labs in guests are made of.

use std::ffi::OsString;
use std::path::PathBuf;
use std::process::ExitCode;
use std::time::Duration;

use clap::Args;

use crate::error::{Act, LabError};
use crate::guest::frame::Request;
use crate::guest::{Guest, client, keeper, server};
use crate::note::note;

/// Arguments of `guest`.
#[derive(Debug, Args)]
pub struct GuestArgs {
    /// Memory
    #[arg(short, long, value_name = "MIB", default_value = "1024")]
    memory: u32,
    /// Virtual CPUs
    #[arg(long, value_name = "N", default_value = "2", value_parser = clap::value_parser!(u32).range(1..=16))]
    cpus: u32,
    /// Longest time, boot included; the exit status is 124 then
    #[arg(long, value_name = "SECONDS", default_value = "600")]
    limit: u64,
    /// Directory that the command may write to, under the same path; may stand several times. All else that it writes is
    /// gone afterwards
    #[arg(long, value_name = "DIRECTORY")]
    share: Vec<PathBuf>,
    /// Word for the kernel's command line; may stand several times
    #[arg(long, value_name = "WORD")]
    kernel_flag: Vec<String>,
    /// The command and its arguments; it has this environment and working directory, and no input
    #[arg(last = true, value_name = "COMMAND", required = true)]
    command: Vec<OsString>,
}

/// Arguments of the hidden `guest-keep`.
#[derive(Debug, Args)]
pub struct KeepArgs {
    /// What to hold
    #[arg(long)]
    spec: PathBuf,
}

/// Arguments of the hidden `guest-exec`.
#[derive(Debug, Args)]
pub struct GuestExecArgs {
    /// Where the guest's keeper listens
    #[arg(long)]
    socket: PathBuf,
    /// The lab
    #[arg(long)]
    lab: String,
    /// The node; without it the command runs in the guest itself
    #[arg(long)]
    node: Option<String>,
    /// The command and its arguments
    #[arg(last = true)]
    command: Vec<String>,
}

pub(super) fn serve() -> anyhow::Result<ExitCode> {
    Ok(server::run()?)
}

pub(super) fn keep(args: &KeepArgs) -> ExitCode {
    keeper::run(&args.spec)
}

pub(super) fn exec(args: GuestExecArgs) -> anyhow::Result<ExitCode> {
    let request = Request::Exec { lab: args.lab, node: args.node, argv: args.command };
    Ok(exit(client::exec(&args.socket, request)?))
}

pub(super) fn run(args: GuestArgs) -> anyhow::Result<ExitCode> {
    let absolute = |path: &PathBuf| path.canonicalize().act(|| format!("find {}", path.display()));
    let mut env: Vec<_> = std::env::vars_os().collect();
    env.retain(|(name, _)| name != "PATH" && name != "HOME");
    let guest = Guest {
        memory: args.memory,
        cpus: args.cpus,
        limit: Some(Duration::from_secs(args.limit)),
        env,
        shares: args.share.iter().map(absolute).collect::<Result<_, LabError>>()?,
        kernel_flags: args.kernel_flag,
        ..Guest::new()
    };
    let ended = guest.run(&args.command)?;
    note(&ended.to_string());
    Ok(exit(ended.status))
}

fn exit(status: i32) -> ExitCode {
    ExitCode::from(u8::try_from(status).unwrap_or(1))
}
