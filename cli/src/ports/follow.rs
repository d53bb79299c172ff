//! A watch that outlives its connection: when a controller goes away it goes on at the next one, from the revision it has
//! seen.

use std::ops::ControlFlow;
use std::time::Duration;

use causeway_proto::v1;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Status, Streaming};

use crate::client::{CallError, Client, ports};
use crate::failure::{Exit, Failure};

/// First and longest pause between attempts to connect again.
const RETRY: (Duration, Duration) = (Duration::from_millis(100), Duration::from_secs(5));

/// Why a watch ended without its reader wanting so.
#[derive(Debug)]
pub(crate) enum Ended {
    /// The deadline is over.
    Late,
    /// It failed.
    Failed(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Ended::Failed(failure)
    }
}

/// Watches ports until `reader` breaks, the deadline passes or the watch fails. With `from` 0 the current ports come first;
/// after a lost connection they may come again.
pub(crate) async fn follow<T>(
    client: &Client,
    filter: &v1::PortFilter,
    from: u64,
    deadline: Option<Instant>,
    mut reader: impl FnMut(v1::WatchPortsResponse) -> Result<ControlFlow<T>, Failure>,
) -> Result<T, Ended> {
    let mut resume = from;
    let mut synced = from != 0;
    let mut pause = RETRY.0;
    let mut seen_any = false;
    loop {
        let request = v1::WatchPortsRequest { filter: Some(filter.clone()), from_revision: resume };
        let opened =
            client.try_call(&async |channel| ports(channel).watch_ports(request.clone()).await).await;
        let lost = match opened {
            Err(CallError::Refused(status)) if !is_stale(&status) || !seen_any => {
                return Err(Failure::refused("watch ports", &status).into());
            }
            Err(error) if !seen_any => return Err(client.failure("watch ports", error).into()),
            // The revision was forgotten while the connection was away: start again from the current ports.
            Err(CallError::Refused(_)) => {
                (resume, synced) = (0, false);
                None
            }
            Err(_) => None,
            Ok(stream) => {
                seen_any = true;
                pause = RETRY.0;
                match drain(stream, deadline, &mut resume, &mut synced, &mut reader).await? {
                    ControlFlow::Break(done) => return Ok(done),
                    ControlFlow::Continue(lost) => lost,
                }
            }
        };
        if let Some(status) = lost {
            if is_stale(&status) && from == 0 {
                (resume, synced) = (0, false);
            } else if !is_lost(&status) {
                return Err(Failure::refused("watch ports", &status).into());
            }
        }
        let wake = Instant::now() + pause;
        if deadline.is_some_and(|d| wake >= d) {
            return Err(Ended::Late);
        }
        sleep(pause).await;
        pause = (pause * 2).min(RETRY.1);
    }
}

/// Reads one stream to its end. `Continue` says why it ended; `None`: the server closed it.
async fn drain<T>(
    mut stream: Streaming<v1::WatchPortsResponse>,
    deadline: Option<Instant>,
    resume: &mut u64,
    synced: &mut bool,
    reader: &mut impl FnMut(v1::WatchPortsResponse) -> Result<ControlFlow<T>, Failure>,
) -> Result<ControlFlow<T, Option<Status>>, Ended> {
    loop {
        let next = match deadline {
            Some(deadline) => timeout_at(deadline, stream.message()).await.map_err(|_| Ended::Late)?,
            None => stream.message().await,
        };
        let event = match next {
            Ok(Some(event)) => event,
            Ok(None) => return Ok(ControlFlow::Continue(None)),
            Err(status) => return Ok(ControlFlow::Continue(Some(status))),
        };
        *synced |= matches!(event.event, Some(v1::watch_ports_response::Event::Synced(_)));
        // Before the mark only a part of the current ports was seen: resuming from there would miss the others.
        if *synced {
            *resume = (*resume).max(event.revision);
        }
        if let ControlFlow::Break(done) = reader(event)? {
            return Ok(ControlFlow::Break(done));
        }
    }
}

fn is_stale(status: &Status) -> bool {
    matches!(v1::ErrorDetail::of(status).and_then(|d| d.kind), Some(v1::error_detail::Kind::Stale(_)))
}

/// True for ends that a new connection may cure. A broken connection has no code of its own: it shows as one of these.
fn is_lost(status: &Status) -> bool {
    matches!(status.code(), Code::Unavailable | Code::Unknown | Code::Cancelled | Code::Aborted)
        || (status.code() == Code::Internal
            && v1::ErrorDetail::of(status).is_none()
            && status.message().contains("h2"))
}

/// A late watch as a failure.
pub(crate) fn late(what: &str, limit: Duration) -> Failure {
    Failure::new(Exit::Timeout, format!("{what} within {} ms", limit.as_millis()))
}
