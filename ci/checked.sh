#!/usr/bin/env bash
# Runs the tests of the preloaded library, and those with pages of 16 and 64 KiB, on a build that
# checks its invariants and lock order.
set -euo pipefail
cd "$(dirname "$0")/.."
target=${CARGO_TARGET_DIR:-$PWD/target}

cargo build --quiet --profile checked --package arenite-preload --lib
export ARENITE_SO=$target/checked/libarenite.so
cargo test --quiet --release --package arenite-preload \
    --test c_api --test misuse --test fork --test threads --test limits --test purge \
    --test drain --test helper --test refusals
# The heaps, huge blocks and trims of machines with larger pages.
cargo test --quiet --profile checked --package arenite \
    --test heap_pages --test pages_16k --test pages_64k
for bytes in 16384 65536; do
    ARENITE_CONF=page_size:$bytes cargo test --quiet --release --package arenite-preload \
        --test c_api --test misuse
done
