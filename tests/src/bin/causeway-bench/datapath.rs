//! What an attachment costs: TCP throughput and round trips between two workloads on two hosts, beside the same between
//! the hosts themselves over the same kind of cable, and beside a container behind Docker's bridge and NAT.
//!
//! Twice: on a cable without a limit, where CPUs are the limit and everything a packet passes counts, and on one of
//! 1 Gbit/s, as most lines are slower than their hosts. Rounds are interleaved, each begins with another pair, so that
//! whatever else the machine does meets all alike.

pub(crate) mod flow;
mod hosts;
mod ways;

use std::time::Duration;

use anyhow::{Context, Result, bail};
use causeway_tests::controller::{Controller, StoreAt};
use causeway_tests::process::{run as execute, run_within};
use clap::Args;

use crate::report::{Aim, Report, middle, percentile};
use hosts::Pair;
use ways::{WAYS, Way};

/// Share of bare that is aimed at.
const AIM: f64 = 0.97;
/// Slices of a round's round trips, interleaved as the rounds are.
const SLICES: u32 = 4;
/// The same for what is better when it is less.
const LATE: f64 = 1.03;
/// The limited line, bit/s.
const LINE: f64 = 1e9;
/// Bytes of a full packet on the cable.
const PACKET: f64 = 1500.0;
/// Of an IPv4 packet, what is not payload of TCP: headers of 20 bytes each and timestamps of 12.
const HEADERS: f64 = 52.0;

/// How long to measure.
#[derive(Debug, Args)]
pub(crate) struct Options {
    /// Seconds of each throughput measurement.
    #[arg(long, default_value_t = 3.0)]
    seconds: f64,
    /// Rounds; the median of their throughputs counts.
    #[arg(long, default_value_t = 3)]
    rounds: u32,
    /// Round trips timed, in all rounds together.
    #[arg(long, default_value_t = 20_000)]
    round_trips: u32,
    /// The network namespace in which a dockerd works that `docker` speaks to, and has the image `causeway-bench`.
    #[arg(long)]
    docker: Option<String>,
    /// Only these attachments, beside bare; default: all that this kernel has.
    #[arg(long, value_delimiter = ',', value_name = "NAME")]
    only: Vec<String>,
}

/// How fast the cables are.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Regime {
    Unlimited,
    Line,
}

impl Regime {
    fn name(self) -> &'static str {
        match self {
            Regime::Unlimited => "no limit",
            Regime::Line => "1 Gbit/s line",
        }
    }

    /// Sets the cable's limit at both ends: what a host sends waits there as at a network card.
    async fn set(self, pair: &Pair) -> Result<()> {
        for end in &pair.ends {
            let words = match self {
                // As it is made.
                Regime::Unlimited => continue,
                // The burst holds the largest packet that the kernel hands down in one piece.
                Regime::Line => format!(
                    "tc -n {end} qdisc replace dev eth0 root tbf rate {LINE}bit burst 128kb latency 10ms"
                ),
            };
            execute(&words.split_whitespace().collect::<Vec<_>>()).await?;
        }
        Ok(())
    }
}

/// What was measured of one pair under one regime.
#[derive(Debug, Default)]
struct Samples {
    /// bit/s, one a round.
    throughput: Vec<f64>,
    /// Median microseconds of each slice's round trips. A slice is a connection of its own: on which CPUs its two ends come
    /// to lie makes more difference than what is measured.
    medians: Vec<f64>,
    /// Microseconds of all round trips.
    trips: Vec<f64>,
}

/// What comes of it.
#[derive(Debug, Clone, Copy)]
struct Figures {
    /// Mbit/s.
    throughput: f64,
    /// Microseconds.
    p50: f64,
    p99: f64,
    /// Its fastest round divided by its slowest.
    spread: f64,
}

impl Samples {
    fn figures(mut self) -> Figures {
        let slowest = self.throughput.iter().copied().fold(f64::INFINITY, f64::min);
        let fastest = self.throughput.iter().copied().fold(0.0, f64::max);
        Figures {
            spread: fastest / slowest,
            throughput: middle(self.throughput) / 1e6,
            p50: middle(self.medians),
            p99: percentile(&mut self.trips, 0.99),
        }
    }
}

async fn throughput(pair: &Pair, seconds: f64) -> Result<f64> {
    let words = hosts::command(&pair.client, &["send", &pair.server.to_string(), &seconds.to_string()])?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let limit = Duration::try_from_secs_f64(seconds + 30.0)?;
    let text = run_within(&words, limit).await?;
    text.trim().parse().with_context(|| format!("odd throughput {text:?}"))
}

async fn trips(pair: &Pair, count: u32) -> Result<Vec<f64>> {
    let words = hosts::command(&pair.client, &["ask", &pair.server.to_string(), &count.to_string()])?;
    let words: Vec<&str> = words.iter().map(String::as_str).collect();
    let text = run_within(&words, Duration::from_secs(60)).await?;
    let nanos = text.lines().map(|line| line.parse::<f64>().with_context(|| format!("odd time {line:?}")));
    nanos.map(|n| Ok(n? / 1e3)).collect()
}

async fn measure(pairs: &[Pair], options: &Options) -> Result<Vec<Figures>> {
    let mut samples: Vec<Samples> = pairs.iter().map(|_| Samples::default()).collect();
    let rounds = options.rounds.max(1);
    let a_slice = options.round_trips.div_ceil(rounds * SLICES).max(1);
    for round in 0..rounds as usize {
        let order = || (0..pairs.len()).map(move |n| (n + round) % pairs.len());
        let at = |n: usize| format!("{}, round {}", pairs[n].name, round + 1);
        for n in (0..SLICES).flat_map(|_| order()) {
            let mut slice = trips(&pairs[n], a_slice).await.with_context(|| at(n))?;
            samples[n].medians.push(percentile(&mut slice, 0.5));
            samples[n].trips.extend(slice);
        }
        for n in order() {
            samples[n].throughput.push(throughput(&pairs[n], options.seconds).await.with_context(|| at(n))?);
        }
    }
    Ok(samples.into_iter().map(Samples::figures).collect())
}

/// The share of bare's throughput that a line leaves to a way at best: VXLAN takes 50 bytes of each packet.
fn share_of_line(way: &Way) -> f64 {
    let overhead = if way.has_vxlan() { 50.0 } else { 0.0 };
    (PACKET - overhead - HEADERS) / (PACKET - HEADERS)
}

/// Why throughput is below the aim.
fn why_slow(regime: Regime, way: &Way) -> String {
    let best = share_of_line(way);
    match regime {
        Regime::Line if best < AIM => format!(
            "50 of every 1500 bytes are VXLAN's: {best:.3} is the most at this MTU (0.994 at one of 9000)"
        ),
        Regime::Line => {
            "the CPUs were too busy with something else to fill the line: no packet is longer than a bare one"
                .to_owned()
        }
        Regime::Unlimited => {
            format!("not a line is the limit but the CPUs, and a packet passes {} too", way.passes)
        }
    }
}

fn why_late(way: &Way, (figures, bare): (Figures, Figures)) -> String {
    format!(
        "a packet passes {} too, {:.1} us there and back, and the cable itself takes no time",
        way.passes,
        figures.p50 - bare.p50
    )
}

/// A pair beside bare and, if it is one of ours, beside Docker's.
fn report_pair(
    report: &mut Report,
    regime: Regime,
    pair: &Pair,
    figures: Figures,
    peers: (Figures, Option<Figures>),
) {
    let (bare, docker) = peers;
    let title = |what: &str| format!("{}, {}, {what}", pair.name, regime.name());
    let (rate, trip, late) = (title("TCP"), title("round trip p50"), title("round trip p99"));
    let versus = |report: &mut Report, (of_rate, of_trip): (Aim, Aim)| {
        report.versus(&rate, figures.throughput, "Mbit/s", ("bare", bare.throughput), of_rate);
        if let Some(way) = pair.way {
            report.explain(|| why_slow(regime, way));
        }
        report.versus(&trip, figures.p50, "us", ("bare", bare.p50), of_trip);
        if let Some(way) = pair.way {
            report.explain(|| why_late(way, (figures, bare)));
        }
    };
    match pair.way {
        Some(_) => versus(report, (Aim::RatioAtLeast(AIM), Aim::RatioAtMost(LATE))),
        None => versus(report, (Aim::None, Aim::None)),
    }
    report.versus(&late, figures.p99, "us", ("bare", bare.p99), Aim::None);
    if let (Some(_), Some(docker)) = (pair.way, docker) {
        let peer = "Docker's NAT";
        report.versus(&rate, figures.throughput, "Mbit/s", (peer, docker.throughput), Aim::None);
        report.versus(&trip, figures.p50, "us", (peer, docker.p50), Aim::None);
    }
}

/// All at a glance; with the NAT column if there is one.
fn table(regime: Regime, pairs: &[Pair], figures: &[Figures], docker: Option<Figures>) -> String {
    let heads = ["TCP Mbit/s", "of bare", "of NAT", "p50 us", "of bare", "of NAT", "p99 us"];
    let mut text = format!("\n{:<20}", regime.name());
    text.extend(heads.map(|head| format!(" {head:>10}")));
    let bare = figures[0];
    let share = |ours: f64, theirs: Option<f64>| {
        theirs.map_or("-".to_owned(), |theirs| format!("{:.2}", ours / theirs))
    };
    for (pair, f) in pairs.iter().zip(figures) {
        let cells = [
            format!("{:.0}", f.throughput),
            share(f.throughput, Some(bare.throughput)),
            share(f.throughput, docker.map(|d| d.throughput)),
            format!("{:.1}", f.p50),
            share(f.p50, Some(bare.p50)),
            share(f.p50, docker.map(|d| d.p50)),
            format!("{:.1}", f.p99),
        ];
        text += &format!("\n{:<20}", pair.name);
        text.extend(cells.map(|cell| format!(" {cell:>10}")));
    }
    text
}

/// All pairs, bare first.
async fn pairs(controller: &Controller, options: &Options) -> Result<Vec<Pair>> {
    let known = |name: &String| WAYS.iter().any(|way| way.name == name);
    if let Some(odd) = options.only.iter().find(|name| !known(name)) {
        bail!("there is no attachment {odd:?}: there are {}", WAYS.map(|way| way.name).join(", "));
    }
    controller.apply(vec![ways::switch()]).await?;
    let mut pairs = vec![Pair::bare(0).await?];
    let wanted = |way: &Way| options.only.is_empty() || options.only.iter().any(|name| name == way.name);
    for (n, way) in (1..).zip(WAYS.iter().filter(|way| wanted(way))) {
        let missing = way.missing()?;
        if !missing.is_empty() {
            println!("{}: not measured, this kernel has no {}", way.name, missing.join(", "));
            continue;
        }
        pairs.push(Pair::ours(n, way, controller).await.with_context(|| format!("attachment {}", way.name))?);
    }
    match &options.docker {
        Some(docker) => pairs.push(Pair::docker(200, docker).await.context("Docker")?),
        None => println!("Docker's NAT: not measured without --docker; make bench-datapath starts a dockerd"),
    }
    Ok(pairs)
}

/// Measures all under both regimes.
pub(crate) async fn run(report: &mut Report, options: &Options) -> Result<()> {
    let controller = Controller::start(&StoreAt::File).await?;
    let pairs = pairs(&controller, options).await?;
    let mut tables = Vec::new();
    for regime in [Regime::Unlimited, Regime::Line] {
        for pair in &pairs {
            regime.set(pair).await?;
        }
        let figures = measure(&pairs, options).await?;
        let bare = *figures.first().context("nothing measured")?;
        let docker = options.docker.as_ref().and_then(|_| figures.last().copied());
        let name = |what: &str| format!("bare, {}, {what}", regime.name());
        report.add(&name("TCP"), bare.throughput, "Mbit/s", Aim::None);
        report.add(&name("round trip p50"), bare.p50, "us", Aim::None);
        report.add(&name("round trip p99"), bare.p99, "us", Aim::None);
        // How far ratios of throughput are to be trusted.
        report.add(&name("TCP, fastest round by slowest"), bare.spread, "", Aim::None);
        for (pair, of_pair) in pairs.iter().zip(&figures).skip(1) {
            report_pair(report, regime, pair, *of_pair, (bare, docker));
        }
        tables.push(table(regime, &pairs, &figures, docker));
    }
    // What they wrote comes before the tables.
    drop((pairs, controller));
    println!("{}", tables.join("\n"));
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn vxlan_takes_its_bytes_of_a_line_and_nothing_else_does() {
        let share = |name: &str| share_of_line(WAYS.iter().find(|way| way.name == name).unwrap());
        // 1398 of 1448 bytes of payload in a frame of the same size.
        assert!((share("vxlan-bridge") - 1398.0 / 1448.0).abs() < 1e-9);
        assert!((share("macvlan") - 1.0).abs() < 1e-9);
    }

    #[test]
    fn one_bad_round_or_slice_does_not_count() {
        let trips = (1..=100).map(f64::from).collect();
        let figures =
            Samples { throughput: vec![3e6, 1e6, 2e6], medians: vec![20.0, 90.0, 10.0], trips }.figures();
        assert!((figures.throughput - 2.0).abs() < 1e-9);
        assert!((figures.spread - 3.0).abs() < 1e-9);
        assert!((figures.p50 - 20.0).abs() < 1e-9 && (figures.p99 - 99.0).abs() < 1e-9);
    }
}
