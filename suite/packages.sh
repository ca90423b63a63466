# Sourced by the scripts beside it: Debian packages, installed when they are missing.

# install_packages NAME...: as root, or by sudo.
install_packages() {
    local missing=() sudo=() package
    for package in "$@"; do
        if [ "$(package_status "$package")" != installed ]; then missing+=("$package"); fi
    done
    if [ "${#missing[@]}" -eq 0 ]; then return; fi
    if [ "$(id -u)" -ne 0 ]; then sudo=(sudo); fi
    echo "installing: ${missing[*]}" >&2
    "${sudo[@]}" apt-get -o DPkg::Lock::Timeout=600 update -qq
    "${sudo[@]}" env DEBIAN_FRONTEND=noninteractive apt-get -o DPkg::Lock::Timeout=600 install -y -qq \
        --no-install-recommends "${missing[@]}" >/dev/null
}

package_status() {
    dpkg-query --show --showformat='${db:Status-Status}' "$1" 2>/dev/null || true
}

package_version() {
    dpkg-query --show --showformat='${Version}' "$1"
}

# newest_llvm: the number of the newest LLVM whose clang and whose run-time libraries Debian has.
newest_llvm() {
    comm -12 <(apt-cache pkgnames clang- | sed -n 's/^clang-\([0-9]*\)$/\1/p' | sort) \
        <(apt-cache pkgnames libclang-rt- | sed -n 's/^libclang-rt-\([0-9]*\)-dev$/\1/p' | sort) |
        sort -n | tail -n 1
}
