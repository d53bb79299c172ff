//! The labs of this repository: they are valid without a warning, and their checked-in configuration is what this crate
//! renders. `CAUSEWAY_WRITE_LABS=1 cargo test -p causeway-topology --test labs` writes it anew.

use std::path::{Path, PathBuf};

use causeway_topology::{
    LABELS, Lab, LoadOptions, Mode, Node, Plan, Role, Severity, graph, load, plan, render, render_all,
};

type Result<T = ()> = std::result::Result<T, Box<dyn std::error::Error>>;

const LABS: [&str; 8] = [
    "quickstart",
    "two-controllers",
    "tor-offload",
    "mixed-modes",
    "vrf",
    "dual-stack",
    "scale-40",
    "migrate",
];

fn folder(lab: &str) -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../labs").join(lab)
}

fn read(lab: &str) -> Result<(Lab, Plan)> {
    let options = LoadOptions { check_files: !writes(), ..LoadOptions::default() };
    let loaded = load(&folder(lab).join(format!("{lab}.clab.yml")), &options).map_err(|e| render_all(&e))?;
    let warnings: Vec<_> = loaded.warnings.into_iter().filter(|w| w.severity == Severity::Warning).collect();
    assert!(warnings.is_empty(), "{}", render_all(&warnings));
    let plan = plan(&loaded.lab).map_err(|e| render_all(&e))?;
    Ok((loaded.lab, plan))
}

fn writes() -> bool {
    std::env::var_os("CAUSEWAY_WRITE_LABS").is_some()
}

fn same(path: &Path, want: &str) -> Result {
    if writes() {
        std::fs::create_dir_all(path.parent().ok_or("no folder")?)?;
        std::fs::write(path, want)?;
    }
    let found = std::fs::read_to_string(path).map_err(|e| format!("{}: {e}", path.display()))?;
    assert_eq!(
        found,
        want,
        "{} is not what is rendered; CAUSEWAY_WRITE_LABS=1 writes it anew",
        path.display()
    );
    Ok(())
}

/// What is bound over a path of the node: a file of the lab's folder.
fn bound(node: &Node, target: &str) -> Option<PathBuf> {
    node.binds.iter().find(|b| b.target == Path::new(target)).map(|b| b.source.clone())
}

/// The picture in the documentation is what `causeway topology graph` draws.
#[test]
fn the_picture_is_the_lab() -> Result {
    let (lab, plan) = read("tor-offload")?;
    let docs = Path::new(env!("CARGO_MANIFEST_DIR")).join("../docs/tor-offload.svg");
    same(&docs, &graph::svg(&lab, Some(&plan)))
}

#[test]
fn switches_have_the_rendered_configuration() -> Result {
    for name in LABS {
        let (lab, plan) = read(name)?;
        for node in lab.nodes.values().filter(|n| n.role.is_switch()) {
            let file = bound(node, "/etc/frr/frr.conf").ok_or("no configuration is bound")?;
            assert!(file.ends_with(format!("configs/{}/frr.conf", node.name)), "{}", file.display());
            same(&file, &render::frr(&lab, &plan, &node.name).ok_or("no switch")?)?;
        }
    }
    Ok(())
}

/// As a script that is bound and run, or as the lines of `exec`.
#[test]
fn nodes_run_the_rendered_commands() -> Result {
    for name in LABS {
        let (lab, plan) = read(name)?;
        for node in lab.nodes.values() {
            let setup = render::setup(&lab, &plan, &node.name).ok_or("no node")?;
            // Of a static switch this is what works without a controller; a lab may leave all to the controller's text.
            let bare = bound(node, "/etc/causeway/setup.sh").is_none() && node.exec.is_empty();
            if node.causeway.mode == Some(Mode::TorStatic) && bare {
                continue;
            }
            match bound(node, "/etc/causeway/setup.sh") {
                Some(file) => {
                    assert!(file.ends_with(format!("configs/{}/setup.sh", node.name)), "{}", file.display());
                    assert!(
                        node.exec.iter().any(|e| e == "sh -e /etc/causeway/setup.sh"),
                        "{name}: {}",
                        node.name
                    );
                    same(&file, &setup)?;
                }
                None => assert_eq!(node.exec, setup.lines().collect::<Vec<_>>(), "{name}: {}", node.name),
            }
        }
    }
    Ok(())
}

/// The labs that declare their networks: the controller's records are rendered too.
#[test]
fn resources_are_the_rendered_records() -> Result {
    for name in LABS {
        let (lab, plan) = read(name)?;
        if !plan.networks.is_empty() {
            same(&folder(name).join("resources.yaml"), &render::records(&lab, &plan))?;
        }
    }
    Ok(())
}

/// A controller's own configuration has its address and AS.
#[test]
fn controllers_have_their_addresses() -> Result {
    for name in LABS {
        let (lab, plan) = read(name)?;
        for node in lab.nodes.values().filter(|n| n.role == Role::Controller) {
            let own = &plan.nodes[&node.name];
            let text =
                std::fs::read_to_string(bound(node, "/etc/causeway/controller.yaml").ok_or("no file")?)?;
            let id = own.router_id.ok_or("no router id")?;
            assert!(text.contains(&format!("name: {}\nrouter_id: {id}\n", node.name)), "{name}: {text}");
            assert!(text.contains(&format!("asn: {}\n", own.asn.ok_or("no AS")?)), "{name}: {text}");
        }
    }
    Ok(())
}

#[test]
fn agents_and_resources_name_the_derived_addresses() -> Result {
    for name in LABS {
        let (lab, plan) = read(name)?;
        let resources = std::fs::read_to_string(folder(name).join("resources.yaml"))?.replace('"', "");
        let controllers: Vec<_> = plan.nodes.values().filter(|n| n.role == Role::Controller).collect();
        for own in &controllers {
            for session in &own.bgp {
                let peer = format!("address: {}\nasn: {}\n", session.address, session.remote_as);
                assert!(resources.contains(&peer), "{name}: {peer}");
            }
        }
        for (node, own) in plan.nodes.iter().filter(|(_, n)| n.mode == Some(Mode::HostVtep)) {
            let vtep = own.vtep.ok_or("a host without VTEP")?;
            let record = format!("name: {node}\nmode: host-vtep\nvtep: {vtep}\n");
            assert!(resources.contains(&record), "{name}: {node}");
        }
        for node in lab.nodes.values().filter(|n| n.env.contains_key("CAUSEWAY_CONTROLLERS")) {
            let known: Vec<_> = node.env["CAUSEWAY_CONTROLLERS"].split(',').collect();
            let all: Vec<_> =
                controllers.iter().filter_map(|c| c.address()).map(|a| format!("http://{a}:7480")).collect();
            assert_eq!(known, all, "{name}: {}", node.name);
        }
    }
    Ok(())
}

#[test]
fn the_image_is_a_choice() -> Result {
    let mut options = LoadOptions { check_files: true, ..LoadOptions::default() };
    options.env.insert("FRR_IMAGE".into(), "causeway/frr:10.7".into());
    let loaded =
        load(&folder("quickstart").join("quickstart.clab.yml"), &options).map_err(|e| render_all(&e))?;
    assert_eq!(loaded.lab.nodes["leaf1"].image.as_deref(), Some("causeway/frr:10.7"));
    assert_eq!(loaded.lab.container_name("leaf1"), "clab-quickstart-leaf1");
    Ok(())
}

/// The table in `labs/README.md` between two comments.
#[test]
fn the_labels_are_documented() -> Result {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("../labs/README.md");
    let text = std::fs::read_to_string(&path)?;
    let (begin, end) = ("<!-- labels: written by topology -->\n", "<!-- end of labels -->");
    let (before, rest) = text.split_once(begin).ok_or("no table of labels")?;
    let (_, after) = rest.split_once(end).ok_or("no end of the table of labels")?;
    let mut table = String::from("| label | at | value | meaning |\n|---|---|---|---|\n");
    for label in LABELS {
        let place = if label.node { "node" } else { "link" };
        table += &format!("| `{}` | {place} | {} | {} |\n", label.name, label.value, label.text);
    }
    same(&path, &format!("{before}{begin}{table}{end}{after}"))
}

/// FRR's own parser takes what is rendered, and refuses what it does not know. The package `frr` is needed.
#[test]
fn frr_takes_the_configuration() -> Result {
    let check = |path: &Path| -> Result<bool> {
        let run = std::process::Command::new("vtysh").arg("-C").arg("-f").arg(path).output();
        Ok(run.map_err(|e| format!("run vtysh, of the package frr: {e}"))?.status.success())
    };
    for name in LABS {
        let (lab, _) = read(name)?;
        for node in lab.nodes.values().filter(|n| n.role.is_switch()) {
            let path = folder(name).join("configs").join(&node.name).join("frr.conf");
            assert!(check(&path)?, "{}", path.display());
        }
    }
    let wrong = std::env::temp_dir().join(format!("causeway-frr-{}.conf", std::process::id()));
    std::fs::write(&wrong, "router bgp 65000\n nieghbor 10.0.0.1 remote-as 65000\n")?;
    let taken = check(&wrong);
    std::fs::remove_file(&wrong)?;
    assert!(!taken?, "vtysh takes anything");
    Ok(())
}

/// The same with the parser of FRR 10.7, in the root that `scripts/peers.sh` makes. Needs root, to show it the files.
#[test]
fn newer_frr_takes_the_configuration() -> Result {
    let cache =
        std::env::var_os("CAUSEWAY_CACHE").map_or_else(|| "/var/cache/causeway".into(), PathBuf::from);
    let root = cache.join("images/causeway/frr/10.7/root");
    if !root.join("usr/bin/vtysh").exists() {
        return Err(format!("{} has no vtysh: run scripts/peers.sh", root.display()).into());
    }
    let own = std::env::temp_dir().join(format!("causeway-frr-new-{}", std::process::id()));
    std::fs::create_dir_all(&own)?;
    let mut names = Vec::new();
    for name in LABS {
        let (lab, plan) = read(name)?;
        for node in lab.nodes.values().filter(|n| n.role.is_switch()) {
            let file = format!("{name}-{}.conf", node.name);
            std::fs::write(own.join(&file), render::frr(&lab, &plan, &node.name).ok_or("no switch")?)?;
            names.push(file);
        }
    }
    std::fs::write(own.join("wrong"), "router bgp 65000\n nieghbor 10.0.0.1 remote-as 65000\n")?;
    let script = "mount --bind \"$1\" \"$2/mnt\" && cd \"$1\" && for f in *; do \
                  chroot \"$2\" vtysh -C -f \"/mnt/$f\" >/dev/null 2>&1 || echo \"$f\"; done";
    let mut command = std::process::Command::new("unshare");
    command.args(["--mount", "sh", "-c", script, "sh"]).arg(&own).arg(&root);
    let run = command.output();
    std::fs::remove_dir_all(&own)?;
    let run = run?;
    assert!(run.status.success(), "{}", String::from_utf8_lossy(&run.stderr));
    // Refused is what is wrong, and nothing of ours.
    assert_eq!(String::from_utf8_lossy(&run.stdout), "wrong\n", "of {} files", names.len());
    Ok(())
}
