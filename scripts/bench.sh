#!/usr/bin/env bash
# The benchmarks, in a release build, as root. Arguments go to causeway-bench (default: everything of the core).
set -euo pipefail
cd "$(dirname "$0")/.."

target=${CARGO_TARGET_DIR:-target}
cargo build --release --workspace --bins --locked
sudo=()
if ((EUID != 0)); then sudo=(sudo --preserve-env=CARGO_TARGET_DIR,CAUSEWAY_CACHE); fi
if (($# == 0)); then set -- core; fi
"${sudo[@]}" "$target/release/causeway-bench" "$@"
