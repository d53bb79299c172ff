//! Values, listings, transactions.

use anyhow::{Context, Result, ensure};
use causeway_controller::store::{Compare, StoreError, Txn, TxnOutcome};
use causeway_proto::Revision;

use crate::on_every_store;
use crate::rig::{Rig, delete, put, txn, write};

on_every_store!(
    values_come_back_with_their_revision,
    listings_are_ordered_and_only_of_the_prefix,
    ranges_begin_and_end_where_they_should,
    each_kind_of_compare_holds_and_fails,
    a_lost_transaction_says_which_compares_and_writes_nothing,
    a_transaction_takes_128_operations_and_no_more,
    a_key_twice_in_a_transaction_is_refused,
    large_listings_are_whole_and_of_one_revision,
);

async fn values_come_back_with_their_revision(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    ensure!(store.get("a").await?.is_none());
    let all_bytes: Vec<u8> = (0..=255).collect();
    for value in [b"one".to_vec(), Vec::new(), all_bytes, vec![7; 100_000]] {
        let at = write(store.as_ref(), vec![put("a", &value)]).await?;
        let got = store.get("a").await?.context("value is gone")?;
        ensure!((got.key.as_str(), &got.value, got.revision) == ("a", &value, at), "{at}");
        ensure!(store.revision().await? == at);
    }
    let last = store.revision().await?;
    let at = write(store.as_ref(), vec![delete("a"), put("b", "2")]).await?;
    ensure!(at > last && store.get("a").await?.is_none());
    ensure!(store.get("b").await?.is_some_and(|entry| entry.revision == at));
    // Nothing changes, so there is no new revision.
    ensure!(write(store.as_ref(), vec![delete("a")]).await? == at);
    ensure!(store.revision().await? == at);
    Ok(())
}

async fn listings_are_ordered_and_only_of_the_prefix(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let keys = ["a", "a/1", "a/10", "a/2", "a/~", "a/é", "a0", "b/1"];
    write(store.as_ref(), keys.iter().rev().map(|key| put(key, key)).collect()).await?;
    let list = async |prefix: &str| -> Result<Vec<String>> {
        Ok(store.list(prefix).await?.entries.into_iter().map(|entry| entry.key).collect())
    };
    ensure!(list("").await? == keys);
    ensure!(list("a/").await? == ["a/1", "a/10", "a/2", "a/~", "a/é"]);
    ensure!(list("a/1").await? == ["a/1", "a/10"]);
    ensure!(list("c").await?.is_empty());
    ensure!(store.list("c").await?.revision == store.revision().await?);
    Ok(())
}

async fn ranges_begin_and_end_where_they_should(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let keys = ["a", "b/", "b/1", "b/2", "b/3", "b0", "c"];
    write(store.as_ref(), keys.iter().map(|key| put(key, *key)).collect()).await?;
    let range = async |first: &str, end: &str, most: usize| -> Result<Vec<String>> {
        let listing = store.range(first, end, most).await?;
        assert!(listing.revision >= listing.entries.iter().map(|e| e.revision).max().unwrap_or_default());
        Ok(listing.entries.into_iter().map(|entry| entry.key).collect())
    };
    assert_eq!(range("b/", "b0", 10).await?, ["b/", "b/1", "b/2", "b/3"]);
    assert_eq!(range("b/", "b0", 2).await?, ["b/", "b/1"]);
    assert_eq!(range("b/1\0", "b/3", 10).await?, ["b/2"]);
    for (first, end, most) in [("x", "y", 10), ("c", "a", 10), ("a", "a", 10), ("a", "c", 0)] {
        assert!(range(first, end, most).await?.is_empty(), "{first} {end} {most}");
    }
    Ok(())
}

async fn each_kind_of_compare_holds_and_fails(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let first = write(store.as_ref(), vec![put("there", "1"), put("below/x", "1")]).await?;
    let second = write(store.as_ref(), vec![put("there", "2")]).await?;
    let key = |text: &str| text.to_owned();
    let cases = [
        (Compare::Absent(key("none")), true),
        (Compare::Absent(key("there")), false),
        (Compare::Present(key("there")), true),
        (Compare::Present(key("none")), false),
        (Compare::Unchanged(key("there"), second), true),
        (Compare::Unchanged(key("there"), first), false),
        (Compare::Unchanged(key("none"), first), false),
        (Compare::Unchanged(key("below/x"), first), true),
        (Compare::Unchanged(key("none"), Revision(0)), true),
        (Compare::NoneBelow(key("below/")), false),
        (Compare::NoneBelow(key("belo")), false),
        (Compare::NoneBelow(key("below/x/")), true),
        (Compare::NoneBelow(key("zzz")), true),
    ];
    for (i, (compare, holds)) in cases.into_iter().enumerate() {
        let outcome = store.txn(txn(vec![compare.clone()], vec![put(&format!("mark/{i}"), "")])).await?;
        ensure!(matches!(outcome, TxnOutcome::Committed(_)) == holds, "{compare:?}: {outcome:?}");
        ensure!(store.get(&format!("mark/{i}")).await?.is_some() == holds, "{compare:?}");
    }
    Ok(())
}

async fn a_lost_transaction_says_which_compares_and_writes_nothing(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let at = write(store.as_ref(), vec![put("a", "1"), put("b/1", "1")]).await?;
    let key = |text: &str| text.to_owned();
    let compares = vec![
        Compare::Present(key("a")),
        Compare::Absent(key("a")),
        Compare::Absent(key("c")),
        Compare::NoneBelow(key("b/")),
        Compare::Unchanged(key("a"), Revision(at.0 + 1)),
        Compare::Unchanged(key("a"), at),
        Compare::Present(key("c")),
    ];
    let outcome = store.txn(txn(compares, vec![put("x", "1"), delete("a"), put("b/1", "2")])).await?;
    ensure!(outcome == TxnOutcome::Conflict(vec![1, 3, 4, 6]), "{outcome:?}");
    ensure!(store.revision().await? == at && store.get("x").await?.is_none());
    ensure!(store.get("a").await?.is_some());
    Ok(())
}

async fn a_transaction_takes_128_operations_and_no_more(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let make = |n: usize| {
        let key = |i: usize| format!("k/{i:03}");
        txn((0..n).map(|i| Compare::Absent(key(i))).collect(), (0..n).map(|i| put(&key(i), "v")).collect())
    };
    let over = store.txn(make(Txn::MAX_OPS + 1)).await;
    ensure!(matches!(over, Err(StoreError::TooLarge(129))), "{over:?}");
    ensure!(matches!(store.txn(make(Txn::MAX_OPS)).await?, TxnOutcome::Committed(_)));
    ensure!(store.list("k/").await?.entries.len() == Txn::MAX_OPS);
    // All of them fail, and all are named.
    let outcome = store.txn(make(Txn::MAX_OPS)).await?;
    ensure!(outcome == TxnOutcome::Conflict((0..Txn::MAX_OPS).collect()), "{outcome:?}");
    Ok(())
}

async fn a_key_twice_in_a_transaction_is_refused(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let twice = store.txn(txn(Vec::new(), vec![put("a", "1"), put("b", "1"), put("a", "2")])).await;
    ensure!(matches!(twice, Err(StoreError::Internal { .. })), "{twice:?}");
    ensure!(store.list("").await?.entries.is_empty());
    Ok(())
}

async fn large_listings_are_whole_and_of_one_revision(rig: Rig) -> Result<()> {
    const KEYS: usize = 50_000;
    let store = rig.open().await?;
    let key = |i: usize| format!("many/{i:06}");
    for first in (0..KEYS).step_by(125) {
        write(store.as_ref(), (first..first + 125).map(|i| put(&key(i), vec![b'x'; 200])).collect()).await?;
    }
    let mut listing = store.pages("many/").await?;
    ensure!(listing.revision == store.revision().await?);
    let mut seen = 0;
    while let Some(page) = listing.pages.recv().await {
        for entry in page? {
            ensure!(entry.key == key(seen) && entry.value == vec![b'x'; 200], "{} at {seen}", entry.key);
            ensure!(entry.revision <= listing.revision);
            seen += 1;
        }
        // Changes while it is read do not show.
        write(store.as_ref(), vec![delete(&key(KEYS - 1)), put(&key(KEYS - 2), "changed")]).await?;
    }
    ensure!(seen == KEYS, "{seen}");
    ensure!(store.list("many/").await?.entries.len() == KEYS - 1);
    Ok(())
}
