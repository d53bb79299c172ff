//! The prepared kernel, and what runs it.

use std::path::{Path, PathBuf};

use super::GuestError;

/// What `scripts/guest.sh` has made.
#[derive(Debug, Clone)]
pub(super) struct Kernel {
    pub(super) image: PathBuf,
    pub(super) initrd: PathBuf,
    /// `lib/modules/RELEASE`.
    pub(super) modules: PathBuf,
    /// QEMU's `-accel` and `-cpu`.
    pub(super) accel: [&'static str; 2],
}

const QEMU: &str = "/usr/bin/qemu-system-x86_64";

impl Kernel {
    /// In `$CAUSEWAY_CACHE/guest/current` (default cache: `/var/cache/causeway`).
    pub(super) fn find() -> Result<Self, GuestError> {
        let cache = std::env::var_os("CAUSEWAY_CACHE")
            .map_or_else(|| PathBuf::from("/var/cache/causeway"), PathBuf::from);
        Self::find_in(&cache.join("guest/current"))
    }

    fn find_in(folder: &Path) -> Result<Self, GuestError> {
        let there = |path: PathBuf| {
            if path.exists() { Ok(path) } else { Err(GuestError::NotPrepared { missing: path }) }
        };
        for program in [QEMU, "/bin/busybox"] {
            there(PathBuf::from(program))?;
        }
        // The link is followed here: what it leads to now stays the same while the guest boots.
        let folder =
            folder.canonicalize().map_err(|_| GuestError::NotPrepared { missing: folder.join("vmlinux") })?;
        let release = folder.file_name().map(|name| name.to_owned()).unwrap_or_default();
        Ok(Kernel {
            image: there(folder.join("vmlinux"))?,
            initrd: there(folder.join("initrd.gz"))?,
            modules: there(folder.join("lib/modules").join(release))?,
            accel: accel(&std::fs::read_to_string(folder.join("accel")).unwrap_or_default()),
        })
    }

    pub(super) fn qemu(&self) -> &'static str {
        QEMU
    }
}

/// KVM if a guest has run under it with this very kernel of the machine. There are machines that have it and in which a
/// guest never gets to its first word.
fn accel(probed: &str) -> [&'static str; 2] {
    let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap_or_default();
    match probed.trim().split_once(' ') {
        Some(("kvm", probed)) if probed == release.trim() => ["kvm", "host"],
        _ => ["tcg,thread=multi,tb-size=512", "max"],
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn kvm_counts_for_the_kernel_it_was_probed_with_only() {
        let release = std::fs::read_to_string("/proc/sys/kernel/osrelease").unwrap();
        assert_eq!(accel(&format!("kvm {release}"))[0], "kvm");
        for other in ["kvm 1.2.3\n", "", &format!("tcg {release}")] {
            assert!(accel(other)[0].starts_with("tcg"), "{other}");
        }
    }

    #[test]
    fn what_is_missing_is_named_with_the_way_to_get_it() {
        let error = Kernel::find_in(Path::new("/no/such/cache")).unwrap_err().to_string();
        assert!(error.contains("is missing") && error.contains("scripts/setup.sh"), "{error}");
    }
}
