//! Orders to agents to probe an address, and what comes back.
//!
//! A probe belongs to whoever holds its [`Probe`]: dropping that ends it on the node too. Only the controller that has a
//! node's session can order one there.

use std::collections::BTreeMap;
use std::sync::{Mutex, PoisonError};

use causeway_proto::{Name, v1};
use tokio::sync::{mpsc, watch};

use super::Agents;

/// What waits for an agent that is slow to read.
pub(super) const ORDERS: usize = 512;

/// What goes to an agent besides its state.
pub(super) type Order = v1::controller_message::Message;

/// Why a probe cannot be ordered.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NoProbe {
    /// The node's agent is not connected to this controller.
    #[error("the agent of node {0} is not connected to this controller")]
    Away(Name),
    /// The agent does not read what is sent to it.
    #[error("the agent of node {0} does not keep up")]
    Slow(Name),
}

/// A probe under way, or ended.
#[derive(Debug)]
pub(crate) struct Probe {
    agents: Agents,
    node: Name,
    id: u64,
    results: watch::Receiver<v1::ProbeResult>,
}

/// Probes by id, and where their results go.
#[derive(Debug)]
pub(super) struct Probes {
    next: u64,
    open: BTreeMap<u64, Open>,
}

#[derive(Debug)]
struct Open {
    node: Name,
    session: u64,
    results: watch::Sender<v1::ProbeResult>,
}

impl Default for Probes {
    fn default() -> Self {
        // An agent may still say how a probe of an earlier run of this controller, or of another one, ended.
        Probes { next: rand::random(), open: BTreeMap::new() }
    }
}

impl Probe {
    /// The latest result; none has come as long as nothing was sent and nothing is wrong.
    pub(crate) fn latest(&self) -> v1::ProbeResult {
        self.results.borrow().clone()
    }

    #[allow(dead_code, reason = "for who measures while a probe goes on")]
    /// The next result that was not seen yet. After one that is `finished` there is none.
    pub(crate) async fn next(&mut self) -> Option<v1::ProbeResult> {
        self.results.changed().await.ok()?;
        Some(self.results.borrow_and_update().clone())
    }

    /// The last result.
    pub(crate) async fn end(&mut self) -> v1::ProbeResult {
        // An error means that nothing more comes.
        let _ = self.results.wait_for(|result| result.finished).await;
        self.latest()
    }

    /// Ends it on the node; the last result still comes.
    pub(crate) fn cancel(&self) {
        let message = Order::CancelProbe(v1::ProbeCancel { id: self.id });
        // An agent that is gone probes no more.
        let _ = self.agents.order(&self.node, message);
    }
}

impl Drop for Probe {
    fn drop(&mut self) {
        let ended = self.results.borrow().finished;
        self.agents.probes().open.remove(&self.id);
        if !ended {
            self.cancel();
        }
    }
}

impl Agents {
    /// Orders a probe at a node; its id is given here.
    pub(crate) fn probe(&self, node: &Name, order: v1::ProbeOrder) -> Result<Probe, NoProbe> {
        let session = self.sessions().get(node).map(|seat| seat.session);
        let Some(session) = session else { return Err(NoProbe::Away(node.clone())) };
        let (results, receiver) = watch::channel(v1::ProbeResult::default());
        let id = {
            let mut probes = self.probes();
            probes.next = probes.next.wrapping_add(1);
            let id = probes.next;
            probes.open.insert(id, Open { node: node.clone(), session, results });
            id
        };
        let probe = Probe { agents: self.clone(), node: node.clone(), id, results: receiver };
        self.order(node, Order::Probe(v1::ProbeOrder { id, ..order }))?;
        Ok(probe)
    }

    /// True if the node's agent is connected to this controller.
    pub(crate) fn has_session(&self, node: &Name) -> bool {
        self.sessions().contains_key(node)
    }

    /// Gives an agent a message besides its state.
    pub(super) fn order(&self, node: &Name, message: Order) -> Result<(), NoProbe> {
        let sent = match self.sessions().get(node) {
            None => return Err(NoProbe::Away(node.clone())),
            Some(seat) => seat.orders.try_send(message),
        };
        sent.map_err(|error| match error {
            mpsc::error::TrySendError::Full(_) => NoProbe::Slow(node.clone()),
            mpsc::error::TrySendError::Closed(_) => NoProbe::Away(node.clone()),
        })
    }

    /// An agent's word of a probe. One that nobody waits for any more is dropped, as is one of another node's.
    pub(super) fn probed(&self, node: &Name, result: v1::ProbeResult) {
        if let Some(open) = self.probes().open.get(&result.id)
            && open.node == *node
        {
            open.results.send_replace(result);
        }
    }

    /// A session ended, and its probes with it.
    pub(super) fn end_probes(&self, session: u64) {
        for (id, open) in self.probes().open.iter().filter(|(_, open)| open.session == session) {
            open.results.send_if_modified(|result| {
                let ends = !result.finished;
                if ends {
                    result.id = *id;
                    result.finished = true;
                    result.problem = format!("the agent of node {} disconnected", open.node);
                }
                ends
            });
        }
    }

    fn probes(&self) -> std::sync::MutexGuard<'_, Probes> {
        let probes: &Mutex<Probes> = &self.shared.probes;
        probes.lock().unwrap_or_else(PoisonError::into_inner)
    }
}
