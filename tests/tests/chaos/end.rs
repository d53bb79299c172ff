//! What must be true when everything is well again: the kernels are as the store says, and nothing is left over.

use std::collections::{BTreeMap, BTreeSet};
use std::time::Duration;

use anyhow::{Context, Result, bail, ensure};
use causeway_proto::v1;
use causeway_proto::v1::ipam_service_client::IpamServiceClient;
use causeway_proto::v1::move_service_client::MoveServiceClient;
use causeway_tests::wait_for;
use serde_json::Value;

use crate::fabric::{Fabric, Host, VNI};
use crate::lanes::{self, name};
use crate::script::PORTS;

/// Longest wait for the end of what was under way.
const SETTLED: Duration = Duration::from_secs(60);

/// Waits until moves, quarantines and reservations are over and every bound port is programmed; says the ports.
pub(crate) async fn settled(fabric: &Fabric<'_>) -> Result<Vec<v1::Port>> {
    wait_for("moves and quarantines are over, ports programmed", SETTLED, async || {
        let mut moves = MoveServiceClient::new(fabric.channel(0)?);
        let active = v1::ListMovesRequest { active: true, ..v1::ListMovesRequest::default() };
        let active = moves.list_moves(active).await?.into_inner().moves;
        ensure!(active.is_empty(), "still moving: {active:?}");
        let ports = lanes::ports(fabric.channel(0)?).await?;
        for port in &ports {
            use v1::PortState::{Advertised, Programmed, Ready, Released, Reserved};
            let fits = match &port.binding {
                Some(_) => matches!(port.state(), Programmed | Advertised | Ready),
                None => matches!(port.state(), Reserved | Released),
            };
            ensure!(fits, "{port:?}");
        }
        Ok(ports)
    })
    .await
}

/// The books on addresses are right.
pub(crate) async fn books_are_right(fabric: &Fabric<'_>) -> Result<()> {
    // A reservation that was over in the meantime ends by a quarantine.
    let found = wait_for("no port is quarantined", SETTLED, async || {
        let mut ipam = IpamServiceClient::new(fabric.channel(0)?);
        let found = ipam.check_ipam(v1::CheckIpamRequest::default()).await?.into_inner();
        ensure!(found.quarantined == 0, "{} ports are quarantined", found.quarantined);
        Ok(found)
    })
    .await?;
    ensure!(found.findings.is_empty() && found.more == 0, "{:#?}", found.findings);
    Ok(())
}

/// The kernels of all hosts are as these ports say.
pub(crate) async fn kernels_agree(fabric: &Fabric<'_>, ports: &[v1::Port]) -> Result<()> {
    wait_for("the kernels are as the store says", SETTLED, async || {
        for host in &fabric.hosts {
            agrees(fabric, host, ports).await.with_context(|| format!("host {}", host.name))?;
        }
        Ok(())
    })
    .await
}

fn port_name(port: &v1::Port) -> String {
    port.key.as_ref().map(|key| key.name.clone()).unwrap_or_default()
}

async fn json(host: &Host, command: &[&str]) -> Result<Vec<Value>> {
    let text = host.netns.run(command).await?;
    if text.trim().is_empty() {
        return Ok(Vec::new());
    }
    serde_json::from_str(&text).with_context(|| format!("{command:?} gave no JSON: {text}"))
}

async fn agrees(fabric: &Fabric<'_>, host: &Host, ports: &[v1::Port]) -> Result<()> {
    let here = |port: &&v1::Port| port.binding.as_ref().is_some_and(|b| b.node == host.name);
    // Ports that are up, by the alias that says whose and which generation they are.
    let links = json(host, &["ip", "-j", "link"]).await?;
    let (mut found, mut devices) = (BTreeSet::new(), BTreeMap::new());
    for link in links.iter().filter(|l| l["ifname"].as_str().is_some_and(|n| n.starts_with("cwp"))) {
        let alias = link["ifalias"].as_str().unwrap_or_default().to_owned();
        let flags = link["flags"].as_array().context("no flags")?;
        ensure!(flags.iter().any(|flag| flag == "UP"), "{alias} is there and down");
        devices.insert(link["ifname"].as_str().unwrap_or_default().to_owned(), alias.clone());
        found.insert(alias);
    }
    let alias = |port: &v1::Port| {
        let generation = port.binding.as_ref().map_or(0, |b| b.generation);
        format!("causeway:gen={generation};port=default/web/{}", port_name(port))
    };
    let want: BTreeSet<String> = ports.iter().filter(here).map(alias).collect();
    ensure!(found == want, "ports are {found:?} and should be {want:?}");
    workloads_agree(fabric, host, ports).await?;
    if want.is_empty() {
        return Ok(());
    }
    // Every other workload is known at its place, and nobody else.
    let vtep_of = |node: &str| fabric.hosts.iter().find(|h| h.name == node).map(|h| h.vtep.to_string());
    let mut elsewhere = BTreeSet::new();
    for port in ports.iter().filter(|port| port.binding.is_some() && !here(port)) {
        let node = port.binding.as_ref().map_or("", |b| b.node.as_str());
        elsewhere.insert((port.mac.clone(), vtep_of(node).context("no such host")?));
    }
    let text = |entry: &Value, field: &str| entry[field].as_str().unwrap_or_default().to_owned();
    let fdb = json(host, &["bridge", "-j", "fdb", "show"]).await?;
    let remote =
        fdb.iter().filter(|e| text(e, "ifname") == format!("cwx{VNI}") && !text(e, "dst").is_empty());
    let remote =
        remote.map(|e| (text(e, "mac"), text(e, "dst"))).filter(|(mac, _)| mac != "00:00:00:00:00:00");
    let remote: BTreeSet<_> = remote.collect();
    ensure!(remote == elsewhere, "elsewhere are {remote:?} and should be {elsewhere:?}");
    let local =
        fdb.iter().filter(|e| devices.contains_key(&text(e, "ifname")) && text(e, "state") != "permanent");
    let local: BTreeSet<String> = local.map(|e| text(e, "mac")).collect();
    let own: BTreeSet<String> = ports.iter().filter(here).map(|port| port.mac.clone()).collect();
    ensure!(local == own, "MACs of ports are {local:?} and should be {own:?}");
    Ok(())
}

/// Inside the workloads of a host are the addresses of the ports bound there, and no others.
async fn workloads_agree(fabric: &Fabric<'_>, host: &Host, ports: &[v1::Port]) -> Result<()> {
    let at = fabric.hosts.iter().position(|h| h.name == host.name).context("no such host")?;
    for n in 0..PORTS {
        let netns = fabric.workloads.get(&(at, n)).context("no such workload")?;
        let text = netns.run(&["ip", "-j", "-4", "addr", "show", "scope", "global"]).await?;
        let links: Vec<Value> = serde_json::from_str(&text).unwrap_or_default();
        let addresses = links.iter().flat_map(|link| link["addr_info"].as_array().into_iter().flatten());
        let found: BTreeSet<&str> = addresses.filter_map(|info| info["local"].as_str()).collect();
        let port = ports.iter().find(|port| port_name(port) == name(n));
        let bound = port.filter(|p| p.binding.as_ref().is_some_and(|b| b.node == host.name));
        let want: BTreeSet<&str> = bound.into_iter().flat_map(|p| &p.addresses).map(String::as_str).collect();
        if found != want {
            bail!("workload {} has {found:?} and should have {want:?}", name(n));
        }
    }
    Ok(())
}
