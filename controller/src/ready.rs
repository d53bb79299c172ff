//! Whether ports are reached through the fabric: a probe from another node, ordered when somebody asks for it, and
//! remembered for the binding that it was about.
//!
//! ```text
//! WaitPorts, agents ── want ──▶ task ── order ──▶ agent of another node
//!                                │ ◀── answered ─────────┘
//!                                └── status/proven/PORT ──▶ store ──▶ all controllers
//! ```
//!
//! Only the controller that has a node's session can order a probe there. One that has none of a suitable node writes
//! `status/prove/PORT`, and whoever has one takes it up. Both kinds of record are written off every request's way, and
//! only for ports that somebody wants proven.

mod choose;
mod records;
mod task;

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, Weak};

use causeway_proto::PortKey;
use tokio::sync::{Notify, broadcast};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;
use tokio_util::task::TaskTracker;

use crate::agents::{Agents, PortProgress};
use crate::fabric::{Fabric, PortNews};
use crate::state::State;
use crate::store::Store;

pub(crate) use records::Proof;

/// Port changes that may wait for a slow watcher; one that falls behind looks at everything again.
const NEWS: usize = 256;

/// Handle of everything about proofs. Cheap to clone.
#[derive(Debug, Clone)]
pub(crate) struct Ready {
    shared: Arc<Shared>,
}

/// The same, for what it stands on itself.
#[derive(Debug)]
pub(crate) struct WeakReady(Weak<Shared>);

impl WeakReady {
    /// The handle, while there is one.
    pub(crate) fn upgrade(&self) -> Option<Ready> {
        self.0.upgrade().map(|shared| Ready { shared })
    }
}

#[derive(Debug)]
struct Shared {
    name: String,
    store: Arc<dyn Store>,
    state: State,
    agents: Agents,
    fabric: Fabric,
    proofs: RwLock<BTreeMap<PortKey, Proof>>,
    wants: Mutex<BTreeMap<PortKey, Want>>,
    wake: Notify,
    news: broadcast::Sender<PortNews>,
}

/// Somebody wants a port proven.
#[derive(Debug, Clone)]
struct Want {
    until: Instant,
    /// Asked by another controller, which has no agent to do it.
    foreign: bool,
    /// What it waits for, in words.
    text: String,
}

impl Ready {
    /// Starts the task. `name` is this controller's.
    pub(crate) fn start(
        name: String,
        store: Arc<dyn Store>,
        state: State,
        agents: Agents,
        fabric: Fabric,
        cancel: CancellationToken,
        tasks: &TaskTracker,
    ) -> Ready {
        let shared = Arc::new(Shared {
            name,
            store,
            state,
            agents,
            fabric,
            proofs: RwLock::default(),
            wants: Mutex::default(),
            wake: Notify::new(),
            news: broadcast::channel(NEWS).0,
        });
        let ready = Ready { shared };
        ready.shared.agents.set_ready(WeakReady(Arc::downgrade(&ready.shared)));
        tasks.spawn(cancel.clone().run_until_cancelled_owned(task::Task::new(ready.clone()).run()));
        tasks.spawn(cancel.run_until_cancelled_owned(records::read(ready.clone())));
        ready
    }

    /// Ports about which something was proven, or of whose proof something new is known, since.
    pub(crate) fn news(&self) -> broadcast::Receiver<PortNews> {
        self.shared.news.subscribe()
    }

    /// Tries to prove a port until then. Asking again prolongs it.
    pub(crate) fn want(&self, port: &PortKey, until: Instant) {
        self.add_want(port, until, false);
    }

    fn add_want(&self, port: &PortKey, until: Instant, foreign: bool) {
        let mut wants = self.wants();
        let new = Want { until, foreign, text: "no probe was sent yet".into() };
        let want = wants.entry(port.clone()).or_insert(new);
        want.until = want.until.max(until);
        want.foreign &= foreign;
        drop(wants);
        self.shared.wake.notify_one();
    }

    /// How the binding of this generation was proven; `None`: it was not.
    pub(crate) fn proof(&self, port: &PortKey, generation: u64) -> Option<Proof> {
        let proofs = self.shared.proofs.read().unwrap_or_else(PoisonError::into_inner);
        proofs.get(port).filter(|proof| proof.generation == generation && proof.proven).cloned()
    }

    /// What a wanted proof waits for; `None`: nobody wants one.
    pub(crate) fn waits_for(&self, port: &PortKey) -> Option<String> {
        self.wants().get(port).map(|want| want.text.clone())
    }

    fn wants(&self) -> MutexGuard<'_, BTreeMap<PortKey, Want>> {
        self.shared.wants.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn tell(&self, port: &PortKey) {
        // Nobody listening is fine.
        let _ = self.shared.news.send(Arc::new(vec![port.clone()]));
    }

    /// Says what a want waits for.
    fn explain(&self, port: &PortKey, text: String) {
        let changed = match self.wants().get_mut(port) {
            Some(want) if want.text != text => {
                want.text = text;
                true
            }
            _ => false,
        };
        if changed {
            self.tell(port);
        }
    }

    /// Takes up a record, ours or another controller's.
    fn learn(&self, port: &PortKey, proof: Option<Proof>) {
        let text = proof.as_ref().filter(|proof| !proof.proven).map(|proof| proof.text.clone());
        {
            let mut proofs = self.shared.proofs.write().unwrap_or_else(PoisonError::into_inner);
            match proof {
                Some(proof) => proofs.insert(port.clone(), proof),
                None => proofs.remove(port),
            };
        }
        if let Some(text) = text {
            self.explain(port, text);
        }
        self.tell(port);
        self.shared.wake.notify_one();
    }

    /// True if the port's kernel is programmed and its routes were sent: before that a probe proves nothing new.
    fn is_advertised(&self, port: &PortKey) -> Option<bool> {
        let snapshot = self.shared.state.snapshot();
        let binding = snapshot.bindings.get(port).filter(|binding| binding.value.active)?;
        let progress = self.shared.agents.port_progress(&binding.value, binding.revision);
        Some(progress == PortProgress::Programmed && self.shared.fabric.is_advertised(port))
    }
}
