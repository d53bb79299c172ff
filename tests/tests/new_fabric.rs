//! What `causeway topology new` writes comes up: agents connect, and ports on two hosts reach each other.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_tests::lab::{Lab, Switches, leftovers};
use causeway_tests::process::{program, run_within};
use causeway_tests::wait_for;

const SOON: Duration = Duration::from_secs(30);

#[tokio::test]
async fn a_new_fabric_comes_up_and_carries_frames() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let file = folder.path().join("fabric.clab.yml");
    let (causeway, to) = (program("causeway")?, file.to_string_lossy().into_owned());
    let shape = ["--spines", "2", "--leaves", "2", "--hosts", "2", "--mode", "host-vtep", "--to", &to];
    let causeway = causeway.to_string_lossy();
    let new = [&[&*causeway, "topology", "new"], &shape[..]].concat();
    run_within(&new, SOON).await?;
    // An absolute path stands for itself.
    let lab = Lab::up(&to, Switches::Frr8).await?;
    let name = lab.name().to_string();
    lab.apply("ctl").await?;
    let mut addresses = Vec::new();
    for host in ["host1", "host2"] {
        lab.exec(host, &["ip", "netns", "add", "w"]).await?;
        let port = format!("web/{host}");
        let create = ["causeway", "port", "create", &port, "--bind-node", host, "--netns", "/run/netns/w"];
        lab.exec("ctl", &[&create[..], &["--wait", "advertised"]].concat()).await?;
        let got = lab.json("ctl", &["causeway", "get", "port", &port, "-o", "json"]).await?;
        let all = got["addresses"].as_array().context("no addresses")?;
        addresses.push(all.iter().filter_map(|a| a.as_str()).map(ToString::to_string).collect::<Vec<_>>());
    }
    ensure!(addresses.iter().all(|a| a.len() == 2), "not two families: {addresses:?}");
    for (host, others) in [("host1", &addresses[1]), ("host2", &addresses[0])] {
        for address in others {
            let ping = ["ip", "netns", "exec", "w", "ping", "-n", "-c", "1", "-W", "1", address.as_str()];
            wait_for(&format!("{host} pings {address}"), SOON, async || lab.exec(host, &ping).await).await?;
        }
    }
    let nodes = lab.exec("ctl", &["causeway", "node", "list"]).await?;
    for host in ["host1", "host2"] {
        let line = nodes.lines().find(|l| l.starts_with(host)).context("a host is not listed")?;
        ensure!(line.contains(" connected"), "{nodes}");
    }
    lab.down().await?;
    let left = leftovers(&name)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    Ok(())
}
