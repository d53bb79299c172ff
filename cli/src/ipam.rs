//! `causeway ipam`: whether the books on addresses are right.

use std::time::Duration;

use causeway_proto::v1;
use clap::{Args, Subcommand};
use serde::Serialize;

use crate::client::{Client, books};
use crate::failure::{Exit, Outcome};
use crate::output::{Format, Output, Table, Tone, plain};

/// Time limit of one call unless --timeout says otherwise: a million ports are read.
pub(crate) const PATIENCE: Duration = Duration::from_secs(30);
/// Calls of one repair at most: each mends a thousand findings, or what the one before stood in the way of.
const ROUNDS: u32 = 100;

/// About the books on addresses.
#[derive(Debug, Subcommand)]
pub(crate) enum IpamCommand {
    Check(CheckArgs),
}

/// Whether claims on addresses and MACs, ports, bindings and quarantines agree, and what leaked
///
/// Every finding was confirmed in one transaction: what is just under way is none. A repair is one transaction that
/// compares what was found, leaves an event in the history, and never takes anything from a port that is in use.
/// Exit code 3: something is wrong, and not repaired.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway ipam check
  causeway ipam check --fix --reason 'restored from the copy of Monday'
  causeway ipam check -o json | jq -r '.findings[].subject'")]
pub(crate) struct CheckArgs {
    /// Repair what can be repaired
    #[arg(long)]
    fix: bool,
    /// Also give up leaked ports: those whose agent has not found their workload for the grace period
    #[arg(long)]
    fix_leaked: bool,
}

#[derive(Debug, Serialize)]
struct FindingView {
    problem: &'static str,
    subject: String,
    text: String,
    #[serde(skip_serializing_if = "String::is_empty")]
    repair: String,
    repaired: bool,
    #[serde(skip_serializing_if = "String::is_empty")]
    hint: String,
}

#[derive(Debug, Serialize)]
struct BooksView {
    findings: Vec<FindingView>,
    more: u64,
    ports: u64,
    addresses: u64,
    macs: u64,
    released: u64,
    quarantined: u64,
    revision: u64,
}

impl From<v1::IpamFinding> for FindingView {
    fn from(f: v1::IpamFinding) -> Self {
        FindingView {
            problem: word(f.problem()),
            subject: f.subject,
            text: f.text,
            repair: f.repair,
            repaired: f.repaired,
            hint: f.hint,
        }
    }
}

fn word(problem: v1::IpamProblem) -> &'static str {
    match problem {
        v1::IpamProblem::Unspecified => "unknown",
        v1::IpamProblem::ClaimWithoutOwner => "claim-without-owner",
        v1::IpamProblem::OwnerWithoutClaim => "owner-without-claim",
        v1::IpamProblem::Duplicate => "duplicate",
        v1::IpamProblem::OutsideSubnet => "outside-subnet",
        v1::IpamProblem::QuarantineOverdue => "quarantine-overdue",
        v1::IpamProblem::StrayBinding => "stray-binding",
        v1::IpamProblem::VipHolder => "vip-holder",
        v1::IpamProblem::Leaked => "leaked",
        v1::IpamProblem::Unreadable => "unreadable",
    }
}

pub(crate) async fn run(command: IpamCommand, client: &Client, out: Output) -> Outcome {
    match command {
        IpamCommand::Check(args) => check(args, client, out).await,
    }
}

async fn check(args: CheckArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::CheckIpamRequest { fix: args.fix, fix_leaked: args.fix_leaked };
    let mut repaired = Vec::new();
    let mut answer = ask(client, request).await?;
    for _ in 1..ROUNDS {
        let (mended, left): (Vec<_>, Vec<_>) = answer.findings.into_iter().partition(|f| f.repaired);
        let went_on = !mended.is_empty();
        repaired.extend(mended);
        answer.findings = left;
        if answer.more == 0 || !went_on {
            break;
        }
        answer = ask(client, request).await?;
    }
    let wrong = answer.findings.iter().any(|f| !f.repaired) || answer.more > 0;
    repaired.append(&mut answer.findings);
    answer.findings = repaired;
    match out.format {
        Format::Table => show(&answer, args.fix, out)?,
        _ => out.data(&view(answer))?,
    }
    Ok(if wrong { Exit::Attention } else { Exit::Ok })
}

async fn ask(
    client: &Client,
    request: v1::CheckIpamRequest,
) -> Result<v1::CheckIpamResponse, crate::failure::Failure> {
    client
        .call("check the books on addresses", async |channel| books(channel).check_ipam(request).await)
        .await
}

fn view(answer: v1::CheckIpamResponse) -> BooksView {
    BooksView {
        findings: answer.findings.into_iter().map(FindingView::from).collect(),
        more: answer.more,
        ports: answer.ports,
        addresses: answer.addresses,
        macs: answer.macs,
        released: answer.released,
        quarantined: answer.quarantined,
        revision: answer.revision,
    }
}

fn show(answer: &v1::CheckIpamResponse, fix: bool, out: Output) -> Result<(), crate::failure::Failure> {
    if !answer.findings.is_empty() {
        out.table(&table(&answer.findings))?;
    }
    let repaired = answer.findings.iter().filter(|f| f.repaired).count();
    let left = answer.findings.len() - repaired;
    let found = match (left, repaired) {
        (0, 0) => "the books are right".to_owned(),
        (0, n) => format!("{n} repaired, the books are right"),
        (n, 0) => format!("{n} wrong"),
        (n, m) => format!("{m} repaired, {n} wrong"),
    };
    out.line(&format!(
        "{} ports ({} released, {} quarantined), claims on {} addresses and {} MACs, revision {}: {found}",
        answer.ports, answer.released, answer.quarantined, answer.addresses, answer.macs, answer.revision
    ))?;
    if answer.more > 0 {
        out.note(&format!("{} more were not looked at: check again", answer.more));
    }
    if !fix && answer.findings.iter().any(|f| !f.repair.is_empty()) {
        out.next("causeway ipam check --fix");
    }
    Ok(())
}

fn table(findings: &[v1::IpamFinding]) -> Table {
    let mut table = Table::new(&["PROBLEM", "SUBJECT", "FOUND", "REPAIR"]);
    for finding in findings {
        let tone = if finding.repaired { Tone::Good } else { Tone::Bad };
        let repair = match (finding.repaired, finding.repair.as_str(), finding.hint.as_str()) {
            (true, repair, _) => format!("done: {repair}"),
            (false, "", hint) => format!("by hand: {hint}"),
            (false, repair, _) => repair.to_owned(),
        };
        table.row(vec![
            (word(finding.problem()).to_owned(), tone),
            plain(&finding.subject),
            plain(&finding.text),
            plain(repair),
        ]);
    }
    table
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_was_done_and_what_is_left_can_be_told_apart() {
        let finding = |problem: v1::IpamProblem, repair: &str, repaired, hint: &str| v1::IpamFinding {
            problem: problem.into(),
            subject: "address 10.8.0.5 of VRF default".into(),
            text: "no port has it".into(),
            repair: repair.into(),
            repaired,
            hint: hint.into(),
        };
        let findings = [
            finding(v1::IpamProblem::ClaimWithoutOwner, "remove the claim", true, ""),
            finding(v1::IpamProblem::ClaimWithoutOwner, "remove the claim", false, ""),
            finding(v1::IpamProblem::Duplicate, "", false, "end one of them"),
        ];
        insta::assert_snapshot!(table(&findings).render(false), @r"
        PROBLEM               SUBJECT                           FOUND            REPAIR
        claim-without-owner   address 10.8.0.5 of VRF default   no port has it   done: remove the claim
        claim-without-owner   address 10.8.0.5 of VRF default   no port has it   remove the claim
        duplicate             address 10.8.0.5 of VRF default   no port has it   by hand: end one of them
        ");
    }
}
