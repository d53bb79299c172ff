#!/usr/bin/env bash
# Format, clippy, documentation, licences and sources of every crate. Nothing is changed, everything is an error.
set -euo pipefail
cd "$(dirname "$0")/.."

deny_version=0.20.2

step() { printf '== %s\n' "$*"; }

# cargo-deny: from PATH if it is this version, else built once into the cache (or target/, without rights there).
deny() {
  local tools=${CAUSEWAY_CACHE:-/var/cache/causeway}/tools
  mkdir -p "$tools" 2>/dev/null && [[ -w $tools ]] || tools=$PWD/${CARGO_TARGET_DIR:-target}/tools
  PATH=$tools/bin:$PATH
  if [[ $(cargo-deny --version 2>/dev/null) != "cargo-deny $deny_version" ]]; then
    step "building cargo-deny $deny_version (once, about 3 min)"
    CARGO_TARGET_DIR=$tools/build cargo install --quiet --locked --root "$tools" --version "$deny_version" cargo-deny
    rm -rf "$tools/build"
  fi
  cargo-deny --locked check --hide-inclusion-graph licenses bans sources
}

step "cargo fmt --check"
cargo fmt --all --check
step "cargo clippy, warnings are errors"
cargo clippy --workspace --all-targets --locked -- -D warnings
step "cargo doc, warnings are errors"
RUSTDOCFLAGS="-D warnings" cargo doc --workspace --no-deps --locked --quiet
step "licences, banned crates, sources"
deny
step "lint: ok"
