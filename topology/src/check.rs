//! What is wrong with a lab's fabric: the checks behind `causeway topology check`.
//!
//! ```text
//! file ── load ──> Lab ── plan ──> Plan ──┬── addresses, AS numbers, cabling, MTU
//!                                         ├── BGP: who learns which routes, configurations against the plan
//!                                         └── overlay: loops, single points of failure
//! ```
//!
//! Everything but [`file()`] is pure. A finding has a rule ([`RULES`]), a place, what is wrong and what to do.

mod addresses;
mod autonomous;
mod bgp;
mod cabling;
mod config;
mod mtu;
mod multihoming;
mod net;
mod overlay;
mod points;

use std::collections::{BTreeMap, BTreeSet};
use std::path::Path;

use crate::diagnostic::{Diagnostic, Place, Severity};
use crate::lab::{Lab, Node};
use crate::plan::{Plan, plan};
use crate::read::{LoadOptions, Loaded, load};

/// What a rule looks for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct RuleDoc {
    /// The rule's id, as in `error[subnet-overlap]`.
    pub id: &'static str,
    /// What it finds.
    pub text: &'static str,
}

const fn rule(id: &'static str, text: &'static str) -> RuleDoc {
    RuleDoc { id, text }
}

/// Every rule, in alphabetical order.
pub const RULES: &[RuleDoc] = &[
    rule(
        "address-differs",
        "A node's exec gives an underlay interface another address than the fabric has for it.",
    ),
    rule("address-duplicate", "Two nodes of one network have the same address."),
    rule(
        "address-unusable",
        "An address that no interface can have: multicast, network or broadcast address.",
    ),
    rule("as-not-private", "An AS number outside of the private ranges (RFC 6996)."),
    rule("as-reserved", "An AS number that no router may use (RFC 7607, 6793, 7300)."),
    rule("bgp-as-mismatch", "A configuration expects another AS number than the neighbour has."),
    rule("bgp-peer-missing", "A configuration has a neighbour that doesn't have it."),
    rule("bgp-peer-unknown", "A configuration has a neighbour whose address nobody in the file has."),
    rule("config-differs", "A node's frr.conf contradicts what the file says: AS number, router id."),
    rule("fabric", "The fabric cannot be derived from the file."),
    rule("file", "The file itself: its form, its keys, its values."),
    rule(
        "graceful-restart",
        "A route reflector with graceful restart of its own holds back routes after it restarts.",
    ),
    rule("l2-loop", "Access links close a circle: frames go round for ever."),
    rule("leaf-no-spine", "A leaf that no link joins to the fabric."),
    rule("mtu-access", "A link to a host or server whose MTU does not fit the networks on it."),
    rule("mtu-ipv6", "An MTU below 1280 on a link that carries IPv6 (RFC 8200, section 5)."),
    rule("mtu-underlay", "An underlay link too small for a network's frames with VXLAN around them."),
    rule("mtu-uneven", "Links between switches with different MTUs: what fits depends on the path."),
    rule(
        "multihoming",
        "A machine in one network by two leaves without causeway.esi or causeway.anycast-vtep.",
    ),
    rule("next-hop", "A tunnel end to which another switch has no route."),
    rule("node-alone", "A node that no link joins to anything."),
    rule("parts", "The lab is in several parts without a link between them."),
    rule("pool-overlap", "The pools that addresses come from overlap."),
    rule("routes-lost", "EVPN routes of one node never reach another."),
    rule("server-no-switch", "A server in no access port of a switch."),
    rule("single-controller", "One controller only."),
    rule("single-homed", "Hosts and servers that hang on one switch."),
    rule("single-point", "A switch without which parts of the fabric are cut off."),
    rule("single-reflector", "One route reflector only."),
    rule("single-uplink", "A leaf with one link to the fabric."),
    rule("subnet-differs", "Servers of one network have addresses of different subnets."),
    rule("subnet-overlap", "Two links, or a link and a loopback, have overlapping prefixes."),
    rule("table-size", "More entries than a leaf's hardware table has, or nearly so (with --profile)."),
];

/// The result of checking a file.
#[derive(Debug, Clone)]
pub struct Report {
    /// The lab, when the file could be read.
    pub lab: Option<Lab>,
    /// Its fabric, when it could be derived.
    pub plan: Option<Plan>,
    /// All that was found, in the order of the file within each severity, the worst first.
    pub findings: Vec<Diagnostic>,
}

impl Report {
    /// How many findings there are of a severity.
    pub fn count(&self, severity: Severity) -> usize {
        self.findings.iter().filter(|d| d.severity == severity).count()
    }

    /// Takes up what else was found in the same file.
    pub fn add(&mut self, findings: Vec<Diagnostic>) {
        self.findings.extend(findings);
        self.sort();
    }

    fn sort(&mut self) {
        self.findings.sort_by(|a, b| {
            (a.severity, a.line, a.column, a.rule).cmp(&(b.severity, b.line, b.column, b.rule))
        });
    }
}

/// The checks at work.
struct Check<'a> {
    lab: &'a Lab,
    plan: &'a Plan,
    findings: Vec<Diagnostic>,
}

impl Check<'_> {
    fn say(
        &mut self,
        severity: Severity,
        rule: &'static str,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        debug_assert!(RULES.iter().any(|r| r.id == rule), "{rule} is not in RULES");
        let mut found = self.lab.source.diagnostic(severity, place, message);
        (found.rule, found.help) = (rule, help.into());
        self.findings.push(found);
    }

    fn error(
        &mut self,
        rule: &'static str,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.say(Severity::Error, rule, place, message, help);
    }

    fn warn(
        &mut self,
        rule: &'static str,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.say(Severity::Warning, rule, place, message, help);
    }

    fn note(
        &mut self,
        rule: &'static str,
        place: Place,
        message: impl Into<String>,
        help: impl Into<String>,
    ) {
        self.say(Severity::Note, rule, place, message, help);
    }

    fn node(&self, name: &str) -> Option<&Node> {
        self.lab.nodes.get(name)
    }
}

/// Reads and checks a topology file, and the FRR configurations that it puts into its nodes.
pub fn file(path: &Path, options: &LoadOptions) -> Report {
    match load(path, options) {
        Ok(loaded) => {
            let configs = if options.check_files { configs(&loaded.lab) } else { BTreeMap::new() };
            lab(loaded, &configs)
        }
        Err(findings) => sorted(Report { lab: None, plan: None, findings }),
    }
}

/// Checks a lab that was read. `configs`: FRR configurations by node, where they are known.
pub fn lab(loaded: Loaded, configs: &BTreeMap<String, String>) -> Report {
    let Loaded { lab, warnings } = loaded;
    let mut findings = warnings;
    let plan = match plan(&lab) {
        Ok(plan) => {
            findings.extend(planned(&lab, &plan, configs));
            Some(plan)
        }
        Err(errors) => {
            findings.extend(errors.into_iter().map(|mut d| {
                d.rule = "fabric";
                d
            }));
            None
        }
    };
    sorted(Report { lab: Some(lab), plan, findings })
}

fn planned(lab: &Lab, plan: &Plan, configs: &BTreeMap<String, String>) -> Vec<Diagnostic> {
    let mut check = Check { lab, plan, findings: Vec::new() };
    addresses::check(&mut check);
    autonomous::check(&mut check);
    cabling::check(&mut check);
    mtu::check(&mut check);
    bgp::check(&mut check);
    config::check(&mut check, configs);
    overlay::check(&mut check);
    multihoming::check(&mut check);
    points::check(&mut check);
    check.findings
}

fn sorted(mut report: Report) -> Report {
    for found in report.findings.iter_mut().filter(|d| d.rule.is_empty()) {
        found.rule = "file";
    }
    report.sort();
    let mut seen = BTreeSet::new();
    report.findings.retain(|d| seen.insert((d.line, d.column, d.message.clone())));
    report
}

/// The files that become `/etc/frr/frr.conf` in the lab's nodes. What cannot be read is left out: that a bind's source is
/// missing was said before.
fn configs(lab: &Lab) -> BTreeMap<String, String> {
    /// Larger than any configuration of a switch.
    const LIMIT: u64 = 4 << 20;
    let of = |node: &Node| {
        let bind = node.binds.iter().find(|b| b.target == Path::new("/etc/frr/frr.conf"))?;
        let size = std::fs::metadata(&bind.source).ok().filter(|m| m.is_file())?.len();
        (size <= LIMIT).then(|| std::fs::read_to_string(&bind.source).ok()).flatten()
    };
    lab.nodes.values().filter_map(|n| Some((n.name.clone(), of(n)?))).collect()
}

/// "a, b and c", or with a number of those left out: "a, b, c and 5 more".
fn list<T: AsRef<str>>(names: &[T]) -> String {
    const SHOWN: usize = 4;
    let names: Vec<&str> = names.iter().map(AsRef::as_ref).collect();
    match names.as_slice() {
        [] => String::new(),
        [one] => (*one).to_owned(),
        many if many.len() > SHOWN + 1 => {
            let shown = many.get(..SHOWN).unwrap_or_default();
            format!("{} and {} more", shown.join(", "), many.len() - SHOWN)
        }
        [most @ .., last] => format!("{} and {last}", most.join(", ")),
    }
}
