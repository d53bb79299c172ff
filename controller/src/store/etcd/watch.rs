//! A watch that goes on over lost connections, and begins anew behind a restore of etcd from an older copy.

use std::sync::Arc;
use std::time::Duration;

use etcd_client::{Client, EventType, WatchOptions, WatchResponse, WatchStream};
use tokio::sync::{mpsc, watch};

use super::LARGEST_MESSAGE;
use super::call::{Connection, revision};
use crate::store::{KeyValue, WatchEvent};

/// Longest wait for the answer to a new watch.
const ANSWER: Duration = Duration::from_secs(3);
/// First and longest pause between two attempts to watch again.
const PAUSES: (Duration, Duration) = (Duration::from_millis(50), Duration::from_secs(1));

/// One watch.
pub(super) struct Watch {
    pub(super) client: Client,
    pub(super) connection: Arc<Connection>,
    /// Cut off from keys.
    pub(super) strip: String,
    /// What the watched keys begin with.
    pub(super) path: String,
    /// First revision that was not told yet.
    pub(super) next: i64,
    pub(super) events: mpsc::Sender<WatchEvent>,
    /// Tells when etcd turned out to be another one than it was.
    pub(super) turns: watch::Receiver<u64>,
    /// The reader has to list anew, and has not been told so.
    pub(super) relist: bool,
}

/// Why a stream ended.
enum End {
    /// Nobody listens any more.
    Closed,
    /// There was a gap; the next stream begins behind it.
    Gap,
    /// The connection or the member went away.
    Lost,
}

impl Watch {
    /// Runs until the receiver is dropped.
    pub(super) async fn run(mut self) {
        let events = self.events.clone();
        tokio::select! {
            () = events.closed() => {}
            () = self.follow() => {}
        }
    }

    async fn follow(&mut self) {
        let mut connected = true;
        let mut pause = PAUSES.0;
        loop {
            let opened = match connected || self.look_back().await {
                true => self.open().await,
                false => None,
            };
            let end = match opened {
                Some((stream, first)) => {
                    pause = PAUSES.0;
                    if !connected && self.tell(WatchEvent::Connected).await.is_err() {
                        return;
                    }
                    connected = true;
                    if std::mem::take(&mut self.relist) && self.tell(WatchEvent::Relist).await.is_err() {
                        return;
                    }
                    self.read(stream, first).await
                }
                None => End::Lost,
            };
            match end {
                End::Closed => return,
                End::Gap => continue,
                End::Lost => {}
            }
            if connected && self.tell(WatchEvent::Disconnected).await.is_err() {
                return;
            }
            connected = false;
            tokio::time::sleep(pause).await;
            pause = PAUSES.1.min(pause * 2);
        }
    }

    /// After a loss: what was told may not be etcd's past any more. False: etcd does not say.
    async fn look_back(&mut self) -> bool {
        match self.connection.look_back(&self.strip).await {
            Ok(now) => {
                if self.turns.has_changed().unwrap_or(false) {
                    self.turns.mark_unchanged();
                    self.relist = true;
                }
                if self.relist {
                    self.next = now.saturating_add(1);
                }
                true
            }
            Err(error) => {
                tracing::debug!(store = self.connection.name, %error, "store does not say what it holds");
                false
            }
        }
    }

    /// A stream that begins with the first revision not told yet, and its first answer. A single response holds whole
    /// transactions: fragments would tear them, so messages may be large instead.
    async fn open(&self) -> Option<(WatchStream, WatchResponse)> {
        let options = WatchOptions::new().with_prefix().with_start_revision(self.next).with_progress_notify();
        let mut client = self.client.watch_client().max_decoding_message_size(LARGEST_MESSAGE);
        let open = async {
            let mut stream = client.watch(self.path.clone(), Some(options)).await?;
            let first = stream.message().await?;
            Ok::<_, etcd_client::Error>(first.map(|first| (stream, first)))
        };
        match tokio::time::timeout(ANSWER, open).await {
            Ok(Ok(opened)) => opened,
            Ok(Err(error)) => {
                tracing::debug!(store = self.connection.name, %error, "watch failed");
                None
            }
            Err(_) => None,
        }
    }

    async fn read(&mut self, mut stream: WatchStream, first: WatchResponse) -> End {
        let mut message = Some(first);
        while let Some(response) = message {
            if let Some(end) = self.take(&response).await {
                return end;
            }
            message = tokio::select! {
                message = stream.message() => match message {
                    Ok(message) => message,
                    Err(error) => {
                        tracing::debug!(store = self.connection.name, %error, "watch ended");
                        return End::Lost;
                    }
                },
                // Another watch has found out.
                _ = self.turns.changed() => {
                    self.relist = true;
                    return End::Lost;
                }
            };
        }
        End::Lost
    }

    async fn take(&mut self, response: &WatchResponse) -> Option<End> {
        if response.canceled() {
            if response.compact_revision() <= 0 {
                tracing::debug!(
                    store = self.connection.name,
                    reason = response.cancel_reason(),
                    "watch cancelled"
                );
                self.renew_token().await;
                return Some(End::Lost);
            }
            // What came before is gone; a listing taken from now on shows it, and all later changes follow here.
            self.next = self.next.max(response.compact_revision());
            return Some(if self.tell(WatchEvent::Relist).await.is_ok() { End::Gap } else { End::Closed });
        }
        let mut pending: Option<(i64, Vec<Result<KeyValue, String>>)> = None;
        for event in response.events() {
            let Some(kv) = event.kv() else { continue };
            let Ok(key) = std::str::from_utf8(kv.key()) else { continue };
            let Some(key) = key.strip_prefix(&self.strip) else { continue };
            let at = kv.mod_revision();
            if pending.as_ref().is_some_and(|(revision, _)| *revision != at)
                && self.flush(pending.take()).await.is_err()
            {
                return Some(End::Closed);
            }
            let change = match event.event_type() {
                EventType::Put => {
                    self.connection.past.saw_value(kv.key(), kv.value(), at);
                    Ok(KeyValue { key: key.to_owned(), value: kv.value().to_vec(), revision: revision(at) })
                }
                EventType::Delete => Err(key.to_owned()),
            };
            pending.get_or_insert_with(|| (at, Vec::new())).1.push(change);
        }
        if self.flush(pending).await.is_err() {
            return Some(End::Closed);
        }
        // A progress notification: everything up to this revision was told.
        if response.events().is_empty()
            && !response.created()
            && let Some(header) = response.header()
        {
            self.next = self.next.max(header.revision().saturating_add(1));
        }
        None
    }

    /// A watch that is refused for an old token does not get a new one by itself; a read does.
    async fn renew_token(&self) {
        let read = self.connection.repeat(|client| {
            let path = self.path.clone();
            async move { client.kv_client().get(path, None).await }
        });
        if let Err(error) = read.await {
            tracing::debug!(store = self.connection.name, %error, "store cannot be read");
        }
    }

    async fn flush(&mut self, pending: Option<(i64, Vec<Result<KeyValue, String>>)>) -> Result<(), ()> {
        let Some((at, changes)) = pending else { return Ok(()) };
        // Told already: a member may send a revision again after a resume.
        if at < self.next {
            return Ok(());
        }
        self.next = at.saturating_add(1);
        let revision = self.connection.past.saw(at);
        self.tell(WatchEvent::Changes { revision, changes }).await
    }

    async fn tell(&self, event: WatchEvent) -> Result<(), ()> {
        self.events.send(event).await.map_err(|_| ())
    }
}
