//! The task that changes ports: it plans what waits into transactions, keeps a few of them under way, answers, and
//! looks again at what lost a race.

mod batch;
mod confirm;
mod displace;

use std::collections::{BTreeMap, BTreeSet, VecDeque};
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::{PortKey, Revision};
use prometheus_client::metrics::counter::Counter;
use tokio::sync::{mpsc, watch};
use tokio::task::JoinSet;
use tokio::time::Instant;

use super::overlay::{Flight, Overlay, View};
use super::plan::{self, Context, Plan, Refusal};
use super::{Answer, HearingOf, Job, PortError, Request};
use crate::alloc;
use crate::clock::Clock;
use crate::derive::imports::Imports;
use crate::keys::RecordKey;
use crate::snapshot::Snapshot;
use crate::state::State;
use crate::steps::Steps;
use crate::store::{Store, StoreError, TxnOutcome};
use batch::{Batch, Item};
use confirm::{again, catch_up, confirm};

/// Requests that wait before further ones wait outside, and calls that wait to be looked at.
pub(super) const QUEUE: usize = 4_096;
/// Transactions under way at the same time. With more, batches are smaller; with less, the store idles.
const FLIGHTS: usize = 4;
/// Tries of a request that loses races.
const TRIES: u32 = 5;
/// Longest wait for the snapshot to show what a request lost to.
const CATCH_UP: Duration = Duration::from_secs(2);
/// Between two looks whether a node has said that a port is down.
const DOWN_LOOK: Duration = Duration::from_millis(10);
/// Longest wait for that word of a node that is there.
const DOWN_PATIENCE: Duration = Duration::from_secs(3);
/// How long after a lost race addresses are sought at places of our own.
const CONTENDED: Duration = Duration::from_secs(2);

/// Owner of all changes of ports by this controller.
pub(super) struct Task {
    store: Arc<dyn Store>,
    state: State,
    /// What the fabric says.
    heard: watch::Receiver<Imports>,
    /// What is heard of nodes.
    hearing: Arc<HearingOf>,
    clock: Clock,
    queue: mpsc::Receiver<Vec<Job>>,
    backlog: VecDeque<Job>,
    /// Requests about ports of which a transaction is under way.
    parked: BTreeMap<PortKey, Vec<Job>>,
    overlay: Overlay,
    work: JoinSet<Done>,
    flights: usize,
    next_flight: Flight,
    /// Where this controller looks for addresses when others compete.
    own_seed: u64,
    /// Quarantined ports that are about to give up their addresses because a pool ran dry.
    displacing: BTreeSet<PortKey>,
    cut_short: Counter,
    steps: Steps,
    contended_until: Option<Instant>,
}

/// What a piece of work in the background leads to.
enum Done {
    Flight(Batch, Result<TxnOutcome, StoreError>),
    /// The snapshot has caught up as far as it will: plan again.
    Again(Vec<Job>),
    /// A quarantine was ended for a request that found no free address, or was not.
    Displaced(PortKey, Box<Job>, Box<Option<Answer>>),
    /// A refusal was found to rest on what the store holds, and did at this revision.
    Refused(Box<Job>, PortError, Revision),
}

impl Task {
    #[expect(clippy::too_many_arguments, reason = "what it is started with, once")]
    pub(super) fn new(
        store: Arc<dyn Store>,
        state: State,
        heard: watch::Receiver<Imports>,
        hearing: Arc<HearingOf>,
        clock: Clock,
        queue: mpsc::Receiver<Vec<Job>>,
        cut_short: Counter,
        steps: Steps,
    ) -> Self {
        Task {
            store,
            state,
            heard,
            hearing,
            clock,
            queue,
            backlog: VecDeque::new(),
            parked: BTreeMap::new(),
            overlay: Overlay::default(),
            work: JoinSet::new(),
            flights: 0,
            next_flight: 0,
            own_seed: rand::random(),
            displacing: BTreeSet::new(),
            cut_short,
            steps,
            contended_until: None,
        }
    }

    pub(super) async fn run(mut self) {
        loop {
            let room = self.backlog.len() < QUEUE;
            tokio::select! {
                jobs = self.queue.recv(), if room => match jobs {
                    Some(jobs) => self.backlog.extend(jobs),
                    None if self.work.is_empty() && self.backlog.is_empty() => return,
                    // No new requests: only what is under way is left.
                    None => self.drain().await,
                },
                Some(done) = self.work.join_next(), if !self.work.is_empty() => self.finish(done),
            }
            while self.backlog.len() < QUEUE
                && let Ok(jobs) = self.queue.try_recv()
            {
                self.backlog.extend(jobs);
            }
            self.dispatch();
        }
    }

    async fn drain(&mut self) {
        if let Some(done) = self.work.join_next().await {
            self.finish(done);
        }
    }

    /// Sends out what can be sent.
    fn dispatch(&mut self) {
        if self.backlog.is_empty() || self.flights >= FLIGHTS {
            return;
        }
        let snapshot = self.state.snapshot();
        self.overlay.seen(&snapshot);
        while !self.backlog.is_empty() && self.flights < FLIGHTS {
            let batch = self.fill(&snapshot);
            if batch.is_empty() {
                continue;
            }
            self.flights += 1;
            let store = self.store.clone();
            self.work.spawn(async move {
                let outcome = store.txn(batch.txn(rand::random())).await;
                Done::Flight(batch, outcome)
            });
        }
    }

    /// Plans what waits until a transaction is full or nothing waits.
    fn fill(&mut self, snapshot: &Arc<Snapshot>) -> Batch {
        let flight = self.next_flight;
        self.next_flight += 1;
        let seed = self.contended_until.filter(|until| Instant::now() < *until).map(|_| self.own_seed);
        let (now_ms, heard) = (self.clock.now_ms(), self.heard.borrow().clone());
        let mut batch = Batch::new(now_ms);
        let hearing = Arc::clone(&self.hearing);
        while let Some(mut job) = self.backlog.pop_front() {
            let view = View { snapshot, overlay: &self.overlay };
            let context = Context { now_ms, seed, heard: &heard, hearing: &*hearing };
            if let Request::Create(create) = &mut job.request
                && let Err(refusal) = plan::select(&view, create, context)
            {
                self.refuse(job, refusal, snapshot);
                continue;
            }
            if let Some(key) = tied(&job.request, &view).into_iter().find(|key| self.overlay.in_flight(key)) {
                self.parked.entry(key).or_default().push(job);
                continue;
            }
            let seed = if job.tries == 0 {
                seed
            } else {
                Some(alloc::seed(&job.request.key().to_string(), job.tries))
            };
            let view = View { snapshot, overlay: &self.overlay };
            match plan::plan(&view, &job.request, Context { now_ms, seed, heard: &heard, hearing: &*hearing })
            {
                Ok(Plan::Done(effect)) => {
                    let seen = snapshot.revision;
                    job.reply(Ok((effect.stored(seen), effect.stored(seen).map_or(seen, |s| s.revision))));
                }
                Ok(Plan::Write(planned)) => {
                    if !batch.has_room(&planned) {
                        self.backlog.push_front(job);
                        break;
                    }
                    self.overlay.depart(flight, &planned.effect, snapshot);
                    batch.add(*planned, job);
                }
                Err(refusal) => self.refuse(job, refusal, snapshot),
            }
        }
        batch
    }

    /// A refusal is final only if the store holds what it rests on: the snapshot may be a moment old, or a transaction
    /// under way may fail.
    fn refuse(&mut self, job: Job, refusal: Refusal, snapshot: &Arc<Snapshot>) {
        if let PortError::Taken { .. } = refusal.error
            && let Some(belief) = &refusal.belief
            && let Some(RecordKey::Port(owner)) = RecordKey::parse(&belief.path)
            && self.overlay.in_flight(&owner)
        {
            self.parked.entry(owner).or_default().push(job);
            return;
        }
        if let PortError::Unconfirmed { .. } = refusal.error
            && job.since.elapsed() < DOWN_PATIENCE
        {
            self.work.spawn(async move {
                tokio::time::sleep(DOWN_LOOK).await;
                Done::Again(vec![job])
            });
            return;
        }
        let newest = self.overlay.newest_committed().filter(|at| *at > snapshot.revision);
        let waits = matches!(
            refusal.error,
            PortError::Exhausted { .. } | PortError::Full { .. } | PortError::Taken { .. }
        );
        match (refusal.belief, newest) {
            // Addresses given up by a transaction that the snapshot does not show are free already.
            (_, Some(newest)) if waits => {
                let state = self.state.clone();
                self.work.spawn(async move {
                    // Without an answer the next look ends in the same refusal, or in none.
                    let _ = tokio::time::timeout(CATCH_UP, state.wait_for(newest)).await;
                    Done::Again(vec![job.again()])
                });
            }
            _ if self.displaces(&refusal.error, snapshot) => self.displace(job, refusal.error, snapshot),
            (Some(belief), _) if job.tries < TRIES => {
                let (store, state) = (self.store.clone(), self.state.clone());
                let planned_at = snapshot.revision;
                self.work.spawn(async move {
                    match confirm(store.as_ref(), &state, &belief, planned_at).await {
                        Ok(true) => Done::Refused(Box::new(job), refusal.error, planned_at),
                        Ok(false) => Done::Again(vec![job.again()]),
                        Err(error) => Done::Refused(Box::new(job), error.into(), planned_at),
                    }
                });
            }
            _ => job.refuse(refusal.error, snapshot.revision),
        }
    }

    fn finish(&mut self, done: Result<Done, tokio::task::JoinError>) {
        match done {
            Ok(Done::Flight(batch, outcome)) => {
                self.flights -= 1;
                self.land(batch, outcome);
            }
            Ok(Done::Again(jobs)) => self.backlog.extend(jobs),
            Ok(Done::Displaced(key, job, answer)) => self.displaced(&key, *job, *answer),
            Ok(Done::Refused(job, error, at)) => job.refuse(error, at),
            // The store panicked; whoever waits learns it by the dropped answer.
            Err(error) => {
                tracing::error!(%error, "a transaction's task failed");
                self.flights = self.flights.saturating_sub(1);
            }
        }
    }

    fn land(&mut self, batch: Batch, outcome: Result<TxnOutcome, StoreError>) {
        let snapshot = self.state.snapshot();
        match outcome {
            Ok(TxnOutcome::Committed(at)) => {
                for Item { effect, job, .. } in batch.into_items() {
                    self.overlay.commit(&effect.key, at, &snapshot);
                    let bound =
                        effect.binding.as_ref().filter(|part| part.revision.is_none() && part.value.active);
                    if let Some(bound) = bound {
                        self.steps.committed(&effect.key, bound.value.generation, job.asked);
                    }
                    self.unpark(&effect.key);
                    job.reply(Ok((effect.stored(at), at)));
                }
                self.overlay.seen(&snapshot);
            }
            Ok(TxnOutcome::Conflict(failing)) => self.lose(batch, &failing, &snapshot),
            Err(error) => {
                for Item { effect, job, .. } in batch.into_items() {
                    self.overlay.fail(&effect.key, &snapshot);
                    self.unpark(&effect.key);
                    job.reply(Err(PortError::Store(again(&error))));
                }
            }
        }
    }

    /// Those whose compares failed wait until the snapshot shows why; the others go out again at once.
    fn lose(&mut self, batch: Batch, failing: &[usize], snapshot: &Arc<Snapshot>) {
        self.contended_until = Some(Instant::now() + CONTENDED);
        let paths = batch.paths(failing);
        let mut losers = Vec::new();
        for item in batch.into_items() {
            self.overlay.fail(&item.effect.key, snapshot);
            self.unpark(&item.effect.key);
            if !item.fails(failing) {
                self.backlog.push_back(item.job);
            } else if item.job.tries + 1 >= TRIES || matches!(item.job.request, Request::Collect { .. }) {
                // What a collection rests on is looked at anew by whoever asked for it.
                let (subject, tries) = (item.effect.key, item.job.tries + 1);
                item.job.reply(Err(PortError::Aborted { subject, tries }));
            } else {
                losers.push(item.job.again());
            }
        }
        let (store, state) = (self.store.clone(), self.state.clone());
        self.work.spawn(async move {
            catch_up(store.as_ref(), &state, &paths).await;
            Done::Again(losers)
        });
    }

    fn unpark(&mut self, key: &PortKey) {
        self.backlog.extend(self.parked.remove(key).into_iter().flatten());
    }
}

impl Request {
    pub(super) fn key(&self) -> &PortKey {
        match self {
            Request::Create(create) => &create.key,
            Request::Step(step) => &step.next.port,
            Request::Bind(key, ..)
            | Request::Move(key, _)
            | Request::TurnBack { key, .. }
            | Request::Update { key, .. }
            | Request::Found { key, .. }
            | Request::Unbind(key)
            | Request::Hold { key, .. }
            | Request::Raise { key, .. }
            | Request::Release { key, .. }
            | Request::Free { key, .. }
            | Request::Collect { key, .. }
            | Request::Expire { key, .. } => key,
        }
    }
}

/// The ports that a request is about: its own, and those that change with it.
fn tied(request: &Request, view: &View<'_>) -> Vec<PortKey> {
    let mut keys = vec![request.key().clone()];
    if let Request::Hold { key, holder } = request {
        let before =
            view.port(key).and_then(|(port, _)| port.vip.as_ref()).and_then(|vip| vip.holder.clone());
        keys.extend(holder.clone().into_iter().chain(before));
    }
    keys
}

impl Job {
    fn reply(self, answer: Answer) {
        // Whoever asked may have gone away.
        let _ = self.answer.send(answer);
    }

    fn again(mut self) -> Self {
        self.tries += 1;
        self
    }

    /// Releasing what is not there is done already.
    fn refuse(self, error: PortError, at: Revision) {
        let done = matches!(
            (&self.request, &error),
            (
                Request::Release { .. }
                    | Request::Expire { .. }
                    | Request::Free { .. }
                    | Request::Collect { .. },
                PortError::NoPort(_)
            )
        );
        self.reply(if done { Ok((None, at)) } else { Err(error) });
    }
}

/// Unix time in milliseconds.
pub(crate) fn now_ms() -> i64 {
    Clock::default().now_ms()
}
