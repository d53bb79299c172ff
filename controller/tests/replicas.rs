//! Two controllers on one store, and a store that goes away.

mod support;

use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use causeway_controller::store::FileStore;
use causeway_proto::v1;
use support::gated::GatedStore;
use support::*;
use tonic::Code;

async fn store(directory: &tempfile::TempDir) -> Result<Arc<GatedStore>> {
    Ok(GatedStore::new(Arc::new(FileStore::open(directory.path().join("store.redb")).await?)))
}

/// Two controllers with the same records.
async fn pair(directory: &tempfile::TempDir) -> Result<(Lab, Lab)> {
    let store = store(directory).await?;
    let one = Lab::start_on(store.clone(), 1).await?;
    let two = Lab::start_on(store, 2).await?;
    one.apply(sample()).await?;
    wait_for("the other to see the nodes", async || {
        Ok((two.running()?.state().snapshot().nodes.len() == 2).then_some(()))
    })
    .await?;
    Ok((one, two))
}

#[tokio::test(flavor = "multi_thread")]
async fn the_other_controller_knows_what_an_agent_said() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (one, two) = pair(&directory).await?;
    one.create("a", Some("h1")).await?;
    let mut agent = Agent::connect(&one.channel, "h1", "i1").await?;
    let state = agent.snapshot().await?;
    agent.say(state.revision, vec![programmed("a", 1)]).await?;
    two.wait_state("a", v1::PortState::Programmed).await?;
    let nodes = two.fabric().list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
    assert!(nodes[0].connected && nodes[0].agent_version == "test", "{nodes:?}");
    let failed = v1::PortStatus { programmed: false, problem: "gone".into(), ..programmed("a", 1) };
    agent.say(state.revision, vec![failed]).await?;
    assert_eq!(two.wait_state("a", v1::PortState::Failed).await?.problem, "gone");
    drop(agent);
    wait_for("the other to see it gone", async || {
        let nodes = two.fabric().list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
        Ok((!nodes[0].connected).then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_node_has_one_agent_whatever_the_controller() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (one, two) = pair(&directory).await?;
    let mut agent = Agent::connect(&one.channel, "h1", "i1").await?;
    agent.snapshot().await?;
    let status = refused(Agent::connect(&two.channel, "h1", "i2").await.map(|_| "a session"))?;
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(format!("{:?}", detail(&status)?).contains("controller c1"), "{status:?}");
    // The agent itself may go to the other controller; the first lets it go.
    let mut moved = Agent::connect(&two.channel, "h1", "i1").await?;
    moved.snapshot().await?;
    assert_eq!(agent.end().await?.code(), Code::Aborted);
    one.create("a", Some("h1")).await?;
    assert_eq!(moved.delta().await?.ports.len(), 1);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_changes_over_when_its_controller_stops() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (one, two) = pair(&directory).await?;
    let mut agent = Agent::connect(&one.channel, "h1", "i1").await?;
    agent.snapshot().await?;
    one.stop().await?;
    assert_eq!(agent.end().await?.code(), Code::Unavailable);
    let mut agent = Agent::connect(&two.channel, "h1", "i1").await?;
    agent.snapshot().await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn both_controllers_announce_under_their_own_distinguishers() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let (one, two) = pair(&directory).await?;
    let port = one.create("a", Some("h1")).await?;
    for (lab, rd) in [(&one, "10.99.0.1:1"), (&two, "10.99.0.2:1")] {
        wait_for(rd, async || {
            let routes =
                lab.fabric().list_routes(v1::ListRoutesRequest::default()).await?.into_inner().routes;
            let ours = routes.iter().filter(|route| route.rd == rd).count();
            let told =
                routes.iter().any(|route| route.mac == port.mac && route.verdict == "port default/web/a");
            Ok((ours == 2 && told).then_some(()))
        })
        .await?;
    }
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn without_the_store_reads_go_on_and_writes_are_refused() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = store(&directory).await?;
    let lab = Lab::start_on(store.clone(), 1).await?;
    lab.apply(sample()).await?;
    lab.create("a", Some("h1")).await?;
    let port = lab.get("a").await?;
    store.set_open(false);
    wait_for("not ready", async || Ok((lab.http("/readyz").await?.0 == 503).then_some(()))).await?;
    assert_eq!(lab.http("/healthz").await?.0, 200);
    let mut request =
        tonic::Request::new(v1::CreatePortRequest { key: Some(key("b")), ..Default::default() });
    request.set_timeout(Duration::from_secs(5));
    let status = refused(lab.ports().create_port(request).await)?;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert!(detail(&status)?.retryable);
    let resources = vec![network("late", 900)];
    let status = refused(lab.config().apply(v1::ApplyRequest { resources, dry_run: false }).await)?;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    assert_eq!(lab.get("a").await?, port);
    let routes = lab.fabric().list_routes(v1::ListRoutesRequest::default()).await?.into_inner().routes;
    assert_eq!(routes.len(), 2, "the last desired routes stay");
    // An agent that comes now gets its state, and says what it has to say.
    let mut agent = Agent::connect(&lab.channel, "h1", "i1").await?;
    let state = agent.snapshot().await?;
    assert_eq!(state.ports.len(), 1);
    agent.say(state.revision, vec![programmed("a", 1)]).await?;
    lab.wait_state("a", v1::PortState::Programmed).await?;
    store.set_open(true);
    wait_for("ready", async || Ok((lab.http("/readyz").await?.0 == 200).then_some(()))).await?;
    assert_eq!(lab.create("b", Some("h1")).await?.addresses.len(), 1);
    assert_eq!(agent.delta().await?.ports.len(), 1, "the session went on");
    // What was said meanwhile is in the store now: another controller sees it.
    let other = Lab::start_on(store, 2).await?;
    other.wait_state("a", v1::PortState::Programmed).await?;
    wait_for("the claim", async || {
        let nodes = other.fabric().list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
        Ok(nodes.first().context("a node")?.connected.then_some(()))
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_controller_waits_for_its_store_and_says_so() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = store(&directory).await?;
    store.set_open(false);
    // The port has to be known before the controller is there.
    let free = std::net::TcpListener::bind("127.0.0.1:0")?.local_addr()?;
    let config = causeway_controller::config::Config { http_listen: vec![free], ..config(directory.path()) };
    let cancel = tokio_util::sync::CancellationToken::new();
    let starting =
        causeway_controller::run::Controller::start_with_store(config, store.clone(), cancel.clone());
    let starting = tokio::spawn(starting);
    let (code, text) = wait_for("the page", async || match http_get(free, "/readyz").await {
        Ok((503, text)) if text.contains("took it away") => Ok(Some((503, text))),
        Ok(_) | Err(_) => Ok(None),
    })
    .await?;
    assert_eq!(code, 503, "{text}");
    store.set_open(true);
    let controller = starting.await??;
    assert_eq!(http_get(free, "/readyz").await?.0, 200);
    cancel.cancel();
    assert!(controller.run().await);
    Ok(())
}

/// A state from before the port was unbound would bring it up again, while it is elsewhere already.
#[tokio::test(flavor = "multi_thread")]
async fn a_controller_that_is_behind_brings_nothing_back() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = Arc::new(FileStore::open(directory.path().join("store.redb")).await?);
    let late = GatedStore::new(store.clone());
    let one = Lab::start_on(store, 1).await?;
    let two = Lab::start_on(late.clone(), 2).await?;
    one.apply(sample()).await?;
    one.create("a", Some("h1")).await?;
    wait_for("the other to see the port", async || {
        Ok((two.running()?.state().snapshot().ports.len() == 1).then_some(()))
    })
    .await?;
    late.set_deaf(true);
    one.unbind("a").await?;
    let mut agent = Agent::connect(&one.channel, "h1", "i1").await?;
    let state = agent.snapshot().await?;
    assert!(state.ports.is_empty());
    drop(agent);
    let mut knows = hello("h1", "i1");
    if let Some(v1::agent_message::Message::Hello(hello)) = &mut knows.message {
        hello.revision = state.revision;
    }
    let status = refused(Agent::begin(&two.channel, knows.clone()).await.map(|_| "a session"))?;
    assert_eq!(status.code(), Code::Unavailable, "{status:?}");
    late.set_deaf(false);
    let mut agent = Agent::begin(&two.channel, knows.clone()).await?;
    let state = agent.snapshot().await?;
    assert!(state.ports.is_empty(), "{state:?}");
    drop(agent);
    // A store that was set back to a copy of yesterday is all there is.
    if let Some(v1::agent_message::Message::Hello(hello)) = &mut knows.message {
        hello.revision = state.revision + 1_000_000;
    }
    // Nothing is waited for that cannot come: on a busy machine, at least once in a while.
    for _ in 0..5 {
        let asked = std::time::Instant::now();
        Agent::begin(&one.channel, knows.clone()).await?.snapshot().await?;
        if asked.elapsed() < Duration::from_secs(3) {
            return Ok(());
        }
    }
    anyhow::bail!("each agent of a store that was set back waits for what the store does not have")
}

/// Repeating a release succeeds, also of what was never there: with a revision at which it was not, even if another
/// controller makes it before the answer is out.
#[tokio::test(flavor = "multi_thread")]
async fn a_release_of_nothing_says_when_there_was_nothing() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let store = Arc::new(FileStore::open(directory.path().join("store.redb")).await?);
    let late = GatedStore::new(store.clone());
    let one = Lab::start_on(store, 1).await?;
    let two = Lab::start_on(late.clone(), 2).await?;
    let at = one.apply(sample()).await?.revision;
    two.running()?.state().wait_for(causeway_proto::Revision(at)).await?;
    late.set_slow(true);
    let mut client = two.ports();
    let release = v1::ReleasePortRequest { key: Some(key("a")), ..v1::ReleasePortRequest::default() };
    let released = tokio::spawn(async move { client.release_port(release).await });
    late.keeps_back().await;
    let made = one.create("a", None).await?;
    two.running()?.state().wait_for(causeway_proto::Revision(made.revision)).await?;
    late.set_slow(false);
    let released = released.await??.into_inner().revision;
    assert!(released < made.revision, "released at {released}, made at {}", made.revision);
    Ok(())
}

/// Both are asked for the same names at the same time, while one network after the other fills up.
#[tokio::test(flavor = "multi_thread")]
async fn a_name_whose_network_is_chosen_by_labels_has_one_port() -> Result<()> {
    const NAMES: usize = 40;
    let directory = tempfile::tempdir()?;
    let (one, two) = pair(&directory).await?;
    let labelled = |name: &str, vni| {
        let labels = [("rack".to_owned(), "r1".to_owned())].into();
        let network = v1::Network { name: name.into(), vni, labels, ..v1::Network::default() };
        resource(v1::resource::Spec::Network(network))
    };
    // Room for 14, 14 and 30 ports.
    let records = vec![
        labelled("n1", 901),
        labelled("n2", 902),
        labelled("n3", 903),
        subnet("n1", "10.61.0.0/28", ""),
        subnet("n2", "10.62.0.0/28", ""),
        subnet("n3", "10.63.0.0/27", ""),
    ];
    let at = one.apply(records).await?.revision;
    two.running()?.state().wait_for(causeway_proto::Revision(at)).await?;
    let request = |n: usize| v1::CreatePortRequest {
        key: Some(v1::PortKey { name: format!("p{n}"), ..v1::PortKey::default() }),
        network_labels: [("rack".to_owned(), "r1".to_owned())].into(),
        ..v1::CreatePortRequest::default()
    };
    let mut asked = tokio::task::JoinSet::new();
    for n in 0..NAMES {
        for mut client in [one.ports(), two.ports()] {
            asked.spawn(async move { (n, client.create_port(request(n)).await) });
        }
    }
    let mut given = std::collections::BTreeMap::new();
    while let Some(answer) = asked.join_next().await {
        let (n, answer) = answer?;
        let port = answer?.into_inner().port.context("a port")?;
        let got = (port.key, port.addresses);
        let known = given.entry(n).or_insert_with(|| got.clone());
        anyhow::ensure!(*known == got, "p{n} has {known:?} and {got:?}");
    }
    let ports = one.ports().list_ports(v1::ListPortsRequest::default()).await?.into_inner().ports;
    assert_eq!((given.len(), ports.len()), (NAMES, NAMES));
    // Nothing is left: the rest fits nowhere.
    for n in NAMES..58 {
        two.ports().create_port(request(n)).await?;
    }
    let full = refused(one.ports().create_port(request(99)).await)?;
    assert_eq!(full.code(), Code::ResourceExhausted);
    let Some(v1::error_detail::Kind::Full(full)) = detail(&full)?.kind else { anyhow::bail!("{full:?}") };
    let rooms: Vec<(String, u64, u64)> =
        full.networks.into_iter().map(|room| (room.network, room.size, room.taken)).collect();
    let n = |name: &str, size| (format!("default/{name}"), size, size);
    assert_eq!(rooms, [n("n1", 14), n("n2", 14), n("n3", 30)]);
    Ok(())
}
