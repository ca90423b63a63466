#!/usr/bin/env bash
# Counts the instructions of the fast paths of malloc and free, in C and in C++, in libarenite.so, from the entry
# to the first return, and fails if there are more than 16 and 22, or any locked one.
set -euo pipefail
cd "$(dirname "$0")/.."
library=${1:-${CARGO_TARGET_DIR:-target}/release/libarenite.so}
if [ "$(uname -m)" != x86_64 ]; then
    echo "fast paths: not counted on $(uname -m)"
    exit 0
fi

fast_path() { # SYMBOL
    local start
    start=$(nm -D --defined-only "$library" | awk -v name="$1" '$3 == name { print $1 }')
    [ -n "$start" ] || { echo "no symbol $1 in $library" >&2; exit 1; }
    objdump -d --no-show-raw-insn --start-address="0x$start" \
        --stop-address="$(printf '0x%x' $((0x$start + 256)))" "$library" |
        awk -F'\t' '/^ /{ print $2; if ($2 ~ /^ret/) exit }'
}

check() { # SYMBOL MOST
    local code count
    code=$(fast_path "$1")
    count=$(wc -l <<<"$code")
    if ! tail -n 1 <<<"$code" | grep -q '^ret' || [ "$count" -lt 5 ]; then
        echo "fast path of $1: not found" >&2
        exit 1
    fi
    if grep -Eq '^lock|xchg|^call' <<<"$code"; then
        echo "fast path of $1 has a locked instruction or a call:" >&2
        echo "$code" >&2
        exit 1
    fi
    echo "fast path of $1: $count instructions (at most $2)"
    [ "$count" -le "$2" ] || { echo "$code" >&2; exit 1; }
}

check malloc 16
check free 22
# C++'s operators new and delete.
check _Znwm 16
check _ZdlPv 22

# The library can not panic, and links nothing but libc.
# Not `grep -q`, which ends before nm does: with pipefail that fails, and looks like no panic.
if panics=$(nm -C "$library" | grep -i panic); then
    echo "libarenite.so contains panics:" >&2
    echo "$panics" >&2
    exit 1
fi
needed=$(readelf -d "$library" | grep -o 'NEEDED.*\[.*\]' | sed 's/.*\[//; s/\]//' | grep -v '^ld-linux' || true)
if [ "$needed" != libc.so.6 ]; then
    echo "libarenite.so links: $needed" >&2
    exit 1
fi
