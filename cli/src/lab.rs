//! `causeway lab …`, which the lab runner brings along: its arguments are parsed here in a second step, because it has an
//! `-o` of its own and none of the flags for controllers.

use std::ffi::OsString;
use std::process::ExitCode;

use causeway_labs::cli::{LabCommand, exit_code};
use clap::{Args, Parser};

use crate::failure::Exit;
use crate::output::{Output, Tone, paint};

/// Bring containerlab files up in network namespaces, and look around in them
#[derive(Debug, Args)]
#[command(disable_help_flag = true, after_help = EXAMPLES)]
pub(crate) struct LabArgs {
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, hide = true)]
    arguments: Vec<OsString>,
}

pub(crate) const EXAMPLES: &str = "\
Examples:
  causeway lab up -t labs/quickstart
  causeway lab inspect -t labs/quickstart
  causeway lab exec -t labs/quickstart --node leaf1 -- vtysh -c 'show bgp l2vpn evpn'
  causeway lab down -t labs/quickstart";

/// Labs from containerlab files, in network namespaces.
#[derive(Debug, Parser)]
#[command(name = "causeway lab", bin_name = "causeway lab", after_help = EXAMPLES, arg_required_else_help = true)]
pub(crate) struct LabCli {
    #[command(subcommand)]
    command: LabCommand,
}

/// Parses and runs. Exit codes: those of the runner, of the command run in a node, and 64 for a wrong command line.
pub(crate) fn run(args: LabArgs, out: Output) -> ExitCode {
    let words = std::iter::once(OsString::from("causeway lab")).chain(args.arguments);
    let cli = match LabCli::try_parse_from(words) {
        Ok(cli) => cli,
        Err(error) => {
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // If the text cannot be written there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(exit as u8);
        }
    };
    match cli.command.run() {
        Ok(code) => code,
        Err(error) => {
            out.note(&format!("{} {error:#}", paint("error:", Tone::Bad, out.error_colour)));
            exit_code(&error)
        }
    }
}
