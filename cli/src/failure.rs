//! What went wrong, in words for people and as an exit code for scripts.

use std::fmt;

use causeway_proto::v1;
use tonic::{Code, Status};

/// Exit codes. They are part of the interface: scripts branch on them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Exit {
    /// Done.
    Ok = 0,
    /// It failed.
    Failed = 1,
    /// There was nothing to do or check.
    Nothing = 2,
    /// Done or checked, with something to look at: a plan with changes.
    Attention = 3,
    /// Somebody else has it, or it is in use.
    Conflict = 4,
    /// No address or quota left.
    Quota = 5,
    /// Too late.
    Timeout = 6,
    /// The command line is wrong.
    Usage = 64,
}

/// A failed command.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Failure {
    /// How the process ends.
    pub(crate) exit: Exit,
    /// What failed, for which object, why. May have several lines.
    pub(crate) text: String,
    /// The next useful step; may be empty.
    pub(crate) hint: String,
}

/// A command's end.
pub(crate) type Outcome = Result<Exit, Failure>;

impl Failure {
    pub(crate) fn new(exit: Exit, text: impl Into<String>) -> Self {
        Failure { exit, text: text.into(), hint: String::new() }
    }

    /// The same with a next step.
    pub(crate) fn hint(mut self, hint: impl Into<String>) -> Self {
        self.hint = hint.into();
        self
    }

    /// Standard output went away: the reader has seen enough (`| head`), which is no failure.
    pub(crate) fn output(error: &std::io::Error) -> Self {
        match error.kind() {
            std::io::ErrorKind::BrokenPipe => Failure::new(Exit::Ok, ""),
            _ => Failure::new(Exit::Failed, format!("cannot write the output: {error}")),
        }
    }

    /// A request that the controller refused. `act` says what was tried, for example "create port default/web/db-1".
    pub(crate) fn refused(act: &str, status: &Status) -> Self {
        Failure::from_parts(act, status.code(), status.message(), v1::ErrorDetail::of(status).as_ref())
    }

    /// One refused item of a bulk request.
    pub(crate) fn refused_item(act: &str, error: &v1::Error) -> Self {
        Failure::from_parts(act, Code::from_i32(error.code), &error.message, error.detail.as_ref())
    }

    fn from_parts(act: &str, code: Code, message: &str, detail: Option<&v1::ErrorDetail>) -> Self {
        let mut failure = Failure::new(exit_of(code), format!("cannot {act}: {}", printable(message)));
        match detail.and_then(|d| d.kind.as_ref()) {
            // The message repeats what the violations say.
            Some(v1::error_detail::Kind::Fields(fields)) if !fields.violations.is_empty() => {
                let lines: Vec<String> =
                    fields.violations.iter().map(|v| format!("{}: {}", v.field, v.reason)).collect();
                let text = if lines.len() == 1 {
                    format!(" {}", lines[0])
                } else {
                    format!("\n  {}", lines.join("\n  "))
                };
                failure.text = format!("cannot {act}:{}", printable(&text));
            }
            Some(v1::error_detail::Kind::Conflict(conflict)) => {
                failure.exit = Exit::Conflict;
                // The message usually says it already; the owner must be there in any case.
                if !message.contains(&conflict.owner) || conflict.owner.is_empty() {
                    let line = format!("\n  {} belongs to {}", conflict.subject, conflict.owner);
                    failure.text.push_str(&printable(&line));
                }
            }
            Some(v1::error_detail::Kind::Exhausted(pool)) => {
                failure.exit = Exit::Quota;
                let line = format!(
                    "\n  subnets {}: {} addresses in all, {} kept for released ports",
                    pool.subnets.join(", "),
                    pool.size,
                    pool.released
                );
                failure.text.push_str(&printable(&line));
            }
            Some(v1::error_detail::Kind::NoMatch(none)) if !none.labelled.is_empty() => {
                let line = format!("\n  networks with labels: {}", none.labelled.join("; "));
                failure.text.push_str(&printable(&line));
            }
            Some(v1::error_detail::Kind::Full(full)) => {
                failure.exit = Exit::Quota;
                // The message usually counts them already.
                let untold = |room: &&v1::NetworkRoom| !message.contains(&room.network);
                for room in full.networks.iter().filter(untold) {
                    let line = format!(
                        "\n  {}: {} of {} taken, {} of them by released ports",
                        room.network, room.taken, room.size, room.released
                    );
                    failure.text.push_str(&printable(&line));
                }
            }
            Some(v1::error_detail::Kind::Stale(stale)) => {
                failure.text.push_str(&format!(
                    "\n  revision {} asked, oldest known is {}",
                    stale.asked, stale.oldest
                ));
            }
            Some(v1::error_detail::Kind::Fields(_) | v1::error_detail::Kind::NoMatch(_)) | None => {}
        }
        failure.hint = match detail {
            Some(detail) if !detail.hint.is_empty() => printable(&detail.hint),
            _ => default_hint(code, detail).to_owned(),
        };
        failure
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

/// Text of others for a terminal: control characters other than line ends become spaces.
pub(crate) fn printable(text: &str) -> String {
    text.chars().map(|c| if c.is_control() && c != '\n' { ' ' } else { c }).collect()
}

/// The exit code of a gRPC code without a more telling detail.
fn exit_of(code: Code) -> Exit {
    match code {
        Code::AlreadyExists | Code::Aborted | Code::FailedPrecondition => Exit::Conflict,
        Code::ResourceExhausted => Exit::Quota,
        Code::DeadlineExceeded => Exit::Timeout,
        _ => Exit::Failed,
    }
}

/// What to do when the controller gave no hint.
fn default_hint(code: Code, detail: Option<&v1::ErrorDetail>) -> &'static str {
    match (code, detail.and_then(|d| d.kind.as_ref())) {
        (_, Some(v1::error_detail::Kind::Exhausted(_))) => {
            "add a subnet, or give back addresses with causeway port release --forget"
        }
        (_, Some(v1::error_detail::Kind::Stale(_))) => "list again and watch from the revision of that list",
        (Code::NotFound, _) => "causeway get KIND and causeway port list show what exists",
        (Code::Aborted, _) => "others changed the same records; the same command may succeed now",
        (Code::Unavailable, _) => {
            "the same command may succeed later; causeway version shows which controllers answer"
        }
        (Code::DeadlineExceeded, _) => "give it longer with --timeout",
        (Code::Unimplemented, _) => {
            "the controller does not know this request; causeway version shows both versions"
        }
        (Code::Unauthenticated | Code::PermissionDenied, _) => "check --tls-cert and --tls-key",
        _ => "",
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use v1::error_detail::Kind;

    fn status(code: Code, message: &str, kind: Kind, hint: &str) -> Status {
        let detail = v1::ErrorDetail { retryable: false, kind: Some(kind), hint: hint.into() };
        detail.into_status(code, message)
    }

    #[test]
    fn a_conflict_names_the_owner() {
        let conflict =
            v1::Conflict { subject: "address 10.8.0.5".into(), owner: "port default/web/db-1".into() };
        let failure = Failure::refused(
            "create port default/web/db-2",
            &status(Code::AlreadyExists, "address is taken", Kind::Conflict(conflict), "ask for another one"),
        );
        assert_eq!(failure.exit, Exit::Conflict);
        assert_eq!(
            failure.text,
            "cannot create port default/web/db-2: address is taken\n  address 10.8.0.5 belongs to port default/web/db-1"
        );
        assert_eq!(failure.hint, "ask for another one");
    }

    #[test]
    fn an_exhausted_pool_is_a_quota_with_figures() {
        let pool = v1::PoolExhausted { subnets: vec!["10.8.0.0/30".into()], size: 1, released: 1 };
        let status = status(Code::ResourceExhausted, "no free address", Kind::Exhausted(pool), "");
        let failure = Failure::refused("create port default/web/a", &status);
        assert_eq!(failure.exit, Exit::Quota);
        assert!(failure.text.ends_with("subnets 10.8.0.0/30: 1 addresses in all, 1 kept for released ports"));
        assert!(failure.hint.contains("--forget"));
    }

    #[test]
    fn field_violations_are_listed() {
        let refused = |fields: &[&str]| {
            let violation = |f: &&str| v1::FieldViolation { field: (*f).into(), reason: "is empty".into() };
            let violations = fields.iter().map(violation).collect();
            let kind = Kind::Fields(v1::FieldViolations { violations });
            Failure::refused("create port", &status(Code::InvalidArgument, "all in one line", kind, ""))
        };
        assert_eq!(refused(&["key.name"]).text, "cannot create port: key.name: is empty");
        assert_eq!(
            refused(&["key.name", "mac"]).text,
            "cannot create port:\n  key.name: is empty\n  mac: is empty"
        );
        assert_eq!(refused(&[]).text, "cannot create port: all in one line");
        assert_eq!(refused(&["mac"]).exit, Exit::Failed);
    }

    #[test]
    fn garbage_details_are_ignored() {
        let status =
            Status::with_details(Code::NotFound, "no port a\u{1b}[31m", vec![0xff, 0x00, 0x13].into());
        assert_eq!(Failure::refused("get port a", &status).text, "cannot get port a: no port a [31m");
    }
}
