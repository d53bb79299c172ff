//! Watches.

use anyhow::{Context, Result, ensure};
use causeway_controller::store::WatchEvent;
use causeway_proto::Revision;

use crate::on_every_store;
use crate::rig::{Rig, changes, delete, event, put, write};

on_every_store!(
    each_transaction_is_one_message_in_order,
    a_watch_begins_after_the_given_revision,
    many_transactions_come_in_order_without_a_gap,
    a_watch_and_a_listing_leave_no_gap,
);

async fn each_transaction_is_one_message_in_order(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let mut events = store.watch("in/", store.revision().await?).await?;
    let first = write(store.as_ref(), vec![put("in/a", "1"), put("in/b", "2"), put("out/c", "3")]).await?;
    write(store.as_ref(), vec![put("out/d", "4")]).await?;
    let second = write(store.as_ref(), vec![delete("in/a"), put("in/b", "5"), delete("out/c")]).await?;
    let (at, mut texts) = changes(&mut events).await?;
    texts.sort();
    ensure!((at, texts) == (first, vec!["in/a=1".to_owned(), "in/b=2".to_owned()]));
    let (at, mut texts) = changes(&mut events).await?;
    texts.sort();
    ensure!((at, texts) == (second, vec!["[in/a]".to_owned(), "in/b=5".to_owned()]));
    Ok(())
}

async fn a_watch_begins_after_the_given_revision(rig: Rig) -> Result<()> {
    let store = rig.open().await?;
    let mut revisions = Vec::new();
    for i in 0..5 {
        revisions.push(write(store.as_ref(), vec![put("k", format!("{i}"))]).await?);
    }
    let mut events = store.watch("", revisions[1]).await?;
    for (i, at) in revisions.iter().enumerate().skip(2) {
        ensure!(changes(&mut events).await? == (*at, vec![format!("k={i}")]));
    }
    let at = write(store.as_ref(), vec![put("k", "5")]).await?;
    ensure!(changes(&mut events).await? == (at, vec!["k=5".to_owned()]));
    Ok(())
}

async fn many_transactions_come_in_order_without_a_gap(rig: Rig) -> Result<()> {
    const COUNT: usize = 3_000;
    let stores = rig.open_many(4).await?;
    // Nobody reads while all are written: more than any queue holds.
    let mut events = stores[0].watch("k/", stores[0].revision().await?).await?;
    let writers = stores.iter().enumerate().map(|(n, store)| {
        let store = store.clone();
        tokio::spawn(async move {
            for i in 0..COUNT / 4 {
                write(
                    store.as_ref(),
                    vec![put(&format!("k/{n}"), format!("{i}")), put(&format!("k/{n}x"), format!("{i}"))],
                )
                .await?;
            }
            anyhow::Ok(())
        })
    });
    let writers: Vec<_> = writers.collect();
    for writer in writers {
        writer.await??;
    }
    let (mut last, mut next) = (Revision(0), [0; 4]);
    for _ in 0..COUNT {
        let (at, texts) = changes(&mut events).await?;
        ensure!(at > last && texts.len() == 2, "{at} after {last}: {texts:?}");
        last = at;
        let (key, value) = texts[0].split_once('=').context("no value")?;
        let n: usize = key.trim_start_matches("k/").trim_end_matches('x').parse()?;
        ensure!(value == next[n].to_string() && texts[1].ends_with(&format!("={value}")), "{texts:?}");
        next[n] += 1;
    }
    Ok(())
}

async fn a_watch_and_a_listing_leave_no_gap(rig: Rig) -> Result<()> {
    let stores = rig.open_many(2).await?;
    let writer = {
        let store = stores[1].clone();
        tokio::spawn(async move {
            for i in 0..300 {
                write(store.as_ref(), vec![put("k", format!("{i}"))]).await?;
            }
            anyhow::Ok(())
        })
    };
    for _ in 0..20 {
        let after = stores[0].revision().await?;
        let mut events = stores[0].watch("", after).await?;
        let listing = stores[0].list("").await?;
        ensure!(listing.revision >= after);
        let Some(seen) = listing.entries.first() else { continue };
        let mut now: usize = std::str::from_utf8(&seen.value)?.parse()?;
        if now == 299 {
            break;
        }
        while now < 299 {
            match event(&mut events).await? {
                WatchEvent::Changes { revision, .. } if revision <= listing.revision => {}
                WatchEvent::Changes { changes, .. } => {
                    let Ok(entry) = &changes[0] else { anyhow::bail!("deleted") };
                    let value: usize = std::str::from_utf8(&entry.value)?.parse()?;
                    ensure!(value == now + 1, "{value} after {now}");
                    now = value;
                }
                other => anyhow::bail!("{other:?}"),
            }
        }
    }
    writer.await??;
    Ok(())
}
