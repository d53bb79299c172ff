//! Ports whose workloads are gone without a word: reported, given up when told to, and only if their agent says so
//! still.

mod support;

use anyhow::{Context, Result, ensure};
use causeway_controller::config::{Config, LeakedAction, LeakedPorts};
use causeway_proto::v1;
use causeway_proto::v1::history_service_client::HistoryServiceClient;
use causeway_proto::v1::ipam_service_client::IpamServiceClient;
use support::*;

fn settings(action: LeakedAction) -> impl FnOnce(&mut Config) {
    move |config| config.leaked_ports = LeakedPorts { action, grace_seconds: 1 }
}

fn absent(name: &str) -> v1::PortStatus {
    let problem = "netns /run/netns/w not found".to_owned();
    v1::PortStatus { programmed: false, problem, absent: true, ..programmed(name, 1) }
}

async fn check(lab: &Lab, fix_leaked: bool) -> Result<Vec<v1::IpamFinding>> {
    let mut client = IpamServiceClient::new(lab.channel.clone());
    let request = v1::CheckIpamRequest { fix: false, fix_leaked };
    Ok(client.check_ipam(request).await?.into_inner().findings)
}

/// Ports `a` and `b` on a node whose agent finds only `b`, besides `c`, which it cannot program for another reason.
async fn begin(lab: &Lab) -> Result<(Agent, u64)> {
    lab.apply(sample()).await?;
    for name in ["a", "b", "c"] {
        lab.create(name, Some("h1")).await?;
    }
    let mut agent = Agent::connect(&lab.channel, "h1", "i1").await?;
    let revision = agent.snapshot().await?.revision;
    let broken = v1::PortStatus { programmed: false, problem: "no room".into(), ..programmed("c", 1) };
    agent.say(revision, vec![absent("a"), programmed("b", 1), broken]).await?;
    lab.wait_state("a", v1::PortState::Failed).await?;
    Ok((agent, revision))
}

async fn leaked(lab: &Lab) -> Result<v1::IpamFinding> {
    wait_for("a leaked port", async || Ok(check(lab, false).await?.pop())).await
}

#[tokio::test(flavor = "multi_thread")]
async fn a_leaked_port_is_reported_and_given_up_when_asked() -> Result<()> {
    let lab = Lab::start_with(settings(LeakedAction::Report)).await?;
    let (agent, revision) = begin(&lab).await?;
    ensure!(check(&lab, true).await?.is_empty(), "before the grace period nothing leaks");
    let finding = leaked(&lab).await?;
    assert_eq!(
        (finding.problem(), finding.subject.as_str()),
        (v1::IpamProblem::Leaked, "port default/web/a")
    );
    assert!(finding.text.contains("node h1") && finding.text.contains("not found"), "{}", finding.text);
    // Found again: not leaked, whoever asks.
    agent.say(revision, vec![programmed("a", 1)]).await?;
    lab.wait_state("a", v1::PortState::Programmed).await?;
    wait_for("no leaked port", async || Ok(check(&lab, true).await?.is_empty().then_some(()))).await?;
    lab.wait_state("a", v1::PortState::Programmed).await?;
    // Gone again, and given up.
    agent.say(revision, vec![absent("a")]).await?;
    leaked(&lab).await?;
    let repaired = wait_for("the repair", async || {
        Ok(check(&lab, true).await?.pop().filter(|finding| finding.repaired))
    });
    assert_eq!(repaired.await?.subject, "port default/web/a");
    let port = lab.get("a").await?;
    assert_eq!((port.state(), port.binding), (v1::PortState::Quarantined, None));
    let request = v1::ListAddressHistoryRequest { address: port.addresses[0].clone(), ..Default::default() };
    let history =
        HistoryServiceClient::new(lab.channel.clone()).list_address_history(request).await?.into_inner();
    let last = history.events.first().context("an event")?;
    assert_eq!((last.kind(), last.from_node.as_str()), (v1::EventKind::Quarantined, "h1"));
    assert!(last.cause.starts_with("leaked: node h1 "), "{}", last.cause);
    // The name has its address again at once.
    assert_eq!(lab.create("a", Some("h1")).await?.addresses, port.addresses);
    Ok(())
}

#[tokio::test(flavor = "multi_thread")]
async fn leaked_ports_are_given_up_by_themselves_where_that_is_set() -> Result<()> {
    let lab = Lab::start_with(settings(LeakedAction::Collect)).await?;
    let (agent, _) = begin(&lab).await?;
    lab.wait_state("a", v1::PortState::Quarantined).await?;
    assert_eq!(lab.get("b").await?.state(), v1::PortState::Programmed);
    assert_eq!(lab.get("c").await?.state(), v1::PortState::Failed);
    drop(agent);
    Ok(())
}
