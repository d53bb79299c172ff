//! The controller's place in the BGP fabric: owns the [`Speaker`], tells it which routes follow from the snapshot, and
//! keeps what the fabric says ready for nodes.
//!
//! ```text
//! State ── snapshot ──▶ task ── set_peers, replace, update ──▶ Speaker ──▶ peers
//! Imports ◀── watch ──── task ◀── events ─────────────────────── Speaker ◀── peers
//! Board ◀── alarms ───── watcher ◀── routes of changed MACs ──── Speaker
//! ```
//!
//! When the store is away nothing changes here: the last desired routes stay announced and the sessions stay up.
//! When the controller stops, connections are closed without a NOTIFICATION, so that peers with graceful restart keep
//! its routes until the next run has announced them again; only then an End-of-RIB goes out.

mod interest;
mod progress;
mod watch;

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;
use std::path::Path;
use std::sync::{Arc, Mutex, PoisonError, RwLock};
use std::time::Duration;

use causeway_bgp::{
    Event, PeerConfig, PeerMode, PeerState, Route, RouteChange, RouteFilter, RouteKey, Speaker,
};
use causeway_proto::PortKey;
use tokio::sync::{broadcast, mpsc, watch as latest};
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

use crate::derive::evpn::{self, Context, Interner, Unit};
use crate::derive::imports::{ImportTable, Imports, Policy};
use crate::derive::{Changed, View};
use crate::metrics::Metrics;
use crate::model::Peer;
use crate::moves::restored;
use crate::snapshot::Snapshot;
use crate::state::State;

use progress::Progress;
pub(crate) use watch::Watcher;

/// How often key files are read again: one that was missing may be there, a key may be another.
const KEY_RETRY: Duration = Duration::from_secs(5);
/// A TCP MD5 key has at most so many bytes (TCP_MD5SIG_MAXKEYLEN).
const MD5_KEY_LIMIT: usize = 80;
/// Port changes that may wait for a slow watcher; one that falls behind looks at everything again.
const NEWS: usize = 256;

/// Ports whose state may have changed.
pub(crate) type PortNews = Arc<Vec<PortKey>>;

/// What the fabric knows, for readers. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Fabric {
    context: Context,
    speaker: Speaker,
    imports: latest::Receiver<Imports>,
    shared: Arc<Shared>,
}

#[derive(Debug)]
struct Shared {
    table: RwLock<ImportTable>,
    progress: Mutex<Progress>,
    unusable: Mutex<BTreeMap<IpAddr, String>>,
    alarms: watch::Board,
    news: broadcast::Sender<PortNews>,
}

/// The task that owns the speaker.
#[derive(Debug)]
pub(crate) struct Task {
    state: State,
    fabric: Fabric,
    imports: latest::Sender<Imports>,
    events: mpsc::Receiver<Event>,
    metrics: Metrics,
    interner: Interner,
    told: Arc<Snapshot>,
    /// What the fabric said when the announced routes were derived.
    heard: Imports,
    /// Received routes for MACs of ports.
    conflicts: BTreeSet<(IpAddr, RouteKey)>,
}

impl Fabric {
    /// The handle and the task behind it.
    pub(crate) fn new(
        context: Context,
        speaker: Speaker,
        events: mpsc::Receiver<Event>,
        state: State,
        metrics: Metrics,
    ) -> (Fabric, Task) {
        let (imports_out, imports) = latest::channel(Imports::default());
        let shared = Arc::new(Shared {
            table: RwLock::default(),
            progress: Mutex::default(),
            unusable: Mutex::default(),
            alarms: watch::Board::default(),
            news: broadcast::channel(NEWS).0,
        });
        let fabric = Fabric { context, speaker, imports, shared };
        let task = Task {
            state,
            fabric: fabric.clone(),
            imports: imports_out,
            events,
            metrics,
            interner: Interner::default(),
            told: Arc::default(),
            heard: Imports::default(),
            conflicts: BTreeSet::new(),
        };
        (fabric, task)
    }

    /// What this controller puts into its routes.
    pub fn context(&self) -> Context {
        self.context
    }

    /// The speaker, for reading.
    pub fn speaker(&self) -> &Speaker {
        &self.speaker
    }

    /// What the fabric says about our networks.
    pub(crate) fn imports(&self) -> latest::Receiver<Imports> {
        self.imports.clone()
    }

    /// Ports whose routes were sent since.
    pub(crate) fn news(&self) -> broadcast::Receiver<PortNews> {
        self.shared.news.subscribe()
    }

    /// Runs `read` on the table of received routes.
    pub(crate) fn with_table<T>(&self, read: impl FnOnce(&ImportTable) -> T) -> T {
        read(&self.shared.table.read().unwrap_or_else(PoisonError::into_inner))
    }

    /// True if every established peer has been sent the port's routes as they are.
    pub fn is_advertised(&self, port: &PortKey) -> bool {
        self.progress(|progress| progress.is_advertised(port))
    }

    /// The peers as the speaker sees them, and why those it does not know could not be given to it.
    pub async fn peers(&self) -> (BTreeMap<IpAddr, PeerState>, BTreeMap<IpAddr, String>) {
        let peers = self.speaker.peers().await.into_iter().map(|peer| (peer.address, peer)).collect();
        (peers, self.shared.unusable.lock().unwrap_or_else(PoisonError::into_inner).clone())
    }

    /// Routes that we announce.
    pub async fn routes_out(&self, filter: &RouteFilter) -> Vec<Route> {
        self.speaker.routes_out(filter).await
    }

    fn progress<T>(&self, act: impl FnOnce(&mut Progress) -> T) -> T {
        act(&mut self.shared.progress.lock().unwrap_or_else(PoisonError::into_inner))
    }

    fn change_table<T>(&self, change: impl FnOnce(&mut ImportTable) -> T) -> T {
        change(&mut self.shared.table.write().unwrap_or_else(PoisonError::into_inner))
    }

    fn tell(&self, ports: Vec<PortKey>) {
        if !ports.is_empty() {
            // Nobody listening is fine.
            let _ = self.shared.news.send(Arc::new(ports));
        }
    }
}

impl Task {
    /// Runs until `cancel`. The speaker stops by its own token.
    pub(crate) async fn run(mut self, cancel: CancellationToken) {
        self.begin().await;
        let mut key_retry = tokio::time::interval(KEY_RETRY);
        key_retry.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                () = cancel.cancelled() => return,
                snapshot = self.state.wait_after(self.told.revision) => match snapshot {
                    Ok(snapshot) => self.follow(snapshot).await,
                    Err(_) => return,
                },
                event = self.events.recv() => match event {
                    Some(event) => self.hear(event).await,
                    None => return,
                },
                _ = key_retry.tick() => self.read_keys().await,
            }
        }
    }

    /// The first complete table, and only then the word that it is complete: an End-of-RIB before that would make
    /// peers drop what they kept over our restart (RFC 4724 §4.2).
    async fn begin(&mut self) {
        let snapshot = self.state.snapshot();
        self.set_policy(&snapshot);
        let (given, context) = (self.view(&snapshot), self.fabric.context);
        let mut interner = std::mem::take(&mut self.interner);
        // A million ports take seconds: not on a thread that serves others.
        let derived = tokio::task::spawn_blocking(move || {
            let routes = evpn::all_routes(&given, &context, &mut interner);
            (routes, interner)
        });
        let Ok((routes, interner)) = derived.await else { return };
        self.interner = interner;
        self.metrics.routes_desired.set(count(routes.len()));
        tracing::info!(rev = snapshot.revision.0, routes = routes.len(), "first complete set of routes");
        let ticket = self.fabric.speaker.replace(routes).await;
        self.fabric.progress(|progress| progress.begin(ticket));
        self.set_interest(&snapshot).await;
        self.set_peers(&snapshot).await;
        self.fabric.speaker.set_synced().await;
        self.told = snapshot;
    }

    async fn follow(&mut self, new: Arc<Snapshot>) {
        let old = Arc::clone(&self.told);
        let changed = Changed::between(&old, &new);
        self.remember(&new, &changed);
        let (before, after) = (self.view(&old), self.view(&new));
        let units = evpn::dirty_units(&before, &after, &changed);
        self.announce(&before, &after, units).await;
        if !changed.networks.is_empty() || !changed.nodes.is_empty() || !changed.vrfs.is_empty() {
            self.set_policy(&new);
        }
        self.fabric.shared.alarms.mark_changed(&old, &new, &changed);
        if !old.networks.ptr_eq(&new.networks) || !old.vrfs.ptr_eq(&new.vrfs) {
            self.set_interest(&new).await;
        }
        if !old.peers.ptr_eq(&new.peers) {
            self.set_peers(&new).await;
        }
        self.told = new;
        self.follow_imports().await;
    }

    /// Keeps what was announced if the store has forgotten it.
    fn remember(&mut self, new: &Snapshot, changed: &Changed) {
        let lost = restored::forgotten(&self.view(&self.told), new, changed);
        if lost.is_empty() {
            return;
        }
        let (rev, macs) = (new.revision.0, lost.len());
        tracing::warn!(
            rev,
            macs,
            "the store has forgotten sequences that were announced: it was restored from an older copy"
        );
        let imports = self.fabric.change_table(|table| {
            lost.into_iter().for_each(|(place, sequence)| table.remember(place, sequence));
            table.imports().clone()
        });
        self.heard.own = imports.own.clone();
        self.imports.send_replace(imports);
    }

    /// What routes are derived from, with what the fabric was last seen to say.
    fn view(&self, snapshot: &Arc<Snapshot>) -> View {
        View { snapshot: Arc::clone(snapshot), imports: self.heard.clone(), asn: self.fabric.context.asn }
    }

    /// Routes of ports behind switches with EVPN of their own follow what these say.
    async fn follow_imports(&mut self) {
        let imports = self.imports.borrow().clone();
        let before = self.view(&self.told);
        let after = View { imports: imports.clone(), ..before.clone() };
        let units = evpn::dirty_imports(&before, &after);
        self.heard = imports;
        self.announce(&before, &after, units).await;
    }

    /// Tells the speaker what differs in these units.
    async fn announce(&mut self, before: &View, after: &View, units: BTreeSet<Unit>) {
        let changes = evpn::route_changes(before, after, &self.fabric.context, &units, &mut self.interner);
        if changes.is_empty() {
            return;
        }
        let withdrawn = changes.iter().filter(|c| matches!(c, RouteChange::Withdraw(_))).count();
        self.metrics.route_changes.inc_by(changes.len() as u64);
        tracing::debug!(rev = after.snapshot.revision.0, changes = changes.len(), withdrawn, "routes change");
        let ticket = self.fabric.speaker.update(changes).await;
        let ports = units.into_iter().filter_map(|unit| match unit {
            Unit::Port(key) => Some(key),
            Unit::Flood(..) | Unit::Prefix(..) => None,
        });
        self.fabric.progress(|progress| progress.add(ticket, ports.collect()));
    }

    async fn hear(&mut self, event: Event) {
        match event {
            Event::Received { peer, changes } => {
                self.metrics.routes_received.inc_by(changes.len() as u64);
                let key = |change: &RouteChange| match change {
                    RouteChange::Announce(route) => route.key,
                    RouteChange::Withdraw(key) => *key,
                };
                let keys: Vec<RouteKey> = changes.iter().map(key).collect();
                let imports = self.fabric.change_table(|table| {
                    table.apply(peer, changes);
                    table.imports().clone()
                });
                self.imports.send_replace(imports);
                self.fabric.shared.alarms.mark_routes(&keys);
                self.note_conflicts(peer, &keys);
                self.follow_imports().await;
            }
            Event::Sent(ticket) => {
                let sent = self.fabric.progress(|progress| progress.sent(ticket));
                self.fabric.tell(sent);
            }
            Event::PeerUp { peer } => {
                self.metrics.peer_ups.inc();
                tracing::info!(%peer, "peer is up");
            }
            Event::PeerDown { peer, reason } => {
                self.metrics.peer_downs.inc();
                tracing::warn!(%peer, reason, "peer is down");
            }
            Event::EndOfRib { peer } => {
                self.fabric.shared.alarms.mark_all();
                tracing::info!(%peer, "peer has sent its whole table");
            }
            Event::StaleSwept { peer, routes } => {
                self.fabric.shared.alarms.mark_all();
                tracing::info!(%peer, routes, "routes from before the peer's restart are gone");
            }
        }
    }

    /// Somebody announces a MAC that the store has given to a port: our word counts, and somebody has to know. Said once
    /// for each such route.
    fn note_conflicts(&mut self, peer: IpAddr, keys: &[RouteKey]) {
        for key in keys {
            let RouteKey::MacIp { mac, .. } = key else { continue };
            let owner = self.fabric.with_table(|table| table.conflict(&self.told, peer, key));
            match owner {
                Some((port, vtep)) if self.conflicts.insert((peer, *key)) => {
                    tracing::warn!(%peer, %mac, %port, %vtep, "the MAC of a port is announced from elsewhere");
                }
                Some(_) => {}
                None => {
                    self.conflicts.remove(&(peer, *key));
                }
            }
        }
        self.metrics.conflicts.set(count(self.conflicts.len()));
    }

    fn set_policy(&mut self, snapshot: &Snapshot) {
        let policy = Policy::new(snapshot, &self.fabric.context);
        let imports =
            self.fabric.change_table(|table| table.set_policy(policy).then(|| table.imports().clone()));
        if let Some(imports) = imports {
            self.imports.send_replace(imports);
        }
    }

    async fn set_interest(&self, snapshot: &Snapshot) {
        self.fabric.speaker.set_interest(interest::interest(snapshot, &self.fabric.context)).await;
    }

    async fn set_peers(&mut self, snapshot: &Snapshot) {
        let mut peers = Vec::new();
        let mut unusable = BTreeMap::new();
        for record in snapshot.peers.values() {
            match peer_config(&record.value).await {
                Ok(peer) => peers.push(peer),
                Err(reason) => {
                    unusable.insert(record.value.address, reason);
                }
            }
        }
        let before = {
            let mut known = self.fabric.shared.unusable.lock().unwrap_or_else(PoisonError::into_inner);
            std::mem::replace(&mut *known, unusable.clone())
        };
        for (peer, reason) in &unusable {
            if before.get(peer) != Some(reason) {
                tracing::error!(%peer, reason, "peer is not usable");
            }
        }
        self.fabric.speaker.set_peers(peers).await;
    }

    /// Reads key files again. Sessions of peers whose key is the same go on.
    async fn read_keys(&mut self) {
        if self.told.peers.values().any(|record| record.value.md5_key_file.is_some()) {
            let snapshot = Arc::clone(&self.told);
            self.set_peers(&snapshot).await;
        }
    }
}

/// A declared peer in the speaker's terms; why not, in words.
async fn peer_config(peer: &Peer) -> Result<PeerConfig, String> {
    let mut config = PeerConfig::new(peer.address, peer.asn);
    config.port = peer.port;
    config.local_address = peer.local_address;
    config.mode = if peer.passive { PeerMode::Passive } else { PeerMode::Both };
    config.gtsm_hops = peer.gtsm_hops;
    config.hold_time = Duration::from_secs(peer.hold_seconds.into());
    config.restart_time = peer.restart_seconds.map(|seconds| Duration::from_secs(seconds.into()));
    // Peers that do not know it ignore it.
    config.route_target_constraint = true;
    if let Some(path) = &peer.md5_key_file {
        config.md5_key =
            Some(read_key(path).await.map_err(|why| format!("md5_key_file {}: {why}", path.display()))?);
    }
    Ok(config)
}

/// A TCP MD5 key; a line end at its end does not belong to it.
async fn read_key(path: &Path) -> Result<Vec<u8>, String> {
    let mut key = tokio::fs::read(path).await.map_err(|error| error.to_string())?;
    while matches!(key.last(), Some(b'\n' | b'\r')) {
        key.pop();
    }
    match key.len() {
        0 => Err("is empty".to_owned()),
        n if n > MD5_KEY_LIMIT => Err(format!("has {n} bytes, at most {MD5_KEY_LIMIT} are possible")),
        _ => Ok(key),
    }
}

/// A length as a gauge's value.
fn count(n: usize) -> i64 {
    i64::try_from(n).unwrap_or(i64::MAX)
}
