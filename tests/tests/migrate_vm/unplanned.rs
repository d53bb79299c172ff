//! Somebody starts the VM elsewhere and tells nobody: the fabric follows, we say so and do not fight.

use std::time::Duration;

use anyhow::{Context, Result, ensure};
use causeway_tests::lab::Switches;
use causeway_tests::moving::{Home, Moving, PORT};
use causeway_tests::wait_for;

const SOON: Duration = Duration::from_secs(60);

async fn followed(switches: Switches) -> Result<()> {
    let _turn = crate::TURN.lock().await;
    let fabric = Moving::up(switches).await?;
    let vm = fabric.place().await?;
    // Its plug is pulled, and host2 has it all of a sudden, on a link that no agent knows.
    drop(vm);
    let (mac, ipv4) = (&fabric.mac, &fabric.ipv4);
    let elsewhere = format!(
        "ip link add link eth1 name stray address {mac} mtu 1450 type macvlan mode private; ip link set stray addrgenmode none; \
         ip link set eth1 up; ip link set stray netns db-1; ip -n db-1 address add {ipv4}/24 dev stray; \
         ip -n db-1 link set stray up; ip netns exec db-1 arping -q -U -c 2 -I stray {ipv4}"
    );
    fabric.lab.shell("host2", &elsewhere).await?;
    fabric.answers().await?;
    let found = wait_for("the difference is seen", SOON, async || {
        let diff = fabric.lab.json("ctl", &["causeway", "fabric", "diff", "-o", "json"]).await?;
        let findings = diff["findings"].as_array().context("no findings")?.clone();
        ensure!(findings.iter().any(|f| f.to_string().contains(mac.as_str())), "{findings:#?}");
        Ok(findings)
    })
    .await?;
    println!("{found:#?}");
    // Who is there stays there, and nobody raises the number.
    let most =
        async || Ok::<_, anyhow::Error>(fabric.routes().await?.iter().map(|r| r.sequence).max().unwrap_or(0));
    let before = most().await?;
    let pings = fabric.pings(ipv4).await?;
    causeway_tests::moving::settle(&pings, 300).await?;
    ensure!(most().await? == before, "the number was raised: {before}, then {}", most().await?);
    for ping in &pings {
        let cost = ping.cost(0)?;
        ensure!(cost.lost == 0 && cost.duplicates == 0, "{}: {cost:?}", ping.who());
    }
    drop(pings);

    // It is gone there, and the VM is started again where it belongs.
    fabric.lab.shell("host2", "ip -n db-1 link del stray").await?;
    let tap = fabric.lab.json("ctl", &["causeway", "get", "port", PORT, "-o", "json"]).await?;
    let tap = tap["binding"]["interface"].as_str().context("no tap")?.to_string();
    let mut vm = fabric.vm("host1", &tap, None).await?;
    vm.booted().await?;
    fabric.lab.exec("ctl", &["causeway", "port", "unbind", PORT]).await?;
    let bind = ["causeway", "port", "bind", PORT, "--node", "host1", "--workload", "vm", "--interface", &tap];
    fabric.lab.exec("ctl", &[&bind[..], &["--wait", "advertised"]].concat()).await?;
    fabric.answers().await?;
    fabric.nothing_is_stale(Home::Vm1).await?;
    let diff = fabric.lab.json("ctl", &["causeway", "fabric", "diff", "-o", "json"]).await?;
    ensure!(!diff["findings"].to_string().contains(mac.as_str()), "{diff:#}");
    drop(vm);
    crate::end(fabric).await
}

#[tokio::test]
async fn who_appears_elsewhere_is_followed_and_told_of_on_frr_8() -> Result<()> {
    followed(Switches::Frr8).await
}

#[tokio::test]
async fn who_appears_elsewhere_is_followed_and_told_of_on_frr_10() -> Result<()> {
    followed(Switches::Frr10).await
}
