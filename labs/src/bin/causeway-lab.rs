//! `causeway lab` as a program of its own: what this crate's tests run.

use std::process::ExitCode;

use causeway_labs::cli::{LabCommand, exit_code};
use clap::Parser;

/// Labs from containerlab files, in network namespaces.
#[derive(Parser)]
#[command(name = "causeway-lab")]
struct Arguments {
    #[command(subcommand)]
    command: LabCommand,
}

fn main() -> ExitCode {
    match Arguments::parse().command.run() {
        Ok(code) => code,
        Err(error) => {
            eprintln!("error: {error:#}");
            exit_code(&error)
        }
    }
}
