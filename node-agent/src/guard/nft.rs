//! Rules go to the kernel, and come back, through `nft`.

use std::collections::{BTreeMap, BTreeSet};
use std::io::{self, Read, Write};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc;
use std::time::{Duration, Instant};

use super::{Chain, Family, Guard, Guards, TABLE, base, parse, removal};
use crate::dev::Dev;
use crate::kernel::OpError;
use crate::op::Op;

const PROGRAM: &str = "nft";
/// How long one `nft` may take; ten thousand rules take a tenth of a second.
const DEADLINE: Duration = Duration::from_secs(10);

/// Why `nft` did not do it.
#[derive(Debug, thiserror::Error)]
pub enum NftError {
    /// There is none.
    #[error("nft is not installed: install the package nftables")]
    Missing,
    /// It cannot be run.
    #[error("nft cannot be run: {0}")]
    Run(#[source] io::Error),
    /// It or the kernel refused.
    #[error("nft: {0}")]
    Refused(String),
    /// It did not end.
    #[error("nft did not end within {} s", DEADLINE.as_secs())]
    Timeout,
    /// It printed something that is no JSON.
    #[error("nft's output: {0}")]
    Output(#[source] serde_json::Error),
}

impl NftError {
    /// The kernel has no such table.
    fn is_absent(&self) -> bool {
        matches!(self, NftError::Refused(text) if text.contains("No such file or directory"))
    }
}

/// Reads our tables. A table that is not there guards nothing, which is no error.
pub(crate) fn read() -> Guards {
    let mut guards = Guards::default();
    for family in Family::ALL {
        match read_table(family) {
            Ok(chains) => guards.chains.extend(chains),
            Err(error) => return Guards { unusable: Some(error.to_string()), ..Guards::default() },
        }
    }
    guards
}

fn read_table(family: Family) -> Result<BTreeMap<(Family, Dev), Chain>, NftError> {
    match run(PROGRAM, &["-j", "list", "table", &family.to_string(), TABLE], "") {
        Ok(text) => Ok(parse(family, &serde_json::from_str(&text).map_err(NftError::Output)?)),
        Err(error) if error.is_absent() => Ok(BTreeMap::new()),
        Err(error) => Err(error),
    }
}

/// What a port has in the namespace of the calling thread, its workload's. Unreadable: as if it were damaged.
pub(crate) fn read_inside(dev: &Dev) -> Option<Chain> {
    match read_table(Family::Netdev) {
        Ok(mut chains) => chains.remove(&(Family::Netdev, dev.clone())),
        Err(NftError::Missing) => None,
        Err(_) => Some(Chain::default()),
    }
}

/// Gives a port its guard in the namespace of the calling thread, or takes it.
pub(crate) fn set_inside(dev: &Dev, guard: Option<&Guard>) -> Result<(), NftError> {
    let mut lines = base(Family::Netdev);
    lines.extend(match guard {
        Some(guard) => guard.commands(dev, &BTreeSet::new()),
        None => removal(Family::Netdev, dev, &BTreeSet::new()),
    });
    feed(&lines)?;
    if guard.is_none() {
        remove_if_empty();
    }
    Ok(())
}

/// Takes steps on the table in one transaction; if that is refused, one by one, so that a bad one hinders no other.
pub(crate) fn apply(ops: &[Op]) -> Vec<Result<(), OpError>> {
    let done = transaction(ops);
    let results = match done {
        Ok(()) => ops.iter().map(|_| Ok(())).collect(),
        Err(error) if ops.len() == 1 => vec![Err(error.into())],
        Err(_) => ops.iter().map(|op| Ok(transaction(std::slice::from_ref(op))?)).collect(),
    };
    if ops.iter().any(|op| matches!(op, Op::GuardDel { .. })) {
        remove_if_empty();
    }
    results
}

fn transaction(ops: &[Op]) -> Result<(), NftError> {
    let mut lines = Vec::new();
    for family in Family::ALL {
        if ops.iter().any(|op| op.guard_family() == Some(family)) {
            lines.extend(base(family));
        }
    }
    for op in ops {
        match op {
            Op::GuardSet { dev, guard, stale } => lines.extend(guard.commands(dev, stale)),
            Op::GuardDel { family, dev, interfaces } => lines.extend(removal(*family, dev, interfaces)),
            _ => {}
        }
    }
    feed(&lines)
}

fn feed(lines: &[String]) -> Result<(), NftError> {
    run(PROGRAM, &["-f", "-"], &(lines.join("\n") + "\n")).map(|_| ())
}

/// Nothing of ours stays on a host that guards no port.
fn remove_if_empty() {
    for family in Family::ALL {
        if read_table(family).is_ok_and(|chains| chains.is_empty())
            && let Err(error) = run(PROGRAM, &["delete", "table", &family.to_string(), TABLE], "")
            && !error.is_absent()
        {
            tracing::debug!(%error, %family, "empty guard table stays");
        }
    }
}

/// True if there is an `nft` that can be run.
pub(crate) fn is_installed() -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(PROGRAM).is_file())
}

/// Runs `program` in this thread's network namespace and returns what it printed.
fn run(program: &str, arguments: &[&str], input: &str) -> Result<String, NftError> {
    let mut command = Command::new(program);
    command.args(arguments).stdin(Stdio::piped()).stdout(Stdio::piped()).stderr(Stdio::piped());
    // The kernel's words are looked at.
    command.env("LC_ALL", "C");
    let mut child = command.spawn().map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => NftError::Missing,
        _ => NftError::Run(error),
    })?;
    let (input_pipe, output, errors) = (child.stdin.take(), child.stdout.take(), child.stderr.take());
    // On threads of their own: a pipe holds 64 KiB, a table may be larger.
    let (status, output, errors) = std::thread::scope(|scope| {
        let (ended, end) = mpsc::channel();
        scope.spawn(move || {
            // If it does not read to the end, its status says why.
            input_pipe.map(|mut pipe| pipe.write_all(input.as_bytes()))
        });
        let output = scope.spawn({
            let ended = ended.clone();
            move || slurp(output, &ended)
        });
        let errors = scope.spawn(move || slurp(errors, &ended));
        let status = wait(&mut child, &end);
        (status, output.join().unwrap_or_default(), errors.join().unwrap_or_default())
    });
    if status? { Ok(output) } else { Err(NftError::Refused(first_line(&errors))) }
}

/// Reads to the end, which comes with that of the process, and says so.
fn slurp(pipe: Option<impl Read>, ended: &mpsc::Sender<()>) -> String {
    let mut bytes = Vec::new();
    // What was read until then is all there is.
    let _ = pipe.map(|mut pipe| pipe.read_to_end(&mut bytes));
    // Nobody waits any more after the deadline.
    let _ = ended.send(());
    String::from_utf8_lossy(&bytes).into_owned()
}

/// True if it succeeded.
fn wait(child: &mut Child, end: &mpsc::Receiver<()>) -> Result<bool, NftError> {
    let deadline = Instant::now() + DEADLINE;
    let in_time =
        (0..2).all(|_| end.recv_timeout(deadline.saturating_duration_since(Instant::now())).is_ok());
    if !in_time {
        child.kill().map_err(NftError::Run)?;
    }
    let status = child.wait().map_err(NftError::Run)?;
    if in_time { Ok(status.success()) } else { Err(NftError::Timeout) }
}

/// nft prints the error, then the line it is in and a caret.
fn first_line(errors: &str) -> String {
    let mut lines = errors.lines().filter(|l| !l.trim().is_empty());
    let first = lines.next().unwrap_or("no reason given").trim();
    first.chars().take(300).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_missing_program_is_said() {
        let error = run("nft-that-is-not-there", &[], "").unwrap_err();
        assert_eq!(error.to_string(), "nft is not installed: install the package nftables");
    }

    #[test]
    fn output_and_refusal_larger_than_a_pipe_are_read() {
        let text = "x".repeat(300_000);
        assert_eq!(run("cat", &["-"], &text).unwrap(), text);
        let error = run("sh", &["-c", "cat >&2; exit 1"], &text).unwrap_err();
        assert!(matches!(&error, NftError::Refused(line) if line.len() == 300), "{error}");
    }
}
