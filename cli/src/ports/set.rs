//! `causeway port set`.

use causeway_proto::{PortKey, v1};
use clap::Args;

use super::place::{RateArgs, address_check};
use super::{get_one, message, show_some};
use crate::client::{Client, ports};
use crate::failure::{Exit, Failure, Outcome};

/// Change rate limits and guard, live
///
/// What is not given stays as it is. Traffic goes on meanwhile.
#[derive(Debug, Args)]
#[command(after_help = "\
Examples:
  causeway port set web/db-1 --rate-in 200mbit --rate-out 50mbit
  causeway port set web/db-1 --rate-out none             no limit any more
  causeway port set web/router-1 --guard off             it may send with other addresses than its own")]
pub(crate) struct SetArgs {
    /// NETWORK/NAME or VRF/NETWORK/NAME
    #[arg(required = true, value_name = "KEY")]
    keys: Vec<PortKey>,
    #[command(flatten)]
    rate: RateArgs,
    /// Whether it may send only what is its own; "network": as its network says
    #[arg(long, value_enum)]
    guard: Option<GuardWord>,
    /// Whether its node asks for its addresses on the wire before the first use there
    #[arg(long, value_parser = address_check())]
    address_check: Option<i32>,
}

/// What `--guard` takes.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
enum GuardWord {
    On,
    Off,
    Network,
}

pub(crate) async fn run(args: SetArgs, client: &Client, out: crate::output::Output) -> Outcome {
    let rates = args.rate.rate_in.is_some() || args.rate.rate_out.is_some();
    if args.guard.is_none() && args.address_check.is_none() && !rates {
        let failure = Failure::new(Exit::Usage, "nothing to change");
        return Err(failure.hint("give --rate-in, --rate-out, --guard or --address-check"));
    }
    let mut changed = Vec::new();
    for key in &args.keys {
        // The contract takes both limits or none.
        let half = args.rate.rate_in.is_some() != args.rate.rate_out.is_some();
        let before =
            if half { get_one(client, key).await?.rate.unwrap_or_default() } else { Default::default() };
        let guard = match args.guard {
            Some(GuardWord::On) => v1::Guard::On,
            Some(GuardWord::Off) => v1::Guard::Off,
            Some(GuardWord::Network) | None => v1::Guard::Unspecified,
        };
        let request = v1::UpdatePortRequest {
            key: Some(message(key)),
            rate: args.rate.limits(before),
            guard: guard.into(),
            reset_guard: args.guard == Some(GuardWord::Network),
            address_check: args.address_check.unwrap_or_default(),
        };
        let act = format!("change port {key}");
        let answer =
            client.call(&act, async |channel| ports(channel).update_port(request.clone()).await).await?;
        changed.extend(answer.port);
    }
    show_some(changed, out)?;
    Ok(Exit::Ok)
}
