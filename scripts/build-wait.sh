#!/usr/bin/env bash
# Builds causeway-wait alone, linked statically, for images that have no C library: target/static/causeway-wait.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

arch=$(uname -m)
target=${CAUSEWAY_WAIT_TARGET:-$arch-unknown-linux-gnu}
out=${CARGO_TARGET_DIR:-target}
# With --target the flags are for the program alone, not for what builds it.
RUSTFLAGS="-C target-feature=+crt-static -C opt-level=s -C panic=abort -C strip=symbols" \
    cargo build --locked --release --package causeway-wait --target "$target"
mkdir -p "$out/static"
cp "$out/$target/release/causeway-wait-static" "$out/static/causeway-wait"
# A program that asks for a loader is not static.
if readelf --program-headers --wide "$out/static/causeway-wait" | grep -q INTERP; then
    echo "build-wait: $out/static/causeway-wait is not static" >&2
    exit 1
fi
echo "$out/static/causeway-wait: $(stat -c %s "$out/static/causeway-wait") bytes"
