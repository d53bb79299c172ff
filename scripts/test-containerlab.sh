#!/usr/bin/env bash
# The labs under the real containerlab: images from this repository's own definitions, Docker Engine started here if none
# runs, `quickstart` and `tor-offload` deployed unchanged, the same checks as under our own runner, and everything removed.
# containerlab itself comes from $CONTAINERLAB or the path: nobody but its authors can give it to you.
#
#   test-containerlab.sh [LAB…]        default: quickstart tor-offload
set -euo pipefail
cd "$(dirname "$0")/.."

containerlab=${CONTAINERLAB:-$(command -v containerlab || true)}
if [[ -z $containerlab || ! -x $containerlab ]]; then
  echo "test-containerlab: no containerlab: install it (https://containerlab.dev) or set CONTAINERLAB to the program" >&2
  exit 1
fi
if ((EUID != 0)); then echo "test-containerlab: run as root: Docker and network namespaces need it" >&2; exit 1; fi
containerlab=$(realpath "$containerlab")
labs=("$@")
((${#labs[@]})) || labs=(quickstart tor-offload)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

. scripts/docker.sh
trap docker_stop EXIT
docker_start
echo "test-containerlab: $("$containerlab" version 2>/dev/null | sed -n 's/^ *version: */containerlab /p'), $(docker version --format 'Docker {{.Server.Version}}')"

cargo build --locked --workspace --bins
labs/images/build.sh --docker

# containerlab makes links in the namespace that dockerd works in.
export CONTAINERLAB=$containerlab CAUSEWAY_LAB_RUNNER=containerlab CLAB_VERSION_CHECK=disable
tests=()
for lab in "${labs[@]}"; do tests+=(--test "${lab//-/_}"); done
cargo test --locked -p causeway-tests --no-run "${tests[@]}"
in_docker_namespace cargo test --locked -p causeway-tests "${tests[@]}" -- --test-threads 1 --nocapture
echo "test-containerlab: ${labs[*]}: all checks hold under containerlab"
