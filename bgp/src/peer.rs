//! The task of one neighbour: connects and accepts, decides collisions, moves octets, and tells the owner task what
//! happened. Routes come from the owner in chunks of ready-made messages; a chunk is acknowledged when its last octet is
//! with the kernel, which is also what limits how many are on their way.

use std::future::Future;
use std::io;
use std::net::IpAddr;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use bytes::Bytes;
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinSet;
use tokio::time::Instant;

use crate::codec::update::Update;
use crate::codec::{self, Notification, Refresh};
use crate::collision::{Rank, Side, Verdict, resolve};
use crate::config::{PeerConfig, PeerMode, SpeakerConfig};
use crate::connection::{Connection, End, Graceful, Happened};
use crate::fsm::Agreed;
use crate::link::{Link, Reader, Turn, Writer};
use crate::retry::Retry;
use crate::speaker::SessionState;
use crate::transport;

/// From the owner.
#[derive(Debug)]
pub(crate) enum ToPeer {
    /// Whole messages for the session with this number; ignored if that is gone.
    Chunk { session: u64, octets: Bytes, messages: u64 },
    /// Ask for the peer's routes again.
    RequestRefresh { session: u64 },
    /// End the session, then go on as after a failure.
    Reset(Notification),
}

/// How the owner ends the task: with these last words, or without a word.
pub(crate) type Stop = oneshot::Receiver<Option<Notification>>;

/// To the owner. `session` numbers the Established sessions of one task from 1.
#[derive(Debug)]
pub(crate) enum FromPeer {
    State(SessionState),
    Up {
        session: u64,
        agreed: Box<Agreed>,
        /// Our address.
        local: Option<IpAddr>,
    },
    Updates {
        updates: Vec<Update>,
    },
    Refresh(Refresh),
    /// A chunk is written.
    Written {
        session: u64,
    },
    Down {
        end: End,
    },
    /// An attempt or a connection failed before it was a session.
    Failed(String),
}

/// Messages of one task, with whom they are from.
pub(crate) type Inbox = mpsc::Sender<(PeerId, FromPeer)>;

/// A configured peer; a number never used again tells messages of an old task from those of a new one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct PeerId {
    pub(crate) address: IpAddr,
    pub(crate) number: u64,
}

/// How the task is spoken to, and speaks.
#[derive(Debug)]
pub(crate) struct Channels {
    pub(crate) commands: mpsc::Receiver<ToPeer>,
    /// Connections the peer has opened.
    pub(crate) accepted: mpsc::Receiver<TcpStream>,
    pub(crate) owner: Inbox,
}

/// Counters that the owner reads at any time.
#[derive(Debug, Default)]
pub(crate) struct Meters {
    pub(crate) messages_in: AtomicU64,
    pub(crate) messages_out: AtomicU64,
}

type Connecting = Pin<Box<dyn Future<Output = io::Result<TcpStream>> + Send>>;

/// The task's state.
pub(crate) struct PeerTask {
    id: PeerId,
    speaker: Arc<SpeakerConfig>,
    config: PeerConfig,
    channels: Channels,
    meters: Arc<Meters>,
    /// The Established connection, the one we opened, the one the peer opened.
    links: [Option<Link>; 3],
    session: u64,
    since: Instant,
    graceful: bool,
    /// Our first OPENs say that we have restarted, until a session is up.
    restarting: bool,
    connecting: Option<Connecting>,
    retry: Retry,
    retry_at: Option<Instant>,
    shown: SessionState,
    goodbyes: JoinSet<()>,
}

const SESSION: usize = 0;
const OURS: usize = 1;
const THEIRS: usize = 2;

enum Next {
    Command(ToPeer),
    Accepted(TcpStream),
    Connected(io::Result<TcpStream>),
    Retry,
    Turn(usize, Turn),
    Stop(Option<Notification>),
}

impl PeerTask {
    pub(crate) fn new(
        id: PeerId,
        speaker: Arc<SpeakerConfig>,
        config: PeerConfig,
        channels: Channels,
        meters: Arc<Meters>,
    ) -> Self {
        let retry = Retry::new(config.connect_retry);
        let restarting = speaker.restarting;
        PeerTask {
            id,
            speaker,
            config,
            channels,
            meters,
            links: [None, None, None],
            session: 0,
            since: Instant::now(),
            graceful: false,
            restarting,
            connecting: None,
            retry,
            retry_at: None,
            shown: SessionState::Idle,
            goodbyes: JoinSet::new(),
        }
    }

    /// Runs until told to stop.
    pub(crate) async fn run(mut self, mut stop: Stop) {
        self.start_connecting();
        loop {
            self.show().await;
            match self.next(&mut stop).await {
                Next::Stop(last_words) => return self.end(last_words).await,
                Next::Command(command) => self.command(command).await,
                Next::Accepted(stream) => self.accepted(stream).await,
                Next::Connected(result) => self.connected(result).await,
                Next::Retry => {
                    self.retry_at = None;
                    self.start_connecting();
                }
                Next::Turn(slot, turn) => self.turned(slot, turn).await,
            }
            while self.goodbyes.try_join_next().is_some() {}
        }
    }

    async fn next(&mut self, stop: &mut Stop) -> Next {
        let [session, ours, theirs] = &mut self.links;
        tokio::select! {
            // Dropped: the owner is gone without a word, so are we.
            words = stop => Next::Stop(words.unwrap_or_default()),
            Some(command) = self.channels.commands.recv() => Next::Command(command),
            Some(stream) = self.channels.accepted.recv() => Next::Accepted(stream),
            result = maybe(&mut self.connecting) => Next::Connected(result),
            () = wait(self.retry_at) => Next::Retry,
            turn = turn(session) => Next::Turn(SESSION, turn),
            turn = turn(ours) => Next::Turn(OURS, turn),
            turn = turn(theirs) => Next::Turn(THEIRS, turn),
        }
    }

    async fn command(&mut self, command: ToPeer) {
        match command {
            ToPeer::Chunk { session, octets, messages } if session == self.session => {
                if let Some(link) = &mut self.links[SESSION] {
                    link.push_chunk(octets, messages, Instant::now());
                }
            }
            ToPeer::RequestRefresh { session } if session == self.session => {
                if let Some(link) = &mut self.links[SESSION] {
                    link.send(codec::refresh(Refresh::Request), Instant::now());
                }
            }
            ToPeer::Chunk { .. } | ToPeer::RequestRefresh { .. } => {}
            ToPeer::Reset(notification) => {
                for slot in [SESSION, OURS, THEIRS] {
                    if let Some(link) = &mut self.links[slot] {
                        link.connection.stop(&notification, "reset by us");
                        self.settle(slot).await;
                    }
                }
                self.schedule();
            }
        }
    }

    /// Whether a new connection is of use now.
    fn wants_connection(&self) -> bool {
        self.config.mode != PeerMode::Passive
            && self.connecting.is_none()
            && self.links[SESSION].is_none()
            && self.links[OURS].is_none()
    }

    fn start_connecting(&mut self) {
        if !self.wants_connection() {
            return;
        }
        if self.all_but_up() {
            // Come back if nothing becomes of it.
            return self.schedule();
        }
        self.connecting = Some(Box::pin(transport::connect(self.config.clone())));
    }

    fn all_but_up(&self) -> bool {
        self.links[THEIRS].as_ref().is_some_and(|l| l.connection.state() == SessionState::OpenConfirm)
    }

    fn schedule(&mut self) {
        if self.wants_connection() && self.retry_at.is_none() {
            self.retry_at = Some(Instant::now() + self.retry.next(rand::random()));
        }
    }

    async fn connected(&mut self, result: io::Result<TcpStream>) {
        self.connecting = None;
        match result {
            // The peer's connection is all but up. An OPEN on ours would only start a collision, in which the peer may
            // lose a session that it takes for Established already.
            Ok(_) if self.all_but_up() => self.schedule(),
            Ok(stream) => self.take(OURS, Side::Ours, stream).await,
            Err(error) => {
                self.tell(FromPeer::Failed(format!("connect: {error}"))).await;
                self.schedule();
            }
        }
    }

    async fn accepted(&mut self, stream: TcpStream) {
        if self.config.mode == PeerMode::Active {
            return;
        }
        if let Err(error) = transport::prepare_accepted(&stream, &self.config) {
            return self.tell(FromPeer::Failed(format!("accept: {error}"))).await;
        }
        if let Some(older) = &mut self.links[THEIRS] {
            // A peer that opens another one has given up the last.
            older.connection.stop(&Notification::cease(7), "the peer opened another connection");
            self.settle(THEIRS).await;
        }
        self.take(THEIRS, Side::Theirs, stream).await;
    }

    async fn take(&mut self, slot: usize, side: Side, stream: TcpStream) {
        let local = stream.local_addr().ok().map(|address| address.ip().to_canonical());
        let (reader, writer) = stream.into_split();
        self.take_stream(slot, side, (Box::new(reader), Box::new(writer)), local).await;
    }

    async fn take_stream(
        &mut self,
        slot: usize,
        side: Side,
        stream: (Reader, Writer),
        local: Option<IpAddr>,
    ) {
        let now = Instant::now();
        let connection = Connection::start(&self.speaker, &self.config, self.restarting, now);
        let newcomer = self.links[SESSION].is_some();
        let mut link = Link::new(connection, side, newcomer, stream);
        link.local = local;
        link.collect(now);
        self.links[slot] = Some(link);
        self.settle(slot).await;
    }

    async fn turned(&mut self, slot: usize, turn: Turn) {
        let Some(link) = &mut self.links[slot] else { return };
        let chunks = link.apply(turn, Instant::now());
        for _ in 0..chunks {
            self.tell(FromPeer::Written { session: self.session }).await;
        }
        self.settle(slot).await;
    }

    /// Acts on what a link's connection says happened.
    async fn settle(&mut self, slot: usize) {
        let mut slot = slot;
        let mut updates = Vec::new();
        let Some(link) = &mut self.links[slot] else { return };
        let happened = link.connection.take_happened();
        self.meter(slot);
        for event in happened {
            let update = match event {
                Happened::Update(update) => {
                    updates.push(*update);
                    continue;
                }
                other => other,
            };
            if !updates.is_empty() {
                self.tell(FromPeer::Updates { updates: std::mem::take(&mut updates) }).await;
            }
            match update {
                Happened::OpenAccepted { router_id } => {
                    if !self.survives(slot, router_id).await {
                        return;
                    }
                }
                Happened::Established(agreed) => slot = self.established(slot, agreed).await,
                Happened::Refresh(refresh) => self.tell(FromPeer::Refresh(refresh)).await,
                Happened::Ended(end) => return self.ended(slot, end).await,
                Happened::Update(_) => {}
            }
        }
        if !updates.is_empty() {
            self.tell(FromPeer::Updates { updates }).await;
        }
    }

    /// Decides a collision. False: the link is closed.
    async fn survives(&mut self, slot: usize, router_id: u32) -> bool {
        let own: Rank = (u32::from(self.speaker.router_id), self.speaker.asn);
        let peer: Rank = (router_id, self.config.asn);
        for other in [SESSION, OURS, THEIRS] {
            let (Some(new), Some(old)) = (&self.links[slot], &self.links[other]) else { continue };
            if other == slot {
                continue;
            }
            let restart = self.graceful && new.newcomer;
            let verdict = resolve(own, peer, new.side, old.side, old.connection.state(), restart);
            match verdict {
                Verdict::KeepBoth | Verdict::Replace => {}
                Verdict::CloseNew => {
                    self.give_up(slot).await;
                    return false;
                }
                Verdict::CloseOld => self.give_up(other).await,
            }
        }
        true
    }

    /// Closes the loser of a collision.
    async fn give_up(&mut self, slot: usize) {
        if let Some(mut link) = self.links[slot].take() {
            link.connection.stop(&Notification::cease(7), "connection collision");
            link.collect(Instant::now());
            self.goodbyes.spawn(link.finish());
        }
    }

    async fn established(&mut self, slot: usize, agreed: Box<Agreed>) -> usize {
        self.connecting = None;
        self.retry_at = None;
        self.restarting = false;
        let new = self.links[slot].take();
        let old = std::mem::replace(&mut self.links[SESSION], new);
        if old.is_some() {
            // Dead at the other end: no last words.
            let reason = "the peer has come back on a new connection".to_owned();
            self.lost_session(End { reason, graceful: Graceful::Always }).await;
        }
        for other in [OURS, THEIRS] {
            self.give_up(other).await;
        }
        self.session += 1;
        self.since = Instant::now();
        self.graceful = agreed.peer_graceful;
        self.show().await;
        let local = self.links[SESSION].as_ref().and_then(|link| link.local);
        self.tell(FromPeer::Up { session: self.session, agreed, local }).await;
        SESSION
    }

    async fn ended(&mut self, slot: usize, end: End) {
        if let Some(mut link) = self.links[slot].take() {
            link.collect(Instant::now());
            self.goodbyes.spawn(link.finish());
        }
        if slot == SESSION {
            self.lost_session(end).await;
        } else {
            self.tell(FromPeer::Failed(end.reason)).await;
        }
        if slot != THEIRS {
            self.schedule();
        }
    }

    async fn lost_session(&mut self, end: End) {
        self.retry.session_lasted(self.since.elapsed());
        self.tell(FromPeer::Down { end }).await;
    }

    async fn end(mut self, last_words: Option<Notification>) {
        let links = std::mem::take(&mut self.links);
        for mut link in links.into_iter().flatten() {
            if let Some(notification) = &last_words {
                link.connection.stop(notification, "stopped");
                link.collect(Instant::now());
                self.goodbyes.spawn(link.finish());
            }
        }
        self.goodbyes.join_all().await;
    }

    fn meter(&mut self, slot: usize) {
        if let Some(link) = &mut self.links[slot] {
            // Links come and go: what they have counted is added once.
            let (received, sent) = link.connection.take_counts();
            self.meters.messages_in.fetch_add(received, Ordering::Relaxed);
            self.meters.messages_out.fetch_add(sent, Ordering::Relaxed);
        }
    }

    async fn show(&mut self) {
        let best = self.links.iter().flatten().map(|link| link.connection.state()).max();
        let waiting = match self.config.mode {
            _ if self.connecting.is_some() => SessionState::Connect,
            PeerMode::Active => SessionState::Idle,
            PeerMode::Both | PeerMode::Passive => SessionState::Active,
        };
        let state = best.filter(|state| *state > SessionState::Active).unwrap_or(waiting);
        if state != self.shown {
            self.shown = state;
            self.tell(FromPeer::State(state)).await;
        }
    }

    async fn tell(&mut self, message: FromPeer) {
        // The owner is gone only when everything ends.
        self.channels.owner.send((self.id, message)).await.ok();
    }
}

async fn turn(link: &mut Option<Link>) -> Turn {
    match link {
        Some(link) => link.turn().await,
        None => std::future::pending().await,
    }
}

async fn maybe(connecting: &mut Option<Connecting>) -> io::Result<TcpStream> {
    match connecting {
        Some(attempt) => attempt.await,
        None => std::future::pending().await,
    }
}

async fn wait(at: Option<Instant>) {
    match at {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}
