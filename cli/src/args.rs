//! The command line.

use std::time::Duration;

use clap::{Args, CommandFactory, Parser, Subcommand};
use clap_complete::Shell;

use crate::client::TlsArgs;
use crate::output::Format;
use crate::{alarms, apply, events, fabric, import, ip, ipam, lab, ports, records, topology, wait};

/// Where the controller listens unless told otherwise.
pub(crate) const DEFAULT_SERVER: &str = "http://127.0.0.1:7480";

const EXIT_CODES: &str = "\
Exit codes:
  0   ok
  1   failed
  2   nothing to do
  3   something to look at: a plan with changes
  4   conflict: somebody else has it, or it is in use
  5   no address left
  6   too late
  64  wrong command line";

const EXAMPLES: &str = "\
Examples:
  causeway apply -f net.yaml --plan                       what would change
  causeway port create web/db-1                           an address and a MAC for a name
  causeway port bind web/db-1 --node host1 --netns /run/netns/db-1 --wait advertised
  causeway get networks -o yaml                           records, ready to be applied again
  causeway bgp explain 02:ca:0a:08:00:05                  who has it, which route wins and why";

/// Networks, addresses and workload ports of an EVPN fabric.
#[derive(Debug, Parser)]
#[command(name = "causeway", version, about, after_help = format!("{EXAMPLES}\n\n{EXIT_CODES}"), arg_required_else_help = true)]
pub(crate) struct Cli {
    #[command(flatten)]
    pub(crate) globals: Globals,
    #[command(subcommand)]
    pub(crate) command: Command,
}

/// Flags that every command has.
#[derive(Debug, Args)]
pub(crate) struct Globals {
    /// Controllers, separated by commas and tried in order: http://HOST:PORT, https://HOST:PORT or unix:PATH
    #[arg(long, global = true, value_name = "ADDRESS", env = "CAUSEWAY_SERVER", default_value = DEFAULT_SERVER, hide_env_values = true, help_heading = "Connection")]
    pub(crate) server: String,
    #[command(flatten)]
    pub(crate) tls: TlsArgs,
    /// Time limit, for example 500ms, 10s or 2m; a bare number is seconds [default: 10s, with --wait 30s, watch: none]
    #[arg(long, global = true, value_name = "TIME", value_parser = parse_duration, help_heading = "Connection")]
    pub(crate) timeout: Option<Duration>,
    /// Why, for the history of what is changed
    #[arg(long, global = true, value_name = "TEXT", help_heading = "History")]
    pub(crate) reason: Option<String>,
    /// Form of the output
    #[arg(
        short,
        long,
        global = true,
        value_enum,
        default_value = "table",
        value_name = "FORM",
        help_heading = "Output"
    )]
    pub(crate) output: Format,
    /// No colour (also by NO_COLOR, and whenever the output is not a terminal)
    #[arg(long, global = true, help_heading = "Output")]
    pub(crate) no_color: bool,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub(crate) enum Command {
    Apply(apply::ApplyArgs),
    Get(records::GetArgs),
    Describe(records::DescribeArgs),
    Delete(records::DeleteArgs),
    /// Addresses and places of workloads
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  causeway port create web/db-1
  causeway port list --network web"
    )]
    Port(ports::PortCommand),
    /// Who has an address, who had it, and all of them as a file
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  causeway ip at 10.8.0.5 14:03
  causeway ip history 10.8.0.5
  causeway ip export > addresses.csv"
    )]
    Ip(ip::IpCommand),
    /// Whether the books on addresses are right
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  causeway ipam check\n  causeway ipam check --fix"
    )]
    Ipam(ipam::IpamCommand),
    /// Ports for addresses that are in use already
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  causeway import docker --node host1 --dry-run
  causeway import csv addresses.csv"
    )]
    Import(import::ImportCommand),
    Events(events::EventsArgs),
    /// Nodes and their agents
    #[command(subcommand, arg_required_else_help = true, after_help = "Examples:\n  causeway node list")]
    Node(fabric::NodeCommand),
    /// BGP sessions and EVPN routes of the controller
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  causeway bgp peers
  causeway bgp routes --type 2 --vni 10110"
    )]
    Bgp(fabric::BgpCommand),
    /// What the fabric says of ports, against what is intended
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "\
Examples:
  causeway fabric diff
  causeway fabric alarms --follow"
    )]
    Fabric(alarms::FabricCommand),
    Lab(lab::LabArgs),
    Wait(wait::WaitArgs),
    /// Topology files, without bringing them up
    #[command(
        subcommand,
        arg_required_else_help = true,
        after_help = "Examples:\n  causeway topology check labs/quickstart"
    )]
    Topology(topology::TopologyCommand),
    /// Versions of this program and of the controllers
    #[command(after_help = "Examples:\n  causeway version\n  causeway version -o json")]
    Version,
    /// Completion script for a shell
    #[command(after_help = "\
Examples:
  source <(causeway completion bash)
  causeway completion zsh > ~/.zfunc/_causeway
  causeway completion fish > ~/.config/fish/completions/causeway.fish")]
    Completion {
        /// The shell
        shell: Shell,
    },
}

/// The whole command line as one tree, for completion and documentation: the lab's own commands in their place, and the
/// flags for controllers on every other command.
pub(crate) fn full_command() -> clap::Command {
    fn add(command: clap::Command, globals: &[clap::Arg]) -> clap::Command {
        command.mut_subcommands(|c| if c.get_name() == "lab" { c } else { add(c.args(globals), globals) })
    }
    let globals = Globals::augment_args(clap::Command::new("globals"));
    let globals: Vec<clap::Arg> = globals.get_arguments().map(|a| a.clone().global(false)).collect();
    let lab = lab::LabCli::command().name("lab").bin_name("causeway lab");
    let about = Cli::command().find_subcommand("lab").and_then(|c| c.get_about().cloned());
    let root = Cli::command().mut_args(|a| a.global(false));
    add(root.mut_subcommand("lab", |_| lab.about(about.unwrap_or_default())), &globals)
}

/// "500ms", "10s", "2m", "1h" or seconds.
pub(crate) fn parse_duration(text: &str) -> Result<Duration, String> {
    let digits = text.find(|c: char| !c.is_ascii_digit()).unwrap_or(text.len());
    let (number, unit) = text.split_at(digits);
    let number: u64 = number.parse().map_err(|_| "not a time such as 500ms, 10s or 2m".to_owned())?;
    let factor = match unit {
        "ms" => 1,
        "" | "s" => 1000,
        "m" => 60_000,
        "h" => 3_600_000,
        _ => return Err(format!("unknown unit '{unit}': use ms, s, m or h")),
    };
    let millis = number.checked_mul(factor).filter(|ms| (1..=1_000_000_000).contains(ms));
    millis.map(Duration::from_millis).ok_or_else(|| "not between 1ms and 277h".to_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_command_line_is_consistent() {
        Cli::command().debug_assert();
        full_command().debug_assert();
    }

    #[test]
    fn times_are_read_with_units() {
        assert_eq!(parse_duration("500ms"), Ok(Duration::from_millis(500)));
        assert_eq!(parse_duration("10"), Ok(Duration::from_secs(10)));
        assert_eq!(parse_duration("2m"), Ok(Duration::from_secs(120)));
        for bad in ["", "s", "0", "-1s", "1d", "99999999999999999999s", "18446744073709551615h", "1.5s"] {
            assert!(parse_duration(bad).is_err(), "{bad}");
        }
    }

    /// Every command that does something has examples in its help.
    #[test]
    fn every_command_has_examples() {
        fn check(command: &clap::Command) {
            let help = command.get_after_help().map(ToString::to_string).unwrap_or_default();
            assert!(command.is_hide_set() || help.contains("Examples:"), "{}", command.get_name());
            command.get_subcommands().filter(|c| !matches!(c.get_name(), "help" | "lab")).for_each(check);
        }
        check(&full_command());
    }
}
