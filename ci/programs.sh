#!/usr/bin/env bash
# Runs the tests of real programs on the preloaded library: all of tests/programs, or those named.
#
#     ci/programs.sh [NAME...]
set -euo pipefail
cd "$(dirname "$0")/.."
root=$PWD
target=${CARGO_TARGET_DIR:-$root/target}

cargo build --quiet --release --package arenite-preload --lib
export ARENITE_SO=$target/release/libarenite.so
# Built once, kept between runs.
export ARENITE_REDIS=$target/redis

names=("$@")
if [ "${#names[@]}" -eq 0 ]; then
    for script in tests/programs/*.sh; do
        name=${script##*/}
        [ "$name" = common.sh ] || names+=("${name%.sh}")
    done
fi
[ "${#names[@]}" -gt 0 ] || { echo "no tests of programs found" >&2; exit 1; }

failed=()
for name in "${names[@]}"; do
    scratch=$(mktemp -d)
    start=$SECONDS
    if (cd "$scratch" && timeout --kill-after=10 900 bash "$root/tests/programs/$name.sh" >log 2>&1); then
        printf 'program %-12s ok, %d s\n' "$name" "$((SECONDS - start))"
    else
        printf 'program %-12s FAILED\n' "$name"
        tail -n 60 "$scratch/log"
        failed+=("$name")
    fi
    rm -rf "$scratch"
done
if [ "${#failed[@]}" -gt 0 ]; then
    echo "${#failed[@]} of ${#names[@]} programs failed: ${failed[*]}"
    exit 1
fi
echo "${#names[@]} programs ran on Arenite as they should"
