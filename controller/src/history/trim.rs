//! Forgetting what is older than the configuration says.

use super::{read, tell};
use crate::keys;
use crate::store::{Store, StoreError, Txn, Write};

/// Records of the log read at once.
const PAGE: usize = 64;

/// Removes everything that happened before `before_ms` (Unix milliseconds) and says how many transactions' events that
/// were. What leads to them goes first, so that a stop in between leaves nothing that nobody finds.
pub async fn trim(store: &dyn Store, before_ms: i64) -> Result<usize, StoreError> {
    let mut removed = 0;
    loop {
        let page = store.range(keys::LOG, &keys::events_at(before_ms), PAGE).await?.entries;
        if page.is_empty() {
            return Ok(removed);
        }
        removed += page.len();
        let mut keys = Vec::new();
        for entry in &page {
            keys.extend(read::read(entry).iter().flat_map(|told| tell::index_of(&told.event, told.at_ms)));
        }
        keys.extend(page.into_iter().map(|entry| entry.key));
        for chunk in keys.chunks(Txn::MAX_OPS) {
            let writes = chunk.iter().cloned().map(Write::Delete).collect();
            store.txn(Txn { compares: Vec::new(), writes }).await?;
        }
    }
}
