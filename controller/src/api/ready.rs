//! The ready service: waiting for ports.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_bgp::SessionState;
use causeway_proto::v1::ready_service_server::ReadyService;
use causeway_proto::{PortKey, v1};
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio::time::{Instant, sleep_until};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::port_message::key_message;
use super::readiness::{detail, reaches, readiness, why_late};
use super::status::Refusal;
use super::{App, parse};
use crate::fabric::PortNews;
use crate::snapshot::Snapshot;

/// Ports of one call.
const PORTS: usize = 1000;
/// How long a call waits, when it does not say, and at most.
const TIMEOUT: (Duration, Duration) = (Duration::from_secs(30), Duration::from_secs(600));
/// Messages that wait for a client; then the wait waits.
const QUEUE: usize = 256;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) App);

type Answer = Result<v1::WaitPortsResponse, Status>;

#[tonic::async_trait]
impl ReadyService for Service {
    type WaitPortsStream = ReceiverStream<Answer>;

    async fn wait_ports(
        &self,
        request: Request<v1::WaitPortsRequest>,
    ) -> Result<Response<Self::WaitPortsStream>, Status> {
        let (outbound, receiver) = mpsc::channel(QUEUE);
        let wait = Wait::new(self.0.clone(), request.into_inner(), outbound)?;
        let cancel = self.0.cancel.clone();
        self.0.tasks.spawn(cancel.run_until_cancelled_owned(wait.run()));
        Ok(Response::new(ReceiverStream::new(receiver)))
    }
}

/// One call.
struct Wait {
    app: App,
    level: v1::ReadyLevel,
    began: Instant,
    deadline: Instant,
    outbound: mpsc::Sender<Answer>,
    /// What is not there yet, and what was said of it last.
    pending: BTreeMap<PortKey, Option<v1::PortReadiness>>,
}

/// The client is gone, or the controller ends.
struct Gone;

impl Wait {
    fn new(app: App, request: v1::WaitPortsRequest, outbound: mpsc::Sender<Answer>) -> Result<Wait, Refusal> {
        if request.keys.is_empty() || request.keys.len() > PORTS {
            return Err(Refusal::field("keys", format!("are not 1 to {PORTS}")));
        }
        let mut pending = BTreeMap::new();
        for (n, key) in request.keys.into_iter().enumerate() {
            let field = format!("keys[{n}]");
            if pending.insert(parse::port_key(&field, Some(key))?, None).is_some() {
                return Err(Refusal::field(field, "is there twice"));
            }
        }
        let level = match v1::ReadyLevel::try_from(request.level) {
            Ok(v1::ReadyLevel::Unspecified) => v1::ReadyLevel::Advertised,
            Ok(level) => level,
            Err(_) => return Err(Refusal::field("level", format!("{} is unknown", request.level))),
        };
        let timeout = match Duration::from_millis(request.timeout_ms.into()) {
            Duration::ZERO => TIMEOUT.0,
            asked if asked <= TIMEOUT.1 => asked,
            _ => {
                let most = TIMEOUT.1.as_millis();
                return Err(Refusal::field("timeout_ms", format!("is more than {most}")));
            }
        };
        let began = Instant::now();
        Ok(Wait { app, level, began, deadline: began + timeout, outbound, pending })
    }

    async fn run(mut self) {
        // An end without a word is what a client sees that went away itself.
        let _ = self.work().await;
    }

    async fn work(&mut self) -> Result<(), Gone> {
        // Subscribed before the first look: what happens in between is seen twice rather than never.
        let (mut agents, mut fabric) = (self.app.agents.news(), self.app.fabric.news());
        let mut proofs = self.app.ready.news();
        if self.level == v1::ReadyLevel::Proven {
            self.pending.keys().for_each(|key| self.app.ready.want(key, self.deadline));
        }
        let mut snapshot = self.app.snapshot().await;
        self.look(&snapshot).await?;
        let closed = self.outbound.clone();
        let state = self.app.state.clone();
        while !self.pending.is_empty() {
            let concerned = tokio::select! {
                () = closed.closed() => return Err(Gone),
                () = sleep_until(self.deadline) => return self.give_up(&snapshot).await,
                new = state.wait_after(snapshot.revision) => {
                    snapshot = new.map_err(|_| Gone)?;
                    true
                }
                news = agents.recv() => self.concerns(news)?,
                news = fabric.recv() => self.concerns(news)?,
                news = proofs.recv() => self.concerns(news)?,
            };
            if concerned {
                // What happens together is looked at together.
                [&mut agents, &mut fabric, &mut proofs].into_iter().for_each(drain);
                self.look(&snapshot).await?;
            }
        }
        Ok(())
    }

    /// True if the news may be about a pending port.
    fn concerns(&self, news: Result<PortNews, RecvError>) -> Result<bool, Gone> {
        match news {
            Ok(ports) => Ok(ports.iter().any(|port| self.pending.contains_key(port))),
            Err(RecvError::Lagged(_)) => Ok(true),
            Err(RecvError::Closed) => Err(Gone),
        }
    }

    /// Says what is new of pending ports.
    async fn look(&mut self, snapshot: &Snapshot) -> Result<(), Gone> {
        let keys: Vec<PortKey> = self.pending.keys().cloned().collect();
        for key in keys {
            let now = readiness(&self.app, snapshot, &key, self.level);
            if reaches(now.state(), self.level) {
                self.pending.remove(&key);
                let outcome = Some(self.outcome(true, String::new()));
                self.send(&key, now, outcome).await?;
            } else if let Some(told) = self.pending.get_mut(&key)
                && told.as_ref() != Some(&now)
            {
                *told = Some(now.clone());
                self.send(&key, now, None).await?;
            }
        }
        Ok(())
    }

    async fn give_up(&mut self, snapshot: &Snapshot) -> Result<(), Gone> {
        let (peers, unusable) = self.app.fabric.peers().await;
        let down = peers.values().filter(|peer| peer.state != SessionState::Established);
        let mut wrong: Vec<String> = down.map(|peer| format!("BGP peer {} is down", peer.address)).collect();
        wrong.extend(unusable.into_iter().map(|(peer, why)| format!("BGP peer {peer}: {why}")));
        if peers.is_empty() && wrong.is_empty() {
            wrong.push("no BGP peer is declared to which they could be sent".into());
        }
        for key in std::mem::take(&mut self.pending).into_keys() {
            let now = readiness(&self.app, snapshot, &key, self.level);
            let ready = reaches(now.state(), self.level);
            let reason = if ready { String::new() } else { why_late(&now, &wrong) };
            let detail = detail(snapshot, &key).filter(|_| !ready);
            let outcome = v1::WaitOutcome { detail, ..self.outcome(ready, reason) };
            self.send(&key, now, Some(outcome)).await?;
        }
        Ok(())
    }

    fn outcome(&self, ready: bool, reason: String) -> v1::WaitOutcome {
        let waited = u32::try_from(self.began.elapsed().as_millis()).unwrap_or(u32::MAX);
        v1::WaitOutcome { ready, reason, waited_ms: waited, detail: None }
    }

    async fn send(
        &self,
        key: &PortKey,
        readiness: v1::PortReadiness,
        outcome: Option<v1::WaitOutcome>,
    ) -> Result<(), Gone> {
        let answer =
            v1::WaitPortsResponse { key: Some(key_message(key)), readiness: Some(readiness), outcome };
        self.outbound.send(Ok(answer)).await.map_err(|_| Gone)
    }
}

fn drain(news: &mut broadcast::Receiver<PortNews>) {
    while news.try_recv().is_ok() {}
}
