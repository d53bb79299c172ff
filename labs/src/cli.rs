//! `causeway lab …`.

use std::io::{IsTerminal, Write};
use std::os::unix::process::CommandExt;
use std::path::PathBuf;
use std::process::{Command, ExitCode};
use std::sync::{Arc, Mutex};

use serde::Serialize;

use crate::cancel::Cancel;
use crate::containerlab;
use crate::down::{down, remove_lab_dir};
use crate::enter::{self, ExecResult};
use crate::error::{Act, LabError};
use crate::find::{known_lab, known_labs, lab_dir, lab_name, running_lab, topology_file};
use crate::note::note;
use crate::report::{self, interfaces, node_rows, nodes_table};
use crate::state::{LabState, NodeState, Runner, log_path};
use crate::up::{Place, Step, UpOptions, up};

mod args;
mod guest;

pub use args::{
    DownArgs, ExecArgs, GraphArgs, InitArgs, InspectArgs, InspectWhat, LabCommand, ListArgs, LogsArgs,
    Output, UpArgs, Which,
};
pub use guest::{GuestArgs, GuestExecArgs, KeepArgs};

impl LabCommand {
    /// Does it; blocks. Tables and JSON go to standard output, everything else to standard error.
    ///
    /// # Errors
    /// A [`LabError`]; [`exit_code`] gives the exit status for it.
    pub fn run(self) -> anyhow::Result<ExitCode> {
        match self {
            LabCommand::Up(args) => run_up(args),
            LabCommand::Down(args) => run_down(&args),
            LabCommand::Inspect(args) => run_inspect(&args),
            LabCommand::Exec(args) => run_exec(&args),
            LabCommand::Graph(args) => run_graph(&args),
            LabCommand::Logs(args) => run_logs(&args),
            LabCommand::List(args) => run_list(&args),
            LabCommand::Guest(args) => guest::run(args),
            LabCommand::GuestServe => guest::serve(),
            LabCommand::GuestKeep(args) => Ok(guest::keep(&args)),
            LabCommand::GuestExec(args) => guest::exec(args),
            LabCommand::Init(args) => Ok(crate::init::run(&args.spec, args.inner)),
        }
    }
}

/// The exit status for an error of [`LabCommand::run`].
pub fn exit_code(error: &anyhow::Error) -> ExitCode {
    ExitCode::from(error.downcast_ref::<LabError>().map_or(1, LabError::exit_code))
}

fn run_up(args: UpArgs) -> anyhow::Result<ExitCode> {
    let cancel = Cancel::new();
    cancel.on_signals()?;
    if args.reconfigure {
        let name = lab_name(&args.which.topo, args.which.name.as_deref())?;
        match down(&name, true) {
            Ok(_) | Err(LabError::NotUp { .. }) => {}
            Err(error) => return Err(error.into()),
        }
    }
    let options = UpOptions {
        name: args.which.name.clone(),
        keep: true,
        stand_in: args.stand_in,
        place: match (args.vm, args.no_vm) {
            (true, _) => Place::Guest,
            (_, true) => Place::Here,
            _ => Place::Auto,
        },
        guest_memory: args.vm_memory,
        cancel,
        progress: progress_printer(),
        ..UpOptions::new(&args.which.topo)
    };
    let lab = up(&options)?;
    print_nodes(std::slice::from_ref(lab.state()), args.output)?;
    if args.output == Output::Table {
        let which = which_text(&args.which);
        let node = lab.state().nodes.first().map_or("NODE", |node| node.name.as_str());
        note(&format!("next: causeway lab exec {which} --node {node} -- ip address"));
        note(&format!("      causeway lab down {which}"));
    }
    Ok(ExitCode::SUCCESS)
}

/// Prints steps as they happen, with the milliseconds since the start.
fn progress_printer() -> Arc<dyn Fn(&Step) + Send + Sync> {
    let is_terminal = std::io::stderr().is_terminal();
    let lock = Mutex::new(());
    Arc::new(move |step| {
        // One line at a time, whichever thread it comes from.
        let _held = lock.lock();
        let word = match (step.is_warning, is_terminal) {
            (false, _) => "",
            (true, false) => "warning: ",
            (true, true) => "\x1b[33mwarning:\x1b[0m ",
        };
        note(&format!("{:>6} ms  {word}{}", step.at.as_millis(), step.text));
    })
}

/// The arguments that mean the same lab, for the next command.
fn which_text(which: &Which) -> String {
    match &which.name {
        Some(name) => format!("--name {name}"),
        None => format!("-t {}", which.topo.display()),
    }
}

fn run_down(args: &DownArgs) -> anyhow::Result<ExitCode> {
    let names = if args.all {
        known_labs()?.into_iter().map(|lab| lab.name).collect()
    } else {
        vec![lab_name(&args.which.topo, args.which.name.as_deref())?]
    };
    let start = std::time::Instant::now();
    for name in &names {
        match take_down(name, args.cleanup) {
            Ok(state) => {
                let milliseconds = start.elapsed().as_millis();
                note(&format!(
                    "{milliseconds:>6} ms  lab {name} is down: {} nodes removed",
                    state.nodes.len()
                ));
                if !args.cleanup && state.lab_dir.exists() {
                    note(&format!("           {} stays (--cleanup removes it)", state.lab_dir.display()));
                }
            }
            // As with containerlab: what is wanted is so already.
            Err(LabError::NotUp { name }) => {
                note(&format!("lab {name} is not up: nothing to remove"));
                if args.cleanup && !args.all {
                    remove_lab_dir(&lab_dir(&args.which.topo, &name)?)?;
                }
            }
            Err(error) => return Err(error.into()),
        }
    }
    if names.is_empty() {
        note("no lab is up: nothing to remove");
    }
    Ok(ExitCode::SUCCESS)
}

/// With what brought it up.
fn take_down(name: &str, cleanup: bool) -> Result<LabState, LabError> {
    match down(name, cleanup) {
        Err(LabError::NotUp { .. }) => {}
        other => return other,
    }
    let lab = known_lab(name)?.ok_or_else(|| LabError::NotUp { name: name.to_owned() })?;
    containerlab::destroy(&lab, cleanup)?;
    Ok(lab)
}

fn run_inspect(args: &InspectArgs) -> anyhow::Result<ExitCode> {
    let labs = if args.all {
        known_labs()?
    } else {
        vec![running_lab(&args.which.topo, args.which.name.as_deref())?]
    };
    if args.what.is_none() {
        return print_nodes(&labs, args.output);
    }
    let mut all = Vec::new();
    for lab in &labs {
        all.extend(interfaces(lab, args.node.as_deref())?);
    }
    let rows = || {
        all.iter().flat_map(|node| {
            node.interfaces.iter().map(|i| {
                vec![
                    node.name.clone(),
                    i.name.clone(),
                    i.mac.clone(),
                    i.mtu.to_string(),
                    i.kind.clone(),
                    i.state.clone(),
                ]
            })
        })
    };
    match args.output {
        Output::Table => {
            print(&report::table(&["Node", "Interface", "MAC", "MTU", "Type", "State"], rows()))?
        }
        format => print_data(&all, format)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print_nodes(labs: &[LabState], format: Output) -> anyhow::Result<ExitCode> {
    let rows: Vec<_> = labs.iter().map(|lab| (lab.name.clone(), node_rows(lab))).collect();
    match format {
        Output::Table => {
            let all: Vec<_> = rows.into_iter().flat_map(|(_, rows)| rows).collect();
            print(&nodes_table(&all))?;
        }
        format => print_data(&rows.into_iter().collect::<std::collections::BTreeMap<_, _>>(), format)?,
    }
    Ok(ExitCode::SUCCESS)
}

fn print(text: &str) -> anyhow::Result<()> {
    let mut out = std::io::stdout().lock();
    match writeln!(out, "{}", text.trim_end()) {
        // `| head` has seen enough.
        Err(error) if error.kind() == std::io::ErrorKind::BrokenPipe => Ok(()),
        other => Ok(other?),
    }
}

fn print_data<T: Serialize>(value: &T, format: Output) -> anyhow::Result<()> {
    match format {
        Output::Yaml => print(&serde_saphyr::to_string(value)?),
        Output::Table | Output::Json => print(&serde_json::to_string_pretty(value)?),
    }
}

fn run_exec(args: &ExecArgs) -> anyhow::Result<ExitCode> {
    let lab = running_lab(&args.which.topo, args.which.name.as_deref())?;
    let mut commands = Vec::new();
    for text in &args.cmd {
        commands.push(causeway_topology::split_command(text)?);
    }
    if !args.command.is_empty() {
        commands.push(args.command.clone());
    }
    if commands.is_empty() {
        let what = "no command given: causeway lab exec --node NODE -- COMMAND…".to_owned();
        return Err(LabError::Unsupported { subject: "exec".to_owned(), what }.into());
    }
    if let ([name], [command], None) = (args.node.as_slice(), commands.as_slice(), args.output) {
        return exec_here(&lab, lab.node(name)?, command);
    }
    let nodes: Vec<&NodeState> = if args.node.is_empty() {
        lab.nodes.iter().collect()
    } else {
        args.node.iter().map(|name| lab.node(name)).collect::<Result<_, _>>()?
    };
    let results = exec_everywhere(&lab, &nodes, &commands)?;
    let failed = results.iter().any(|(_, all)| all.iter().any(|result| result.return_code != 0));
    match args.output {
        None | Some(Output::Table) => print_results(&results)?,
        Some(format) => {
            print_data(&results.into_iter().collect::<std::collections::BTreeMap<_, _>>(), format)?
        }
    }
    Ok(ExitCode::from(u8::from(failed)))
}

/// The command takes the place of this process: terminal, signals and exit status are its own.
fn exec_here(lab: &LabState, node: &NodeState, command: &[String]) -> anyhow::Result<ExitCode> {
    let is_terminal = std::io::stdin().is_terminal();
    let enter = if is_terminal { enter::terminal_command } else { enter::command };
    let error = enter(lab, node, command)?.exec();
    Err(LabError::Io { act: "run nsenter (package util-linux)".to_owned(), source: error }.into())
}

type NodeResults = (String, Vec<ExecResult>);

/// Nodes in parallel, the commands of one node in order.
fn exec_everywhere(
    lab: &LabState,
    nodes: &[&NodeState],
    commands: &[Vec<String>],
) -> Result<Vec<NodeResults>, LabError> {
    std::thread::scope(|scope| {
        let threads: Vec<_> = nodes
            .iter()
            .map(|node| {
                scope.spawn(move || {
                    let results: Result<_, _> =
                        commands.iter().map(|command| enter::exec(lab, node, command)).collect();
                    results.map(|results| (node.long_name.clone(), results))
                })
            })
            .collect();
        threads
            .into_iter()
            .map(|t| t.join().unwrap_or_else(|panic| std::panic::resume_unwind(panic)))
            .collect()
    })
}

fn print_results(results: &[NodeResults]) -> anyhow::Result<()> {
    for (node, results) in results {
        for result in results {
            let end = if result.return_code == 0 {
                String::new()
            } else {
                format!(" (exit status {})", result.return_code)
            };
            print(&format!("{node}: {}{end}", result.cmd.join(" ")))?;
            for line in result.stdout.lines().chain(result.stderr.lines()) {
                print(&format!("    {line}"))?;
            }
        }
    }
    Ok(())
}

fn run_graph(args: &GraphArgs) -> anyhow::Result<ExitCode> {
    let file = topology_file(&args.which.topo)?;
    let loaded = causeway_topology::load(&file, &causeway_topology::LoadOptions::from_process())
        .map_err(LabError::Topology)?;
    let draw = if args.dot { causeway_topology::graph::dot } else { causeway_topology::graph::mermaid };
    print(&draw(&loaded.lab))?;
    Ok(ExitCode::SUCCESS)
}

fn run_logs(args: &LogsArgs) -> anyhow::Result<ExitCode> {
    let name = lab_name(&args.which.topo, args.which.name.as_deref())?;
    let path = match known_lab(&name)? {
        Some(lab) if lab.runner == Runner::Containerlab => {
            let node = lab.node(&args.node)?;
            let error =
                containerlab::logs(node.container.as_deref().unwrap_or(&node.long_name), args.follow).exec();
            return Err(LabError::Io { act: "run docker".to_owned(), source: error }.into());
        }
        Some(lab) => lab.log_path(&lab.node(&args.node)?.name),
        // Logs outlive the lab.
        None => {
            let folder = lab_dir(&args.which.topo, &name)?;
            log_path(&folder, &args.node)
        }
    };
    if args.follow {
        let error = Command::new("tail").args(["-n", "+1", "-F", "--"]).arg(&path).exec();
        return Err(LabError::Io { act: "run tail".to_owned(), source: error }.into());
    }
    let text = std::fs::read(&path).act(|| format!("read {}", path.display()))?;
    match std::io::stdout().lock().write_all(&text) {
        Err(error) if error.kind() != std::io::ErrorKind::BrokenPipe => Err(error.into()),
        _ => Ok(ExitCode::SUCCESS),
    }
}

/// One lab in `list`.
#[derive(Debug, Serialize)]
struct LabRow {
    name: String,
    /// `up`, `starting` or `dead` (its nodes are gone: `down` removes the rest).
    state: &'static str,
    nodes: usize,
    running: usize,
    runner: Runner,
    file: PathBuf,
}

fn run_list(args: &ListArgs) -> anyhow::Result<ExitCode> {
    let rows: Vec<LabRow> = known_labs()?
        .into_iter()
        .map(|lab| LabRow {
            state: match lab.phase {
                _ if !lab.is_alive() => "dead",
                crate::state::LabPhase::Starting => "starting",
                crate::state::LabPhase::Up => "up",
            },
            nodes: lab.nodes.len(),
            running: lab.running_nodes(),
            name: lab.name,
            runner: lab.runner,
            file: lab.file,
        })
        .collect();
    if args.output != Output::Table {
        print_data(&rows, args.output)?;
        return Ok(ExitCode::SUCCESS);
    }
    let cells = |row: &LabRow| {
        vec![
            row.name.clone(),
            row.state.to_owned(),
            format!("{}/{}", row.running, row.nodes),
            match row.runner {
                Runner::Causeway => "causeway",
                Runner::Containerlab => "containerlab",
            }
            .to_owned(),
            row.file.display().to_string(),
        ]
    };
    print(&report::table(&["Lab", "State", "Nodes", "Runner", "File"], rows.iter().map(cells)))?;
    Ok(ExitCode::SUCCESS)
}
