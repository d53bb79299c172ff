//! Agents: who is connected, what each node has been told, and what it says of itself.
//!
//! ```text
//! State, Imports ──▶ session (one a stream) ── snapshot, deltas ──▶ agent
//!                    Board ◀── session ◀─────────── status ──────── agent
//!                      ├──▶ port states (this controller)
//!                      └──▶ keeper ── status/agent/NODE (leased), status/node/NODE ──▶ store ──▶ other controllers
//! ```
//!
//! A session computes what to send when the stream takes it, from what it sent last to the newest snapshot: a slow
//! agent gets fewer and larger deltas, and nothing queues up for it.
//!
//! **Statuses in the store.** A write a port would halve what the store can do, so there is one record a node, written
//! a few times a second at most and never on the way of a request: the revision up to which all ports are programmed,
//! and the ports that failed. A port whose binding is not newer than that and which has not failed is programmed.
//! Whether an agent is connected is another key, which vanishes with the lease of the controller that holds it; it is
//! also what keeps two agents from being the same node.

mod board;
mod claim;
mod duplicates;
mod evidence;
mod keeper;
mod levels;
mod message;
mod probe;
mod session;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError, RwLock};

use causeway_proto::{Name, PortKey, Revision, v1};
use tokio::sync::{Notify, broadcast, mpsc, watch};
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;
use tonic::Streaming;

use crate::api::status::Refusal;
use crate::fabric::{Fabric, PortNews};
use crate::metrics::Metrics;
use crate::model::{Binding, WorkloadKind};
use crate::ports::Ports;
use crate::ready::{Ready, WeakReady};
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::store::{LeaseId, Store};

pub(crate) use board::{Absent, NodeReport, PortProgress};
pub(crate) use message::node_state;
pub(crate) use probe::Probe;

pub(crate) use evidence::absence;

use board::Board;
use claim::Claims;
use session::Session;

/// Port changes that may wait for a slow watcher; one that falls behind looks at everything again.
const NEWS: usize = 256;

/// Handle of everything about agents. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Agents {
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    state: State,
    fabric: Fabric,
    metrics: Metrics,
    claims: Claims,
    board: RwLock<Board>,
    sessions: Mutex<BTreeMap<Name, Seat>>,
    probes: Mutex<probe::Probes>,
    ready: OnceLock<WeakReady>,
    ports: OnceLock<Ports>,
    noting: Mutex<duplicates::Noting>,
    next_session: std::sync::atomic::AtomicU64,
    news: broadcast::Sender<PortNews>,
    dirty: Notify,
    /// The store may have lost claims.
    lost: Arc<Notify>,
    cancel: CancellationToken,
    tasks: TaskTracker,
}

/// A node's session at this controller.
#[derive(Debug, Clone)]
struct Seat {
    session: u64,
    instance: String,
    /// Revision of its claim in the store; `None` until it is there.
    claimed: Option<Revision>,
    /// Ends the session.
    end: CancellationToken,
    /// What goes to the agent besides its state.
    orders: mpsc::Sender<probe::Order>,
}

impl Agents {
    /// Starts the keeper. `name` is this controller's.
    pub(crate) fn start(
        name: String,
        store: Arc<dyn Store>,
        state: State,
        fabric: Fabric,
        metrics: Metrics,
        cancel: CancellationToken,
        tasks: TaskTracker,
    ) -> Agents {
        let (lease_out, lease): (watch::Sender<Option<LeaseId>>, _) = watch::channel(None);
        let claims = Claims::new(name, Arc::clone(&store), state.clone(), lease);
        let shared = Arc::new(Shared {
            state,
            fabric,
            metrics,
            claims,
            board: RwLock::default(),
            sessions: Mutex::default(),
            probes: Mutex::default(),
            ready: OnceLock::new(),
            ports: OnceLock::new(),
            noting: Mutex::default(),
            next_session: 1.into(),
            news: broadcast::channel(NEWS).0,
            dirty: Notify::new(),
            lost: Arc::default(),
            cancel: cancel.clone(),
            tasks: tasks.clone(),
        });
        let agents = Agents { shared };
        let lost = Arc::clone(&agents.shared.lost);
        tasks.spawn(keeper::hold_lease(Arc::clone(&store), lease_out, lost, cancel.clone()));
        tasks.spawn(
            cancel.clone().run_until_cancelled_owned(keeper::write(agents.clone(), Arc::clone(&store))),
        );
        tasks.spawn(cancel.run_until_cancelled_owned(keeper::read(agents.clone(), store)));
        agents
    }

    /// Where proofs are, which itself stands on this.
    pub(crate) fn set_ready(&self, ready: WeakReady) {
        // Set once, when the controller is put together.
        let _ = self.shared.ready.set(ready);
    }

    /// Where the history is told what agents find.
    pub(crate) fn set_ports(&self, ports: Ports) {
        // Set once, when the controller is put together.
        let _ = self.shared.ports.set(ports);
    }

    fn ready(&self) -> Option<Ready> {
        self.shared.ready.get().and_then(WeakReady::upgrade)
    }

    /// Ports whose state may have changed since.
    pub(crate) fn news(&self) -> broadcast::Receiver<PortNews> {
        self.shared.news.subscribe()
    }

    /// How far a bound port is on its node. `bound_at`: revision of the binding. For bare metal nothing is programmed on
    /// the node, and what its switch does nobody reports by port: it is taken as done.
    pub(crate) fn port_progress(&self, binding: &Binding, bound_at: Revision) -> PortProgress {
        if binding.kind == WorkloadKind::BareMetal {
            return PortProgress::Programmed;
        }
        self.board().port_progress(binding, bound_at)
    }

    /// How far a node is with a port that shall be as some change at `at` made it.
    pub(crate) fn progress(
        &self,
        node: &Name,
        port: &PortKey,
        generation: u64,
        at: Revision,
    ) -> PortProgress {
        self.board().progress(node, port, generation, at)
    }

    /// What is heard of a node.
    pub(crate) fn hearing(&self, node: &Name) -> crate::ports::Hearing {
        self.board().hearing(node)
    }

    /// Ports whose workloads are not there, as connected agents say.
    pub(crate) fn absent(&self) -> Vec<Absent> {
        self.board().absent()
    }

    /// What a node says of itself, and whether its agent is connected to some controller.
    pub(crate) fn node_report(&self, node: &Name) -> (NodeReport, bool) {
        self.board().node(node)
    }

    /// Serves one agent: reads its hello, claims the node, and then sends until one side ends. An error means that the
    /// session was refused.
    pub(crate) async fn open(
        &self,
        inbound: Streaming<v1::AgentMessage>,
    ) -> Result<mpsc::Receiver<Result<v1::ControllerMessage, tonic::Status>>, Refusal> {
        let opened = Session::open(self.clone(), inbound).await;
        if let Err(refusal) = &opened {
            self.shared.metrics.agents_refused.inc();
            tracing::info!(?refusal, "agent refused");
        }
        let (session, receiver) = opened?;
        self.shared.tasks.spawn(session.run());
        Ok(receiver)
    }

    /// Takes the node's seat at this controller. An older session of the same agent ends: it takes its own place back.
    fn take_seat(
        &self,
        node: &Name,
        instance: &str,
        orders: mpsc::Sender<probe::Order>,
    ) -> Result<Seat, Refusal> {
        let mut sessions = self.sessions();
        if let Some(seat) = sessions.get(node) {
            if seat.instance != instance {
                return Err(claim::refused(node, &seat.instance, self.shared.claims.controller()));
            }
            seat.end.cancel();
        }
        let session = self.shared.next_session.fetch_add(1, std::sync::atomic::Ordering::Relaxed);
        let seat = Seat {
            session,
            instance: instance.to_owned(),
            claimed: None,
            end: self.shared.cancel.child_token(),
            orders,
        };
        sessions.insert(node.clone(), seat.clone());
        Ok(seat)
    }

    /// Leaves the seat unless another session has it by now. True if it was still ours.
    fn leave_seat(&self, node: &Name, session: u64) -> bool {
        let mut sessions = self.sessions();
        let ours = sessions.get(node).is_some_and(|seat| seat.session == session);
        if ours {
            sessions.remove(node);
        }
        ours
    }

    /// The seat's claim is in the store.
    fn note_claim(&self, node: &Name, session: u64, revision: Revision) {
        if let Some(seat) = self.sessions().get_mut(node)
            && seat.session == session
        {
            seat.claimed = Some(revision);
        }
    }

    /// Another controller claimed the node at this revision: a session here that is older has been taken over.
    fn evict(&self, node: &Name, at: Revision) {
        if let Some(seat) = self.sessions().get(node)
            && seat.claimed.is_some_and(|claimed| claimed < at)
        {
            seat.end.cancel();
        }
    }

    fn sessions(&self) -> MutexGuard<'_, BTreeMap<Name, Seat>> {
        self.shared.sessions.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn board(&self) -> std::sync::RwLockReadGuard<'_, Board> {
        self.shared.board.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the board and tells whose ports' state that concerns.
    fn change_board(&self, change: impl FnOnce(&mut Board) -> Vec<PortKey>) {
        let ports = change(&mut self.shared.board.write().unwrap_or_else(PoisonError::into_inner));
        if !ports.is_empty() {
            // Nobody listening is fine.
            let _ = self.shared.news.send(Arc::new(ports));
        }
    }

    fn snapshot(&self) -> Arc<Snapshot> {
        self.shared.state.snapshot()
    }
}
