//! A connection with its stream: reads, writes, and the queue of what is to be written.

use std::collections::VecDeque;
use std::io;
use std::net::IpAddr;
use std::time::Duration;

use bytes::{Buf, Bytes};
use tokio::io::{AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt};
use tokio::time::Instant;

use crate::codec;
use crate::collision::Side;
use crate::connection::Connection;

/// Room asked for when reading.
const READ: usize = 64 * 1024;
/// So many messages in one burst make a peer's input queue overflow into waiting for the next message.
const BURST: u64 = 1000;
/// How often, during and for some time after a burst, a KEEPALIVE gives that next message.
const NUDGE: Duration = Duration::from_millis(200);
const NUDGE_FOR: Duration = Duration::from_secs(5);
/// How long a NOTIFICATION may take to be delivered.
const LINGER: Duration = Duration::from_secs(2);

/// The receiving half of a stream.
pub(crate) type Reader = Box<dyn AsyncRead + Send + Unpin>;
/// The sending half of a stream.
pub(crate) type Writer = Box<dyn AsyncWrite + Send + Unpin>;

/// What a turn of the link has done.
#[derive(Debug)]
pub(crate) enum Turn {
    /// Octets came in; zero: the peer closed.
    Read(io::Result<usize>),
    /// Octets went out.
    Wrote(io::Result<usize>),
    /// A deadline has passed.
    Time,
}

#[derive(Debug)]
struct Item {
    octets: Bytes,
    /// Messages in it if it is a chunk of routes, whose sender waits to hear that it is written.
    chunk: Option<u64>,
}

/// A connection and its stream.
pub(crate) struct Link {
    pub(crate) connection: Connection,
    pub(crate) side: Side,
    /// The session was Established already when this connection came in.
    pub(crate) newcomer: bool,
    /// Our address.
    pub(crate) local: Option<IpAddr>,
    reader: Reader,
    writer: Writer,
    queue: VecDeque<Item>,
    /// Octets of the first item are written already: nothing may be put before the rest of it.
    begun: bool,
    burst: u64,
    nudge: Option<Instant>,
    nudge_until: Instant,
}

impl Link {
    pub(crate) fn new(connection: Connection, side: Side, newcomer: bool, stream: (Reader, Writer)) -> Self {
        Link {
            connection,
            side,
            newcomer,
            local: None,
            reader: stream.0,
            writer: stream.1,
            queue: VecDeque::new(),
            begun: false,
            burst: 0,
            nudge: None,
            nudge_until: Instant::now(),
        }
    }

    /// Waits for the next thing to happen. Cancelling loses nothing.
    pub(crate) async fn turn(&mut self) -> Turn {
        let deadline = [self.connection.deadline(), self.nudge].into_iter().flatten().min();
        let front = self.queue.front().map_or(&[][..], |item| &item.octets);
        let (reader, writer) = (&mut self.reader, &mut self.writer);
        let buffer = self.connection.buffer();
        buffer.reserve(READ);
        tokio::select! {
            read = reader.read_buf(buffer) => Turn::Read(read),
            wrote = writer.write(front), if !front.is_empty() => Turn::Wrote(wrote),
            () = sleep_until(deadline) => Turn::Time,
        }
    }

    /// Applies a turn. Returns how many chunks are now written completely.
    pub(crate) fn apply(&mut self, turn: Turn, now: Instant) -> usize {
        let mut chunks = 0;
        match turn {
            Turn::Read(Ok(0)) => self.connection.closed("the peer closed the connection", now),
            Turn::Read(Ok(_)) => self.connection.received(now),
            Turn::Read(Err(error)) | Turn::Wrote(Err(error)) => {
                self.connection.closed(&format!("connection lost: {error}"), now);
            }
            Turn::Wrote(Ok(octets)) => {
                chunks = self.written(octets);
                self.connection.wrote(octets, !self.queue.is_empty(), now);
            }
            Turn::Time => {
                self.connection.on_time(now);
                self.nudge(now);
            }
        }
        self.collect(now);
        chunks
    }

    /// Queues the connection's messages.
    pub(crate) fn collect(&mut self, now: Instant) {
        for octets in self.connection.take_output() {
            self.push_soon(octets);
        }
        self.connection.wrote(0, !self.queue.is_empty(), now);
    }

    /// Queues routes.
    pub(crate) fn push_chunk(&mut self, octets: Bytes, messages: u64, now: Instant) {
        self.connection.count_sent(messages);
        self.burst += messages;
        if self.burst > BURST {
            self.nudge_until = now + NUDGE_FOR;
            self.nudge.get_or_insert(now + NUDGE);
        }
        self.queue.push_back(Item { octets, chunk: Some(messages) });
        self.connection.wrote(0, true, now);
    }

    /// Queues a single message.
    pub(crate) fn send(&mut self, octets: Bytes, now: Instant) {
        self.connection.count_sent(1);
        self.push_soon(octets);
        self.connection.wrote(0, true, now);
    }

    /// Queues a message before the routes that are not begun yet: their order among themselves does not change.
    fn push_soon(&mut self, octets: Bytes) {
        let controls =
            self.queue.iter().skip(usize::from(self.begun)).take_while(|i| i.chunk.is_none()).count();
        let at = (usize::from(self.begun) + controls).min(self.queue.len());
        self.queue.insert(at, Item { octets, chunk: None });
    }

    fn nudge(&mut self, now: Instant) {
        if self.nudge.is_none_or(|at| at > now) {
            return;
        }
        if now >= self.nudge_until {
            self.nudge = None;
            self.burst = 0;
            return;
        }
        self.nudge = Some(now + NUDGE);
        // A peer that takes nothing needs no nudge, and they must not pile up.
        if self.queue.iter().filter(|item| item.chunk.is_none()).count() < 2 {
            self.connection.count_sent(1);
            self.push_soon(codec::keepalive());
        }
    }

    fn written(&mut self, octets: usize) -> usize {
        let Some(item) = self.queue.front_mut() else { return 0 };
        item.octets.advance(octets.min(item.octets.len()));
        self.begun = !item.octets.is_empty();
        if self.begun {
            return 0;
        }
        let chunk = item.chunk.is_some();
        self.queue.pop_front();
        usize::from(chunk)
    }

    /// Writes what a goodbye needs, no routes any more, and waits for the peer to close: closing with unread input would
    /// make the kernel reset the connection and the peer lose the NOTIFICATION.
    pub(crate) async fn finish(mut self) {
        let begun = usize::from(self.begun);
        let goodbye: Vec<Bytes> = self
            .queue
            .drain(..)
            .enumerate()
            .filter(|(at, item)| *at < begun || item.chunk.is_none())
            .map(|(_, item)| item.octets)
            .collect();
        if goodbye.is_empty() {
            return;
        }
        let deliver = async {
            for octets in goodbye {
                self.writer.write_all(&octets).await?;
            }
            self.writer.shutdown().await?;
            let mut sink = [0; 4096];
            while self.reader.read(&mut sink).await? > 0 {}
            io::Result::Ok(())
        };
        // The peer is gone or slow: it will notice by itself.
        tokio::time::timeout(LINGER, deliver).await.ok();
    }
}

async fn sleep_until(deadline: Option<Instant>) {
    match deadline {
        Some(at) => tokio::time::sleep_until(at).await,
        None => std::future::pending().await,
    }
}

impl std::fmt::Debug for Link {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Link")
            .field("side", &self.side)
            .field("connection", &self.connection)
            .finish_non_exhaustive()
    }
}
