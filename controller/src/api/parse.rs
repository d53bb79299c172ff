//! Requests become domain types here, and nowhere else: each wrong field is told with its path.

use std::collections::BTreeMap;
use std::net::IpAddr;

use causeway_proto::{Mac, Name, NetworkKey, PortKey, v1};

use super::status::Refusal;
use crate::intent::message::words;
use crate::model::{AddressCheck, Guard, RateLimit, WorkloadKind};
use crate::ports::{CreatePort, Place};

/// Bytes of a label's value.
const LABEL_VALUE: usize = 255;
/// Labels of a port.
const LABELS: usize = 64;
/// Addresses of a port.
const ADDRESSES: usize = 64;
/// Bytes of a namespace's path.
const NETNS: usize = 255;
/// Fastest limit in kbit/s: what the kernel's 64-bit rates in bytes hold a thousand times over.
const FASTEST: u64 = 10_000_000_000;
/// Bytes of an interface name: IFNAMSIZ less its end.
const INTERFACE: usize = 15;

/// A text that must be a `T`.
pub(super) fn text<T>(field: &str, text: &str) -> Result<T, Refusal>
where
    T: std::str::FromStr,
    T::Err: std::fmt::Display,
{
    text.parse().map_err(|error: T::Err| Refusal::field(field, error.to_string()))
}

/// The key of a port; `prefix` is its field.
pub(super) fn port_key(prefix: &str, key: Option<v1::PortKey>) -> Result<PortKey, Refusal> {
    let Some(key) = key else { return Err(Refusal::field(prefix, "is required")) };
    let vrf = match key.vrf.as_str() {
        "" => Name::default_vrf(),
        vrf => text(&format!("{prefix}.vrf"), vrf)?,
    };
    let network = text(&format!("{prefix}.network"), &key.network)?;
    let name = text(&format!("{prefix}.name"), &key.name)?;
    Ok(PortKey { network: NetworkKey { vrf, network }, name })
}

/// The key of a port whose network is still to be chosen: any stands in its place.
fn unplaced_key(prefix: &str, key: Option<v1::PortKey>) -> Result<PortKey, Refusal> {
    let Some(key) = key else { return Err(Refusal::field(prefix, "is required")) };
    if !key.network.is_empty() {
        let reason = "makes no sense together with network_labels, which choose it";
        return Err(Refusal::field(format!("{prefix}.network"), reason));
    }
    port_key(prefix, Some(v1::PortKey { network: Name::lowest().to_string(), ..key }))
}

/// A port to create.
pub(super) fn create_port(request: v1::CreatePortRequest) -> Result<CreatePort, Refusal> {
    let select = labels("network_labels", request.network_labels)?;
    let key = match select.is_empty() {
        true => port_key("key", request.key)?,
        false => unplaced_key("key", request.key)?,
    };
    if request.addresses.len() > ADDRESSES {
        return Err(Refusal::field("addresses", format!("are more than {ADDRESSES}")));
    }
    let mut addresses = Vec::with_capacity(request.addresses.len());
    for (i, address) in request.addresses.iter().enumerate() {
        let field = format!("addresses[{i}]");
        let address: IpAddr = address
            .parse()
            .map_err(|_| Refusal::field(&field, format!("'{}' is not an IP address", short(address))))?;
        if addresses.contains(&address) {
            return Err(Refusal::field(field, format!("{address} is given twice")));
        }
        addresses.push(address);
    }
    let mac = match request.mac.as_str() {
        "" => None,
        mac => {
            let mac: Mac = text("mac", mac)?;
            if !mac.is_unicast() {
                return Err(Refusal::field("mac", format!("{mac} is no unicast address")));
            }
            Some(mac)
        }
    };
    let labels = labels("labels", request.labels)?;
    let bind = request.bind.map(|binding| place("bind", binding)).transpose()?;
    let rate = rate("rate", request.rate.unwrap_or_default())?;
    let guard = guard("guard", request.guard)?;
    let address_check = address_check("address_check", request.address_check)?;
    let vip = match v1::PortKind::try_from(request.kind) {
        Ok(kind) => kind == v1::PortKind::Vip,
        Err(_) => return Err(Refusal::field("kind", format!("{} is not known", request.kind))),
    };
    Ok(CreatePort { key, addresses, mac, labels, bind, rate, guard, address_check, select, vip })
}

/// Where a port shall live; `prefix` is the binding's field.
pub(super) fn place(prefix: &str, binding: v1::Binding) -> Result<Place, Refusal> {
    let field = |name: &str| format!("{prefix}.{name}");
    let node = text(&field("node"), &binding.node)?;
    let unknown = |name: &str, number: i32| Refusal::field(field(name), format!("{number} is not known"));
    let kind = words::read_kind(binding.kind).ok_or_else(|| unknown("kind", binding.kind))?;
    let attachment = words::read_attachment(binding.attachment)
        .ok_or_else(|| unknown("attachment", binding.attachment))?;
    let macvlan_mode = words::read_macvlan_mode(binding.macvlan_mode)
        .ok_or_else(|| unknown("macvlan_mode", binding.macvlan_mode))?;
    if kind == WorkloadKind::Container {
        check_netns(&field("netns"), &binding.netns)?;
    }
    let (netns, interface) = (binding.netns, binding.interface);
    let allowed = |b: u8| b.is_ascii_graphic() && b != b'/' && b != b':';
    if interface.len() > INTERFACE || !interface.bytes().all(allowed) || interface == "." || interface == ".."
    {
        let reason =
            format!("'{}' is no interface name (1 to 15 bytes, no '/', ':' or space)", short(&interface));
        return Err(Refusal::field(field("interface"), reason));
    }
    let (adopted, apart, queues, mtu) = (binding.adopted, binding.apart, binding.queues, binding.mtu);
    Ok(Place { node, kind, attachment, macvlan_mode, netns, interface, adopted, apart, queues, mtu })
}

fn check_netns(field: &str, netns: &str) -> Result<(), Refusal> {
    let pid = |text: &str| {
        text.len() <= 10
            && text.bytes().all(|b| b.is_ascii_digit())
            && text.parse::<u32>().is_ok_and(|pid| pid > 0)
    };
    let fine = match netns.strip_prefix("pid:") {
        Some(number) => pid(number),
        None => netns.starts_with('/') && netns.len() <= NETNS && !netns.contains(['\0', '\n']),
    };
    if fine {
        return Ok(());
    }
    let reason = if netns.is_empty() {
        "is required: the workload's network namespace as an absolute path on the node, or pid:NUMBER"
            .to_owned()
    } else {
        format!("'{}' is neither an absolute path nor pid:NUMBER", short(netns))
    };
    Err(Refusal::field(field, reason))
}

/// How fast a port may be.
pub(super) fn rate(field: &str, rate: v1::RateLimit) -> Result<RateLimit, Refusal> {
    for (name, kbit) in [("in_kbit", rate.in_kbit), ("out_kbit", rate.out_kbit)] {
        if kbit > FASTEST {
            return Err(Refusal::field(format!("{field}.{name}"), format!("{kbit} is more than {FASTEST}")));
        }
    }
    Ok(RateLimit { in_kbit: rate.in_kbit, out_kbit: rate.out_kbit })
}

/// Whether a port's addresses are asked for before their first use.
pub(super) fn address_check(field: &str, check: i32) -> Result<Option<AddressCheck>, Refusal> {
    words::read_address_check(check).ok_or_else(|| Refusal::field(field, format!("{check} is not known")))
}

/// Whether a port is guarded.
pub(super) fn guard(field: &str, guard: i32) -> Result<Option<Guard>, Refusal> {
    words::read_guard(guard).ok_or_else(|| Refusal::field(field, format!("{guard} is not known")))
}

/// Labels: keys with the characters of a name.
pub(super) fn labels(
    field: &str,
    labels: BTreeMap<String, String>,
) -> Result<BTreeMap<String, String>, Refusal> {
    if labels.len() > LABELS {
        return Err(Refusal::field(field, format!("are more than {LABELS}")));
    }
    for (key, value) in &labels {
        if let Err(error) = key.parse::<Name>() {
            return Err(Refusal::field(format!("{field}[{}]", short(key)), format!("the key {error}")));
        }
        if value.len() > LABEL_VALUE {
            let reason = format!("the value is longer than {LABEL_VALUE} bytes");
            return Err(Refusal::field(format!("{field}[{key}]"), reason));
        }
    }
    Ok(labels)
}

/// The beginning of a client's text, for an error about it.
pub(super) fn short(text: &str) -> String {
    text.chars().take(80).collect()
}

/// Which ports; every field that is set must match.
#[derive(Debug, Clone, Default)]
pub(super) struct Filter {
    pub(super) vrf: Option<Name>,
    pub(super) network: Option<Name>,
    pub(super) name_prefix: String,
    pub(super) node: Option<Name>,
    pub(super) address: Option<IpAddr>,
    pub(super) labels: BTreeMap<String, String>,
    /// Not asked by `matches`: only a message has a state.
    pub(super) states: Vec<v1::PortState>,
}

/// A filter; absent: all.
pub(super) fn filter(filter: Option<v1::PortFilter>) -> Result<Filter, Refusal> {
    let filter = filter.unwrap_or_default();
    let name = |field: &str, value: &str| match value {
        "" => Ok(None),
        value => text::<Name>(&format!("filter.{field}"), value).map(Some),
    };
    let address = match filter.address.as_str() {
        "" => None,
        address => Some(address.parse().map_err(|_| {
            Refusal::field("filter.address", format!("'{}' is not an IP address", short(address)))
        })?),
    };
    let mut states = Vec::with_capacity(filter.states.len());
    for (i, number) in filter.states.iter().enumerate() {
        match v1::PortState::try_from(*number) {
            Ok(state) if state != v1::PortState::Unspecified => states.push(state),
            _ => return Err(Refusal::field(format!("filter.states[{i}]"), format!("{number} is not known"))),
        }
    }
    Ok(Filter {
        vrf: name("vrf", &filter.vrf)?,
        network: name("network", &filter.network)?,
        name_prefix: filter.name_prefix,
        node: name("node", &filter.node)?,
        address,
        labels: filter.labels,
        states,
    })
}

#[cfg(test)]
mod tests {
    use super::*;
    use tonic::Status;

    fn binding() -> v1::Binding {
        v1::Binding { node: "h1".into(), netns: "/run/netns/a".into(), ..v1::Binding::default() }
    }

    fn request() -> v1::CreatePortRequest {
        let key = v1::PortKey { vrf: String::new(), network: "web".into(), name: "a".into() };
        v1::CreatePortRequest { key: Some(key), ..v1::CreatePortRequest::default() }
    }

    fn message<T: std::fmt::Debug>(result: Result<T, Refusal>) -> String {
        Status::from(result.unwrap_err()).message().to_owned()
    }

    #[test]
    fn defaults_are_filled_in() {
        let port = create_port(v1::CreatePortRequest { bind: Some(binding()), ..request() }).unwrap();
        assert_eq!(port.key.to_string(), "default/web/a");
        let place = port.bind.unwrap();
        assert_eq!((place.kind, place.attachment, place.macvlan_mode), (WorkloadKind::Container, None, None));
    }

    #[test]
    fn each_wrong_field_is_named() {
        let with = |change: fn(&mut v1::CreatePortRequest)| {
            let mut request = request();
            change(&mut request);
            message(create_port(request))
        };
        assert_eq!(with(|r| r.key = None), "key: is required");
        assert!(with(|r| r.key.as_mut().unwrap().network.clear()).starts_with("key.network: is empty"));
        assert!(with(|r| r.key.as_mut().unwrap().vrf = "Red".into()).starts_with("key.vrf: has 'R'"));
        assert!(with(|r| r.key.as_mut().unwrap().name = "a b".into()).starts_with("key.name: has ' '"));
        assert_eq!(
            with(|r| r.addresses = vec!["10.0.0.1/8".into()]),
            "addresses[0]: '10.0.0.1/8' is not an IP address"
        );
        let twice = with(|r| r.addresses = vec!["fd00::1".into(), "fd00:0::1".into()]);
        assert_eq!(twice, "addresses[1]: fd00::1 is given twice");
        assert!(with(|r| r.mac = "01:00:5e:00:00:01".into()).contains("no unicast"));
        assert!(with(|r| r.mac = "nonsense".into()).starts_with("mac: 'nonsense'"));
        assert!(
            with(|r| drop(r.labels.insert("A B".into(), String::new())))
                .starts_with("labels[A B]: the key has")
        );
        assert!(
            with(|r| drop(r.labels.insert("a".into(), "x".repeat(256)))).starts_with("labels[a]: the value")
        );
    }

    #[test]
    fn each_wrong_field_of_a_binding_is_named() {
        let with = |change: fn(&mut v1::Binding)| {
            let mut binding = binding();
            change(&mut binding);
            message(place("bind", binding))
        };
        assert!(with(|b| b.node.clear()).starts_with("bind.node: is empty"));
        assert_eq!(with(|b| b.kind = 99), "bind.kind: 99 is not known");
        assert_eq!(with(|b| b.attachment = -1), "bind.attachment: -1 is not known");
        assert!(with(|b| b.netns.clear()).starts_with("bind.netns: is required"));
        for netns in ["run/a", "pid:", "pid:0", "pid:+1", "pid:x", "pid:99999999999"] {
            let refused = place("b", v1::Binding { netns: netns.into(), ..binding() });
            assert!(message(refused).starts_with("b.netns: '"), "{netns}");
        }
        for interface in ["a/b", "sixteen-bytes-xx", ".", "..", "a b", "a:b", "é"] {
            let refused = place("b", v1::Binding { interface: interface.into(), ..binding() });
            assert!(message(refused).starts_with("b.interface: '"), "{interface}");
        }
    }

    #[test]
    fn filters_are_checked() {
        let with = |filter: v1::PortFilter| message(super::filter(Some(filter)));
        assert!(with(v1::PortFilter { vrf: "A".into(), ..Default::default() }).starts_with("filter.vrf"));
        assert!(
            with(v1::PortFilter { address: "x".into(), ..Default::default() }).starts_with("filter.address")
        );
    }
}
