//! One connection without its socket: octets and time in, octets and events out. Framing, state machine and timers, and
//! nothing else, so that tests drive it with made-up times.

use std::time::Duration;

use bytes::{Bytes, BytesMut};
use tokio::time::Instant;

use crate::codec::update::Update;
use crate::codec::{self, Message, Notification, Reading, Refresh};
use crate::config::{PeerConfig, SpeakerConfig};
use crate::fsm::{Agreed, Input, Machine, Output, Timer};
use crate::speaker::SessionState;

/// A peer that takes nothing for so long is closed (RFC 9687 §3: the larger of 8 minutes and twice the hold time).
const SEND_HOLD: Duration = Duration::from_secs(480);

/// What a connection tells the peer task.
#[derive(Debug)]
pub(crate) enum Happened {
    /// The peer's OPEN was accepted: its identifier is known, a collision can be decided.
    OpenAccepted {
        router_id: u32,
    },
    Established(Box<Agreed>),
    Update(Box<Update>),
    Refresh(Refresh),
    /// It is over. What is queued may still be written.
    Ended(End),
}

/// How a connection ended.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct End {
    /// In words.
    pub(crate) reason: String,
    /// Routes may be kept for the peer's return: it just went away (RFC 4724 §4.2), or said or was told goodbye in a way
    /// that RFC 8538 counts as that.
    pub(crate) graceful: Graceful,
}

/// What the way a session ended means for graceful restart.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Graceful {
    /// The connection broke.
    Always,
    /// A NOTIFICATION was sent or received.
    WithNotification,
    /// Hard reset.
    Never,
}

/// A connection.
#[derive(Debug)]
pub(crate) struct Connection {
    machine: Machine,
    /// The AS number the peer is configured with.
    expected_as: u32,
    reading: Reading,
    hold: Option<Instant>,
    keepalive: Option<Instant>,
    /// Since when there has been something to write and nothing was taken.
    stalled_since: Option<Instant>,
    send_hold: Duration,
    input: BytesMut,
    out: Vec<Bytes>,
    happened: Vec<Happened>,
    ended: bool,
    messages_in: u64,
    messages_out: u64,
}

impl Connection {
    /// For a connection that is up; queues our OPEN.
    pub(crate) fn start(speaker: &SpeakerConfig, peer: &PeerConfig, restarting: bool, now: Instant) -> Self {
        let mut connection = Connection {
            machine: Machine::new(speaker, peer, restarting),
            expected_as: peer.asn,
            reading: Reading {
                limit: codec::STANDARD_LIMIT,
                four_octet_as: false,
                ibgp: speaker.asn == peer.asn,
                own_as: speaker.asn,
                own_id: u32::from(speaker.router_id),
            },
            hold: None,
            keepalive: None,
            stalled_since: None,
            send_hold: SEND_HOLD.max(2 * peer.hold_time),
            input: BytesMut::new(),
            out: Vec::new(),
            happened: Vec::new(),
            ended: false,
            messages_in: 0,
            messages_out: 0,
        };
        connection.step(Input::Started, now, "start", Graceful::Always);
        connection
    }

    /// State of its machine.
    pub(crate) fn state(&self) -> SessionState {
        self.machine.state()
    }

    /// Where to read into: what was read goes to the end, then [`Connection::received`].
    pub(crate) fn buffer(&mut self) -> &mut BytesMut {
        &mut self.input
    }

    /// Handles what has been read.
    pub(crate) fn received(&mut self, now: Instant) {
        while !self.ended {
            let length = match codec::frame(&self.input, self.reading.limit) {
                Ok(Some(length)) if length <= self.input.len() => length,
                Ok(_) => return,
                Err(fault) => return self.fail(&fault),
            };
            self.messages_in += 1;
            let message = self.input.split_to(length).freeze();
            if self.state() != SessionState::Established && matches!(message.get(18), Some(2 | 5)) {
                // Out of turn, whatever is in it: how to read it is not agreed yet.
                return self.step(
                    Input::Update,
                    now,
                    "routes before the session is up",
                    Graceful::WithNotification,
                );
            }
            match codec::decode(message, &self.reading) {
                Ok(message) => self.message(message, now),
                Err(fault) => return self.fail(&fault),
            }
        }
    }

    fn message(&mut self, message: Message, now: Instant) {
        match message {
            Message::Open(open) => self.open(open, now),
            Message::Keepalive => {
                self.step(Input::Keepalive, now, "KEEPALIVE out of turn", Graceful::WithNotification)
            }
            Message::Update(update) => {
                self.step(Input::Update, now, "", Graceful::WithNotification);
                self.happened.push(Happened::Update(Box::new(update)));
            }
            Message::Refresh(refresh) => {
                self.step(Input::Refresh, now, "", Graceful::WithNotification);
                self.happened.extend(refresh.map(Happened::Refresh));
            }
            Message::Notification(n) => {
                let reason = format!("peer says: {n}");
                let graceful = if n.is_hard_reset() { Graceful::Never } else { Graceful::WithNotification };
                self.step(Input::Notification(n), now, &reason, graceful);
            }
        }
    }

    fn open(&mut self, open: codec::Open, now: Instant) {
        let router_id = u32::from(open.identifier());
        let before = self.state();
        let reason = match before {
            SessionState::OpenSent if open.asn() != self.expected_as => {
                format!("OPEN refused: the peer has AS {}, configured is AS {}", open.asn(), self.expected_as)
            }
            SessionState::OpenSent => format!("OPEN refused: {}", open.describe()),
            _ => "OPEN out of turn".to_owned(),
        };
        self.step(Input::Open(open), now, &reason, Graceful::WithNotification);
        if before == SessionState::OpenSent && self.state() == SessionState::OpenConfirm {
            self.happened.push(Happened::OpenAccepted { router_id });
        }
    }

    fn fail(&mut self, fault: &codec::Fault) {
        let outputs = self.machine.fail(fault);
        let reason = format!("{}; told the peer: {}", fault.text, fault.notification);
        self.apply(outputs, None, &reason, Graceful::WithNotification);
    }

    /// The peer closed the connection or it broke.
    pub(crate) fn closed(&mut self, reason: &str, now: Instant) {
        self.step(Input::Closed, now, reason, Graceful::Always);
    }

    /// Ends it with a NOTIFICATION.
    pub(crate) fn stop(&mut self, notification: &Notification, reason: &str) {
        let graceful =
            if notification.is_hard_reset() { Graceful::Never } else { Graceful::WithNotification };
        let outputs = self.machine.stop(notification);
        self.apply(outputs, None, reason, graceful);
    }

    /// When [`Connection::on_time`] has something to do.
    pub(crate) fn deadline(&self) -> Option<Instant> {
        let send = self.stalled_since.map(|since| since + self.send_hold);
        [self.hold, self.keepalive, send].into_iter().flatten().min()
    }

    /// Runs the timers that are due.
    pub(crate) fn on_time(&mut self, now: Instant) {
        if self.stalled_since.is_some_and(|since| since + self.send_hold <= now) {
            // Nothing more can be said to a peer that does not read (RFC 9687 §3).
            self.step(
                Input::Closed,
                now,
                "the peer reads nothing: send hold timer expired",
                Graceful::Always,
            );
        }
        if self.hold.is_some_and(|at| at <= now) {
            self.hold = None;
            self.step(Input::HoldExpired, now, "hold timer expired", Graceful::WithNotification);
        }
        if self.keepalive.is_some_and(|at| at <= now) {
            self.keepalive = None;
            self.step(Input::KeepaliveDue, now, "", Graceful::Always);
        }
    }

    /// Notes how writing goes on: `waiting` octets are left, `progress` were taken since the last time.
    pub(crate) fn wrote(&mut self, progress: usize, waiting: bool, now: Instant) {
        if !waiting {
            self.stalled_since = None;
        } else if progress > 0 || self.stalled_since.is_none() {
            self.stalled_since = Some(now);
        }
    }

    /// Messages to write, in order.
    pub(crate) fn take_output(&mut self) -> Vec<Bytes> {
        std::mem::take(&mut self.out)
    }

    /// Events, in order.
    pub(crate) fn take_happened(&mut self) -> Vec<Happened> {
        std::mem::take(&mut self.happened)
    }

    /// Counts messages queued past the state machine.
    pub(crate) fn count_sent(&mut self, messages: u64) {
        self.messages_out += messages;
    }

    /// Messages received and sent since the last time.
    pub(crate) fn take_counts(&mut self) -> (u64, u64) {
        (std::mem::take(&mut self.messages_in), std::mem::take(&mut self.messages_out))
    }

    fn step(&mut self, input: Input, now: Instant, reason: &str, graceful: Graceful) {
        let outputs = self.machine.handle(input);
        self.apply(outputs, Some(now), reason, graceful);
    }

    fn apply(&mut self, outputs: Vec<Output>, now: Option<Instant>, reason: &str, graceful: Graceful) {
        for output in outputs {
            match output {
                Output::Send(message) => {
                    self.messages_out += 1;
                    self.out.push(message);
                }
                Output::Timer(Timer::Hold, time) => self.hold = now.zip(time).map(|(now, time)| now + time),
                Output::Timer(Timer::Keepalive, time) => {
                    self.keepalive = now.zip(time).map(|(now, time)| now + time);
                }
                Output::State(_) => {}
                Output::Established(agreed) => self.established(agreed),
                Output::Close => {
                    self.ended = true;
                    self.hold = None;
                    self.keepalive = None;
                    let end = End { reason: reason.to_owned(), graceful };
                    self.happened.push(Happened::Ended(end));
                }
            }
        }
    }

    fn established(&mut self, agreed: Box<Agreed>) {
        self.reading.four_octet_as = agreed.four_octet_as;
        if agreed.extended_message {
            self.reading.limit = codec::EXTENDED_LIMIT;
        }
        self.happened.push(Happened::Established(agreed));
    }
}

#[cfg(test)]
mod tests;
