//! WatchPorts: the ports as they are, then every change, from any revision that the store still knows.
//!
//! A watch is level-based: it compares the snapshot it showed last with the newest one, so that a slow client gets the
//! latest of several changes and nothing queues up for it. To resume, the store's own history says which keys changed
//! since the revision; what is shown of them is, again, how they are now.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;

use causeway_proto::{PortKey, Revision, v1};
use imbl::ordmap::DiffItem;
use tokio::sync::broadcast::{self, error::RecvError};
use tokio::sync::mpsc;
use tokio::time::timeout;
use tonic::Status;

use super::App;
use super::parse::Filter;
use super::port_message::{from_snapshot, key_message};
use super::status::Refusal;
use crate::derive::Changed;
use crate::fabric::PortNews;
use crate::keys::{INTENT, RecordKey};
use crate::snapshot::Snapshot;
use crate::store::WatchEvent;

/// Messages that wait for a client; then the watch waits.
const QUEUE: usize = 256;
/// How long a resumed watch waits for the store's history, or for this controller to have seen the revision.
const PATIENCE: Duration = Duration::from_secs(5);

type Outbound = mpsc::Sender<Result<v1::WatchPortsResponse, Status>>;

/// Starts a watch. Errors are told before the stream begins.
pub(super) async fn start(
    app: App,
    filter: Filter,
    from: u64,
) -> Result<mpsc::Receiver<Result<v1::WatchPortsResponse, Status>>, Refusal> {
    let (outbound, receiver) = mpsc::channel(QUEUE);
    // Subscribed before the first look: what happens in between is seen twice rather than never.
    let news = [app.agents.news(), app.fabric.news(), app.ready.news()];
    let (shown, missed) = match from {
        0 => (app.snapshot().await, None),
        from => resume(&app, Revision(from)).await?,
    };
    let watch = Watch { app: app.clone(), filter, outbound, shown };
    let cancel = app.cancel.clone();
    app.metrics.watches.inc();
    app.tasks.spawn(async move {
        let metrics = watch.app.metrics.clone();
        if cancel.run_until_cancelled(watch.run(missed, news)).await.is_none() {
            tracing::debug!("watch ended: the controller is stopping");
        }
        metrics.watches.dec();
    });
    Ok(receiver)
}

/// The ports that changed after `from`, and the snapshot which shows them.
async fn resume(app: &App, from: Revision) -> Result<(Arc<Snapshot>, Option<BTreeSet<PortKey>>), Refusal> {
    let late = || Refusal::unavailable(format!("this controller has not seen revision {from} yet"));
    let snapshot = match timeout(PATIENCE, app.state.wait_for(from)).await {
        Ok(snapshot) => snapshot.map_err(|_| Refusal::unavailable("the controller is stopping"))?,
        Err(_) => return Err(late()),
    };
    if snapshot.revision == from {
        return Ok((snapshot, Some(BTreeSet::new())));
    }
    let history = timeout(PATIENCE, history(app, from, &snapshot)).await;
    match history {
        Ok(keys) => Ok((snapshot, Some(keys?))),
        Err(_) => Err(Refusal::unavailable("the store does not say what happened since")),
    }
}

/// Ports that changed after `from` up to the snapshot, from the store's history.
async fn history(app: &App, from: Revision, snapshot: &Snapshot) -> Result<BTreeSet<PortKey>, Refusal> {
    let mut events = app.store.watch(INTENT, from).await?;
    let mut keys = BTreeSet::new();
    while let Some(event) = events.recv().await {
        match event {
            WatchEvent::Changes { revision, changes } => {
                for change in changes {
                    let path = change.map_or_else(|key| key, |entry| entry.key);
                    if let Some(RecordKey::Port(key) | RecordKey::Binding(key)) = RecordKey::parse(&path) {
                        keys.insert(key);
                    }
                }
                if revision >= snapshot.revision {
                    return Ok(keys);
                }
            }
            WatchEvent::Relist => return Err(Refusal::stale(from.0, snapshot.revision.0)),
            WatchEvent::Disconnected | WatchEvent::Connected => {}
        }
    }
    Err(Refusal::unavailable("the store's history ended early"))
}

/// One client's watch.
struct Watch {
    app: App,
    filter: Filter,
    outbound: Outbound,
    shown: Arc<Snapshot>,
}

/// The client is gone.
struct Gone;

impl Watch {
    async fn run(
        mut self,
        missed: Option<BTreeSet<PortKey>>,
        [mut agents, mut fabric, mut proofs]: [broadcast::Receiver<PortNews>; 3],
    ) {
        let begun = match missed {
            None => self.show_all(true).await,
            Some(keys) => self.show(&Arc::clone(&self.shown), keys, true).await,
        };
        if begun.is_err() {
            return;
        }
        loop {
            let closed = self.outbound.clone();
            let state = self.app.state.clone();
            let done = tokio::select! {
                () = closed.closed() => Err(Gone),
                snapshot = state.wait_after(self.shown.revision) => match snapshot {
                    Ok(snapshot) => self.follow(snapshot).await,
                    Err(_) => Err(Gone),
                },
                news = agents.recv() => self.hear(news).await,
                news = fabric.recv() => self.hear(news).await,
                news = proofs.recv() => self.hear(news).await,
            };
            if done.is_err() {
                return;
            }
        }
    }

    /// All ports that match, then, the first time, the mark that these were all.
    async fn show_all(&mut self, first: bool) -> Result<(), Gone> {
        let snapshot = Arc::clone(&self.shown);
        for (key, record) in &snapshot.ports {
            if self.filter.matches(&snapshot, &record.value) {
                self.send_port(&snapshot, key).await?;
            }
        }
        if first {
            self.send(v1::watch_ports_response::Event::Synced(true), snapshot.revision).await
        } else {
            Ok(())
        }
    }

    /// These ports as they are now. `missed`: what does not match (any more) is told as gone even if it was never shown
    /// in this stream.
    async fn show(&mut self, new: &Arc<Snapshot>, keys: BTreeSet<PortKey>, missed: bool) -> Result<(), Gone> {
        let old = std::mem::replace(&mut self.shown, Arc::clone(new));
        for key in keys {
            let matches = |snapshot: &Snapshot| {
                snapshot.ports.get(&key).is_some_and(|record| self.filter.matches(snapshot, &record.value))
            };
            if matches(new) {
                self.send_port(new, &key).await?;
            } else if missed || matches(&old) {
                self.send(v1::watch_ports_response::Event::Deleted(key_message(&key)), new.revision).await?;
            }
        }
        Ok(())
    }

    async fn follow(&mut self, new: Arc<Snapshot>) -> Result<(), Gone> {
        let changed = Changed::ports_between(&self.shown, &new);
        self.show(&new, changed, false).await
    }

    /// The state of ports changed without a change in the store.
    async fn hear(&mut self, news: Result<PortNews, RecvError>) -> Result<(), Gone> {
        match news {
            Ok(ports) => {
                let snapshot = Arc::clone(&self.shown);
                for key in ports.iter() {
                    let known = snapshot.ports.get(key);
                    if known.is_some_and(|record| self.filter.matches(&snapshot, &record.value)) {
                        self.send_port(&snapshot, key).await?;
                    }
                }
                Ok(())
            }
            // More happened than is remembered: look at everything.
            Err(RecvError::Lagged(_)) => self.show_all(false).await,
            Err(RecvError::Closed) => Err(Gone),
        }
    }

    async fn send_port(&self, snapshot: &Snapshot, key: &PortKey) -> Result<(), Gone> {
        match from_snapshot(&self.app, snapshot, key) {
            Some(port) => self.send(v1::watch_ports_response::Event::Changed(port), snapshot.revision).await,
            None => Ok(()),
        }
    }

    async fn send(&self, event: v1::watch_ports_response::Event, revision: Revision) -> Result<(), Gone> {
        let response = v1::WatchPortsResponse { event: Some(event), revision: revision.0 };
        self.outbound.send(Ok(response)).await.map_err(|_| Gone)
    }
}

impl Changed {
    /// Ports that differ between two snapshots, by themselves or by their binding.
    fn ports_between(old: &Snapshot, new: &Snapshot) -> BTreeSet<PortKey> {
        fn key<V>(item: DiffItem<'_, '_, PortKey, V>) -> PortKey {
            match item {
                DiffItem::Add(key, _) | DiffItem::Remove(key, _) | DiffItem::Update { new: (key, _), .. } => {
                    key.clone()
                }
            }
        }
        let ports = old.ports.diff(&new.ports).map(key);
        ports.chain(old.bindings.diff(&new.bindings).map(key)).collect()
    }
}
