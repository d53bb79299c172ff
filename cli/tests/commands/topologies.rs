//! Topologies and labs, without a controller.

use super::*;

#[test]
fn topology_files_are_checked_without_a_controller() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("a.clab.yml");
    let check =
        || causeway("http://127.0.0.1:1", &["topology", "check", "-t", dir.path().to_str().unwrap()], "");
    assert_eq!(check().code, 1);
    std::fs::write(&file, "name: a\ntopology:\n  nodes:\n    n1: {kind: linux}\n").unwrap();
    let done = check();
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(done.out.contains("1 nodes, 0 links"), "{}", done.out);
    std::fs::write(&file, "name: a\ntopology:\n  nodes:\n    n1: [\n").unwrap();
    let done = check();
    assert_eq!(done.code, 1);
    assert!(done.out.contains("a.clab.yml:") && done.out.contains('^'), "{}", done.out);
    // One spine: a warning, which fails on request only.
    let text = "name: a\ntopology:\n  defaults: {kind: linux}\n  nodes:\n    spine1: {}\n    leaf1: {}\n    leaf2: {}\n  links:\n    - {endpoints: ['spine1:eth1', 'leaf1:eth1']}\n    - {endpoints: ['spine1:eth2', 'leaf2:eth1']}\n";
    std::fs::write(&file, text).unwrap();
    let path = file.to_str().unwrap();
    let done = causeway("", &["topology", "check", path], "");
    assert!(done.code == 0 && done.out.contains("warning[single-point]"), "{}{}", done.out, done.err);
    let done = causeway("", &["topology", "check", path, "--strict", "-o", "json"], "");
    let report: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((done.code, report["warnings"].as_u64(), report["errors"].as_u64()), (1, Some(1), Some(0)));
    assert_eq!(report["findings"][0]["rule"], "single-point");
    assert_eq!(
        (report["findings"][0]["line"].as_u64(), report["findings"][0]["column"].as_u64()),
        (Some(5), Some(5))
    );
    let done = causeway("", &["topology", "check", "--rules"], "");
    assert!(done.code == 0 && done.out.contains("l2-loop"), "{}", done.out);
}

#[test]
fn new_topologies_are_written_checked_and_drawn() {
    let dir = tempfile::tempdir().unwrap();
    let file = dir.path().join("dc1/dc1.clab.yml");
    let path = file.to_str().unwrap();
    let new =
        ["topology", "new", "--name", "dc1", "--hosts", "2", "--borders", "1", "--vpcs", "1", "--to", path];
    let done = causeway("", &new, "");
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    assert!(file.with_file_name("configs").join("leaf1/frr.conf").exists());
    let done = causeway("", &["topology", "check", path, "--strict"], "");
    assert_eq!(done.code, 0, "{}{}", done.out, done.err);
    let budget = |profile: &str| {
        causeway("", &["topology", "check", path, "--profile", profile, "--ports-per-host", "45"], "")
    };
    let done = budget("medium");
    assert!(
        done.code == 0 && done.out.contains("SWITCH") && done.out.contains("96000"),
        "{}{}",
        done.out,
        done.err
    );
    let done = budget("macs=89");
    assert!(done.code == 1 && done.out.contains("102 %"), "{}", done.out);
    // With its place, as everything else that is found.
    assert!(done.out.contains("error[table-size]") && done.out.contains("dc1.clab.yml:"), "{}", done.out);
    let done = causeway("", &["topology", "check", path, "--profile", "macs=2", "-o", "json"], "");
    let shown: serde_json::Value = serde_json::from_str(&done.out).unwrap();
    assert_eq!((done.code, &shown["warnings"]), (0, &serde_json::json!(2)), "{shown}");
    assert_eq!(budget("huge").code, 64);
    // What is there is not overwritten.
    let done = causeway("", &new, "");
    assert!(done.code == 1 && done.err.contains("is there already"), "{}", done.err);
    let picture = dir.path().join("dc1.svg");
    let done = causeway("", &["topology", "graph", path, "--to", picture.to_str().unwrap()], "");
    assert_eq!(done.code, 0, "{}", done.err);
    assert!(std::fs::read_to_string(&picture).unwrap().ends_with("</svg>\n"));
    for (form, word) in [("mermaid", "graph TD"), ("dot", "graph \"dc1\" {")] {
        let done = causeway("", &["topology", "graph", path, "--format", form], "");
        assert!(done.code == 0 && done.out.contains(word), "{}", done.out);
    }
    let done = causeway("", &["topology", "new", "--leaves", "0", "--hosts", "3"], "");
    assert!(done.code == 1 && done.err.contains("no leaf"), "{}", done.err);
}

#[test]
fn the_lab_has_its_own_flags() {
    let done = causeway("http://127.0.0.1:1", &["lab", "--help"], "");
    assert!(done.code == 0 && done.out.contains("Usage: causeway lab <COMMAND>"), "{}{}", done.out, done.err);
    assert_eq!(causeway("", &["lab"], "").code, 64);
    assert_eq!(causeway("", &["lab", "up", "--nonsense"], "").code, 64);
    let name = format!("none-{}", std::process::id());
    let done = causeway("", &["lab", "inspect", "--name", &name, "-o", "json"], "");
    assert_ne!(done.code, 0);
    assert!(done.err.contains(&name), "{}", done.err);
}
