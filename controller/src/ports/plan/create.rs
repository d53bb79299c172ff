//! Creating a port, finding it again, or taking a released one back.

use std::collections::{BTreeMap, BTreeSet};
use std::net::IpAddr;

use causeway_proto::{Mac, Name, PortKey, Prefix, Revision};

use super::{
    Context, Effect, Part, Plan, Planned, Refusal, as_seen, claim_path, network_record, place,
    quarantine_ends_ms,
};
use crate::alloc;
use crate::keys::{self, RecordKey};
use crate::model::{Port, Subnet};
use crate::ports::overlay::View;
use crate::ports::{CreatePort, PortError};
use crate::store::Compare;

/// Addresses of one port at most.
const MOST_ADDRESSES: usize = 16;
/// Labels of one record at most.
const MOST_LABELS: usize = 64;
/// Bytes in a label's value at most.
const LONGEST_LABEL: usize = 255;
/// Addresses that are passed over at most because their MAC is taken.
const MAC_SKIPS: u32 = 1_000;

pub(super) fn plan(view: &View<'_>, create: &CreatePort, context: Context<'_>) -> Result<Plan, Refusal> {
    check(create)?;
    match view.port(&create.key) {
        Some(old) => find(view, create, old, context),
        None => make(view, create, context),
    }
}

fn field(field: impl Into<String>, reason: impl Into<String>) -> PortError {
    PortError::Field { field: field.into(), reason: reason.into() }
}

/// What can be said without the store.
pub(super) fn check(create: &CreatePort) -> Result<(), PortError> {
    if create.addresses.len() > MOST_ADDRESSES {
        return Err(field("addresses", format!("has more than {MOST_ADDRESSES} addresses")));
    }
    let mut seen = BTreeSet::new();
    for (i, address) in create.addresses.iter().enumerate() {
        if !seen.insert(address) {
            return Err(field(format!("addresses[{i}]"), format!("{address} is there twice")));
        }
    }
    if let Some(mac) = create.mac.filter(|mac| !mac.is_unicast()) {
        return Err(field("mac", format!("{mac} is not a unicast address")));
    }
    check_labels(&create.labels).map_err(|reason| field("labels", reason))?;
    check_labels(&create.select).map_err(|reason| field("network_labels", reason))?;
    if !create.select.is_empty() && !create.addresses.is_empty() {
        return Err(field(
            "addresses",
            "makes no sense with network_labels: name the network of the addresses",
        ));
    }
    match &create.bind {
        Some(_) if create.vip => {
            Err(field("bind", "makes no sense for a VIP, which lives where its holder lives"))
        }
        Some(place) => place::check(place, "bind"),
        None => Ok(()),
    }
}

/// Keys have the characters of a name, values at most 255 bytes.
pub fn check_labels(labels: &BTreeMap<String, String>) -> Result<(), String> {
    if labels.len() > MOST_LABELS {
        return Err(format!("has more than {MOST_LABELS} labels"));
    }
    for (key, value) in labels {
        if let Err(error) = key.parse::<Name>() {
            let short: String = key.chars().take(70).collect();
            return Err(format!("key '{short}' {error}"));
        }
        if value.len() > LONGEST_LABEL {
            return Err(format!("value of '{key}' is longer than {LONGEST_LABEL} bytes"));
        }
    }
    Ok(())
}

/// The port exists: it must be as asked for. A released one comes back with what it had.
fn find(
    view: &View<'_>,
    create: &CreatePort,
    old: (&Port, Revision),
    context: Context<'_>,
) -> Result<Plan, Refusal> {
    let (port, at) = old;
    let key = &create.key;
    differs(create, port).map_err(|error| Refusal::seen(error, &RecordKey::Port(key.clone()), Some(at)))?;
    let revive = port.released_ms.is_some();
    let mut planned = Planned::new(key);
    planned.effect.created = revive;
    planned.effect.binding = view.binding_part(key);
    planned.effect.port = Some(Part { value: port.clone(), revision: Some(at) });
    if revive {
        planned.compares.push(Compare::Unchanged(RecordKey::Port(key.clone()).path(), at));
        let labels = if create.labels.is_empty() { port.labels.clone() } else { create.labels.clone() };
        let rate = if create.rate.is_none() { port.rate } else { create.rate };
        let guard = create.guard.or(port.guard);
        let address_check = create.address_check.or(port.address_check);
        let back = Port {
            released_ms: None,
            quarantined_ms: None,
            labels,
            rate,
            guard,
            address_check,
            duplicate: None,
            ..port.clone()
        };
        planned.put_port(back)?;
    }
    if let Some(place) = &create.bind {
        place::add(view, &mut planned, port, place, None, at, context)?;
    }
    Ok(done_or_write(planned))
}

pub(super) fn done_or_write(planned: Planned) -> Plan {
    if planned.writes.is_empty() {
        Plan::Done(Box::new(planned.effect))
    } else {
        Plan::Write(Box::new(planned))
    }
}

fn differs(create: &CreatePort, port: &Port) -> Result<(), PortError> {
    let taken = |subject: String| {
        Err(PortError::Taken {
            subject,
            owner: format!("port {}", port.key),
            hint: format!(
                "it {} with {} and MAC {}; ask for these or for none, or give it up: causeway port release --forget {}{}",
                if port.quarantined_ms.is_some() { "is in quarantine" } else { "exists" },
                list(&port.addresses),
                port.mac,
                if port.released_ms.is_some() { "--no-quarantine " } else { "" },
                port.key
            ),
        })
    };
    let wanted: BTreeSet<_> = create.addresses.iter().collect();
    if !wanted.is_empty() && wanted != port.addresses.iter().collect() {
        return taken(format!(
            "name {} with other addresses than {}",
            port.key.name,
            list(&create.addresses)
        ));
    }
    if let Some(mac) = create.mac.filter(|mac| *mac != port.mac) {
        return taken(format!("name {} with another MAC than {mac}", port.key.name));
    }
    if create.vip != port.vip.is_some() {
        let what = |vip| if vip { "a VIP" } else { "a workload's port" };
        let (is, wanted) = (what(port.vip.is_some()), what(create.vip));
        return taken(format!("name {}, which is {is}, as {wanted}", port.key.name));
    }
    // A released port comes back with new labels, as somebody new may ask for it.
    if port.released_ms.is_none() && !create.labels.is_empty() && create.labels != port.labels {
        return taken(format!("name {} with other labels", port.key.name));
    }
    Ok(())
}

fn list(addresses: &[IpAddr]) -> String {
    addresses.iter().map(ToString::to_string).collect::<Vec<_>>().join(", ")
}

fn make(view: &View<'_>, create: &CreatePort, context: Context<'_>) -> Result<Plan, Refusal> {
    let key = &create.key;
    let network = network_record(&key.network);
    let Some(seen) = view.snapshot.networks.get(&key.network) else {
        return Err(Refusal::missing(PortError::NoNetwork(key.network.clone()), &network));
    };
    let mut chosen = if create.addresses.is_empty() {
        any(view, create, context.seed)?
    } else {
        given(view, create, context.now_ms)?
    };
    chosen.sort_by_key(|(address, _)| !address.is_ipv4());
    let (mac, mac_collisions) = match create.mac {
        Some(mac) => (mac, 0),
        None => derived(view, key, chosen.first().map(|(address, _)| *address))?,
    };
    free_mac(view, key, mac, context.now_ms)?;
    let mut planned = Planned::new(key);
    planned.effect.created = true;
    planned.shared.push(as_seen(&network, Some(seen.revision)));
    planned.compares.push(Compare::Absent(RecordKey::Port(key.clone()).path()));
    for (address, subnet) in &chosen {
        // A new gateway or exclusion must not come between.
        let record = RecordKey::Subnet(key.network.clone(), *subnet);
        let same = as_seen(&record, view.snapshot.revision_of(&record));
        if !planned.shared.contains(&same) {
            planned.shared.push(same);
        }
        planned.claim(claim_path(&key.network.vrf, *subnet, *address), key);
    }
    planned.claim(keys::mac(&key.network, mac), key);
    if !create.select.is_empty() {
        planned.claim(keys::selected(&key.network.vrf, &key.name), key);
    }
    let port = Port {
        key: key.clone(),
        addresses: chosen.into_iter().map(|(address, _)| address).collect(),
        mac,
        spare_mac: None,
        mac_collisions,
        labels: create.labels.clone(),
        created_ms: context.now_ms,
        changed_ms: 0,
        released_ms: None,
        quarantined_ms: None,
        rate: create.rate,
        guard: create.guard,
        address_check: create.address_check,
        duplicate: None,
        select: create.select.clone(),
        vip: create.vip.then(Box::default),
        held: Vec::new(),
    };
    planned.put_port(port.clone())?;
    if let Some(place) = &create.bind {
        place::add_new(view, &mut planned, &port, place, context.heard)?;
    }
    Ok(Plan::Write(Box::new(planned)))
}

/// The addresses asked for, each with its subnet.
fn given(view: &View<'_>, create: &CreatePort, now_ms: i64) -> Result<Vec<(IpAddr, Prefix)>, Refusal> {
    let network = &create.key.network;
    let mut chosen = Vec::with_capacity(create.addresses.len());
    for (i, &address) in create.addresses.iter().enumerate() {
        let wrong = |reason: String| field(format!("addresses[{i}]"), reason);
        let subnet = view.snapshot.subnet_at(&network.vrf, address).map(|record| &record.value);
        let subnet: &Subnet = match subnet {
            Some(subnet) if subnet.network == *network => subnet,
            Some(other) => {
                let reason = format!("{address} is in subnet {} of network {}", other.prefix, other.network);
                return Err(wrong(reason).into());
            }
            None => {
                let prefixes: Vec<String> =
                    view.snapshot.subnets_of(network).map(|s| s.value.prefix.to_string()).collect();
                let known = if prefixes.is_empty() { "none".to_owned() } else { prefixes.join(", ") };
                let reason = format!("{address} is in no subnet of network {network} (its subnets: {known})");
                return Err(wrong(reason).into());
            }
        };
        if let Some(reason) = alloc::refusal(subnet, address) {
            return Err(wrong(format!("{address} {reason} {}", subnet.prefix)).into());
        }
        if let Some((owner, at)) = view.address_owner(&network.vrf, address) {
            let hint = format!("ask for another address, or see who has it: causeway describe port {owner}");
            let error = taken(view, format!("address {address}"), owner, hint, now_ms);
            return Err(Refusal::seen(error, &RecordKey::Port(owner.clone()), at));
        }
        chosen.push((address, subnet.prefix));
    }
    Ok(chosen)
}

/// One address of each family that the network has.
fn any(view: &View<'_>, create: &CreatePort, seed: Option<u64>) -> Result<Vec<(IpAddr, Prefix)>, Refusal> {
    let network = &create.key.network;
    let mut chosen: Vec<(IpAddr, Prefix)> = Vec::with_capacity(2);
    let mut families = Vec::with_capacity(2);
    for ipv4 in [true, false] {
        let subnets: Vec<Prefix> = view
            .snapshot
            .subnets_of(network)
            .map(|s| s.value.prefix)
            .filter(|prefix| prefix.is_ipv4() == ipv4)
            .collect();
        if subnets.is_empty() {
            continue;
        }
        families.push(ipv4);
        // The MAC follows from the first address, unless it is given: an address whose MAC an adopted one has is of
        // no use.
        let first = chosen.is_empty() && create.mac.is_none();
        let usable = |address: IpAddr| {
            !first || !address.is_ipv4() || view.mac_owner(network, Mac::from_ip(address, 0)).is_none()
        };
        let found = subnets
            .iter()
            .find_map(|&prefix| search(view, &network.vrf, prefix, seed, usable).map(|a| (a, prefix)));
        match found {
            Some(found) => chosen.push(found),
            None => return Err(exhausted(view, &create.key, subnets).into()),
        }
    }
    if families.is_empty() {
        let error = PortError::Precondition {
            subject: format!("network {network}"),
            reason: "has no subnet to take an address from".to_owned(),
            owner: String::new(),
            hint: "declare a subnet: causeway apply -f FILE".to_owned(),
        };
        return Err(error.into());
    }
    Ok(chosen)
}

fn search(
    view: &View<'_>,
    vrf: &Name,
    prefix: Prefix,
    seed: Option<u64>,
    usable: impl Fn(IpAddr) -> bool,
) -> Option<IpAddr> {
    let taken = view.snapshot.taken.get(&(vrf.clone(), prefix))?;
    let reserved = view.reserved(vrf, prefix);
    let mut runs = vec![taken.runs()];
    runs.extend(reserved);
    let first = alloc::choose(taken.choosable(), &runs, seed)?;
    let first_address = alloc::address(first, prefix.is_ipv4())?;
    if usable(first_address) {
        return Some(first_address);
    }
    // Seldom: on from there, past unusable ones.
    let mut passed = crate::snapshot::Runs::default();
    passed.insert(first);
    for _ in 0..MAC_SKIPS {
        let mut with = runs.clone();
        with.push(&passed);
        let next = alloc::choose(taken.choosable(), &with, seed)?;
        let address = alloc::address(next, prefix.is_ipv4())?;
        if usable(address) {
            return Some(address);
        }
        passed.insert(next);
    }
    None
}

fn exhausted(view: &View<'_>, key: &PortKey, subnets: Vec<Prefix>) -> PortError {
    let pool = |prefix: &Prefix| view.snapshot.taken.get(&(key.network.vrf.clone(), *prefix));
    let sum = |of: fn(&crate::snapshot::Taken) -> u64| {
        subnets.iter().filter_map(pool).fold(0u64, |sum, taken| sum.saturating_add(of(taken)))
    };
    let size = sum(|taken| alloc::size(taken.choosable()));
    let released = sum(crate::snapshot::Taken::released);
    PortError::Exhausted { network: key.network.clone(), subnets, size, released }
}

/// The MAC that follows from an address, and how many others were taken before it.
pub(super) fn derived(view: &View<'_>, key: &PortKey, first: Option<IpAddr>) -> Result<(Mac, u32), Refusal> {
    let Some(address) = first else {
        return Err(PortError::Internal(format!("port {key} was given no address")).into());
    };
    let taken = |mac| view.mac_owner(&key.network, mac).is_some_and(|(owner, _)| owner != key);
    // If it is taken, the caller says by whom.
    Ok(alloc::derive_mac(address, taken).unwrap_or((Mac::from_ip(address, 0), 0)))
}

/// Somebody has it, or had it until a moment ago.
fn taken(view: &View<'_>, subject: String, owner: &PortKey, hint: String, now_ms: i64) -> PortError {
    let network = view.snapshot.networks.get(&owner.network).map(|record| &record.value);
    match view.port(owner).and_then(|(port, _)| quarantine_ends_ms(port, network)) {
        None => PortError::Taken { subject, owner: format!("port {owner}"), hint },
        Some(end) => {
            let seconds = end.saturating_sub(now_ms).max(0).saturating_add(999) / 1000;
            PortError::Taken {
                subject,
                owner: format!(
                    "port {owner}, which gave it up and has it in quarantine for another {seconds} s"
                ),
                hint: format!(
                    "wait so long or ask for another one; if certainly nobody uses it any more: causeway port release --forget --no-quarantine {owner}"
                ),
            }
        }
    }
}

/// Refuses a MAC that another port has.
pub(super) fn free_mac(view: &View<'_>, key: &PortKey, mac: Mac, now_ms: i64) -> Result<(), Refusal> {
    let owner = view.mac_owner(&key.network, mac).filter(|(owner, _)| *owner != key);
    let Some((owner, at)) = owner else { return Ok(()) };
    let subject = format!("MAC {mac} in network {}", key.network);
    let error = taken(view, subject, owner, "ask for another MAC".to_owned(), now_ms);
    Err(Refusal::seen(error, &RecordKey::Port(owner.clone()), at))
}

/// What is as it was, for an answer.
pub(super) fn unchanged(view: &View<'_>, key: &PortKey, port: &Port, at: Revision) -> Plan {
    Plan::Done(Box::new(Effect {
        key: key.clone(),
        port: Some(Part { value: port.clone(), revision: Some(at) }),
        binding: view.binding_part(key),
        created: false,
    }))
}

/// The compare that a port is as it was seen.
pub(super) fn port_as_seen(key: &PortKey, at: Revision) -> Compare {
    as_seen(&RecordKey::Port(key.clone()), Some(at))
}
