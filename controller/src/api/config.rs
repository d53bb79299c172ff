//! The configuration service: what operators declare.

use causeway_proto::v1;
use causeway_proto::v1::config_service_server::ConfigService;
use tonic::{Request, Response, Status};

use super::App;
use super::caller::caller;
use super::parse::short;
use super::status::Refusal;
use crate::intent::message::{self, Declared};
use crate::intent::{Action, Outcome};
use crate::model::{Node, Peer};

/// Records of one apply.
const RESOURCES: usize = 1000;

/// The service.
#[derive(Debug, Clone)]
pub(crate) struct Service(pub(crate) App);

#[tonic::async_trait]
impl ConfigService for Service {
    async fn apply(&self, request: Request<v1::ApplyRequest>) -> Result<Response<v1::ApplyResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let intent = self.0.intent.on_behalf(caller(&metadata, &extensions));
        let work = async {
            if request.resources.len() > RESOURCES {
                return Err(Refusal::field("resources", format!("are more than {RESOURCES}")));
            }
            let applied = intent.apply(&request.resources, request.dry_run).await?;
            self.0.wrote(applied.revision);
            let results = applied.outcomes.into_iter().map(outcome_message).collect();
            Ok(v1::ApplyResponse { results, revision: applied.revision.0 })
        };
        self.0.unary("ConfigService/Apply", &metadata, work).await
    }

    async fn get_resource(
        &self,
        request: Request<v1::GetResourceRequest>,
    ) -> Result<Response<v1::GetResourceResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = async {
            let snapshot = self.0.snapshot().await;
            let kind = kind(request.kind)?;
            let name = message::parse_name(kind, &request.name)
                .map_err(|wrong| Refusal::field(wrong.field, wrong.reason))?;
            let (record, revision) = message::by_name(&snapshot, &name).ok_or_else(|| {
                Refusal::not_found(
                    format!("{} {} does not exist", word(kind), short(&request.name)),
                    format!("known ones: causeway get {}s", word(kind)),
                )
            })?;
            Ok(v1::GetResourceResponse { resource: Some(record.to_resource()), revision: revision.0 })
        };
        self.0.unary("ConfigService/GetResource", &metadata, work).await
    }

    async fn list_resources(
        &self,
        request: Request<v1::ListResourcesRequest>,
    ) -> Result<Response<v1::ListResourcesResponse>, Status> {
        let (metadata, _, request) = request.into_parts();
        let work = async {
            let snapshot = self.0.snapshot().await;
            let records = message::list(&snapshot, kind(request.kind)?);
            let resources = records.iter().map(Declared::to_resource).collect();
            Ok(v1::ListResourcesResponse { resources, revision: snapshot.revision.0 })
        };
        self.0.unary("ConfigService/ListResources", &metadata, work).await
    }

    async fn delete_resource(
        &self,
        request: Request<v1::DeleteResourceRequest>,
    ) -> Result<Response<v1::DeleteResourceResponse>, Status> {
        let (metadata, extensions, request) = request.into_parts();
        let intent = self.0.intent.on_behalf(caller(&metadata, &extensions));
        let work = async {
            let revision = intent.delete(kind(request.kind)?, &request.name).await?;
            self.0.wrote(revision);
            Ok(v1::DeleteResourceResponse { revision: revision.0 })
        };
        self.0.unary("ConfigService/DeleteResource", &metadata, work).await
    }
}

fn kind(kind: i32) -> Result<v1::Kind, Refusal> {
    match v1::Kind::try_from(kind) {
        Ok(v1::Kind::Unspecified) => Err(Refusal::field("kind", "is required")),
        Ok(kind) => Ok(kind),
        Err(_) => Err(Refusal::field("kind", format!("{kind} is not known"))),
    }
}

fn word(kind: v1::Kind) -> &'static str {
    match kind {
        v1::Kind::Unspecified => "record",
        v1::Kind::Vrf => "vrf",
        v1::Kind::Network => "network",
        v1::Kind::Subnet => "subnet",
        v1::Kind::Node => "node",
        v1::Kind::Peer => "peer",
    }
}

fn outcome_message(outcome: Outcome) -> v1::ApplyResult {
    let action = match outcome.action {
        Action::Create => v1::ApplyAction::Create,
        Action::Update => v1::ApplyAction::Update,
        Action::Unchanged => v1::ApplyAction::Unchanged,
    };
    let change = |change: crate::intent::FieldChange| v1::FieldChange {
        field: change.field.to_owned(),
        old: change.old,
        new: change.new,
    };
    v1::ApplyResult {
        kind: outcome.kind.into(),
        name: outcome.name,
        action: action.into(),
        changes: outcome.changes.into_iter().map(change).collect(),
    }
}

/// A node as declared.
pub(super) fn node_message(node: &Node) -> Option<v1::Node> {
    match Declared::Node(node.clone()).to_resource().spec {
        Some(v1::resource::Spec::Node(node)) => Some(node),
        _ => None,
    }
}

/// A peer as declared.
pub(super) fn peer_message(peer: &Peer) -> Option<v1::Peer> {
    match Declared::Peer(peer.clone()).to_resource().spec {
        Some(v1::resource::Spec::Peer(peer)) => Some(peer),
        _ => None,
    }
}
