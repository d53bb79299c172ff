//! The main job, on both FRRs: a lab from a containerlab file, ports over gRPC, and everybody reaches everybody.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_tests::lab::{Lab, Switches, leftovers};
use causeway_tests::wait_for;

const SOON: Duration = Duration::from_secs(30);
/// Node and workload.
const WORKLOADS: [(&str, &str); 4] =
    [("host1", "web-1"), ("host1", "web-2"), ("host2", "db-1"), ("host2", "db-2")];
const SERVER: (&str, &str) = ("10.100.0.250", "fd00:100::250");

/// Somebody with addresses on the network.
#[derive(Debug)]
struct Party {
    node: &'static str,
    workload: Option<&'static str>,
    ipv4: String,
    ipv6: String,
}

impl Party {
    async fn exec(&self, lab: &Lab, command: &[&str]) -> Result<String> {
        match self.workload {
            Some(name) => lab.exec(self.node, &[&["ip", "netns", "exec", name], command].concat()).await,
            None => lab.exec(self.node, command).await,
        }
    }
}

async fn bring_up(switches: Switches) -> Result<(Lab, Vec<Party>)> {
    let lab = Lab::up("quickstart", switches).await?;
    lab.apply("ctl").await?;
    let mut parties = Vec::new();
    for (node, workload) in WORKLOADS {
        lab.exec(node, &["ip", "netns", "add", workload]).await?;
        let (port, netns) = (format!("web/{workload}"), format!("/run/netns/{workload}"));
        let create =
            ["port", "create", &port, "--bind-node", node, "--netns", &netns, "--wait", "advertised"];
        lab.exec("ctl", &[&["causeway"], &create[..]].concat()).await?;
        let got = lab.json("ctl", &["causeway", "get", "port", &port, "-o", "json"]).await?;
        let address = |n: usize| got["addresses"][n].as_str().map(ToString::to_string).context("no address");
        parties.push(Party { node, workload: Some(workload), ipv4: address(0)?, ipv6: address(1)? });
    }
    let (ipv4, ipv6) = SERVER;
    parties.push(Party { node: "bm1", workload: None, ipv4: ipv4.into(), ipv6: ipv6.into() });
    Ok((lab, parties))
}

async fn everybody_pings_everybody(lab: &Lab, parties: &[Party]) -> Result<()> {
    for from in parties {
        for to in parties.iter().filter(|to| to.ipv4 != from.ipv4) {
            for address in [&to.ipv4, &to.ipv6] {
                let what = format!("{} pings {address}", from.ipv4);
                let ping = ["ping", "-n", "-c", "1", "-W", "1", address.as_str()];
                wait_for(&what, SOON, async || from.exec(lab, &ping).await).await?;
            }
        }
    }
    Ok(())
}

/// The source address that reaches the receiver is the sender's own.
async fn nobody_translates(lab: &Lab, from: &Party, to: &Party) -> Result<()> {
    let device = if to.workload.is_some() { "eth0" } else { "eth1" };
    let dump =
        ["timeout", "10", "tcpdump", "-nn", "-l", "-c", "1", "-i", device, "icmp[icmptype] == icmp-echo"];
    let pings = ["ping", "-n", "-c", "20", "-i", "0.2", "-W", "1", to.ipv4.as_str()];
    let (seen, _) = tokio::join!(to.exec(lab, &dump), from.exec(lab, &pings));
    let seen = seen?;
    ensure!(seen.contains(&format!("{} > {}", from.ipv4, to.ipv4)), "the receiver saw: {seen}");
    Ok(())
}

async fn frr_has_our_routes(lab: &Lab, parties: &[Party]) -> Result<()> {
    let text = lab.exec("leaf1", &["vtysh", "-c", "show bgp l2vpn evpn route"]).await?;
    for party in parties.iter().filter(|p| p.workload.is_some()) {
        ensure!(
            text.contains(&format!("[{}]", party.ipv4)),
            "no type-2 route for {} in:\n{text}",
            party.ipv4
        );
        ensure!(
            text.contains(&format!("[{}]", party.ipv6)),
            "no type-2 route for {} in:\n{text}",
            party.ipv6
        );
    }
    for vtep in ["10.255.0.4", "10.255.0.5"] {
        ensure!(text.contains(&format!("[3]:[0]:[32]:[{vtep}]")), "no type-3 route of {vtep} in:\n{text}");
    }
    Ok(())
}

async fn whole(switches: Switches) -> Result<()> {
    let (lab, parties) = bring_up(switches).await?;
    let name = lab.name().to_string();
    everybody_pings_everybody(&lab, &parties).await?;
    nobody_translates(&lab, &parties[0], &parties[4]).await?;
    nobody_translates(&lab, &parties[4], &parties[0]).await?;
    nobody_translates(&lab, &parties[0], &parties[2]).await?;
    frr_has_our_routes(&lab, &parties).await?;
    for node in ["ctl", "host1", "host2"] {
        ensure!(lab.complaints(node).await?.is_empty(), "{node}: {:#?}", lab.complaints(node).await?);
    }
    lab.down().await?;
    let left = leftovers(&name)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}

#[tokio::test]
async fn everybody_reaches_everybody_on_frr_8() -> Result<()> {
    whole(Switches::Frr8).await
}

#[tokio::test]
async fn everybody_reaches_everybody_on_frr_10() -> Result<()> {
    whole(Switches::Frr10).await
}
