//! Every lab that no other test goes through under the real containerlab: it comes up from its file as it is, its switches
//! meet, its controller takes its resources, the command line sees it, and it goes without a trace.

use std::time::{Duration, Instant};

use anyhow::{Context, Result, ensure};
use causeway_tests::guest::TestGuest;
use causeway_tests::lab::{Lab, Switches, in_guest_instead, leftovers};
use causeway_tests::wait_for;
use serde_json::Value;

/// What the labs' set-up needs of the kernel.
const FEATURES: [&str; 3] = ["8021q", "vlan_filtering", "vrf"];
/// For many containers on few processors, or a guest.
const SOON: Duration = Duration::from_secs(120);

fn text<'a>(row: &'a Value, field: &str) -> Result<&'a str> {
    row[field].as_str().with_context(|| format!("no {field} in {row}"))
}

/// All sessions that a switch was told to have, those with the controllers among them.
async fn all_sessions(lab: &Lab, switch: &str) -> Result<usize> {
    wait_for(&format!("the sessions of {switch}"), SOON, async || {
        let families = lab.json(switch, &["vtysh", "-c", "show bgp summary json"]).await?;
        let families = families.as_object().context("no families")?;
        let peers = families.values().filter_map(|family| family["peers"].as_object()).flatten();
        let late: Vec<_> = peers.clone().filter(|(_, peer)| peer["state"] != "Established").collect();
        ensure!(late.is_empty(), "{late:#?}");
        let count = peers.count();
        ensure!(count > 0, "there are none");
        Ok(count)
    })
    .await
}

/// Every agent that the lab has is connected to the controller and has done what it was told.
async fn all_agents(lab: &Lab, controller: &str, count: usize) -> Result<()> {
    wait_for(&format!("{count} agents at {controller}"), SOON, async || {
        let nodes = lab.json(controller, &["causeway", "node", "list", "-o", "json"]).await?;
        let nodes = nodes.as_array().context("no list")?;
        let connected = nodes.iter().filter(|node| node["connected"] == true).count();
        ensure!(connected == count, "{connected} of {count}: {nodes:#?}");
        Ok(())
    })
    .await
}

async fn comes_up(name: &str) -> Result<()> {
    println!("\n== {name}");
    let start = Instant::now();
    let lab = Lab::up(name, Switches::Frr8).await?;
    let up = start.elapsed();
    let rows = lab.inspect().await?;
    let with = |part: &str| -> Result<Vec<String>> {
        let rows = rows.iter().map(|row| Ok((text(row, "image")?, text(row, "name")?)));
        let rows: Vec<(&str, &str)> = rows.collect::<Result<_>>()?;
        Ok(rows
            .into_iter()
            .filter(|(image, _)| image.contains(part))
            .map(|(_, name)| name.to_string())
            .collect())
    };
    for row in &rows {
        ensure!(text(row, "state")? == "running", "{row:#}");
    }
    let controllers = with("causeway/controller")?;
    let first = controllers.first().context("no controller")?;
    lab.apply(first).await?;
    let mut sessions = 0;
    let switches = [with("causeway/frr")?, with("causeway/tor")?].concat();
    for switch in &switches {
        sessions += all_sessions(&lab, switch).await?;
    }
    let agents = with("causeway/agent")?.len() + with("causeway/tor")?.len();
    for controller in &controllers {
        // With two, each agent speaks with one of them, and both know.
        all_agents(&lab, controller, agents).await?;
    }
    let ready = start.elapsed();
    let interfaces = lab.interfaces().await?;
    ensure!(interfaces.len() == rows.len(), "interfaces of {} nodes of {}", interfaces.len(), rows.len());
    let (own, down) = (lab.name().to_string(), Instant::now());
    lab.down().await?;
    println!(
        "== {name}: {} nodes up in {:.1} s; {sessions} sessions at {} switches and {agents} agents after {:.1} s; down in {:.1} s",
        rows.len(),
        up.as_secs_f64(),
        switches.len(),
        ready.as_secs_f64(),
        down.elapsed().as_secs_f64()
    );
    let left = leftovers(&own)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

/// A boot is dear: labs that need one share it, and what fails is collected.
async fn all_come_up(labs: &[&str]) -> Result<()> {
    let mut failures = Vec::new();
    for lab in labs {
        failures.extend(comes_up(lab).await.err().map(|error| format!("{lab}: {error:#}")));
    }
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

#[tokio::test]
async fn plain_labs_come_up() -> Result<()> {
    all_come_up(&["two-controllers", "scale-40", "migrate"]).await
}

#[tokio::test]
async fn labs_with_vlans_come_up() -> Result<()> {
    let labs = ["vrf", "dual-stack", "mixed-modes"];
    let wishes = TestGuest { memory: 3072, limit: Duration::from_secs(600), ..TestGuest::default() };
    if in_guest_instead(&FEATURES, "labs_with_vlans_come_up", &wishes)? {
        return Ok(());
    }
    all_come_up(&labs).await
}
