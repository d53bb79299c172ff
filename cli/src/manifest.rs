//! Manifests: YAML documents that become records of the contract. Field names are those of the contract; whatever is not
//! a field is refused with its place. What a value means is the controller's business: only its type is checked here.

mod fields;
pub(crate) mod source;
mod yaml;

use std::collections::BTreeMap;

use causeway_proto::v1;

use crate::suggest::did_you_mean;
use crate::words;
use fields::Fields;
use source::{Place, Problem, Source};
use yaml::{Node, Value};

/// Kinds as manifests spell them.
pub(crate) const KINDS: [&str; 5] = ["Vrf", "Network", "Subnet", "Node", "Peer"];

/// All that was read, with the way back from a record's field to its place.
#[derive(Debug, Default)]
pub(crate) struct Manifest {
    sources: Vec<Source>,
    entries: Vec<Entry>,
}

/// One record and where it was written.
#[derive(Debug)]
struct Entry {
    resource: v1::Resource,
    source: usize,
    place: Place,
    /// Place of each value by its path inside the record: `vni`, `ranges[1]`, `labels.rack`.
    fields: BTreeMap<String, Place>,
}

/// Problems of one manifest, rendered with excerpts.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Rejected(pub(crate) Vec<String>);

impl Manifest {
    /// Reads all sources. On failure every problem found is listed, in the order of the text.
    pub(crate) fn read(sources: Vec<Source>) -> Result<Manifest, Rejected> {
        let mut manifest = Manifest { sources, entries: Vec::new() };
        let mut rejected = Vec::new();
        for index in 0..manifest.sources.len() {
            let mut problems = Vec::new();
            match yaml::parse(&manifest.sources[index].text) {
                Err(problem) => problems.push(problem),
                Ok(documents) => {
                    for node in &documents {
                        // A list of records is what `get -o json` prints.
                        let items = match &node.value {
                            Value::List(items) => items.as_slice(),
                            _ => std::slice::from_ref(node),
                        };
                        for item in items {
                            manifest.entries.extend(read_record(item, index, &mut problems));
                        }
                    }
                }
            }
            problems.sort_by_key(|p| (p.place.line, p.place.column));
            rejected.extend(problems.iter().map(|p| manifest.sources[index].excerpt(p)));
        }
        if rejected.is_empty() {
            rejected = manifest.duplicates();
        }
        if rejected.is_empty() { Ok(manifest) } else { Err(Rejected(rejected)) }
    }

    /// The records in the order of the text.
    pub(crate) fn resources(&self) -> Vec<v1::Resource> {
        self.entries.iter().map(|e| e.resource.clone()).collect()
    }

    /// Renders field violations of the controller (`resources[2].network.vni`, reason) as excerpts of the manifest, in the
    /// order of the text; those that name no record of it come last, as they are.
    pub(crate) fn excerpts<'a>(
        &self,
        violations: impl IntoIterator<Item = (&'a str, &'a str)>,
    ) -> Vec<String> {
        let mut found: Vec<_> = violations
            .into_iter()
            .map(|(path, reason)| match self.locate(path, reason) {
                Some((source, problem)) => {
                    let order = (source, problem.place.line, problem.place.column);
                    (order, self.sources[source].excerpt(&problem))
                }
                None => ((usize::MAX, 0, 0), format!("  {path}: {reason}")),
            })
            .collect();
        found.sort();
        found.into_iter().map(|(_, text)| text).collect()
    }

    /// The source and place that a path of the request speaks of.
    fn locate(&self, path: &str, reason: &str) -> Option<(usize, Problem)> {
        let (index, rest) = path.strip_prefix("resources[")?.split_once(']')?;
        let entry = self.entries.get(index.parse::<usize>().ok()?)?;
        let rest = rest.trim_start_matches('.');
        let field = match rest.split_once('.') {
            Some((kind, field)) if KINDS.iter().any(|k| k.eq_ignore_ascii_case(kind)) => field,
            _ => rest,
        };
        let place = entry.locate(field).unwrap_or(entry.place);
        let message = if field.is_empty() { reason.to_owned() } else { format!("{field}: {reason}") };
        Some((entry.source, Problem { place, message }))
    }

    /// The place of a record as "FILE:LINE".
    pub(crate) fn origin(&self, index: usize) -> Option<String> {
        let entry = self.entries.get(index)?;
        Some(format!("{}:{}", self.sources.get(entry.source)?.name, entry.place.line))
    }

    /// A problem for each record that is there twice.
    fn duplicates(&self) -> Vec<String> {
        let mut first: BTreeMap<(&str, String), usize> = BTreeMap::new();
        let mut found = Vec::new();
        for (index, entry) in self.entries.iter().enumerate() {
            let id = identity(&entry.resource);
            // Two records without a name are two records whose name is missing: the controller says so.
            if id.1.is_empty() || id.1.ends_with('/') {
                continue;
            }
            if let Some(before) = first.get(&id) {
                let origin = self.origin(*before).unwrap_or_default();
                let message = format!("{} {} is given twice, first at {origin}", id.0, id.1);
                found.push(self.sources[entry.source].excerpt(&Problem { place: entry.place, message }));
            } else {
                first.insert(id, index);
            }
        }
        found
    }
}

impl Entry {
    /// The place of a field, or of the nearest thing around it.
    fn locate(&self, field: &str) -> Option<Place> {
        let mut path = field.replace("[\"", ".").replace("\"]", "");
        loop {
            if let Some(place) = self.fields.get(&path) {
                return Some(*place);
            }
            // "labels[rack]" is the same as "labels.rack".
            let dotted = path.replace('[', ".").replace(']', "");
            if let Some(place) = self.fields.get(&dotted) {
                return Some(*place);
            }
            let cut = path.rfind(['.', '['])?;
            path.truncate(cut);
        }
    }
}

/// Kind and name of a record, in the form of the contract's `ApplyResult`.
pub(crate) fn identity(resource: &v1::Resource) -> (&'static str, String) {
    use v1::resource::Spec;
    let vrf = |vrf: &str| if vrf.is_empty() { "default".to_owned() } else { vrf.to_owned() };
    match &resource.spec {
        Some(Spec::Vrf(r)) => ("vrf", r.name.clone()),
        Some(Spec::Network(r)) => ("network", format!("{}/{}", vrf(&r.vrf), r.name)),
        Some(Spec::Subnet(r)) if r.prefix.is_empty() => ("subnet", String::new()),
        Some(Spec::Subnet(r)) => ("subnet", format!("{}/{}", vrf(&r.vrf), r.prefix)),
        Some(Spec::Node(r)) => ("node", r.name.clone()),
        Some(Spec::Peer(r)) => ("peer", r.address.clone()),
        None => ("record", String::new()),
    }
}

/// One document. Problems are added to the list; then there is no record.
fn read_record(node: &Node, source: usize, problems: &mut Vec<Problem>) -> Option<Entry> {
    let before = problems.len();
    let Value::Map(entries) = &node.value else {
        let message = format!("expected a record such as 'kind: Vrf', found {}", node.value.describe());
        problems.push(Problem { place: node.place, message });
        return None;
    };
    let mut fields = Fields::new(entries, problems);
    let place = fields.place("kind").unwrap_or(Place { width: 1, ..node.place });
    let kind = fields.text("kind");
    let (spec, places) = match read_spec(&kind, &mut fields) {
        Some(spec) => (spec, fields.finish(&kind)),
        None => {
            if fields.is_clean() {
                let known = KINDS.join(", ");
                let message = match kind.as_str() {
                    "" => format!("field 'kind' is missing; it is one of {known}"),
                    _ => format!("unknown kind '{kind}'{}; known are {known}", did_you_mean(&kind, KINDS)),
                };
                fields.problem(place, message);
            }
            return None;
        }
    };
    let resource = v1::Resource { spec: Some(spec) };
    (problems.len() == before).then_some(Entry { resource, source, place, fields: places })
}

/// The fields of a kind; `None` if the kind is unknown.
fn read_spec(kind: &str, f: &mut Fields<'_>) -> Option<v1::resource::Spec> {
    use v1::resource::Spec;
    let kind = KINDS.into_iter().find(|k| k.eq_ignore_ascii_case(kind))?;
    Some(match kind {
        "Vrf" => Spec::Vrf(v1::Vrf {
            name: f.text("name"),
            l3_vni: f.uint32("l3_vni"),
            export_targets: f.list("export_targets"),
            import_targets: f.list("import_targets"),
            routes: f.records("routes", "{prefix: PREFIX, node: NODE}", |f| v1::VrfRoute {
                prefix: f.text("prefix"),
                node: f.text("node"),
            }),
            no_connected: f.flag("no_connected"),
        }),
        "Network" => Spec::Network(v1::Network {
            vrf: f.text("vrf"),
            name: f.text("name"),
            vni: f.uint32("vni"),
            vlan: f.uint32("vlan"),
            mtu: f.uint32("mtu"),
            export_targets: f.list("export_targets"),
            import_targets: f.list("import_targets"),
            sticky_seconds: f.int64("sticky_seconds"),
            quarantine_seconds: f.some_int64("quarantine_seconds"),
            labels: f.map("labels"),
            irb: f.choice("irb", words::IRBS),
            gateway_mac: f.text("gateway_mac"),
            attachments: f.choices("attachments", words::ATTACHMENTS),
            no_guard: f.flag("no_guard"),
            address_check_ms: f.some_uint32("address_check_ms"),
        }),
        "Subnet" => Spec::Subnet(v1::Subnet {
            vrf: f.text("vrf"),
            network: f.text("network"),
            prefix: f.text("prefix"),
            gateway: f.text("gateway"),
            ranges: f.list("ranges"),
            exclusions: f.list("exclusions"),
            reservations: f.list("reservations"),
        }),
        "Node" => Spec::Node(v1::Node {
            name: f.text("name"),
            mode: f.choice("mode", words::NODE_MODES),
            vtep: f.text("vtep"),
            underlay_mtu: f.uint32("underlay_mtu"),
            site: f.text("site"),
            labels: f.map("labels"),
            uplinks: f.records("uplinks", "{interface: eth1, switch: leaf1}", |f| v1::Uplink {
                interface: f.text("interface"),
                switch: f.text("switch"),
                switch_interface: f.text("switch_interface"),
            }),
            anycast_vtep: f.text("anycast_vtep"),
            router_mac: f.text("router_mac"),
            esi: f.text("esi"),
            networks: f.list("networks"),
            host_bridge: f.choice("host_bridge", words::HOST_BRIDGES),
            move_addresses: f.flag("move_addresses"),
        }),
        _ => Spec::Peer(v1::Peer {
            address: f.text("address"),
            asn: f.uint32("asn"),
            port: f.uint32("port"),
            local_address: f.text("local_address"),
            passive: f.flag("passive"),
            md5_key_file: f.text("md5_key_file"),
            gtsm_hops: f.uint32("gtsm_hops"),
            hold_seconds: f.uint32("hold_seconds"),
            restart_seconds: f.uint32("restart_seconds"),
            no_graceful_restart: f.flag("no_graceful_restart"),
        }),
    })
}

#[cfg(test)]
mod tests;
