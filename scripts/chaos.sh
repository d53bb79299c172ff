#!/usr/bin/env bash
# Everything fails at random, on each etcd, with a seed that is printed. CHAOS_SEED repeats one, CHAOS_SECONDS sets the time
# (default 120), CHAOS_ETCD (debian or newest) takes one etcd only.
set -euo pipefail
cd "$(dirname "$0")/.."

if ((EUID != 0)); then
  command -v sudo >/dev/null || { echo "chaos: run as root or install sudo: it makes network namespaces" >&2; exit 1; }
  # Compiled as the user, run as root.
  host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${host}_RUNNER=sudo -E"
fi
export CHAOS_SECONDS=${CHAOS_SECONDS:-120}
seed=${CHAOS_SEED:-}
for etcd in ${CHAOS_ETCD:-debian newest}; do
  export CHAOS_ETCD=$etcd CHAOS_SEED=${seed:-$RANDOM$RANDOM}
  echo "chaos: CHAOS_SEED=$CHAOS_SEED CHAOS_SECONDS=$CHAOS_SECONDS CHAOS_ETCD=$CHAOS_ETCD"
  cargo test --locked -p causeway-tests --test chaos -- --nocapture nobody_has_what_another_has
done
