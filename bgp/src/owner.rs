//! The task that owns all of the speaker's state; everything else sends it messages. It never waits for a peer task or for
//! its own owner: chunks go out on credit, events wait in the [`Outbox`].

mod neighbour;
mod sessions;

use std::collections::{BTreeMap, BTreeSet};
use std::net::{IpAddr, SocketAddr};
use std::sync::Arc;
use std::time::{Duration, SystemTime};

use causeway_proto::Mac;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::codec::Notification;
use crate::config::{PeerConfig, SpeakerConfig};
use crate::constraint::{Interest, Membership};
use crate::outbox::Outbox;
use crate::peer::{FromPeer, PeerId};
use crate::rib_in::{RibIn, matches};
use crate::rib_out::Desired;
use crate::route::{Route, RouteChange, RouteKey};
use crate::speaker::{Event, PeerState, ReceivedRoute, RouteFilter, Ticket};
use crate::transport::Listeners;
use neighbour::Neighbour;

/// Messages of peer tasks that may wait; a full channel makes them wait and stop reading from their peers.
const INBOX: usize = 256;
/// Messages handled before looking at anything else.
const BATCH: usize = 64;
/// How long the tasks of peers may take to end, all together.
const END: Duration = Duration::from_secs(4);
/// Pause after an error in accept, such as too many open files.
const ACCEPT_PAUSE: Duration = Duration::from_millis(100);

/// What a handle asks for. The answer channel may be gone: the asker no longer waits.
#[derive(Debug)]
pub(crate) enum Command {
    SetPeers { peers: Vec<PeerConfig>, done: oneshot::Sender<()> },
    Update { changes: Vec<RouteChange>, done: oneshot::Sender<Ticket> },
    Replace { routes: Vec<Route>, done: oneshot::Sender<Ticket> },
    SetSynced { done: oneshot::Sender<()> },
    SetInterest { interest: Interest, done: oneshot::Sender<()> },
    Holders { key: RouteKey, reply: oneshot::Sender<Vec<IpAddr>> },
    Peers { reply: oneshot::Sender<Vec<PeerState>> },
    RoutesIn { filter: RouteFilter, reply: oneshot::Sender<Vec<ReceivedRoute>> },
    RoutesOfMacs { macs: Vec<Mac>, reply: oneshot::Sender<Vec<ReceivedRoute>> },
    RoutesOut { filter: RouteFilter, reply: oneshot::Sender<Vec<Route>> },
    Reset { address: IpAddr, done: oneshot::Sender<bool> },
    RequestRefresh { address: IpAddr, done: oneshot::Sender<bool> },
    Flush { done: oneshot::Sender<()> },
}

/// The speaker's state.
pub(crate) struct Owner {
    config: Arc<SpeakerConfig>,
    listeners: Arc<Listeners>,
    outbox: Outbox,
    from_peers: mpsc::Receiver<(PeerId, FromPeer)>,
    to_owner: mpsc::Sender<(PeerId, FromPeer)>,
    neighbours: BTreeMap<IpAddr, Neighbour>,
    last_number: u64,
    desired: Desired,
    rib_in: RibIn,
    ticket: Ticket,
    /// The highest ticket reported as sent.
    reported: Option<Ticket>,
    synced: bool,
    /// What we ask peers for.
    interest: Arc<BTreeSet<Membership>>,
    /// Tasks of peers that are configured no longer, and the accepting ones.
    leaving: JoinSet<()>,
}

impl Owner {
    pub(crate) fn new(config: SpeakerConfig, listeners: Listeners) -> Self {
        let (to_owner, from_peers) = mpsc::channel(INBOX);
        let interest = Arc::new(Interest::default().memberships(config.asn));
        Owner {
            config: Arc::new(config),
            listeners: Arc::new(listeners),
            outbox: Outbox::default(),
            from_peers,
            to_owner,
            neighbours: BTreeMap::new(),
            last_number: 0,
            desired: Desired::default(),
            rib_in: RibIn::default(),
            ticket: Ticket(0),
            reported: None,
            synced: false,
            interest,
            leaving: JoinSet::new(),
        }
    }

    /// Runs until `cancel`, or until flushed.
    pub(crate) async fn run(
        mut self,
        mut commands: mpsc::Receiver<Command>,
        events: mpsc::Sender<Event>,
        cancel: CancellationToken,
    ) {
        let accepting = cancel.child_token();
        let mut accepted = self.accept(&accepting);
        let mut flushed = None;
        while flushed.is_none() {
            let deadline = self.deadline();
            tokio::select! {
                () = cancel.cancelled() => break,
                Some((id, message)) = self.from_peers.recv() => {
                    self.heard(id, message);
                    for _ in 0..BATCH {
                        let Ok((id, message)) = self.from_peers.try_recv() else { break };
                        self.heard(id, message);
                    }
                }
                Some(command) = commands.recv() => flushed = self.command(command),
                Some((stream, from)) = accepted.recv() => self.accepted(stream, from),
                permit = events.reserve(), if !self.outbox.is_empty() => match permit {
                    Ok(permit) => {
                        if let Some(event) = self.outbox.next() {
                            permit.send(event);
                        }
                    }
                    // Nobody listens any more.
                    Err(_) => while self.outbox.next().is_some() {},
                },
                () = sleep_until(deadline) => self.on_time(Instant::now()),
                Some(_) = self.leaving.join_next(), if !self.leaving.is_empty() => {}
            }
            self.pump();
        }
        accepting.cancel();
        let hard = flushed.is_some();
        self.end(hard).await;
        if let Some(done) = flushed {
            done.send(()).ok();
        }
    }

    /// Starts the tasks that accept connections.
    fn accept(&mut self, until: &CancellationToken) -> mpsc::Receiver<(TcpStream, SocketAddr)> {
        let (sender, receiver) = mpsc::channel(INBOX);
        for place in 0..self.listeners.sockets.len() {
            let listeners = Arc::clone(&self.listeners);
            let sender = sender.clone();
            let until = until.clone();
            self.leaving.spawn(async move {
                if let Some(listener) = listeners.sockets.get(place) {
                    until.run_until_cancelled(accept_from(listener, &sender)).await;
                }
            });
        }
        receiver
    }

    /// Handles a command; a flush is answered when everything is over.
    fn command(&mut self, command: Command) -> Option<oneshot::Sender<()>> {
        // Whoever does not wait for an answer does not get one.
        match command {
            Command::SetPeers { peers, done } => {
                self.set_peers(peers);
                done.send(()).ok();
            }
            Command::Update { changes, done } => {
                let changed = self.desired.update(changes);
                done.send(self.changed(&changed)).ok();
            }
            Command::Replace { routes, done } => {
                let changed = self.desired.replace(&routes);
                done.send(self.changed(&changed)).ok();
            }
            Command::SetSynced { done } => {
                self.set_synced();
                done.send(()).ok();
            }
            Command::SetInterest { interest, done } => {
                self.interest = Arc::new(interest.memberships(self.config.asn));
                done.send(()).ok();
            }
            Command::Holders { key, reply } => {
                let holds =
                    |n: &&Neighbour| n.session.as_ref().is_some_and(|s| s.queue.has(&self.desired, &key));
                let holders = self.neighbours.values().filter(holds).map(|n| n.id.address).collect();
                reply.send(holders).ok();
            }
            Command::Peers { reply } => {
                let states = self.neighbours.values().map(|n| n.show(&self.rib_in, &self.desired)).collect();
                reply.send(states).ok();
            }
            Command::RoutesIn { filter, reply } => {
                reply.send(self.rib_in.find(&filter)).ok();
            }
            Command::RoutesOfMacs { macs, reply } => {
                reply.send(self.rib_in.of_macs(&macs)).ok();
            }
            Command::RoutesOut { filter, reply } => {
                reply.send(self.routes_out(&filter)).ok();
            }
            Command::Reset { address, done } => {
                let reset = self.neighbours.get(&address).map(|n| n.reset(&Notification::cease(4)));
                done.send(reset.is_some()).ok();
            }
            Command::RequestRefresh { address, done } => {
                done.send(self.neighbours.get(&address).is_some_and(Neighbour::request_refresh)).ok();
            }
            Command::Flush { done } => return Some(done),
        }
        None
    }

    fn routes_out(&self, filter: &RouteFilter) -> Vec<Route> {
        let mut routes: Vec<Route> =
            self.desired.iter().filter(|route| matches(filter, &route.key, &route.attributes)).collect();
        routes.sort_unstable_by_key(|route| route.key);
        if filter.limit > 0 {
            routes.truncate(filter.limit);
        }
        routes
    }

    /// Queues changed places for every session, under a new ticket.
    fn changed(&mut self, places: &[u32]) -> Ticket {
        self.ticket.0 += 1;
        for session in self.neighbours.values_mut().filter_map(|n| n.session.as_mut()) {
            session.queue.extend(places, self.ticket);
        }
        if self.neighbours.values().all(|n| n.session.as_ref().is_none_or(|s| s.queue.waiting() == 0)) {
            self.compact();
        }
        self.ticket
    }

    fn compact(&mut self) {
        let Some(left) = self.desired.compact() else { return };
        for session in self.neighbours.values_mut().filter_map(|n| n.session.as_mut()) {
            session.queue.compacted(&left);
        }
    }

    fn set_synced(&mut self) {
        if std::mem::replace(&mut self.synced, true) {
            return;
        }
        for session in self.neighbours.values_mut().filter_map(|n| n.session.as_mut()) {
            if session.asking.is_none() {
                session.queue.end_of_rib();
            }
        }
    }

    /// Makes the neighbours those given.
    fn set_peers(&mut self, peers: Vec<PeerConfig>) {
        let mut wanted = BTreeMap::new();
        for peer in peers {
            wanted.insert(peer.address, peer);
        }
        let gone: Vec<IpAddr> = self
            .neighbours
            .iter()
            .filter(|(address, neighbour)| wanted.get(address) != Some(&neighbour.config))
            .map(|(address, _)| *address)
            .collect();
        for address in gone {
            // Cease/3: no longer configured; Cease/6: configured differently (RFC 4486).
            let subcode = if wanted.contains_key(&address) { 6 } else { 3 };
            self.remove(address, subcode);
        }
        for (address, config) in wanted {
            if !self.neighbours.contains_key(&address) {
                self.add(config);
            }
        }
    }

    fn remove(&mut self, address: IpAddr, subcode: u8) {
        let Some(neighbour) = self.neighbours.remove(&address) else { return };
        if let Err(error) = self.listeners.set_md5_key(address, None) {
            tracing::warn!(peer = %address, %error, "remove MD5 key from the listening socket");
        }
        let was_up = neighbour.session.is_some();
        let words = neighbour.goodbye(Notification::cease(subcode), subcode == 3);
        self.leaving.spawn(neighbour.stop(Some(words)));
        if was_up {
            let reason = if subcode == 3 { "no longer configured" } else { "configured differently" };
            self.outbox.event(address, Event::PeerDown { peer: address, reason: reason.to_owned() });
        }
        let keys = self.rib_in.clear(address);
        self.outbox.changes(address, keys.into_iter().map(RouteChange::Withdraw).collect());
        self.report();
    }

    fn add(&mut self, config: PeerConfig) {
        self.last_number += 1;
        let id = PeerId { address: config.address, number: self.last_number };
        let key = self.listeners.set_md5_key(config.address, config.md5_key.as_deref());
        let mut neighbour = Neighbour::start(id, &self.config, config, self.to_owner.clone());
        if let Err(error) = key {
            tracing::error!(peer = %id.address, %error, "set MD5 key on the listening socket");
            neighbour.last_error = Some(format!("MD5 key: {error}"));
        }
        self.neighbours.insert(id.address, neighbour);
    }

    fn accepted(&mut self, stream: TcpStream, from: SocketAddr) {
        match self.neighbours.get(&from.ip()) {
            Some(neighbour) => neighbour.accepted(stream),
            None => {
                tracing::debug!(peer = %from.ip(), "connection from an address that is no peer's refused")
            }
        }
    }

    /// Ends all tasks; hard: the routes are taken back.
    async fn end(mut self, hard: bool) {
        for (_, neighbour) in std::mem::take(&mut self.neighbours) {
            let words = hard.then(|| neighbour.goodbye(Notification::cease(2), true));
            self.leaving.spawn(neighbour.stop(words));
        }
        // Tasks that still have something to tell must not wait for us.
        self.from_peers.close();
        let all = async { while self.leaving.join_next().await.is_some() {} };
        tokio::time::timeout(END, all).await.ok();
        self.leaving.shutdown().await;
    }
}

async fn accept_from(listener: &TcpListener, to: &mpsc::Sender<(TcpStream, SocketAddr)>) {
    loop {
        match listener.accept().await {
            Ok(accepted) => {
                if to.send(accepted).await.is_err() {
                    return;
                }
            }
            Err(error) => {
                tracing::warn!(%error, "accept");
                tokio::time::sleep(ACCEPT_PAUSE).await;
            }
        }
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

/// The time of day, for people.
fn now() -> SystemTime {
    SystemTime::now()
}
