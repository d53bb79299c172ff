//! The node agent's program.

use std::io::{IsTerminal, Write};
use std::path::{Path, PathBuf};
use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context;
use causeway_agent::agent;
use causeway_agent::config::{Config, LogFormat, Tls};
use causeway_agent::journal::Journal;
use causeway_agent::lan::moves;
use causeway_agent::render::{Format, render};
use causeway_agent::state_json;
use clap::{Parser, Subcommand};
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

/// Brings this machine to the state that the Causeway controller derives for it, and keeps it there.
#[derive(Debug, Parser)]
#[command(name = "causeway-agent", version)]
struct Args {
    /// Configuration file (YAML)
    #[arg(long, value_name = "FILE", global = true)]
    config: Option<PathBuf>,
    /// The node's name, as the controller knows it
    #[arg(long, env = "CAUSEWAY_NODE", global = true)]
    node: Option<String>,
    /// Controllers, separated by commas: http://HOST:PORT, https://HOST:PORT, HOST:PORT or unix:/PATH
    #[arg(
        long,
        env = "CAUSEWAY_CONTROLLERS",
        value_delimiter = ',',
        value_name = "ADDRESS,…",
        global = true
    )]
    controllers: Vec<String>,
    /// Directory of the last complete state
    #[arg(long, env = "CAUSEWAY_STATE_DIR", value_name = "DIR", global = true)]
    state_dir: Option<PathBuf>,
    /// CA certificates (PEM) to check controllers at https:// with
    #[arg(long, env = "CAUSEWAY_TLS_CA", value_name = "FILE", global = true)]
    tls_ca: Option<PathBuf>,
    /// The agent's certificate (PEM), for controllers that ask for one
    #[arg(long, env = "CAUSEWAY_TLS_CERT", value_name = "FILE", requires = "tls_ca", global = true)]
    tls_cert: Option<PathBuf>,
    /// Key (PEM) of that certificate
    #[arg(long, env = "CAUSEWAY_TLS_KEY", value_name = "FILE", requires = "tls_ca", global = true)]
    tls_key: Option<PathBuf>,
    /// Form of the log
    #[arg(long, value_enum, global = true)]
    log_format: Option<LogFormat>,
    /// Log filter, for example debug or causeway_agent=debug
    #[arg(long, env = "CAUSEWAY_LOG", value_name = "FILTER", global = true)]
    log: Option<String>,
    /// Print the configuration in force and exit
    #[arg(long)]
    print_config: bool,
    /// Print what would be done, as commands, touch nothing and exit
    #[arg(long, global = true)]
    dry_run: bool,
    #[command(subcommand)]
    command: Option<Command>,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Remove everything of Causeway from this host's kernel (with --dry-run: only print it)
    Cleanup,
    /// Print the last complete state on disk, as JSON
    State,
    /// Wait for a controller after the host's own addresses moved, and undo the move without one
    #[command(hide = true)]
    ConfirmMove {
        /// Directory of the record
        #[arg(long)]
        dir: PathBuf,
        /// Where controllers listen
        #[arg(long, value_delimiter = ',')]
        targets: Vec<String>,
    },
    /// Print the configuration of a node from its state, touching nothing
    Render {
        /// The state as JSON, as `state` or `causeway node config --format json` prints it; - for standard input
        #[arg(long, value_name = "FILE")]
        state: PathBuf,
        /// Form of the configuration
        #[arg(long, value_enum, default_value = "linux")]
        format: Format,
    },
}

impl Args {
    fn config(&self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        if let Some(node) = &self.node {
            config.node.clone_from(node);
        }
        if !self.controllers.is_empty() {
            config.controllers = self.controllers.iter().map(|c| c.trim().to_owned()).collect();
        }
        if let Some(dir) = &self.state_dir {
            config.state_dir.clone_from(dir);
        }
        if let Some(ca) = &self.tls_ca {
            let (cert, key) = (self.tls_cert.clone(), self.tls_key.clone());
            config.tls = Some(Tls { ca: ca.clone(), cert, key });
        }
        config.log_format = self.log_format.unwrap_or(config.log_format);
        if let Some(log) = &self.log {
            config.log.clone_from(log);
        }
        Ok(config)
    }
}

fn main() -> ExitCode {
    match run(&Args::parse()) {
        Ok(code) => code,
        Err(error) => {
            let _ = writeln!(std::io::stderr(), "causeway-agent: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn run(args: &Args) -> anyhow::Result<ExitCode> {
    let config = args.config()?;
    let mut out = std::io::stdout().lock();
    if args.print_config {
        out.write_all(config.to_yaml()?.as_bytes())?;
        return Ok(ExitCode::SUCCESS);
    }
    match &args.command {
        Some(Command::ConfirmMove { dir, targets }) => {
            moves::confirm(dir, targets)?;
            Ok(ExitCode::SUCCESS)
        }
        Some(Command::Cleanup) => cleanup(&config.state_dir, args.dry_run, &mut out),
        Some(Command::Render { state, format }) => print_config(state, *format, &mut out),
        Some(Command::State) => print_state(&config, &mut out),
        None => {
            config.check()?;
            start_log(&config)?;
            raise_file_limit();
            let runtime =
                tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build()?;
            let done = match args.dry_run {
                true => runtime.block_on(dry_run(&config, &mut out)),
                false => runtime.block_on(serve(config)).map(|()| ExitCode::SUCCESS),
            };
            runtime.shutdown_timeout(Duration::from_secs(5));
            done
        }
    }
}

/// A workload costs a socket in its namespace, and the usual soft limit is 1024.
fn raise_file_limit() {
    use nix::sys::resource::{Resource, getrlimit, setrlimit};
    if let Ok((soft, hard)) = getrlimit(Resource::RLIMIT_NOFILE)
        && soft < hard
        && let Err(error) = setrlimit(Resource::RLIMIT_NOFILE, hard, hard)
    {
        tracing::warn!(%error, soft, hard, "cannot raise the limit of open files");
    }
}

fn start_log(config: &Config) -> anyhow::Result<()> {
    let filter = tracing_subscriber::EnvFilter::try_new(&config.log)
        .with_context(|| format!("log: '{}' is not a filter", config.log))?;
    let log = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    match config.log_format {
        LogFormat::Json => log.json().flatten_event(true).init(),
        LogFormat::Text => log.with_ansi(std::io::stderr().is_terminal()).init(),
    }
    Ok(())
}

async fn serve(config: Config) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate())?;
    let mut interrupt = signal(SignalKind::interrupt())?;
    tracing::info!(node = %config.node, version = env!("CARGO_PKG_VERSION"), "agent starts");
    // Without systemd there is nobody to tell.
    let started = || {
        let _ = sd_notify::notify(&[sd_notify::NotifyState::Ready]);
    };
    let agent = agent::run(config, stop.clone(), started);
    tokio::pin!(agent);
    let ended = tokio::select! {
        ended = &mut agent => ended,
        _ = terminate.recv() => { stop.cancel(); agent.await }
        _ = interrupt.recv() => { stop.cancel(); agent.await }
    };
    let _ = sd_notify::notify(&[sd_notify::NotifyState::Stopping]);
    tracing::info!("agent stops, data plane stays");
    Ok(ended?)
}

async fn dry_run(config: &Config, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let would = agent::dry_run(config, Duration::from_secs(10)).await?;
    writeln!(
        out,
        "# revision {}: {} steps, {} problems",
        would.revision,
        would.ops.len(),
        would.problems.len()
    )?;
    for op in &would.ops {
        writeln!(out, "{op}")?;
    }
    for problem in &would.problems {
        writeln!(out, "# problem: {problem}")?;
    }
    Ok(ExitCode::SUCCESS)
}

fn cleanup(state_dir: &Path, dry: bool, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let mut failed = false;
    for (op, error) in agent::cleanup(state_dir, dry)? {
        match error {
            None => writeln!(out, "{op}")?,
            Some(error) => {
                failed = true;
                writeln!(out, "{op}    # failed: {error}")?;
            }
        }
    }
    Ok(if failed { ExitCode::FAILURE } else { ExitCode::SUCCESS })
}

fn print_config(path: &Path, format: Format, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let text = match path == Path::new("-") {
        true => std::io::read_to_string(std::io::stdin()).context("read standard input")?,
        false => std::fs::read_to_string(path).with_context(|| format!("read {}", path.display()))?,
    };
    let state = state_json::from_json(&text).with_context(|| path.display().to_string())?;
    let rendered = render(&state, format);
    out.write_all(rendered.text.as_bytes())?;
    for problem in &rendered.problems {
        writeln!(std::io::stderr(), "causeway-agent: not rendered: {problem}")?;
    }
    Ok(if rendered.problems.is_empty() { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

fn print_state(config: &Config, out: &mut impl Write) -> anyhow::Result<ExitCode> {
    let Some(state) = Journal::load(&config.state_dir)? else {
        anyhow::bail!(
            "there is no state in {}; an agent writes it when a controller has answered",
            config.state_dir.display()
        );
    };
    writeln!(out, "{}", state_json::to_json(&state))?;
    Ok(ExitCode::SUCCESS)
}
