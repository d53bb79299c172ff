//! Pings that count.

use std::collections::BTreeMap;
use std::time::Duration;

use anyhow::{Context, Result, ensure};

use super::Party;
use crate::Lab;

/// Pings each address until it answers, also when somebody on the way says that there is no way: a switch that has yet to
/// hear of an address does that. The addresses side by side. How many were sent to each; `None`: no answer in `tries`.
pub async fn ping(lab: &Lab, from: &Party, to: &[&str], tries: u32) -> Result<BTreeMap<String, Option<u32>>> {
    // Who may send but one must wait for its answer: a guest's processors are slow, and may be busy.
    let wait = if tries == 1 { 10 } else { 1 };
    let line = format!(
        "for a in {}; do (n=1; while [ $n -le {tries} ]; do ping -n -q -c 1 -W {wait} $a > /dev/null 2>&1 && break; \
         n=$((n + 1)); sleep 0.2; done; echo $a $n) & done; wait",
        to.join(" ")
    );
    let said =
        lab.script(from.node, &from.inside(&line), Duration::from_secs(u64::from(tries) * 3 + 60)).await?;
    to.iter()
        .map(|address| {
            let line = said.lines().find_map(|l| l.strip_prefix(&format!("{address} ")));
            let sent: u32 = line.with_context(|| format!("nothing of {address} in: {said}"))?.parse()?;
            Ok((address.to_string(), Some(sent).filter(|sent| *sent <= tries)))
        })
        .collect()
}

/// A table of who reaches whom and with how many packets sent; with `first` it must be the first of each. All
/// families that both have. All at once.
pub async fn reach(lab: &Lab, rows: &[(&Party, Vec<&Party>)], first: bool) -> Result<()> {
    let tries = if first { 1 } else { 20 };
    let pings = rows.iter().map(async |(from, to)| {
        let addresses: Vec<&str> = to.iter().flat_map(|to| from.common(to)).map(|(_, to)| to).collect();
        ping(lab, from, &addresses, tries).await
    });
    let answers = join_all(pings.collect()).await;
    let mut missing = Vec::new();
    for ((from, to), answers) in rows.iter().zip(answers) {
        let answers = answers?;
        let mut line = format!("{:>6} →", from.name);
        for to in to {
            let mut cells = Vec::new();
            for (_, address) in from.common(to) {
                let sent = answers.get(address).copied().flatten();
                if sent.is_none() {
                    missing.push(format!("{} → {} ({address})", from.name, to.name));
                }
                cells.push(sent.map_or("-".to_string(), |n| n.to_string()));
            }
            line += &format!("  {} {}", to.name, cells.join("/"));
        }
        println!("{line}");
    }
    ensure!(missing.is_empty(), "no answer to {tries} packets: {missing:#?}");
    Ok(())
}

/// Polls all futures of a kind until each is done; their values in the same order.
pub async fn join_all<T>(futures: Vec<impl Future<Output = T>>) -> Vec<T> {
    let mut pending: Vec<_> = futures.into_iter().map(|future| (Box::pin(future), None)).collect();
    std::future::poll_fn(|context| {
        for (future, done) in pending.iter_mut().filter(|(_, done)| done.is_none()) {
            if let std::task::Poll::Ready(value) = future.as_mut().poll(context) {
                *done = Some(value);
            }
        }
        match pending.iter().all(|(_, done)| done.is_some()) {
            true => std::task::Poll::Ready(()),
            false => std::task::Poll::Pending,
        }
    })
    .await;
    pending.into_iter().filter_map(|(_, done)| done).collect()
}
