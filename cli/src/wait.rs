//! `causeway wait …`: the same as the small program `causeway-wait`, which containers carry instead of this one.

use std::ffi::OsString;
use std::process::ExitCode;

use causeway_agent::wait::client;
use clap::Args;

/// Inside a workload: wait until its ports are ready, then run a command in place of this process
///
/// Asks the node's agent through its readiness socket, no controller. Options: --level LEVEL (programmed, advertised or
/// proven), --timeout TIME, --best-effort, --port KEY, --socket PATH, --quiet. Exit code 6 when the time was over; the
/// reason is printed. The same as the program causeway-wait.
#[derive(Debug, Args)]
#[command(
    disable_help_flag = true,
    after_help = "\
Examples:
  causeway wait -- nginx -g 'daemon off;'
  causeway wait --level proven --timeout 20s -- /app/server
  causeway wait --timeout 5s --best-effort -- /app/server"
)]
pub(crate) struct WaitArgs {
    /// Options, then the command
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, value_name = "OPTIONS] [--] [COMMAND")]
    arguments: Vec<OsString>,
}

/// Waits and becomes the command.
pub(crate) fn run(args: WaitArgs) -> ExitCode {
    client::main(args.arguments)
}
