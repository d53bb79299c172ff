//! The snapshot and its subscribers on every store.

use std::collections::BTreeSet;

use anyhow::{Context, Result, ensure};
use causeway_controller::keys::RecordKey;
use causeway_controller::state::{Changes, State};
use tokio_util::sync::CancellationToken;

use crate::on_every_store;
use crate::rig::{Rig, SOON, delete, put, write};

on_every_store!(subscribers_learn_what_changed, values_that_cannot_be_read_are_left_out,);

fn node(name: &str, last: u8) -> causeway_controller::store::Write {
    let json =
        format!(r#"{{"name":"{name}","mode":"host-vtep","vtep":"10.0.0.{last}","underlay_mtu":1500}}"#);
    put(&format!("intent/node/{name}"), json)
}

async fn subscribers_learn_what_changed(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    write(store.as_ref(), vec![node("a", 1)]).await?;
    let cancel = CancellationToken::new();
    let state = State::start(store.clone(), cancel.clone()).await?;
    let mut subscription = state.subscribe();
    let first = subscription.next().await.context("ended")?;
    ensure!(first.changes == Changes::Everything && first.snapshot.nodes.len() == 1);
    let at = write(store.as_ref(), vec![node("b", 2), put("elsewhere", "x")]).await?;
    write(store.as_ref(), vec![put("elsewhere", "y")]).await?;
    let at = at.max(write(store.as_ref(), vec![delete("intent/node/a")]).await?);
    let mut seen = BTreeSet::new();
    while seen.len() < 2 {
        let change = tokio::time::timeout(SOON, subscription.next()).await?.context("ended")?;
        let Changes::Records(records) = change.changes else { anyhow::bail!("{:?}", change.changes) };
        for key in records {
            let RecordKey::Node(name) = &key else { anyhow::bail!("{key:?}") };
            ensure!(change.snapshot.nodes.contains_key(name) == (name.as_str() == "b"));
            seen.insert(key);
        }
    }
    let snapshot = tokio::time::timeout(SOON, state.wait_for(at)).await??;
    ensure!(snapshot.nodes.len() == 1 && snapshot.vrfs.len() == 1);
    cancel.cancel();
    ensure!(tokio::time::timeout(SOON, subscription.next()).await?.is_none());
    ensure!(state.wait_for(causeway_proto::Revision(u64::MAX)).await.is_err());
    Ok(())
}

async fn values_that_cannot_be_read_are_left_out(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let bad = [
        put("intent/node/json", "{"),
        put("intent/node/bytes", [0xff, 0xfe]),
        put("intent/node/empty", ""),
        put("intent/node/other", r#"{"name":"x","mode":"host-vtep","vtep":"10.0.0.9","underlay_mtu":1500}"#),
        put("intent/node/Bad Name", "{}"),
        put("intent/unknown/kind", "{}"),
        put("intent/port/web", "{}"),
    ];
    let count = bad.len();
    write(store.as_ref(), bad.into_iter().chain([node("good", 1)]).collect()).await?;
    let cancel = CancellationToken::new();
    let state = State::start(store.clone(), cancel.clone()).await?;
    ensure!(state.undecodable() == count, "{}", state.undecodable());
    ensure!(state.snapshot().nodes.len() == 1);
    // One is mended, one is removed, one becomes bad.
    let at = write(
        store.as_ref(),
        vec![node("json", 2), delete("intent/node/empty"), put("intent/node/good", "1")],
    )
    .await?;
    let snapshot = tokio::time::timeout(SOON, state.wait_for(at)).await??;
    ensure!(state.undecodable() == count - 1, "{}", state.undecodable());
    // The record that became bad stays as it was.
    ensure!(snapshot.nodes.len() == 2);
    cancel.cancel();
    Ok(())
}
