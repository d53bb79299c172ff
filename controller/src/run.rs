//! A controller from its configuration to its end: the one place where the parts are put together.
//!
//! ```text
//! bind addresses ─▶ HTTP ─▶ store (tried until it answers) ─▶ State ─▶ Speaker, Fabric ─▶ Agents, Ports, Intent ─▶ gRPC
//! ```
//!
//! Stopping goes the other way round: streams end, open calls are finished, claims are given back, BGP connections are
//! closed without a NOTIFICATION.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use causeway_bgp::{Speaker, SpeakerConfig, SpeakerError};
use tokio::net::TcpListener;
use tokio::task::JoinHandle;
use tokio::time::Instant;
use tokio_util::sync::{CancellationToken, DropGuard};
use tokio_util::task::TaskTracker;

use crate::agents::Agents;
use crate::api::App;
use crate::api::serve::{self, Listener, ServeError};
use crate::clock::Clock;
use crate::config::{Config, ConfigError, Etcd, Identity, Listen, StoreConfig};
use crate::derive::evpn::Context;
use crate::election::Election;
use crate::fabric::{Fabric, Watcher};
use crate::gc;
use crate::history::{By, History};
use crate::http::{self, Health, Phase};
use crate::intent::Intent;
use crate::leaks::Leaks;
use crate::metrics::Metrics;
use crate::moves::restored;
use crate::moves::task::Mover;
use crate::ports::{HearingOf, Ports};
use crate::ready::Ready;
use crate::state::State;
use crate::steps::Steps;
use crate::store::{EtcdOptions, EtcdStore, FileStore, Store, StoreError};

/// Who gives back ports whose time is over is elected under this name.
const GC_ELECTION: &str = "gc";
/// Name of the embedded store's file in its directory.
const STORE_FILE: &str = "store.redb";
/// Between two attempts to read the store at the start, growing from the first to the second.
const STORE_RETRY: (Duration, Duration) = (Duration::from_millis(200), Duration::from_secs(5));
/// How long a store file that another process has open is tried again.
const FILE_PATIENCE: Duration = Duration::from_secs(3);
/// How long tasks may take to end.
const STOP: Duration = Duration::from_millis(3500);
/// How long the speaker may take to close its connections after that.
const STOP_SPEAKER: Duration = Duration::from_secs(1);

/// Why a controller did not start.
#[derive(Debug, thiserror::Error)]
pub enum StartError {
    /// The configuration is not usable.
    #[error(transparent)]
    Config(#[from] ConfigError),
    /// The store cannot be opened, and trying again would not help.
    #[error("open the store")]
    Store(#[source] StoreError),
    /// The directory of the embedded store cannot be made.
    #[error("create directory {path}")]
    Directory {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The store's password file cannot be read.
    #[error("read password file {path}")]
    Password {
        /// Which one.
        path: PathBuf,
        /// Why not.
        source: std::io::Error,
    },
    /// The API cannot be served.
    #[error(transparent)]
    Serve(#[from] ServeError),
    /// Health and metrics cannot be served.
    #[error("listen for HTTP on {address}")]
    Http {
        /// As configured.
        address: SocketAddr,
        /// What the kernel said.
        source: std::io::Error,
    },
    /// The BGP speaker did not start.
    #[error("start BGP")]
    Speaker(#[from] SpeakerError),
    /// A fault of ours.
    #[error("gRPC reflection")]
    Reflection(#[source] tonic_reflection::server::Error),
    /// It was told to stop before it had started.
    #[error("stopped while starting")]
    Stopped,
}

/// A running controller.
#[derive(Debug)]
pub struct Controller {
    grpc: Vec<Listen>,
    http: Vec<SocketAddr>,
    bgp: Vec<SocketAddr>,
    router_id: Ipv4Addr,
    state: State,
    health: Health,
    cancel: CancellationToken,
    speaker_guard: DropGuard,
    speaker_task: JoinHandle<()>,
    tasks: TaskTracker,
}

impl Controller {
    /// Starts a controller with the store of its configuration. Returns when the API is served; waits for a store that
    /// does not answer yet, until `cancel`.
    pub async fn start(config: Config, cancel: CancellationToken) -> Result<Controller, StartError> {
        let identity = config.check()?;
        let begun = Begun::new(&config, &cancel).await?;
        let store = open_store(&config.store).await?;
        begun.finish(config, identity, store, Clock::default(), cancel).await
    }

    /// The same with a store that is open already, for tests.
    pub async fn start_with_store(
        config: Config,
        store: Arc<dyn Store>,
        cancel: CancellationToken,
    ) -> Result<Controller, StartError> {
        Controller::start_by(config, store, Clock::default(), cancel).await
    }

    /// The same by a wall clock that may jump.
    pub async fn start_by(
        config: Config,
        store: Arc<dyn Store>,
        clock: Clock,
        cancel: CancellationToken,
    ) -> Result<Controller, StartError> {
        let identity = config.check()?;
        let begun = Begun::new(&config, &cancel).await?;
        begun.finish(config, identity, store, clock, cancel).await
    }

    /// Where the API is served; the real port where 0 was asked.
    pub fn grpc_addresses(&self) -> &[Listen] {
        &self.grpc
    }

    /// Where health and metrics are served.
    pub fn http_addresses(&self) -> &[SocketAddr] {
        &self.http
    }

    /// Where BGP connections are accepted.
    pub fn bgp_addresses(&self) -> &[SocketAddr] {
        &self.bgp
    }

    /// Its BGP identifier.
    pub fn router_id(&self) -> Ipv4Addr {
        self.router_id
    }

    /// The store's content as it sees it.
    pub fn state(&self) -> &State {
        &self.state
    }

    /// Waits for the token given at the start and then stops: new calls are refused, open ones finished, and BGP
    /// connections closed last, without a NOTIFICATION. True if all tasks ended in time.
    pub async fn run(self) -> bool {
        self.cancel.cancelled().await;
        self.health.set(Phase::Stopping);
        tracing::info!("stopping");
        self.tasks.close();
        let ended = tokio::time::timeout(STOP, self.tasks.wait()).await.is_ok();
        if !ended {
            tracing::warn!(tasks = self.tasks.len(), "tasks did not end in time");
        }
        drop(self.speaker_guard);
        let silent = tokio::time::timeout(STOP_SPEAKER, self.speaker_task).await.is_ok();
        ended && silent
    }

    /// Stops now.
    pub async fn stop(self) -> bool {
        self.cancel.cancel();
        self.run().await
    }
}

/// A controller before it has read the store: its addresses are bound and it answers over HTTP.
struct Begun {
    listeners: Vec<Listener>,
    http: Vec<SocketAddr>,
    health: Health,
    metrics: Metrics,
    tasks: TaskTracker,
}

impl Begun {
    async fn new(config: &Config, cancel: &CancellationToken) -> Result<Begun, StartError> {
        let listeners = serve::bind(&config.listen).await?;
        let (metrics, registry) = Metrics::new();
        let health = Health::new(metrics.clone(), registry);
        let tasks = TaskTracker::new();
        let mut addresses = Vec::new();
        for address in &config.http_listen {
            let failed = |source| StartError::Http { address: *address, source };
            let listener: TcpListener = http::bind(*address).await.map_err(failed)?;
            addresses.push(listener.local_addr().map_err(failed)?);
            let serving = http::serve(listener, health.clone(), cancel.clone());
            tasks.spawn(async move {
                if let Err(error) = serving.await {
                    tracing::error!(%error, "HTTP ended");
                }
            });
        }
        Ok(Begun { listeners, http: addresses, health, metrics, tasks })
    }

    async fn finish(
        self,
        config: Config,
        identity: Identity,
        store: Arc<dyn Store>,
        clock: Clock,
        cancel: CancellationToken,
    ) -> Result<Controller, StartError> {
        let Begun { listeners, http, health, metrics, tasks } = self;
        let state = read_store(&store, &health, &cancel).await?;
        let speaker_cancel = CancellationToken::new();
        let (speaker, events, speaker_task) =
            Speaker::start(speaker_config(&config, identity), speaker_cancel.clone()).await?;
        // Should anything below fail, the speaker does not stay behind; at the end it is stopped last.
        let speaker_guard = speaker_cancel.drop_guard();
        let bgp = speaker.listen_addresses();
        let context = Context { asn: identity.asn, router_id: identity.router_id };
        let (fabric, task) = Fabric::new(context, speaker, events, state.clone(), metrics.clone());
        tasks.spawn(task.run(cancel.clone()));
        let watcher = Watcher::new(fabric.clone(), state.clone(), metrics.clone());
        tasks.spawn(watcher.run(cancel.clone()));
        let app = assemble(
            &config,
            identity,
            store,
            clock,
            state.clone(),
            fabric.clone(),
            metrics,
            &cancel,
            &tasks,
        );
        let grpc = listeners.iter().filter_map(Listener::address).collect();
        serve_all(&app, &config, listeners).await?;
        health.set(Phase::Serving(state.clone(), fabric));
        let listen = config.listen.iter().map(ToString::to_string).collect::<Vec<_>>().join(" ");
        tracing::info!(
            name = config.name,
            router_id = %identity.router_id,
            asn = identity.asn,
            listen,
            "serving"
        );
        Ok(Controller {
            grpc,
            http,
            bgp,
            router_id: identity.router_id,
            state,
            health,
            cancel,
            speaker_guard,
            speaker_task,
            tasks,
        })
    }
}

/// The parts that need nothing but the store and the fabric.
#[allow(clippy::too_many_arguments, reason = "the one place that puts the parts together")]
fn assemble(
    config: &Config,
    identity: Identity,
    store: Arc<dyn Store>,
    clock: Clock,
    state: State,
    fabric: Fabric,
    metrics: Metrics,
    cancel: &CancellationToken,
    tasks: &TaskTracker,
) -> App {
    let agents = Agents::start(
        config.name.clone(),
        Arc::clone(&store),
        state.clone(),
        fabric.clone(),
        metrics.clone(),
        cancel.clone(),
        tasks.clone(),
    );
    let ready = Ready::start(
        config.name.clone(),
        Arc::clone(&store),
        state.clone(),
        agents.clone(),
        fabric.clone(),
        cancel.clone(),
        tasks,
    );
    let steps = Steps::default();
    tasks.spawn(steps.clone().follow(state.clone(), agents.clone(), fabric.clone(), cancel.clone()));
    let hearing: Arc<HearingOf> = {
        let agents = agents.clone();
        Arc::new(move |node| agents.hearing(node))
    };
    let ports = Ports::start_noting(
        Arc::clone(&store),
        state.clone(),
        fabric.imports(),
        hearing,
        clock.clone(),
        metrics.quarantines_cut_short.clone(),
        steps.clone(),
        cancel.clone(),
    );
    let ports = ports.on_behalf(By::controller(&config.name));
    agents.set_ports(ports.clone());
    let mover = Mover {
        ports: ports.clone(),
        state: state.clone(),
        agents: agents.clone(),
        heard: fabric.imports(),
        clock: clock.clone(),
        begun_ms: crate::ports::now_ms(),
    };
    tasks.spawn(mover.clone().run(cancel.clone()));
    let election = Election::start(Arc::clone(&store), GC_ELECTION, &config.name, cancel.clone());
    let trim = gc::Trim::new(Arc::clone(&store), config.history_ms(), clock);
    tasks.spawn(gc::run(state.clone(), ports.clone(), trim, election.clone(), cancel.clone()));
    let raising = restored::follow(state.clone(), fabric.imports(), ports.clone(), election.clone());
    tasks.spawn(cancel.clone().run_until_cancelled_owned(raising));
    let leaks = Leaks::new(Arc::clone(&store), ports.clone(), config.leaked_ports.clone());
    let looking = leaks.clone().follow(state.clone(), agents.clone(), election, metrics.ports_leaked.clone());
    tasks.spawn(cancel.clone().run_until_cancelled_owned(looking));
    App {
        intent: Intent::new(Arc::clone(&store), state.clone(), identity.asn),
        ports,
        history: History::new(Arc::clone(&store)),
        steps,
        name: config.name.clone(),
        history_ms: config.history_ms(),
        mover,
        leaks,
        store,
        state,
        fabric,
        agents,
        ready,
        metrics,
        cancel: cancel.clone(),
        tasks: tasks.clone(),
        written: Arc::default(),
    }
}

async fn serve_all(app: &App, config: &Config, listeners: Vec<Listener>) -> Result<(), StartError> {
    let routes = serve::routes(app).await.map_err(StartError::Reflection)?;
    let tls = match &config.tls {
        Some(tls) => Some(serve::tls_config(tls).await?),
        None => None,
    };
    for listener in listeners {
        let serving = serve::serve(listener, routes.clone(), tls.clone(), app.cancel.clone());
        let cancel = app.cancel.clone();
        app.tasks.spawn(async move {
            if let Err(error) = serving.await {
                tracing::error!(error = &error as &dyn std::error::Error, "gRPC ended");
                // Half a controller is worse than none: whoever watches it starts it again.
                cancel.cancel();
            }
        });
    }
    Ok(())
}

fn speaker_config(config: &Config, identity: Identity) -> SpeakerConfig {
    SpeakerConfig {
        router_id: identity.router_id,
        asn: identity.asn,
        listen: config.bgp_listen.clone(),
        // Whether peers still hold routes of an earlier run is not known here: it may have ended hours or a moment ago,
        // with any store. To say so when it is not the case changes nothing for a peer that holds none.
        restarting: true,
    }
}

/// The store of the configuration. etcd need not run yet.
async fn open_store(config: &StoreConfig) -> Result<Arc<dyn Store>, StartError> {
    match config {
        StoreConfig::File(directory) => {
            let failed = |source| StartError::Directory { path: directory.clone(), source };
            tokio::fs::create_dir_all(directory).await.map_err(failed)?;
            Ok(Arc::new(open_file(directory.join(STORE_FILE)).await.map_err(StartError::Store)?))
        }
        StoreConfig::Etcd(etcd) => {
            let options = etcd_options(etcd).await?;
            Ok(Arc::new(EtcdStore::new(options).await.map_err(StartError::Store)?))
        }
    }
}

/// The embedded store. The run before this one may be about to close it still; somebody who keeps it is an error.
async fn open_file(path: PathBuf) -> Result<FileStore, StoreError> {
    let until = Instant::now() + FILE_PATIENCE;
    loop {
        match FileStore::open(&path).await {
            Err(StoreError::Unavailable { .. }) if Instant::now() < until => {
                tokio::time::sleep(STORE_RETRY.0).await;
            }
            opened => return opened,
        }
    }
}

async fn etcd_options(etcd: &Etcd) -> Result<EtcdOptions, StartError> {
    let mut options = EtcdOptions::new(etcd.endpoints.iter().cloned());
    options.prefix.clone_from(&etcd.prefix);
    options.ca_file.clone_from(&etcd.ca);
    options.identity_files = etcd.cert.clone().zip(etcd.key.clone());
    if let (Some(user), Some(path)) = (&etcd.user, &etcd.password_file) {
        let failed = |source| StartError::Password { path: path.clone(), source };
        let password = tokio::fs::read_to_string(path).await.map_err(failed)?;
        options.user = Some((user.clone(), password.trim_end_matches(['\n', '\r']).to_owned()));
    }
    Ok(options)
}

/// Reads the whole store, trying until it answers.
async fn read_store(
    store: &Arc<dyn Store>,
    health: &Health,
    cancel: &CancellationToken,
) -> Result<State, StartError> {
    let mut pause = STORE_RETRY.0;
    let mut told = false;
    loop {
        let reading = State::start(Arc::clone(store), cancel.clone());
        let error = match cancel.run_until_cancelled(reading).await {
            None => return Err(StartError::Stopped),
            Some(Ok(state)) => return Ok(state),
            Some(Err(error @ StoreError::Unavailable { .. })) => error,
            Some(Err(error)) => return Err(StartError::Store(error)),
        };
        if !told {
            tracing::warn!(error = %error, "the store does not answer, trying until it does");
            told = true;
        }
        health.set(Phase::NoStore(error.to_string()));
        // Several controllers that wait for one store shall not ask at the same moment.
        let jittered = pause.mul_f64(rand::random_range(0.5..1.0));
        if cancel.run_until_cancelled(tokio::time::sleep(jittered)).await.is_none() {
            return Err(StartError::Stopped);
        }
        pause = (pause * 2).min(STORE_RETRY.1);
    }
}
