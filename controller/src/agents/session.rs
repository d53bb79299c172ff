//! One agent's stream.

use std::sync::Arc;
use std::time::Duration;

use causeway_proto::{Name, Revision, v1};
use tokio::sync::{mpsc, watch};
use tokio::time::{MissedTickBehavior, timeout};
use tonic::{Status, Streaming};

use super::board::{PortTold, Sent};
use super::claim::Claimed;
use super::levels::Levels;
use super::probe::{ORDERS, Order};
use super::{Agents, Seat, message};
use crate::api::status::Refusal;
use crate::derive::imports::Imports;
use crate::derive::node::{self, Next, NodeState, View};
use crate::derive::{self, Changed};
use crate::ports::now_ms;
use crate::snapshot::Snapshot;
use crate::store::LeaseId;

/// How long an agent may take to say who it is.
const HELLO: Duration = Duration::from_secs(10);
/// Longest wait until this controller knows as much as the agent.
const CATCH_UP: Duration = Duration::from_secs(3);
/// Messages that wait for the transport. What comes later is computed later, from the newest snapshot.
const QUEUE: usize = 2;
/// How often a claim that the store has not taken is tried again.
const CLAIM_RETRY: Duration = Duration::from_secs(1);
/// Bytes of an instance id and of a version.
const ID_LIMIT: usize = 128;

/// What goes to the agent.
type Outbound = mpsc::Sender<Result<v1::ControllerMessage, Status>>;

/// An agent's session.
#[derive(Debug)]
pub(super) struct Session {
    agents: Agents,
    node: Name,
    version: String,
    seat: Seat,
    claimed: Claimed,
    inbound: Streaming<v1::AgentMessage>,
    outbound: Outbound,
    orders: mpsc::Receiver<Order>,
    /// The next of them, for when the transport takes it.
    order: Option<Order>,
    levels: Levels,
    imports: watch::Receiver<Imports>,
    lease: watch::Receiver<Option<LeaseId>>,
    /// What there is to tell.
    latest: View,
    /// What was told.
    told: Option<View>,
    behind: bool,
}

/// Who an agent says it is.
struct Hello {
    node: Name,
    instance: String,
    version: String,
    /// Of the state that it has.
    revision: Revision,
}

impl Session {
    /// Reads the hello and takes the node's seat, here and in the store.
    pub(super) async fn open(
        agents: Agents,
        mut inbound: Streaming<v1::AgentMessage>,
    ) -> Result<(Session, mpsc::Receiver<Result<v1::ControllerMessage, Status>>), Refusal> {
        let hello = match timeout(HELLO, inbound.message()).await {
            Err(_) => return Err(Refusal::late("hello of an agent")),
            Ok(Err(status)) => {
                return Err(Refusal::aborted(format!("hello of an agent: {}", status.message())));
            }
            Ok(Ok(first)) => check_hello(first)?,
        };
        let Hello { node, instance, version, revision: has } = hello;
        if agents.snapshot().nodes.get(&node).is_none() {
            return Err(Refusal::not_found(
                format!("node {node} does not exist"),
                "declare it: causeway apply -f FILE; known ones: causeway get nodes",
            ));
        }
        // An older state would bring back what the agent has taken down since, and others have by now.
        let caught_up = tokio::select! {
            seen = timeout(CATCH_UP, agents.shared.state.wait_for(has)) => seen.is_ok_and(|seen| seen.is_ok()),
            // What the store itself does not have will not come.
            () = agents.shared.claims.store_is_behind(has) => false,
        };
        let (give_orders, orders) = mpsc::channel(ORDERS);
        let seat = agents.take_seat(&node, &instance, give_orders)?;
        let claimed = match agents.shared.claims.claim(&node, &instance).await {
            Ok(claimed) => claimed,
            Err(refusal) => {
                agents.leave_seat(&node, seat.session);
                return Err(refusal);
            }
        };
        if let Claimed::At(revision) = claimed {
            agents.note_claim(&node, seat.session, revision);
        }
        // A store that was set back is at an older revision itself.
        let set_back = matches!(claimed, Claimed::At(revision) if revision < has);
        if !caught_up && !set_back {
            agents.leave_seat(&node, seat.session);
            if let Claimed::At(revision) = claimed {
                agents.shared.claims.release(&node, revision).await;
            }
            return Err(Refusal::unavailable(format!(
                "node {node}: the agent has seen revision {}, this controller has not yet",
                has.0
            )));
        }
        agents.change_board(|board| {
            board.begin(&node, agents.shared.claims.record(&instance), version.clone())
        });
        let (outbound, receiver) = mpsc::channel(QUEUE);
        let mut imports = agents.shared.fabric.imports();
        let latest = View {
            snapshot: agents.snapshot(),
            imports: imports.borrow_and_update().clone(),
            asn: agents.shared.fabric.context().asn,
        };
        let mut lease = agents.shared.claims.lease();
        lease.mark_unchanged();
        let levels = Levels::new(&agents);
        let session = Session {
            agents,
            node,
            version,
            seat,
            claimed,
            inbound,
            outbound,
            orders,
            order: None,
            levels,
            imports,
            lease,
            latest,
            told: None,
            behind: true,
        };
        Ok((session, receiver))
    }

    /// Serves the agent until one side ends.
    pub(super) async fn run(mut self) {
        let agents = self.agents.clone();
        agents.shared.metrics.agents.inc();
        tracing::info!(node = %self.node, version = self.version, "agent connected");
        let ended = self.serve().await;
        agents.end_probes(self.seat.session);
        agents.shared.metrics.agents.dec();
        // A newer session of the same agent has the seat, the board and the claim by now.
        if agents.leave_seat(&self.node, self.seat.session) {
            agents.change_board(|board| board.end(&self.node, now_ms()));
            agents.shared.dirty.notify_one();
            if let Claimed::At(revision) = self.claimed {
                self.give_back(revision);
            }
        }
        match ended {
            Ok(()) => tracing::info!(node = %self.node, "agent disconnected"),
            Err(refusal) => {
                tracing::info!(node = %self.node, ?refusal, "agent's session ended");
                // The agent may not read any more.
                let _ = timeout(Duration::from_secs(1), self.outbound.send(Err(refusal.into()))).await;
            }
        }
    }

    /// Gives the claim back, for as long as it takes the store to answer.
    fn give_back(&self, revision: causeway_proto::Revision) {
        let (agents, node) = (self.agents.clone(), self.node.clone());
        let cancel = agents.shared.cancel.clone();
        let give_back = async move {
            while !agents.shared.claims.release(&node, revision).await {
                tokio::time::sleep(CLAIM_RETRY).await;
            }
        };
        // When the controller stops, the lease ends and the claim with it.
        self.agents.shared.tasks.spawn(cancel.run_until_cancelled_owned(give_back));
    }

    async fn serve(&mut self) -> Result<(), Refusal> {
        let state = self.agents.shared.state.clone();
        let mut claim_retry = tokio::time::interval(CLAIM_RETRY);
        claim_retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            let outbound = self.outbound.clone();
            tokio::select! {
                () = self.seat.end.cancelled() => return Err(self.why_ended()),
                snapshot = state.wait_after(self.latest.snapshot.revision) => {
                    let snapshot = snapshot.map_err(|_| Refusal::unavailable("the controller is stopping"))?;
                    self.latest.snapshot = snapshot;
                    self.behind = true;
                }
                changed = self.imports.changed() => {
                    changed.map_err(|_| Refusal::unavailable("the controller is stopping"))?;
                    self.latest.imports = self.imports.borrow_and_update().clone();
                    self.behind = true;
                }
                Some(order) = self.orders.recv(), if self.order.is_none() => self.order = Some(order),
                () = self.levels.hear(&self.node, &self.latest.snapshot) => {}
                permit = outbound.reserve(), if self.has_something() => match permit {
                    Ok(permit) => {
                        // The state first: an order may speak of what is new in it.
                        let message = match self.behind {
                            true => self.next_message().await?,
                            false => self.other_message().map(|message| v1::ControllerMessage { message: Some(message) }),
                        };
                        if let Some(message) = message {
                            permit.send(Ok(message));
                        }
                    }
                    Err(_) => return Ok(()),
                },
                message = self.inbound.message() => match message {
                    Ok(Some(message)) => self.hear(message)?,
                    Ok(None) => return Ok(()),
                    Err(status) => {
                        tracing::debug!(node = %self.node, error = status.message(), "agent's stream broke");
                        return Ok(());
                    }
                },
                _ = self.lease.changed() => self.claim_again().await?,
                _ = claim_retry.tick(), if self.claimed == Claimed::Unwritten => self.claim_again().await?,
            }
        }
    }

    fn has_something(&self) -> bool {
        self.behind || self.order.is_some() || self.levels.is_due()
    }

    /// What there is to say besides the node's state.
    fn other_message(&mut self) -> Option<Order> {
        match self.order.take() {
            Some(order) => Some(order),
            None => {
                let levels = self.levels.take(&self.agents, &self.node, &self.latest.snapshot);
                levels.map(Order::Levels)
            }
        }
    }

    fn why_ended(&self) -> Refusal {
        if self.agents.shared.cancel.is_cancelled() {
            Refusal::unavailable("the controller is stopping")
        } else {
            Refusal::aborted(format!("node {}: the agent has a newer session", self.node))
        }
    }

    async fn claim_again(&mut self) -> Result<(), Refusal> {
        self.lease.mark_unchanged();
        self.claimed = self.agents.shared.claims.claim(&self.node, &self.seat.instance).await?;
        if let Claimed::At(revision) = self.claimed {
            self.agents.note_claim(&self.node, self.seat.session, revision);
        }
        Ok(())
    }

    /// What turns what was told into what there is to tell; nothing if this node is not concerned.
    async fn next_message(&mut self) -> Result<Option<v1::ControllerMessage>, Refusal> {
        self.behind = false;
        let new = self.latest.clone();
        let mut ours = false;
        let next = match &self.told {
            None => Next::Full,
            Some(old) => {
                let changed = Changed::between(&old.snapshot, &new.snapshot);
                let bindings = changed.ports.iter().filter_map(|key| new.snapshot.bindings.get(key));
                ours = bindings.into_iter().any(|binding| binding.value.node == self.node);
                node::next(old, &new, &changed, &self.node)
            }
        };
        let revision = new.snapshot.revision;
        let message = match next {
            Next::Gone => {
                self.agents.change_board(|board| {
                    board.forget(&self.node);
                    Vec::new()
                });
                return Err(Refusal::not_found(format!("node {} was deleted", self.node), ""));
            }
            Next::Full => {
                self.levels.set_due();
                Some(self.full_state(&new).await?)
            }
            Next::Delta(delta) if delta.is_empty() => {
                self.note_told(&new.snapshot, Sent::Nothing, &NodeState::default(), &Default::default());
                // A port came and went before the agent was told of it: others wait for the word that it is not there.
                if ours {
                    self.agents.shared.dirty.notify_one();
                }
                None
            }
            Next::Delta(delta) => {
                self.agents.shared.metrics.agent_deltas.inc();
                self.levels.set_due();
                self.note_told(&new.snapshot, Sent::Some, &delta.set, &delta.deleted_ports);
                Some(message::delta(&delta, revision))
            }
        };
        self.told = Some(new);
        Ok(message)
    }

    async fn full_state(&mut self, view: &View) -> Result<v1::ControllerMessage, Refusal> {
        let (given, name) = (view.clone(), self.node.clone());
        // A hundred thousand remote ports take long enough not to do it on a thread that serves others.
        let derived = tokio::task::spawn_blocking(move || {
            let me = node::node_self(&given, &name)?;
            let state = node::state(&given, &name);
            let message = message::snapshot(&me, &state, given.snapshot.revision);
            Some((state, message))
        });
        let derived = derived.await.map_err(|_| Refusal::unavailable("the controller is stopping"))?;
        let Some((state, message)) = derived else {
            return Err(Refusal::not_found(format!("node {} was deleted", self.node), ""));
        };
        self.agents.shared.metrics.agent_snapshots.inc();
        self.note_told(&view.snapshot, Sent::All, &state, &Default::default());
        Ok(message)
    }

    fn note_told(
        &self,
        snapshot: &Arc<Snapshot>,
        sent: Sent,
        set: &NodeState,
        gone: &std::collections::BTreeSet<causeway_proto::PortKey>,
    ) {
        let told = set.ports.iter().filter_map(|(key, port)| {
            let at = derive::seat(snapshot, &self.node, key)?.revision;
            Some(PortTold { port: key.clone(), generation: port.generation, stage: port.stage, at })
        });
        self.agents.change_board(|board| board.told(&self.node, snapshot.revision, sent, told, gone));
    }

    fn hear(&mut self, message: v1::AgentMessage) -> Result<(), Refusal> {
        match message.message {
            Some(v1::agent_message::Message::Status(status)) => {
                self.agents.note_duplicates(&self.node, &status);
                let (revision, ports, problems) = message::said(status);
                tracing::debug!(node = %self.node, rev = revision.0, ports = ports.len(), "agent's status");
                self.agents.change_board(|board| board.said(&self.node, revision, ports, problems));
                self.agents.shared.dirty.notify_one();
                Ok(())
            }
            Some(v1::agent_message::Message::Hello(_)) => {
                Err(Refusal::field("hello", "was said before; a new one needs a new stream"))
            }
            Some(v1::agent_message::Message::ProbeResult(result)) => {
                self.agents.probed(&self.node, result);
                Ok(())
            }
            Some(v1::agent_message::Message::Prove(request)) => {
                self.prove(&request);
                Ok(())
            }
            // A message of a newer agent that this controller does not know.
            None => Ok(()),
        }
    }
}

/// How long an agent may ask for a proof.
const PROVE: Duration = Duration::from_secs(600);

impl Session {
    /// Somebody on the node waits for its port to be proven. Ports of other nodes are none of its business.
    fn prove(&self, request: &v1::ProveRequest) {
        let Ok(port) = request.port.parse() else { return };
        let here = self.latest.snapshot.bindings.get(&port).is_some_and(|b| b.value.node == self.node);
        if let Some(ready) = self.agents.ready().filter(|_| here) {
            let wait = Duration::from_millis(request.timeout_ms.into()).min(PROVE);
            ready.want(&port, tokio::time::Instant::now() + wait);
        }
    }
}

fn check_hello(first: Option<v1::AgentMessage>) -> Result<Hello, Refusal> {
    let message = first.and_then(|first| first.message);
    let Some(v1::agent_message::Message::Hello(hello)) = message else {
        return Err(Refusal::field("hello", "must be the first message of a session"));
    };
    let node = hello.node.parse().map_err(|error| Refusal::field("hello.node", format!("{error}")))?;
    let printable = |text: &str| text.len() <= ID_LIMIT && text.chars().all(|c| c.is_ascii_graphic());
    if hello.instance_id.is_empty() || !printable(&hello.instance_id) {
        return Err(Refusal::field(
            "hello.instance_id",
            "is 1 to 128 printable ASCII characters without spaces",
        ));
    }
    if !printable(&hello.version) {
        return Err(Refusal::field(
            "hello.version",
            "is at most 128 printable ASCII characters without spaces",
        ));
    }
    let revision = Revision(hello.revision);
    Ok(Hello { node, instance: hello.instance_id, version: hello.version, revision })
}
