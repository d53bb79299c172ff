#!/usr/bin/env bash
# The benchmarks, in a release build, as root. Arguments go to causeway-bench (default: everything of the core).
set -euo pipefail
cd "$(dirname "$0")/.."

if [[ ${1:-} == datapath ]] && ((EUID != 0)); then
  echo "bench: run as root: datapath starts a dockerd and needs network namespaces" >&2
  exit 1
fi
target=${CARGO_TARGET_DIR:-target}
cargo build --release --workspace --bins --locked
sudo=()
if ((EUID != 0)); then sudo=(sudo --preserve-env=CARGO_TARGET_DIR,CAUSEWAY_CACHE); fi
if (($# == 0)); then set -- core; fi
# Docker as it comes, in a namespace that is the host of a container with nothing in it.
if [[ $1 == datapath ]]; then
  . scripts/docker.sh
  trap docker_stop EXIT
  EXTRA_PACKAGES=busybox-static scripts/setup.sh
  docker_start nat
  tar -C /bin -c busybox | docker import --change 'CMD ["/busybox", "sleep", "86400"]' - causeway-bench > /dev/null
  docker version --format 'Docker {{.Server.Version}}, started for this run'
  set -- "$@" --docker "$docker_netns"
fi
if [[ $1 != datapath ]]; then exec "${sudo[@]}" "$target/release/causeway-bench" "$@"; fi

said=$(mktemp)
trap 'docker_stop; rm -f "$said"' EXIT
"$target/release/causeway-bench" "$@" | tee "$said"
# What this kernel has not is measured in a guest, beside that guest's own bare hosts: ratios, at an emulated machine's pace.
names=$(sed -n 's/^\(.*\): not measured, this kernel has no .*/\1/p' "$said" | paste -sd,)
if [[ -n $names ]]; then
  echo "bench: $names: in a guest, with Debian's kernel"
  "$target/release/causeway" lab guest --memory 2048 --limit 1800 --share "$PWD/target/bench" -- \
    "$target/release/causeway-bench" datapath --only "bridge,$names" --round-trips 6000 --out target/bench/datapath-guest.json
fi
