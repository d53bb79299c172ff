//! The root of a node: an overlay of its image's layers, with its own /proc, /sys, /run and /tmp.
//!
//! Runs in the node's namespaces, as PID 1. Nothing here is visible on the machine: all mounts are private, and the
//! kernel removes them with the node's last process.

use std::ffi::OsStr;
use std::fs;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};

use nix::mount::{MntFlags, MsFlags, mount, umount2};
use nix::unistd::{chdir, pivot_root};

use crate::error::{Act, LabError};
use crate::spec::{BindSpec, FileSpec, NodeSpec};

/// Where the machine's root is while the node's root is furnished.
const OUTSIDE: &str = "/.causeway-outside";

/// Makes the root and moves this process into it.
pub(crate) fn enter_root(spec: &NodeSpec) -> Result<(), LabError> {
    mount_at("none", Path::new("/"), "", MsFlags::MS_REC | MsFlags::MS_PRIVATE, "")?;
    // overlayfs refuses an overlay as upper directory, and the machine's root may be one: hence the tmpfs.
    mount_at("tmpfs", &spec.scratch, "tmpfs", MsFlags::empty(), "mode=0755")?;
    let part = |name: &str| spec.scratch.join(name);
    let (upper, work, root) = (part("upper"), part("work"), part("root"));
    for dir in [&upper, &work, &root] {
        create_dir(dir)?;
    }
    let options = overlay_options(&spec.layers, &upper, &work)?;
    mount_at("overlay", &root, "overlay", MsFlags::empty(), &options)?;

    let outside = root.join(OUTSIDE.trim_start_matches('/'));
    create_dir(&outside)?;
    // In a plain chroot `ip netns exec` and everything else that changes mount propagation fails.
    pivot_root(&root, &outside).act(|| format!("make {} the root", root.display()))?;
    chdir("/").act(|| "enter the new root".to_owned())?;

    furnish()?;
    for file in &spec.files {
        write_file(file)?;
    }
    for bind in &spec.binds {
        bind_into(bind)?;
    }
    umount2(OUTSIDE, MntFlags::MNT_DETACH).act(|| "leave the machine's root".to_owned())?;
    fs::remove_dir(OUTSIDE).act(|| format!("remove {OUTSIDE}"))
}

/// Options of the overlay mount. A `:` or `,` in a path would need quoting that old kernels do not know.
fn overlay_options(layers: &[PathBuf], upper: &Path, work: &Path) -> Result<String, LabError> {
    let mut texts = Vec::new();
    for path in layers.iter().map(PathBuf::as_path).chain([upper, work]) {
        match path.to_str() {
            Some(text) if !text.contains([':', ',', '\\']) => texts.push(text),
            _ => {
                return Err(LabError::Unsupported {
                    subject: format!("layer {}", path.display()),
                    what: "a path with ':', ',' or '\\' cannot be a layer: move it".to_owned(),
                });
            }
        }
    }
    let (work, upper) = (texts.pop().unwrap_or_default(), texts.pop().unwrap_or_default());
    Ok(format!("lowerdir={},upperdir={upper},workdir={work}", texts.join(":")))
}

/// File systems that a node has for itself, and the machine's devices.
fn furnish() -> Result<(), LabError> {
    let quiet = MsFlags::MS_NOSUID | MsFlags::MS_NODEV;
    let own = |kind: &'static str, path: &str, options: &str| -> Result<(), LabError> {
        create_dir(Path::new(path))?;
        mount_at(kind, Path::new(path), kind, quiet, options)
    };
    own("proc", "/proc", "")?;
    own("sysfs", "/sys", "")?;
    create_dir(Path::new("/dev"))?;
    mount_at(&format!("{OUTSIDE}/dev"), Path::new("/dev"), "", MsFlags::MS_BIND | MsFlags::MS_REC, "")?;
    own("tmpfs", "/dev/shm", "mode=1777")?;
    own("tmpfs", "/run", "mode=0755")?;
    own("tmpfs", "/tmp", "mode=1777")?;
    create_dir(Path::new("/run/lock"))?;
    create_dir(Path::new("/run/netns"))
}

fn write_file(file: &FileSpec) -> Result<(), LabError> {
    if let Some(parent) = file.path.parent() {
        create_dir(parent)?;
    }
    let act = || format!("write {}", file.path.display());
    // A link there may lead nowhere in this root, as /etc/resolv.conf often does.
    if fs::symlink_metadata(&file.path).is_ok_and(|m| m.is_symlink()) {
        fs::remove_file(&file.path).act(act)?;
    }
    fs::write(&file.path, &file.text).act(act)?;
    fs::set_permissions(&file.path, fs::Permissions::from_mode(file.mode)).act(act)
}

/// Shows a file or folder of the machine in the node, making the place for it when it is not there.
fn bind_into(bind: &BindSpec) -> Result<(), LabError> {
    let mut source = PathBuf::from(OUTSIDE);
    source.push(bind.source.strip_prefix("/").unwrap_or(&bind.source));
    let act = || format!("bind {} to {}", bind.source.display(), bind.target.display());
    if source.is_dir() {
        create_dir(&bind.target)?;
    } else {
        if let Some(parent) = bind.target.parent() {
            create_dir(parent)?;
        }
        if fs::symlink_metadata(&bind.target).is_err() {
            fs::write(&bind.target, "").act(act)?;
        }
    }
    let flags = MsFlags::MS_BIND | MsFlags::MS_REC;
    mount(Some(&source), &bind.target, None::<&str>, flags, None::<&str>).act(act)?;
    if bind.read_only {
        // A bind mount takes its flags only in a second step.
        let flags = MsFlags::MS_REMOUNT | MsFlags::MS_BIND | MsFlags::MS_RDONLY;
        mount(None::<&str>, &bind.target, None::<&str>, flags, None::<&str>).act(act)?;
    }
    Ok(())
}

fn create_dir(path: &Path) -> Result<(), LabError> {
    fs::create_dir_all(path).act(|| format!("create the folder {}", path.display()))
}

fn mount_at(source: &str, target: &Path, kind: &str, flags: MsFlags, options: &str) -> Result<(), LabError> {
    let some = |text: &str| (!text.is_empty()).then(|| OsStr::new(text).to_owned());
    mount(some(source).as_deref(), target, some(kind).as_deref(), flags, some(options).as_deref()).act(|| {
        format!("mount {} on {} ({})", if kind.is_empty() { source } else { kind }, target.display(), options)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn layers_stand_upmost_first_and_odd_paths_are_refused() {
        let layers = [PathBuf::from("/files"), PathBuf::from("/base")];
        let options = overlay_options(&layers, Path::new("/s/upper"), Path::new("/s/work")).unwrap();
        assert_eq!(options, "lowerdir=/files:/base,upperdir=/s/upper,workdir=/s/work");
        let error = overlay_options(&[PathBuf::from("/a:b")], Path::new("/u"), Path::new("/w")).unwrap_err();
        assert!(error.to_string().contains("/a:b"), "{error}");
    }
}
