//! Bindings and moves against ports and nodes.

use causeway_proto::PortKey;

use super::super::{Act, Finding, Problem, Repair};
use super::{event, put};
use crate::history::Event;
use crate::keys::RecordKey;
use crate::model::Binding;
use crate::snapshot::{Record, Snapshot};
use crate::store::{Compare, Write};

pub(super) fn check(snapshot: &Snapshot, now_ms: i64, found: &mut Vec<Finding>) {
    for binding in snapshot.bindings.values() {
        of_binding(snapshot, binding, now_ms, found);
    }
    for (key, moved) in snapshot.moves.iter().filter(|(key, _)| !snapshot.ports.contains_key(*key)) {
        let record = RecordKey::Move(key.clone());
        let evidence = vec![
            Compare::Absent(RecordKey::Port(key.clone()).path()),
            Compare::Unchanged(record.path(), moved.revision),
        ];
        found.push(orphan("move", key, &record, evidence));
    }
}

fn of_binding(snapshot: &Snapshot, binding: &Record<Binding>, now_ms: i64, found: &mut Vec<Finding>) {
    let Binding { port: key, node, active, .. } = &binding.value;
    let record = RecordKey::Binding(key.clone());
    let as_read = Compare::Unchanged(record.path(), binding.revision);
    let Some(port) = snapshot.ports.get(key) else {
        let evidence = vec![Compare::Absent(RecordKey::Port(key.clone()).path()), as_read];
        found.push(orphan("binding", key, &record, evidence));
        return;
    };
    let known = snapshot.nodes.contains_key(node);
    if !active || (known && port.value.released_ms.is_none()) {
        return;
    }
    let why = match known {
        true => format!("is released and yet bound to node {node}"),
        false => format!("is bound to node {node}, which does not exist"),
    };
    let mut evidence = vec![Compare::Unchanged(RecordKey::Port(key.clone()).path(), port.revision), as_read];
    if !known {
        evidence.push(Compare::Absent(RecordKey::Node(node.clone()).path()));
    }
    let unbound = Binding { active: false, changed_ms: now_ms, ..binding.value.clone() };
    let before = Some(binding.value.changed_ms).filter(|ms| *ms != 0);
    let told = Event {
        addresses: port.value.addresses.clone(),
        mac: Some(port.value.mac),
        from_node: Some(node.clone()),
        generation: binding.value.generation,
        ..event(Some(key), "", &format!("unbound: it {why}"), before.into_iter().collect())
    };
    found.push(Finding {
        problem: Problem::StrayBinding,
        subject: format!("port {key}"),
        text: why,
        hint: String::new(),
        evidence,
        repair: put(record.path(), &unbound).map(|write| Repair {
            words: "unbind it; addresses and generation stay".to_owned(),
            act: Act::Write(vec![write], vec![told]),
        }),
    });
}

/// A record about a port that does not exist.
fn orphan(what: &str, key: &PortKey, record: &RecordKey, evidence: Vec<Compare>) -> Finding {
    let told = event(None, &format!("{what} of port {key}"), "removed: the port does not exist", Vec::new());
    Finding {
        problem: Problem::StrayBinding,
        subject: format!("port {key}"),
        text: format!("does not exist, and has a {what} record"),
        hint: String::new(),
        evidence,
        repair: Some(Repair {
            words: "remove the record".to_owned(),
            act: Act::Write(vec![Write::Delete(record.path())], vec![told]),
        }),
    }
}
