#!/usr/bin/env bash
# Everything fails at random, on each etcd, with the fixed seed and with a random one, which are printed. CHAOS_SEED takes these
# seeds instead ("5 77"), CHAOS_SECONDS sets the time of a run (default 120), CHAOS_ETCD (debian or newest) takes one etcd only.
# All runs are made, also when one finds something; the exit status is 1 then.
set -euo pipefail
cd "$(dirname "$0")/.."

if ((EUID != 0)); then
  command -v sudo >/dev/null || { echo "chaos: run as root or install sudo: it makes network namespaces" >&2; exit 1; }
  # Compiled as the user, run as root.
  host=$(rustc -vV | sed -n 's/^host: //p' | tr 'a-z-' 'A-Z_')
  export "CARGO_TARGET_${host}_RUNNER=sudo -E"
fi
export CHAOS_SECONDS=${CHAOS_SECONDS:-120}
seeds=${CHAOS_SEED:-5 $RANDOM$RANDOM}
failed=()
for etcd in ${CHAOS_ETCD:-debian newest}; do
  for seed in $seeds; do
    export CHAOS_ETCD=$etcd CHAOS_SEED=$seed
    run="CHAOS_SEED=$CHAOS_SEED CHAOS_SECONDS=$CHAOS_SECONDS CHAOS_ETCD=$CHAOS_ETCD"
    echo "chaos: $run"
    cargo test --locked -p causeway-tests --test chaos -- --nocapture nobody_has_what_another_has || failed+=("$run")
  done
done
for run in "${failed[@]}"; do
  echo "chaos: failed: $run scripts/chaos.sh" >&2
done
((${#failed[@]} == 0))
