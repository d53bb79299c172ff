//! Feeds mutated messages to the decoders: `mutate [MILLIONS] [SEED]`. Prints the figures; a panic is a failure.

use std::time::Instant;

fn main() -> anyhow::Result<()> {
    let mut arguments = std::env::args().skip(1);
    let millions: u64 = arguments.next().map_or(Ok(10), |text| text.parse())?;
    let seed: u64 = arguments.next().map_or(Ok(1), |text| text.parse())?;
    let start = Instant::now();
    let report = causeway_bgp::mutate::run(seed, millions * 1_000_000);
    let seconds = start.elapsed().as_secs_f64();
    println!(
        "{} mutated messages, seed {seed}: {} read, {} refused, {} routes, {} written and read again, no panic; {seconds:.1} s, {:.0} messages/s",
        report.messages,
        report.accepted,
        report.refused,
        report.routes,
        report.round_trips,
        report.messages as f64 / seconds,
    );
    Ok(())
}
