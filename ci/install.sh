#!/usr/bin/env bash
# Installs what the tests need beyond Rust, and what the machine does not have yet: Debian's
# packages of the programs that the tests run, strace and a C++ compiler; or the packages that are
# named instead. Needs root, or sudo.
set -euo pipefail

packages=(
    build-essential strace dpkg-dev ca-certificates
    python3 memcached git perl php-cli sqlite3 ruby nodejs rustc binutils
)

sudo=()
if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi

# Installs those of the packages that are missing.
install() {
    local missing=() package
    for package in "$@"; do
        # nodejs may come from elsewhere, with a package of another name or none.
        if [ "$package" = nodejs ] && command -v node >/dev/null; then continue; fi
        if ! dpkg-query --show --showformat='${db:Status-Status}' "$package" 2>/dev/null |
            grep -qx installed; then
            missing+=("$package")
        fi
    done
    if [ "${#missing[@]}" -eq 0 ]; then return; fi
    echo "installing: ${missing[*]}"
    "${sudo[@]}" apt-get update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get install -y -qq \
        --no-install-recommends "${missing[@]}" >/dev/null
}

if [ "$#" -gt 0 ]; then
    install "$@"
    exit
fi
install "${packages[@]}"
# CPython's own tests are a package of its version.
install "lib$(basename "$(readlink -f /usr/bin/python3)")-testsuite"
