//! Who takes part in the lab `tor-offload`.

use anyhow::Result;
use causeway_tests::Lab;
use causeway_tests::fabric::{self, Machine, Parties, Party, Workload};

const fn workload(
    name: &'static str,
    node: &'static str,
    attachment: &'static str,
    network: &'static str,
) -> Workload {
    Workload { name, node, attachment, network, options: "" }
}

/// A link carries macvlans or ipvlans, so host2 has the ones in `web`, the others in `db`.
const WORKLOADS: [Workload; 9] = [
    workload("b1", "host1", "bridge", "red/web"),
    workload("b2", "host1", "bridge", "red/web"),
    workload("b3", "host1", "bridge", "red/db"),
    workload("r1", "host1", "routed", "red/web"),
    workload("vm1", "host1", "tap", "red/web"),
    workload("m1", "host2", "macvlan", "red/web"),
    workload("m2", "host2", "macvlan", "red/web"),
    workload("i1", "host2", "ipvlan", "red/db"),
    workload("i2", "host2", "ipvlan", "red/db"),
];

const MACHINES: [Machine; 2] = [
    Machine {
        name: "bm1",
        network: "red/web",
        switch: "leaf3",
        interface: "eth3",
        mac: "02:00:00:00:00:b1",
        ipv4: "10.10.0.100",
        ipv6: "fd00:10::100",
    },
    Machine {
        name: "bm2",
        network: "red/db",
        switch: "leaf3",
        interface: "eth4",
        mac: "02:00:00:00:00:b2",
        ipv4: "10.20.0.100",
        ipv6: "fd00:20::100",
    },
];

/// Behind the routed port: a type 5 prefix each family.
const CLOUD: (&str, &str) = ("172.31.0.1", "fd31::1");

/// Namespaces on the hosts, other addresses on the machines, ports on the controller; then all are where they belong.
pub(crate) async fn create(lab: &Lab) -> Result<Parties> {
    let mut parties = fabric::create(lab, &WORKLOADS, &MACHINES).await?;
    parties.add(Party::alone("cloud", CLOUD.0, CLOUD.1));
    Ok(parties)
}
