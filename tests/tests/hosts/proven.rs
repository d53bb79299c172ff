//! `proven` is true: nothing is proven that no frame has crossed the fabric for.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_proto::v1::history_service_client::HistoryServiceClient;
use causeway_proto::v1::{self, PortState, ReadyLevel};
use causeway_tests::Netns;

use crate::rig::{PATIENCE, Rig, key};

/// How long is waited for what must not come.
const IN_VAIN: Duration = Duration::from_secs(3);

/// Commands, word by word.
type Commands = &'static [&'static [&'static str]];

/// Ways to keep the two hosts' VXLAN apart, and to end that.
const CUTS: [(&str, Commands, Commands); 2] = [
    (
        "a filter that drops VXLAN",
        &[
            &["nft", "add table netdev cut"],
            &["nft", "add chain netdev cut out { type filter hook egress device \"u0\" priority 0; }"],
            &["nft", "add rule netdev cut out udp dport 4789 drop"],
        ],
        &[&["nft", "delete table netdev cut"]],
    ),
    (
        "a link that is down",
        &[&["ip", "link", "set", "u0", "down"]],
        &[
            &["ip", "link", "set", "u0", "up"],
            &["ip", "route", "replace", "192.0.2.2/32", "via", "198.51.100.2"],
        ],
    ),
];

async fn timeline(rig: &Rig, name: &str) -> Result<v1::TimelineStep> {
    let request = v1::GetPortTimelineRequest { key: Some(key(name)), limit: 20 };
    let mut history = HistoryServiceClient::new(rig.controller.channel()?);
    let steps = history.get_port_timeline(request).await?.into_inner().steps;
    steps.into_iter().find(|step| step.step == "proven").context("the timeline has a step for the probe")
}

#[tokio::test]
async fn nothing_is_proven_while_the_hosts_cannot_reach_each_other() -> Result<()> {
    let rig = Rig::new("10.213.7.0/24").await?;
    let workloads = [Netns::new("w1").await?, Netns::new("w2").await?];
    rig.bound("b", "h2", &workloads[1]).await?;
    rig.reaches("b", PortState::Advertised).await?;
    for (n, (what, cut, heal)) in CUTS.into_iter().enumerate() {
        let name = format!("a{n}");
        let workload = Netns::new(&format!("a{n}")).await?;
        for command in cut {
            rig.hosts[0].run(command).await?;
        }
        rig.bound(&name, "h1", &workload).await?;
        // Its kernel is programmed and its routes are out: it would be called ready by everything else.
        rig.reaches(&name, PortState::Advertised).await?;
        let late = rig.wait(&name, ReadyLevel::Proven, IN_VAIN).await?;
        println!("{what}: {}", late.reason);
        ensure!(!late.ready, "with {what} it was proven");
        ensure!(
            late.reason.contains("h1") && late.reason.contains("h2"),
            "both nodes are named: {}",
            late.reason
        );
        ensure!(rig.get(&name).await?.state() == PortState::Advertised);
        let step = timeline(&rig, &name).await?;
        ensure!(step.missing && step.note.contains("h2"), "{step:?}");
        for command in heal {
            rig.hosts[0].run(command).await?;
        }
        let proven = rig.wait(&name, ReadyLevel::Proven, PATIENCE).await?;
        ensure!(proven.ready, "healed, and still: {}", proven.reason);
        rig.reaches(&name, PortState::Ready).await?;
        let step = timeline(&rig, &name).await?;
        println!("proven: {}", step.note);
        ensure!(!step.missing && step.time_ms > 0.0 && step.note.contains("h2"), "{step:?}");
    }
    Ok(())
}
