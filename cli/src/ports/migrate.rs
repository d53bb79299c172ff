//! `causeway port migrate`, `rollback` and `moves`.

mod show;

use std::time::Duration;

use causeway_proto::{PortKey, v1};
use clap::Args;
use tonic::{Code, Streaming};

use super::message;
use crate::client::{Client, moves};
use crate::failure::{Exit, Failure, Outcome};
use crate::output::{Format, Output};
use crate::words::{self, parser};

pub(crate) use show::{MoveView, phase_word};

/// Move a port to another node, with its addresses and MAC
///
/// The target is prepared first, silent; then the source goes silent, the target takes over and announces, and what that
/// cost is measured by probes from other nodes. Above --max-loss the port goes back by itself. The source is kept, down,
/// for --window. The move goes on if this command is interrupted, and if controllers die.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway port migrate web/db-1 --to host2 --plan
  causeway port migrate web/db-1 --to host2 --netns /run/netns/db-1
  causeway port migrate web/db-1 --to host2:vm --interface tap-db1 --max-loss 300ms
  causeway port migrate web/db-1 --to leaf1:bare-metal --interface swp7 --mac 3c:ec:ef:00:10:01
  causeway port migrate web/db-1 --to host3 --window 10m -o json")]
pub(crate) struct MigrateArgs {
    /// NETWORK/NAME or VRF/NETWORK/NAME
    key: PortKey,
    /// The node, and what runs there if it is another kind: container, vm or bare-metal
    #[arg(long, value_name = "NODE[:KIND]")]
    to: String,
    /// A container's network namespace there [default: the same path as now]
    #[arg(long, value_name = "PATH|pid:NUMBER")]
    netns: Option<String>,
    /// Name of the interface inside, or of the tap there [default: as now for the same kind]
    #[arg(long)]
    interface: Option<String>,
    /// How it is attached there [default: by node and kind]
    #[arg(long, value_parser = parser(words::ATTACHMENTS))]
    attachment: Option<i32>,
    /// How macvlans on one parent reach each other [default: bridge]
    #[arg(long, value_parser = parser(words::MACVLAN_MODES))]
    macvlan_mode: Option<i32>,
    /// Another MAC there, or `computed`: the one that follows from its first address [default: it keeps its own]
    #[arg(long, value_name = "MAC|computed", default_value = "", hide_default_value = true)]
    mac: String,
    /// Go back if traffic was lost for longer
    #[arg(long, value_name = "TIME", default_value = "500ms", value_parser = crate::args::parse_duration)]
    max_loss: Duration,
    /// How long the source is kept for a way back
    #[arg(long, value_name = "TIME", default_value = "60s", value_parser = crate::args::parse_duration)]
    window: Duration,
    /// How long the target may take to prepare
    #[arg(long, value_name = "TIME", default_value = "10s", value_parser = crate::args::parse_duration)]
    prepare: Duration,
    /// Say what would be done and what it is expected to cost, and do nothing
    #[arg(long)]
    plan: bool,
    /// Move it although nobody hears from the node where it is; recorded
    #[arg(long)]
    force: bool,
}

/// Take a port back to where its last move took it from, as long as that move's window is open
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  causeway port rollback web/db-1 --reason 'the application is slower there'"
)]
pub(crate) struct RollbackArgs {
    /// NETWORK/NAME or VRF/NETWORK/NAME
    key: PortKey,
    /// Do not wait for the agent there to confirm that the port is down; recorded
    #[arg(long)]
    force: bool,
}

/// The last move of each port, those under way first
#[derive(Debug, Args)]
#[command(
    after_help = "Examples:\n  causeway port moves\n  causeway port moves --active --node host1 -o json"
)]
pub(crate) struct MovesArgs {
    /// Only from or to this node
    #[arg(long, default_value = "")]
    node: String,
    /// Only those under way
    #[arg(long)]
    active: bool,
}

fn millis(time: Duration) -> u32 {
    u32::try_from(time.as_millis()).unwrap_or(u32::MAX)
}

fn seconds(time: Duration) -> u32 {
    u32::try_from(time.as_millis().div_ceil(1000)).unwrap_or(u32::MAX)
}

pub(crate) async fn migrate(args: MigrateArgs, client: &Client, out: Output) -> Outcome {
    let request = request(&args, client).await?;
    if args.plan {
        let asked = v1::PlanMoveRequest { r#move: Some(request) };
        let act = format!("plan a move of port {}", args.key);
        let plan = client.call(&act, async |channel| moves(channel).plan_move(asked.clone()).await).await?;
        show::plan(&args.key, plan, out)?;
        return Ok(Exit::Ok);
    }
    let act = format!("move port {}", args.key);
    let call = async |channel| moves(channel).migrate_port(request.clone()).await;
    let stream = client.call(&act, call).await?;
    let last = follow(stream, &act, out, &[v1::MovePhase::Hold]).await?;
    end(&args.key, &last, v1::MovePhase::Hold, out)
}

/// What is asked for, with what the port has now where nothing is said.
async fn request(args: &MigrateArgs, client: &Client) -> Result<v1::MigratePortRequest, Failure> {
    let (node, kind) = match args.to.split_once(':') {
        None => (args.to.clone(), None),
        Some((node, kind)) => {
            let found = words::WORKLOADS.iter().find(|(word, ..)| *word == kind);
            let Some((_, _, number)) = found else {
                let text = format!("--to {}: '{kind}' is no kind of workload", args.to);
                return Err(Failure::new(Exit::Usage, text).hint("one of container, vm, bare-metal"));
            };
            (node.to_owned(), Some(*number))
        }
    };
    let asked = v1::GetPortRequest { key: Some(message(&args.key)) };
    let act = format!("get port {}", args.key);
    let call = async |channel| crate::client::ports(channel).get_port(asked.clone()).await;
    let now = client.call(&act, call).await?.port.and_then(|port| port.binding).unwrap_or_default();
    let kind = kind.unwrap_or(now.kind);
    let same = kind == now.kind;
    let is_container = kind == i32::from(v1::WorkloadKind::Container);
    let netns = match &args.netns {
        Some(netns) => netns.clone(),
        None if is_container && same => now.netns.clone(),
        None => String::new(),
    };
    let interface = match &args.interface {
        Some(interface) => interface.clone(),
        None if same => now.interface.clone(),
        None => String::new(),
    };
    let to = v1::Binding {
        node,
        kind,
        attachment: args.attachment.unwrap_or_default(),
        netns,
        interface,
        generation: 0,
        macvlan_mode: args.macvlan_mode.unwrap_or_default(),
        ..v1::Binding::default()
    };
    Ok(v1::MigratePortRequest {
        key: Some(message(&args.key)),
        to: Some(to),
        max_loss_ms: millis(args.max_loss),
        window_seconds: seconds(args.window),
        prepare_seconds: seconds(args.prepare),
        force: args.force,
        mac: args.mac.clone(),
    })
}

pub(crate) async fn rollback(args: RollbackArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::RollbackPortRequest {
        key: Some(message(&args.key)),
        force: args.force,
        ..v1::RollbackPortRequest::default()
    };
    let act = format!("take port {} back", args.key);
    let stream =
        client.call(&act, async |channel| moves(channel).rollback_port(request.clone()).await).await?;
    let last = follow(stream, &act, out, &[]).await?;
    end(&args.key, &last, v1::MovePhase::Undone, out)
}

pub(crate) async fn list(args: MovesArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::ListMovesRequest { node: args.node, active: args.active };
    let call = async |channel| moves(channel).list_moves(request.clone()).await;
    let answer = client.call("list moves", call).await?;
    show::list(answer.moves, out)?;
    Ok(Exit::Ok)
}

/// Shows a move's phases until it is over or in one of `until`.
async fn follow(
    mut stream: Streaming<v1::Move>,
    act: &str,
    out: Output,
    until: &[v1::MovePhase],
) -> Result<v1::Move, Failure> {
    let over = [v1::MovePhase::Done, v1::MovePhase::Undone];
    let mut last: Option<v1::Move> = None;
    loop {
        match stream.message().await {
            Ok(Some(moving)) => {
                if out.format == Format::Table {
                    show::progress(&moving, last.as_ref(), out);
                }
                let phase = moving.phase();
                last = Some(moving);
                if over.contains(&phase) || until.contains(&phase) {
                    break;
                }
            }
            Ok(None) => break,
            Err(status) if status.code() == Code::Unavailable => {
                return Err(Failure::refused(act, &status).hint("the move goes on: causeway port moves"));
            }
            Err(status) => return Err(Failure::refused(act, &status)),
        }
    }
    last.ok_or_else(|| Failure::new(Exit::Failed, format!("cannot {act}: the controller said nothing")))
}

fn end(key: &PortKey, last: &v1::Move, wanted: v1::MovePhase, out: Output) -> Outcome {
    show::report(last, out)?;
    let (phase, done) = (last.phase(), v1::MovePhase::Done);
    if phase == wanted || (wanted == v1::MovePhase::Hold && phase == done) {
        if phase == v1::MovePhase::Hold {
            out.next(&format!("causeway port rollback {key}"));
        }
        return Ok(Exit::Ok);
    }
    let text = format!("port {key}: the move is {}: {}", phase_word(last), last.reason);
    Err(Failure::new(Exit::Failed, text))
}
