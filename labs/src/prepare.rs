//! From a topology file to what each node's PID 1 is told. Looks at files and images, changes nothing.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};

use causeway_topology::{Bind, Lab, Node, Plan, RoleSource, render, split_command};

use crate::enter::PATH;
use crate::error::{Act, LabError};
use crate::image::{Image, Images, is_frr_like};
use crate::links::LinkPlan;
use crate::probe::{Need, features_of};
use crate::spec::{BindSpec, FileSpec, NodeSpec};
use crate::state::lab_run_dir;

/// A lab, ready to be made.
pub(crate) struct Prepared {
    pub(crate) nodes: Vec<PreparedNode>,
    pub(crate) links: LinkPlan,
    /// Images whose roots are needed, each once.
    pub(crate) images: Vec<Image>,
    pub(crate) warnings: Vec<String>,
    /// What the kernel must have.
    pub(crate) needs: Vec<Need>,
}

/// A node, ready to be made. The layers of its root come when its image is built.
pub(crate) struct PreparedNode {
    pub(crate) name: String,
    pub(crate) long_name: String,
    pub(crate) kind: String,
    pub(crate) group: String,
    /// As the file says it.
    pub(crate) image_name: Option<String>,
    pub(crate) image: Option<Image>,
    pub(crate) spec: NodeSpec,
    /// Shell commands from the derived fabric, before the entry point.
    pub(crate) setup: Option<String>,
    /// Commands of the file, after the entry point.
    pub(crate) exec: Vec<Vec<String>>,
    /// Succeeds when commands of the file may run.
    pub(crate) ready: Vec<String>,
    /// Seconds between the links and the entry point.
    pub(crate) startup_delay: u32,
}

/// What preparation depends on beside the lab.
pub(crate) struct Context<'a> {
    pub(crate) images: &'a Images,
    /// Where our programs are.
    pub(crate) programs: &'a Path,
    /// Whether images that are not defined are replaced.
    pub(crate) stand_in: bool,
}

/// Prepares all nodes that are made here: not the bridges and hosts that are the machine's own.
pub(crate) fn prepare(lab: &Lab, context: &Context<'_>) -> Result<Prepared, LabError> {
    let links = LinkPlan::of(lab)?;
    let plan = causeway_topology::plan(lab);
    let mut prepared = Prepared {
        nodes: Vec::new(),
        warnings: links.warnings.clone(),
        links,
        images: Vec::new(),
        needs: Vec::new(),
    };
    let hosts = hosts_file(lab, plan.as_ref().ok());
    for node in lab.nodes_in_order() {
        if matches!(node.kind.as_str(), "bridge" | "ovs-bridge" | "host") {
            continue;
        }
        refuse_unsupported(node)?;
        let image = choose_image(node, context, &mut prepared.warnings)?;
        let derived = derived_config(lab, &plan, node, image.as_ref())?;
        let mut files = vec![
            file("/etc/hostname", format!("{}\n", node.hostname), 0o644),
            file("/etc/hosts", hosts.clone(), 0o644),
        ];
        files.extend(config_file(node, image.as_ref(), &derived, &mut prepared.warnings)?);
        let interfaces = prepared.links.interfaces.get(&node.name).copied().unwrap_or_default();
        let spec = NodeSpec {
            node: node.name.clone(),
            hostname: node.hostname.clone(),
            layers: vec![PathBuf::from("/")],
            scratch: lab_run_dir(&lab.name).join("nodes").join(node.index.to_string()),
            binds: binds(node, image.as_ref(), context.programs)?,
            files,
            sysctls: sysctls(node),
            env: environment(lab, node, image.as_ref(), interfaces),
            argv: arguments(node, image.as_ref()),
            status: lab_run_dir(&lab.name).join(format!("{}.status", node.index)),
        };
        note_ignored(node, &mut prepared.warnings);
        if let Some(image) = &image
            && !prepared.images.contains(image)
        {
            prepared.images.push(image.clone());
        }
        prepared.nodes.push(PreparedNode {
            name: node.name.clone(),
            long_name: lab.container_name(&node.name),
            kind: node.kind.clone(),
            group: node.group.clone().unwrap_or_default(),
            image_name: node.image.clone(),
            ready: image.as_ref().map(|i| i.ready.clone()).unwrap_or_default(),
            image,
            spec,
            setup: derived.map(|d| d.setup),
            exec: split_all(node)?,
            startup_delay: node.startup_delay,
        });
    }
    for node in &prepared.nodes {
        let needs = needs(node);
        prepared.needs.extend(needs);
    }
    Ok(prepared)
}

/// What a node's commands, derived set-up and scripts that its commands run name.
fn needs(node: &PreparedNode) -> Vec<Need> {
    let need = |reason: String| {
        let name = node.name.clone();
        move |feature| Need { feature, node: name.clone(), reason: reason.clone() }
    };
    let mut needs = Vec::new();
    if let Some(setup) = &node.setup {
        needs.extend(features_of(setup).into_iter().map(need("its derived set-up".to_owned())));
    }
    for argv in &node.exec {
        let command = argv.join(" ");
        needs.extend(features_of(&command).into_iter().map(need(format!("`{command}`"))));
        for bind in
            node.spec.binds.iter().filter(|bind| argv.iter().any(|word| Path::new(word) == bind.target))
        {
            // What is no text is no script.
            let script = fs::read_to_string(&bind.source).unwrap_or_default();
            needs.extend(features_of(&script).into_iter().map(need(bind.source.display().to_string())));
        }
    }
    needs
}

fn file(path: &str, text: String, mode: u32) -> FileSpec {
    FileSpec { path: PathBuf::from(path), text, mode }
}

fn refuse_unsupported(node: &Node) -> Result<(), LabError> {
    let refuse = |what: &str| {
        Err(LabError::Unsupported { subject: format!("node {}", node.name), what: what.to_owned() })
    };
    match node.network_mode.as_deref() {
        None | Some("none") => {}
        Some("host") => {
            return refuse(
                "network-mode host needs containerlab; a link to host:INTERFACE reaches the machine",
            );
        }
        Some(_) => return refuse("network-mode container: is done here for nodes of kind bridge only"),
    }
    match node.kind.as_str() {
        "ext-container" => refuse("kind ext-container needs containerlab: there are no containers here"),
        _ => Ok(()),
    }
}

fn choose_image(
    node: &Node,
    context: &Context<'_>,
    warnings: &mut Vec<String>,
) -> Result<Option<Image>, LabError> {
    let Some(name) = &node.image else { return Ok(None) };
    match context.images.find(name) {
        Ok(image) => Ok(Some(image.clone())),
        Err(_) if context.stand_in && is_frr_like(name) => {
            let image = context.images.find("causeway/frr:8.4")?;
            warnings.push(format!("node {}: causeway/frr:8.4 stands in for {name}", node.name));
            Ok(Some(image.clone()))
        }
        Err(_) if context.stand_in => {
            warnings.push(format!("node {}: the machine's own root stands in for {name}", node.name));
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

/// What a node gets when its file leaves its configuration to us.
struct Derived {
    config: String,
    setup: String,
}

/// The configuration derived from the fabric, for a switch whose file gives none.
fn derived_config(
    lab: &Lab,
    plan: &Result<Plan, Vec<causeway_topology::Diagnostic>>,
    node: &Node,
    image: Option<&Image>,
) -> Result<Option<Derived>, LabError> {
    let Some(target) = image.and_then(|image| image.config.as_deref()) else { return Ok(None) };
    let is_bound = node.binds.iter().any(|bind| target.starts_with(&bind.target));
    let is_switch = node.role.is_switch() && node.role_source != RoleSource::Nothing;
    if !is_switch || is_bound || node.startup_config.is_some() {
        return Ok(None);
    }
    let plan = plan.as_ref().map_err(|problems| LabError::Topology(problems.clone()))?;
    let Some(config) = render::frr(lab, plan, &node.name) else { return Ok(None) };
    Ok(Some(Derived { config, setup: render::setup(lab, plan, &node.name).unwrap_or_default() }))
}

/// `startup-config`, or the derived configuration, in the place where the image looks for it.
fn config_file(
    node: &Node,
    image: Option<&Image>,
    derived: &Option<Derived>,
    warnings: &mut Vec<String>,
) -> Result<Option<FileSpec>, LabError> {
    let target = image.and_then(|image| image.config.clone());
    let text = match (&node.startup_config, &target, derived) {
        (Some(path), Some(_), _) => {
            fs::read_to_string(path).act(|| format!("read the startup-config {}", path.display()))?
        }
        (Some(_), None, _) => {
            warnings.push(format!("node {}: its image has no use for a startup-config: left out", node.name));
            return Ok(None);
        }
        (None, _, Some(derived)) => derived.config.clone(),
        (None, _, None) => return Ok(None),
    };
    Ok(target.map(|path| FileSpec { path, text, mode: 0o640 }))
}

fn binds(node: &Node, image: Option<&Image>, programs: &Path) -> Result<Vec<BindSpec>, LabError> {
    let mut all = Vec::new();
    for name in image.map(|image| image.binaries.as_slice()).unwrap_or_default() {
        let source = programs.join(name);
        if !source.is_file() {
            let what = format!("its image needs {}: cargo build, or set CAUSEWAY_BIN_DIR", source.display());
            return Err(LabError::Node { node: node.name.clone(), what });
        }
        let target = Path::new("/usr/local/bin").join(name);
        all.push(bind(node, &Bind { source, target, read_only: true })?);
    }
    for entry in &node.binds {
        all.push(bind(node, entry)?);
    }
    Ok(all)
}

fn bind(node: &Node, bind: &Bind) -> Result<BindSpec, LabError> {
    // PID 1 sees the machine's root elsewhere: links in the path would lead astray.
    let source = fs::canonicalize(&bind.source).map_err(|error| LabError::Node {
        node: node.name.clone(),
        what: format!("cannot bind {}: {error}", bind.source.display()),
    })?;
    Ok(BindSpec { source, target: bind.target.clone(), read_only: bind.read_only })
}

/// What a container gets from its engine's machine, then what the file says.
fn sysctls(node: &Node) -> BTreeMap<String, String> {
    let defaults = [
        ("net.ipv4.ip_forward", "1"),
        ("net.ipv4.conf.all.rp_filter", "0"),
        ("net.ipv4.conf.default.rp_filter", "0"),
        ("net.ipv6.conf.all.disable_ipv6", "0"),
        ("net.ipv6.conf.default.disable_ipv6", "0"),
    ];
    let mut all: BTreeMap<_, _> = defaults.map(|(k, v)| (k.to_owned(), v.to_owned())).into();
    // A node has no firewall of its own that should see bridged frames; the machine's setting is copied into every
    // new namespace. Kernels without br_netfilter do not have these.
    for name in ["iptables", "ip6tables", "arptables"].map(|table| format!("bridge-nf-call-{table}")) {
        if Path::new("/proc/sys/net/bridge").join(&name).exists() {
            all.insert(format!("net.bridge.{name}"), "0".to_owned());
        }
    }
    all.extend(node.sysctls.clone());
    all
}

fn environment(lab: &Lab, node: &Node, image: Option<&Image>, interfaces: usize) -> BTreeMap<String, String> {
    let long_name = lab.container_name(&node.name);
    let mut env: BTreeMap<String, String> = [
        ("PATH", PATH),
        ("HOME", "/root"),
        ("HOSTNAME", &node.hostname),
        ("CAUSEWAY_NODE", &node.name),
        ("CLAB_INTFS", &interfaces.to_string()),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    let mut labels: BTreeMap<String, String> = [
        ("containerlab", lab.name.as_str()),
        ("clab-node-name", &node.name),
        ("clab-node-longname", &long_name),
        ("clab-node-kind", &node.kind),
        ("clab-node-type", node.node_type.as_deref().unwrap_or_default()),
        ("clab-node-group", node.group.as_deref().unwrap_or_default()),
        ("clab-node-lab-dir", &lab.node_dir(&node.name).to_string_lossy()),
        ("clab-topo-file", &lab.file.to_string_lossy()),
    ]
    .map(|(k, v)| (k.to_owned(), v.to_owned()))
    .into();
    labels.extend(node.labels.clone());
    env.extend(labels.into_iter().map(|(key, value)| (label_variable(&key), value)));
    env.extend(image.map(|image| image.env.clone()).unwrap_or_default());
    env.extend(node.env.clone());
    env
}

/// `clab-node.name` is `CLAB_LABEL_CLAB_NODE_NAME`.
fn label_variable(label: &str) -> String {
    let key: String =
        label.chars().map(|c| if c.is_ascii_alphanumeric() { c.to_ascii_uppercase() } else { '_' }).collect();
    format!("CLAB_LABEL_{key}")
}

/// As with containers: the node's entry point drops the image's arguments too.
fn arguments(node: &Node, image: Option<&Image>) -> Vec<String> {
    let (mut entrypoint, mut cmd) = image.map(|i| (i.entrypoint.clone(), i.cmd.clone())).unwrap_or_default();
    if let Some(own) = &node.entrypoint {
        entrypoint.clone_from(own);
        cmd.clear();
    }
    if let Some(own) = &node.cmd {
        cmd.clone_from(own);
    }
    entrypoint.extend(cmd);
    entrypoint
}

fn split_all(node: &Node) -> Result<Vec<Vec<String>>, LabError> {
    let split = |line: &String| {
        split_command(line).map_err(|error| LabError::Node {
            node: node.name.clone(),
            what: format!("exec {line:?}: {error}"),
        })
    };
    node.exec.iter().map(split).collect()
}

/// Names of all nodes that have an address, the same in every node.
fn hosts_file(lab: &Lab, plan: Option<&Plan>) -> String {
    let mut text = "127.0.0.1\tlocalhost\n::1\tlocalhost ip6-localhost ip6-loopback\n".to_owned();
    for node in lab.nodes_in_order() {
        if let Some(address) =
            plan.and_then(|plan| plan.nodes.get(&node.name)).and_then(|node| node.address())
        {
            text.push_str(&format!("{address}\t{} {}\n", lab.container_name(&node.name), node.name));
        }
    }
    text
}

/// Says what the file asks for and this runner does not do.
fn note_ignored(node: &Node, warnings: &mut Vec<String>) {
    let mut note =
        |what: &str| warnings.push(format!("node {}: {what} is not acted on by this runner", node.name));
    if node.user.is_some() {
        note("user (everything runs as root)");
    }
    if !node.stages.is_empty() {
        note("stages (exec runs after the links, without waiting for other nodes)");
    }
    if node.healthcheck.is_some() {
        note("healthcheck");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn labels_become_variables() {
        assert_eq!(label_variable("clab-node.name"), "CLAB_LABEL_CLAB_NODE_NAME");
    }
}
