//! What `causeway lab …` takes.

use std::path::PathBuf;

use clap::{Args, Subcommand, ValueEnum};

use super::guest::{GuestArgs, GuestExecArgs, KeepArgs};

/// Labs from containerlab files, in network namespaces.
#[derive(Debug, Subcommand)]
pub enum LabCommand {
    /// Bring a lab up
    #[command(visible_alias = "deploy")]
    Up(UpArgs),
    /// Take a lab down; nothing of it stays but its folder with the logs
    #[command(visible_alias = "destroy")]
    Down(DownArgs),
    /// Show the nodes of a lab, or their interfaces
    Inspect(InspectArgs),
    /// Run a command in one node, in several, or in all
    Exec(ExecArgs),
    /// Draw a topology file
    Graph(GraphArgs),
    /// Show what a node's entry point and its exec commands have printed
    Logs(LogsArgs),
    /// List the labs of this machine
    #[command(visible_alias = "ls")]
    List(ListArgs),
    /// Run a command in a QEMU guest: Debian's kernel over this machine's files; its exit status is ours
    Guest(GuestArgs),
    /// In a lab's guest: brings the lab up and runs commands
    #[command(hide = true)]
    GuestServe,
    /// Holds the guest of a lab
    #[command(hide = true)]
    GuestKeep(KeepArgs),
    /// A command in a node of a lab in a guest
    #[command(hide = true)]
    GuestExec(GuestExecArgs),
    /// PID 1 of a node; the runner starts it
    #[command(hide = true)]
    Init(InitArgs),
}

/// Which lab.
#[derive(Debug, Clone, Args)]
pub struct Which {
    /// Topology file, or a folder with one *.clab.yml
    #[arg(short = 't', long = "topo", alias = "topology", value_name = "FILE", default_value = ".")]
    pub topo: PathBuf,
    /// Name of the lab in place of the one in the file
    #[arg(long, value_name = "NAME", env = "CAUSEWAY_LAB_NAME")]
    pub name: Option<String>,
}

/// How to print.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum Output {
    /// For people
    Table,
    /// For programs
    Json,
    /// The same as YAML
    Yaml,
}

/// Arguments of `up`.
#[derive(Debug, Args)]
pub struct UpArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Take the lab down first if it is up
    #[arg(long, short = 'c')]
    pub(super) reconfigure: bool,
    /// Run images that are not defined here on a stand-in: FRR's on causeway/frr:8.4, others on the machine's own root
    #[arg(long)]
    pub(super) stand_in: bool,
    /// Run the lab in a QEMU guest; default: if this kernel lacks what the lab needs
    #[arg(long, conflicts_with = "no_vm")]
    pub(super) vm: bool,
    /// Run the lab on this machine's kernel in any case
    #[arg(long)]
    pub(super) no_vm: bool,
    /// Memory of the guest; default: 1024 and 96 for each node
    #[arg(long, value_name = "MIB")]
    pub(super) vm_memory: Option<u32>,
    /// How to print the nodes when the lab is up
    #[arg(short, long, alias = "format", value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// Arguments of `down`.
#[derive(Debug, Args)]
pub struct DownArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Remove the folder clab-LAB too
    #[arg(long, short = 'c')]
    pub(super) cleanup: bool,
    /// All labs of this machine
    #[arg(long, short = 'a', conflicts_with = "name")]
    pub(super) all: bool,
}

/// Arguments of `inspect`.
#[derive(Debug, Args)]
pub struct InspectArgs {
    /// `interfaces`: show the nodes' interfaces
    #[arg(value_enum)]
    pub(super) what: Option<InspectWhat>,
    #[command(flatten)]
    pub(super) which: Which,
    /// All labs of this machine
    #[arg(long, short = 'a', conflicts_with = "name")]
    pub(super) all: bool,
    /// Only this node's interfaces
    #[arg(long, short = 'n')]
    pub(super) node: Option<String>,
    /// How to print
    #[arg(short, long, short_alias = 'f', alias = "format", value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// What `inspect` shows beside nodes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
pub enum InspectWhat {
    /// Interfaces of the nodes
    Interfaces,
}

/// Arguments of `exec`.
#[derive(Debug, Args)]
pub struct ExecArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Where to run it; several times for several nodes; default: all
    #[arg(long, short = 'n', value_name = "NODE")]
    pub(super) node: Vec<String>,
    /// How to print; with one node and without this, the command has the terminal, and its exit status is ours
    #[arg(short, long, short_alias = 'f', alias = "format", value_enum)]
    pub(super) output: Option<Output>,
    /// The command as one text, split as in a shell but run without one; may stand several times
    #[arg(long, value_name = "COMMAND", conflicts_with = "command")]
    pub(super) cmd: Vec<String>,
    /// The command and its arguments
    #[arg(last = true, value_name = "COMMAND")]
    pub(super) command: Vec<String>,
}

/// Arguments of `graph`.
#[derive(Debug, Args)]
pub struct GraphArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// Graphviz
    #[arg(long, conflicts_with = "mermaid")]
    pub(super) dot: bool,
    /// Mermaid flow chart (the default)
    #[arg(long)]
    pub(super) mermaid: bool,
}

/// Arguments of `logs`.
#[derive(Debug, Args)]
pub struct LogsArgs {
    #[command(flatten)]
    pub(super) which: Which,
    /// The node
    pub(super) node: String,
    /// Go on printing what comes
    #[arg(short, long)]
    pub(super) follow: bool,
}

/// Arguments of `list`.
#[derive(Debug, Args)]
pub struct ListArgs {
    /// How to print
    #[arg(short, long, short_alias = 'f', alias = "format", value_enum, default_value = "table")]
    pub(super) output: Output,
}

/// Arguments of the hidden `init`.
#[derive(Debug, Args)]
pub struct InitArgs {
    /// What to make
    #[arg(long)]
    pub(super) spec: PathBuf,
    /// True in the node's namespaces
    #[arg(long)]
    pub(super) inner: bool,
}
