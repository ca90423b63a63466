#!/usr/bin/env bash
# Checks that the files which README.md, ARCHITECTURE.md and CHANGELOG.md name are there.
set -euo pipefail
cd "$(dirname "$0")/.."

named=0
bad=0
while IFS=: read -r document path; do
    named=$((named + 1))
    # A path is said from the root, or from src/.
    if [ ! -e "$path" ] && [ ! -e "src/$path" ]; then
        echo "$document names $path, which is not there"
        bad=1
    fi
done < <(
    for document in README.md ARCHITECTURE.md CHANGELOG.md; do
        { grep -o '](\([^)#]*\))' "$document" | sed 's/^](//; s/)$//' | grep -v '^http' || true
          grep -o '`[A-Za-z0-9_./-]*/[A-Za-z0-9_./-]*\.\(rs\|sh\|toml\|md\|c\|cpp\)`' "$document" | tr -d '`' || true
        } | sort -u | sed "s|^|$document:|"
    done
)
[ "$named" -ge 20 ] || { echo "only $named files named: the check checks nothing" >&2; exit 1; }
[ "$bad" -eq 0 ]
echo "links: $named names, all there"
