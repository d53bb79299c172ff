//! Routes encoded and decoded per second, beside the codec crate used plainly on the same messages.

use std::time::Instant;

use anyhow::{Context, Result, bail, ensure};
use bytes::{Bytes, BytesMut};
use causeway_bgp::bench;
use rustbgpd_wire as wire;
use wire::{Ipv4UnicastMode, Message, PathAttribute, UpdateMessage};

use crate::fabric::{TOTAL, routes};
use crate::report::{Aim, Report};

/// Passes over the table; the best counts.
const PASSES: usize = 9;

/// Routes per second of the fastest pass, and what a pass gave.
fn fastest<T>(mut pass: impl FnMut() -> Result<T>) -> Result<(f64, T)> {
    let mut best: Option<(f64, T)> = None;
    for _ in 0..PASSES {
        let start = Instant::now();
        let given = pass()?;
        let rate = f64::from(TOTAL) / start.elapsed().as_secs_f64();
        if best.as_ref().is_none_or(|(known, _)| rate > *known) {
            best = Some((rate, given));
        }
    }
    best.context("no pass")
}

/// The messages one by one.
fn messages(octets: &Bytes) -> Result<Vec<Bytes>> {
    let (mut found, mut at) = (Vec::new(), 0);
    while at < octets.len() {
        let length = octets.get(at + 16..at + 18).context("half a header")?;
        let end = at + usize::from(u16::from_be_bytes([length[0], length[1]]));
        ensure!(end > at + 18 && end <= octets.len(), "a message of odd length");
        found.push(octets.slice(at..end));
        at = end;
    }
    Ok(found)
}

/// The codec crate alone: attributes and routes in its own terms.
fn plain_decode(messages: &[Bytes]) -> Result<Vec<Vec<PathAttribute>>> {
    let mut all = Vec::with_capacity(messages.len());
    for message in messages {
        let Message::Update(update) = wire::decode_message(&mut message.clone(), u16::MAX)? else {
            bail!("not an UPDATE");
        };
        all.push(update.parse_revised(true, true, false, &[])?.update.attributes);
    }
    Ok(all)
}

fn count(attributes: &[Vec<PathAttribute>]) -> usize {
    let routes = |attribute: &PathAttribute| match attribute {
        PathAttribute::MpReachNlri(reach) => reach.evpn_announced.len(),
        _ => 0,
    };
    attributes.iter().flatten().map(routes).sum()
}

fn plain_encode(attributes: &[Vec<PathAttribute>]) -> Result<usize> {
    let mut out = BytesMut::new();
    for set in attributes {
        UpdateMessage::build(&[], &[], set, true, false, Ipv4UnicastMode::Body).encode(&mut out)?;
    }
    Ok(out.len())
}

/// Measures both directions.
pub(crate) fn run(report: &mut Report) -> Result<()> {
    let table = routes(TOTAL)?;
    let (encoded, octets) = fastest(|| Ok(bench::encode(&table, 65000)))?;
    let octets = Bytes::from(octets);
    let each = messages(&octets)?;
    let (decoded, found) = fastest(|| bench::decode(&octets).context("our own messages cannot be read"))?;
    ensure!(found == table.len(), "{found} routes came back of {}", table.len());
    let (plain_decoded, attributes) = fastest(|| plain_decode(&each))?;
    ensure!(count(&attributes) == table.len(), "the plain decoder found {}", count(&attributes));
    let (plain_encoded, length) = fastest(|| plain_encode(&attributes))?;
    ensure!(length == octets.len(), "the plain encoder wrote {length} octets, ours {}", octets.len());
    let names = [("encoded", encoded, plain_encoded), ("decoded", decoded, plain_decoded)];
    for (what, ours, theirs) in names {
        let name = format!("type-2 routes {what} a second, {} messages", each.len());
        report.versus(&name, ours, "routes/s", ("rustbgpd-wire alone", theirs), Aim::None);
    }
    Ok(())
}
