//! What becomes of ports: created, bound, unbound, released. A request becomes a transaction by a pure function of the
//! snapshot ([`plan`]); one task a controller puts what waits into as few transactions as possible, with what is under
//! way already taken into account, and tries again what lost a race.
//!
//! ```text
//! create/bind/… ─> queue ─> task: plan(snapshot + under way) ─> Store.txn ─ committed ─> reply
//!                             ^────── snapshot shows the winner <── conflict ──┘ (5 tries)
//! ```

mod error;
mod moving;
mod overlay;
pub mod plan;
mod task;

use std::collections::BTreeMap;
use std::net::IpAddr;
use std::sync::Arc;

use causeway_proto::{Mac, Name, PortKey, Revision};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::clock::Clock;
use crate::derive::imports::Imports;
use crate::history::By;
use crate::model::{
    AddressCheck, Attachment, Binding, Duplicate, Guard, MacvlanMode, Port, RateLimit, WorkloadKind,
};
use crate::state::State;
use crate::steps::{self, Steps};
use crate::store::{Compare, Store};

pub use error::{Pool, PortError};
pub use moving::{Hearing, HearingOf, MoveOrder, MoveStep, NewMac, Owner};
pub(crate) use task::now_ms;

/// A port to create.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CreatePort {
    /// Its identity.
    pub key: PortKey,
    /// Addresses asked for, each inside one subnet of the network; empty: one of each family that the network has.
    pub addresses: Vec<IpAddr>,
    /// MAC asked for; `None`: derived from the first address.
    pub mac: Option<Mac>,
    /// Free labels. Empty means "as they are" for a port that exists.
    pub labels: BTreeMap<String, String>,
    /// Bind it in the same transaction.
    pub bind: Option<Place>,
    /// How fast it may be. A port that exists keeps what it has.
    pub rate: RateLimit,
    /// Whether it is guarded; `None`: as its network says. A port that exists keeps what it has.
    pub guard: Option<Guard>,
    /// Whether its addresses are asked for before their first use at a node; `None`: as its network says. A port that
    /// exists keeps what it has.
    pub address_check: Option<AddressCheck>,
    /// Labels by which the network is chosen; empty: it is that of `key`. Else that one is only where the last choice fell.
    pub select: BTreeMap<String, String>,
    /// A VIP, which another port holds.
    pub vip: bool,
}

impl CreatePort {
    /// One with nothing asked for.
    pub fn new(key: PortKey) -> Self {
        CreatePort {
            key,
            addresses: Vec::new(),
            mac: None,
            labels: BTreeMap::new(),
            bind: None,
            rate: RateLimit::default(),
            guard: None,
            address_check: None,
            select: BTreeMap::new(),
            vip: false,
        }
    }
}

/// Where a port shall live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Place {
    /// The node.
    pub node: Name,
    /// What kind of workload.
    pub kind: WorkloadKind,
    /// How it is attached; `None`: by node and kind.
    pub attachment: Option<Attachment>,
    /// For macvlan; `None`: bridge.
    pub macvlan_mode: Option<MacvlanMode>,
    /// The workload's namespace: an absolute path on the node, or `pid:NUMBER`; empty for others than containers.
    pub netns: String,
    /// Interface name inside, of a tap on the node, of bare metal at a switch the switch's; empty: by kind.
    pub interface: String,
    /// The interface is there and stays others'.
    pub adopted: bool,
    /// Nobody reaches it through the fabric.
    pub apart: bool,
    /// Pairs of queues of a tap that the agent makes; 0: one.
    pub queues: u32,
    /// MTU in bytes; 0: as the network and the node's links say.
    pub mtu: u32,
}

impl Place {
    /// A container on a node, attached as the node does by default.
    pub fn container(node: Name, netns: impl Into<String>, interface: impl Into<String>) -> Self {
        Place {
            node,
            kind: WorkloadKind::Container,
            attachment: None,
            macvlan_mode: None,
            netns: netns.into(),
            interface: interface.into(),
            adopted: false,
            apart: false,
            queues: 0,
            mtu: 0,
        }
    }
}

/// A port as stored.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Stored {
    /// The port.
    pub port: Port,
    /// Its binding, an inactive one included.
    pub binding: Option<Binding>,
    /// True if this request made it.
    pub created: bool,
    /// Revision of the last change of the port or its binding.
    pub revision: Revision,
}

/// A request about one port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Request {
    /// Make it, or find it.
    Create(CreatePort),
    /// Say where it lives; with a name, by force of whoever that is.
    Bind(PortKey, Place, Option<String>),
    /// Take it to another node.
    Move(PortKey, MoveOrder),
    /// Take a step of a move.
    Step(Box<MoveStep>),
    /// Take it back to where its last move took it from.
    TurnBack {
        /// Which one.
        key: PortKey,
        /// Why.
        reason: String,
        /// Although nobody hears from the node where it is.
        force: bool,
    },
    /// Change what may change while it lives.
    Update {
        /// Which one.
        key: PortKey,
        /// New rate limits; `None`: as they are.
        rate: Option<RateLimit>,
        /// New guard, of which `Some(None)` is "as its network says"; `None`: as it is.
        guard: Option<Option<Guard>>,
        /// New address check; `None`: as it is.
        address_check: Option<AddressCheck>,
    },
    /// Somebody else was found with an address of it, or is not any more.
    Found {
        /// Which one.
        key: PortKey,
        /// Generation of the binding that it was found for.
        generation: u64,
        /// Who, and where; `None`: nobody any more.
        found: Option<Duplicate>,
    },
    /// The fabric remembers it with a higher sequence than its own.
    Raise {
        /// Which one.
        key: PortKey,
        /// With which sequence.
        sequence: u32,
    },
    /// Another port answers for this VIP, or none.
    Hold {
        /// The VIP.
        key: PortKey,
        /// Which port; `None`: none.
        holder: Option<PortKey>,
    },
    /// It lives nowhere.
    Unbind(PortKey),
    /// It is not needed any more; with `forget` its addresses go back to the pool, after the quarantine.
    Release {
        /// Which one.
        key: PortKey,
        /// Whether the record goes too.
        forget: bool,
    },
    /// It is gone and its addresses are free, now.
    Free {
        /// Which one.
        key: PortKey,
        /// Only if it is quarantined.
        quarantined: bool,
        /// Why, for the history.
        cause: String,
    },
    /// It leaked: it is unbound, and its addresses are given up, if it is bound as it was seen and the rest holds too.
    Collect {
        /// Which one.
        key: PortKey,
        /// Generation of the binding that was seen.
        generation: u64,
        /// What else must hold: that its node's agent still says so.
        evidence: Vec<Compare>,
        /// Why, for the history.
        cause: String,
    },
    /// Its addresses go back to the pool if it is released and its network's time for it is over.
    Expire {
        /// Which one.
        key: PortKey,
        /// Unix time in milliseconds.
        now_ms: i64,
    },
}

/// What became of a request: the port, or `None` if there is none any more (a release), and the revision of the change
/// or, if nothing had to change, the one at which that was seen.
pub type Answer = Result<(Option<Stored>, Revision), PortError>;

/// A request on its way to the task.
#[derive(Debug)]
struct Job {
    request: Request,
    /// Who asks.
    by: Arc<By>,
    /// When it came, in Unix milliseconds.
    asked: f64,
    /// The same by the steady clock.
    since: Instant,
    tries: u32,
    answer: oneshot::Sender<Answer>,
}

/// Handle of the task that changes ports. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Ports {
    jobs: mpsc::Sender<Vec<Job>>,
    /// Who asks.
    by: Arc<By>,
}

impl Ports {
    /// Starts the task; it ends when `cancel` is cancelled or all handles are dropped.
    pub fn start(store: Arc<dyn Store>, state: State, cancel: CancellationToken) -> Ports {
        // Whoever hears nothing of the fabric has nothing to outbid.
        // Nor has anybody else an agent.
        let nobody: Arc<HearingOf> = Arc::new(|_| Hearing::default());
        Ports::start_hearing(store, state, watch::channel(Imports::default()).1, nobody, cancel)
    }

    /// The same by this wall clock.
    pub fn start_by(store: Arc<dyn Store>, state: State, clock: Clock, cancel: CancellationToken) -> Ports {
        let nobody: Arc<HearingOf> = Arc::new(|_| Hearing::default());
        let heard = watch::channel(Imports::default()).1;
        Ports::start_noting(store, state, heard, nobody, clock, Counter::default(), Steps::default(), cancel)
    }

    /// The same, where the fabric says something: a binding's generation goes above the mobility sequences with which
    /// other places say the MAC.
    pub fn start_hearing(
        store: Arc<dyn Store>,
        state: State,
        heard: watch::Receiver<Imports>,
        hearing: Arc<HearingOf>,
        cancel: CancellationToken,
    ) -> Ports {
        let clock = Clock::default();
        Ports::start_noting(store, state, heard, hearing, clock, Counter::default(), Steps::default(), cancel)
    }

    /// The same, counting the quarantines that had to end early because a pool ran dry, and noting when bindings were
    /// asked for and committed.
    #[expect(clippy::too_many_arguments, reason = "what a task is started with, once")]
    pub(crate) fn start_noting(
        store: Arc<dyn Store>,
        state: State,
        heard: watch::Receiver<Imports>,
        hearing: Arc<HearingOf>,
        clock: Clock,
        cut_short: Counter,
        steps: Steps,
        cancel: CancellationToken,
    ) -> Ports {
        let (jobs, queue) = mpsc::channel(task::QUEUE);
        let task = task::Task::new(store, state, heard, hearing, clock, queue, cut_short, steps);
        tokio::spawn(cancel.run_until_cancelled_owned(task.run()));
        Ports { jobs, by: Arc::default() }
    }

    /// The same, on behalf of somebody: the history says who asked.
    #[must_use]
    pub fn on_behalf(&self, by: By) -> Ports {
        Ports { jobs: self.jobs.clone(), by: Arc::new(by) }
    }

    /// Creates ports or finds those that exist; they succeed or fail one by one. The answers are in the order of the
    /// requests. It does not wait until the snapshot shows them.
    pub async fn create(&self, ports: Vec<CreatePort>) -> Vec<Result<Stored, PortError>> {
        let answers = self.run(ports.into_iter().map(Request::Create).collect()).await;
        answers.into_iter().map(stored).collect()
    }

    /// Says where a port lives. The same place again changes nothing.
    pub async fn bind(&self, key: PortKey, place: Place) -> Result<Stored, PortError> {
        stored(self.one(Request::Bind(key, place, None)).await)
    }

    /// The same although the node before may still answer for it, by the will of `by`, for the record.
    pub async fn bind_by_force(&self, key: PortKey, place: Place, by: String) -> Result<Stored, PortError> {
        stored(self.one(Request::Bind(key, place, Some(by))).await)
    }

    /// Begins to take a port to another node; the same again while that is under way changes nothing.
    pub async fn move_to(&self, key: PortKey, order: MoveOrder) -> Result<(Stored, Revision), PortError> {
        let (port, revision) = self.one(Request::Move(key, order)).await?;
        Ok((stored(Ok((port, revision)))?, revision))
    }

    /// Takes a step of a move; [`PortError::Aborted`] if something has changed since it was decided.
    pub async fn step(&self, step: MoveStep) -> Result<Revision, PortError> {
        self.one(Request::Step(Box::new(step))).await.map(|(_, revision)| revision)
    }

    /// Begins to take a port back to where its last move took it from.
    pub async fn turn_back(&self, key: PortKey, reason: String, force: bool) -> Result<Revision, PortError> {
        self.one(Request::TurnBack { key, reason, force }).await.map(|(_, revision)| revision)
    }

    /// Changes rate limits, guard and address check; nothing changes if they are so.
    pub async fn update(
        &self,
        key: PortKey,
        rate: Option<RateLimit>,
        guard: Option<Option<Guard>>,
        address_check: Option<AddressCheck>,
    ) -> Result<Stored, PortError> {
        stored(self.one(Request::Update { key, rate, guard, address_check }).await)
    }

    /// Notes with a port that is bound at this generation who else has an address of it; nothing changes if it is not
    /// bound so, or if that is known.
    pub async fn found(
        &self,
        key: PortKey,
        generation: u64,
        found: Option<Duplicate>,
    ) -> Result<Stored, PortError> {
        stored(self.one(Request::Found { key, generation, found }).await)
    }

    /// A bound port is announced with this sequence if its own is lower; nothing changes otherwise.
    pub async fn raise(&self, key: PortKey, sequence: u32) -> Result<Revision, PortError> {
        self.one(Request::Raise { key, sequence }).await.map(|(_, revision)| revision)
    }

    /// Another port answers for a VIP's addresses, or none; nothing changes if that is so.
    pub async fn hold(&self, key: PortKey, holder: Option<PortKey>) -> Result<(Stored, Revision), PortError> {
        let (port, revision) = self.one(Request::Hold { key, holder }).await?;
        Ok((stored(Ok((port, revision)))?, revision))
    }

    /// The port lives nowhere; nothing changes if that is so.
    pub async fn unbind(&self, key: PortKey) -> Result<Stored, PortError> {
        stored(self.one(Request::Unbind(key)).await)
    }

    /// Unbinds and releases a port. Its addresses stay reserved for its name as the network's policy says, or with
    /// `forget` go back to the pool when the network's quarantine is over; without one they are free from the returned
    /// revision on. A port that is not there is released already.
    pub async fn release(&self, key: PortKey, forget: bool) -> Result<Revision, PortError> {
        self.release_port(key, forget).await.map(|(_, revision)| revision)
    }

    /// The same, with the port as it is then; `None`: it is gone.
    pub async fn release_port(
        &self,
        key: PortKey,
        forget: bool,
    ) -> Result<(Option<Stored>, Revision), PortError> {
        self.one(Request::Release { key, forget }).await
    }

    /// Removes a port without quarantine: its addresses are free from the returned revision on.
    pub async fn free(&self, key: PortKey, cause: &str) -> Result<Revision, PortError> {
        let request = Request::Free { key, quarantined: false, cause: cause.to_owned() };
        self.one(request).await.map(|(_, revision)| revision)
    }

    /// Ends the quarantine of ports; [`PortError::Precondition`] for those that are not quarantined any more.
    pub async fn end_quarantine(&self, ports: &[PortKey], cause: &str) -> Vec<Result<Revision, PortError>> {
        let request =
            |key: &PortKey| Request::Free { key: key.clone(), quarantined: true, cause: cause.to_owned() };
        let answers = self.run(ports.iter().map(request).collect()).await;
        answers.into_iter().map(|answer| answer.map(|(_, revision)| revision)).collect()
    }

    /// Ends a port whose workload is gone without a word: it is unbound and its addresses are quarantined, in the one
    /// transaction that compares its binding and `evidence`. [`PortError::Precondition`] if it is bound otherwise.
    pub async fn collect(
        &self,
        key: PortKey,
        generation: u64,
        evidence: Vec<Compare>,
        cause: String,
    ) -> Result<Revision, PortError> {
        let request = Request::Collect { key, generation, evidence, cause };
        self.one(request).await.map(|(_, revision)| revision)
    }

    /// Gives back released ports whose time is over; [`PortError::Precondition`] for those that are not.
    pub async fn expire(&self, ports: &[(PortKey, i64)]) -> Vec<Result<Revision, PortError>> {
        let expire = |(key, now_ms): &(PortKey, i64)| Request::Expire { key: key.clone(), now_ms: *now_ms };
        let requests = ports.iter().map(expire).collect();
        let answers = self.run(requests).await;
        answers.into_iter().map(|answer| answer.map(|(_, revision)| revision)).collect()
    }

    async fn one(&self, request: Request) -> Answer {
        self.run(vec![request]).await.pop().unwrap_or(Err(PortError::Stopping))
    }

    async fn run(&self, requests: Vec<Request>) -> Vec<Answer> {
        let (asked, since) = (steps::now(), Instant::now());
        let job = |request| {
            let (answer, receiver) = oneshot::channel();
            let by = Arc::clone(&self.by);
            (Job { request, by, asked, since, tries: 0, answer }, receiver)
        };
        let (jobs, waiting): (Vec<Job>, Vec<_>) = requests.into_iter().map(job).unzip();
        // All at once: what is asked for in one call shares transactions. A failed send drops the answers' senders, which is
        // told below.
        let _ = self.jobs.send(jobs).await;
        let mut answers = Vec::with_capacity(waiting.len());
        for receiver in waiting {
            answers.push(receiver.await.unwrap_or(Err(PortError::Stopping)));
        }
        answers
    }
}

fn stored(answer: Answer) -> Result<Stored, PortError> {
    match answer? {
        (Some(stored), _) => Ok(stored),
        (None, _) => Err(PortError::Internal("a port that was not released is gone".to_owned())),
    }
}

#[cfg(test)]
mod tests;
