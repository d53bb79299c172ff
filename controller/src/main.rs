//! The controller's program: flags over a file, logs, signals.

use std::io::IsTerminal;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::process::ExitCode;

use anyhow::Context;
use causeway_controller::config::{Config, Listen, LogFormat, StoreConfig};
use causeway_controller::run::Controller;
use clap::Parser;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;
use tracing_subscriber::EnvFilter;

/// A third of the controller's time with many ports was glibc's malloc and free.
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

/// Keeps every address and MAC, tells the fabric over BGP EVPN and the nodes over gRPC.
#[derive(Debug, Parser)]
#[command(name = "causeway-controller", version, about)]
struct Args {
    /// Configuration file (YAML); without it, defaults and flags
    #[arg(long, value_name = "FILE", env = "CAUSEWAY_CONTROLLER_CONFIG")]
    config: Option<PathBuf>,
    /// Name of this controller, unique among controllers
    #[arg(long, env = "CAUSEWAY_CONTROLLER_NAME")]
    name: Option<String>,
    /// BGP identifier, unique among BGP speakers
    #[arg(long, value_name = "ADDRESS", env = "CAUSEWAY_ROUTER_ID")]
    router_id: Option<Ipv4Addr>,
    /// AS number of the controllers
    #[arg(long, value_name = "NUMBER")]
    asn: Option<u32>,
    /// Where the gRPC API listens, ADDRESS:PORT or unix:PATH; may be given several times, replaces the file's list
    #[arg(long, value_name = "WHERE")]
    listen: Vec<Listen>,
    /// Where health and metrics are served; may be given several times, replaces the file's list
    #[arg(long, value_name = "ADDRESS:PORT")]
    http_listen: Vec<SocketAddr>,
    /// Where BGP connections are accepted; may be given several times, replaces the file's list
    #[arg(long, value_name = "ADDRESS:PORT")]
    bgp_listen: Vec<SocketAddr>,
    /// Directory of the embedded store; replaces the file's store
    #[arg(long, value_name = "DIRECTORY")]
    store_file: Option<PathBuf>,
    /// Which log events: error, warn, info, debug, trace, or a filter such as info,causeway_bgp=debug
    #[arg(long, value_name = "FILTER", env = "CAUSEWAY_LOG")]
    log_level: Option<String>,
    /// How logs are written
    #[arg(long, value_name = "FORMAT")]
    log_format: Option<LogFormat>,
    /// Print the configuration with all defaults and flags, and exit
    #[arg(long)]
    print_config: bool,
    /// Check the configuration, and exit
    #[arg(long)]
    check_config: bool,
}

impl Args {
    /// The configuration: the file, and what was given on top of it.
    fn config(self) -> anyhow::Result<Config> {
        let mut config = match &self.config {
            Some(path) => Config::read(path)?,
            None => Config::default(),
        };
        if let Some(name) = self.name {
            config.name = name;
        }
        config.router_id = self.router_id.or(config.router_id);
        config.asn = self.asn.or(config.asn);
        if !self.listen.is_empty() {
            config.listen = self.listen;
        }
        if !self.http_listen.is_empty() {
            config.http_listen = self.http_listen;
        }
        if !self.bgp_listen.is_empty() {
            config.bgp_listen = self.bgp_listen;
        }
        if let Some(directory) = self.store_file {
            config.store = StoreConfig::File(directory);
        }
        if let Some(level) = self.log_level {
            config.log.level = level;
        }
        config.log.format = self.log_format.unwrap_or(config.log.format);
        Ok(config)
    }
}

fn main() -> ExitCode {
    let args = Args::parse();
    match start(args) {
        Ok(code) => code,
        Err(error) => {
            eprintln!("causeway-controller: {error:#}");
            ExitCode::FAILURE
        }
    }
}

fn start(args: Args) -> anyhow::Result<ExitCode> {
    let (print, check) = (args.print_config, args.check_config);
    let config = args.config()?;
    if print {
        print!("{}", config.print()?);
        return Ok(ExitCode::SUCCESS);
    }
    config.check()?;
    if check {
        println!("configuration is fine");
        return Ok(ExitCode::SUCCESS);
    }
    init_logs(&config)?;
    let runtime =
        tokio::runtime::Builder::new_multi_thread().enable_all().build().context("start the runtime")?;
    let code = runtime.block_on(serve(config))?;
    // What still runs on blocking threads does not keep the process.
    runtime.shutdown_timeout(std::time::Duration::from_millis(500));
    Ok(code)
}

async fn serve(config: Config) -> anyhow::Result<ExitCode> {
    let cancel = CancellationToken::new();
    let mut terminate = signal(SignalKind::terminate()).context("handle SIGTERM")?;
    let mut interrupt = signal(SignalKind::interrupt()).context("handle SIGINT")?;
    let stop = cancel.clone();
    let signals = tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => tracing::info!("SIGTERM"),
            _ = interrupt.recv() => tracing::info!("SIGINT"),
        }
        stop.cancel();
    });
    let controller = match Controller::start(config, cancel.clone()).await {
        Ok(controller) => controller,
        Err(causeway_controller::run::StartError::Stopped) => return Ok(ExitCode::SUCCESS),
        Err(error) => return Err(error.into()),
    };
    tell_systemd(sd_notify::NotifyState::Ready);
    let ended = controller.run().await;
    tell_systemd(sd_notify::NotifyState::Stopping);
    // Stopped without a signal: a part of it failed.
    let asked = signals.is_finished();
    signals.abort();
    Ok(if asked && ended { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Tells systemd, if it is there.
fn tell_systemd(state: sd_notify::NotifyState<'_>) {
    if let Err(error) = sd_notify::notify(&[state]) {
        tracing::debug!(%error, "systemd was not told");
    }
}

fn init_logs(config: &Config) -> anyhow::Result<()> {
    let filter = EnvFilter::try_new(&config.log.level).context("log level")?;
    let logs = tracing_subscriber::fmt().with_env_filter(filter).with_writer(std::io::stderr);
    // Colour only on a terminal: logs end up in files.
    let logs = logs.with_ansi(std::io::stderr().is_terminal());
    match config.log.format {
        LogFormat::Text => logs.init(),
        LogFormat::Json => logs.json().flatten_event(true).init(),
    }
    Ok(())
}
