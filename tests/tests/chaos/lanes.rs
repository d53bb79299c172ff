//! Clients that do what the script says and note what they were told.

use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Instant;

use anyhow::{Context, Result, bail};
use causeway_proto::v1;
use causeway_proto::v1::move_service_client::MoveServiceClient;
use causeway_proto::v1::port_service_client::PortServiceClient;
use tonic::transport::Channel;
use tonic::{Code, Status};

use crate::fabric::Fabric;
use crate::history::{Ack, Done};
use crate::script::{CONTROLLERS, Call, HOSTS, Order, PORTS};

/// What clients were told.
#[derive(Debug, Default)]
pub(crate) struct Notes {
    pub(crate) acks: Vec<Ack>,
    /// How often a call was answered with each code.
    pub(crate) codes: BTreeMap<(String, String), usize>,
    /// Answers that say that something is wrong with us.
    pub(crate) faults: Vec<String>,
}

/// A client.
#[derive(Clone)]
pub(crate) struct Client {
    channels: Vec<Channel>,
    places: BTreeMap<(usize, usize), v1::Binding>,
    notes: Arc<Mutex<Notes>>,
}

pub(crate) fn name(port: usize) -> String {
    format!("p{port}")
}

fn key(port: usize) -> Option<v1::PortKey> {
    Some(v1::PortKey { vrf: String::new(), network: "web".into(), name: name(port) })
}

impl Client {
    pub(crate) fn new(fabric: &Fabric<'_>) -> Result<Client> {
        let mut places = BTreeMap::new();
        for host in 0..HOSTS {
            for port in 0..PORTS {
                places.insert((host, port), fabric.binding(host, port)?);
            }
        }
        let channels = (0..CONTROLLERS).map(|n| fabric.channel(n)).collect::<Result<_>>()?;
        Ok(Client { channels, places, notes: Arc::default() })
    }

    /// What was told so far, to all its clones.
    pub(crate) fn take_notes(&self) -> Notes {
        std::mem::take(&mut *self.notes.lock().unwrap_or_else(PoisonError::into_inner))
    }

    /// Does one thing after the other, each not before its time; times count from `begin`.
    pub(crate) async fn run(self, orders: Vec<Order>, begin: Instant) -> Result<()> {
        for order in orders {
            tokio::time::sleep_until((begin + order.at).into()).await;
            self.obey(order).await?;
        }
        Ok(())
    }

    /// Asks one controller after the other until one is there; refusals are part of the game.
    pub(crate) async fn obey(&self, order: Order) -> Result<()> {
        for turn in 0..CONTROLLERS {
            let asked = (order.asks + turn) % CONTROLLERS;
            let channel = self.channels.get(asked).context("no such controller")?.clone();
            let answer = self.call(channel, order).await;
            let unavailable = answer.as_ref().is_err_and(|s| s.code() == Code::Unavailable || broke_off(s));
            self.note(order, asked, answer);
            if !unavailable {
                return Ok(());
            }
        }
        Ok(())
    }

    async fn call(&self, channel: Channel, order: Order) -> Result<Done, Status> {
        let mut ports = PortServiceClient::new(channel.clone());
        let mut moves = MoveServiceClient::new(channel);
        let place = |host: usize| self.places.get(&(host, order.port)).cloned();
        let node = |host: usize| place(host).map(|binding| binding.node);
        let key = key(order.port);
        let port = |port: Option<v1::Port>, node| match port {
            Some(port) => Ok(Done::Port(Box::new(port), node)),
            None => Err(Status::internal("the answer has no port")),
        };
        match order.call {
            Call::Create(host) => {
                let bind = host.and_then(place);
                let request = v1::CreatePortRequest { key, bind, ..v1::CreatePortRequest::default() };
                port(ports.create_port(request).await?.into_inner().port, host.and_then(node))
            }
            Call::Bind(host) => {
                let request = v1::BindPortRequest { key, binding: place(host), force: false };
                port(ports.bind_port(request).await?.into_inner().port, node(host))
            }
            Call::Unbind => {
                let told = ports.unbind_port(v1::UnbindPortRequest { key }).await?.into_inner().port;
                told.map(|port| Done::Unbound(Box::new(port))).ok_or_else(|| Status::internal("no port"))
            }
            Call::Update(mbit) => {
                let rate = Some(v1::RateLimit { in_kbit: mbit * 1000, out_kbit: 0 });
                let request = v1::UpdatePortRequest { key, rate, ..v1::UpdatePortRequest::default() };
                let told = ports.update_port(request).await?.into_inner().port;
                let told = told.ok_or_else(|| Status::internal("the answer has no port"))?;
                Ok(Done::Limited(Box::new(told), mbit * 1000))
            }
            Call::Release(forget) => {
                let request = v1::ReleasePortRequest { key, forget, ..v1::ReleasePortRequest::default() };
                let revision = ports.release_port(request).await?.into_inner().revision;
                Ok(Done::Released { revision, forgotten: forget })
            }
            Call::Migrate(host) => {
                let request = v1::MigratePortRequest {
                    key,
                    to: place(host),
                    // What a busy machine loses is measured elsewhere.
                    max_loss_ms: 60_000,
                    window_seconds: 2,
                    prepare_seconds: 5,
                    force: false,
                    ..v1::MigratePortRequest::default()
                };
                first(moves.migrate_port(request).await?.into_inner()).await
            }
            Call::Rollback => {
                let request = v1::RollbackPortRequest { key, ..v1::RollbackPortRequest::default() };
                first(moves.rollback_port(request).await?.into_inner()).await
            }
        }
    }

    fn note(&self, order: Order, asked: usize, answer: Result<Done, Status>) {
        let mut notes = self.notes.lock().unwrap_or_else(PoisonError::into_inner);
        let what = format!("{:?}", order.call);
        let what = what.split('(').next().unwrap_or_default().to_owned();
        let code = answer.as_ref().map_or_else(|status| format!("{:?}", status.code()), |_| "Ok".to_owned());
        *notes.codes.entry((what, code)).or_default() += 1;
        let call = format!("{:?} of p{} at controller {}", order.call, order.port, asked + 1);
        match answer {
            Ok(done) => notes.acks.push(Ack { call, port: name(order.port), done }),
            Err(status) if broke_off(&status) => {}
            // A bug, or a call that we do not know how to make.
            Err(status)
                if matches!(status.code(), Code::Internal | Code::InvalidArgument | Code::Unknown) =>
            {
                notes.faults.push(format!("{call}: {status}"));
            }
            Err(_) => {}
        }
    }
}

/// The connection broke, with its controller: that is what the transport says and no answer of anybody's.
fn broke_off(status: &Status) -> bool {
    std::error::Error::source(status).is_some()
}

/// The first that is said of a move; it goes on by itself.
async fn first(mut stream: tonic::Streaming<v1::Move>) -> Result<Done, Status> {
    match stream.message().await? {
        Some(moving) => Ok(Done::Moving(Box::new(moving))),
        None => Err(Status::unavailable("the stream ended before anything was said")),
    }
}

/// All events of ports, from a controller.
pub(crate) async fn events(channel: Channel) -> Result<Vec<v1::Event>> {
    use causeway_proto::v1::history_service_client::HistoryServiceClient;
    let mut client = HistoryServiceClient::new(channel).max_decoding_message_size(64 << 20);
    let mut stream = client.watch_events(v1::WatchEventsRequest::default()).await?.into_inner();
    let mut all = Vec::new();
    while let Some(message) = stream.message().await? {
        all.extend(message.events.into_iter().filter(|event| event.port.is_some()));
    }
    if all.is_empty() {
        bail!("the history is empty");
    }
    Ok(all)
}

/// All ports, from a controller.
pub(crate) async fn ports(channel: Channel) -> Result<Vec<v1::Port>> {
    let mut client = PortServiceClient::new(channel);
    Ok(client.list_ports(v1::ListPortsRequest::default()).await?.into_inner().ports)
}
