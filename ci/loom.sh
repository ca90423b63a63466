#!/usr/bin/env bash
# Runs the loom models of loom_tests/ on the shipping files of src/sync/.
set -euo pipefail
cd "$(dirname "$0")/.."

# A build of its own beside the others, and without what makes only shipping code better.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/loom
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
export RUSTFLAGS="${RUSTFLAGS:-} --cfg loom"
# The models set loom's bounds themselves.
unset "${!LOOM_@}"

log=$(mktemp)
trap 'rm -f "$log"' EXIT
if ! cargo test --release --package loom_tests --tests >"$log" 2>&1; then
    cat "$log"
    exit 1
fi
passed=$(sed -n 's/^test result: ok\. \([0-9]*\) passed.*/\1/p' "$log" | awk '{ n += $1 } END { print n + 0 }')
# A build in which the models are empty passes too.
for model in loom_tests/tests/*.rs; do
    name=$(basename "$model" .rs)
    tests=$(awk -v name="tests/$name.rs" '
        $1 == "Running" { here = $2 == name }
        here && /^test result: ok/ { print $4 }' "$log")
    if [ "${tests:-0}" -eq 0 ]; then
        cat "$log"
        echo "loom: no test of $model ran" >&2
        exit 1
    fi
done
[ "$passed" -ge 25 ] || { echo "loom: only $passed tests ran" >&2; exit 1; }
echo "loom: $passed tests of $(ls loom_tests/tests/*.rs | wc -l) models passed in $SECONDS s"
