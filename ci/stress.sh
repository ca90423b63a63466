#!/usr/bin/env bash
# Runs every stress binary for a short time, with the invariants and the lock order checked, and
# with free memory given back soon, so that what is purged meets what is in use.
#
#     ci/stress.sh [SECONDS]
set -euo pipefail
cd "$(dirname "$0")/.."
seconds=${1:-4}
target=${CARGO_TARGET_DIR:-target}

cargo build --quiet --profile checked --package stress --bins
export ARENITE_CONF=decay_ms:20
names=()
for source in stress/src/bin/*.rs; do
    name=${source##*/}
    names+=("${name%.rs}")
done
[ "${#names[@]}" -ge 8 ] || { echo "only ${#names[@]} stress binaries" >&2; exit 1; }
seed=$RANDOM
echo "seed $seed"
for name in "${names[@]}"; do
    for threads in 2 8; do
        timeout 300 "$target/checked/$name" --threads "$threads" --seconds "$seconds" --seed "$seed" |
            tail -n 1
    done
done
# 10,000 threads in batches of 50.
timeout 300 "$target/checked/thread_churn" --threads 50 --ops 10000 --main-frees --max-growth 2 --seed 1 | tail -n 2
