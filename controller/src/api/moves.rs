//! The move service.

mod drain;
mod fence;
mod follow;
mod ledger;
mod message;

use causeway_proto::v1::move_service_server::MoveService;
use causeway_proto::{Name, PortKey, v1};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status};

use super::App;
use super::caller::{caller, reason};
use super::parse;
use super::status::Refusal;
use crate::history::By;
use crate::ports::plan::{Context, bound_nowhere, preview};
use crate::ports::{MoveOrder, NewMac, Place, PortError, now_ms};
use crate::snapshot::Snapshot;

/// What an order has when it says nothing.
const MAX_LOSS_MS: u32 = 500;
const WINDOW_SECONDS: u32 = 60;
const PREPARE_SECONDS: u32 = 10;
/// Longest times that an order may ask for, in seconds.
const LONGEST_WINDOW: u32 = 86_400;
const LONGEST_PREPARE: u32 = 600;
/// Largest loss that an order may allow, in milliseconds.
const LARGEST_LOSS_MS: u32 = 600_000;
/// Messages that wait for a client.
const QUEUE: usize = 16;

type Moves = ReceiverStream<Result<v1::Move, Status>>;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) App);

#[tonic::async_trait]
impl MoveService for Service {
    type MigratePortStream = Moves;
    type RollbackPortStream = Moves;
    type DrainNodeStream = ReceiverStream<Result<v1::DrainNodeResponse, Status>>;

    async fn plan_move(
        &self,
        request: Request<v1::PlanMoveRequest>,
    ) -> Result<Response<v1::PlanMoveResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let by = caller(&metadata, &extensions);
        let work = async {
            let Some(asked) = request.r#move else { return Err(Refusal::field("move", "is required")) };
            let snapshot = self.0.snapshot().await;
            let (key, order) = order(&snapshot, asked, &by)?;
            let moving = self.preview(&snapshot, &key, &order)?;
            Ok(message::plan(&snapshot, &moving))
        };
        self.0.unary("MoveService/PlanMove", &metadata, work).await
    }

    async fn migrate_port(
        &self,
        request: Request<v1::MigratePortRequest>,
    ) -> Result<Response<Self::MigratePortStream>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let by = caller(&metadata, &extensions);
        let work = async {
            let snapshot = self.0.snapshot().await;
            let (key, order) = order(&snapshot, request, &by)?;
            begin(&self.0, key.clone(), order, &by).await?;
            Ok(self.follow(key))
        };
        self.0.unary("MoveService/MigratePort", &metadata, work).await
    }

    async fn rollback_port(
        &self,
        request: Request<v1::RollbackPortRequest>,
    ) -> Result<Response<Self::RollbackPortStream>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let by = caller(&metadata, &extensions).because(&reason(&request.reason));
        let work = async {
            let key = parse::port_key("key", request.key)?;
            let why = match by.reason.as_str() {
                "" => "asked to go back".to_owned(),
                reason => format!("asked to go back: {reason}"),
            };
            if request.force {
                tracing::warn!(port = %key, actor = by.actor, why, "taken back by force");
            }
            let ports = self.0.ports.on_behalf(by.clone());
            self.0.wrote(ports.turn_back(key.clone(), why, request.force).await?);
            Ok(self.follow(key))
        };
        self.0.unary("MoveService/RollbackPort", &metadata, work).await
    }

    async fn drain_node(
        &self,
        request: Request<v1::DrainNodeRequest>,
    ) -> Result<Response<Self::DrainNodeStream>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let by = caller(&metadata, &extensions);
        let work = async {
            let snapshot = self.0.snapshot().await;
            let drain = drain::Drain::new(&self.0, &snapshot, request, by)?;
            let (outbound, receiver) = mpsc::channel(QUEUE);
            let cancel = self.0.cancel.clone();
            self.0.tasks.spawn(cancel.run_until_cancelled_owned(drain.run(outbound)));
            Ok(ReceiverStream::new(receiver))
        };
        self.0.unary("MoveService/DrainNode", &metadata, work).await
    }

    async fn list_moves(
        &self,
        request: Request<v1::ListMovesRequest>,
    ) -> Result<Response<v1::ListMovesResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = async {
            let snapshot = self.0.snapshot().await;
            let node = match request.node.as_str() {
                "" => None,
                name => Some(node_name(name)?),
            };
            let wanted = |m: &crate::model::Move| {
                let here = node.as_ref().is_none_or(|n| m.from.node == *n || m.to.node == *n);
                here && (!request.active || !m.phase.is_over())
            };
            let mut moves: Vec<_> = snapshot.moves.values().filter(|r| wanted(&r.value)).collect();
            moves.sort_by_key(|record| (record.value.phase.is_over(), record.value.port.clone()));
            let moves = moves.into_iter().map(|record| message::of(&self.0, &snapshot, record)).collect();
            Ok(v1::ListMovesResponse { moves })
        };
        self.0.unary("MoveService/ListMoves", &metadata, work).await
    }

    async fn list_ledger(
        &self,
        request: Request<v1::ListLedgerRequest>,
    ) -> Result<Response<v1::ListLedgerResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        self.0.unary("MoveService/ListLedger", &metadata, ledger::list(&self.0, request)).await
    }

    async fn fence_node(
        &self,
        request: Request<v1::FenceNodeRequest>,
    ) -> Result<Response<v1::FenceNodeResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let by = caller(&metadata, &extensions).because(&reason(&request.reason));
        self.0.unary("MoveService/FenceNode", &metadata, fence::fence(&self.0, &request.node, by)).await
    }

    async fn unfence_node(
        &self,
        request: Request<v1::UnfenceNodeRequest>,
    ) -> Result<Response<v1::UnfenceNodeResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let by = caller(&metadata, &extensions);
        self.0.unary("MoveService/UnfenceNode", &metadata, fence::unfence(&self.0, &request.node, by)).await
    }
}

fn node_name(text: &str) -> Result<Name, Refusal> {
    text.parse().map_err(|error| Refusal::field("node", format!("'{}' {error}", parse::short(text))))
}

/// A number of the request, or what it is when nothing is said.
fn number(field: &str, given: u32, default: u32, most: u32) -> Result<u32, Refusal> {
    match given {
        0 => Ok(default),
        n if n <= most => Ok(n),
        n => Err(Refusal::field(field, format!("{n} is more than {most}"))),
    }
}

/// What is asked for, with what nobody said filled in.
fn order(
    snapshot: &Snapshot,
    asked: v1::MigratePortRequest,
    by: &By,
) -> Result<(PortKey, MoveOrder), Refusal> {
    let key = parse::port_key("key", asked.key)?;
    let Some(mut to) = asked.to else { return Err(Refusal::field("to", "is required")) };
    if !snapshot.ports.contains_key(&key) {
        return Err(PortError::NoPort(key).into());
    }
    // Where it goes follows from where it is: first of all it must be somewhere.
    let Some(binding) = snapshot.bindings.get(&key).map(|record| &record.value).filter(|b| b.active) else {
        return Err(bound_nowhere(&key, &to.node).into());
    };
    if to.kind == i32::from(v1::WorkloadKind::Unspecified) {
        to.kind = crate::intent::message::words::kind(binding.kind).into();
    }
    let to: Place = parse::place("to", to)?;
    let window = number("window_seconds", asked.window_seconds, WINDOW_SECONDS, LONGEST_WINDOW)?;
    let prepare = number("prepare_seconds", asked.prepare_seconds, PREPARE_SECONDS, LONGEST_PREPARE)?;
    let mac = match asked.mac.as_str() {
        "" => None,
        "computed" => Some(NewMac::Computed),
        mac => Some(NewMac::Given(parse::text("mac", mac)?)),
    };
    let order = MoveOrder {
        to,
        mac,
        max_loss_ms: number("max_loss_ms", asked.max_loss_ms, MAX_LOSS_MS, LARGEST_LOSS_MS)?,
        window_ms: i64::from(window) * 1000,
        prepare_ms: i64::from(prepare) * 1000,
        force: asked.force,
        by: by.actor.clone(),
    };
    Ok((key, order))
}

/// Begins a move.
async fn begin(app: &App, key: PortKey, order: MoveOrder, by: &By) -> Result<(), PortError> {
    if order.force {
        tracing::warn!(port = %key, to = %order.to.node, actor = by.actor, "moved by force");
    }
    let (_, revision) = app.ports.on_behalf(by.clone()).move_to(key, order).await?;
    app.wrote(revision);
    Ok(())
}

impl Service {
    fn preview(
        &self,
        snapshot: &Snapshot,
        key: &PortKey,
        order: &MoveOrder,
    ) -> Result<crate::model::Move, Refusal> {
        let heard = self.0.mover.heard.borrow().clone();
        let agents = self.0.agents.clone();
        let hearing = move |node: &Name| agents.hearing(node);
        let context = Context { now_ms: now_ms(), seed: None, heard: &heard, hearing: &hearing };
        match preview(snapshot, key, order, context)? {
            Some(moving) => Ok(moving),
            None => snapshot
                .moves
                .get(key)
                .map(|record| record.value.clone())
                .ok_or_else(|| Refusal::unavailable("the move is not shown yet")),
        }
    }

    fn follow(&self, key: PortKey) -> Moves {
        let (outbound, receiver) = mpsc::channel(QUEUE);
        let app = self.0.clone();
        let cancel = self.0.cancel.clone();
        let following = async move { follow::follow(&app, &key, outbound).await };
        self.0.tasks.spawn(cancel.run_until_cancelled_owned(following));
        ReceiverStream::new(receiver)
    }
}
