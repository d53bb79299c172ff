//! The history service.

use std::net::IpAddr;

use causeway_proto::v1::history_service_server::HistoryService;
use causeway_proto::{Name, PortKey, v1};
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::port_message::key_message;
use super::status::Refusal;
use super::timeline::timeline;
use super::{App, events, parse};
use crate::history::{Event, EventKind, Holder, Told};
use crate::ports::now_ms;

/// Events of one answer at most, and when the client says nothing.
const MOST: usize = 1000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) App);

#[tonic::async_trait]
impl HistoryService for Service {
    type WatchEventsStream = ReceiverStream<Result<v1::WatchEventsResponse, Status>>;

    async fn watch_events(
        &self,
        request: Request<v1::WatchEventsRequest>,
    ) -> Result<Response<Self::WatchEventsStream>, Status> {
        let receiver = events::start(self.0.clone(), request.into_inner()).await?;
        Ok(Response::new(ReceiverStream::new(receiver)))
    }

    async fn list_address_history(
        &self,
        request: Request<v1::ListAddressHistoryRequest>,
    ) -> Result<Response<v1::ListAddressHistoryResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = async {
            let (vrf, address) = place(&request.vrf, &request.address)?;
            let since_ms = time("since_ms", request.since_ms)?;
            let most = match request.limit as usize {
                0 => MOST,
                n if n <= MOST => n,
                _ => return Err(Refusal::field("limit", format!("is more than {MOST}"))),
            };
            let snapshot = self.0.snapshot().await;
            let (told, truncated) =
                self.0.history.of_address(&snapshot, &vrf, address, since_ms, most).await?;
            let events = told.into_iter().map(event_message).collect();
            Ok(v1::ListAddressHistoryResponse { events, truncated })
        };
        self.0.unary("HistoryService/ListAddressHistory", &metadata, work).await
    }

    async fn get_address_holder(
        &self,
        request: Request<v1::GetAddressHolderRequest>,
    ) -> Result<Response<v1::GetAddressHolderResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = async {
            let (vrf, address) = place(&request.vrf, &request.address)?;
            let at_ms = match time("time_ms", request.time_ms)? {
                // Whatever any clock says.
                0 => i64::MAX,
                at_ms => at_ms,
            };
            let snapshot = self.0.snapshot().await;
            let holder = self.0.history.holder(&snapshot, &vrf, address, at_ms).await?;
            let known_since_ms = self.0.history_ms.map_or(0, |kept| now_ms().saturating_sub(kept));
            let answer = holder.map(holder_message).unwrap_or_default();
            Ok(v1::GetAddressHolderResponse { known_since_ms, ..answer })
        };
        self.0.unary("HistoryService/GetAddressHolder", &metadata, work).await
    }

    async fn get_port_timeline(
        &self,
        request: Request<v1::GetPortTimelineRequest>,
    ) -> Result<Response<v1::GetPortTimelineResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = async {
            let key = parse::port_key("key", request.key)?;
            timeline(&self.0, &key, request.limit).await
        };
        self.0.unary("HistoryService/GetPortTimeline", &metadata, work).await
    }
}

/// A VRF and an address.
fn place(vrf: &str, address: &str) -> Result<(Name, IpAddr), Refusal> {
    let vrf = match vrf {
        "" => Name::default_vrf(),
        vrf => parse::text("vrf", vrf)?,
    };
    let wrong = || Refusal::field("address", format!("'{}' is not an IP address", parse::short(address)));
    Ok((vrf, address.parse().map_err(|_| wrong())?))
}

/// A time in Unix milliseconds.
pub(super) fn time(field: &str, ms: i64) -> Result<i64, Refusal> {
    match ms {
        0.. => Ok(ms),
        _ => Err(Refusal::field(field, format!("{ms} is before 1970"))),
    }
}

fn holder_message(holder: Holder) -> v1::GetAddressHolderResponse {
    let state = match (holder.state, &holder.node) {
        (Some(EventKind::Released), _) => v1::PortState::Released,
        (Some(EventKind::Quarantined), _) => v1::PortState::Quarantined,
        (_, Some(_)) => v1::PortState::Bound,
        (_, None) => v1::PortState::Reserved,
    };
    v1::GetAddressHolderResponse {
        port: Some(key_message(&holder.port)),
        mac: holder.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        state: state.into(),
        node: holder.node.map(|node| node.to_string()).unwrap_or_default(),
        from_ms: holder.from_ms,
        to_ms: holder.to_ms.unwrap_or_default(),
        last: holder.last.map(event_message),
        next: holder.next.map(event_message),
        known_since_ms: 0,
    }
}

/// An event as a message.
pub(super) fn event_message(told: Told) -> v1::Event {
    let Told { at_ms, revision, event } = told;
    let name = |name: Option<Name>| name.map(|name| name.to_string()).unwrap_or_default();
    v1::Event {
        time_ms: at_ms,
        revision: revision.0,
        kind: kind_message(event.kind).into(),
        port: event.port.as_ref().map(key_message),
        record: event.record,
        addresses: event.addresses.iter().map(ToString::to_string).collect(),
        mac: event.mac.map(|mac| mac.to_string()).unwrap_or_default(),
        node: name(event.node),
        from_node: name(event.from_node),
        generation: event.generation,
        cause: event.cause,
        actor: event.actor,
        peer: event.peer,
        reason: event.reason,
    }
}

/// Kinds and their numbers.
const KINDS: [(EventKind, v1::EventKind); 18] = [
    (EventKind::Created, v1::EventKind::Created),
    (EventKind::TakenBack, v1::EventKind::TakenBack),
    (EventKind::Bound, v1::EventKind::Bound),
    (EventKind::Unbound, v1::EventKind::Unbound),
    (EventKind::Moved, v1::EventKind::Moved),
    (EventKind::Released, v1::EventKind::Released),
    (EventKind::Quarantined, v1::EventKind::Quarantined),
    (EventKind::Freed, v1::EventKind::Freed),
    (EventKind::Updated, v1::EventKind::Updated),
    (EventKind::Adopted, v1::EventKind::Adopted),
    (EventKind::Declared, v1::EventKind::Declared),
    (EventKind::Deleted, v1::EventKind::Deleted),
    (EventKind::RolledBack, v1::EventKind::RolledBack),
    (EventKind::Fenced, v1::EventKind::Fenced),
    (EventKind::Repaired, v1::EventKind::Repaired),
    (EventKind::Moving, v1::EventKind::Moving),
    (EventKind::Duplicate, v1::EventKind::Duplicate),
    (EventKind::Held, v1::EventKind::Held),
];

fn kind_message(kind: EventKind) -> v1::EventKind {
    KINDS.iter().find(|(k, _)| *k == kind).map_or(v1::EventKind::Unspecified, |(_, message)| *message)
}

/// Which events; every field that is set must match.
#[derive(Debug, Clone, Default)]
pub(super) struct EventFilter {
    port: Option<PortKey>,
    node: Option<Name>,
    kinds: Vec<EventKind>,
    actor: String,
}

impl EventFilter {
    /// From a message; absent: all.
    pub(super) fn read(filter: Option<v1::EventFilter>) -> Result<Self, Refusal> {
        let filter = filter.unwrap_or_default();
        let port = filter.port.map(|key| parse::port_key("filter.port", Some(key))).transpose()?;
        let node = match filter.node.as_str() {
            "" => None,
            node => Some(parse::text("filter.node", node)?),
        };
        let mut kinds = Vec::with_capacity(filter.kinds.len());
        for (i, number) in filter.kinds.iter().enumerate() {
            let known = KINDS.iter().find(|(_, message)| i32::from(*message) == *number);
            let (kind, _) = known.ok_or_else(|| {
                Refusal::field(format!("filter.kinds[{i}]"), format!("{number} is not known"))
            })?;
            kinds.push(*kind);
        }
        Ok(EventFilter { port, node, kinds, actor: filter.actor })
    }

    /// True if it is one of these.
    pub(super) fn matches(&self, event: &Event) -> bool {
        self.port.as_ref().is_none_or(|port| event.port.as_ref() == Some(port))
            && self.node.as_ref().is_none_or(|node| event.concerns(node))
            && (self.kinds.is_empty() || self.kinds.contains(&event.kind))
            && (self.actor.is_empty() || self.actor == event.actor)
    }
}
