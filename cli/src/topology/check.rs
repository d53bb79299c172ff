//! `causeway topology check`.

use causeway_topology::budget::{self, Need, Profile, TIGHT, budget};
use causeway_topology::check::{RULES, Report, file};
use causeway_topology::{Diagnostic, LoadOptions, Severity, render_all};
use clap::Args;
use serde::Serialize;

use super::FileArg;
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Format, Output, Table, Tone, paint, plain};

/// Read a containerlab file, derive its fabric and say what is wrong with it
///
/// Addresses, AS numbers, cabling, MTU, single points of failure, and BGP: who never learns whose routes. Every finding
/// has a place, a rule, what is wrong and what to do. Exit code 1 with errors, with --strict also with warnings.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway topology check labs/quickstart
  causeway topology check dc1.clab.yml --strict
  causeway topology check dc1.clab.yml -o json
  causeway topology check dc1.clab.yml --profile medium --ports-per-host 100
  causeway topology check dc1.clab.yml --profile small,macs=64000
  causeway topology check --rules")]
pub(crate) struct CheckArgs {
    #[command(flatten)]
    file: FileArg,
    /// Warnings fail, too
    #[arg(long)]
    strict: bool,
    /// List the rules instead
    #[arg(long, conflicts_with_all = ["strict", "profile"])]
    rules: bool,
    /// Also hold what each leaf needs against a switch's tables: small, medium or large, TABLE=NUMBER,… with the tables macs,
    /// hosts, prefixes, vnis and ecmp, or @FILE with these. Above 80 % is a warning, above 100 % an error
    #[arg(long, value_name = "PROFILE")]
    profile: Option<String>,
    /// Workloads behind each host, for --profile
    #[arg(long, value_name = "N", default_value_t = 1, requires = "profile")]
    ports_per_host: u64,
}

#[derive(Debug, Serialize)]
struct Shown {
    file: String,
    nodes: usize,
    links: usize,
    bgp_speakers: usize,
    errors: usize,
    warnings: usize,
    notes: usize,
    findings: Vec<Finding>,
    budget: Vec<Row>,
}

#[derive(Debug, Serialize)]
struct Row {
    switch: String,
    table: &'static str,
    need: u64,
    size: u64,
    percent: u64,
}

#[derive(Debug, Serialize)]
struct Finding {
    severity: String,
    rule: &'static str,
    message: String,
    help: String,
    file: String,
    line: usize,
    column: usize,
}

#[derive(Debug, Serialize)]
struct Rule {
    id: &'static str,
    text: &'static str,
}

impl From<&Diagnostic> for Finding {
    fn from(d: &Diagnostic) -> Self {
        Finding {
            severity: d.severity.to_string(),
            rule: d.rule,
            message: d.message.clone(),
            help: d.help.clone(),
            file: d.file.clone(),
            line: d.line,
            column: d.column,
        }
    }
}

pub(super) fn run(args: &CheckArgs, out: Output) -> Outcome {
    if args.rules {
        return rules(out);
    }
    let path = args.file.find()?;
    let mut report = file(&path, &LoadOptions::from_process());
    let needs = needs(args, &report)?;
    if let Some(lab) = &report.lab {
        let found = budget::findings(lab, &needs);
        report.add(found);
    }
    let row = |n: &Need| Row {
        switch: n.switch.clone(),
        table: n.table.word(),
        need: n.need,
        size: n.size,
        percent: n.percent(),
    };
    let shown = Shown {
        file: path.display().to_string(),
        nodes: report.lab.as_ref().map_or(0, |l| l.nodes.len()),
        links: report.lab.as_ref().map_or(0, |l| l.links.len()),
        bgp_speakers: report.plan.iter().flat_map(|p| p.nodes.values()).filter(|n| n.asn.is_some()).count(),
        errors: report.count(Severity::Error),
        warnings: report.count(Severity::Warning),
        notes: report.count(Severity::Note),
        findings: report.findings.iter().map(Finding::from).collect(),
        budget: needs.iter().map(row).collect(),
    };
    let exit = if shown.errors > 0 || (args.strict && shown.warnings > 0) { Exit::Failed } else { Exit::Ok };
    if out.format == Format::Table {
        show(&shown, &report, exit, out)?;
    } else {
        out.data(&shown)?;
    }
    Ok(exit)
}

fn show(shown: &Shown, report: &Report, exit: Exit, out: Output) -> Result<(), Failure> {
    if !report.findings.is_empty() {
        out.line(&format!("{}\n", render_all(&report.findings)))?;
    }
    if !shown.budget.is_empty() {
        out.line(&tables(&shown.budget).render(out.colour))?;
    }
    let (word, tone) = match exit {
        Exit::Ok if shown.warnings == 0 => ("ok", Tone::Good),
        Exit::Ok => ("warn", Tone::Warn),
        _ => ("wrong", Tone::Bad),
    };
    let Shown { file, nodes, links, bgp_speakers, errors, warnings, notes, .. } = shown;
    let size = match report.plan {
        Some(_) => format!("{nodes} nodes, {links} links, {bgp_speakers} BGP speakers; "),
        None => String::new(),
    };
    let word = paint(word, tone, out.colour);
    out.line(&format!("{word}  {file}: {size}{errors} errors, {warnings} warnings, {notes} notes"))?;
    if exit == Exit::Ok {
        out.next("causeway lab up -t FILE");
    }
    Ok(())
}

/// What the leaves need, if asked for and if there is a fabric.
fn needs(args: &CheckArgs, report: &Report) -> Result<Vec<Need>, Failure> {
    let (Some(text), Some(lab), Some(plan)) = (&args.profile, &report.lab, &report.plan) else {
        return Ok(Vec::new());
    };
    let text = match text.strip_prefix('@') {
        Some(file) => std::fs::read_to_string(file)
            .map_err(|e| Failure::new(Exit::Failed, format!("cannot read the profile {file}: {e}")))?,
        None => text.clone(),
    };
    let profile: Profile =
        text.parse().map_err(|e: String| Failure::new(Exit::Usage, format!("--profile: {e}")))?;
    Ok(budget(lab, plan, &profile, args.ports_per_host))
}

fn tables(rows: &[Row]) -> Table {
    let mut table = Table::new(&["SWITCH", "TABLE", "NEEDS", "HAS", "USED"]);
    for row in rows {
        let tone = match row.percent {
            101.. => Tone::Bad,
            percent if percent > TIGHT => Tone::Warn,
            _ => Tone::Plain,
        };
        let used = (format!("{} %", row.percent), tone);
        table.row(vec![plain(&row.switch), plain(row.table), plain(row.need), plain(row.size), used]);
    }
    table
}

fn rules(out: Output) -> Outcome {
    if out.format == Format::Table {
        let mut table = Table::new(&["RULE", "FINDS"]);
        for rule in RULES {
            table.row(vec![plain(rule.id), plain(rule.text)]);
        }
        out.text(&table.render(out.colour))?;
    } else {
        out.data(&RULES.iter().map(|r| Rule { id: r.id, text: r.text }).collect::<Vec<_>>())?;
    }
    Ok(Exit::Ok)
}
