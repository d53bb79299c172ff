//! A node that only looks: every probe that it is told of sees who answers on the plane.

use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use causeway_proto::v1;
use causeway_proto::v1::controller_message::Message;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tonic::transport::Channel;

use crate::support::Agent;
use crate::support::robots::Plane;

/// Between two probes of an address, each of which is told of.
const TICK: Duration = Duration::from_millis(10);

/// The node's agent; it ends when this is dropped.
pub(crate) struct Watcher {
    orders: Arc<Mutex<Vec<v1::ProbeOrder>>>,
    task: tokio::task::JoinHandle<()>,
}

impl Drop for Watcher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Watcher {
    /// An agent of `node`, which must have a port of the network. All that it probes is taken for `port`'s.
    pub(crate) async fn start(
        channel: &Channel,
        node: &str,
        port: &str,
        plane: &Plane,
    ) -> anyhow::Result<Self> {
        let agent = Agent::connect(channel, node, "watcher").await?;
        let orders = Arc::default();
        let look = look(agent, Arc::clone(&orders), plane.clone(), port.to_owned());
        Ok(Watcher { orders, task: tokio::spawn(look) })
    }

    /// The addresses that it was told to probe, each once.
    pub(crate) fn probed(&self) -> Vec<String> {
        let orders = self.orders.lock().unwrap_or_else(PoisonError::into_inner);
        let mut probed: Vec<String> = orders.iter().map(|order| order.address.clone()).collect();
        probed.sort_unstable();
        probed.dedup();
        probed
    }
}

/// One probe of an address.
struct Probe {
    id: u64,
    began: Instant,
    seen: v1::ProbeResult,
}

impl Probe {
    fn look(&mut self, answering: usize) -> v1::ProbeResult {
        let now_ms = u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX).max(1);
        let seen = &mut self.seen;
        seen.id = self.id;
        seen.elapsed_ms = now_ms;
        seen.sent += 1;
        let open = seen.gaps.last().is_some_and(|gap| gap.end_ms == 0);
        if answering == 0 {
            seen.lost += 1;
            if !open {
                seen.gaps.push(v1::ProbeGap { begin_ms: now_ms, end_ms: 0, lost: 0 });
            }
            if let Some(gap) = seen.gaps.last_mut() {
                gap.lost += 1;
            }
        } else {
            seen.received += 1;
            seen.duplicated += u32::try_from(answering - 1).unwrap_or(u32::MAX);
            seen.last_reply_us = u64::from(now_ms) * 1000;
            if let Some(gap) = seen.gaps.last_mut().filter(|_| open) {
                gap.end_ms = now_ms;
            }
        }
        seen.clone()
    }
}

async fn look(mut agent: Agent, orders: Arc<Mutex<Vec<v1::ProbeOrder>>>, plane: Plane, port: String) {
    let mut probes: Vec<Probe> = Vec::new();
    let mut ticks = interval(TICK);
    ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        let message = tokio::select! {
            message = agent.stream.message() => message,
            _ = ticks.tick() => {
                let answering = plane.answering(&port).len();
                for probe in &mut probes {
                    let result = v1::agent_message::Message::ProbeResult(probe.look(answering));
                    if agent.sender.send(v1::AgentMessage { message: Some(result) }).await.is_err() {
                        return;
                    }
                }
                continue;
            }
        };
        let Ok(Some(message)) = message else { return };
        let (revision, ports) = match message.message {
            Some(Message::Snapshot(state)) => (state.revision, state.ports),
            Some(Message::Delta(delta)) => (delta.revision, delta.ports),
            Some(Message::Probe(order)) => {
                probes.push(Probe { id: order.id, began: Instant::now(), seen: v1::ProbeResult::default() });
                orders.lock().unwrap_or_else(PoisonError::into_inner).push(order);
                continue;
            }
            Some(Message::CancelProbe(cancel)) => {
                probes.retain(|probe| probe.id != cancel.id);
                continue;
            }
            _ => continue,
        };
        let said = |port: &v1::NodePort| v1::PortStatus {
            port: port.id.clone(),
            generation: port.generation,
            programmed: true,
            stage: port.stage,
            ..v1::PortStatus::default()
        };
        if agent.say(revision, ports.iter().map(said).collect()).await.is_err() {
            return;
        }
    }
}
