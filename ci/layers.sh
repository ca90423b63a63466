#!/usr/bin/env bash
# Checks that the core's modules use only those below them. The layers, from the front door down;
# modules of one line are on one level and may use each other's files only if they are one module.
set -euo pipefail
cd "$(dirname "$0")/../src"

layers=(
    "lib"
    "global c_api"
    "stats"
    "malloc"
    "thread fork"
    "purger"
    "purge"
    "tls"
    "tcache"
    "arena"
    "huge meta window"
    "heap"
    "page_map limit pressure"
    "config"
    "check"
    "os"
    "size_class sync"
)
# The one way up: the facade of sync stands for the system's futex.
exceptions=("sync os")
# thread registers the handler of fork, on the same level.
exceptions+=("thread fork")

declare -A level
for i in "${!layers[@]}"; do
    for module in ${layers[$i]}; do level[$module]=$i; done
done

uses=0
bad=0
while IFS=: read -r file used; do
    module=${file#./}
    module=${module%%/*}
    module=${module%.rs}
    used=${used#crate::}
    uses=$((uses + 1))
    [ "$module" != "$used" ] || continue
    if [ -z "${level[$module]:-}" ] || [ -z "${level[$used]:-}" ]; then
        echo "src/${file#./}: '$module' or '$used' has no layer in ci/layers.sh"
        bad=1
    elif [ "${level[$used]}" -le "${level[$module]}" ] &&
        [[ ! " ${exceptions[*]/%/,} " == *" $module $used, "* ]]; then
        echo "src/${file#./} uses $used, which is not below $module"
        bad=1
    fi
done < <(
    # Code only: comments may speak of anything.
    find . -name '*.rs' -print0 | sort -z | while IFS= read -r -d '' file; do
        # A file may use nothing.
        sed 's://.*::' "$file" | { grep -o 'crate::[a-z_]*' || true; } | sort -u | sed "s|^|$file:|"
    done
)
[ "$uses" -ge 40 ] || { echo "only $uses uses found: the check checks nothing" >&2; exit 1; }
[ "$bad" -eq 0 ] || exit 1
echo "layers: $uses uses, all downward"
