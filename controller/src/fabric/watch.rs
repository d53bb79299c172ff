//! Watches what the fabric says of ports: compares again what may be different, and tells alarms.
//!
//! The owner of the speaker marks MACs of which something has changed; a task of its own looks at them a little later.
//! A look starts from what is intended and observed at that moment: marks say where to look, not what has happened.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::{Duration, Instant, SystemTime, UNIX_EPOCH};

use causeway_bgp::{PeerState, RouteFilter, RouteKey, SessionState};
use causeway_proto::Mac;
use tokio::sync::broadcast;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use super::{Fabric, count};
use crate::compare::alarms::{Alarm, Alarms};
use crate::compare::{Asked, Finding, Heard, Presence, Subject, View};
use crate::derive::Changed;
use crate::metrics::{FindingLabel, Metrics};
use crate::snapshot::Snapshot;
use crate::state::State;

/// How often to look at what has changed.
const TICK: Duration = Duration::from_millis(250);
/// More changed MACs than that: looking at everything is cheaper.
const MANY: usize = 4096;
/// A look at everything takes at most one part in so many of the time.
const SHARE: u32 = 10;
/// A peer that has not said where its table ends is taken to have sent it after so long.
const TABLE: Duration = Duration::from_secs(30);
/// Batches of alarms that may wait for a slow reader.
const NEWS: usize = 256;
/// Alarms of one moment that are logged one by one.
const LOGGED: usize = 20;

/// Where to look, and what stands.
#[derive(Debug)]
pub(crate) struct Board {
    marks: Mutex<Marks>,
    standing: RwLock<BTreeMap<Subject, Alarm>>,
    heard: Mutex<Heard>,
    news: broadcast::Sender<Arc<Vec<Alarm>>>,
}

#[derive(Debug, Default)]
struct Marks {
    all: bool,
    macs: BTreeSet<Mac>,
}

/// Findings, and whom they are from.
#[derive(Debug)]
pub(crate) struct Compared {
    pub(crate) peers: Vec<Asked>,
    pub(crate) found: BTreeMap<Subject, Finding>,
}

impl Default for Board {
    fn default() -> Self {
        Board {
            marks: Mutex::new(Marks { all: true, macs: BTreeSet::new() }),
            standing: RwLock::default(),
            heard: Mutex::default(),
            news: broadcast::channel(NEWS).0,
        }
    }
}

impl Board {
    fn mark(&self, macs: impl Iterator<Item = Mac>) {
        let mut marks = self.marks.lock().unwrap_or_else(PoisonError::into_inner);
        if !marks.all {
            marks.macs.extend(macs);
            if marks.macs.len() > MANY {
                *marks = Marks { all: true, macs: BTreeSet::new() };
            }
        }
    }

    pub(super) fn mark_all(&self) {
        *self.marks.lock().unwrap_or_else(PoisonError::into_inner) =
            Marks { all: true, macs: BTreeSet::new() };
    }

    pub(super) fn mark_routes(&self, keys: &[RouteKey]) {
        self.mark(keys.iter().filter_map(|key| match key {
            RouteKey::MacIp { mac, .. } => Some(*mac),
            _ => None,
        }));
    }

    pub(super) fn mark_changed(&self, old: &Snapshot, new: &Snapshot, changed: &Changed) {
        if !changed.networks.is_empty() || !changed.nodes.is_empty() {
            return self.mark_all();
        }
        let macs = changed.ports.iter().flat_map(|key| [old.ports.get(key), new.ports.get(key)]);
        self.mark(macs.flatten().map(|record| record.value.mac));
    }

    fn take(&self) -> Marks {
        std::mem::take(&mut self.marks.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn publish(&self, alarms: Vec<Alarm>) {
        if alarms.is_empty() {
            return;
        }
        let mut standing = self.standing.write().unwrap_or_else(PoisonError::into_inner);
        for alarm in &alarms {
            match alarm.raised {
                true => standing.insert(alarm.subject.clone(), alarm.clone()),
                false => standing.remove(&alarm.subject),
            };
        }
        // Told under the lock: who reads what stands and then listens misses nothing. Nobody listening is fine.
        let _ = self.news.send(Arc::new(alarms));
    }
}

impl Fabric {
    /// Alarms that stand, and those that follow.
    pub(crate) fn alarms(&self) -> (Vec<Alarm>, broadcast::Receiver<Arc<Vec<Alarm>>>) {
        let board = &self.shared.alarms;
        let standing = board.standing.read().unwrap_or_else(PoisonError::into_inner);
        (standing.values().cloned().collect(), board.news.subscribe())
    }

    /// Peers whose word can be compared.
    async fn asked(&self) -> Vec<Asked> {
        let complete = |peer: &PeerState| peer.end_of_rib_in || peer.since.elapsed().is_ok_and(|e| e > TABLE);
        let peers = self.speaker.peers().await;
        let up = peers.iter().filter(|peer| peer.state == SessionState::Established);
        up.map(|peer| Asked { address: peer.address, complete: complete(peer) }).collect()
    }

    /// Compares everything. `with_present`: what is as intended is told too.
    pub(crate) async fn compare(&self, snapshot: Arc<Snapshot>, with_present: bool) -> Compared {
        let peers = self.asked().await;
        let routes = self.speaker.routes_in(&RouteFilter::default()).await;
        let (context, asked) = (self.context, peers.clone());
        // A hundred thousand ports take a while: not on a thread that serves others.
        let work = tokio::task::spawn_blocking(move || {
            let mut view = View::new(&snapshot, context, Heard::default(), with_present);
            let found = view.all(&asked, &routes);
            (found, view.heard)
        });
        let (found, heard) = work.await.unwrap_or_default();
        *self.shared.alarms.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
        Compared { peers, found }
    }

    /// Compares what is known of these MACs.
    async fn compare_macs(
        &self,
        snapshot: &Snapshot,
        peers: &[Asked],
        macs: &BTreeSet<Mac>,
    ) -> BTreeMap<Subject, Finding> {
        let routes = self.speaker.routes_of_macs(macs.iter().copied().collect()).await;
        let heard = self.shared.alarms.heard.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let mut view = View::new(snapshot, self.context, heard, false);
        let found = view.of_macs(peers, macs, &routes);
        let heard = std::mem::take(&mut view.heard);
        *self.shared.alarms.heard.lock().unwrap_or_else(PoisonError::into_inner) = heard;
        found
    }
}

/// The task that looks.
#[derive(Debug)]
pub(crate) struct Watcher {
    fabric: Fabric,
    state: State,
    metrics: Metrics,
    alarms: Alarms,
    asked: Vec<Asked>,
    begun: Instant,
    /// Not before: everything.
    next_all: Instant,
}

impl Watcher {
    pub(crate) fn new(fabric: Fabric, state: State, metrics: Metrics) -> Self {
        let now = Instant::now();
        Watcher {
            fabric,
            state,
            metrics,
            alarms: Alarms::default(),
            asked: Vec::new(),
            begun: now,
            next_all: now,
        }
    }

    /// Runs until `cancel`.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        let mut tick = tokio::time::interval(TICK);
        tick.set_missed_tick_behavior(MissedTickBehavior::Delay);
        while cancel.run_until_cancelled(tick.tick()).await.is_some() {
            if cancel.run_until_cancelled(self.look()).await.is_none() {
                return;
            }
            self.tell();
        }
    }

    async fn look(&mut self) {
        let board = Arc::clone(&self.fabric.shared);
        let asked = self.fabric.asked().await;
        if asked != self.asked {
            // A peer has come or gone, or has had its time to tell all.
            self.asked = asked;
            board.alarms.mark_all();
        }
        let now = Instant::now();
        let marks = board.alarms.take();
        if marks.all && now < self.next_all {
            return board.alarms.mark_all();
        }
        let snapshot = self.state.snapshot();
        if marks.all {
            let compared = self.fabric.compare(snapshot, false).await;
            let took = now.elapsed();
            self.next_all = now + took * SHARE;
            self.metrics.fabric_compare_seconds.set(took.as_secs_f64());
            self.alarms.observe(None, compared.found, self.begun.elapsed());
        } else if !marks.macs.is_empty() {
            let found = self.fabric.compare_macs(&snapshot, &self.asked, &marks.macs).await;
            self.alarms.observe(Some(&marks.macs), found, self.begun.elapsed());
        }
    }

    fn tell(&mut self) {
        if !self.alarms.is_restless() {
            return;
        }
        let time = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let due = self.alarms.due(self.begun.elapsed(), i64::try_from(time.as_millis()).unwrap_or(i64::MAX));
        if due.is_empty() {
            return;
        }
        for alarm in due.iter().take(LOGGED) {
            log(alarm);
        }
        if due.len() > LOGGED {
            tracing::warn!(more = due.len() - LOGGED, "more alarms of the fabric at the same time");
        }
        self.metrics.fabric_alarms.inc_by(due.iter().filter(|alarm| alarm.raised).count() as u64);
        self.fabric.shared.alarms.publish(due);
        let mut counts: BTreeMap<(Presence, IpAddr), usize> = BTreeMap::new();
        for alarm in self.alarms.standing() {
            *counts.entry((alarm.finding.presence, alarm.subject.peer)).or_default() += 1;
        }
        self.metrics.fabric_findings.clear();
        for ((presence, peer), n) in counts {
            let label = FindingLabel { presence: presence.name(), peer: peer.to_string() };
            self.metrics.fabric_findings.get_or_create(&label).set(count(n));
        }
    }
}

fn log(alarm: &Alarm) {
    let Alarm { subject, finding, .. } = alarm;
    let (peer, mac, network) = (subject.peer, subject.mac, &subject.network);
    let address = subject.address.map(|address| address.to_string()).unwrap_or_default();
    let port = finding.port.as_ref().map(ToString::to_string).unwrap_or_default();
    let (presence, text) = (finding.presence.name(), &finding.text);
    match alarm.raised {
        true => {
            tracing::warn!(%peer, %network, %mac, address, port, presence, text, "the fabric is not as intended")
        }
        false => {
            tracing::info!(%peer, %network, %mac, address, port, presence, "the fabric is as intended again")
        }
    }
}
