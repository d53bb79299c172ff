//! What can only happen to a store across a network: restarts, silence, compaction, passwords, certificates.

use std::path::Path;
use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use causeway_controller::store::{EtcdOptions, EtcdStore, Store, StoreError, WatchEvent};
use causeway_controller::{state::State, store::Txn};
use causeway_tests::etcd::EtcdVersion;
use causeway_tests::process::run;
use causeway_tests::{Etcd, wait_for};
use tokio_util::sync::CancellationToken;

use crate::rig::{SOON, changes, delete, event, put, write};

/// By when a call must have ended, whatever etcd does.
const ANSWER: Duration = Duration::from_secs(6);

async fn open(etcd: &Etcd) -> Result<EtcdStore> {
    Ok(EtcdStore::new(EtcdOptions::new([etcd.endpoint()])).await?)
}

async fn refused(store: &EtcdStore) -> Result<()> {
    let start = Instant::now();
    let outcome = store.txn(Txn { compares: vec![], writes: vec![put("refused", "1")] }).await;
    ensure!(matches!(outcome, Err(StoreError::Unavailable { .. })), "{outcome:?}");
    ensure!(start.elapsed() < ANSWER, "a transaction took {:?}", start.elapsed());
    let start = Instant::now();
    let got = store.get("a").await;
    ensure!(matches!(got, Err(StoreError::Unavailable { .. })), "{got:?}");
    ensure!(start.elapsed() < ANSWER, "a read took {:?}", start.elapsed());
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_goes_on_over_restarts_without_a_gap() -> Result<()> {
    for version in EtcdVersion::ALL {
        let mut etcd = Etcd::start(version).await?;
        let store = open(&etcd).await?;
        let mut events = store.watch("", store.revision().await?).await?;
        for round in 0..3 {
            let at = write(&store, vec![put("a", format!("before {round}"))]).await?;
            ensure!(changes(&mut events).await?.0 == at);
            etcd.kill()?;
            ensure!(event(&mut events).await? == WatchEvent::Disconnected);
            refused(&store).await?;
            etcd.restart().await?;
            // Written by somebody else before the watch is back, or after.
            let other = open(&etcd).await?;
            let at = write(&other, vec![put("a", format!("after {round}"))]).await?;
            ensure!(event(&mut events).await? == WatchEvent::Connected);
            let told = changes(&mut events).await?;
            ensure!(told == (at, vec![format!("a=after {round}")]), "{told:?}");
            let got = wait_for("the store to answer", SOON, async || Ok(store.get("a").await?)).await?;
            ensure!(got.is_some_and(|entry| entry.revision == at));
        }
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_silent_etcd_is_not_available_and_comes_back() -> Result<()> {
    for version in EtcdVersion::ALL {
        let etcd = Etcd::start(version).await?;
        let store = open(&etcd).await?;
        let mut events = store.watch("", store.revision().await?).await?;
        write(&store, vec![put("a", "1")]).await?;
        changes(&mut events).await?;
        etcd.pause()?;
        refused(&store).await?;
        ensure!(event(&mut events).await? == WatchEvent::Disconnected);
        etcd.resume()?;
        wait_for("the store to write", SOON, async || write(&store, vec![put("b", "1")]).await).await?;
        ensure!(event(&mut events).await? == WatchEvent::Connected);
        // The transaction of which nobody knew may have been carried out meanwhile.
        let mut told = changes(&mut events).await?.1;
        if told == ["refused=1"] {
            told = changes(&mut events).await?.1;
        }
        ensure!(told == ["b=1"], "{told:?}");
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn compaction_asks_for_a_new_listing() -> Result<()> {
    for version in EtcdVersion::ALL {
        let etcd = Etcd::start(version).await?;
        let store = open(&etcd).await?;
        let start = write(&store, vec![put("a", "0")]).await?;
        for i in 1..10 {
            write(&store, vec![put("a", format!("{i}"))]).await?;
        }
        let compacted = store.revision().await?;
        etcd.client().await?.compact(compacted.0.cast_signed(), None).await?;
        let mut events = store.watch("", start).await?;
        ensure!(event(&mut events).await? == WatchEvent::Relist);
        let listing = store.list("").await?;
        ensure!(listing.entries[0].value == b"9" && listing.revision >= compacted);
        let at = write(&store, vec![put("a", "10")]).await?;
        // What the listing showed may be told again, nothing later may be missing.
        let mut told = changes(&mut events).await?;
        if told.0 <= listing.revision {
            told = changes(&mut events).await?;
        }
        ensure!(told == (at, vec!["a=10".to_owned()]), "{told:?}");
    }
    Ok(())
}

/// A snapshot survives an outage in which all that it missed is compacted away.
#[tokio::test(flavor = "multi_thread")]
async fn a_snapshot_is_whole_after_an_outage_with_compaction() -> Result<()> {
    for version in EtcdVersion::ALL {
        let mut etcd = Etcd::start(version).await?;
        let store = std::sync::Arc::new(open(&etcd).await?);
        let node = |n: u8| {
            let json =
                format!(r#"{{"name":"n{n}","mode":"host-vtep","vtep":"10.0.0.{n}","underlay_mtu":1500}}"#);
            put(&format!("intent/node/n{n}"), json)
        };
        write(store.as_ref(), vec![node(1), node(2)]).await?;
        let cancel = CancellationToken::new();
        let state = State::start(store.clone(), cancel.clone()).await?;
        ensure!(state.snapshot().nodes.len() == 2 && state.is_connected());
        etcd.kill()?;
        wait_for("the loss to show", SOON, async || {
            ensure!(!state.is_connected());
            Ok(())
        })
        .await?;
        ensure!(state.snapshot().nodes.len() == 2);
        // While it is away for the controller, somebody else changes and compacts.
        etcd.restart().await?;
        let other = open(&etcd).await?;
        write(&other, vec![delete("intent/node/n1"), node(3)]).await?;
        let at = write(&other, vec![put("intent/junk", "{")]).await?;
        etcd.client().await?.compact(at.0.cast_signed(), None).await?;
        wait_for("the snapshot to be whole", SOON, async || {
            let names: Vec<String> = state.snapshot().nodes.keys().map(ToString::to_string).collect();
            ensure!(names == ["n2", "n3"] && state.is_connected(), "{names:?}");
            Ok(())
        })
        .await?;
        ensure!(state.undecodable() == 1);
        cancel.cancel();
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_password_is_asked_for_and_given() -> Result<()> {
    for version in EtcdVersion::ALL {
        let mut etcd = Etcd::start(version).await?;
        let client = etcd.client().await?;
        let mut auth = client.auth_client();
        auth.user_add("root", "secret", None).await?;
        auth.role_add("root").await.ok();
        auth.user_grant_role("root", "root").await?;
        auth.auth_enable().await?;
        let mut options = EtcdOptions::new([etcd.endpoint()]);
        let without = EtcdStore::new(options.clone()).await?.get("a").await;
        ensure!(matches!(without, Err(StoreError::Internal { .. })), "{without:?}");
        options.user = Some(("root".to_owned(), "wrong".to_owned()));
        let wrong = EtcdStore::new(options.clone()).await?.get("a").await;
        ensure!(matches!(wrong, Err(StoreError::Internal { .. })), "{wrong:?}");
        options.user = Some(("root".to_owned(), "secret".to_owned()));
        ensure!(!format!("{options:?}").contains("secret"));
        let store = EtcdStore::new(options).await?;
        let mut events = store.watch("", store.revision().await?).await?;
        write(&store, vec![put("a", "1")]).await?;
        changes(&mut events).await?;
        // All tokens become invalid, and the watch of a store that is not asked anything gets a new one too.
        let mut options = EtcdOptions::new([etcd.endpoint()]);
        options.user = Some(("root".to_owned(), "secret".to_owned()));
        let other = EtcdStore::new(options).await?;
        if version == EtcdVersion::Debian {
            // The harness asks 3.4 for its status without a password; 3.7 would refuse that.
            etcd.kill()?;
            etcd.restart().await?;
        } else {
            let user = etcd_client::ConnectOptions::new().with_user("root", "secret");
            let root = etcd_client::Client::connect([etcd.endpoint()], Some(user)).await?;
            root.auth_client().auth_disable().await?;
            etcd.client().await?.auth_client().auth_enable().await?;
            wait_for("the store to write", SOON, async || write(&store, vec![put("b", "1")]).await).await?;
            ensure!(changes(&mut events).await?.1 == ["b=1"]);
        }
        wait_for("another store to write", SOON, async || write(&other, vec![put("a", "2")]).await).await?;
        loop {
            match event(&mut events).await? {
                WatchEvent::Disconnected | WatchEvent::Connected => {}
                WatchEvent::Changes { changes, .. } if changes.len() == 1 => break,
                other => anyhow::bail!("{other:?}"),
            }
        }
        drop(store);
    }
    Ok(())
}

/// Makes an authority and certificates of it for 127.0.0.0/8 addresses.
async fn certificates(directory: &Path, address: &str) -> Result<()> {
    let file = |name: &str| directory.join(name).display().to_string();
    let subject = ["-days", "2", "-nodes", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1"];
    let (ca, ca_key) = (file("ca.pem"), file("ca.key"));
    let mut command = vec!["openssl", "req", "-x509", "-subj", "/CN=ca", "-keyout", &ca_key, "-out", &ca];
    command.extend(subject);
    run(&command).await?;
    let (pem, key, request, extensions) = (file("own.pem"), file("own.key"), file("own.csr"), file("ext"));
    std::fs::write(
        &extensions,
        format!("subjectAltName=IP:{address}\nextendedKeyUsage=serverAuth,clientAuth\n"),
    )?;
    let mut command = vec!["openssl", "req", "-subj", "/CN=own", "-keyout", &key, "-out", &request];
    command.extend(&subject[2..]);
    run(&command).await?;
    run(&[
        "openssl",
        "x509",
        "-req",
        "-in",
        &request,
        "-CA",
        &ca,
        "-CAkey",
        &ca_key,
        "-CAcreateserial",
        "-days",
        "2",
        "-extfile",
        &extensions,
        "-out",
        &pem,
    ])
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn certificates_are_checked_on_both_sides() -> Result<()> {
    let slot = causeway_tests::slot::Slot::get()?;
    let address = slot.loopback()?.to_string();
    let directory = slot.directory("tls")?;
    certificates(directory.path(), &address).await?;
    let file = |name: &str| directory.path().join(name);
    let url = format!("https://{address}:2379");
    let mut command = std::process::Command::new(EtcdVersion::Debian.program()?);
    command
        .arg(format!("--data-dir={}", file("data").display()))
        .args([format!("--listen-client-urls={url}"), format!("--advertise-client-urls={url}")])
        .arg(format!("--listen-peer-urls=http://{address}:2380"))
        .arg(format!("--initial-advertise-peer-urls=http://{address}:2380"))
        .arg(format!("--initial-cluster=default=http://{address}:2380"))
        .arg(format!("--cert-file={}", file("own.pem").display()))
        .arg(format!("--key-file={}", file("own.key").display()))
        .arg(format!("--trusted-ca-file={}", file("ca.pem").display()))
        .args(["--client-cert-auth", "--logger=zap", "--log-level=warn"]);
    let _etcd = causeway_tests::process::Daemon::spawn("etcd", command, &file("log"))?;
    let mut options = EtcdOptions::new([url]);
    options.ca_file = Some(file("ca.pem"));
    options.identity_files = Some((file("own.pem"), file("own.key")));
    let store = EtcdStore::new(options.clone()).await?;
    wait_for("etcd with TLS to write", SOON, async || write(&store, vec![put("a", "1")]).await).await?;
    // Without a certificate of our own, or with an authority that signed nobody's, there is no connection.
    let anonymous = EtcdOptions { identity_files: None, ..options.clone() };
    let answer = EtcdStore::new(anonymous).await?.get("a").await;
    ensure!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
    let stranger = slot.directory("tls2")?;
    certificates(stranger.path(), &address).await?;
    let foreign = EtcdOptions { ca_file: Some(stranger.path().join("ca.pem")), ..options.clone() };
    let answer = EtcdStore::new(foreign).await?.get("a").await;
    ensure!(matches!(answer, Err(StoreError::Unavailable { .. })), "{answer:?}");
    let missing = EtcdOptions { ca_file: Some(file("none.pem")), ..options };
    let error = EtcdStore::new(missing).await.err().context("a missing file was read")?;
    ensure!(error.to_string().contains("none.pem"), "{error}");
    Ok(())
}
