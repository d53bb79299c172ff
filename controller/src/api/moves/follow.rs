//! A move as it goes on.

use std::time::Duration;

use causeway_proto::{PortKey, v1};
use tokio::sync::mpsc;
use tonic::Status;

use super::App;
use super::message;

/// Between two looks at what a move waits for, which no change of the store tells.
const PERIOD: Duration = Duration::from_millis(500);

/// Tells every change of the last move of a port until it is over or nobody listens.
pub(super) async fn follow(app: &App, key: &PortKey, tell: mpsc::Sender<Result<v1::Move, Status>>) {
    let mut last: Option<v1::Move> = None;
    let mut begun = None;
    let mut snapshot = app.snapshot().await;
    loop {
        let Some(record) = snapshot.moves.get(key) else { return };
        // A new move of the port is another one's business.
        let start = record.value.steps.first().copied();
        if *begun.get_or_insert(start) != start {
            return;
        }
        let now = message::of(app, &snapshot, record);
        if last.as_ref() != Some(&now) {
            if tell.send(Ok(now.clone())).await.is_err() {
                return;
            }
            last = Some(now);
        }
        if record.value.phase.is_over() {
            return;
        }
        tokio::select! {
            newer = app.state.wait_after(snapshot.revision) => match newer {
                Ok(newer) => snapshot = newer,
                Err(_) => return,
            },
            () = tokio::time::sleep(PERIOD) => {}
            () = tell.closed() => return,
        }
    }
}
