//! Benchmarks: figures, each beside what it is compared with, measured in the same run. `make bench` runs `core`.

mod alloc;
mod codec;
mod compare;
mod containers;
mod datapath;
mod fabric;
mod failover;
mod fill;
mod latency;
mod memory;
mod migrate;
mod ports;
mod pump;
mod report;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};

use anyhow::{Context, Result};
use clap::{Parser, Subcommand, ValueEnum};

use crate::report::Report;

#[derive(Debug, Parser)]
#[command(about = "Measures, compares, and writes target/bench/NAME.json")]
struct Args {
    /// Print the end of the log of each program that was started, when it is ended.
    #[arg(long, global = true)]
    logs: bool,
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Everything of the core: ports, routes, latency, memory, allocation.
    Core {
        /// Only these parts; default: all.
        #[arg(long, value_delimiter = ',')]
        only: Vec<Part>,
        /// Where the figures go.
        #[arg(long, default_value = "target/bench/core.json")]
        out: PathBuf,
    },
    /// What failures cost, in packets and milliseconds.
    Failover {
        /// Where the figures go.
        #[arg(long, default_value = "target/bench/failover.json")]
        out: PathBuf,
    },
    /// What moves of a port cost, VM to container and back, beside the same by hand.
    Migrate {
        #[command(flatten)]
        options: migrate::Options,
        /// Where the figures go.
        #[arg(long, default_value = "target/bench/migrate.json")]
        out: PathBuf,
    },
    /// A hundred and fifty containers on two hosts, requested at once.
    Containers {
        /// Where the figures go.
        #[arg(long, default_value = "target/bench/containers.json")]
        out: PathBuf,
    },
    /// Throughput and latency of each attachment, beside bare hosts and Docker's NAT.
    Datapath {
        #[command(flatten)]
        options: datapath::Options,
        /// Where the figures go.
        #[arg(long, default_value = "target/bench/datapath.json")]
        out: PathBuf,
    },
    /// One end of a measured connection.
    #[command(hide = true, subcommand)]
    Flow(datapath::flow::Flow),
    /// The process that sends pre-encoded messages.
    #[command(hide = true)]
    Pump { from: Ipv4Addr, to: SocketAddr, routes: u32 },
    /// The process that holds our speaker.
    #[command(hide = true)]
    Speak,
    /// The process that fills GoBGP's table.
    #[command(hide = true)]
    Fill { major: u32, rd: Ipv4Addr, routes: u32 },
}

/// A part of the core's benchmarks, in the order in which they run.
#[derive(Debug, Clone, Copy, PartialEq, Eq, ValueEnum)]
enum Part {
    /// Encoding and decoding.
    Codec,
    /// Choosing addresses.
    Alloc,
    /// Ports created per second.
    Ports,
    /// From a request to the kernel of another host.
    Latency,
    /// A table of 100,000 routes into FRR.
    Fabric,
    /// Intended against observed, 100,000 ports.
    Compare,
    /// Memory of a controller with a million ports.
    Memory,
}

impl Part {
    async fn run(self, report: &mut Report) -> Result<()> {
        match self {
            Part::Codec => codec::run(report),
            Part::Alloc => alloc::run(report).await,
            Part::Ports => ports::run(report).await,
            Part::Latency => latency::run(report).await,
            Part::Fabric => fabric::run(report).await,
            Part::Compare => compare::run(report),
            Part::Memory => memory::run(report).await,
        }
    }
}

async fn core(only: &[Part], out: &Path) -> Result<()> {
    println!("{}", report::machine());
    let mut report = Report::default();
    for part in Part::value_variants() {
        if only.is_empty() || only.contains(part) {
            part.run(&mut report).await.with_context(|| format!("part {part:?}"))?;
        }
    }
    report.finish(out)
}

#[tokio::main]
async fn main() -> Result<()> {
    let args = Args::parse();
    if !args.logs {
        causeway_tests::process::keep_logs_quiet();
    }
    match args.what {
        What::Core { only, out } => core(&only, &out).await,
        What::Failover { out } => {
            println!("{}", report::machine());
            let mut report = Report::default();
            failover::run(&mut report).await?;
            report.finish(&out)
        }
        What::Migrate { options, out } => {
            println!("{}", report::machine());
            let mut report = Report::default();
            migrate::run(&mut report, options).await?;
            report.finish(&out)
        }
        What::Containers { out } => {
            println!("{}", report::machine());
            let mut report = Report::default();
            containers::run(&mut report).await?;
            report.finish(&out)
        }
        What::Datapath { options, out } => {
            println!("{}", report::machine());
            let mut report = Report::default();
            datapath::run(&mut report, &options).await?;
            report.finish(&out)
        }
        What::Flow(flow) => flow.run(),
        What::Pump { from, to, routes } => pump::run(from, to, routes).await,
        What::Speak => fabric::speak().await,
        What::Fill { major, rd, routes } => fill::run(major, rd, routes).await,
    }
}
