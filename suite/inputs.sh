#!/usr/bin/env bash
# Installs the programs of the suite, builds redis, and writes the generated inputs into
# target/suite/inputs. Needs root or sudo for the packages.
#
#     suite/inputs.sh
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}

source "$here/packages.sh"
packages=(build-essential ca-certificates dpkg-dev ghostscript lua5.4 perl python3 python3-numpy ruby rustc sqlite3 z3)
# nodejs may come from elsewhere, with a package of another name or none.
if ! command -v node >/dev/null; then packages+=(nodejs); fi
install_packages "${packages[@]}"

# Debian's redis brings jemalloc; the test of redis builds one that uses the C library's malloc.
if [ ! -x "$target/redis/redis-server" ]; then "$here/../ci/programs.sh" redis; fi

mkdir -p "$target/suite/inputs"
/usr/bin/python3 "$here/inputs.py" "$target/suite/inputs"
