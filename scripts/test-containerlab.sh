#!/usr/bin/env bash
# The labs under the real containerlab: images from this repository's own definitions, Docker Engine started here if none
# runs, every lab deployed from its file as it is, `quickstart` and `tor-offload` with the same checks as under our own
# runner, and everything removed. A lab that needs more than this machine's kernel has goes into a guest, with a Docker
# Engine of its own; one line says so. containerlab itself comes from $CONTAINERLAB or the path: nobody but its authors
# can give it to you.
#
#   test-containerlab.sh [TEST…]       of tests/tests; default: quickstart tor_offload every_lab
set -euo pipefail
cd "$(dirname "$0")/.."

containerlab=${CONTAINERLAB:-$(command -v containerlab || true)}
if [[ -z $containerlab || ! -x $containerlab ]]; then
  echo "test-containerlab: no containerlab: install it (https://containerlab.dev) or set CONTAINERLAB to the program" >&2
  exit 1
fi
if ((EUID != 0)); then echo "test-containerlab: run as root: Docker and network namespaces need it" >&2; exit 1; fi
containerlab=$(realpath "$containerlab")
tests=("$@")
((${#tests[@]})) || tests=(quickstart tor_offload every_lab)
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}

. scripts/docker.sh
trap docker_stop EXIT
docker_start
echo "test-containerlab: $("$containerlab" version 2>/dev/null | sed -n 's/^ *version: */containerlab /p'), $(docker version --format 'Docker {{.Server.Version}}')"

cargo build --locked --workspace --bins
labs/images/build.sh --docker
# What these images were before is of no use; in somebody else's Docker it is theirs to remove.
if [[ -n $docker_dir ]]; then docker image prune --force >/dev/null; fi

# containerlab makes links in the namespace that dockerd works in.
export CONTAINERLAB=$containerlab CAUSEWAY_LAB_RUNNER=containerlab CLAB_VERSION_CHECK=disable
selected=()
for test in "${tests[@]}"; do selected+=(--test "${test//-/_}"); done
cargo test --locked -p causeway-tests --no-run "${selected[@]}"
in_docker_namespace cargo test --locked --no-fail-fast -p causeway-tests "${selected[@]}" -- --test-threads 1 --nocapture
echo "test-containerlab: ${tests[*]}: all checks hold under containerlab"
