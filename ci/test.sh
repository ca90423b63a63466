#!/usr/bin/env bash
# All tests, in the order in which they fail fastest. Installs what they need (see ci/install.sh).
set -euo pipefail
cd "$(dirname "$0")/.."

step() {
    echo
    echo "== $1 ($SECONDS s)"
    shift
    "$@"
}

step "packages" ci/install.sh
step "layers" ci/layers.sh
step "files that the documents name" ci/links.sh
left_out=""
if cargo fmt --version >/dev/null 2>&1; then
    step "format" cargo fmt --all --check
else
    left_out+=" (not the format: no cargo fmt)"
fi
if cargo clippy --version >/dev/null 2>&1; then
    step "clippy" cargo clippy --quiet --workspace --all-targets -- --deny warnings
    step "clippy, as in a library" cargo clippy --quiet -p arenite --all-targets --features dynamic_tls \
        -- --deny warnings
else
    left_out+=" (not the lints: no cargo clippy)"
fi
step "build" cargo build --release
step "fast paths" ci/fast_paths.sh
step "unit and integration tests" cargo test --quiet --workspace
step "misuse, fork, threads, limits and page sizes with the invariants checked" ci/checked.sh
step "loom models" ci/loom.sh
step "loom models see what they are for: one of them" ci/loom_mutants.sh depot
step "the mutants of the others apply" ci/loom_mutants.sh --apply
step "short stress" ci/stress.sh
step "real programs" ci/programs.sh
step "64-bit ARM, emulated" ci/aarch64.sh
echo
echo "all tests passed in $SECONDS s$left_out"
