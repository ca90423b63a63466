#!/usr/bin/env bash
# Builds for 64-bit ARM, and runs there, emulated by qemu, what does not depend on the emulator: the core's
# tests, and C and C++ programs on the preloaded library. Installs what it needs, as ci/install.sh does; rustup must
# be there, and get the target's standard library; without it, nothing is tested, which is said.
set -euo pipefail
cd "$(dirname "$0")/.."

target=aarch64-unknown-linux-gnu
system=/usr/aarch64-linux-gnu

if [ "$(uname -m)" != x86_64 ]; then
    echo "aarch64: not tested, it is emulated on x86_64 only"
    exit 0
fi
if ! { command -v rustup && rustup target add "$target"; } >/dev/null 2>&1; then
    echo "aarch64: NOT tested, rustup has no standard library for it here"
    exit 0
fi
ci/install.sh gcc-aarch64-linux-gnu g++-aarch64-linux-gnu qemu-user

export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_LINKER=aarch64-linux-gnu-gcc
export CARGO_TARGET_AARCH64_UNKNOWN_LINUX_GNU_RUNNER="qemu-aarch64 -L $system"
build=${CARGO_TARGET_DIR:-target}/$target

cargo test --quiet --target "$target" -p arenite --lib
for file in tests/*.rs; do
    test=$(basename "$file" .rs)
    case $test in
    # Huge pages qemu does not pass on; a test that starts itself anew it does not run.
    huge_pages | settings) continue ;;
    # No harness, which would know what to skip.
    heap_pages) skip=() ;;
    *) skip=(-- --skip heaps_go_back_to_the_kernel) ;;
    esac
    cargo test --quiet --target "$target" -p arenite --test "$test" "${skip[@]}"
done

cargo build --quiet --release --target "$target" -p arenite-preload --lib
cargo build --quiet --release --target "$target" -p arenite --example plugin --features dynamic_tls
programs=$(mktemp -d)
trap 'rm -r "$programs"' EXIT
flags=(-O1 -g -fno-builtin -pthread -w)
cxx=(aarch64-linux-gnu-g++ -std=c++17 -fsized-deallocation "${flags[@]}")
c=(aarch64-linux-gnu-gcc "${flags[@]}")
"${cxx[@]}" -o "$programs/new_delete" preload/tests/c/new_delete.cpp -ldl
"${cxx[@]}" -shared -fPIC -o "$programs/plugin.so" preload/tests/c/plugin.cpp
"${c[@]}" -shared -fPIC -o "$programs/deep.so" preload/tests/c/deep.c
"${c[@]}" -o "$programs/host" preload/tests/c/host.c -ldl
"${c[@]}" -o "$programs/threads" preload/tests/c/threads.c
"${c[@]}" -o "$programs/c_api" preload/tests/c/c_api.c -ldl

runs=0
run() {
    timeout 300 qemu-aarch64 -L "$system" -E LD_PRELOAD="$build/release/libarenite.so" "$programs/$@" \
        >/dev/null
    runs=$((runs + 1))
}
# The dynamic linker only warns about what it can not load.
run c_api origin libarenite malloc calloc realloc free posix_memalign _Znwm _ZdlPv
# (Not what limits the address space, or looks at what is resident: that is qemu's, too.)
for mode in forms null_is_nothing zero_is_unique throwing not_throwing not_throwing_handler_throws \
    everyday; do
    run new_delete "$mode"
done
run host "$programs/plugin.so"
run host "$programs/deep.so" deep
run host "$build/release/examples/libplugin.so"
for mode in travel producer_consumer detached cancellation; do
    run threads "$mode"
done
echo "aarch64: the core's tests, and $runs runs of C and C++ programs"
