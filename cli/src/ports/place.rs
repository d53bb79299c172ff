//! Where a port shall live and how, as `port create` and `port bind` ask for it, and how fast and guarded it is.

use causeway_proto::v1;
use clap::Args;
use clap::builder::TypedValueParser;

use crate::words::{self, parser};

/// How a port hangs on its node.
#[derive(Debug, Args)]
#[command(next_help_heading = "Attachment")]
pub(crate) struct AttachArgs {
    /// Name of the interface inside, or of the tap on the node [default: eth0; a tap's is derived from the key]
    #[arg(long)]
    interface: Option<String>,
    /// What kind of workload it is [default: container]
    #[arg(long, value_parser = parser(words::WORKLOADS))]
    workload: Option<i32>,
    /// How it is attached [default: by node and workload: vxlan-bridge, bridge or tap]
    #[arg(long, value_parser = parser(words::ATTACHMENTS))]
    attachment: Option<i32>,
    /// How macvlans on one parent reach each other [default: bridge]
    #[arg(long, value_parser = parser(words::MACVLAN_MODES))]
    macvlan_mode: Option<i32>,
    /// Of a tap that the agent makes: pairs of queues; the VM must open as many [default: 1]
    #[arg(long, value_name = "N", value_parser = clap::value_parser!(u32).range(1..=256))]
    queues: Option<u32>,
    /// MTU in bytes, at most what the network and the node's links carry [default: that]
    #[arg(long, value_name = "BYTES", value_parser = clap::value_parser!(u32).range(68..=9216))]
    mtu: Option<u32>,
}

impl AttachArgs {
    /// The binding asked for.
    pub(crate) fn binding(&self, node: String, netns: String) -> v1::Binding {
        v1::Binding {
            node,
            kind: self.workload.unwrap_or_default(),
            attachment: self.attachment.unwrap_or_default(),
            netns,
            interface: self.interface.clone().unwrap_or_default(),
            generation: 0,
            macvlan_mode: self.macvlan_mode.unwrap_or_default(),
            adopted: false,
            apart: false,
            queues: self.queues.unwrap_or_default(),
            mtu: self.mtu.unwrap_or_default(),
        }
    }
}

/// How fast a port may be.
#[derive(Debug, Args)]
#[command(next_help_heading = "Limits")]
pub(crate) struct RateArgs {
    /// How fast it may receive: 500kbit, 100mbit, 2.5gbit, or none
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate_in: Option<u64>,
    /// How fast it may send
    #[arg(long, value_name = "RATE", value_parser = rate)]
    pub(crate) rate_out: Option<u64>,
}

impl RateArgs {
    /// The limits; one that is not given is as in `before`. `None` if neither is given.
    pub(crate) fn limits(&self, before: v1::RateLimit) -> Option<v1::RateLimit> {
        if self.rate_in.is_none() && self.rate_out.is_none() {
            return None;
        }
        Some(v1::RateLimit {
            in_kbit: self.rate_in.unwrap_or(before.in_kbit),
            out_kbit: self.rate_out.unwrap_or(before.out_kbit),
        })
    }
}

/// Address check of a new port: "on" or "off".
pub(crate) fn address_check() -> impl TypedValueParser<Value = i32> {
    parser(words::ADDRESS_CHECKS)
}

/// Guard of a new port: "on" or "off".
pub(crate) fn guard() -> impl TypedValueParser<Value = i32> {
    parser(words::GUARDS)
}

/// A rate in kbit/s; "none" is 0, which is no limit.
fn rate(text: &str) -> Result<u64, String> {
    let wrong = || format!("'{text}' is no rate: write a number and kbit, mbit or gbit, or none");
    if text == "none" {
        return Ok(0);
    }
    let lower = text.to_ascii_lowercase();
    let units = [("kbit", 1_u64), ("mbit", 1_000), ("gbit", 1_000_000)];
    let (number, unit) = units
        .iter()
        .find_map(|(word, unit)| lower.strip_suffix(word).map(|number| (number, *unit)))
        .ok_or_else(wrong)?;
    let (whole, part) = number.split_once('.').unwrap_or((number, ""));
    if part.len() > 6 || !number.bytes().all(|b| b.is_ascii_digit() || b == b'.') {
        return Err(wrong());
    }
    let whole: u64 = whole.parse().map_err(|_| wrong())?;
    // Six digits are as fine as kbit/s get.
    let millionths: u64 = format!("{part:0<6}").parse().map_err(|_| wrong())?;
    let kbit = whole
        .checked_mul(unit)
        .and_then(|kbit| kbit.checked_add(millionths * unit / 1_000_000))
        .ok_or_else(|| format!("'{text}' is too fast"))?;
    if kbit == 0 { Err(format!("'{text}' is less than 1kbit; for no limit write none")) } else { Ok(kbit) }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn rates_are_read() {
        for (text, kbit) in [("none", 0), ("500kbit", 500), ("100Mbit", 100_000), ("2.5gbit", 2_500_000)] {
            assert_eq!(rate(text), Ok(kbit), "{text}");
        }
        for text in [
            "",
            "100",
            "kbit",
            "0kbit",
            "0.1kbit",
            "-1mbit",
            "1.2.3mbit",
            "99999999999999999999gbit",
            "1e3mbit",
        ] {
            assert!(rate(text).is_err(), "{text}");
        }
    }
}
