#!/usr/bin/env bash
# Runs a command with a Docker Engine of its own: in a guest, which has none but can read the machine's.
#
#   with-docker.sh DIRECTORY COMMAND…        DIRECTORY: where the machine's Engine keeps its data, in overlay2
set -euo pipefail
export DOCKER_IMAGES_OF=$1
shift
home=$PWD
cd "$(dirname "$0")/.."
. scripts/docker.sh
trap docker_stop EXIT
start=$SECONDS
unset DOCKER_HOST
docker_start
echo "with-docker: $(docker version --format 'Docker {{.Server.Version}}') with $(docker images --quiet | wc -l) images after $((SECONDS - start)) s"
cd "$home"
in_docker_namespace "$@"
