//! Images: what they are (`labs/images/*/image.yaml`), and the root directories that `build.sh` makes of them.

use std::collections::BTreeMap;
use std::fs;
use std::io::{BufRead, BufReader};
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use serde::Deserialize;

use crate::cancel::Cancel;
use crate::error::{Act, LabError};

/// An image as `image.yaml` defines it.
#[derive(Debug, Clone, PartialEq, Eq, Deserialize)]
#[serde(deny_unknown_fields)]
pub struct Image {
    /// Name without tag, for example `causeway/frr`.
    pub name: String,
    /// Tag.
    pub tag: String,
    /// The image whose root this one uses; it then has neither suite nor packages.
    #[serde(default)]
    pub from: Option<String>,
    /// Debian suite of the root; `host`: that of the machine.
    #[serde(default)]
    pub suite: Option<String>,
    /// Debian packages beside the essential ones.
    #[serde(default)]
    pub packages: Vec<String>,
    /// Folders of `labs/images/files/` laid over the root, the last upmost.
    #[serde(default)]
    pub files: Vec<String>,
    /// Our programs, shown in `/usr/local/bin`.
    #[serde(default)]
    pub binaries: Vec<String>,
    /// Entry point.
    #[serde(default)]
    pub entrypoint: Vec<String>,
    /// Arguments of the entry point.
    #[serde(default)]
    pub cmd: Vec<String>,
    /// Environment.
    #[serde(default)]
    pub env: BTreeMap<String, String>,
    /// Where a node's `startup-config` goes; `None`: the image has no use for one.
    #[serde(default)]
    pub config: Option<PathBuf>,
    /// A command that succeeds as soon as the node is ready for `exec`.
    #[serde(default)]
    pub ready: Vec<String>,
}

impl Image {
    /// `NAME:TAG`.
    pub fn full_name(&self) -> String {
        format!("{}:{}", self.name, self.tag)
    }
}

/// The images there are, and where their roots are kept.
#[derive(Debug, Clone)]
pub struct Images {
    folder: PathBuf,
    cache: PathBuf,
    by_name: BTreeMap<String, Image>,
}

impl Images {
    /// Reads all definitions: from `$CAUSEWAY_IMAGES`, else from this source tree, else from `/usr/share/causeway/images`.
    /// Roots are kept in `$CAUSEWAY_CACHE/images` (default `/var/cache/causeway/images`).
    ///
    /// # Errors
    /// A definition is wrong: with its line and column.
    pub fn open() -> Result<Self, LabError> {
        let cache = std::env::var_os("CAUSEWAY_CACHE")
            .map_or_else(|| PathBuf::from("/var/cache/causeway"), PathBuf::from);
        Self::read(&images_folder(), &cache.join("images"))
    }

    fn read(folder: &Path, cache: &Path) -> Result<Self, LabError> {
        let mut by_name = BTreeMap::new();
        let entries =
            fs::read_dir(folder).act(|| format!("read the image definitions in {}", folder.display()))?;
        for entry in entries.flatten() {
            let path = entry.path().join("image.yaml");
            let Ok(text) = fs::read_to_string(&path) else { continue };
            let image: Image = serde_saphyr::from_str(&text).map_err(|error| LabError::Image {
                image: path.display().to_string(),
                what: error.to_string(),
            })?;
            by_name.insert(image.full_name(), image);
        }
        Ok(Images { folder: folder.to_owned(), cache: cache.to_owned(), by_name })
    }

    /// The image a topology file means by `name`; without a tag `latest` is meant.
    ///
    /// # Errors
    /// It is not defined.
    pub fn find(&self, name: &str) -> Result<&Image, LabError> {
        let last = name.rsplit('/').next().unwrap_or(name);
        let full = if last.contains(':') { name.to_owned() } else { format!("{name}:latest") };
        self.by_name.get(&full).ok_or_else(|| LabError::Image {
            image: name.to_owned(),
            what: format!(
                "it is not defined in {} (there are: {}); define it there, or use --stand-in to run the node on {}",
                self.folder.display(),
                self.by_name.keys().cloned().collect::<Vec<_>>().join(", "),
                if is_frr_like(name) { "causeway/frr:8.4" } else { "the machine's own root" },
            ),
        })
    }

    /// All images in the order of their names.
    pub fn all(&self) -> impl Iterator<Item = &Image> {
        self.by_name.values()
    }

    /// The image whose root `image` uses: itself, or the one it is made from.
    fn base<'a>(&'a self, image: &'a Image) -> Result<&'a Image, LabError> {
        match &image.from {
            Some(from) => self.find(from),
            None => Ok(image),
        }
    }

    /// Folders that make the image's root, the upmost first. Build it before.
    ///
    /// # Errors
    /// A part is not there.
    pub fn layers(&self, image: &Image) -> Result<Vec<PathBuf>, LabError> {
        let mut layers: Vec<PathBuf> =
            image.files.iter().rev().map(|part| self.folder.join("files").join(part)).collect();
        let base = self.base(image)?;
        layers.push(self.cache.join(&base.name).join(&base.tag).join("root"));
        for layer in &layers {
            if !layer.is_dir() {
                let what =
                    format!("{} is missing: run {}", layer.display(), self.folder.join("build.sh").display());
                return Err(LabError::Image { image: image.full_name(), what });
            }
        }
        Ok(layers)
    }

    /// True if the image's root is there and was made of what the definition says now.
    ///
    /// # Errors
    /// `from` names no image.
    pub fn is_built(&self, image: &Image) -> Result<bool, LabError> {
        let base = self.base(image)?;
        let dir = self.cache.join(&base.name).join(&base.tag);
        let made_of = fs::read_to_string(dir.join("definition")).unwrap_or_default();
        Ok(dir.join("root/usr").is_dir() && made_of == root_definition(base, &host_suite()))
    }

    /// Builds what is missing, a line at a time to `progress`.
    ///
    /// # Errors
    /// The build fails, with its last lines; or `cancel`.
    pub fn build(&self, image: &Image, cancel: &Cancel, progress: &dyn Fn(&str)) -> Result<(), LabError> {
        let script = self.folder.join("build.sh");
        let cache_root = self.cache.parent().unwrap_or(&self.cache);
        // A process group of its own, to end mmdebstrap together with the script.
        let mut child = Command::new(&script)
            .arg(image.full_name())
            .env("CAUSEWAY_CACHE", cache_root)
            .stdin(Stdio::null())
            .stdout(Stdio::piped())
            .stderr(Stdio::piped())
            .process_group(0)
            .spawn()
            .act(|| format!("run {}", script.display()))?;
        let group = nix::unistd::Pid::from_raw(i32::try_from(child.id()).unwrap_or_default());
        cancel.on_cancel(move || {
            // The build may just have ended, which is as good.
            let _ = nix::sys::signal::killpg(group, nix::sys::signal::Signal::SIGTERM);
        });
        let errors = child.stderr.take();
        let errors = std::thread::spawn(move || -> Vec<String> {
            errors.map(|e| BufReader::new(e).lines().map_while(Result::ok).collect()).unwrap_or_default()
        });
        if let Some(output) = child.stdout.take() {
            BufReader::new(output).lines().map_while(Result::ok).for_each(|line| progress(&line));
        }
        let status = child.wait().act(|| format!("wait for {}", script.display()))?;
        cancel.check()?;
        if status.success() {
            return Ok(());
        }
        let lines = errors.join().unwrap_or_default();
        let last = lines.len().saturating_sub(20);
        let what = format!("build.sh failed:\n{}", lines.get(last..).unwrap_or_default().join("\n"));
        Err(LabError::Image { image: image.full_name(), what })
    }
}

/// True for the name of somebody's FRR image.
pub(crate) fn is_frr_like(name: &str) -> bool {
    name.to_ascii_lowercase().contains("frr")
}

fn images_folder() -> PathBuf {
    if let Some(folder) = std::env::var_os("CAUSEWAY_IMAGES") {
        return PathBuf::from(folder);
    }
    let source = Path::new(env!("CARGO_MANIFEST_DIR")).join("images");
    if source.is_dir() { source } else { PathBuf::from("/usr/share/causeway/images") }
}

/// What a root is made of, in the words of `build.sh`, which writes it beside the root.
fn root_definition(image: &Image, host_suite: &str) -> String {
    let suite = match image.suite.as_deref() {
        Some("host") | None => host_suite,
        Some(suite) => suite,
    };
    let mut packages = image.packages.clone();
    packages.sort();
    format!("suite={suite}\npackages={}\n", packages.join(" "))
}

/// The Debian suite of this machine; empty if it does not say.
fn host_suite() -> String {
    let text = fs::read_to_string("/etc/os-release").unwrap_or_default();
    let value = text.lines().find_map(|line| line.strip_prefix("VERSION_CODENAME="));
    value.unwrap_or_default().trim_matches('"').to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn images() -> Images {
        Images::read(&Path::new(env!("CARGO_MANIFEST_DIR")).join("images"), Path::new("/nowhere")).unwrap()
    }

    #[test]
    fn every_definition_is_sound() {
        let images = images();
        assert!(images.by_name.len() >= 7);
        for image in images.all() {
            let base = images.base(image).unwrap();
            assert!(base.from.is_none(), "{}: one level of `from` only", image.full_name());
            assert_eq!(image.from.is_some(), image.suite.is_none(), "{}: suite or from", image.full_name());
            assert!(image.from.is_none() || image.packages.is_empty(), "{}", image.full_name());
            for part in &image.files {
                assert!(images.folder.join("files").join(part).is_dir(), "{part}");
            }
        }
    }

    /// `build.sh` reads fields with sed: they must stand on one line, and both must read the same.
    #[test]
    fn the_script_reads_definitions_as_we_do() {
        let images = images();
        let output = Command::new(images.folder.join("build.sh")).arg("--list").output().unwrap();
        let mut listed: Vec<_> =
            String::from_utf8(output.stdout).unwrap().lines().map(str::to_owned).collect();
        listed.sort();
        assert_eq!(listed, images.by_name.keys().cloned().collect::<Vec<_>>());
        for entry in fs::read_dir(&images.folder).unwrap().flatten() {
            let Ok(text) = fs::read_to_string(entry.path().join("image.yaml")) else { continue };
            for line in text.lines().filter(|l| !l.starts_with('#')) {
                let (key, value) = line.split_once(": ").unwrap_or_else(|| panic!("{line}"));
                assert!(
                    key.chars().all(char::is_alphabetic) && !value.is_empty(),
                    "one line a field: {line}"
                );
            }
        }
    }

    /// Two definitions of the same images, one of which is read by Docker only.
    #[test]
    fn the_dockerfile_says_the_same() {
        let images = images();
        let text = fs::read_to_string(images.folder.join("Dockerfile")).unwrap();
        let quoted = |words: &[String]| serde_json::to_string(words).unwrap().replace("\",\"", "\", \"");
        for image in images.by_name.values() {
            let name = image.name.strip_prefix("causeway/").unwrap();
            let start = text.find(&format!(" AS {name}\n")).unwrap_or_else(|| panic!("no target {name}"));
            let stage = text[start + 1..].split("\nFROM ").next().unwrap();
            if !image.packages.is_empty() {
                assert!(stage.contains(&format!("    {} \\\n", image.packages.join(" "))), "{name}: {stage}");
            }
            if !image.entrypoint.is_empty() {
                assert!(
                    stage.contains(&format!("ENTRYPOINT {}", quoted(&image.entrypoint))),
                    "{name}: {stage}"
                );
            }
            for part in &image.files {
                assert!(stage.contains(&format!("COPY labs/images/files/{part}/ /\n")), "{name}: {stage}");
            }
            for binary in &image.binaries {
                assert!(stage.contains(&format!("/out/{binary} ")), "{name}: {stage}");
            }
            for (key, value) in &image.env {
                assert!(stage.contains(&format!("{key}={value}")), "{name}: {stage}");
            }
        }
    }

    #[test]
    fn an_unknown_image_is_refused_with_those_there_are() {
        let error = images().find("quay.io/frrouting/frr:9.0").unwrap_err().to_string();
        assert!(error.contains("causeway/frr:10.7") && error.contains("--stand-in"), "{error}");
        assert!(images().find("causeway/agent").is_ok());
        assert!(images().find("causeway/frr").is_err());
    }
}
