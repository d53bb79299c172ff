//! Benchmarks: figures, each beside what it is compared with, measured in the same run. `make bench` runs `core`.

mod fabric;
mod ports;
mod pump;
mod report;

use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;

use anyhow::Result;
use clap::{Parser, Subcommand};

use crate::report::Report;

#[derive(Debug, Parser)]
#[command(about = "Measures, compares, and writes target/bench/NAME.json")]
struct Args {
    #[command(subcommand)]
    what: What,
}

#[derive(Debug, Subcommand)]
enum What {
    /// Everything of the core: ports, routes, latency, memory, allocation.
    Core {
        /// Only these parts; default: all.
        #[arg(long, value_delimiter = ',')]
        only: Vec<String>,
        /// Where the figures go.
        #[arg(long, default_value = "target/bench/core.json")]
        out: PathBuf,
    },
    /// The process that sends pre-encoded messages.
    #[command(hide = true)]
    Pump { from: Ipv4Addr, to: SocketAddr, routes: u32 },
    /// The process that holds our speaker.
    #[command(hide = true)]
    Speak,
}

async fn core(only: &[String], out: &std::path::Path) -> Result<()> {
    let mut report = Report::default();
    let wanted = |part: &str| only.is_empty() || only.iter().any(|o| o == part);
    if wanted("fabric") {
        fabric::run(&mut report).await?;
    }
    report.finish(out)
}

#[tokio::main]
async fn main() -> Result<()> {
    match Args::parse().what {
        What::Core { only, out } => core(&only, &out).await,
        What::Pump { from, to, routes } => pump::run(from, to, routes).await,
        What::Speak => fabric::speak().await,
    }
}
