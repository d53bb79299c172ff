//! `causeway port vip`: addresses that move between workloads.

use causeway_proto::{PortKey, v1};
use clap::{Args, Subcommand};

use super::{id, message, show_some};
use crate::client::{Client, ports};
use crate::failure::{Exit, Outcome};
use crate::output::{Format, Output};

/// About VIPs.
#[derive(Debug, Subcommand)]
pub(crate) enum VipCommand {
    Hold(HoldArgs),
}

/// Give a VIP to a port: its addresses are announced with the port's MAC, where it lives
///
/// It is one transaction: the port before answers for them no more. The VIP moves with its holder, and nobody holds it any more when
/// that is released.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway port create web/db --vip
  causeway port vip hold web/db --holder web/db-2
  causeway port vip hold web/db --nobody")]
pub(crate) struct HoldArgs {
    /// The VIP, as NETWORK/NAME or VRF/NETWORK/NAME
    key: PortKey,
    /// The port that answers for it, in the same network
    #[arg(long, value_name = "KEY", required_unless_present = "nobody", conflicts_with = "nobody")]
    holder: Option<PortKey>,
    /// Nobody answers for it
    #[arg(long)]
    nobody: bool,
}

pub(crate) async fn run(command: VipCommand, client: &Client, out: Output) -> Outcome {
    let VipCommand::Hold(HoldArgs { key, holder, .. }) = command;
    let request = v1::HoldVipRequest { key: Some(message(&key)), holder: holder.as_ref().map(message) };
    let act = match &holder {
        Some(holder) => format!("give VIP {key} to port {holder}"),
        None => format!("take VIP {key} from its holder"),
    };
    let answer = client.call(&act, async |channel| ports(channel).hold_vip(request.clone()).await).await?;
    if out.format == Format::Table
        && let Some(port) = &answer.port
    {
        out.note(&match &holder {
            Some(holder) => format!("port {holder} answers for VIP {}", id(port)),
            None => format!("nobody answers for VIP {}", id(port)),
        });
    }
    show_some(answer.port.into_iter().collect(), out)?;
    Ok(Exit::Ok)
}
