//! `causeway port wait`, and `--wait proven`: the controller says how far ports are, leg by leg.

use std::collections::BTreeMap;
use std::time::Duration;

use causeway_proto::{PortKey, v1};
use clap::Args;
use tokio::time::{Instant, sleep, timeout_at};
use tonic::{Code, Streaming};

use super::{Level, get_one, message, show_some};
use crate::client::{CallError, Client, waits};
use crate::failure::{Exit, Failure, Outcome, printable};
use crate::output::Output;
use crate::tables::port_id;
use crate::view::port_state;

/// Time limit unless --timeout says otherwise.
const WAIT_TIMEOUT: Duration = Duration::from_secs(30);
/// How much later than the time asked for the controller's answer may come.
const GRACE: Duration = Duration::from_secs(1);
/// Between attempts to reach a controller again.
const RETRY: Duration = Duration::from_millis(200);
/// Ports of one request; the contract's limit.
const BULK_LIMIT: usize = 1000;
/// Ports that a late wait explains one by one.
const EXPLAINED: usize = 5;

/// Wait until ports are ready, and say why when they are late
///
/// Ports that do not exist yet, or are bound nowhere, are waited for too. With --level proven a probe from another node
/// has crossed the fabric.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway port wait web/db-1
  causeway port wait web/db-1 web/db-2 --level proven --timeout 20s")]
pub(crate) struct WaitArgs {
    /// NETWORK/NAME or VRF/NETWORK/NAME
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<PortKey>,
    /// How far
    #[arg(long, visible_alias = "for", value_enum, default_value = "advertised")]
    level: Level,
}

pub(crate) async fn run(args: WaitArgs, client: &Client, out: Output, timeout: Option<Duration>) -> Outcome {
    until(client, &args.keys, args.level, timeout, out).await?;
    let mut found = Vec::new();
    for key in &args.keys {
        found.push(get_one(client, key).await?);
    }
    show_some(found, out)?;
    Ok(Exit::Ok)
}

/// Ports that are waited for, and what was last said of them.
struct Waiting<'a> {
    client: &'a Client,
    level: Level,
    limit: Duration,
    deadline: Instant,
    out: Output,
    pending: BTreeMap<String, (v1::PortKey, Option<v1::PortReadiness>)>,
    late: Vec<(String, String)>,
}

/// Waits until all ports have reached the level.
pub(crate) async fn until(
    client: &Client,
    keys: &[PortKey],
    level: Level,
    timeout: Option<Duration>,
    out: Output,
) -> Result<(), Failure> {
    let limit = timeout.unwrap_or(WAIT_TIMEOUT);
    let pending = keys.iter().map(|key| (key.to_string(), (message(key), None))).collect();
    let deadline = Instant::now() + limit;
    let mut waiting = Waiting { client, level, limit, deadline, out, pending, late: Vec::new() };
    // Another controller goes on where one went away: what is ready by then it says at once.
    while !waiting.pending.is_empty() {
        waiting.ask().await?;
    }
    if waiting.late.is_empty() { Ok(()) } else { Err(waiting.explain()) }
}

impl Waiting<'_> {
    async fn ask(&mut self) -> Result<(), Failure> {
        let left = self.deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            for key in std::mem::take(&mut self.pending).into_keys() {
                self.late.push((key, "no controller said how far it is".into()));
            }
            return Ok(());
        }
        let request = v1::WaitPortsRequest {
            keys: self.pending.values().take(BULK_LIMIT).map(|(key, _)| key.clone()).collect(),
            level: self.level.message().into(),
            timeout_ms: u32::try_from(left.as_millis()).unwrap_or(u32::MAX).clamp(1, 600_000),
        };
        let opened =
            self.client.try_call(&async |channel| waits(channel).wait_ports(request.clone()).await).await;
        match opened {
            Ok(stream) => self.listen(stream).await,
            Err(CallError::Refused(status)) if status.code() != Code::Unavailable => {
                Err(Failure::refused("wait for ports", &status))
            }
            Err(error) if Instant::now() + RETRY >= self.deadline => {
                Err(self.client.failure("wait for ports", error))
            }
            Err(_) => {
                sleep(RETRY).await;
                Ok(())
            }
        }
    }

    async fn listen(&mut self, mut stream: Streaming<v1::WaitPortsResponse>) -> Result<(), Failure> {
        loop {
            match timeout_at(self.deadline + GRACE, stream.message()).await {
                Ok(Ok(Some(said))) => self.hear(said),
                // The end, or a connection that broke.
                Ok(Ok(None) | Err(_)) => {
                    if !self.pending.is_empty() {
                        sleep(RETRY).await;
                    }
                    return Ok(());
                }
                Err(_) => return Ok(()),
            }
        }
    }

    fn hear(&mut self, said: v1::WaitPortsResponse) {
        let key = port_id(said.key.as_ref());
        let Some((_, told)) = self.pending.get_mut(&key) else { return };
        let problem = |readiness: &Option<v1::PortReadiness>| {
            let readiness = readiness.as_ref().filter(|r| r.state() == v1::PortState::Failed)?;
            readiness.host.as_ref().map(|leg| leg.text.clone())
        };
        let before = problem(told);
        if let Some(problem) = problem(&said.readiness).filter(|problem| before.as_ref() != Some(problem)) {
            self.out.note(&printable(&format!("port {key}: {problem}")));
        }
        *told = said.readiness;
        if let Some(outcome) = said.outcome {
            let state = told.as_ref().map_or("unknown", |readiness| port_state(readiness.state));
            if !outcome.ready {
                self.late.push((key.clone(), format!("it is {state}; {}", outcome.reason)));
            }
            self.pending.remove(&key);
        }
    }

    fn explain(self) -> Failure {
        let mut text = format!(
            "{} ports not {} within {} ms",
            self.late.len(),
            self.level.word(),
            self.limit.as_millis()
        );
        for (key, why) in self.late.iter().take(EXPLAINED) {
            text.push_str(&format!("\n  {}", printable(&format!("{key}: {why}"))));
        }
        if self.late.len() > EXPLAINED {
            text.push_str(&format!("\n  and {} more", self.late.len() - EXPLAINED));
        }
        Failure::new(Exit::Timeout, text)
            .hint("causeway node list and causeway bgp peers show what is down; causeway port watch goes on looking")
    }
}
