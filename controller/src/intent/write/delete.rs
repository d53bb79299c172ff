//! Deleting records that nothing refers to.

use causeway_proto::{Name, NetworkKey, Revision, v1};

use super::{Intent, IntentError, TRIES, catch_up, check, lost};
use crate::history::{Event, EventKind};
use crate::intent::Violation;
use crate::intent::message::{self, Declared};
use crate::keys::{self, RecordKey};
use crate::model::Port;
use crate::snapshot::Snapshot;
use crate::store::{Compare, Txn, TxnOutcome, Write};

/// Deletes one record.
pub(in crate::intent) async fn delete(
    intent: &Intent,
    kind: v1::Kind,
    name: &str,
) -> Result<Revision, IntentError> {
    let name = message::parse_name(kind, name).map_err(|wrong| IntentError::Invalid(vec![wrong]))?;
    for _ in 0..TRIES {
        let snapshot = intent.state.snapshot();
        let Some((record, seen)) = message::by_name(&snapshot, &name) else { return Ok(snapshot.revision) };
        if record.name() == Name::default_vrf().as_str() && kind == v1::Kind::Vrf {
            let reason = "the VRF default always exists; apply it without fields to reset it".to_owned();
            return Err(IntentError::Invalid(vec![Violation { field: "name".to_owned(), reason }]));
        }
        in_use(&record, &snapshot)?;
        let mut txn = transaction(&record, seen);
        let event = Event::of_record(EventKind::Deleted, check::owner_name(&record), String::new());
        super::tell(&mut txn, vec![event], &intent.by)?;
        let compares = txn.compares.clone();
        match intent.store.txn(txn).await? {
            TxnOutcome::Committed(at) => {
                catch_up(intent, at).await;
                return Ok(at);
            }
            TxnOutcome::Conflict(failing) => {
                let gone = !failing.is_empty() && intent.store.get(&record.key().path()).await?.is_none();
                if gone {
                    return Ok(intent.store.revision().await?);
                }
                lost(intent, &compares, &failing).await?;
            }
        }
    }
    Err(IntentError::Aborted(TRIES))
}

fn transaction(record: &Declared, seen: Revision) -> Txn {
    let path = record.key().path();
    let mut compares = vec![Compare::Unchanged(path.clone(), seen)];
    match record {
        Declared::Vrf(vrf) => compares.push(Compare::NoneBelow(keys::networks_of(&vrf.name))),
        Declared::Network(network) => {
            compares.push(Compare::NoneBelow(keys::ports_of(&network.key)));
            compares.push(Compare::NoneBelow(keys::subnets_of(&network.key)));
        }
        Declared::Subnet(subnet) => {
            compares.push(Compare::NoneBelow(keys::addresses_of(&subnet.network.vrf, subnet.prefix)));
        }
        Declared::Node(_) | Declared::Peer(_) => {}
    }
    let claims = check::claims(record).into_iter();
    // A node of the same name later is another one: it is not kept out.
    let fence = match record {
        Declared::Node(node) => Some(RecordKey::Fence(node.name.clone()).path()),
        _ => None,
    };
    let writes = std::iter::once(path).chain(claims).chain(fence).map(Write::Delete).collect();
    Txn { compares, writes }
}

fn in_use(record: &Declared, snapshot: &Snapshot) -> Result<(), IntentError> {
    let (reason, owner, hint) = match record {
        Declared::Vrf(vrf) => match snapshot.networks_of(&vrf.name).next() {
            None => return Ok(()),
            Some(network) => {
                let key = &network.value.key;
                let hint = format!("delete its networks first: causeway delete network {key}");
                ("cannot be deleted while it has networks", format!("network {key}"), hint)
            }
        },
        Declared::Network(network) => {
            if let Some(port) = snapshot.ports_of(&network.key).next() {
                let key = &port.value.key;
                let hint = way_out(&port.value);
                ("cannot be deleted while it has ports", format!("port {key}"), hint)
            } else if let Some(subnet) = snapshot.subnets_of(&network.key).next() {
                let name = format!("{}/{}", network.key.vrf, subnet.value.prefix);
                let hint = format!("delete its subnets first: causeway delete subnet {name}");
                ("cannot be deleted while it has subnets", format!("subnet {name}"), hint)
            } else if let Some(node) = lister(snapshot, &network.key) {
                let hint =
                    "take the network out of the node's networks first: causeway apply -f FILE".to_owned();
                ("cannot be deleted while a switch is to bridge it", format!("node {node}"), hint)
            } else {
                return Ok(());
            }
        }
        Declared::Subnet(subnet) => {
            let vrf = &subnet.network.vrf;
            let range = (vrf.clone(), subnet.prefix.network())..=(vrf.clone(), subnet.prefix.last());
            match snapshot.by_address.range(range).next() {
                None => return Ok(()),
                Some(((_, address), port)) => {
                    let key = &port.value.key;
                    let hint = way_out(&port.value);
                    (
                        "cannot be deleted while addresses of it are in use",
                        format!("port {key} ({address})"),
                        hint,
                    )
                }
            }
        }
        Declared::Node(node) => {
            if let Some(binding) = snapshot.bindings_at(&node.name).next() {
                let key = &binding.value.port;
                let hint = format!("unbind its ports first: causeway port unbind {key}");
                ("cannot be deleted while ports are bound to it", format!("port {key}"), hint)
            } else if let Some(port) = snapshot.moving_at(&node.name).next() {
                let hint =
                    format!("wait until the move is over, or take it back: causeway port rollback {port}");
                ("cannot be deleted while ports are moving from or to it", format!("port {port}"), hint)
            } else if let Some(host) = snapshot.hosts_behind(&node.name).next() {
                let host = &host.value.name;
                let hint = format!("delete the hosts behind it first: causeway delete node {host}");
                ("cannot be deleted while hosts are behind it", format!("node {host}"), hint)
            } else if let Some(vrf) = router_for(snapshot, &node.name) {
                let hint = "take the routes out of the vrf first: causeway apply -f FILE".to_owned();
                ("cannot be deleted while routes lead to it", format!("vrf {vrf}"), hint)
            } else {
                return Ok(());
            }
        }
        Declared::Peer(_) => return Ok(()),
    };
    let subject = check::owner_name(record);
    Err(IntentError::InUse { subject, reason: reason.to_owned(), owner, hint })
}

/// What to do about a port that is in the way.
fn way_out(port: &Port) -> String {
    let key = &port.key;
    match port.quarantined_ms {
        None => format!("release it first: causeway port release --forget {key}"),
        Some(_) => format!(
            "its quarantine ends by itself; or end it now: causeway port release --forget --no-quarantine {key}"
        ),
    }
}

/// A switch that lists a network.
fn lister<'a>(snapshot: &'a Snapshot, network: &NetworkKey) -> Option<&'a Name> {
    let mut nodes = snapshot.nodes.values().map(|record| &record.value);
    nodes.find(|node| node.networks.contains(network)).map(|node| &node.name)
}

/// A VRF with a route to a node.
fn router_for<'a>(snapshot: &'a Snapshot, node: &Name) -> Option<&'a Name> {
    let mut vrfs = snapshot.vrfs.values().map(|record| &record.value);
    vrfs.find(|vrf| vrf.routes.iter().any(|route| route.node == *node)).map(|vrf| &vrf.name)
}
