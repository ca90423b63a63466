#!/usr/bin/env bash
# Builds Arenite, the peers and the inputs, measures every program on every allocator, and writes
# RESULTS.md, plots/ and the summary in the README. Options go to `suite run`; for example
#
#     suite/run.sh                  all: some hours
#     suite/run.sh --quick          smaller programs, a few minutes; the report is in target/suite/quick
#     suite/run.sh --resume         go on with what is not measured yet
#     suite/run.sh --settle 2       more runs where the two least CPU times of an allocator differ by over 2 %
#     suite/run.sh --only redis     measure this one again, and report on all
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

cargo build --release --locked --package arenite-preload --package suite
# All that these allocate is the process's malloc's, so that all allocators have the same to do.
cargo build --release --locked --package stress --features system --bins \
    --target-dir "${CARGO_TARGET_DIR:-target}/suite/stress"
suite/peers.sh
suite/inputs.sh
cargo run --release --locked --quiet --package suite --bin suite -- run "$@"
