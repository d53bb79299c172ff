//! The keys a topology file may have, and what becomes of each.

/// What becomes of a key.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Use {
    /// It is acted on.
    Used,
    /// It is accepted and said to be ignored.
    Ignored,
}

use Use::{Ignored, Used};

/// At the top of the file.
pub(crate) const TOP: &[(&str, Use)] = &[
    ("name", Used),
    ("topology", Used),
    ("prefix", Used),
    ("mgmt", Ignored),
    ("settings", Ignored),
    ("debug", Ignored),
];

/// Below `topology`.
pub(crate) const TOPOLOGY: &[(&str, Use)] =
    &[("nodes", Used), ("groups", Used), ("kinds", Used), ("defaults", Used), ("links", Used)];

/// Of a node, group, kind or the defaults.
pub(crate) const NODE: &[(&str, Use)] = &[
    ("kind", Used),
    ("type", Used),
    ("group", Used),
    ("image", Used),
    ("image-pull-policy", Ignored),
    ("restart-policy", Ignored),
    ("license", Ignored),
    ("startup-config", Used),
    ("startup-delay", Used),
    ("enforce-startup-config", Ignored),
    ("suppress-startup-config", Ignored),
    ("auto-remove", Ignored),
    ("exec", Used),
    ("binds", Used),
    ("volumes", Ignored),
    ("ports", Ignored),
    ("env", Used),
    ("env-files", Used),
    ("credentials", Ignored),
    ("user", Used),
    ("hostname", Used),
    ("entrypoint", Used),
    ("cmd", Used),
    ("labels", Used),
    ("runtime", Ignored),
    ("mgmt-ipv4", Ignored),
    ("mgmt-ipv6", Ignored),
    ("network-mode", Used),
    ("link-apply-mode", Ignored),
    ("cpu", Ignored),
    ("cpu-set", Ignored),
    ("memory", Ignored),
    ("shm-size", Ignored),
    ("extras", Ignored),
    ("config", Ignored),
    ("stages", Used),
    ("dns", Ignored),
    ("certificate", Ignored),
    ("healthcheck", Used),
    ("components", Ignored),
    ("aliases", Ignored),
    ("cap-add", Ignored),
    ("privileged", Ignored),
    ("cgroupns-mode", Ignored),
    ("cgroup-parent", Ignored),
    ("pid-mode", Ignored),
    ("tmpfs", Ignored),
    ("security-opts", Ignored),
    ("sysctls", Used),
    ("devices", Ignored),
];

/// Keys of a node that only a node itself may have.
pub(crate) const NODE_ONLY: &[&str] = &["mgmt-ipv4", "mgmt-ipv6"];

/// Of every link.
pub(crate) const LINK: &[(&str, Use)] =
    &[("mtu", Used), ("ipv4", Used), ("ipv6", Used), ("labels", Used), ("vars", Ignored)];

/// Of an end in extended form.
pub(crate) const ENDPOINT: &[(&str, Use)] =
    &[("node", Used), ("interface", Used), ("mac", Used), ("ipv4", Used), ("ipv6", Used), ("vars", Ignored)];

/// Of a typed link: its type, its keys beside [`LINK`], and those of them that must be there.
pub(crate) const TYPED_LINKS: &[(&str, &[&str], &[&str])] = &[
    ("veth", &["endpoints"], &["endpoints"]),
    ("veth-stitch", &["endpoints"], &["endpoints"]),
    ("mgmt-net", &["endpoint", "host-interface"], &["endpoint", "host-interface"]),
    ("host", &["endpoint", "host-interface"], &["endpoint", "host-interface"]),
    ("macvlan", &["endpoint", "host-interface", "mode"], &["endpoint", "host-interface"]),
    (
        "vxlan",
        &["endpoint", "remote", "vni", "dst-port", "src-port"],
        &["endpoint", "remote", "vni", "dst-port"],
    ),
    (
        "vxlan-stitch",
        &["endpoint", "remote", "vni", "dst-port", "src-port"],
        &["endpoint", "remote", "vni", "dst-port"],
    ),
    ("dummy", &["endpoint"], &["endpoint"]),
];

/// Kinds of nodes that this project knows how to run: others are run like `linux`.
pub(crate) const KINDS: &[&str] = &["linux", "bridge", "ovs-bridge", "host", "ext-container"];

/// Keys of one stage.
pub(crate) const STAGE: &[(&str, Use)] = &[("wait-for", Used), ("exec", Used)];

/// Keys of a stage's command.
pub(crate) const STAGE_EXEC: &[(&str, Use)] = &[("command", Used), ("target", Used), ("phase", Used)];

/// Keys of what a stage waits for.
pub(crate) const WAIT_FOR: &[(&str, Use)] = &[("node", Used), ("stage", Used)];

/// Keys of a health check.
pub(crate) const HEALTHCHECK: &[(&str, Use)] =
    &[("test", Used), ("start-period", Used), ("retries", Used), ("interval", Used), ("timeout", Used)];

/// Kinds that containerlab runs and this project does not: the node is run like `linux`, or its configuration is text.
pub(crate) const FOREIGN_KINDS: &[&str] = &[
    "6wind_vsr",
    "arista_ceos",
    "arista_veos",
    "arrcus_arcos",
    "aruba_aoscx",
    "border0",
    "ceos",
    "checkpoint_cloudguard",
    "ciena_saos",
    "cisco_asav",
    "cisco_c8000",
    "cisco_c8000v",
    "cisco_cat9kv",
    "cisco_csr1000v",
    "cisco_ftdv",
    "cisco_iol",
    "cisco_n9kv",
    "cisco_sdwan",
    "cisco_vios",
    "cisco_xrd",
    "cisco_xrd_vrouter",
    "cisco_xrv",
    "cisco_xrv9k",
    "crpd",
    "cumulus_cvx",
    "cvx",
    "dell_ftosv",
    "dell_sonic",
    "f5_bigip-ve",
    "fdio_vpp",
    "fortinet_fortigate",
    "freebsd",
    "generic_vm",
    "huawei_vrp",
    "ipinfusion_ocnos",
    "juniper_crpd",
    "juniper_csrx",
    "juniper_vjunosevolved",
    "juniper_vjunosrouter",
    "juniper_vjunosswitch",
    "juniper_vmx",
    "juniper_vqfx",
    "juniper_vsrx",
    "k8s-kind",
    "keysight_ixia-c-one",
    "linux_vm",
    "mikrotik_ros",
    "nokia_srlinux",
    "nokia_sros",
    "nokia_srsim",
    "nvidia_cumulusvx",
    "openbsd",
    "openwrt",
    "paloalto_panos",
    "plvision_sonic",
    "rare",
    "sonic-vm",
    "sonic-vs",
    "spirent_stc",
    "srl",
    "veesix_osvbng",
    "vyosnetworks_vyos",
    "xrd",
];
