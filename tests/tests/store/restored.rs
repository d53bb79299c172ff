//! An etcd that was restored from an older copy of itself while we are connected.

use anyhow::{Result, bail, ensure};
use causeway_controller::store::{Compare, EtcdOptions, EtcdStore, Store, TxnOutcome, WatchEvent};
use causeway_proto::Revision;
use causeway_tests::Etcd;
use causeway_tests::etcd::EtcdVersion;
use causeway_tests::slot::Slot;
use tokio::sync::mpsc;

use crate::rig::{changes, event, put, txn, write};

async fn open(etcd: &Etcd) -> Result<EtcdStore> {
    Ok(EtcdStore::new(EtcdOptions::new([etcd.endpoint()])).await?)
}

/// Writes numbers; the revision of the last one.
async fn count(store: &dyn Store, key: &str, numbers: std::ops::Range<u32>) -> Result<Revision> {
    let mut last = Revision::default();
    for n in numbers {
        last = write(store, vec![put(key, n.to_string())]).await?;
    }
    Ok(last)
}

/// Reads on until the word comes that everything has to be listed anew.
async fn asked_to_list(events: &mut mpsc::Receiver<WatchEvent>) -> Result<()> {
    loop {
        match event(events).await? {
            WatchEvent::Relist => return Ok(()),
            WatchEvent::Changes { .. } | WatchEvent::Disconnected | WatchEvent::Connected => {}
        }
    }
}

/// What holds after a restore, whichever way it was made.
async fn goes_on(store: &EtcdStore, events: &mut mpsc::Receiver<WatchEvent>, seen: Revision) -> Result<()> {
    asked_to_list(events).await?;
    let listed = store.list("a/").await?;
    ensure!(listed.revision > seen, "{} after {seen}", listed.revision);
    let [entry] = &listed.entries[..] else { bail!("{listed:?}") };
    ensure!(entry.value == b"4", "the copy's value: {entry:?}");
    let at = write(store, vec![put("a/n", "new")]).await?;
    ensure!(at > listed.revision);
    // What the listing showed may be told again.
    loop {
        let (told, texts) = changes(events).await?;
        if told > listed.revision {
            ensure!((told, &texts[..]) == (at, &["a/n=new".to_owned()][..]), "{told} {texts:?}");
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_restored_store_is_listed_anew_and_its_revisions_go_on() -> Result<()> {
    for version in EtcdVersion::ALL {
        let mut etcd = Etcd::start(version).await?;
        let directory = Slot::get()?.directory("copy")?;
        let copy = directory.path().join("etcd.db");
        let store = open(&etcd).await?;
        let mut events = store.watch("a/", store.revision().await?).await?;
        // Nothing ever happens here: this watch cannot find out by itself.
        let mut quiet = store.watch("b/", store.revision().await?).await?;
        count(&store, "a/n", 0..5).await?;
        etcd.save(&copy).await?;
        // More than are written at once to make up for it.
        let seen = count(&store, "a/n", 5..600).await?;
        let between = Revision(seen.0 - 5);
        etcd.restore(&copy, &[]).await?;
        goes_on(&store, &mut events, seen).await?;
        asked_to_list(&mut quiet).await?;
        let at = write(&store, vec![put("b/n", "1")]).await?;
        ensure!(changes(&mut quiet).await? == (at, vec!["b/n=1".to_owned()]));
        // Revisions of before the restore mean nothing any more.
        let stale = txn(vec![Compare::Unchanged("a/n".into(), between)], vec![put("a/n", "lost")]);
        ensure!(store.txn(stale).await? == TxnOutcome::Conflict(vec![0]));
        let mut resumed = store.watch("a/", between).await?;
        ensure!(event(&mut resumed).await? == WatchEvent::Relist, "a resumption from before the restore");
        // It happens again: nothing of the first time is in the way.
        let seen = store.revision().await?;
        etcd.restore(&copy, &[]).await?;
        goes_on(&store, &mut events, seen).await?;
    }
    Ok(())
}

/// Somebody else's writes, or etcd's own tool, have carried the revisions on before we are back.
#[tokio::test(flavor = "multi_thread")]
async fn a_restored_store_that_has_gone_on_is_recognised() -> Result<()> {
    for version in EtcdVersion::ALL {
        let mut etcd = Etcd::start(version).await?;
        let directory = Slot::get()?.directory("copy")?;
        let [copy, later] = ["etcd.db", "later.db"].map(|name| directory.path().join(name));
        let store = open(&etcd).await?;
        let mut events = store.watch("a/", store.revision().await?).await?;
        count(&store, "a/n", 0..5).await?;
        etcd.save(&copy).await?;
        let seen = count(&store, "a/n", 5..30).await?;
        while changes(&mut events).await?.0 < seen {}
        // Restored elsewhere first, and used there.
        let mut elsewhere = Etcd::start(version).await?;
        elsewhere.restore(&copy, &[]).await?;
        let past = count(&open(&elsewhere).await?, "c/n", 0..60).await?;
        ensure!(past > seen, "{past} after {seen}");
        elsewhere.save(&later).await?;
        etcd.restore(&later, &[]).await?;
        goes_on(&store, &mut events, seen).await?;
        if version == EtcdVersion::Newest {
            let seen = store.revision().await?;
            etcd.restore(&copy, &["--bump-revision=1000000", "--mark-compacted"]).await?;
            goes_on(&store, &mut events, seen).await?;
            ensure!(store.revision().await?.0 > 1_000_000, "nothing is to be made up for");
        }
    }
    Ok(())
}

/// Two controllers find out at the same time, or one after the other.
#[tokio::test(flavor = "multi_thread")]
async fn several_find_out_and_agree() -> Result<()> {
    let mut etcd = Etcd::start(EtcdVersion::Debian).await?;
    let directory = Slot::get()?.directory("copy")?;
    let copy = directory.path().join("etcd.db");
    let stores = [open(&etcd).await?, open(&etcd).await?];
    let mut events = Vec::new();
    for store in &stores {
        events.push(store.watch("a/", store.revision().await?).await?);
    }
    count(&stores[0], "a/n", 0..5).await?;
    etcd.save(&copy).await?;
    let seen = count(&stores[0], "a/n", 5..300).await?;
    for events in &mut events {
        while changes(events).await?.0 < seen {}
    }
    etcd.restore(&copy, &[]).await?;
    for events in &mut events {
        asked_to_list(events).await?;
    }
    let now = stores[1].revision().await?;
    ensure!(now > seen);
    let at = write(&stores[1], vec![put("a/n", "after")]).await?;
    for events in &mut events {
        while !matches!(event(events).await?, WatchEvent::Changes { revision, .. } if revision == at) {}
    }
    Ok(())
}
