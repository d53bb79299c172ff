#!/usr/bin/env bash
# Runs every target of fuzz/ (or those named), together for FUZZ_SECONDS (default 60), guided by coverage. Needs neither a
# nightly toolchain nor cargo-fuzz: the targets are built as cargo-fuzz builds them without a sanitizer, which safe Rust
# has little use for. Inputs that fail stay in fuzz/artifacts/TARGET, found ones in fuzz/corpus/TARGET; inputs to start
# from, and those that failed once, are kept in fuzz/seeds/TARGET.
set -euo pipefail
cd "$(dirname "$0")/.."

die() { printf 'fuzz: %s\n' "$*" >&2; exit 1; }

total=${FUZZ_SECONDS:-60}
[[ $total =~ ^[1-9][0-9]*$ ]] || die "FUZZ_SECONDS must be a number of seconds, not '$total'"
targets=("$@")
if ((${#targets[@]} == 0)); then
  for file in fuzz/fuzz_targets/*.rs; do
    [[ -e $file ]] || die "there are no targets in fuzz/fuzz_targets"
    file=${file##*/}
    targets+=("${file%.rs}")
  done
fi
each=$((total / ${#targets[@]}))
((each > 0)) || each=1

host=$(rustc -vV | sed -n 's/^host: //p')
out=${CARGO_TARGET_DIR:-$PWD/fuzz/target}
[[ ${CARGO_TARGET_DIR:-} ]] && out=$out/fuzz
# Coverage counters and compare tracing for libFuzzer; overflow and debug assertions stay on.
flags=(
  --cfg fuzzing -Cpasses=sancov-module -Cllvm-args=-sanitizer-coverage-level=4
  -Cllvm-args=-sanitizer-coverage-inline-8bit-counters -Cllvm-args=-sanitizer-coverage-pc-table
  -Cllvm-args=-sanitizer-coverage-trace-compares -Cdebug-assertions -Coverflow-checks
)
# With --target, build scripts and procedural macros are built without these flags.
CARGO_TARGET_DIR=$out RUSTFLAGS="${flags[*]}" \
  cargo build --locked --release --manifest-path fuzz/Cargo.toml --target "$host" --bins

# Ten million messages, mutated from valid ones: a fixed number of inputs, each repeatable by its seed.
if (($# == 0)); then
  seed=${MUTATE_SEED:-$RANDOM}
  printf '== 10 million mutated messages, MUTATE_SEED=%s\n' "$seed"
  cargo run --locked --quiet -p causeway-bgp --example mutate -- 10 "$seed"
fi

failed=()
for target in "${targets[@]}"; do
  program=$out/$host/release/$target
  [[ -x $program ]] || die "no such target: $target"
  mkdir -p "fuzz/corpus/$target" "fuzz/artifacts/$target"
  inputs=("fuzz/corpus/$target")
  [[ -d fuzz/seeds/$target ]] && inputs+=("fuzz/seeds/$target")
  log=$out/$target.log
  printf '== %s for %s s\n' "$target" "$each"
  # A single input that takes 5 s is a hang; 1 GiB for one process is a leak.
  if ! "$program" -max_total_time="$each" -timeout=5 -rss_limit_mb=1024 -max_len=65535 -len_control=50 -print_final_stats=1 \
    -artifact_prefix="fuzz/artifacts/$target/" "${inputs[@]}" > "$log" 2>&1; then
    tail -n 60 "$log" >&2
    failed+=("$target")
  fi
  awk '/stat::number_of_executed_units/ { runs = $2 } /^stat::peak_rss_mb/ { rss = $2 } / cov: / { for (i = 1; i < NF; i++) if ($i == "cov:") cov = $(i + 1) }
    END { printf "%d inputs, %d points covered, %d MB\n", runs, cov, rss }' "$log"
done
((${#failed[@]} == 0)) || die "failed: ${failed[*]} (inputs in fuzz/artifacts)"
