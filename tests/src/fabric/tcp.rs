//! TCP that tells who sent, from where, and to whom.

use std::time::Duration;

use anyhow::{Result, ensure};

use super::Party;
use crate::{Lab, wait_for};

/// Bytes of a transfer: more than a few full segments.
const LOAD: usize = 40_000;

/// Everybody named listens on both families; who begins a row sends to each of the others some full segments over every
/// family that both have. All of it arrives where it belongs, nothing arrives anywhere else, and the sender is seen under
/// its own address.
pub async fn tcp(lab: &Lab, rows: &[(&Party, Vec<&Party>)]) -> Result<()> {
    let mut all: Vec<&Party> =
        rows.iter().flat_map(|(from, to)| std::iter::once(from).chain(to)).copied().collect();
    all.sort_by_key(|party| party.name);
    all.dedup_by_key(|party| party.name);
    let mut servers = Vec::new();
    for party in &all {
        let listen = "nc -4 -klvn 5001 & nc -6 -klvn 5001 & wait";
        servers.push(lab.spawn(party.node, &["sh", "-c", &party.inside(listen)])?);
    }
    for (party, server) in all.iter().zip(&servers) {
        wait_for(&format!("{} listens", party.name), Duration::from_secs(60), async || {
            let count = server.log().matches("Listening on").count();
            ensure!(count == 2, "{}", server.log());
            Ok(())
        })
        .await?;
    }
    for (from, to) in rows {
        let flows: String =
            to.iter().flat_map(|to| from.common(to)).map(|(_, address)| format!("{address} ")).collect();
        let line = format!(
            "x=$(head -c {LOAD} /dev/zero | tr \"\\\\0\" x); for a in {flows}; do (echo {}-$a-$x | nc -N -n -w 20 $a 5001) & done; wait",
            from.name,
        );
        lab.script(from.node, &from.inside(&line), Duration::from_secs(60)).await?;
    }
    for (party, server) in all.iter().zip(&servers) {
        wait_for(&format!("{} has everything", party.name), Duration::from_secs(60), async || {
            let log = server.log();
            let mut streams = 0;
            for (from, _) in rows.iter().filter(|(_, to)| to.iter().any(|to| to.name == party.name)) {
                for (source, target) in from.common(party) {
                    let connection = format!("Connection received on {source} ");
                    ensure!(log.contains(&connection), "{} does not see {source} itself", party.name);
                    ensure!(log.contains(&format!("{}-{target}-x", from.name)), "{source} sent nothing");
                    streams += 1;
                }
            }
            // Two servers write to one log: what they write may be mixed, but nothing is lost.
            let (have, want) = (log.matches('x').count(), streams * LOAD);
            ensure!(have == want, "{} has {have} of {want} bytes", party.name);
            Ok(())
        })
        .await?;
    }
    Ok(())
}
