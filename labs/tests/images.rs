//! `labs/images/build.sh` with stand-ins for mmdebstrap and docker: what it does when it is run twice, at the same time,
//! fails, or is killed. That real roots are good is what the tests of the runner show, which build and use them.
#![allow(clippy::unwrap_used, clippy::panic, reason = "a test that fails may panic")]

use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Output, Stdio};
use std::time::{Duration, Instant};

use anyhow::{Context as _, Result, ensure};
use causeway_labs::Cancel;

/// Notes that it ran, waits while `hold` is there, fails if `fail` is there, else makes a root.
const MMDEBSTRAP: &str = r#"#!/bin/sh
echo "$@" >> "$BENCH/runs"
while [ -e "$BENCH/hold" ]; do sleep 0.02; done
if [ -e "$BENCH/fail" ]; then echo "E: no such package" >&2; exit 25; fi
for word; do root=$suite; suite=$uri; uri=$word; done
mkdir -p "$suite/usr/bin" "$suite/var/lib/dpkg"
echo program > "$suite/usr/bin/program"
printf 'Package: frr\nStatus: install ok installed\nVersion: 8.4\n\n' > "$suite/var/lib/dpkg/status"
"#;

/// Keeps its arguments, and the lists of what comes in as archives. It knows an image once it was imported.
const DOCKER: &str = r#"#!/bin/sh
for word; do echo "$word" >> "$BENCH/docker"; done
case $1 in
  image) test ! -e "$BENCH/label" || cat "$BENCH/label" ;;
  import) tar -tv > "$BENCH/imported"; for word; do case $word in *root=*) echo "${word#*root=}" > "$BENCH/label" ;; esac; done ;;
  create) echo c0ffee ;;
  cp) tar -tv > "$BENCH/copied" ;;
esac
"#;

struct Bench(tempfile::TempDir);

impl Bench {
    fn new() -> Result<Self> {
        ensure!(nix::unistd::geteuid().is_root(), "these tests need root: run them with sudo");
        let bench = Bench(tempfile::tempdir()?);
        let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("images/build.sh");
        bench.write("images/build.sh", &fs::read_to_string(source)?)?;
        bench.write("tools/mmdebstrap", MMDEBSTRAP)?;
        bench.write("tools/docker", DOCKER)?;
        bench.write(
            "images/x/image.yaml",
            "name: t/x\ntag: \"1\"\nsuite: bookworm\npackages: [frr, iproute2]\n",
        )?;
        bench.write(
            "images/y/image.yaml",
            "name: t/y\ntag: latest\nfrom: t/x:1\nfiles: [y]\nbinaries: [ours]\nenv: {URL: \"http://[::]:1\", B: c}\nentrypoint: [/bin/e, -x]\ncmd: [a b]\n",
        )?;
        bench.write("images/files/y/etc/y", "y")?;
        bench.write("bin/ours", "ours")?;
        Ok(bench)
    }

    fn path(&self, path: &str) -> PathBuf {
        self.0.path().join(path)
    }

    fn write(&self, path: &str, text: &str) -> Result<()> {
        let path = self.path(path);
        fs::create_dir_all(path.parent().context("no parent")?)?;
        fs::write(&path, text)?;
        Ok(fs::set_permissions(path, fs::Permissions::from_mode(0o755))?)
    }

    fn command(&self, words: &[&str]) -> Command {
        let mut command = Command::new(self.path("images/build.sh"));
        let tools = format!("{}:{}", self.path("tools").display(), std::env::var("PATH").unwrap_or_default());
        command.args(words).env("PATH", tools).env("BENCH", self.0.path());
        command.env("CAUSEWAY_CACHE", self.path("cache")).env("CAUSEWAY_BIN_DIR", self.path("bin"));
        command.stdout(Stdio::piped()).stderr(Stdio::piped());
        command
    }

    fn build(&self, words: &[&str]) -> Result<Output> {
        Ok(self.command(words).output()?)
    }

    fn runs(&self) -> usize {
        fs::read_to_string(self.path("runs")).unwrap_or_default().lines().count()
    }

    fn root(&self) -> PathBuf {
        self.path("cache/images/t/x/1/root")
    }

    /// What is beside the finished root, hidden files included.
    fn beside(&self) -> Vec<String> {
        let entries = fs::read_dir(self.path("cache/images/t/x")).into_iter().flatten().flatten();
        let mut names: Vec<_> =
            entries.map(|entry| entry.file_name().to_string_lossy().into_owned()).collect();
        names.sort();
        names
    }

    fn wait_for_run(&self) -> Result<()> {
        let start = Instant::now();
        while self.runs() == 0 {
            ensure!(start.elapsed() < Duration::from_secs(30), "mmdebstrap was not started");
            Cancel::new().pause(Duration::from_millis(5))?;
        }
        Ok(())
    }
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn again_builds_nothing_unless_the_packages_changed() -> Result<()> {
    let bench = Bench::new()?;
    let unknown = bench.build(&["t/y"])?;
    assert!(!unknown.status.success(), "the tag is missing");
    assert!(text(&unknown.stderr).contains("t/y:latest"), "{}", text(&unknown.stderr));
    assert!(bench.build(&["x"])?.status.success());
    assert!(bench.build(&["t/y:latest", "x"])?.status.success());
    assert_eq!(bench.runs(), 1);
    assert_eq!(fs::read_to_string(bench.path("cache/images/t/x/1/packages.txt"))?, "frr 8.4\n");

    // Other packages make another root; another order of them does not.
    bench.write(
        "images/x/image.yaml",
        "name: t/x\ntag: \"1\"\nsuite: bookworm\npackages: [iproute2, frr]\n",
    )?;
    assert!(bench.build(&["x"])?.status.success());
    assert_eq!(bench.runs(), 1);
    bench.write("images/x/image.yaml", "name: t/x\ntag: \"1\"\nsuite: bookworm\npackages: [frr]\n")?;
    assert!(bench.build(&["x"])?.status.success());
    assert_eq!(bench.runs(), 2);
    Ok(())
}

#[test]
fn simultaneous_runs_wait_for_each_other() -> Result<()> {
    let bench = Bench::new()?;
    bench.write("hold", "")?;
    let runs: Vec<_> = (0..4).map(|_| bench.command(&["x"]).spawn()).collect::<Result<_, _>>()?;
    bench.wait_for_run()?;
    assert!(!bench.root().exists(), "a root is complete or not there");
    fs::remove_file(bench.path("hold"))?;
    for run in runs {
        let output = run.wait_with_output()?;
        assert!(output.status.success(), "{}", text(&output.stderr));
    }
    assert_eq!(bench.runs(), 1);
    assert_eq!(bench.beside(), [".1.lock", "1"]);
    Ok(())
}

#[test]
fn a_failed_build_says_why_and_leaves_nothing() -> Result<()> {
    let bench = Bench::new()?;
    bench.write("fail", "")?;
    let output = bench.build(&["x"])?;
    assert!(!output.status.success());
    assert!(text(&output.stderr).contains("no such package"), "{}", text(&output.stderr));
    assert_eq!(bench.beside(), [".1.lock"]);
    fs::remove_file(bench.path("fail"))?;
    assert!(bench.build(&["x"])?.status.success());
    assert!(bench.root().exists());
    Ok(())
}

#[test]
fn after_a_killed_build_the_next_one_cleans_up() -> Result<()> {
    let bench = Bench::new()?;
    bench.write("hold", "")?;
    let mut killed = bench.command(&["x"]).spawn()?;
    bench.wait_for_run()?;
    killed.kill()?;
    killed.wait()?;
    assert_eq!(bench.beside().len(), 2, "{:?}", bench.beside());
    // The stand-in lives on and has the lock until it ends, as the real one would.
    fs::remove_file(bench.path("hold"))?;
    let output = bench.build(&["x"])?;
    assert!(output.status.success(), "{}", text(&output.stderr));
    assert_eq!(bench.beside(), [".1.lock", "1"]);
    Ok(())
}

#[test]
fn a_container_image_has_root_files_binaries_and_entry_point() -> Result<()> {
    let bench = Bench::new()?;
    let output = bench.build(&["--docker", "t/y:latest"])?;
    assert!(output.status.success(), "{}", text(&output.stderr));
    let said = fs::read_to_string(bench.path("docker"))?;
    for line in [
        "t/x-root:1",
        "ENV URL=http://[::]:1",
        "ENV B=c",
        r#"ENTRYPOINT ["/bin/e", "-x"]"#,
        r#"CMD ["a b"]"#,
        "t/y:latest",
    ] {
        assert!(said.lines().any(|l| l == line), "{line} in\n{said}");
    }
    assert!(said.ends_with("rm\nc0ffee\n"), "a container stays: {said}");
    let imported = fs::read_to_string(bench.path("imported"))?;
    assert!(imported.contains(" ./usr/bin/program"), "{imported}");
    let copied = fs::read_to_string(bench.path("copied"))?;
    for file in ["./etc/y", "./usr/local/bin/ours"] {
        let line =
            copied.lines().find(|l| l.ends_with(&format!(" {file}"))).with_context(|| copied.clone())?;
        assert!(line.starts_with("-rwxr-xr-x"), "{line}");
        assert!(line.contains(" 0/0 ") || line.contains(" root/root "), "{line}");
    }
    assert_eq!(copied.lines().count(), 2, "directories are the root's: {copied}");

    // The root is imported again only if it was built again.
    let imports = |bench: &Bench| -> Result<usize> {
        Ok(fs::read_to_string(bench.path("docker"))?.lines().filter(|l| *l == "import").count())
    };
    assert!(bench.build(&["--docker", "t/y:latest"])?.status.success());
    assert_eq!(imports(&bench)?, 1);
    fs::write(bench.path("cache/images/t/x/1/packages.txt"), "frr 8.5\n")?;
    assert!(bench.build(&["--docker", "t/y:latest"])?.status.success());
    assert_eq!(imports(&bench)?, 2);
    let left = fs::read_dir(bench.path("cache/images"))?.flatten().filter(|e| e.file_name() != "t").count();
    assert_eq!(left, 0, "something is left in the cache");

    fs::remove_file(bench.path("bin/ours"))?;
    let output = bench.build(&["--docker", "t/y:latest"])?;
    assert!(
        !output.status.success() && text(&output.stderr).contains("bin/ours"),
        "{}",
        text(&output.stderr)
    );
    Ok(())
}
