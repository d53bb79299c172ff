//! What the store says of a port's absence, so that a transaction can compare it.

use causeway_proto::{Name, PortKey};

use super::board::NodeReport;
use super::claim::{CLAIMS, REPORTS};
use crate::store::{Compare, Store, StoreError};

/// What must hold in the store as long as a node's agent is connected and does not find the workload of a port;
/// `None` if that is not what the store says.
pub(crate) async fn absence(
    store: &dyn Store,
    node: &Name,
    port: &PortKey,
    generation: u64,
) -> Result<Option<Vec<Compare>>, StoreError> {
    let claim = store.get(&format!("{CLAIMS}{node}")).await?;
    let report = store.get(&format!("{REPORTS}{node}")).await?;
    let (Some(claim), Some(report)) = (claim, report) else { return Ok(None) };
    let said: Option<NodeReport> = serde_json::from_slice(&report.value).ok();
    let absent = said.is_some_and(|said| {
        said.failed.iter().any(|f| f.absent && f.port == *port && f.generation == generation)
    });
    let unchanged =
        || vec![claim, report].into_iter().map(|e| Compare::Unchanged(e.key, e.revision)).collect();
    Ok(absent.then(unchanged))
}
