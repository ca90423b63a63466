#!/usr/bin/env bash
# redis-server under redis-benchmark. The distribution's own binary brings jemalloc, so this one is built
# from its source package with the C library's malloc, which Arenite then replaces.
source "${BASH_SOURCE%/*}/common.sh"

build=${ARENITE_REDIS:-$PWD}
if [ ! -x "$build/redis-server" ]; then
    mkdir -p lists/partial source "$build"
    source /etc/os-release
    case $ID in
    ubuntu) echo "deb-src http://archive.ubuntu.com/ubuntu $VERSION_CODENAME main universe" ;;
    *) echo "deb-src http://deb.debian.org/debian $VERSION_CODENAME main" ;;
    esac >src.list
    apt=(apt-get -qq -o "Dir::Etc::SourceList=$PWD/src.list" -o Dir::Etc::SourceParts=/dev/null
        -o "Dir::State::Lists=$PWD/lists" -o APT::Sandbox::User=)
    "${apt[@]}" update
    (cd source && "${apt[@]}" source --download-only redis >/dev/null)
    tar xf source/redis_*.orig.tar.gz -C source
    if ! make -C source/redis-*/ -j"$(nproc)" MALLOC=libc >make.log 2>&1; then
        tail -n 40 make.log >&2
        fail "redis does not build"
    fi
    cp source/redis-*/src/redis-{server,cli,benchmark} "$build"
fi

port=$((20000 + RANDOM % 20000))
serve "$build/redis-server" --port "$port" --save '' --appendonly no --io-threads 2 --dir "$PWD"
cli() { "$build/redis-cli" -p "$port" "$@"; }
wait_for cli ping

"$build/redis-benchmark" -p "$port" -n 40000 -c 30 -P 8 -r 10000 -d 300 -q \
    -t set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100,mset >benchmark.log
[ "$(grep -ac 'requests per second' benchmark.log)" -ge 10 ] || fail "$(cat benchmark.log)"
if grep -aiq error benchmark.log; then fail "$(cat benchmark.log)"; fi

# What goes in comes out, through a fork that saves, a restart of nothing, and a script.
for i in $(seq 200); do echo "SET key:$i value-$i-$(printf '%*s' "$i" '' | tr ' ' x)"; done | cli >/dev/null
[ "$(cli GET key:77)" = "value-77-$(printf '%77s' '' | tr ' ' x)" ] || fail "a value changed"
[ "$(cli EVAL 'local n = 0 for i = 1, 200 do n = n + #redis.call("GET", "key:" .. i) end return n' 0)" \
    = "$(for i in $(seq 200); do printf 'value-%d-' "$i"; printf '%*s' "$i" ''; done | wc -c)" ] ||
    fail "the sum of lengths is wrong"
[ "$(cli SAVE)" = OK ] || fail "SAVE"
cli BGSAVE >/dev/null
wait_for bash -c "'$build/redis-cli' -p $port INFO persistence | grep -q 'rdb_bgsave_in_progress:0'"
cli INFO persistence | grep -q 'rdb_last_bgsave_status:ok' || fail "the child that saves failed"
cli MEMORY PURGE >/dev/null
[ "$(cli GET key:200)" = "value-200-$(printf '%200s' '' | tr ' ' x)" ] || fail "a value changed"
cli SHUTDOWN NOSAVE
wait "$server" || fail "the server ended with status $?: $(tail server.log)"
expect_blocks 100000
