//! The task that owns all of the speaker's state; everything else sends it messages.

use std::net::IpAddr;

use tokio::sync::{mpsc, oneshot};
use tokio_util::sync::CancellationToken;

use crate::config::{PeerConfig, SpeakerConfig};
use crate::route::{Route, RouteChange};
use crate::speaker::{Event, PeerState, ReceivedRoute, RouteFilter, Ticket};
use crate::transport::Listeners;

/// What a handle asks for. The answer channel may be gone: the asker no longer waits.
#[derive(Debug)]
pub(crate) enum Command {
    SetPeers { peers: Vec<PeerConfig>, done: oneshot::Sender<()> },
    Update { changes: Vec<RouteChange>, done: oneshot::Sender<Ticket> },
    Replace { routes: Vec<Route>, done: oneshot::Sender<Ticket> },
    SetSynced { done: oneshot::Sender<()> },
    Peers { reply: oneshot::Sender<Vec<PeerState>> },
    RoutesIn { filter: RouteFilter, reply: oneshot::Sender<Vec<ReceivedRoute>> },
    RoutesOut { filter: RouteFilter, reply: oneshot::Sender<Vec<Route>> },
    Reset { address: IpAddr, done: oneshot::Sender<bool> },
    RequestRefresh { address: IpAddr, done: oneshot::Sender<bool> },
    Flush { done: oneshot::Sender<()> },
}

/// The speaker's state.
#[derive(Debug)]
pub(crate) struct Owner {
    _config: SpeakerConfig,
    _listeners: Listeners,
    _events: mpsc::Sender<Event>,
    ticket: Ticket,
}

impl Owner {
    pub(crate) fn new(config: SpeakerConfig, listeners: Listeners, events: mpsc::Sender<Event>) -> Self {
        Owner { _config: config, _listeners: listeners, _events: events, ticket: Ticket(0) }
    }

    pub(crate) async fn run(mut self, mut commands: mpsc::Receiver<Command>, cancel: CancellationToken) {
        while let Some(Some(command)) = cancel.run_until_cancelled(commands.recv()).await {
            if let Command::Update { done, .. } | Command::Replace { done, .. } = command {
                self.ticket.0 += 1;
                done.send(self.ticket).ok();
            }
        }
    }
}
