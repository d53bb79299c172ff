//! WatchEvents: the log from a time or a revision on, then what is added to it.
//!
//! The store's own memory of changes ends after minutes; the log does not. After a gap the log is read again, and of it what
//! is newer than the revision that was sent last.

use causeway_proto::{Revision, v1};
use tokio::sync::mpsc;
use tonic::Status;

use super::App;
use super::history::{EventFilter, event_message, time};
use super::status::Refusal;
use crate::history::{Cursor, Told, read};
use crate::keys::LOG;
use crate::store::{StoreError, WatchEvent};

/// Messages that wait for a client; then the reading waits.
const QUEUE: usize = 16;
/// Events of one message at most.
const MESSAGE: usize = 500;
/// Clocks of controllers differ at most by so much, in milliseconds, for a gap to be closed from the time of what was
/// sent last on.
const CLOCKS: i64 = 3_600_000;

type Outbound = mpsc::Sender<Result<v1::WatchEventsResponse, Status>>;

/// Starts a stream. Errors are told before it begins.
pub(super) async fn start(
    app: App,
    request: v1::WatchEventsRequest,
) -> Result<mpsc::Receiver<Result<v1::WatchEventsResponse, Status>>, Refusal> {
    let filter = EventFilter::read(request.filter)?;
    let since_ms = time("since_ms", request.since_ms)?;
    let until_ms = Some(time("until_ms", request.until_ms)?).filter(|ms| *ms != 0);
    if request.follow && until_ms.is_some() {
        return Err(Refusal::field("until_ms", "makes no sense together with follow"));
    }
    let sent = Revision(request.from_revision);
    let now = app.store.revision().await?;
    if sent > now {
        return Err(Refusal::field(
            "from_revision",
            format!("{sent} is not there yet, the store is at {now}"),
        ));
    }
    // The store itself may remember what a client missed that was away for a moment.
    let resumed = request.follow && sent.0 > 0 && since_ms == 0;
    // Watched before the log is read: nothing falls in between, and what is seen twice is sent once.
    let watch = match request.follow {
        true => Some(app.store.watch(LOG, if resumed { sent } else { now }).await?),
        false => None,
    };
    let first = (!resumed).then(|| Cursor::between(since_ms, until_ms));
    let (outbound, receiver) = mpsc::channel(QUEUE);
    let (cancel, tasks) = (app.cancel.clone(), app.tasks.clone());
    let mut stream = Stream { app, filter, outbound, sent, last_ms: since_ms };
    tasks.spawn(async move {
        let work = async {
            match stream.run(first, now, watch).await {
                Ok(()) | Err(End::Gone) => {}
                // A client that is gone hears nothing.
                Err(End::Failed(error)) => {
                    let status = Status::from(Refusal::from(error));
                    let _ = stream.outbound.send(Err(status)).await;
                }
            }
        };
        cancel.run_until_cancelled(work).await;
    });
    Ok(receiver)
}

/// Why a stream ends early.
enum End {
    /// The client went away.
    Gone,
    /// The store does not answer.
    Failed(StoreError),
}

impl From<StoreError> for End {
    fn from(error: StoreError) -> Self {
        End::Failed(error)
    }
}

struct Stream {
    app: App,
    filter: EventFilter,
    outbound: Outbound,
    /// Everything up to it was looked at.
    sent: Revision,
    /// Time of the newest event that was looked at.
    last_ms: i64,
}

impl Stream {
    async fn run(
        &mut self,
        first: Option<Cursor>,
        now: Revision,
        watch: Option<mpsc::Receiver<WatchEvent>>,
    ) -> Result<(), End> {
        if let Some(first) = first {
            // What is added while the log is read comes from the watch, if there is one.
            self.read(first, watch.as_ref().map(|_| now)).await?;
            self.sent = self.sent.max(now);
        }
        let Some(mut watch) = watch else { return Ok(()) };
        self.send(Vec::new(), true).await?;
        loop {
            let event = tokio::select! {
                () = self.outbound.closed() => return Err(End::Gone),
                event = watch.recv() => event,
            };
            match event {
                Some(WatchEvent::Changes { revision, changes }) if revision > self.sent => {
                    let told = changes.iter().flatten().flat_map(read).collect();
                    self.sent = revision;
                    self.tell(told).await?;
                }
                Some(WatchEvent::Relist) => {
                    let now = self.app.store.revision().await?;
                    self.read(Cursor::between(self.last_ms.saturating_sub(CLOCKS), None), Some(now)).await?;
                    self.sent = self.sent.max(now);
                }
                Some(WatchEvent::Changes { .. } | WatchEvent::Disconnected | WatchEvent::Connected) => {}
                // The client resumes from what it has.
                None => return Ok(()),
            }
        }
    }

    /// Sends what the log has beyond what was sent, up to a revision.
    async fn read(&mut self, from: Cursor, newest: Option<Revision>) -> Result<(), End> {
        let mut next = Some(from);
        while let Some(cursor) = next {
            let (mut told, more) = self.app.history.page(cursor).await?;
            told.retain(|told| {
                told.revision > self.sent && newest.is_none_or(|newest| told.revision <= newest)
            });
            self.tell(told).await?;
            next = more;
        }
        Ok(())
    }

    async fn tell(&mut self, told: Vec<Told>) -> Result<(), End> {
        self.last_ms = told.iter().map(|told| told.at_ms).fold(self.last_ms, i64::max);
        let mut events = Vec::new();
        for told in told.into_iter().filter(|told| self.filter.matches(&told.event)) {
            events.push(event_message(told));
            if events.len() == MESSAGE {
                self.send(std::mem::take(&mut events), false).await?;
            }
        }
        if events.is_empty() { Ok(()) } else { self.send(events, false).await }
    }

    async fn send(&self, events: Vec<v1::Event>, synced: bool) -> Result<(), End> {
        // The log's order is that of time: until all of it is read, what was sent is no more than what was asked for.
        let message = v1::WatchEventsResponse { events, synced, revision: self.sent.0 };
        self.outbound.send(Ok(message)).await.map_err(|_| End::Gone)
    }
}
