//! The shortest way from a VM to a container and back, in `make test`; `migrate_vm` goes further.

use anyhow::{Result, ensure};
use causeway_tests::lab::{Switches, leftovers};
use causeway_tests::moving::{Home, Moving};

#[tokio::test]
async fn a_vm_becomes_a_container_and_back() -> Result<()> {
    let fabric = Moving::up(Switches::Frr8).await?;
    let name = fabric.lab.name().to_string();
    let vm = fabric.place().await?;
    let pings = fabric.pings(&fabric.ipv4).await?;
    for (number, to) in [Home::Container2, Home::Vm1, Home::Container2].into_iter().enumerate() {
        let moved = fabric.migrate(to, &pings).await?;
        println!("move {number} to {to:?}: {:.0} ms, {:?}", moved.silent_ms(), moved.costs);
        ensure!(moved.duplicates() == 0, "two answered: {moved:?}");
    }
    let sequence = fabric.nothing_is_stale(Home::Container2).await?;
    ensure!(sequence >= 3, "the third move has sequence {sequence}");
    drop((pings, vm));
    fabric.lab.down().await?;
    ensure!(leftovers(&name)?.is_empty(), "left behind: {:#?}", leftovers(&name)?);
    Ok(())
}
