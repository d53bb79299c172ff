//! Orders, checked once.

use std::net::IpAddr;
use std::time::Duration;

use causeway_proto::{Mac, Vni, v1};

/// Limits and defaults of the contract.
const INTERVAL: (u32, u32) = (100, 60_000);
const LIFETIME: (u32, u32) = (60_000, 3_600_000);
const REPORT: (u32, u32) = (100, 60_000);
const ARP_AFTER: Duration = Duration::from_secs(1);

/// What to probe, and how.
#[derive(Debug, Clone)]
pub(super) struct Order {
    pub(super) id: u64,
    pub(super) vni: Vni,
    pub(super) target: IpAddr,
    pub(super) mac: Mac,
    /// A second one that each frame goes to as well.
    pub(super) other_mac: Option<Mac>,
    pub(super) interval: Duration,
    /// `None`: until it is cancelled.
    pub(super) count: Option<u32>,
    /// `None`: no answer is enough.
    pub(super) enough: Option<u32>,
    pub(super) lifetime: Duration,
    pub(super) method: Method,
    pub(super) report: Duration,
}

/// By which frames.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Method {
    /// Echo only.
    Echo,
    /// ARP only.
    Arp,
    /// Echo where it can be sent, and ARP after a time without an answer; `None`: as usual.
    Both(Option<Duration>),
}

impl Method {
    /// When ARP begins; `None`: never.
    pub(super) fn arp_after(self, has_echo: bool) -> Option<Duration> {
        match self {
            Method::Echo => None,
            Method::Arp => Some(Duration::ZERO),
            Method::Both(Some(after)) => Some(after),
            Method::Both(None) => Some(if has_echo { ARP_AFTER } else { Duration::ZERO }),
        }
    }
}

impl Order {
    /// Reads one; an error names the field.
    pub(super) fn read(order: &v1::ProbeOrder) -> Result<Order, String> {
        let within = |field: &str, value: u32, (default, most): (u32, u32)| match value {
            0 => Ok(Duration::from_millis(default.into())),
            n if n <= most => Ok(Duration::from_millis(n.into())),
            n => Err(format!("{field}: {n} is more than {most} ms")),
        };
        let mac = owner("mac", &order.mac)?;
        let other_mac = match order.other_mac.as_str() {
            "" => None,
            other => Some(owner("other_mac", other)?).filter(|other| *other != mac),
        };
        let target = order.address.parse().map_err(|_| format!("address: '{}' is none", order.address))?;
        let method = match v1::ProbeMethod::try_from(order.method) {
            Ok(v1::ProbeMethod::Echo) => Method::Echo,
            Ok(v1::ProbeMethod::Arp) if order.address.contains(':') => {
                return Err("method: ARP is for IPv4 addresses".into());
            }
            Ok(v1::ProbeMethod::Arp) => Method::Arp,
            Ok(v1::ProbeMethod::Unspecified) => Method::Both(
                (order.arp_after_ms > 0).then(|| Duration::from_millis(order.arp_after_ms.into())),
            ),
            Err(_) => return Err(format!("method: {} is unknown to this agent", order.method)),
        };
        Ok(Order {
            id: order.id,
            vni: Vni::try_from(order.vni).map_err(|error| format!("vni: {} {error}", order.vni))?,
            target,
            mac,
            other_mac,
            interval: within("interval_ms", order.interval_ms, INTERVAL)?,
            count: (order.count > 0).then_some(order.count),
            enough: (order.enough > 0).then_some(order.enough),
            lifetime: within("lifetime_ms", order.lifetime_ms, LIFETIME)?,
            method,
            report: within("report_ms", order.report_ms, REPORT)?,
        })
    }
}

/// A MAC that somebody can have.
fn owner(field: &str, text: &str) -> Result<Mac, String> {
    let mac: Mac = text.parse().map_err(|error| format!("{field}: '{text}' {error}"))?;
    if !mac.is_unicast() {
        return Err(format!("{field}: {mac} is nobody's; a probe goes to one owner"));
    }
    Ok(mac)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn order() -> v1::ProbeOrder {
        v1::ProbeOrder {
            id: 1,
            vni: 100,
            address: "10.8.0.5".into(),
            mac: "02:00:00:00:00:05".into(),
            ..Default::default()
        }
    }

    #[test]
    fn defaults_are_those_of_the_contract() {
        let read = Order::read(&order()).unwrap();
        assert_eq!((read.interval, read.lifetime), (Duration::from_millis(100), Duration::from_secs(60)));
        assert_eq!((read.count, read.enough, read.method), (None, None, Method::Both(None)));
        assert_eq!(read.method.arp_after(true), Some(Duration::from_secs(1)));
        assert_eq!(read.method.arp_after(false), Some(Duration::ZERO));
        assert_eq!(Method::Echo.arp_after(false), None);
    }

    #[test]
    fn bad_orders_name_the_field() {
        let bad = |change: fn(&mut v1::ProbeOrder), field: &str| {
            let mut order = order();
            change(&mut order);
            let error = Order::read(&order).unwrap_err();
            assert!(error.starts_with(field), "{error}");
        };
        bad(|o| o.mac = "ff:ff:ff:ff:ff:ff".into(), "mac");
        bad(|o| o.mac.clear(), "mac");
        bad(|o| o.other_mac = "01:00:5e:00:00:01".into(), "other_mac");
        bad(|o| o.address = "10.8.0".into(), "address");
        bad(|o| o.vni = 0, "vni");
        bad(|o| o.interval_ms = 60_001, "interval_ms");
        bad(|o| o.lifetime_ms = u32::MAX, "lifetime_ms");
        bad(|o| o.method = 9, "method");
        bad(
            |o| {
                o.address = "fd00::1".into();
                o.method = v1::ProbeMethod::Arp.into();
            },
            "method",
        );
    }
}
