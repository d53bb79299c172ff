//! The one place that decides how an internal error is told over gRPC: code, message and typed detail.

use causeway_proto::v1;
use tonic::{Code, Status};

use crate::intent::{IntentError, Violation};
use crate::ports::{Pool, PortError};
use crate::store::StoreError;

/// A refusal on its way to the client.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct Refusal {
    code: Code,
    message: String,
    detail: v1::ErrorDetail,
}

impl Refusal {
    fn new(code: Code, message: impl Into<String>) -> Self {
        let retryable = matches!(code, Code::Unavailable | Code::Aborted | Code::DeadlineExceeded);
        let detail = v1::ErrorDetail { retryable, ..v1::ErrorDetail::default() };
        Refusal { code, message: message.into(), detail }
    }

    fn kind(mut self, kind: v1::error_detail::Kind) -> Self {
        self.detail.kind = Some(kind);
        self
    }

    fn hint(mut self, hint: impl Into<String>) -> Self {
        self.detail.hint = hint.into();
        self
    }

    /// A field of the request is wrong.
    pub(crate) fn field(field: impl Into<String>, reason: impl Into<String>) -> Self {
        Refusal::fields(vec![v1::FieldViolation { field: field.into(), reason: reason.into() }])
    }

    /// Fields of the request are wrong.
    fn fields(violations: Vec<v1::FieldViolation>) -> Self {
        let texts: Vec<String> = violations.iter().map(|v| format!("{}: {}", v.field, v.reason)).collect();
        Refusal::new(Code::InvalidArgument, texts.join("; "))
            .kind(v1::error_detail::Kind::Fields(v1::FieldViolations { violations }))
    }

    /// There is no such thing.
    pub(crate) fn not_found(what: impl Into<String>, hint: impl Into<String>) -> Self {
        Refusal::new(Code::NotFound, what).hint(hint)
    }

    /// Somebody else has it.
    pub(crate) fn taken(message: String, subject: impl Into<String>, owner: impl Into<String>) -> Self {
        Refusal::new(Code::AlreadyExists, message).conflict(subject, owner)
    }

    fn conflict(self, subject: impl Into<String>, owner: impl Into<String>) -> Self {
        let conflict = v1::Conflict { subject: subject.into(), owner: owner.into() };
        self.kind(v1::error_detail::Kind::Conflict(conflict))
    }

    /// A revision that is forgotten.
    pub(crate) fn stale(asked: u64, oldest: u64) -> Self {
        Refusal::new(Code::OutOfRange, format!("revision {asked} is forgotten, the oldest known is {oldest}"))
            .kind(v1::error_detail::Kind::Stale(v1::StaleRevision { asked, oldest }))
            .hint("list again, then watch from the revision of the list")
    }

    /// Not now.
    pub(crate) fn unavailable(message: impl Into<String>) -> Self {
        Refusal::new(Code::Unavailable, message).hint("repeat the request")
    }

    /// Something happened meanwhile: begin again.
    pub(crate) fn aborted(message: impl Into<String>) -> Self {
        Refusal::new(Code::Aborted, message).hint("repeat the request")
    }

    /// The time that the client gave, or we give, is over.
    pub(crate) fn late(what: &str) -> Self {
        Refusal::new(Code::DeadlineExceeded, format!("{what}: not done in time"))
            .hint("repeat the request: the same request never has two effects")
    }

    /// A fault of ours: logged with an id, of which alone the client hears.
    fn internal(source: &dyn std::fmt::Display) -> Self {
        let id: u64 = rand::random();
        tracing::error!(id = format!("{id:016x}"), error = %source, "internal error");
        Refusal::new(Code::Internal, format!("internal error {id:016x}: see the controller's log"))
    }

    /// As an item of a bulk answer.
    pub(crate) fn into_error(self) -> v1::Error {
        v1::Error { code: self.code as i32, message: self.message, detail: Some(self.detail) }
    }
}

impl From<Refusal> for Status {
    fn from(refusal: Refusal) -> Status {
        refusal.detail.into_status(refusal.code, refusal.message)
    }
}

impl From<StoreError> for Refusal {
    fn from(error: StoreError) -> Self {
        match error {
            StoreError::Unavailable { .. } | StoreError::LeaseExpired(_) => {
                Refusal::unavailable(error.to_string())
            }
            StoreError::Compacted { asked, oldest } => Refusal::stale(asked.0, oldest.0),
            StoreError::TooLarge(_) | StoreError::Internal { .. } => Refusal::internal(&error),
        }
    }
}

impl From<PortError> for Refusal {
    fn from(error: PortError) -> Self {
        let (hint, message) = (error.hint(), error.to_string());
        let refusal = match error {
            PortError::Field { field, reason } => Refusal::field(field, reason),
            PortError::NoNetwork(_) | PortError::NoNode(_) | PortError::NoPort(_) => {
                Refusal::new(Code::NotFound, message)
            }
            PortError::Taken { subject, owner, .. } => Refusal::taken(message, subject, owner),
            PortError::Exhausted { subnets, size, released, .. } => {
                let subnets = subnets.iter().map(ToString::to_string).collect();
                let exhausted = v1::PoolExhausted { subnets, size, released };
                Refusal::new(Code::ResourceExhausted, message)
                    .kind(v1::error_detail::Kind::Exhausted(exhausted))
            }
            PortError::NoMatch { labels, labelled, .. } => Refusal::new(Code::NotFound, message)
                .kind(v1::error_detail::Kind::NoMatch(v1::NoNetworkMatches { labels, labelled })),
            PortError::Full { pools, .. } => {
                let room = |pool: Pool| v1::NetworkRoom {
                    network: pool.network.to_string(),
                    size: pool.size,
                    taken: pool.taken,
                    released: pool.released,
                };
                let full = v1::NetworksFull { networks: pools.into_iter().map(room).collect() };
                Refusal::new(Code::ResourceExhausted, message).kind(v1::error_detail::Kind::Full(full))
            }
            PortError::Precondition { subject, owner, .. } => {
                let refusal = Refusal::new(Code::FailedPrecondition, message);
                if owner.is_empty() { refusal } else { refusal.conflict(subject, owner) }
            }
            PortError::Aborted { .. } | PortError::Unconfirmed { .. } => Refusal::aborted(message),
            PortError::Store(error) => Refusal::from(error),
            PortError::Stopping => Refusal::unavailable(message),
            PortError::Internal(_) => Refusal::internal(&message),
        };
        if hint.is_empty() { refusal } else { refusal.hint(hint) }
    }
}

impl From<IntentError> for Refusal {
    fn from(error: IntentError) -> Self {
        let (hint, message) = (error.hint(), error.to_string());
        let refusal = match error {
            IntentError::Invalid(violations) => {
                let to = |Violation { field, reason }| v1::FieldViolation { field, reason };
                Refusal::fields(violations.into_iter().map(to).collect())
            }
            IntentError::Conflict { subject, owner, .. } => Refusal::taken(message, subject, owner),
            IntentError::InUse { subject, owner, .. } => {
                Refusal::new(Code::FailedPrecondition, message).conflict(subject, owner)
            }
            IntentError::Exhausted { .. } => Refusal::new(Code::ResourceExhausted, message),
            IntentError::Aborted(_) => Refusal::aborted(message),
            IntentError::Store(error) => Refusal::from(error),
            IntentError::Stopping => Refusal::unavailable(message),
        };
        if hint.is_empty() { refusal } else { refusal.hint(hint) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use causeway_proto::Revision;

    fn detail(status: &Status) -> v1::ErrorDetail {
        v1::ErrorDetail::of(status).unwrap()
    }

    #[test]
    fn every_error_has_its_code_and_says_whether_to_retry() {
        let down = || StoreError::Unavailable { store: "etcd".into(), reason: "refused".into() };
        let cases: Vec<(Refusal, Code, bool)> = vec![
            (PortError::NoNode("h1".parse().unwrap()).into(), Code::NotFound, false),
            (PortError::NoPort("web/a".parse().unwrap()).into(), Code::NotFound, false),
            (PortError::Stopping.into(), Code::Unavailable, true),
            (PortError::Store(down()).into(), Code::Unavailable, true),
            (PortError::Aborted { subject: "web/a".parse().unwrap(), tries: 5 }.into(), Code::Aborted, true),
            (PortError::Internal("x".into()).into(), Code::Internal, false),
            (IntentError::Aborted(5).into(), Code::Aborted, true),
            (IntentError::Store(down()).into(), Code::Unavailable, true),
            (
                IntentError::Exhausted { subject: "a".into(), reason: "b".into() }.into(),
                Code::ResourceExhausted,
                false,
            ),
            (StoreError::TooLarge(9).into(), Code::Internal, false),
            (Refusal::late("create port"), Code::DeadlineExceeded, true),
        ];
        for (refusal, code, retryable) in cases {
            let status = Status::from(refusal);
            assert_eq!((status.code(), detail(&status).retryable), (code, retryable), "{status}");
        }
    }

    #[test]
    fn details_are_typed() {
        use v1::error_detail::Kind;
        let taken = PortError::Taken {
            subject: "address 10.8.0.5".into(),
            owner: "port default/web/b".into(),
            hint: "ask for another".into(),
        };
        let status = Status::from(Refusal::from(taken));
        assert_eq!(status.code(), Code::AlreadyExists);
        let told = detail(&status);
        assert_eq!(told.hint, "ask for another");
        assert!(matches!(told.kind, Some(Kind::Conflict(c)) if c.owner == "port default/web/b"));
        let exhausted = PortError::Exhausted {
            network: "web".parse().unwrap(),
            subnets: vec!["10.8.0.0/30".parse().unwrap()],
            size: 2,
            released: 1,
        };
        let told = detail(&Refusal::from(exhausted).into());
        assert!(matches!(told.kind, Some(Kind::Exhausted(e)) if (e.size, e.released) == (2, 1)));
        let stale = StoreError::Compacted { asked: Revision(3), oldest: Revision(9) };
        let told = detail(&Refusal::from(stale).into());
        assert!(matches!(told.kind, Some(Kind::Stale(s)) if (s.asked, s.oldest) == (3, 9)));
        let fields = IntentError::Invalid(vec![Violation {
            field: "resources[0].vrf".into(),
            reason: "is empty".into(),
        }]);
        let status = Status::from(Refusal::from(fields));
        assert_eq!((status.code(), status.message()), (Code::InvalidArgument, "resources[0].vrf: is empty"));
        assert!(matches!(detail(&status).kind, Some(Kind::Fields(f)) if f.violations.len() == 1));
    }

    #[test]
    fn faults_of_ours_keep_their_details() {
        let status = Status::from(Refusal::from(PortError::Internal("secret path".into())));
        assert!(!status.message().contains("secret"), "{status}");
    }
}
