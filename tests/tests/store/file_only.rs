//! What can only happen to a file: two processes, restarts, a full disk, forgotten history.

use std::fs::File;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_controller::store::{Compare, FileStore, Store, StoreError, TxnOutcome, WatchEvent, Write};
use causeway_tests::wait_for;
use nix::mount::{MntFlags, MsFlags, mount, umount2};

use crate::rig::{SOON, changes, event, put, txn, write};

#[tokio::test(flavor = "multi_thread")]
async fn a_file_has_one_owner_at_a_time() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("state");
    let first = FileStore::open(&path).await?;
    let error = FileStore::open(&path).await.err().context("two owners")?;
    ensure!(matches!(error, StoreError::Unavailable { .. }), "{error:?}");
    ensure!(error.to_string().contains("another process has it open"), "{error}");
    drop(first);
    FileStore::open(&path).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_file_of_something_else_is_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("state");
    std::fs::write(&path, "not a store ".repeat(1000))?;
    let error = FileStore::open(&path).await.err().context("it was opened")?;
    ensure!(error.to_string().contains("state"), "{error}");
    ensure!(std::fs::read_to_string(&path)?.starts_with("not a store"), "it was overwritten");
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn everything_outlives_the_process() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let path = directory.path().join("state");
    let store = FileStore::open(&path).await?;
    let at = write(&store, vec![put("a", "1"), put("b", "2")]).await?;
    let lease = store.grant_lease(Duration::from_secs(1)).await?;
    let leased = Write::Put { key: "c".to_owned(), value: b"3".to_vec(), lease: Some(lease) };
    let last = write(&store, vec![leased]).await?;
    drop(store);
    let store = FileStore::open(&path).await?;
    ensure!(store.revision().await? == last);
    ensure!(store.get("a").await?.is_some_and(|entry| entry.revision == at && entry.value == b"1"));
    // A watch from before cannot be served: history is not kept over restarts.
    let mut events = store.watch("", at).await?;
    ensure!(event(&mut events).await? == WatchEvent::Relist);
    // The lease lives on, and ends.
    let gone = changes(&mut events).await?;
    ensure!(gone.1 == ["[c]"] && gone.0 > last, "{gone:?}");
    let other = store.grant_lease(Duration::from_secs(60)).await?;
    ensure!(other != lease);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn forgotten_changes_ask_for_a_new_listing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = FileStore::open(directory.path().join("state")).await?;
    let start = write(&store, vec![put("k", "0")]).await?;
    let mut slow = store.watch("k", start).await?;
    for i in 0..400u32 {
        let writes = (0..100).map(|n| put(&format!("k/{n}"), format!("{i}"))).collect();
        write(&store, writes).await?;
    }
    let mut late = store.watch("k", start).await?;
    ensure!(event(&mut late).await? == WatchEvent::Relist);
    // The other one had a queue and got everything that fitted into it.
    let mut last = start;
    for _ in 0..400 {
        let (at, _) = changes(&mut slow).await?;
        ensure!(at.0 == last.0 + 1);
        last = at;
    }
    Ok(())
}

/// A small file system of its own. Unmounted when dropped.
struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    fn new(size: &str) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let options = format!("size={size}");
        mount(Some("tmpfs"), directory.path(), Some("tmpfs"), MsFlags::empty(), Some(options.as_str()))
            .context("mounting a tmpfs needs root")?;
        Ok(SmallDisk(directory))
    }

    /// Uses up all space.
    fn fill(&self) -> Result<()> {
        use std::io::Write as _;
        let mut ballast = File::create(self.ballast())?;
        let block = [0; 4096];
        while ballast.write_all(&block).is_ok() {}
        Ok(())
    }

    fn ballast(&self) -> std::path::PathBuf {
        self.path().join("ballast")
    }

    fn path(&self) -> &Path {
        self.0.path()
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        if let Err(error) = umount2(self.path(), MntFlags::MNT_DETACH) {
            println!("{} stays mounted: {error}", self.path().display());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_disk_loses_nothing_and_recovers() -> Result<()> {
    let disk = SmallDisk::new("8m")?;
    let store = FileStore::open(disk.path().join("state")).await?;
    let mut events = store.watch("", store.revision().await?).await?;
    let mut committed = Vec::new();
    let claim = async |i: u32| {
        let key = format!("k/{i:05}");
        let writes = vec![put(&key, vec![b'x'; 10_000]), put(&format!("{key}/index"), "1")];
        store.txn(txn(vec![Compare::Absent(key)], writes)).await
    };
    disk.fill()?;
    for i in 0..2_000 {
        match claim(i).await {
            Ok(TxnOutcome::Committed(_)) => committed.push(i),
            Err(StoreError::Unavailable { reason, .. }) => {
                println!("full after {} transactions: {reason}", committed.len());
                break;
            }
            other => bail!("{other:?}"),
        }
    }
    ensure!(committed.len() < 2_000, "the disk never filled");
    // Still full: still refused, and nothing half done.
    for i in 3_000..3_005 {
        ensure!(matches!(claim(i).await, Err(StoreError::Unavailable { .. })));
    }
    std::fs::remove_file(disk.ballast())?;
    wait_for("the store to write again", SOON, async || {
        ensure!(matches!(claim(9_000).await?, TxnOutcome::Committed(_)));
        Ok(())
    })
    .await?;
    committed.push(9_000);
    let keys: Vec<String> = store.list("").await?.entries.into_iter().map(|entry| entry.key).collect();
    let want: Vec<String> =
        committed.iter().flat_map(|i| [format!("k/{i:05}"), format!("k/{i:05}/index")]).collect();
    ensure!(keys == want, "{} keys and not {}", keys.len(), want.len());
    // The watch told what was committed and nothing else.
    for i in &committed {
        let (_, told) = changes(&mut events).await?;
        ensure!(told.len() == 2 && told[0].starts_with(&format!("k/{i:05}=")), "{i}");
    }
    // And the file is whole when it is opened again.
    drop(store);
    let store = FileStore::open(disk.path().join("state")).await?;
    ensure!(store.list("").await?.entries.len() == want.len());
    Ok(())
}
