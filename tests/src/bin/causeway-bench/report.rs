//! What a benchmark says: printed as a table, and written to `target/bench/NAME.json`.

use std::path::Path;

use anyhow::{Context, Result};
use serde::Serialize;

/// One figure.
#[derive(Debug, Clone, Serialize)]
pub(crate) struct Figure {
    /// What was measured.
    pub(crate) name: String,
    /// Our figure.
    pub(crate) value: f64,
    /// Its unit.
    pub(crate) unit: &'static str,
    /// What it is compared with, measured in the same run; empty: nothing.
    pub(crate) peer: String,
    /// The peer's figure.
    pub(crate) peer_value: Option<f64>,
    /// Ours divided by the peer's.
    pub(crate) ratio: Option<f64>,
    /// What was aimed at, in words; empty: no aim.
    pub(crate) aim: String,
    /// Whether the aim is met; `None` without one.
    pub(crate) holds: Option<bool>,
    /// Why a missed aim is missed; empty: not known, or met.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub(crate) why: String,
}

/// The figures of one run.
#[derive(Debug, Default)]
pub(crate) struct Report {
    figures: Vec<Figure>,
}

/// An aim for a figure.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Aim {
    /// None: shown for information.
    None,
    /// The ratio to the peer is at least this.
    RatioAtLeast(f64),
    /// The ratio to the peer is at most this.
    RatioAtMost(f64),
    /// The value is less than this.
    Below(f64),
}

impl Report {
    /// Adds a figure without a peer and prints it.
    pub(crate) fn add(&mut self, name: &str, value: f64, unit: &'static str, aim: Aim) {
        self.push(name, value, unit, None, aim);
    }

    /// Adds a figure beside a peer's and prints it.
    pub(crate) fn versus(&mut self, name: &str, value: f64, unit: &'static str, peer: (&str, f64), aim: Aim) {
        self.push(name, value, unit, Some(peer), aim);
    }

    /// Says why the figure added last misses its aim, if it does.
    pub(crate) fn explain(&mut self, why: impl FnOnce() -> String) {
        if let Some(figure) = self.figures.last_mut().filter(|f| f.holds == Some(false)) {
            figure.why = why();
            println!("    because {}", figure.why);
        }
    }

    fn push(&mut self, name: &str, value: f64, unit: &'static str, peer: Option<(&str, f64)>, aim: Aim) {
        let ratio = peer.map(|(_, theirs)| value / theirs);
        let (words, holds) = match aim {
            Aim::None => (String::new(), None),
            Aim::RatioAtLeast(x) => (format!("ratio >= {x}"), ratio.map(|r| r >= x)),
            Aim::RatioAtMost(x) => (format!("ratio <= {x}"), ratio.map(|r| r <= x)),
            Aim::Below(x) => (format!("< {x} {unit}"), Some(value < x)),
        };
        let figure = Figure {
            name: name.to_string(),
            value,
            unit,
            peer: peer.map(|(who, _)| who.to_string()).unwrap_or_default(),
            peer_value: peer.map(|(_, theirs)| theirs),
            ratio,
            aim: words,
            holds,
            why: String::new(),
        };
        println!("{}", line(&figure));
        self.figures.push(figure);
    }

    /// Writes the figures and says which aims were missed.
    pub(crate) fn finish(&self, file: &Path) -> Result<()> {
        if let Some(directory) = file.parent() {
            std::fs::create_dir_all(directory)
                .with_context(|| format!("cannot create {}", directory.display()))?;
        }
        let text = serde_json::to_string_pretty(&self.figures)?;
        std::fs::write(file, text + "\n").with_context(|| format!("cannot write {}", file.display()))?;
        let (with_aim, missed): (Vec<_>, Vec<_>) = (
            self.figures.iter().filter(|f| f.holds.is_some()).collect(),
            self.figures.iter().filter(|f| f.holds == Some(false)).collect(),
        );
        println!(
            "\n{} figures in {}; {} of {} aims met",
            self.figures.len(),
            file.display(),
            with_aim.len() - missed.len(),
            with_aim.len()
        );
        for figure in missed {
            println!("MISSED {}", line(figure));
            if !figure.why.is_empty() {
                println!("       because {}", figure.why);
            }
        }
        Ok(())
    }
}

fn line(f: &Figure) -> String {
    let mut text = format!("{:<58} {:>14} {:<10}", f.name, number(f.value), f.unit);
    if let (Some(theirs), Some(ratio)) = (f.peer_value, f.ratio) {
        text += &format!(" {}: {} (x {ratio:.2})", f.peer, number(theirs));
    }
    if let Some(holds) = f.holds {
        text += &format!("  aim {}: {}", f.aim, if holds { "met" } else { "MISSED" });
    }
    text
}

fn number(x: f64) -> String {
    if x.abs() >= 1000.0 { format!("{x:.0}") } else { format!("{x:.3}") }
}

/// The middle one.
pub(crate) fn middle(mut samples: Vec<f64>) -> f64 {
    percentile(&mut samples, 0.5)
}

/// CPU seconds that a process has used, and its resident bytes.
pub(crate) fn usage(pid: u32) -> Result<(f64, f64)> {
    let stat = std::fs::read_to_string(format!("/proc/{pid}/stat"))
        .with_context(|| format!("process {pid} is gone"))?;
    let fields: Vec<&str> =
        stat.rsplit_once(')').context("odd /proc/PID/stat")?.1.split_whitespace().collect();
    let field = |n: usize| fields.get(n).and_then(|f| f.parse::<f64>().ok()).context("odd /proc/PID/stat");
    // Fields 14 and 15 of proc(5), in ticks of 10 ms; field 24, in pages.
    Ok(((field(11)? + field(12)?) / 100.0, field(21)? * 4096.0))
}

/// Resident bytes of a process.
pub(crate) fn resident(pid: u32) -> Result<f64> {
    Ok(usage(pid)?.1)
}

/// One line about the machine.
pub(crate) fn machine() -> String {
    let read = |path: &str| std::fs::read_to_string(path).unwrap_or_default();
    let field = |text: &str, name: &str| {
        let line = text.lines().find(|line| line.starts_with(name));
        line.and_then(|line| line.split_once(':'))
            .map(|(_, value)| value.trim().to_string())
            .unwrap_or_default()
    };
    let cores = std::thread::available_parallelism().map_or(0, usize::from);
    let memory = field(&read("/proc/meminfo"), "MemTotal");
    let load = read("/proc/loadavg").split_whitespace().next().unwrap_or_default().to_string();
    format!(
        "{cores} cores ({}), {memory} memory, Linux {}, load before {load}, {} build",
        field(&read("/proc/cpuinfo"), "model name"),
        read("/proc/sys/kernel/osrelease").trim(),
        if cfg!(debug_assertions) { "debug" } else { "release" },
    )
}

/// The value below which `share` (0 to 1) of the samples lie.
pub(crate) fn percentile(samples: &mut [f64], share: f64) -> f64 {
    samples.sort_by(f64::total_cmp);
    let at = ((samples.len() as f64 * share).ceil() as usize).clamp(1, samples.len().max(1)) - 1;
    samples.get(at).copied().unwrap_or(f64::NAN)
}
