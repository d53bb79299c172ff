//! Agents: what they are told, what becomes of what they say, and who may be a node.

mod support;

use anyhow::{Context, Result};
use causeway_proto::v1;
use causeway_proto::v1::error_detail::Kind;
use support::*;
use tonic::Code;

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_gets_a_snapshot_and_then_changes() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let mut agent = Agent::connect(&lab.channel, "h1", "i1").await?;
    let state = agent.snapshot().await?;
    assert_eq!((state.node.as_str(), state.vtep.as_str(), state.underlay_mtu), ("h1", "10.0.0.1", 1500));
    assert!(state.networks.is_empty() && state.ports.is_empty());
    let port = lab.create("a", Some("h1")).await?;
    let delta = agent.delta().await?;
    let told = delta.ports.first().context("a port")?;
    assert_eq!(told.id, "default/web/a");
    assert_eq!(told.addresses, [format!("{}/24", port.addresses[0])]);
    assert_eq!(
        (told.gateways.as_slice(), told.mtu, told.vni),
        (["10.8.0.1".to_owned()].as_slice(), 1450, 110)
    );
    assert_eq!((told.netns.as_str(), told.interface.as_str(), told.generation), ("/run/netns/w", "eth0", 1));
    assert_eq!(delta.networks.len(), 1);
    assert_eq!(delta.revision, port.revision);
    let other = lab.create("b", Some("h2")).await?;
    let delta = agent.delta().await?;
    assert_eq!(delta.remotes.len(), 1);
    assert_eq!(
        (delta.remotes[0].mac.as_str(), delta.remotes[0].vtep.as_str()),
        (other.mac.as_str(), "10.0.0.2")
    );
    assert_eq!(delta.floods.len(), 1);
    // What happens in a network that this node has no part in is not told.
    lab.create("db/x", Some("h2")).await?;
    lab.unbind("b").await?;
    let delta = agent.delta().await?;
    assert_eq!((delta.deleted_remotes.len(), delta.deleted_floods.len(), delta.remotes.len()), (1, 1, 0));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn what_an_agent_says_becomes_the_state_of_ports() -> Result<()> {
    let lab = Lab::with_sample().await?;
    lab.create("a", Some("h1")).await?;
    let mut agent = Agent::connect(&lab.channel, "h1", "i1").await?;
    let state = agent.snapshot().await?;
    assert_eq!(lab.get("a").await?.state(), v1::PortState::Bound);
    agent.say(state.revision, vec![programmed("a", 1)]).await?;
    lab.wait_state("a", v1::PortState::Programmed).await?;
    let failed =
        v1::PortStatus { programmed: false, problem: "no such namespace".into(), ..programmed("a", 1) };
    agent.say(state.revision, vec![failed]).await?;
    let port = lab.wait_state("a", v1::PortState::Failed).await?;
    assert_eq!(port.problem, "no such namespace");
    let nodes = lab.fabric().list_nodes(v1::ListNodesRequest {}).await?.into_inner().nodes;
    let seen: Vec<_> = nodes.iter().map(|n| (n.connected, n.ports, n.agent_version.as_str())).collect();
    assert_eq!(seen, [(true, 1, "test"), (false, 0, "")]);
    assert_eq!(nodes[0].applied_revision, state.revision);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_watch_sees_a_port_become_programmed() -> Result<()> {
    let lab = Lab::with_sample().await?;
    lab.create("a", Some("h1")).await?;
    let mut agent = Agent::connect(&lab.channel, "h1", "i1").await?;
    let state = agent.snapshot().await?;
    let mut stream = lab.ports().watch_ports(v1::WatchPortsRequest::default()).await?.into_inner();
    agent.say(state.revision, vec![programmed("a", 1)]).await?;
    loop {
        let message =
            tokio::time::timeout(PATIENCE, stream.message()).await??.context("the stream goes on")?;
        if let Some(v1::watch_ports_response::Event::Changed(port)) = message.event
            && port.state() == v1::PortState::Programmed
        {
            return Ok(());
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_second_agent_is_refused_and_the_first_takes_its_place_back() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let mut first = Agent::connect(&lab.channel, "h1", "i1").await?;
    first.snapshot().await?;
    let status = refused(Agent::connect(&lab.channel, "h1", "i2").await.map(|_| "a session"))?;
    assert_eq!(status.code(), Code::AlreadyExists);
    assert!(matches!(detail(&status)?.kind, Some(Kind::Conflict(c)) if c.owner.contains("agent i1")));
    // The same installation again: its older session ends.
    let mut again = Agent::connect(&lab.channel, "h1", "i1").await?;
    again.snapshot().await?;
    assert_eq!(first.end().await?.code(), Code::Aborted);
    lab.create("a", Some("h1")).await?;
    assert_eq!(again.delta().await?.ports.len(), 1);
    // Once it is gone the node is free.
    drop(again);
    wait_for("the node to be free", async || match Agent::connect(&lab.channel, "h1", "i2").await {
        Ok(mut agent) => agent.snapshot().await.map(Some),
        Err(status) if status.code() == Code::AlreadyExists => Ok(None),
        Err(status) => Err(status.into()),
    })
    .await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_hellos_are_refused() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let status_first =
        v1::AgentMessage { message: Some(v1::agent_message::Message::Status(v1::AgentStatus::default())) };
    for (first, code, text) in [
        (hello("nobody", "i"), Code::NotFound, "node nobody does not exist"),
        (hello("Bad Name", "i"), Code::InvalidArgument, "hello.node: "),
        (hello("h1", ""), Code::InvalidArgument, "hello.instance_id: "),
        (hello("h1", &"x".repeat(129)), Code::InvalidArgument, "hello.instance_id: "),
        (status_first, Code::InvalidArgument, "hello: must be the first"),
        (v1::AgentMessage { message: None }, Code::InvalidArgument, "hello: must be the first"),
    ] {
        let status = refused(Agent::begin(&lab.channel, first).await.map(|_| "a session"))?;
        assert_eq!(status.code(), code, "{status:?}");
        assert!(status.message().starts_with(text), "{status:?}");
    }
    let mut agent = Agent::connect(&lab.channel, "h1", "i").await?;
    agent.snapshot().await?;
    agent.sender.send(hello("h2", "i")).await?;
    assert_eq!(agent.end().await?.code(), Code::InvalidArgument);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn an_agent_of_a_deleted_node_is_sent_away() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let mut agent = Agent::connect(&lab.channel, "h2", "i").await?;
    agent.snapshot().await?;
    let delete = v1::DeleteResourceRequest { kind: v1::Kind::Node.into(), name: "h2".into() };
    lab.config().delete_resource(delete).await?;
    assert_eq!(agent.end().await?.code(), Code::NotFound);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_slow_agent_gets_fewer_and_larger_changes() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let mut agent = Agent::connect(&lab.channel, "h1", "i").await?;
    agent.snapshot().await?;
    lab.create("own", Some("h1")).await?;
    let mut held = std::collections::BTreeMap::new();
    for n in 0..200 {
        lab.create(&format!("p{n}"), Some("h2")).await?;
        lab.unbind(&format!("p{}", n / 2)).await?;
    }
    let mut messages = 0;
    loop {
        let delta = agent.delta().await?;
        messages += 1;
        for gone in &delta.deleted_remotes {
            held.remove(&gone.mac);
        }
        held.extend(delta.remotes.into_iter().map(|remote| (remote.mac.clone(), remote)));
        if held.len() == 100 && delta.revision >= lab.running()?.state().snapshot().revision.0 {
            break;
        }
    }
    assert!(messages < 401, "{messages} messages for 400 changes");
    Ok(())
}

/// Each is told by itself, when it is bound, and not with the next one. How long that takes is measured in the benchmarks.
#[tokio::test(flavor = "multi_thread")]
async fn each_bound_port_is_told_to_its_agent_alone() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let mut agent = Agent::connect(&lab.channel, "h1", "i").await?;
    agent.snapshot().await?;
    for n in 0..50 {
        let name = format!("p{n}");
        let (created, delta) = tokio::join!(lab.create(&name, Some("h1")), agent.delta());
        created?;
        let ports: Vec<String> = delta?.ports.into_iter().map(|port| port.id).collect();
        assert_eq!(ports, [format!("default/web/{name}")]);
    }
    Ok(())
}
