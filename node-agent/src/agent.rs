//! Putting the agent together: journal, reconciler thread, stream.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::JoinHandle;
use std::time::Duration;

use causeway_proto::v1;
use tokio::sync::{mpsc, watch};
use tokio_util::sync::CancellationToken;

use crate::acd::Detector;
use crate::config::Config;
use crate::duties;
use crate::journal::{self, Journal, JournalError};
use crate::kernel::{Dataplane, Heard, Kernel, OpError};
use crate::lan::moves::Moves;
use crate::local::Local;
use crate::model::{Desired, Key};
use crate::netlink::NetlinkError;
use crate::observed::Observed;
use crate::op::Op;
use crate::plan::{Scope, plan};
use crate::probe::ProberHandle;
use crate::reconcile::{Command, Progress, Reconciler, Timing};
use crate::stream::{Client, Identity};
use crate::wait::Server;
use crate::wait::book::Keeper;

/// Room for commands; a stream that is faster than the kernel waits.
const COMMANDS: usize = 256;
/// Room for ports whose proof is wanted; more are asked for again.
const PROVES: usize = 4096;
/// Room for statuses; each says all that changed, so few are enough.
const STATUSES: usize = 64;

/// Why the agent cannot start.
#[derive(Debug, thiserror::Error)]
pub enum AgentError {
    /// The state directory cannot be used.
    #[error("state directory: {0}")]
    Journal(#[from] JournalError),
    /// The thread for the data plane cannot be started.
    #[error("start the data plane: {0}")]
    Thread(#[source] std::io::Error),
    /// The agent does not know its own program.
    #[error("find the agent's own program: {0}")]
    Program(#[source] std::io::Error),
    /// The kernel does not talk to us.
    #[error("open the data plane: {0}")]
    Kernel(#[from] NetlinkError),
    /// The data plane's thread died.
    #[error("the data plane's thread ended unexpectedly")]
    Died,
    /// No state on disk, and no controller gave one in time.
    #[error("no state on disk, and no controller sent one within {0} s")]
    NoState(u64),
}

/// A running reconciler on a thread of its own. Give it commands, take statuses; it ends when `stop` is cancelled or
/// the command sender is dropped, and leaves the data plane as it is.
#[derive(Debug)]
pub struct DataplaneHandle {
    /// Where it takes commands.
    pub commands: mpsc::Sender<Command>,
    /// What it says of ports and node.
    pub statuses: mpsc::Receiver<v1::AgentStatus>,
    /// How far it is.
    pub progress: watch::Receiver<Progress>,
    /// What lives on this node.
    pub local: watch::Receiver<Arc<Local>>,
    thread: JoinHandle<()>,
    asking: JoinHandle<()>,
}

impl DataplaneHandle {
    /// Starts one on the real kernel: in the network namespace `netns`, or in that of the caller.
    pub fn start(
        netns: Option<PathBuf>,
        timing: Timing,
        stop: CancellationToken,
    ) -> Result<DataplaneHandle, AgentError> {
        DataplaneHandle::start_with(netns, timing, None, stop)
    }

    /// The same, with leave to move the host's own addresses. A move that an earlier agent left undecided is undone
    /// first.
    pub fn start_with(
        netns: Option<PathBuf>,
        timing: Timing,
        moves: Option<Moves>,
        stop: CancellationToken,
    ) -> Result<DataplaneHandle, AgentError> {
        let (commands, take_commands) = mpsc::channel(COMMANDS);
        let (give_statuses, statuses) = mpsc::channel(STATUSES);
        let (publish, progress) = watch::channel(Progress::default());
        let (ready, is_ready) = std::sync::mpsc::sync_channel(1);
        let (detector, asking) = Detector::start(netns.clone()).map_err(AgentError::Thread)?;
        let work = move || {
            let open = || -> Result<_, AgentError> {
                if let Some(netns) = &netns {
                    crate::netns::enter(netns).map_err(AgentError::Thread)?;
                }
                let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
                let runtime = runtime.map_err(AgentError::Thread)?;
                if let Some(Err(error)) = moves.as_ref().map(Moves::recover) {
                    tracing::error!(%error, "addresses could not be moved back");
                }
                let kernel = runtime.block_on(async { Kernel::open() })?;
                let kernel = match moves {
                    Some(moves) => kernel.with_moves(moves),
                    None => kernel,
                };
                Ok((runtime, kernel))
            };
            match open() {
                Ok((runtime, kernel)) => {
                    let looks = crate::checks::look;
                    let reconciler = Reconciler::new(kernel, timing, give_statuses, publish, looks, detector);
                    let _ = ready.send(Ok(reconciler.local()));
                    runtime.block_on(reconciler.run(take_commands, stop));
                }
                Err(error) => {
                    let _ = ready.send(Err(error));
                }
            }
        };
        let thread =
            std::thread::Builder::new().name("dataplane".into()).spawn(work).map_err(AgentError::Thread)?;
        let local = is_ready.recv().map_err(|_| AgentError::Died)??;
        Ok(DataplaneHandle { commands, statuses, progress, local, thread, asking })
    }

    /// Waits until its thread has ended, which it does when told to stop or when nobody gives commands any more.
    pub fn join(self) {
        let DataplaneHandle { thread, asking, .. } = self;
        // A panic has been printed by then.
        let _ = thread.join();
        let _ = asking.join();
    }
}

/// Runs the agent until `stop` is cancelled. `started` is called once it works: with the state on disk applied, if
/// there is one.
pub async fn run(
    config: Config,
    stop: CancellationToken,
    started: impl FnOnce() + Send,
) -> Result<(), AgentError> {
    let (journal, state) = open_journal(&config)?;
    let instance_id = journal::instance_id(&config.state_dir)?;
    let timing = Timing { observe: Duration::from_secs(config.observe_interval), ..Timing::default() };
    let moves = Moves {
        dir: config.state_dir.clone(),
        program: std::env::current_exe().map_err(AgentError::Program)?,
        controllers: config.controllers.clone(),
    };
    let plane = DataplaneHandle::start_with(None, timing, Some(moves), stop.child_token())?;
    let DataplaneHandle { commands, statuses, mut progress, local, thread, asking } = plane;
    let keeper = Keeper::open(Some(&config.state_dir));
    let (prove, proves) = mpsc::channel(PROVES);
    let waiting = Server::new(local.clone(), keeper.book(), prove);
    let prober = ProberHandle::start(None, local, stop.child_token()).map_err(AgentError::Thread)?;
    let revision = state.as_ref().map_or(0, |s| s.revision);
    if let Some(state) = state {
        tracing::info!(rev = revision, ports = state.ports.len(), "applying the state on disk");
        let _ = commands.send(Command::Snapshot(Arc::new(state))).await;
        let applied = progress.wait_for(|p| p.observed > 0);
        tokio::select! {
            _ = tokio::time::timeout(Duration::from_secs(30), applied) => {}
            () = stop.cancelled() => {}
        }
    }
    started();
    let identity =
        Identity { node: config.node, instance_id, controllers: config.controllers, tls: config.tls };
    let (side, duties) = duties::pair(keeper, proves);
    let client = Client::new(identity, Some(journal), revision, commands, statuses).with_side(side);
    let socket = config.wait_socket;
    let wait = async {
        match socket.as_os_str().is_empty() {
            true => stop.cancelled().await,
            false => waiting.run(socket, stop.clone()).await,
        }
    };
    let session = async { tokio::join!(client.run(stop.clone()), duties.run(prober), wait) };
    tokio::pin!(session);
    let died = tokio::select! {
        _ = &mut session => false,
        // The data plane's thread holds the other end.
        () = async { while progress.changed().await.is_ok() {} } => true,
    };
    if died && !stop.is_cancelled() {
        return Err(AgentError::Died);
    }
    // They end by themselves, and the data plane stays.
    drop((thread, asking));
    Ok(())
}

fn open_journal(config: &Config) -> Result<(Journal, Option<v1::NodeState>), AgentError> {
    let (journal, state) = match Journal::open(&config.state_dir) {
        Err(JournalError::Damaged(path)) => {
            // Kept for whoever wants to know; without a state nothing is touched until a controller answers.
            tracing::error!(path = %path.display(), "state on disk is damaged, waiting for a controller");
            let aside = path.with_extension("damaged");
            std::fs::rename(&path, &aside).map_err(|source| JournalError::Io {
                act: "set aside",
                path,
                source,
            })?;
            Journal::open(&config.state_dir)?
        }
        opened => opened?,
    };
    match state {
        Some(state) if state.node != config.node => {
            tracing::error!(
                theirs = %state.node, ours = %config.node,
                "state on disk is of another node and is not used"
            );
            Ok((journal, None))
        }
        state => Ok((journal, state)),
    }
}

/// What a start would do now, as commands, without touching anything: with the state on disk, or else with what the
/// first controller to answer sends.
pub async fn dry_run(config: &Config, patience: Duration) -> Result<DryRun, AgentError> {
    let state = match Journal::load(&config.state_dir)?.filter(|s| s.node == config.node) {
        Some(state) => Arc::new(state),
        None => first_snapshot(config, patience).await?,
    };
    let desired = Desired::from_state(&state, &Desired::default());
    let moves = Moves { dir: config.state_dir.clone(), program: PathBuf::new(), controllers: Vec::new() };
    let planned = std::thread::spawn(move || -> Result<DryRun, AgentError> {
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let runtime = runtime.map_err(AgentError::Thread)?;
        let observed = runtime.block_on(async { Kernel::open()?.with_moves(moves).observe(&desired) })?;
        let plan = plan(&desired, &observed, &Scope::All);
        let rejected = desired.rejected().iter().map(|(item, why)| format!("{item}: {}", why.reason));
        let problems = rejected.chain(plan.problems.into_values()).collect();
        Ok(DryRun { revision: desired.revision(), ops: plan.ops, problems })
    });
    tokio::task::spawn_blocking(move || planned.join().map_err(|_| AgentError::Died))
        .await
        .map_err(|_| AgentError::Died)??
}

/// What a start would do.
#[derive(Debug)]
pub struct DryRun {
    /// Revision of the state that was compared.
    pub revision: u64,
    /// Steps.
    pub ops: Vec<Op>,
    /// What no step can solve.
    pub problems: Vec<String>,
}

/// With an instance id of its own, so that it never takes the place of an agent that runs.
async fn first_snapshot(config: &Config, patience: Duration) -> Result<Arc<v1::NodeState>, AgentError> {
    let (commands, mut taken) = mpsc::channel(4);
    let (_keep, statuses) = mpsc::channel(1);
    let stop = CancellationToken::new();
    let _guard = stop.clone().drop_guard();
    let identity = Identity {
        node: config.node.clone(),
        instance_id: journal::random_id(),
        controllers: config.controllers.clone(),
        tls: config.tls.clone(),
    };
    let client = Client::new(identity, None, 0, commands, statuses).run(stop);
    let first = async {
        loop {
            match taken.recv().await {
                Some(Command::Snapshot(state)) => return Some(state),
                Some(_) => {}
                None => return None,
            }
        }
    };
    tokio::select! {
        state = tokio::time::timeout(patience, first) => {
            state.ok().flatten().ok_or(AgentError::NoState(patience.as_secs()))
        }
        () = client => Err(AgentError::NoState(patience.as_secs())),
    }
}

/// The steps that remove all that is ours, taken unless `dry`. Each step with its failure, if it failed.
pub fn cleanup(state_dir: &Path, dry: bool) -> Result<Vec<(Op, Option<OpError>)>, AgentError> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    let runtime = runtime.map_err(AgentError::Thread)?;
    runtime.block_on(async {
        let mut kernel = Kernel::open()?;
        // Where macvlans and ipvlans are, only the state says.
        if let Ok(Some(state)) = Journal::load(state_dir) {
            kernel.remember(&Desired::from_state(&state, &Desired::default()));
        }
        let ops = crate::cleanup::steps(&mut kernel)?;
        if dry {
            return Ok(ops.into_iter().map(|op| (op, None)).collect());
        }
        let results = kernel.apply(&ops);
        Ok(ops.into_iter().zip(results.into_iter().map(Result::err)).collect())
    })
}

/// The observed state as a data plane: takes steps perfectly and hears nothing. For tests of what stands above.
impl Dataplane for Observed {
    fn observe(&mut self, _: &Desired) -> Result<Observed, NetlinkError> {
        Ok(self.clone())
    }

    fn refresh(&mut self, _: &BTreeSet<Key>, _: &Desired, seen: &mut Observed) -> Result<(), NetlinkError> {
        seen.clone_from(self);
        Ok(())
    }

    fn apply(&mut self, ops: &[Op]) -> Vec<Result<(), OpError>> {
        ops.iter()
            .map(|op| {
                Observed::apply(self, op);
                Ok(())
            })
            .collect()
    }

    fn hear(&mut self, _: &Desired, _: &mut Observed) -> Result<Heard, NetlinkError> {
        Ok(Heard::default())
    }

    async fn wait(&mut self) {
        std::future::pending().await
    }

    fn changed_namespaces(&mut self, _: &Desired) -> BTreeSet<Key> {
        BTreeSet::new()
    }
}
