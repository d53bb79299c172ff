//! What operators declare: VRFs, networks, subnets, nodes and peers. Records are checked together, against the
//! snapshot with all of them in it, before the first one is written; what is unique among controllers is compared on
//! index keys in the transaction that writes.

mod check;
mod diff;
mod error;
pub mod message;
mod write;

use std::sync::Arc;

use causeway_proto::{Revision, v1};

use crate::history::By;
use crate::state::State;
use crate::store::Store;

pub use error::{IntentError, Violation};

/// What an apply does with a record.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Action {
    /// It did not exist.
    Create,
    /// It existed and is different.
    Update,
    /// It existed and is the same.
    Unchanged,
}

/// One changed field, as text.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct FieldChange {
    /// The field's name in the message.
    pub field: &'static str,
    /// The old value; empty: none.
    pub old: String,
    /// The new value.
    pub new: String,
}

/// What became, or would become, of one record.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Outcome {
    /// Its kind.
    pub kind: v1::Kind,
    /// Its name, in the form of `ApplyResult.name`.
    pub name: String,
    /// What was done.
    pub action: Action,
    /// The fields that differ.
    pub changes: Vec<FieldChange>,
}

/// What became of an apply.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Applied {
    /// One a record, in the order of the request.
    pub outcomes: Vec<Outcome>,
    /// Revision of the last write; without one, the revision that was compared with.
    pub revision: Revision,
}

/// Writes what operators declare. Cheap to clone.
#[derive(Debug, Clone)]
pub struct Intent {
    store: Arc<dyn Store>,
    state: State,
    /// The controllers' AS: of it default route targets are made, which must fit.
    asn: u32,
    /// Who asks.
    by: Arc<By>,
}

impl Intent {
    /// `asn`: the controllers' AS number.
    pub fn new(store: Arc<dyn Store>, state: State, asn: u32) -> Self {
        Intent { store, state, asn, by: Arc::default() }
    }

    /// The same, on behalf of somebody: the history says who asked.
    #[must_use]
    pub fn on_behalf(&self, by: By) -> Self {
        Intent { by: Arc::new(by), ..self.clone() }
    }

    /// Creates or changes records; with `dry_run` only says what would happen. Field paths of errors begin with
    /// `resources[INDEX]`. Up to 128 operations are one transaction; more records are several, in the order of kinds,
    /// each valid by itself.
    pub async fn apply(&self, resources: &[v1::Resource], dry_run: bool) -> Result<Applied, IntentError> {
        write::apply(self, resources, dry_run).await
    }

    /// Deletes one record by its name in the form of `ApplyResult.name` and says the revision. Refused while others
    /// refer to it; missing is fine.
    pub async fn delete(&self, kind: v1::Kind, name: &str) -> Result<Revision, IntentError> {
        write::delete(self, kind, name).await
    }
}

#[cfg(test)]
mod tests;
