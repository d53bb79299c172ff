//! `causeway`: what people type. Every command is a thin client of the controller's gRPC API.

mod alarms;
mod apply;
mod args;
mod client;
mod events;
mod fabric;
mod failure;
mod import;
mod ip;
mod ipam;
mod lab;
mod ledger;
mod manifest;
mod nodes;
mod output;
mod ports;
mod records;
#[cfg(test)]
mod reference;
mod suggest;
mod tables;
mod time;
mod topology;
mod version;
mod view;
mod wait;
mod words;

use std::process::ExitCode;
use std::time::Duration;

use clap::Parser;

use args::{Cli, Command, Globals};
use client::Client;
use failure::{Exit, Failure, Outcome};
use output::{Output, Tone, paint};

/// Time limit of a request unless --timeout says otherwise.
const REQUEST_TIMEOUT: Duration = Duration::from_secs(10);

fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Help and version are answers, everything else is a wrong command line.
            let exit = if error.use_stderr() { Exit::Usage } else { Exit::Ok };
            // If the text cannot be written there is nobody to tell.
            let _ = error.print();
            return ExitCode::from(exit as u8);
        }
    };
    let out = Output::new(cli.globals.output, cli.globals.no_color);
    if let Command::Lab(args) = cli.command {
        return lab::run(args, out);
    }
    if let Command::Wait(args) = cli.command {
        return wait::run(args);
    }
    let exit = match run(cli, out) {
        Ok(exit) => exit,
        Err(failure) => {
            report(&failure, out);
            failure.exit
        }
    };
    ExitCode::from(exit as u8)
}

/// Prints a failure; one without text has nothing to say.
fn report(failure: &Failure, out: Output) {
    if failure.text.is_empty() {
        return;
    }
    out.note(&format!("{} {}", paint("error:", Tone::Bad, out.error_colour), failure.text));
    if !failure.hint.is_empty() {
        out.note(&format!("{} {}", paint("next:", Tone::Faint, out.error_colour), failure.hint));
    }
}

fn run(cli: Cli, out: Output) -> Outcome {
    match cli.command {
        Command::Completion { shell } => {
            let mut script = Vec::new();
            clap_complete::generate(shell, &mut args::full_command(), "causeway", &mut script);
            out.text(&String::from_utf8_lossy(&script))?;
            Ok(Exit::Ok)
        }
        Command::Topology(command) => topology::run(command, out),
        command => {
            let runtime = tokio::runtime::Builder::new_current_thread()
                .enable_all()
                .build()
                .map_err(|e| Failure::new(Exit::Failed, format!("cannot start the runtime: {e}")))?;
            runtime.block_on(ask(command, &cli.globals, out))
        }
    }
}

/// The commands that talk to a controller.
async fn ask(command: Command, globals: &Globals, out: Output) -> Outcome {
    // An environment that sets the variable to nothing means the same as one that does not set it.
    let server = if globals.server.is_empty() { args::DEFAULT_SERVER } else { &globals.server };
    client::sign(globals.reason.as_deref());
    let patience = if matches!(command, Command::Ipam(_)) { ipam::PATIENCE } else { REQUEST_TIMEOUT };
    let client = Client::new(server, &globals.tls, globals.timeout.unwrap_or(patience))?;
    match command {
        Command::Apply(args) => apply::run(args, &client, out).await,
        Command::Get(args) => records::get(args, &client, out).await,
        Command::Describe(args) => records::describe(args, &client, out).await,
        Command::Delete(args) => records::delete(args, &client, out).await,
        Command::Port(command) => ports::run(command, &client, out, globals.timeout).await,
        Command::Node(command) => fabric::node(command, &client, out).await,
        Command::Bgp(command) => fabric::bgp(command, &client, out).await,
        Command::Ip(command) => ip::run(command, &client, out).await,
        Command::Ipam(command) => ipam::run(command, &client, out).await,
        Command::Import(command) => import::run(command, &client, out).await,
        Command::Events(args) => events::run(args, &client, out, globals.timeout).await,
        Command::Fabric(command) => alarms::run(command, &client, out).await,
        Command::Version => version::run(&client, out).await,
        // These ask nobody and were done before.
        Command::Lab(_) | Command::Wait(_) | Command::Topology(_) | Command::Completion { .. } => {
            Ok(Exit::Ok)
        }
    }
}
