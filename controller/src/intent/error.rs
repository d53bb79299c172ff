//! Why declared records were refused.

use crate::store::StoreError;

/// One wrong field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Violation {
    /// Path, for example `resources[2].network.vni`.
    pub field: String,
    /// What is wrong with it.
    pub reason: String,
}

/// Why declared records were refused.
#[derive(Debug, thiserror::Error)]
pub enum IntentError {
    /// Fields are wrong by themselves.
    #[error("{}", join(.0))]
    Invalid(Vec<Violation>),
    /// Another record has what this one asks for.
    #[error("{field}: {subject} is taken by {owner}")]
    Conflict {
        /// Path of the field, for example `resources[2].network.vni`.
        field: String,
        /// What is taken, for example `vni 110`.
        subject: String,
        /// Who has it, for example `network default/web`.
        owner: String,
    },
    /// Other records stand against the change or deletion.
    #[error("{subject} {reason}: {owner}")]
    InUse {
        /// What was to be changed, for example `network default/web`.
        subject: String,
        /// Why not, for example `cannot be deleted while ports exist`.
        reason: String,
        /// An example of what uses it, for example `port default/web/db-1`.
        owner: String,
        /// What to do about it.
        hint: String,
    },
    /// Nothing is left to choose from.
    #[error("{subject}: {reason}")]
    Exhausted {
        /// For which record.
        subject: String,
        /// What ran out.
        reason: String,
    },
    /// Others were faster again and again.
    #[error("lost {0} races with other changes")]
    Aborted(u32),
    /// The store does not answer. Some records may have been written: repeat the request.
    #[error(transparent)]
    Store(#[from] StoreError),
    /// The controller is stopping.
    #[error("the controller is stopping")]
    Stopping,
}

impl IntentError {
    /// True if the same request may succeed later without a change.
    pub fn retryable(&self) -> bool {
        match self {
            IntentError::Aborted(_) | IntentError::Stopping => true,
            IntentError::Store(error) => matches!(error, StoreError::Unavailable { .. }),
            _ => false,
        }
    }

    /// The next useful step; may be empty.
    pub fn hint(&self) -> String {
        match self {
            IntentError::InUse { hint, .. } => hint.clone(),
            error if error.retryable() => "repeat the request".to_owned(),
            _ => String::new(),
        }
    }
}

fn join(violations: &[Violation]) -> String {
    let texts: Vec<String> = violations.iter().map(|v| format!("{}: {}", v.field, v.reason)).collect();
    texts.join("; ")
}
