//! Leases and what stands on them: elections.

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use causeway_controller::election::Election;
use causeway_controller::store::{LeaseId, StoreError, WatchEvent, Write};
use causeway_tests::wait_for;
use tokio_util::sync::CancellationToken;

use crate::on_every_store;
use crate::rig::{Rig, SOON, changes, put, txn, write};

on_every_store!(
    keys_vanish_with_their_lease,
    a_renewed_lease_lives_on,
    a_revoked_lease_takes_its_keys_at_once,
    an_unknown_lease_is_refused,
    one_candidate_leads_and_another_follows,
);

const TTL: Duration = Duration::from_secs(2);

fn leased(key: &str, lease: LeaseId) -> Write {
    Write::Put { key: key.to_owned(), value: b"1".to_vec(), lease: Some(lease) }
}

async fn keys_vanish_with_their_lease(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let mut events = store.watch("", store.revision().await?).await?;
    let lease = store.grant_lease(TTL).await?;
    write(store.as_ref(), vec![leased("a", lease), leased("b", lease), put("c", "1")]).await?;
    // Put again without the lease: it stays.
    write(store.as_ref(), vec![put("b", "2")]).await?;
    changes(&mut events).await?;
    changes(&mut events).await?;
    let gone = changes(&mut events).await?;
    ensure!(gone.1 == ["[a]"], "{gone:?}");
    ensure!(store.get("a").await?.is_none() && store.get("b").await?.is_some());
    let renewed = store.keep_alive(lease).await;
    ensure!(matches!(renewed, Err(StoreError::LeaseExpired(_))), "{renewed:?}");
    Ok(())
}

async fn a_renewed_lease_lives_on(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let lease = store.grant_lease(TTL).await?;
    write(store.as_ref(), vec![leased("a", lease)]).await?;
    let start = Instant::now();
    wait_for("three lifetimes to pass", SOON, async || {
        store.keep_alive(lease).await?;
        ensure!(start.elapsed() > 3 * TTL, "only {:?} passed", start.elapsed());
        Ok(())
    })
    .await?;
    ensure!(store.get("a").await?.is_some());
    Ok(())
}

async fn a_revoked_lease_takes_its_keys_at_once(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let lease = store.grant_lease(Duration::from_secs(600)).await?;
    write(store.as_ref(), vec![leased("a", lease), leased("b", lease)]).await?;
    let mut events = store.watch("", store.revision().await?).await?;
    store.revoke_lease(lease).await?;
    ensure!(store.list("").await?.entries.is_empty());
    let (_, mut gone) = changes(&mut events).await?;
    gone.sort();
    ensure!(gone == ["[a]", "[b]"], "{gone:?}");
    // Once more is fine.
    store.revoke_lease(lease).await?;
    Ok(())
}

async fn an_unknown_lease_is_refused(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let lease = LeaseId(4711);
    let answer = store.txn(txn(Vec::new(), vec![leased("a", lease)])).await;
    ensure!(matches!(answer, Err(StoreError::LeaseExpired(id)) if id == lease), "{answer:?}");
    ensure!(store.list("").await?.entries.is_empty());
    ensure!(matches!(store.keep_alive(lease).await, Err(StoreError::LeaseExpired(_))));
    Ok(())
}

async fn one_candidate_leads_and_another_follows(rig: Rig) -> Result<()> {
    let stores = rig.open_many(3).await?;
    let mut events = stores[0].watch("election/", stores[0].revision().await?).await?;
    let cancels: Vec<_> = (0..3).map(|_| CancellationToken::new()).collect();
    let mut elections = Vec::new();
    for (i, store) in stores.iter().enumerate() {
        elections.push(Election::start(store.clone(), "gc", &format!("c{i}"), cancels[i].clone()));
    }
    let leader = async || {
        let leading: Vec<usize> = (0..3).filter(|i| elections[*i].is_leading()).collect();
        ensure!(leading.len() == 1, "leading: {leading:?}");
        Ok(leading[0])
    };
    let first = wait_for("a leader", SOON, leader).await?;
    // It goes in order and another one leads.
    cancels[first].cancel();
    let second = wait_for("another leader", SOON, async || {
        let now = leader().await?;
        ensure!(now != first);
        Ok(now)
    })
    .await?;
    // Somebody takes its key away: by the end of its lease it must have noticed.
    let mut lease_holder = elections[second].clone();
    ensure!(lease_holder.is_leading());
    cancels[second].cancel();
    tokio::time::timeout(SOON, lease_holder.lose()).await?;
    wait_for("the last candidate to lead", SOON, leader).await?;
    // The key was given to each of them in turn, never to two at once.
    let mut held = false;
    for _ in 0..5 {
        if let WatchEvent::Changes { changes, .. } = crate::rig::event(&mut events).await? {
            for change in changes {
                ensure!(change.is_ok() != held, "the key changed hands without being given up");
                held = change.is_ok();
            }
        }
    }
    Ok(())
}
