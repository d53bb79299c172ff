//! Keeping nodes out, and letting them in.

use causeway_proto::{Name, Revision, v1};

use super::{App, node_name};
use crate::api::status::Refusal;
use crate::history::{self, By, Event, EventKind};
use crate::keys::{self, RecordKey};
use crate::model::{Fence, NodeMode};
use crate::ports::now_ms;
use crate::store::{Compare, Txn, TxnOutcome, Write};

/// Keeps a node out. Repeating it changes nothing.
pub(super) async fn fence(app: &App, node: &str, by: By) -> Result<v1::FenceNodeResponse, Refusal> {
    let name = node_name(node)?;
    if by.reason.is_empty() {
        return Err(Refusal::field("reason", "is required: it stays in the record (--reason TEXT)"));
    }
    let snapshot = app.snapshot().await;
    let Some(node) = snapshot.nodes.get(&name) else {
        return Err(Refusal::not_found(
            format!("node {name} does not exist"),
            "known ones: causeway get nodes",
        ));
    };
    if !matches!(node.value.mode, NodeMode::HostVtep | NodeMode::Host) {
        let reason =
            format!("{name} is a {}: its own routes are not ours to withdraw; shut it off", node.value.mode);
        return Err(Refusal::field("node", reason));
    }
    let ports = u32::try_from(snapshot.bindings_at(&name).count()).unwrap_or(u32::MAX);
    let connected = app.agents.hearing(&name).connected;
    let answer = |at: Revision| v1::FenceNodeResponse { revision: at.0, ports, connected };
    if let Some(known) = snapshot.fences.get(&name) {
        return Ok(answer(known.revision));
    }
    let record =
        Fence { node: name.clone(), reason: by.reason.clone(), by: by.actor.clone(), since_ms: now_ms() };
    let path = RecordKey::Fence(name.clone()).path();
    let value = serde_json::to_vec(&record)
        .map_err(|error| Refusal::aborted(format!("the fence of node {name} cannot be written: {error}")))?;
    let compares =
        vec![Compare::Present(RecordKey::Node(name.clone()).path()), Compare::Absent(path.clone())];
    let event = Event {
        node: Some(name.clone()),
        ..Event::of_record(EventKind::Fenced, format!("node {name}"), format!("kept out, with {ports} ports"))
    };
    let at =
        commit(app, &name, compares, Write::Put { key: path, value, lease: None }, event.by(&by)).await?;
    tracing::warn!(node = %name, actor = by.actor, reason = by.reason, ports, "node fenced");
    Ok(answer(at))
}

/// Lets a node in. Repeating it changes nothing.
pub(super) async fn unfence(app: &App, node: &str, by: By) -> Result<v1::UnfenceNodeResponse, Refusal> {
    let name = node_name(node)?;
    let snapshot = app.snapshot().await;
    let Some(known) = snapshot.fences.get(&name) else {
        return Ok(v1::UnfenceNodeResponse { revision: snapshot.revision.0, was_fenced: false });
    };
    let path = RecordKey::Fence(name.clone()).path();
    let compares = vec![Compare::Unchanged(path.clone(), known.revision)];
    let event = Event {
        node: Some(name.clone()),
        ..Event::of_record(EventKind::Fenced, format!("node {name}"), "let in again".to_owned())
    };
    let at = commit(app, &name, compares, Write::Delete(path), event.by(&by)).await?;
    tracing::warn!(node = %name, actor = by.actor, "node let in again");
    Ok(v1::UnfenceNodeResponse { revision: at.0, was_fenced: true })
}

async fn commit(
    app: &App,
    node: &Name,
    compares: Vec<Compare>,
    write: Write,
    event: Event,
) -> Result<Revision, Refusal> {
    let value = history::encode(&[event])
        .map_err(|error| Refusal::aborted(format!("the event of node {node} cannot be written: {error}")))?;
    let told = Write::Put { key: keys::events(now_ms(), rand::random()), value, lease: None };
    match app.store.txn(Txn { compares, writes: vec![write, told] }).await? {
        TxnOutcome::Committed(revision) => {
            app.wrote(revision);
            // Who binds elsewhere right behind a fence is not asked to confirm it once more.
            app.snapshot().await;
            Ok(revision)
        }
        TxnOutcome::Conflict(_) => Err(Refusal::aborted(format!("node {node} changed meanwhile"))),
    }
}
