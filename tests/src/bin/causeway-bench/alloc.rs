//! What it takes to choose an address in pools that are empty, half full and nearly full: in the allocator itself, with
//! the taken addresses scattered (its worst case), and through the API.

use std::net::{IpAddr, Ipv4Addr};
use std::time::Instant;

use anyhow::{Context, Result};
use causeway_controller::alloc::{choosable, choose};
use causeway_controller::model::Subnet;
use causeway_controller::snapshot::Runs;
use causeway_proto::v1::port_service_client::PortServiceClient;
use causeway_tests::controller::{Controller, StoreAt, network};
use rand::prelude::*;

use crate::ports;
use crate::report::{Aim, Report, percentile};

/// Choices timed in one pool.
const CHOICES: u32 = 5_000;
/// Requests timed through the API, one after the other.
const REQUESTS: u64 = 300;
/// Addresses that a port may have in the API's pools, a /16.
const POOL: u64 = 65_534;

fn subnet(prefix: &str) -> Result<Subnet> {
    Ok(Subnet {
        network: "default/bench".parse()?,
        prefix: prefix.parse()?,
        gateway: None,
        ranges: Vec::new(),
        exclusions: Vec::new(),
        reservations: Vec::new(),
    })
}

/// Microseconds a choice, each taken as well, in a pool of which `taken` addresses are taken, scattered at random.
fn choice(pool: &Subnet, taken: u64, seeded: bool) -> Result<f64> {
    let pieces = choosable(pool);
    let (first, last) = *pieces.first().context("an empty pool")?;
    let mut random = StdRng::seed_from_u64(7);
    let mut runs = Runs::default();
    let (mut left, mut addresses) = (taken, first..=last);
    // Every address with the same probability, so that exactly `taken` are chosen.
    while left > 0 {
        let Some(n) = addresses.next() else { break };
        if random.random_range(0..last - n + 1) < u128::from(left) {
            runs.insert(n);
            left -= 1;
        }
    }
    let start = Instant::now();
    for i in 0..CHOICES {
        let seed = seeded.then(|| random.random::<u64>());
        let chosen = choose(&pieces, &[&runs], seed).with_context(|| format!("no address at choice {i}"))?;
        runs.insert(chosen);
    }
    Ok(start.elapsed().as_secs_f64() * 1e6 / f64::from(CHOICES))
}

/// The best of three: what else runs on the machine only ever adds.
fn best(pool: &Subnet, taken: u64, seeded: bool) -> Result<f64> {
    let mut least = f64::INFINITY;
    for _ in 0..3 {
        least = least.min(choice(pool, taken, seeded)?);
    }
    Ok(least)
}

fn in_the_allocator(report: &mut Report) -> Result<()> {
    let pool = subnet("10.16.0.0/12")?;
    let size = (1 << 20) - 2;
    for (seeded, how) in [(false, "lowest free"), (true, "anywhere")] {
        let empty = best(&pool, 0, seeded)?;
        report.add(&format!("choose an address, /12 empty, {how}"), empty, "us", Aim::None);
        for share in [50, 99] {
            let full = best(&pool, size * share / 100, seeded)?;
            let aim = if share == 99 { Aim::RatioAtMost(2.0) } else { Aim::None };
            let name = format!("choose an address, /12 {share} % full, {how}");
            report.versus(&name, full, "us", ("empty pool", empty), aim);
        }
    }
    let pool = subnet("10.0.0.0/8")?;
    let empty = best(&pool, 0, false)?;
    let filled = best(&pool, 1_000_000, false)?;
    let peer = ("empty pool", empty);
    report.versus("choose an address, /8 with 1,000,000 taken", filled, "us", peer, Aim::RatioAtMost(2.0));
    Ok(())
}

/// Median milliseconds of a `CreatePort`, one after the other.
pub(crate) async fn create_ms(controller: &Controller, network: &str, run: &str, count: u64) -> Result<f64> {
    let mut client = PortServiceClient::new(controller.channel()?);
    let mut times = Vec::new();
    for n in 0..count {
        let request = ports::request(network, run, n);
        let start = Instant::now();
        client.create_port(request).await?;
        times.push(start.elapsed().as_secs_f64() * 1e3);
    }
    Ok(percentile(&mut times, 0.5))
}

async fn through_the_api(report: &mut Report) -> Result<()> {
    let controller = Controller::start(&StoreAt::File).await?;
    let channel = controller.channel()?;
    let mut empty = f64::NAN;
    for (vni, share) in [(100, 0), (101, 50), (102, 99)] {
        let name = format!("pool{share}");
        let prefix = format!("{}/16", IpAddr::from(Ipv4Addr::from(0x0a00_0000 + vni * 0x1_0000)));
        controller.apply(network(&name, vni, &prefix)).await?;
        let make = {
            let name = name.clone();
            move |n| ports::request(&name, "fill", n)
        };
        let taken = (POOL * share / 100).min(POOL - REQUESTS - 1);
        ports::grpc(&channel, make, (taken, 1000, 2)).await?;
        let took = create_ms(&controller, &name, "timed", REQUESTS).await?;
        let title = format!("CreatePort, /16 {share} % full, file store, p50");
        if share == 0 {
            empty = took;
            report.add(&title, took, "ms", Aim::None);
        } else {
            let aim = if share == 99 { Aim::RatioAtMost(2.0) } else { Aim::None };
            report.versus(&title, took, "ms", ("empty pool", empty), aim);
        }
    }
    Ok(())
}

/// Measures both.
pub(crate) async fn run(report: &mut Report) -> Result<()> {
    in_the_allocator(report)?;
    through_the_api(report).await
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_nearly_full_pool_still_gives_addresses() {
        let pool = subnet("10.0.0.0/16").unwrap();
        assert!(choice(&pool, 60_000, false).unwrap() > 0.0);
        assert!(choice(&pool, 60_000, true).unwrap() > 0.0);
    }
}
