//! A lab as its file describes it: nodes and links after inheritance, variables expanded, paths resolved.

use std::collections::BTreeMap;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};

use causeway_proto::Mac;
use ipnetwork::{Ipv4Network, Ipv6Network};

use crate::diagnostic::{Place, Source};
use crate::labels::{LinkLabels, NodeLabels};

/// A topology file that was read and found valid.
#[derive(Debug, Clone)]
pub struct Lab {
    /// Name of the lab, unique among the labs that run.
    pub name: String,
    /// `prefix:` of the file; `None` when it is absent. See [`Lab::container_name`].
    pub prefix: Option<String>,
    /// The topology file.
    pub file: PathBuf,
    /// The folder of the topology file: relative paths start here.
    pub dir: PathBuf,
    /// Nodes by name. [`Node::index`] has the order of the file.
    pub nodes: BTreeMap<String, Node>,
    /// Links in the order of the file.
    pub links: Vec<Link>,
    /// The text, for excerpts in diagnostics of later steps.
    pub(crate) source: Source,
}

/// A node after inheritance (node over group over kind over defaults).
#[derive(Debug, Clone)]
pub struct Node {
    /// Short name, the key in the file.
    pub name: String,
    /// Position in the file, from 0.
    pub index: usize,
    /// Kind in lower case, for example `linux`, `bridge`, `host`. `linux` when the file says none.
    pub kind: String,
    /// Kind-specific type.
    pub node_type: Option<String>,
    /// Group, free text.
    pub group: Option<String>,
    /// Image name as written.
    pub image: Option<String>,
    /// What the node does in the fabric.
    pub role: Role,
    /// Where `role` comes from.
    pub role_source: RoleSource,
    /// All labels, those of Causeway included.
    pub labels: BTreeMap<String, String>,
    /// The `causeway.*` labels, read.
    pub causeway: NodeLabels,
    /// Environment of the node's processes: `env-files`, then `env` over them.
    pub env: BTreeMap<String, String>,
    /// Commands to run after the node's links are there, in order; no shell. [`crate::split_command`] makes them argument
    /// lists and cannot fail on these: they were checked.
    pub exec: Vec<String>,
    /// Files and folders of the machine to show inside the node.
    pub binds: Vec<Bind>,
    /// Configuration to start from, an absolute path. What it means depends on the kind.
    pub startup_config: Option<PathBuf>,
    /// Replaces the image's entry point.
    pub entrypoint: Option<Vec<String>>,
    /// Replaces the image's command, or its arguments.
    pub cmd: Option<Vec<String>>,
    /// Kernel parameters of the node's namespaces, for example `net.ipv4.ip_forward` = `1`.
    pub sysctls: BTreeMap<String, String>,
    /// Host name; the node's name when the file says none.
    pub hostname: String,
    /// Seconds to wait before the node is created.
    pub startup_delay: u32,
    /// User (`name`, `uid`, `uid:gid`) for the node's processes.
    pub user: Option<String>,
    /// `network-mode`: `host`, `none` or `container:NODE`.
    pub network_mode: Option<String>,
    /// What each stage waits for and runs. Acyclic.
    pub stages: BTreeMap<StageName, Stage>,
    /// How to find out whether the node is healthy.
    pub healthcheck: Option<Healthcheck>,
    /// Where the node's name stands in the file.
    pub place: Place,
}

/// A file or folder of the machine shown inside a node.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord)]
pub struct Bind {
    /// Absolute path on the machine.
    pub source: PathBuf,
    /// Absolute path in the node.
    pub target: PathBuf,
    /// True for `:ro`.
    pub read_only: bool,
}

/// What a node does in the fabric.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Role {
    /// A switch that joins leaves; a route reflector unless said otherwise.
    Spine,
    /// A switch with hosts or servers behind it.
    Leaf,
    /// A leaf towards the outside.
    Border,
    /// A machine with workloads that is itself a VTEP: it runs our agent.
    Host,
    /// A machine in an access port of a leaf; it knows nothing of the fabric.
    Server,
    /// A machine that runs our controller.
    Controller,
    /// Anything else, for example an etcd server: it gets addresses but no BGP.
    Other,
}

/// How a node takes part in the overlay.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Mode {
    /// A switch that speaks EVPN itself and learns its hosts' MACs from their frames.
    TorEvpn,
    /// A Linux switch with our agent: FRR has the underlay only.
    TorAgent,
    /// A switch that is configured from rendered text and speaks no EVPN.
    TorStatic,
    /// A host that is itself a VTEP.
    HostVtep,
    /// A host behind a switch: it sends plain or 802.1Q frames.
    Host,
}

impl Mode {
    /// All modes: first those of switches, then those of hosts.
    pub const ALL: [Mode; 5] = [Mode::TorEvpn, Mode::TorAgent, Mode::TorStatic, Mode::HostVtep, Mode::Host];

    /// The word used in `causeway.mode` and in the controller's records.
    pub fn word(self) -> &'static str {
        match self {
            Mode::TorEvpn => "tor-evpn",
            Mode::TorAgent => "tor-agent",
            Mode::TorStatic => "tor-static",
            Mode::HostVtep => "host-vtep",
            Mode::Host => "host",
        }
    }

    /// True for the modes of switches.
    pub fn is_switch(self) -> bool {
        matches!(self, Mode::TorEvpn | Mode::TorAgent | Mode::TorStatic)
    }
}

impl fmt::Display for Mode {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

/// Where a role comes from.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum RoleSource {
    /// The label `causeway.role`.
    Label,
    /// Guessed from the group, which is given.
    Group(String),
    /// Guessed from the node's name.
    Name,
    /// Nothing matched: [`Role::Other`].
    Nothing,
}

/// A link. Its `b` end is another node's interface for [`LinkKind::Veth`] only.
#[derive(Debug, Clone)]
pub struct Link {
    /// What it is.
    pub kind: LinkKind,
    /// The (first) end in a node.
    pub a: Endpoint,
    /// The second end in a node.
    pub b: Option<Endpoint>,
    /// MTU in bytes of every end.
    pub mtu: u32,
    /// All labels, those of Causeway included.
    pub labels: BTreeMap<String, String>,
    /// The `causeway.*` labels, read.
    pub causeway: LinkLabels,
    /// Where the link stands in the file.
    pub place: Place,
}

/// What a link is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum LinkKind {
    /// A veth between two nodes. A node of kind `bridge` or `host` stands for the machine's own network namespace.
    Veth,
    /// A veth whose other end stays on the machine under this name.
    Host {
        /// Name of the interface on the machine.
        interface: String,
    },
    /// A veth into the management network's bridge.
    MgmtNet {
        /// Name of the interface on the machine.
        interface: String,
    },
    /// A macvlan device.
    Macvlan {
        /// Its parent on the machine.
        parent: String,
        /// `bridge`, `vepa`, `private`, `passthru` or `source`.
        mode: String,
    },
    /// A dummy device.
    Dummy,
    /// A VXLAN device.
    Vxlan {
        /// The other tunnel end.
        remote: IpAddr,
        /// VXLAN network identifier.
        vni: u32,
        /// UDP port to send to.
        dst_port: u16,
        /// UDP port to send from; `None`: the kernel's choice.
        src_port: Option<u16>,
        /// True for `vxlan-stitch`: a veth joined to the VXLAN device on the machine.
        stitch: bool,
    },
}

/// One end of a link in a node.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Endpoint {
    /// Name of the node, a key of [`Lab::nodes`].
    pub node: String,
    /// Interface name as written; longer than 15 bytes means: an alternative name of an interface named otherwise.
    pub interface: String,
    /// MAC to give it; `None`: any.
    pub mac: Option<Mac>,
    /// IPv4 address, as data: containerlab does not put it on interfaces of kind `linux`.
    pub ipv4: Option<Ipv4Network>,
    /// IPv6 address, as data.
    pub ipv6: Option<Ipv6Network>,
    /// Where the end stands in the file.
    pub place: Place,
}

/// A stage of a node's life, in this order.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum StageName {
    /// Before and while the node is created.
    Create,
    /// While its links are made.
    CreateLinks,
    /// While it is configured.
    Configure,
    /// It is healthy.
    Healthy,
    /// It has ended.
    Exit,
}

/// One stage of a node.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Stage {
    /// The stage begins when all of these are over.
    pub wait_for: Vec<WaitFor>,
    /// Commands run when the stage begins or ends, in order.
    pub exec: Vec<StageExec>,
}

/// A stage of another node that must be over.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct WaitFor {
    /// The node.
    pub node: String,
    /// Its stage.
    pub stage: StageName,
}

/// A command of a stage.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageExec {
    /// The command, see [`Node::exec`].
    pub command: String,
    /// Where it runs.
    pub target: Target,
    /// When it runs.
    pub phase: Phase,
}

/// Where a stage's command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Target {
    /// In the node.
    Container,
    /// On the machine.
    Host,
}

/// When a stage's command runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Phase {
    /// When the stage begins.
    OnEnter,
    /// When the stage ends.
    OnExit,
}

/// How to find out whether a node is healthy.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Healthcheck {
    /// The command as argument list; exit status 0 means healthy. `CMD` is taken off, `CMD-SHELL x` became
    /// `/bin/sh -c x`.
    pub test: Vec<String>,
    /// Seconds between two tests.
    pub interval: u32,
    /// Seconds one test may take.
    pub timeout: u32,
    /// Failures in a row that make the node unhealthy.
    pub retries: u32,
    /// Seconds after the start in which failures do not count.
    pub start_period: u32,
}

impl Lab {
    /// The name under which a node runs: `clab-LAB-NODE`; with a prefix `P` `P-LAB-NODE`; with the prefix `__lab-name`
    /// `LAB-NODE`; with the empty prefix `NODE`.
    pub fn container_name(&self, node: &str) -> String {
        match self.prefix.as_deref() {
            None => format!("clab-{}-{node}", self.name),
            Some("") => node.to_owned(),
            Some("__lab-name") => format!("{}-{node}", self.name),
            Some(prefix) => format!("{prefix}-{}-{node}", self.name),
        }
    }

    /// `clab-LAB` beside the topology file, whatever the prefix.
    pub fn lab_dir(&self) -> PathBuf {
        self.dir.join(format!("clab-{}", self.name))
    }

    /// The folder of one node below [`Lab::lab_dir`].
    pub fn node_dir(&self, node: &str) -> PathBuf {
        self.lab_dir().join(node)
    }

    /// Nodes in the order of the file.
    pub fn nodes_in_order(&self) -> Vec<&Node> {
        let mut nodes: Vec<_> = self.nodes.values().collect();
        nodes.sort_by_key(|n| n.index);
        nodes
    }

    /// All link ends in `node`, in the order of the file.
    pub fn endpoints_of<'a>(&'a self, node: &'a str) -> impl Iterator<Item = (&'a Link, &'a Endpoint)> + 'a {
        self.links.iter().flat_map(move |link| {
            let ends = [Some(&link.a), link.b.as_ref()];
            ends.into_iter().flatten().filter(move |end| end.node == node).map(move |end| (link, end))
        })
    }

    /// True when a path of the file is inside its folder. Useful to say which files a lab needs.
    pub fn is_own_file(&self, path: &Path) -> bool {
        path.starts_with(&self.dir)
    }
}

impl Link {
    /// The end that is not `end`, when it is in a node.
    pub fn other(&self, end: &Endpoint) -> Option<&Endpoint> {
        if *end == self.a { self.b.as_ref() } else { Some(&self.a) }
    }
}

impl Role {
    /// All roles, in the order in which they are drawn and listed.
    pub const ALL: [Role; 7] =
        [Role::Spine, Role::Leaf, Role::Border, Role::Host, Role::Server, Role::Controller, Role::Other];

    /// The word used in `causeway.role`.
    pub fn word(self) -> &'static str {
        match self {
            Role::Spine => "spine",
            Role::Leaf => "leaf",
            Role::Border => "border",
            Role::Host => "host",
            Role::Server => "server",
            Role::Controller => "controller",
            Role::Other => "other",
        }
    }

    /// True for the switches.
    pub fn is_switch(self) -> bool {
        matches!(self, Role::Spine | Role::Leaf | Role::Border)
    }

    /// True for what speaks BGP.
    pub fn speaks_bgp(self) -> bool {
        self.is_switch() || self == Role::Controller
    }
}

impl fmt::Display for Role {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}

impl StageName {
    /// All stages in their order.
    pub const ALL: [StageName; 5] = [
        StageName::Create,
        StageName::CreateLinks,
        StageName::Configure,
        StageName::Healthy,
        StageName::Exit,
    ];

    /// The word used in the file.
    pub fn word(self) -> &'static str {
        match self {
            StageName::Create => "create",
            StageName::CreateLinks => "create-links",
            StageName::Configure => "configure",
            StageName::Healthy => "healthy",
            StageName::Exit => "exit",
        }
    }
}

impl fmt::Display for StageName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.word())
    }
}
