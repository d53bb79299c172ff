#!/usr/bin/env bash
# Installs what is missing from Debian to build, test and demonstrate Causeway. Asks nothing, starts no daemon, may be run
# any number of times. Writes the versions found to target/versions.txt.
set -euo pipefail
cd "$(dirname "$0")/.."

packages=(
  ca-certificates curl git make build-essential       # to build anything
  protobuf-compiler libprotobuf-dev                   # the contract, and etcd's own .proto files
  iproute2 nftables iputils-ping iputils-arping tcpdump procps util-linux jq   # namespaces, and looking in
  frr gobgpd etcd-server etcd-client                  # the peers and the store the tests run against
  mmdebstrap                                          # root directories of the labs' images
)
# The guests in which labs and tests run that need more than this machine's kernel has.
if [[ $(dpkg --print-architecture) == amd64 ]]; then packages+=(qemu-system-x86 busybox-static cpio kmod xz-utils); fi
# More, for what not everybody needs.
read -ra extra <<< "${EXTRA_PACKAGES:-}"
packages+=("${extra[@]}")
rust_needed=1.95

say() { printf '%s\n' "$*"; }
die() { printf 'setup: %s\n' "$*" >&2; exit 1; }

command -v dpkg-query >/dev/null || die "this is not a Debian system (no dpkg); install by hand: ${packages[*]}"

# Those of the packages that are not installed, one a line. dpkg-query fails for names it has never heard of.
missing() {
  { dpkg-query -W -f '${db:Status-Status} ${Package}\n' "${packages[@]}" 2>/dev/null || true; } \
    | awk '$1 == "installed" { print $2 }' | sort -u > "$found"
  printf '%s\n' "${packages[@]}" | sort -u | comm -23 - "$found"
}

found=$(mktemp)
policy=
sudo=()
cleanup() {
  rm -f "$found"
  if [[ -n $policy ]]; then "${sudo[@]}" rm -f "$policy"; fi
}
trap cleanup EXIT

needed_text=$(missing)
mapfile -t needed < <(printf %s "$needed_text")
if ((${#needed[@]})); then
  if ((EUID != 0)); then
    command -v sudo >/dev/null || die "run as root (or install sudo): ${needed[*]} must be installed"
    sudo=(sudo)
  fi
  say "installing: ${needed[*]}"
  # Debian starts a daemon as soon as its package is installed unless this file says no (101). One that is already there
  # is the owner's and stays as it is.
  if [[ ! -e /usr/sbin/policy-rc.d ]]; then
    policy=/usr/sbin/policy-rc.d
    printf '#!/bin/sh\nexit 101\n' | "${sudo[@]}" tee "$policy" >/dev/null
    "${sudo[@]}" chmod 755 "$policy"
  fi
  apt=("${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -q -y -o DPkg::Lock::Timeout=300)
  "${apt[@]}" update || { say "apt-get update failed, once more in 5 s"; sleep 5; "${apt[@]}" update; }
  "${apt[@]}" install --no-install-recommends "${needed[@]}"
  # Nor are they to start at the next boot.
  if command -v systemctl >/dev/null; then
    for unit in frr:frr etcd-server:etcd gobgpd:gobgpd; do
      if [[ " ${needed[*]} " == *" ${unit%:*} "* ]]; then
        "${sudo[@]}" systemctl disable --quiet "${unit#*:}" 2>/dev/null || say "note: could not disable ${unit#*:}.service"
      fi
    done
  fi
  needed_text=$(missing)
  mapfile -t needed < <(printf %s "$needed_text")
  ((${#needed[@]} == 0)) || die "still missing after the installation: ${needed[*]}"
fi

# The Rust toolchain is the user's own; it is not installed behind their back.
PATH=$PATH:$HOME/.cargo/bin
if ! command -v cargo >/dev/null; then
  die "no Rust toolchain: install Rust $rust_needed or newer (see https://rustup.rs), then run this again"
fi
rust=$(rustc --version | awk '{ print $2 }')
if [[ $(printf '%s\n%s\n' "$rust_needed" "$rust" | sort -V | head -1) != "$rust_needed" ]]; then
  die "Rust $rust is too old, $rust_needed or newer is needed: rustup update stable"
fi

versions=${CARGO_TARGET_DIR:-target}/versions.txt
mkdir -p "$(dirname "$versions")"
{
  printf 'debian %s\nkernel %s\nrust %s\n' "$(cat /etc/debian_version)" "$(uname -r)" "$rust"
  dpkg-query -W -f '${Package} ${Version}\n' "${packages[@]}"
} > "$versions"
# Their kernel. It goes where the labs' images go, which is root's unless CAUSEWAY_CACHE says otherwise.
cache=${CAUSEWAY_CACHE:-/var/cache/causeway}
if mkdir -p "$cache/guest" 2>/dev/null && [[ -w $cache/guest ]]; then
  scripts/guest.sh
  if [[ -s $cache/guest/current/vmlinux ]]; then scripts/vm.sh; fi
elif command -v sudo >/dev/null; then
  sudo --preserve-env=CAUSEWAY_CACHE scripts/guest.sh
  if [[ -s $cache/guest/current/vmlinux ]]; then sudo --preserve-env=CAUSEWAY_CACHE scripts/vm.sh; fi
else
  die "cannot write to $cache: run as root, or set CAUSEWAY_CACHE to a directory of yours"
fi
if [[ -e $cache/guest/current/package.txt ]]; then sed 's/^/guest kernel /' "$cache/guest/current/package.txt" >> "$versions"; fi
say "setup: everything is there (versions in $versions)"
