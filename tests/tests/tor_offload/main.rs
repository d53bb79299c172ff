//! Switches do VXLAN, hosts send plain or 802.1Q frames: the lab `tor-offload` on both FRRs, with everything asked of it
//! that a packet capture, a ping, a TCP connection and the command line can answer.
//!
//! One boot a FRR, and few commands in it: starting a program costs in a guest, so what is to be done in one node is one
//! shell script.

mod checks;
mod matrix;
mod party;
mod wire;

use std::time::{Duration, Instant};

use anyhow::{Result, ensure};
use causeway_tests::guest::TestGuest;
use causeway_tests::lab::{Lab, Switches, in_guest_instead, leftovers};

/// What the lab's set-up and the attachments need of the kernel.
const FEATURES: [&str; 6] = ["8021q", "vlan_filtering", "vrf", "macvlan", "ipvlan", "ifb"];
/// For a guest that shares its processors with other work; alone it takes a fraction.
const LIMIT: Duration = Duration::from_secs(900);

/// Prints what a part took.
async fn phase<T>(name: &str, part: impl Future<Output = Result<T>>) -> Result<T> {
    let start = Instant::now();
    println!("\n== {name}");
    let result = part.await;
    println!("== {name}: {:.1} s", start.elapsed().as_secs_f64());
    result.map_err(|error| error.context(name.to_string()))
}

async fn whole(switches: Switches) -> Result<()> {
    let lab = phase("lab up", Lab::up("tor-offload", switches)).await?;
    let name = lab.name().to_string();
    phase("the fabric comes up", checks::fabric_is_up(&lab)).await?;
    let parties = phase("ports", party::create(&lab)).await?;
    // A boot is dear: what fails is collected, and the rest looked at all the same.
    let mut failures = Vec::new();
    let mut note = |result: Result<()>| failures.extend(result.err().map(|error| format!("{error:#}")));
    note(phase("one network on three leaves", checks::one_network(&lab, &parties)).await);
    note(phase("what is on the wire", wire::tags_and_tunnels(&lab, &parties)).await);
    note(phase("a silent machine, and nobody", wire::silent_and_unknown(&lab, &parties)).await);
    note(phase("every attachment against every place", matrix::matrix(&lab, &parties)).await);
    note(phase("TCP, with the sender's own address", checks::tcp(&lab, &parties)).await);
    note(phase("what the controller says of it", checks::controller_says(&lab, &parties)).await);
    note(phase("logs", checks::nobody_complains(&lab)).await);
    phase("lab down", lab.down()).await?;
    let left = leftovers(&name)?;
    ensure!(left.is_empty(), "left behind: {left:#?}");
    ensure!(failures.is_empty(), "{}", failures.join("\n\n"));
    Ok(())
}

async fn on(switches: Switches, test: &str) -> Result<()> {
    let wishes = TestGuest { memory: 3072, limit: LIMIT, ..TestGuest::default() };
    if in_guest_instead(&FEATURES, test, &wishes)? {
        return Ok(());
    }
    whole(switches).await
}

#[tokio::test]
async fn switches_do_the_tunnels_on_frr_8() -> Result<()> {
    on(Switches::Frr8, "switches_do_the_tunnels_on_frr_8").await
}

#[tokio::test]
async fn switches_do_the_tunnels_on_frr_10() -> Result<()> {
    on(Switches::Frr10, "switches_do_the_tunnels_on_frr_10").await
}
