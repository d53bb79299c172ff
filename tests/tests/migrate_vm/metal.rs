//! A container becomes a server of its own on a switch's port, and a container again. What no agent does is done by hand, as
//! the plan says: the server is silent until the switch, and before the way back.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_tests::lab::Switches;
use causeway_tests::moving::{Home, Moving, NETNS, PORT};
use causeway_tests::wait_for;

/// There and back.
const ROUNDS: usize = 3;
const SOON: Duration = Duration::from_secs(60);

/// bm1 with the port's MAC and address.
struct Server<'a>(&'a Moving);

impl Server<'_> {
    async fn run(&self, line: &str) -> Result<()> {
        self.0.lab.shell("bm1", line).await.map(drop)
    }

    /// All is set, and nobody hears it.
    async fn ready(&self) -> Result<()> {
        let Moving { mac, ipv4, .. } = self.0;
        let set = format!(
            "ip address flush dev eth1; ip link set eth1 address {mac}; ip address add {ipv4}/24 dev eth1"
        );
        self.run(&format!("ip link set eth1 down; {set}")).await
    }

    async fn answers(&self) -> Result<()> {
        let announce = format!("arping -q -U -c 2 -I eth1 {}", self.0.ipv4);
        self.run(&format!("ip link set eth1 up; {announce}")).await
    }

    async fn silent(&self) -> Result<()> {
        self.run("ip link set eth1 down").await
    }

    /// It answers as soon as the port is its own.
    async fn takes_over(&self) -> Result<()> {
        wait_for("the port is the server's", SOON, async || {
            let port = self.0.lab.json("ctl", &["causeway", "get", "port", PORT, "-o", "json"]).await?;
            ensure!(port["binding"]["node"] == "leaf2", "{}", port["binding"]);
            Ok(())
        })
        .await?;
        self.answers().await
    }
}

async fn highest(fabric: &Moving) -> Result<u32> {
    Ok(fabric.routes().await?.iter().map(|r| r.sequence).max().unwrap_or_default())
}

async fn there_and_back(switches: Switches) -> Result<()> {
    let _turn = crate::TURN.lock().await;
    let mut fabric = Moving::up(switches).await?;
    fabric.bm1_is_free().await?;
    fabric.lab.exec("host1", &["ip", "netns", "add", "db-1"]).await?;
    let bind = ["causeway", "port", "bind", PORT, "--node", "host1", "--netns", NETNS];
    fabric.lab.exec("ctl", &[&bind[..], &["--wait", "advertised"]].concat()).await?;
    fabric.answers().await?;
    let server = Server(&fabric);
    let pings = fabric.pings(&fabric.ipv4).await?;
    let mut sequence = 0;
    for round in 1..=ROUNDS {
        server.ready().await?;
        let (moved, up) = tokio::join!(fabric.migrate(Home::Metal, &pings), server.takes_over());
        up.context("the server")?;
        let there = moved.with_context(|| format!("round {round}, to the server"))?;
        fabric.nothing_is_stale(Home::Metal).await?;
        let now = highest(&fabric).await?;
        ensure!(now > sequence, "round {round}: {sequence}, then {now}");
        server.silent().await?;
        let back = fabric.migrate(Home::Container1, &pings).await;
        let back = back.with_context(|| format!("round {round}, to the container"))?;
        fabric.nothing_is_stale(Home::Container1).await?;
        sequence = highest(&fabric).await?;
        ensure!(sequence > now, "round {round}: {now}, then {sequence}");
        println!(
            "{switches:?}, to the server: {:.0} ms, back: {:.0} ms",
            there.silent_ms(),
            back.silent_ms()
        );
        ensure!(there.duplicates() + back.duplicates() == 0, "two answered: {there:?} {back:?}");
        for moved in [there, back] {
            ensure!(moved.said["reason"] == "", "{}", moved.said);
        }
    }
    taken_back(&fabric, &server).await?;
    drop(pings);
    answers_still(&fabric, &server).await?;
    crate::end(fabric).await
}

/// A server that never comes up costs the port, which goes back by itself; one that does and is silenced gives it back when
/// that is asked for.
async fn taken_back(fabric: &Moving, server: &Server<'_>) -> Result<()> {
    server.ready().await?;
    let words = ["causeway", "port", "migrate", PORT, "--to", "leaf2:bare-metal", "--interface", "eth4"];
    let lost = fabric.lab.exec("ctl", &[&words[..], &["--force", "--max-loss", "500ms"]].concat()).await;
    let said = format!("{:#}", lost.err().context("it stays with a server that is silent")?);
    ensure!(said.contains("undone") && said.contains("500 ms are allowed"), "{said}");
    fabric.answers().await?;
    let kept = [&words[..], &["--force", "--max-loss", "20s", "--window", "60s"]].concat();
    let (moved, up) = tokio::join!(fabric.lab.exec("ctl", &kept), server.takes_over());
    up?;
    moved?;
    fabric.answers().await?;
    server.silent().await?;
    fabric.lab.exec("ctl", &["causeway", "port", "rollback", PORT, "--reason", "test"]).await?;
    fabric.answers().await?;
    fabric.nothing_is_stale(Home::Container1).await.map(drop)
}

/// A server that goes on is heard by its switch, which says so: that is told of, and not fought. Silenced, all is as it should.
async fn answers_still(fabric: &Moving, server: &Server<'_>) -> Result<()> {
    server.ready().await?;
    let (moved, up) = tokio::join!(fabric.migrate(Home::Metal, &[]), server.takes_over());
    up?;
    moved?;
    fabric.migrate(Home::Container1, &[]).await?;
    let gateway = fabric.lab.json("ctl", &["causeway", "get", "port", "web/ask", "-o", "json"]).await?;
    let asked = gateway["addresses"][0].as_str().context("no address")?.to_string();
    wait_for("it is said that the server is heard", SOON, async || {
        // Whatever comes back goes to the container, or to the server: it sends all the same.
        let _ = fabric.lab.exec("bm1", &["ping", "-n", "-c", "1", "-W", "1", &asked]).await;
        let diff = fabric.lab.json("ctl", &["causeway", "fabric", "diff", "-o", "json"]).await?;
        ensure!(diff["findings"].to_string().contains(fabric.mac.as_str()), "{diff}");
        Ok(())
    })
    .await?;
    server.silent().await?;
    fabric.answers().await?;
    fabric.nothing_is_stale(Home::Container1).await?;
    wait_for("nothing is said any more", SOON, async || {
        let diff = fabric.lab.json("ctl", &["causeway", "fabric", "diff", "-o", "json"]).await?;
        ensure!(!diff["findings"].to_string().contains(fabric.mac.as_str()), "{diff}");
        Ok(())
    })
    .await
}

#[tokio::test]
async fn a_container_becomes_a_server_and_back_on_frr_8() -> Result<()> {
    there_and_back(Switches::Frr8).await
}

#[tokio::test]
async fn a_container_becomes_a_server_and_back_on_frr_10() -> Result<()> {
    there_and_back(Switches::Frr10).await
}
