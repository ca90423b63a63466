#!/usr/bin/env bash
# redis-server under a fixed load. This process becomes the server, so that it is what is measured;
# the client is a process of its own that is not preloaded, and that is nobody's child, so that its
# time and memory are not counted.
#
#     suite/programs/redis.sh FOLDER-OF-REDIS REQUESTS
set -euo pipefail
redis=$1 requests=$2

load() {
    local server=$1 port=$2 tries
    # Whatever fails ends the server by a signal, which is seen as its failure.
    trap 'kill -9 "$server"' ERR
    set -E
    for tries in $(seq 200); do
        if "$redis/redis-cli" -p "$port" ping >/dev/null 2>&1; then break; fi
        sleep 0.02
    done
    "$redis/redis-benchmark" -p "$port" -n "$requests" -c 20 -P 8 -r 20000 -d 300 -q \
        -t set,get,incr,lpush,rpop,sadd,hset,zadd,lrange_100,mset
    [ "$("$redis/redis-cli" -p "$port" EXISTS counter:__rand_int__ key:000000000001 mylist)" -ge 1 ]
    "$redis/redis-cli" -p "$port" SHUTDOWN NOSAVE
}

if [ "${3:-}" = load ]; then
    load "$4" "$5" >/dev/null 2>&1
    exit
fi

# A free port: one that nobody listens at, of those the kernel does not give to clients.
port=0
for try in $(seq 50); do
    port=$((10000 + (RANDOM * 7 + $$) % 20000))
    if ! (exec 3<>"/dev/tcp/127.0.0.1/$port") 2>/dev/null; then break; fi
done
(env -u LD_PRELOAD setsid bash "$0" "$redis" "$requests" load $$ "$port" </dev/null >/dev/null 2>&1 &)
exec "$redis/redis-server" --bind 127.0.0.1 --port "$port" --save '' --appendonly no --dir /tmp \
    --daemonize no --loglevel warning
