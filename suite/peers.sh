#!/usr/bin/env bash
# Builds the newest release of every peer allocator, as the shared library that its authors mean to
# be preloaded, into target/peers or DIRECTORY, and writes the table versions.tsv beside them.
#
#     suite/peers.sh [DIRECTORY]
#
# The sources are what crates of crates.io ship (peers/Cargo.lock pins them); gperftools and Scudo
# are Debian's packages. What is built already and unchanged is not built again. Needs root or sudo
# for the packages.
set -euo pipefail
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
target=${CARGO_TARGET_DIR:-$here/../target}
mkdir -p "$target" "${1:-$target/peers}"
out=$(cd "${1:-$target/peers}" && pwd)
work=$(cd "$target" && pwd)/peers-build
mkdir -p "$work"
jobs=$(nproc)

source "$here/packages.sh"
# Scudo comes with LLVM, and snmalloc's and TCMalloc's authors build with clang: the newest there is.
llvm=$(newest_llvm)
install_packages build-essential cmake python3 libtcmalloc-minimal4 \
    "clang-$llvm" "lld-$llvm" "libclang-rt-$llvm-dev"

cargo fetch --quiet --locked --manifest-path "$here/peers/Cargo.toml"
cargo metadata --format-version 1 --locked --manifest-path "$here/peers/Cargo.toml" >"$work/metadata.json"

# crate NAME: the folder of its sources.
crate() {
    /usr/bin/python3 -c 'import json, os, sys
for p in json.load(open(sys.argv[1]))["packages"]:
    if p["name"] == sys.argv[2]: print(os.path.dirname(p["manifest_path"]))' "$work/metadata.json" "$1"
}

# crate_name DIRECTORY: "NAME VERSION" of a crate.
crate_name() { basename "$1" | sed 's/+.*//; s/-\([0-9]\)/ \1/'; }

# define FILE MACRO: the value of a #define.
define() { sed -n "s/^#define $2[[:space:]]*\([^[:space:]]*\).*/\1/p" "$1"; }

build_mimalloc() {
    local source
    source=$(crate libmimalloc-sys2)
    local number
    number=$(define "$source/c_src/mimalloc3/include/mimalloc.h" MI_MALLOC_VERSION)
    version=$((number / 10000)).$((number / 100 % 100)).$((number % 100))
    from="crate $(crate_name "$source")" compiler=$gcc
    built mimalloc && return
    cmake -S "$source/c_src/mimalloc3" -B "$scratch" -DCMAKE_BUILD_TYPE=Release \
        -DMI_BUILD_SHARED=ON -DMI_BUILD_STATIC=OFF -DMI_BUILD_OBJECT=OFF -DMI_BUILD_TESTS=OFF
    cmake --build "$scratch" -j"$jobs"
    cp -L "$scratch/libmimalloc.so" "$library"
}

build_jemalloc() {
    local source
    source=$(crate tikv-jemalloc-sys)
    local full=${source##*+}
    version=${full%%-*}
    from="crate $(crate_name "$source")" compiler=$gcc
    built jemalloc && return
    cp -r "$source/jemalloc/." "$scratch"
    cp "$source/configure/configure" "$scratch"
    (cd "$scratch" && ./configure --with-version="$full" --disable-doc && make -j"$jobs" build_lib_shared)
    cp -L "$scratch/lib/libjemalloc.so" "$library"
}

build_snmalloc() {
    local source
    source=$(crate snmalloc-sys)
    version=$(sed -n 's/.*"sha1": "\(.\{10\}\).*/\1/p' "$source/.cargo_vcs_info.json")
    version="${source##*-} (commit $version)"
    from="crate $(crate_name "$source")" compiler=$clang
    built snmalloc && return
    cmake -S "$source/upstream" -B "$scratch" -DCMAKE_BUILD_TYPE=Release -DSNMALLOC_BUILD_TESTING=OFF \
        -DCMAKE_CXX_COMPILER="clang++-$llvm" -DCMAKE_C_COMPILER="clang-$llvm"
    cmake --build "$scratch" -j"$jobs" --target snmallocshim
    cp -L "$scratch/libsnmallocshim.so" "$library"
}

build_rpmalloc() {
    local source
    source=$(crate rpmalloc-sys)
    version=$(head -n 1 "$source/rpmalloc/CHANGELOG")
    from="crate $(crate_name "$source")" compiler=$clang
    built rpmalloc && return
    # The flags of its configure.py for a release, and what it defines for rpmallocwrap.
    "clang-$llvm" -std=gnu11 -O3 -funroll-loops -fomit-frame-pointer -fno-math-errno -w -fPIC -shared \
        -D_GNU_SOURCE=1 -DBUILD_RELEASE=1 -DNDEBUG -DENABLE_PRELOAD=1 -DENABLE_OVERRIDE=1 \
        "$source/rpmalloc/rpmalloc/rpmalloc.c" -o "$library" -lpthread -ldl
}

# Its files are those of the crate's build script, with the C symbols that the crate leaves out. It
# has no releases; its Bazel build is -O2 with frame pointers.
build_tcmalloc() {
    local source
    source=$(crate libtcmalloc-sys)
    version="2025-06-16"
    from="crate $(crate_name "$source")" compiler=$clang
    built tcmalloc && return
    mkdir -p "$scratch/objects"
    {
        grep -o '"c_src/[^"]*\.\(cc\|S\)"' "$source/build.rs" | tr -d '"' | grep -v bridge
        echo c_src/tcmalloc/tcmalloc/tcmalloc.cc
    } >"$scratch/files"
    export source scratch llvm
    compile() {
        local language=(-std=c++17)
        if [[ $1 == *.S ]]; then language=(); fi
        "clang++-$llvm" "${language[@]}" -O2 -DNDEBUG -DTCMALLOC_INTERNAL_8K_PAGES -w -fPIC \
            -ftls-model=initial-exec -fno-omit-frame-pointer -I"$source/c_src/abseil-cpp" \
            -I"$source/c_src/tcmalloc" -c "$source/$1" -o "$scratch/objects/${1//\//_}.o"
    }
    export -f compile
    xargs -P "$jobs" -I{} bash -c 'compile {}' <"$scratch/files"
    "clang++-$llvm" -shared -o "$library" "$scratch"/objects/*.o -fuse-ld=lld -lpthread -lrt \
        -Wl,--gc-sections
}

# Upstream's Makefile is not in the crate; its flags, with the configuration that the crate says is
# upstream's default, and without -march=native, which no other library here has.
build_hardened_malloc() {
    local source sources configuration
    source=$(crate hardened-malloc-sys)
    version=${source##*-}
    from="crate $(crate_name "$source")" compiler=$clang
    built hardened_malloc && return
    sources=$source/vendor/hardened-malloc
    mapfile -t configuration < <(sed -n 's/^\([A-Z_]*=[a-z0-9]*\).*/-D\1/p' "$source/config-default.conf")
    local common=(-O3 -w -fPIC -fvisibility=hidden -D_GNU_SOURCE=1 "${configuration[@]}"
        -I"$sources" -I"$sources/include" -I"$sources/third_party")
    local file
    for file in chacha h_malloc memory pages random util; do
        "clang-$llvm" -std=c2x "${common[@]}" -c "$sources/$file.c" -o "$scratch/$file.o"
    done
    "clang++-$llvm" -std=c++17 "${common[@]}" -fsized-deallocation -c "$sources/new.cc" -o "$scratch/new.o"
    "clang++-$llvm" -shared -o "$library" "$scratch"/*.o -lpthread -ldl -Wl,-z,defs,-z,relro,-z,now
}

build_tcmalloc_minimal() {
    version=$(package_version libtcmalloc-minimal4) from="Debian libtcmalloc-minimal4" compiler=Debian
    built tcmalloc_minimal && return
    cp -L "$(dpkg -L libtcmalloc-minimal4 | grep -m 1 'libtcmalloc_minimal\.so\.')" "$library"
}

build_scudo() {
    local package=libclang-rt-$llvm-dev
    version=$(package_version "$package") from="Debian $package" compiler=Debian
    built scudo && return
    cp -L "$(dpkg -L "$package" | grep -m 1 "scudo_standalone-$(uname -m)\.so$")" "$library"
}

# built NAME: whether the library is there, of these sources and this compiler. Otherwise makes
# `scratch`, an empty folder. Sets `library`.
built() {
    library=$out/lib$1.so
    stamp=$work/$1.stamp
    if [ -s "$library" ] && [ "$(cat "$stamp" 2>/dev/null)" = "$version $from $compiler $library" ]; then
        return 0
    fi
    rm -f "$stamp" "$library"
    scratch=$work/$1
    rm -rf "$scratch"
    mkdir -p "$scratch"
    return 1
}

gcc="gcc $(gcc -dumpfullversion)"
clang="clang $("clang-$llvm" -dumpversion)"
names=(jemalloc mimalloc snmalloc rpmalloc tcmalloc tcmalloc_minimal scudo hardened_malloc)
rows=() failed=()
for name in "${names[@]}"; do
    echo "peer $name" >&2
    # Not in a condition, where the shell would go on after errors.
    set +e
    (
        set -e
        "build_$name"
        echo "$version $from $compiler $library" >"$stamp"
        printf '%s\t%s\t%s\t%s\t%s\n' "$name" "$version" "lib$name.so" "$compiler" "$from" >"$work/$name.row"
    ) >"$work/$name.log" 2>&1
    status=$?
    set -e
    if [ "$status" -ne 0 ]; then
        tail -n 20 "$work/$name.log" >&2
        failed+=("$name does not build (see $work/$name.log)")
        continue
    fi
    rows+=("$work/$name.row")
    # Preloaded, it must work, and it must be there: the loader only warns about one that is not.
    if [ "$(env LD_PRELOAD="$out/lib$name.so" /usr/bin/python3 -c 'print(sum(range(10**6)))' 2>&1)" != 499999500000 ] ||
        [ "$(env LD_PRELOAD="$out/lib$name.so" /usr/bin/python3 -c \
            'print("lib'"$name"'.so" in open("/proc/self/maps").read())')" != True ]; then
        failed+=("$name does not run python3")
    fi
done

{
    printf 'name\tversion\tlibrary\tcompiler\tfrom\n'
    cat "${rows[@]}"
} >"$out/versions.tsv"
column -t -s $'\t' "$out/versions.tsv"
if [ "${#failed[@]}" -gt 0 ]; then
    printf '%s\n' "${failed[@]}" >&2
    exit 1
fi
echo "all ${#names[@]} peers run python3 preloaded"
