#!/usr/bin/env bash
# All tests of the workspace, as root where they need it, with a summary at the end: suites, counts, seconds, and the
# versions of the peers that were really met. Arguments go to `cargo test` (for example `-p causeway-bgp`); the check
# that all peers were met is then left out.
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
mkdir -p "$target"
target=$(cd "$target" && pwd)
log=$target/test.log
# What the harness appends a line to for every peer it starts.
export CAUSEWAY_TEST_PEERS=$target/peers-met.txt
# Longest time for everything, in minutes; a hanging test must not hang CI.
limit=${CAUSEWAY_TEST_MINUTES:-55}

if ((EUID != 0)); then
  command -v sudo >/dev/null || { echo "test: run as root or install sudo: tests make network namespaces" >&2; exit 1; }
  # Compiled as the user, run as root.
  host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${host}_RUNNER=sudo -E"
fi

# Containers of a real Docker Engine are imported, too.
if ! command -v dockerd >/dev/null || ! command -v busybox >/dev/null || { ! mountpoint -q /sys/fs/cgroup && ! command -v cgroupfs-mount >/dev/null; }; then
  EXTRA_PACKAGES="docker.io cgroupfs-mount busybox-static" scripts/setup.sh
fi

rm -f "$CAUSEWAY_TEST_PEERS"
# The programs that tests start lie beside the test executables.
cargo build --workspace --bins --locked
status=0
what=(--workspace)
if (($#)); then what=("$@"); fi
timeout --kill-after=30 "${limit}m" cargo test --locked --no-fail-fast "${what[@]}" 2>&1 | tee "$log" || status=$?
if ((status == 124 || status == 137)); then echo "test: not finished after $limit minutes" | tee -a "$log"; fi

# Nothing may be green because nothing was run: scripts/peers.sh has written down what there is to be met.
if (($# == 0)); then
  while read -r peer; do
    if ! grep -qxF "$peer" "$CAUSEWAY_TEST_PEERS" 2>/dev/null; then
      echo "test: no test has met $peer: the session and store tests did not run as they should" | tee -a "$log"
      status=1
    fi
  done < "$target/peers.txt"
fi
scripts/test-summary "$log" "$CAUSEWAY_TEST_PEERS" || status=1
exit "$status"
