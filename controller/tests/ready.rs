//! Readiness: levels, proofs, and the reason when a port is late.

mod support;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1::history_service_client::HistoryServiceClient;
use causeway_proto::v1::{self, ReadyLevel};
use support::*;
use tonic::Streaming;

type Said = Streaming<v1::WaitPortsResponse>;

/// The outcome, and the last of what was said before it.
async fn outcome(said: &mut Said) -> Result<(v1::WaitOutcome, v1::PortReadiness)> {
    loop {
        let message = tokio::time::timeout(PATIENCE, said.message()).await?;
        let message = message?.context("the stream ended without an outcome")?;
        if let Some(outcome) = message.outcome {
            ensure!(said.message().await?.is_none(), "the stream goes on after the last outcome");
            return Ok((outcome, message.readiness.context("a readiness")?));
        }
    }
}

/// A switch that the controller sends its routes to: without one nothing is advertised.
async fn peered(lab: &Lab) -> Result<Switch> {
    let switch = Switch::start([127, 0, 0, 2], None).await?;
    lab.apply(vec![resource(v1::resource::Spec::Peer(switch.peer()))]).await?;
    Ok(switch)
}

/// Two nodes with a port and an agent each; the ports are programmed.
async fn pair(lab: &Lab) -> Result<(Agent, Agent, Switch)> {
    let switch = peered(lab).await?;
    lab.create("a", Some("h1")).await?;
    lab.create("b", Some("h2")).await?;
    let mut one = Agent::connect(&lab.channel, "h1", "i1").await?;
    let mut two = Agent::connect(&lab.channel, "h2", "i2").await?;
    for (agent, port) in [(&mut one, "a"), (&mut two, "b")] {
        let state = agent.snapshot().await?;
        agent.say(state.revision, vec![programmed(port, 1)]).await?;
        lab.wait_state(port, v1::PortState::Advertised).await?;
    }
    Ok((one, two, switch))
}

#[tokio::test(flavor = "multi_thread")]
async fn a_wait_names_the_leg_that_is_late() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let late = async |name: &str| -> Result<String> {
        let mut said = lab.wait_port(name, ReadyLevel::Advertised, 200).await?;
        let (outcome, _) = outcome(&mut said).await?;
        ensure!(!outcome.ready && outcome.waited_ms >= 200, "{outcome:?}");
        Ok(outcome.reason)
    };
    assert_eq!(
        late("a").await?,
        "allocation is late: it does not exist yet: nobody has asked for an address of this name"
    );
    lab.create("a", None).await?;
    assert_eq!(late("a").await?, "allocation is late: it is bound to no node");
    lab.bind("a", "h1").await?;
    assert_eq!(late("a").await?, "host leg late: no agent of node h1 is connected");
    let mut agent = Agent::connect(&lab.channel, "h1", "i1").await?;
    let state = agent.snapshot().await?;
    assert_eq!(late("a").await?, "host leg late: the agent of node h1 has not reported it yet");
    let failed =
        v1::PortStatus { programmed: false, problem: "no such namespace".into(), ..programmed("a", 1) };
    agent.say(state.revision, vec![failed]).await?;
    lab.wait_state("a", v1::PortState::Failed).await?;
    assert_eq!(late("a").await?, "host leg late: node h1 cannot program it: no such namespace");
    agent.say(state.revision, vec![programmed("a", 1)]).await?;
    lab.wait_state("a", v1::PortState::Programmed).await?;
    assert_eq!(
        late("a").await?,
        "fabric leg late: its routes have not been sent to every BGP peer yet; no BGP peer is declared to which they \
         could be sent"
    );
    let _switch = peered(&lab).await?;
    // What happens meanwhile is said, and ends the wait.
    let mut said = lab.wait_port("a", ReadyLevel::Advertised, 20_000).await?;
    let (outcome, readiness) = outcome(&mut said).await?;
    assert!(outcome.ready && outcome.reason.is_empty());
    assert_eq!(readiness.state(), v1::PortState::Advertised);
    assert!(readiness.host.is_some_and(|leg| leg.done) && readiness.fabric.is_some_and(|leg| leg.done));
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_is_ready_once_another_node_has_heard_it_and_until_it_moves() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let (mut one, mut two, _switch) = pair(&lab).await?;
    let all = one.levels().await?;
    ensure!(all.all && all.ports.len() == 1, "{all:?}");
    let mut said = lab.wait_port("a", ReadyLevel::Proven, 20_000).await?;
    let order = two.probe_order().await?;
    let port = lab.get("a").await?;
    assert_eq!((order.address.as_str(), order.mac.as_str()), (port.addresses[0].as_str(), port.mac.as_str()));
    assert_eq!((order.vni, order.enough), (110, 1));
    // The first round is in vain, the second is not.
    let lost =
        v1::ProbeResult { id: order.id, sent: 30, lost: 30, source: "port x".into(), ..Default::default() };
    two.found(lost).await?;
    let order = two.probe_order().await?;
    assert_eq!(lab.get("a").await?.state(), v1::PortState::Advertised);
    let found =
        v1::ProbeResult { id: order.id, sent: 1, received: 1, first_reply_us: 150, ..Default::default() };
    two.found(found).await?;
    let (outcome, readiness) = outcome(&mut said).await?;
    assert!(outcome.ready);
    let how = readiness.probe.context("a probe leg")?;
    ensure!(how.done && how.text.contains("answered node h2"), "{how:?}");
    lab.wait_state("a", v1::PortState::Ready).await?;
    // Its agent is told, so that it can say so when no controller is there.
    loop {
        let levels = one.levels().await?;
        if levels.ports.iter().any(|port| port.port == "default/web/a" && port.level() == ReadyLevel::Proven)
        {
            break;
        }
    }
    // It is remembered over a restart, and forgotten with the binding.
    drop((one, two));
    let lab = Lab::start_in(lab.stop().await?).await?;
    let mut one = Agent::connect(&lab.channel, "h1", "i1").await?;
    let state = one.snapshot().await?;
    one.say(state.revision, vec![programmed("a", 1)]).await?;
    lab.wait_state("a", v1::PortState::Ready).await?;
    lab.unbind("a").await?;
    lab.bind("a", "h1").await?;
    one.delta().await?;
    let delta = one.delta().await?;
    one.say(delta.revision, vec![programmed("a", 2)]).await?;
    lab.wait_state("a", v1::PortState::Advertised).await?;
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn a_proof_that_does_not_come_names_both_nodes() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let (one, mut two, _switch) = pair(&lab).await?;
    let answers = tokio::spawn(async move {
        while let Ok(order) = two.probe_order().await {
            let source = "port default/web/b".to_owned();
            let lost = v1::ProbeResult { id: order.id, sent: 30, lost: 30, source, ..Default::default() };
            if two.found(lost).await.is_err() {
                break;
            }
        }
    });
    let mut said = lab.wait_port("a", ReadyLevel::Proven, 500).await?;
    let (outcome_a, _) = outcome(&mut said).await?;
    assert!(!outcome_a.ready);
    ensure!(
        outcome_a.reason.starts_with("probe late: no frame from node h2 reaches 10.8.0.")
            && outcome_a.reason.contains(" on node h1 and comes back: 30 ")
            && outcome_a.reason.contains("from port default/web/b were not answered"),
        "{}",
        outcome_a.reason
    );
    answers.abort();
    let _ = answers.await;
    // Without the prober's agent the reason is that, and without any other node that.
    let mut reason = String::new();
    wait_for("the prober to be away", async || {
        let mut said = lab.wait_port("a", ReadyLevel::Proven, 300).await?;
        reason = outcome(&mut said).await?.0.reason;
        Ok(reason.contains("no agent of the other nodes with its network is connected: h2").then_some(()))
    })
    .await
    .with_context(|| reason.clone())?;
    lab.unbind("b").await?;
    let mut said = lab.wait_port("a", ReadyLevel::Proven, 400).await?;
    let reason = outcome(&mut said).await?.0.reason;
    ensure!(reason.contains("no other node than h1 has network default/web"), "{reason}");
    drop(one);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn wrong_waits_are_refused() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let mut client = v1::ready_service_client::ReadyServiceClient::new(lab.channel.clone());
    let none = v1::WaitPortsRequest::default();
    let twice = v1::WaitPortsRequest { keys: vec![key("a"), key("a")], ..none.clone() };
    let long = v1::WaitPortsRequest { keys: vec![key("a")], timeout_ms: 600_001, ..none.clone() };
    let level = v1::WaitPortsRequest { keys: vec![key("a")], level: 9, ..none.clone() };
    for (request, field) in [(none, "keys"), (twice, "keys[1]"), (long, "timeout_ms"), (level, "level")] {
        let status = client.wait_ports(request).await.err().context("refused")?;
        assert_eq!(status.code(), tonic::Code::InvalidArgument);
        ensure!(status.message().contains(field), "{status:?}");
    }
    Ok(())
}

/// What the agent of a node says of port `a` when somebody else has its address.
fn duplicate(address: &str, generation: u64) -> v1::PortStatus {
    let found = v1::Duplicate {
        address: address.into(),
        mac: "02:11:22:33:44:55".into(),
        interface: "cwb110".into(),
        seen_ms: 1_700_000_000_000,
    };
    let problem = format!("address {address} is in use: 02:11:22:33:44:55 answered");
    v1::PortStatus { programmed: false, problem, duplicate: Some(found), ..programmed("a", generation) }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_port_whose_address_somebody_has_is_announced_to_nobody_until_he_is_gone() -> Result<()> {
    let lab = Lab::with_sample().await?;
    let (mut one, mut two, switch) = pair(&lab).await?;
    let port = lab.get("a").await?;
    let address = port.addresses[0].clone();
    let said = async || -> Result<bool> { Ok(switch.routes().await.iter().any(|r| r.contains(&address))) };
    wait_for("announced", async || Ok(said().await?.then_some(()))).await?;
    one.say(port.revision, vec![duplicate(&address, 1)]).await?;
    let failed = lab.wait_state("a", v1::PortState::Failed).await?;
    assert!(failed.problem.contains("02:11:22:33:44:55 answered"), "{failed:?}");
    wait_for("withdrawn", async || Ok((!said().await?).then_some(()))).await?;
    wait_for("other nodes do not know it", async || {
        let delta = two.delta().await?;
        Ok(delta.deleted_remotes.iter().any(|gone| gone.mac == port.mac).then_some(()))
    })
    .await?;
    // Who waits is told who it is, in words and typed.
    let mut waits = lab.wait_port("a", ReadyLevel::Programmed, 200).await?;
    let (outcome, _) = outcome(&mut waits).await?;
    assert!(outcome.reason.contains("02:11:22:33:44:55 answered"), "{outcome:?}");
    let detail = outcome.detail.context("a detail")?;
    let Some(v1::error_detail::Kind::Conflict(conflict)) = detail.kind else { anyhow::bail!("{detail:?}") };
    assert_eq!(conflict.subject, format!("address {address}"));
    assert_eq!(conflict.owner, "02:11:22:33:44:55 on cwb110 of node h1");
    assert!(detail.retryable);
    // The history has it once, however often it is said.
    one.say(port.revision, vec![duplicate(&address, 1)]).await?;
    one.say(port.revision, vec![programmed("a", 1)]).await?;
    lab.wait_state("a", v1::PortState::Advertised).await?;
    wait_for("announced again", async || Ok(said().await?.then_some(()))).await?;
    let mut history = HistoryServiceClient::new(lab.channel.clone());
    let kinds = vec![v1::EventKind::Duplicate.into()];
    let filter = Some(v1::EventFilter { kinds, ..v1::EventFilter::default() });
    let request = v1::WatchEventsRequest { filter, ..v1::WatchEventsRequest::default() };
    let mut events = history.watch_events(request).await?.into_inner();
    let mut told = Vec::new();
    while let Some(message) = events.message().await? {
        told.extend(message.events);
    }
    assert_eq!(told.len(), 1, "{told:?}");
    assert_eq!(
        told[0].cause,
        format!("{address} is in use by 02:11:22:33:44:55, which answered on cwb110 of its node")
    );
    // What is said of an older binding is not believed.
    lab.unbind("a").await?;
    let bound = lab.bind("a", "h1").await?;
    // An agent answers for what it was told.
    loop {
        let message = one.next().await?;
        if let v1::controller_message::Message::Delta(delta) = message
            && delta.ports.iter().any(|port| port.generation == 2)
        {
            break;
        }
    }
    one.say(bound.revision, vec![duplicate(&address, 1)]).await?;
    one.say(bound.revision, vec![programmed("a", 2)]).await?;
    lab.wait_state("a", v1::PortState::Advertised).await?;
    assert!(said().await?);
    // Found and over before the first could be noted: the last word counts.
    for _ in 0..20 {
        one.say(bound.revision, vec![duplicate(&address, 2)]).await?;
        one.say(bound.revision, vec![programmed("a", 2)]).await?;
    }
    wait_for("the last word is noted, and stays", async || {
        for _ in 0..100 {
            if lab.get("a").await?.state() != v1::PortState::Advertised || !said().await? {
                return Ok(None);
            }
        }
        Ok(Some(()))
    })
    .await?;
    Ok(())
}
