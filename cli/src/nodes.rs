//! `causeway node drain`, `fence` and `unfence`.

use causeway_proto::v1;
use clap::Args;
use serde::Serialize;

use crate::client::{Client, moves};
use crate::failure::{Exit, Failure, Outcome, printable};
use crate::output::{Format, Output};
use crate::ports::migrate::{MoveView, phase_word};
use crate::tables::port_id;

/// Move all ports of a node elsewhere
///
/// A container needs its namespace, by the same path, at the target. Moves that have begun go on if this command is
/// interrupted; others do not begin.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway node drain host1
  causeway node drain host1 --to host2 --concurrency 8")]
pub(crate) struct DrainArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    node: String,
    /// Where to [default: for each port the node with the fewest ports that can have it]
    #[arg(long, value_name = "NODE")]
    to: Option<String>,
    /// Moves at the same time
    #[arg(long, default_value_t = 4, value_parser = clap::value_parser!(u32).range(1..=64))]
    concurrency: u32,
}

/// Keep a node out of the fabric
///
/// Its ports' routes are withdrawn and other nodes forget its workloads; its agent, should it run, takes its ports down.
/// Only then may its ports be bound elsewhere while nobody hears from its agent. The history keeps --reason, which is required.
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  causeway node fence host1 --reason 'power lost, rack 4'")]
pub(crate) struct FenceArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    node: String,
}

/// Let a fenced node in again: its ports come back
#[derive(Debug, Args)]
#[command(after_help = "Examples:\n  causeway node unfence host1")]
pub(crate) struct UnfenceArgs {
    /// Name of the node
    #[arg(value_name = "NODE")]
    node: String,
}

#[derive(Debug, Serialize)]
struct DrainView {
    total: u32,
    done: u32,
    failed: u32,
    port: String,
    problem: String,
    r#move: Option<MoveView>,
}

pub(crate) async fn drain(args: DrainArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::DrainNodeRequest {
        node: args.node.clone(),
        to: args.to.unwrap_or_default(),
        concurrency: args.concurrency,
        ..v1::DrainNodeRequest::default()
    };
    let act = format!("drain node {}", args.node);
    let mut stream =
        client.call(&act, async |channel| moves(channel).drain_node(request.clone()).await).await?;
    let mut last = v1::DrainNodeResponse::default();
    loop {
        match stream.message().await {
            Ok(Some(message)) => {
                if out.format == Format::Table {
                    progress(&message, out)?;
                } else if message.port.is_some() {
                    out.data(&view(message.clone()))?;
                }
                last = message;
            }
            Ok(None) => break,
            Err(status) => return Err(Failure::refused(&act, &status)),
        }
    }
    let left = last.total.saturating_sub(last.done);
    if left == 0 {
        out.note(&format!("node {}: {} of {} ports moved", args.node, last.done, last.total));
        return Ok(Exit::Ok);
    }
    let text = format!("node {}: {left} of {} ports are still there", args.node, last.total);
    Err(Failure::new(Exit::Failed, text).hint(format!("causeway port list --node {}", args.node)))
}

fn view(message: v1::DrainNodeResponse) -> DrainView {
    DrainView {
        total: message.total,
        done: message.done,
        failed: message.failed,
        port: port_id(message.port.as_ref()),
        problem: message.problem,
        r#move: message.r#move.map(MoveView::from),
    }
}

/// `[######....] 6/10 web/db-1 host1 → host2, 41 ms`
fn progress(message: &v1::DrainNodeResponse, out: Output) -> Result<(), Failure> {
    const WIDTH: u32 = 20;
    let ended = message.done.saturating_add(message.failed);
    let full = ended.saturating_mul(WIDTH).checked_div(message.total).unwrap_or(WIDTH).min(WIDTH);
    let bar = "#".repeat(full as usize) + &".".repeat((WIDTH - full) as usize);
    let what = match (&message.r#move, message.problem.as_str()) {
        (Some(moving), "") => {
            let node = |b: &Option<v1::Binding>| b.as_ref().map_or_else(String::new, |b| printable(&b.node));
            let gap = moving.cost.as_ref().map_or_else(String::new, |c| format!(", {} ms", c.gap_ms));
            format!("{} → {}{gap}", node(&moving.from), node(&moving.to))
        }
        (Some(moving), problem) => format!("{}: {}", phase_word(moving), printable(problem)),
        (None, problem) => printable(problem),
    };
    out.line(&format!("[{bar}] {ended}/{} {} {what}", message.total, port_id(message.port.as_ref())))
}

pub(crate) async fn fence(args: FenceArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::FenceNodeRequest { node: args.node.clone(), ..v1::FenceNodeRequest::default() };
    let act = format!("fence node {}", args.node);
    let call = async |channel| moves(channel).fence_node(request.clone()).await;
    let answer = client.call(&act, call).await?;
    let agent = match answer.connected {
        true => "its agent is connected and takes them down",
        false => "its agent is not connected: what runs there reaches nobody by our routes",
    };
    out.line(&format!(
        "node {} is fenced: routes of {} ports are withdrawn; {agent}",
        args.node, answer.ports
    ))?;
    out.next(&format!("causeway port list --node {}", args.node));
    Ok(Exit::Ok)
}

pub(crate) async fn unfence(args: UnfenceArgs, client: &Client, out: Output) -> Outcome {
    let request = v1::UnfenceNodeRequest { node: args.node.clone() };
    let act = format!("let node {} in", args.node);
    let call = async |channel| moves(channel).unfence_node(request.clone()).await;
    let answer = client.call(&act, call).await?;
    out.line(&match answer.was_fenced {
        true => format!("node {} is in again", args.node),
        false => format!("node {} was not fenced", args.node),
    })?;
    Ok(Exit::Ok)
}
