//! Looks into the store, where the snapshot may be a moment old.

use causeway_proto::Revision;

use super::CATCH_UP;
use crate::ports::plan::Belief;
use crate::state::State;
use crate::store::{Store, StoreError};

/// True if the store holds what a refusal rests on; false once the snapshot shows something newer.
pub(super) async fn confirm(
    store: &dyn Store,
    state: &State,
    belief: &Belief,
    planned_at: Revision,
) -> Result<bool, StoreError> {
    let path = &belief.path;
    let now = store.get(path).await?.map(|entry| entry.revision);
    if now == belief.seen {
        return Ok(true);
    }
    let shown = match now {
        Some(at) => state.wait_for(at),
        // Gone, at a revision that is not known.
        None => return Ok(shows_absence(state, path, planned_at).await),
    };
    // Without an answer the next look asks the store again.
    let _ = tokio::time::timeout(CATCH_UP, shown).await;
    Ok(false)
}

/// Waits until the snapshot has gone on from `planned_at`; always false, for it may be any change.
async fn shows_absence(state: &State, path: &str, planned_at: Revision) -> bool {
    let waited = tokio::time::timeout(CATCH_UP, state.wait_after(planned_at)).await;
    if waited.is_err() {
        tracing::debug!(path, "the snapshot does not show yet that a record is gone");
    }
    false
}

/// Waits until the snapshot shows the values that these keys have in the store.
pub(super) async fn catch_up(store: &dyn Store, state: &State, paths: &[String]) {
    let mut newest = Revision::default();
    for path in paths {
        if let Ok(Some(entry)) = store.get(path).await {
            newest = newest.max(entry.revision);
        }
    }
    // Without an answer the next try fails in the same way.
    let _ = tokio::time::timeout(CATCH_UP, state.wait_for(newest)).await;
}

/// The same error for each request of a transaction.
pub(super) fn again(error: &StoreError) -> StoreError {
    match error {
        StoreError::Unavailable { store, reason } => {
            StoreError::Unavailable { store: store.clone(), reason: reason.clone() }
        }
        StoreError::Internal { store, reason } => {
            StoreError::Internal { store: store.clone(), reason: reason.clone() }
        }
        other => StoreError::Internal { store: String::new(), reason: other.to_string() },
    }
}
