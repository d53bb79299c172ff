//! Manifests: planned, applied, refused with their place.

use super::*;

#[test]
fn plan_apply_and_apply_again() {
    let running = Running::start();
    let (out, _) = expect(&running, 3, &["apply", "-f", "-", "--plan"], NETWORKS);
    assert_eq!(
        out,
        "+ network default/web\n    name: default/web\n+ subnet default/10.8.0.0/20\n    name: default/10.8.0.0/20\n\
         plan: 2 to create, 0 to update, 0 unchanged; nothing was written\n"
    );
    let (out, _) = expect(&running, 0, &["apply", "-f", "-"], NETWORKS);
    assert!(out.ends_with("applied: 2 created, 0 updated, 0 unchanged; revision 2\n"), "{out}");
    expect(&running, 0, &["apply", "-f", "-", "--plan"], NETWORKS);
    let (out, _) = expect(
        &running,
        3,
        &["apply", "-f", "-", "--plan"],
        &NETWORKS.replace("vni: 10110", "vni: 10110\nmtu: 9000"),
    );
    assert!(out.contains("~ network default/web\n    mtu: 1450 → 9000\n= subnet"), "{out}");
    let (out, _) = expect(&running, 0, &["apply", "-f", "-", "-o", "json"], NETWORKS);
    let json: serde_json::Value = serde_json::from_str(&out).unwrap();
    assert_eq!(json["results"][0]["action"], "unchanged");
}

#[test]
fn what_get_prints_can_be_applied() {
    let running = Running::start();
    expect(&running, 0, &["apply", "-f", "-"], NETWORKS);
    for form in ["yaml", "json"] {
        let (printed, _) = expect(&running, 0, &["get", "networks", "-o", form], "");
        expect(&running, 0, &["apply", "-f", "-", "--plan"], &printed);
        let (printed, _) = expect(&running, 0, &["get", "net", "web", "-o", form], "");
        expect(&running, 0, &["apply", "-f", "-", "--plan"], &printed);
        let (printed, _) = expect(&running, 0, &["get", "subnet", "10.8.0.0/20", "-o", form], "");
        expect(&running, 0, &["apply", "-f", "-", "--plan"], &printed);
    }
    let (out, _) = expect(&running, 0, &["describe", "network", "web"], "");
    assert!(
        out.starts_with("kind: Network\n")
            && out.contains("\nsubnets: 1\n")
            && out.contains("\nports: none\n"),
        "{out}"
    );
}

#[test]
fn manifests_come_from_files_and_directories() {
    let running = Running::start();
    let dir = tempfile::tempdir().unwrap();
    let (one, two) = NETWORKS.split_once("---\n").unwrap();
    std::fs::write(dir.path().join("1-net.yaml"), one).unwrap();
    std::fs::write(dir.path().join("2-sub.yml"), two).unwrap();
    std::fs::write(dir.path().join("README.md"), "not a manifest: [").unwrap();
    let path = dir.path().to_str().unwrap();
    let (out, _) = expect(&running, 0, &["apply", "--yes", "-f", path], "");
    assert!(out.ends_with("applied: 2 created, 0 updated, 0 unchanged; revision 2\n"), "{out}");
    let empty = tempfile::tempdir().unwrap();
    expect(&running, 2, &["apply", "-f", empty.path().to_str().unwrap()], "");
    expect(&running, 2, &["apply", "-f", "-"], "# nothing\n---\n");
    expect(&running, 1, &["apply", "-f", "/nonexistent.yaml"], "");
    assert_eq!(running.fake.seen("apply"), 1);
}

#[test]
fn a_bad_manifest_is_shown_and_not_sent() {
    let running = Running::start();
    let (_, err) = expect(&running, 1, &["apply", "-f", "-"], "kind: Network\nname: web\nvnni: 1\n");
    let want = "error: 1 problem in the manifest, nothing was sent\n\
                <stdin>:3:1: unknown field 'vnni' of a Network; did you mean 'vni'?\n   |\n 3 | vnni: 1\n   | ^^^^\n";
    assert_eq!(err, want);
    let (_, err) = expect(&running, 1, &["apply", "-f", "-"], "kind: Network\nname: [web\n");
    assert!(err.contains("<stdin>:") && err.contains("malformed YAML") && err.contains('^'), "{err}");
    assert_eq!(running.fake.seen("apply"), 0);
}

#[test]
fn violations_found_by_the_controller_point_into_the_file() {
    let running = Running::start();
    let text = format!("{NETWORKS}---\n# the second\nkind: Network\nname: db\nvni: 0\n");
    let (_, err) = expect(&running, 1, &["apply", "-f", "-"], &text);
    let want = "error: cannot apply: 1 field is wrong, nothing was written\n\
                <stdin>:12:6: vni: is required, 1 to 16777215\n    |\n 12 | vni: 0\n    |      ^\n";
    assert_eq!(err, want);
}

#[test]
fn a_conflict_found_by_the_controller_points_into_the_file() {
    let running = Running::start();
    let (_, err) = expect(&running, 4, &["apply", "-f", "-"], "kind: Network\nname: db\nvni: 666\n");
    let want = "error: cannot apply:\n\
                <stdin>:3:6: vni: vni 666 is taken by network default/old\n   |\n 3 | vni: 666\n   |      ^^^\n";
    assert_eq!(err, want);
}
