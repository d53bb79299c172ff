//! One probe, from its first frame to its last result.

use std::collections::BTreeSet;
use std::io;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use causeway_proto::{Mac, v1};
use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior, interval};
use tokio_util::sync::CancellationToken;

use super::frame::{self, Ends, Reply};
use super::order::{Method, Order};
use super::source::{Place, Source, SourceError, places};
use super::tally::Tally;
use crate::local::Local;

/// Between looks whether the source is still there, and whether something is late.
const LOOK: Duration = Duration::from_millis(100);
/// MACs that are listed.
const LISTED: usize = 4;

/// What answers an address.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    Echo,
    Arp,
}

/// One probe.
#[derive(Debug)]
pub(super) struct Probe {
    order: Order,
    source: Source,
    ends: Ends,
    token: u64,
    tally: Tally,
    /// What it was answered by: the other kind is no longer sent, so that no answer counts twice.
    answered: Option<Kind>,
    answered_by: BTreeSet<Mac>,
    started: Instant,
    started_unix: Duration,
    problem: String,
}

impl Probe {
    /// Chooses the source and opens it.
    pub(super) fn open(local: &Local, order: Order) -> Result<Probe, SourceError> {
        let source = open_source(places(local, order.vni, order.target)?, &order)?;
        let ends = Ends { from: source.mac, to: order.mac, target: order.target };
        Ok(Probe {
            order,
            source,
            ends,
            token: rand::random(),
            tally: Tally::default(),
            answered: None,
            answered_by: BTreeSet::new(),
            started: Instant::now(),
            started_unix: SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default(),
            problem: String::new(),
        })
    }

    /// Sends, listens and reports until it ends, is cancelled or has served its time.
    pub(super) async fn run(mut self, out: &mpsc::Sender<v1::ProbeResult>, cancel: CancellationToken) {
        self.started = Instant::now();
        if let Err(error) = self.work(out, &cancel).await {
            self.problem = format!("{}: {error}", self.source.place.name);
        }
        let last = v1::ProbeResult { finished: true, ..self.result() };
        tracing::debug!(
            probe = last.id, target = %self.order.target, source = last.source, sent = last.sent,
            received = last.received, lost = last.lost, problem = last.problem, "probe ended"
        );
        // From now on the address is free for another probe.
        cancel.cancel();
        // Nobody takes results any more: then nobody waits for this one.
        let _ = out.send(last).await;
    }

    async fn work(
        &mut self,
        out: &mpsc::Sender<v1::ProbeResult>,
        cancel: &CancellationToken,
    ) -> io::Result<()> {
        let ready = self.source.watch()?;
        let mut ticks = interval(self.order.interval);
        // A burst after a pause would measure the pause twice.
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        let mut looks = interval(LOOK);
        looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reports = interval(self.order.report);
        reports.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut reported = self.result();
        while !self.is_over() {
            tokio::select! {
                () = cancel.cancelled() => return Ok(()),
                at = ticks.tick(), if self.sends() => self.send(at)?,
                _ = looks.tick() => {
                    self.tally.settle(self.started.elapsed());
                    if !self.source.is_there() {
                        return Err(io::Error::other("its workload has ended"));
                    }
                }
                _ = reports.tick() => {
                    let now = self.result();
                    let news = v1::ProbeResult { elapsed_ms: reported.elapsed_ms, ..now.clone() } != reported;
                    if news && out.try_send(now.clone()).is_ok() {
                        reported = now;
                    }
                }
                taken = ready.readable() => {
                    let mut guard = taken?;
                    guard.clear_ready();
                    self.listen()?;
                }
            }
        }
        Ok(())
    }

    /// True while frames go out.
    fn sends(&self) -> bool {
        self.order.count.is_none_or(|count| self.tally.sent < count)
    }

    fn is_over(&self) -> bool {
        let enough = self.order.enough.is_some_and(|enough| self.tally.received >= enough);
        let served = self.started.elapsed() >= self.order.lifetime;
        enough || served || (!self.sends() && self.tally.is_settled())
    }

    fn send(&mut self, _due: Instant) -> io::Result<()> {
        let now = self.started.elapsed();
        let index = self.tally.send(now);
        let from = match (self.order.method, self.answered) {
            (Method::Echo | Method::Both(_), None | Some(Kind::Echo)) => self.source.place.address,
            _ => None,
        };
        let has_echo = self.source.place.address.is_some();
        let due = self.order.method.arp_after(has_echo).is_some_and(|after| now >= after);
        let asks = due && self.answered != Some(Kind::Echo);
        let other = self.order.other_mac.map(|to| Ends { to, ..self.ends });
        let frames = [Some(self.ends), other].into_iter().flatten().flat_map(|ends| {
            let echo = from.and_then(|from| frame::echo(ends, from, self.token, index));
            [echo, asks.then(|| frame::arp(ends)).flatten()]
        });
        for frame in frames.flatten() {
            match self.source.socket.send(&frame) {
                Ok(_) => self.problem.clear(),
                // A frame that the interface does not take is lost like any other.
                Err(error) if is_passing(&error) => {
                    self.problem = format!("{}: frames are not sent: {error}", self.source.place.name);
                }
                Err(error) => return Err(error),
            }
        }
        Ok(())
    }

    fn listen(&mut self) -> io::Result<()> {
        let Probe { source, ends, token, tally, answered, answered_by, started, .. } = self;
        let received = source.receive(|frame, age| {
            let at = started.elapsed().saturating_sub(age);
            let Some(reply) = frame::parse(frame, *ends, *token) else { return };
            let (kind, index, from) = match reply {
                Reply::Echo { from, index } => (Kind::Echo, Some(index), from),
                // It does not say to which; the latest is the likeliest.
                Reply::Arp { from } => (Kind::Arp, tally.latest(), from),
            };
            if *answered.get_or_insert(kind) != kind {
                return;
            }
            if answered_by.len() < LISTED {
                answered_by.insert(from);
            }
            if let Some(index) = index {
                tally.answer(index, at);
            }
        });
        match received {
            // The interface went down; that it is up again shows by itself.
            Err(error) if is_passing(&error) => Ok(()),
            other => other,
        }
    }

    fn result(&self) -> v1::ProbeResult {
        let elapsed = self.started.elapsed();
        let gap = |gap: super::tally::Gap| v1::ProbeGap {
            begin_ms: gap.begin.map_or(0, ms),
            end_ms: gap.end.map_or(0, |end| ms(end).max(1)),
            lost: gap.lost,
        };
        let method = match (self.answered, self.source.place.address, self.order.method) {
            (Some(Kind::Echo), ..) | (None, Some(_), Method::Echo | Method::Both(_)) => v1::ProbeMethod::Echo,
            (None, None, Method::Echo) => v1::ProbeMethod::Echo,
            _ => v1::ProbeMethod::Arp,
        };
        v1::ProbeResult {
            id: self.order.id,
            sent: self.tally.sent,
            received: self.tally.received,
            duplicated: self.tally.duplicated,
            lost: self.tally.lost,
            gaps: self.tally.gaps().map(gap).collect(),
            longest_gap_ms: ms(self.tally.longest(elapsed)),
            first_reply_us: self.tally.first_reply.map_or(0, us),
            last_reply_us: self.tally.last_reply.map_or(0, us),
            rtt_us: self.tally.rtt.map_or(0, |rtt| u32::try_from(us(rtt)).unwrap_or(u32::MAX)),
            elapsed_ms: ms(elapsed),
            started_unix_ms: i64::try_from(self.started_unix.as_millis()).unwrap_or(i64::MAX),
            source: self.source.place.name.clone(),
            method: method.into(),
            answered_by: self.answered_by.iter().map(ToString::to_string).collect(),
            finished: false,
            problem: self.problem.clone(),
        }
    }
}

/// The first place that can be opened. The best one may have gone since it was seen.
fn open_source(places: Vec<Place>, order: &Order) -> Result<Source, SourceError> {
    let usable = |place: &Place| order.method != Method::Echo || place.address.is_some();
    let mut failed = None;
    for place in places.into_iter().filter(usable) {
        match Source::open(place, order.target) {
            Ok(source) => return Ok(source),
            Err(error) => failed = failed.or(Some(error)),
        }
    }
    Err(failed.unwrap_or_else(|| SourceError::NoSource {
        network: format!("with VNI {}", order.vni),
        target: order.target,
        why: "none has an address of its subnet, from which an echo could come".into(),
    }))
}

/// True for what passes: the interface is down, or its queue is full.
fn is_passing(error: &io::Error) -> bool {
    let passing = [libc::ENETDOWN, libc::ENOBUFS, libc::EAGAIN, libc::EINTR, libc::EPERM];
    error.raw_os_error().is_some_and(|errno| passing.contains(&errno))
}

fn ms(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

/// At least one: 0 means that there was none.
fn us(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX).max(1)
}
