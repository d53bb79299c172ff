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
"${sudo[@]}" "$target/release/causeway-bench" "$@"
