//! `causeway apply`: records from YAML, all in one request.

use std::io::{IsTerminal, Read, Write};
use std::path::{Path, PathBuf};

use causeway_proto::v1;
use clap::Args;
use tonic::Status;

use crate::client::{CallError, Client, config};
use crate::failure::{Exit, Failure, Outcome, printable};
use crate::manifest::source::Source;
use crate::manifest::{Manifest, Rejected};
use crate::output::{Format, Output, Tone, paint};
use crate::view::{ApplyView, kind_word};

/// Records that one request may hold.
const REQUEST_LIMIT: usize = 1000;
/// Bytes that one manifest may have.
const SOURCE_LIMIT: u64 = 16 << 20;

/// Create or change VRFs, networks, subnets, nodes and peers from YAML
///
/// A manifest has one record a document, with `kind: Vrf|Network|Subnet|Node|Peer` and the field names of the API. All
/// records are checked together before the first one is written.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway apply -f net.yaml --plan       show what would change; exit code 3 if something would
  causeway apply -f net.yaml              write it (asks first on a terminal)
  causeway apply -f manifests/ --yes      all *.yaml, *.yml and *.json of a directory, without asking
  causeway get networks -o yaml | sed s/1450/9000/ | causeway apply -f -")]
pub(crate) struct ApplyArgs {
    /// Manifest, directory of manifests, or - for standard input; may be repeated
    #[arg(short, long = "file", required = true, value_name = "FILE|DIR|-")]
    files: Vec<PathBuf>,
    /// Show the changes without writing; exit code 0: none, 3: some
    #[arg(long)]
    plan: bool,
    /// Do not ask, even on a terminal
    #[arg(short, long)]
    yes: bool,
}

pub(crate) async fn run(args: ApplyArgs, client: &Client, out: Output) -> Outcome {
    let mut sources = Vec::new();
    for file in &args.files {
        read_sources(file, &mut sources)?;
    }
    let manifest = Manifest::read(sources).map_err(|Rejected(problems)| {
        let count = problems.len();
        let words = if count == 1 { "1 problem".into() } else { format!("{count} problems") };
        Failure::new(
            Exit::Failed,
            format!("{words} in the manifest, nothing was sent\n{}", problems.join("\n")),
        )
    })?;
    let resources = manifest.resources();
    if resources.is_empty() {
        return Err(Failure::new(Exit::Nothing, "no record in the manifest")
            .hint("a record starts with 'kind: Network', for example"));
    }
    if resources.len() > REQUEST_LIMIT {
        let text = format!("{} records in one request, at most {REQUEST_LIMIT} are allowed", resources.len());
        return Err(Failure::new(Exit::Failed, text).hint("apply the files one by one"));
    }
    let from_stdin = args.files.iter().any(|f| f.as_os_str() == "-");
    let may_ask =
        out.terminal && out.format == Format::Table && !from_stdin && std::io::stdin().is_terminal();
    if args.plan || (may_ask && !args.yes) {
        let answer = send(client, &manifest, &resources, true).await?;
        let changes = count(&answer, v1::ApplyAction::Create) + count(&answer, v1::ApplyAction::Update);
        show(&answer, true, out)?;
        if args.plan {
            return Ok(if changes == 0 { Exit::Ok } else { Exit::Attention });
        }
        if changes == 0 {
            return Ok(Exit::Ok);
        }
        if !confirmed(changes)? {
            return Err(Failure::new(Exit::Failed, "not applied"));
        }
    }
    let answer = send(client, &manifest, &resources, false).await?;
    show(&answer, false, out)?;
    out.next("causeway get networks");
    Ok(Exit::Ok)
}

/// Sends all records; field violations become excerpts of the manifest.
async fn send(
    client: &Client,
    manifest: &Manifest,
    resources: &[v1::Resource],
    dry_run: bool,
) -> Result<v1::ApplyResponse, Failure> {
    let request = v1::ApplyRequest { resources: resources.to_vec(), dry_run };
    let act = if dry_run { "plan" } else { "apply" };
    match client.try_call(&async |channel| config(channel).apply(request.clone()).await).await {
        Ok(answer) => Ok(answer),
        Err(CallError::Refused(status)) => Err(refused(manifest, act, &status)),
        Err(other) => Err(client.failure(act, other)),
    }
}

/// A refusal with excerpts of the manifest for the fields it names.
fn refused(manifest: &Manifest, act: &str, status: &Status) -> Failure {
    let mut failure = Failure::refused(act, status);
    match v1::ErrorDetail::of(status).and_then(|d| d.kind) {
        Some(v1::error_detail::Kind::Fields(fields)) if !fields.violations.is_empty() => {
            let texts: Vec<_> =
                fields.violations.iter().map(|v| (printable(&v.field), printable(&v.reason))).collect();
            let lines =
                manifest.excerpts(texts.iter().map(|(field, reason)| (field.as_str(), reason.as_str())));
            let count = if lines.len() == 1 {
                "1 field is".to_owned()
            } else {
                format!("{} fields are", lines.len())
            };
            failure.text = format!("cannot {act}: {count} wrong, nothing was written\n{}", lines.join("\n"));
        }
        // Other refusals, such as a VNI that somebody has, name the field in front of the message.
        _ => {
            let message = printable(status.message());
            if let Some((field, reason)) =
                message.split_once(": ").filter(|(field, _)| field.starts_with("resources["))
            {
                failure.text = format!("cannot {act}:\n{}", manifest.excerpts([(field, reason)]).join("\n"));
            }
        }
    }
    failure
}

fn count(answer: &v1::ApplyResponse, action: v1::ApplyAction) -> usize {
    answer.results.iter().filter(|r| r.action() == action).count()
}

fn show(answer: &v1::ApplyResponse, dry_run: bool, out: Output) -> Result<(), Failure> {
    match out.format {
        Format::Table => out.text(&render(answer, dry_run, out.colour)),
        _ => out.data(&ApplyView::new(answer.clone(), dry_run)),
    }
}

/// One line a record with its changes below, and a sum.
fn render(answer: &v1::ApplyResponse, dry_run: bool, colour: bool) -> String {
    let mut text = String::new();
    for result in &answer.results {
        let (sign, tone) = match result.action() {
            v1::ApplyAction::Create => ("+", Tone::Good),
            v1::ApplyAction::Update => ("~", Tone::Warn),
            v1::ApplyAction::Unchanged | v1::ApplyAction::Unspecified => ("=", Tone::Faint),
        };
        let name = printable(&result.name);
        text.push_str(&paint(&format!("{sign} {} {name}", kind_word(result.kind)), tone, colour));
        text.push('\n');
        for change in &result.changes {
            let (field, old, new) =
                (printable(&change.field), printable(&change.old), printable(&change.new));
            let line = match (result.action(), old.as_str(), new.as_str()) {
                (v1::ApplyAction::Create, _, new) => format!("    {field}: {new}"),
                (_, "", new) => format!("    {field}: (none) → {new}"),
                (_, old, "") => format!("    {field}: {old} → (none)"),
                (_, old, new) => format!("    {field}: {old} → {new}"),
            };
            text.push_str(&line);
            text.push('\n');
        }
    }
    let [create, update, same] =
        [v1::ApplyAction::Create, v1::ApplyAction::Update, v1::ApplyAction::Unchanged]
            .map(|a| count(answer, a));
    text.push_str(&if dry_run {
        format!("plan: {create} to create, {update} to update, {same} unchanged; nothing was written\n")
    } else {
        format!(
            "applied: {create} created, {update} updated, {same} unchanged; revision {}\n",
            answer.revision
        )
    });
    text
}

/// Asks on the terminal.
fn confirmed(changes: usize) -> Result<bool, Failure> {
    let failed = |e: std::io::Error| {
        Failure::new(Exit::Failed, format!("cannot ask on the terminal: {e}")).hint("use --yes")
    };
    let mut err = std::io::stderr();
    write!(err, "apply {changes} changes? [y/N] ").and_then(|()| err.flush()).map_err(failed)?;
    let mut answer = String::new();
    std::io::stdin().read_line(&mut answer).map_err(failed)?;
    Ok(matches!(answer.trim(), "y" | "Y" | "yes"))
}

/// Reads a file, all manifests of a directory (ordered by name) or standard input.
fn read_sources(path: &Path, sources: &mut Vec<Source>) -> Result<(), Failure> {
    let failed =
        |e: std::io::Error| Failure::new(Exit::Failed, format!("cannot read {}: {e}", path.display()));
    if path.as_os_str() == "-" {
        sources.push(Source { name: "<stdin>".into(), text: read_text(std::io::stdin(), "<stdin>")? });
    } else if path.is_dir() {
        let mut files = Vec::new();
        for entry in std::fs::read_dir(path).map_err(failed)? {
            let file = entry.map_err(failed)?.path();
            let known = file.extension().is_some_and(|e| e == "yaml" || e == "yml" || e == "json");
            if known && !file.is_dir() {
                files.push(file);
            }
        }
        if files.is_empty() {
            return Err(Failure::new(
                Exit::Nothing,
                format!("no *.yaml, *.yml or *.json in {}", path.display()),
            ));
        }
        files.sort();
        for file in &files {
            read_sources(file, sources)?;
        }
    } else {
        let name = path.display().to_string();
        let text = read_text(std::fs::File::open(path).map_err(failed)?, &name)?;
        sources.push(Source { name, text });
    }
    Ok(())
}

fn read_text(reader: impl Read, name: &str) -> Result<String, Failure> {
    let failed = |reason: String| Failure::new(Exit::Failed, format!("cannot read {name}: {reason}"));
    let mut bytes = Vec::new();
    reader.take(SOURCE_LIMIT + 1).read_to_end(&mut bytes).map_err(|e| failed(e.to_string()))?;
    if bytes.len() as u64 > SOURCE_LIMIT {
        return Err(failed(format!("more than {} MiB", SOURCE_LIMIT >> 20)));
    }
    String::from_utf8(bytes).map_err(|e| {
        let good = &e.as_bytes()[..e.utf8_error().valid_up_to()];
        let line = good.iter().filter(|b| **b == b'\n').count() + 1;
        failed(format!("line {line} is not UTF-8 text"))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_plan_shows_old_and_new() {
        let change = |field: &str, old: &str, new: &str| v1::FieldChange {
            field: field.into(),
            old: old.into(),
            new: new.into(),
        };
        let result = |kind: v1::Kind, name: &str, action: v1::ApplyAction, changes| v1::ApplyResult {
            kind: kind.into(),
            name: name.into(),
            action: action.into(),
            changes,
        };
        let answer = v1::ApplyResponse {
            results: vec![
                result(
                    v1::Kind::Network,
                    "default/web",
                    v1::ApplyAction::Create,
                    vec![change("vni", "", "10110")],
                ),
                result(
                    v1::Kind::Node,
                    "host1",
                    v1::ApplyAction::Update,
                    vec![
                        change("vtep", "10.0.0.1", "10.0.0.2"),
                        change("site", "", "r1"),
                        change("labels", "a=b", ""),
                    ],
                ),
                result(v1::Kind::Peer, "10.0.0.1", v1::ApplyAction::Unchanged, vec![]),
            ],
            revision: 9,
        };
        insta::assert_snapshot!(render(&answer, true, false), @r"
        + network default/web
            vni: 10110
        ~ node host1
            vtep: 10.0.0.1 → 10.0.0.2
            site: (none) → r1
            labels: a=b → (none)
        = peer 10.0.0.1
        plan: 1 to create, 1 to update, 1 unchanged; nothing was written
        ");
        assert!(render(&answer, false, true).contains("\x1b[32m+ network default/web\x1b[0m\n"));
    }
}
