# What the tests of real programs share. Each test is a script of its own:
#
#     tests/programs/NAME.sh
#
# run by ci/programs.sh with ARENITE_SO, the library to preload, and a scratch folder as its
# working directory. It fails unless the program did what it should, and ran on Arenite.
set -euo pipefail

: "${ARENITE_SO:?the library to preload}"
reports=$PWD/reports
mkdir -p "$reports"

# Runs a command on Arenite. Every process of it writes a report when it ends.
on_arenite() {
    ARENITE_REPORT="$reports/%p.json" LD_PRELOAD=$ARENITE_SO "$@"
}

# Starts a server on Arenite; its process id is in $server, and it does not outlive the test.
serve() {
    ARENITE_REPORT="$reports/%p.json" LD_PRELOAD=$ARENITE_SO "$@" >server.log 2>&1 &
    server=$!
    trap 'kill -9 $server 2>/dev/null || true' EXIT
}

fail() {
    echo "${0##*/}: $*" >&2
    exit 1
}

# Fails unless the file has exactly this contents.
expect() { # FILE TEXT
    if [ "$(cat "$1")" != "$2" ]; then
        fail "expected '$2', got: $(head -c 2000 "$1")"
    fi
}

# Blocks that a report says thread caches were given: 0 if the program has its own allocator.
blocks_of() { # REPORT
    grep -o '"refilled":[0-9]*' "$1" | awk -F: '{ sum += $2 } END { print sum + 0 }'
}

# Fails unless some process that ended since the last call used Arenite for at least so many
# blocks: programs that bring an allocator of their own prove nothing.
expect_blocks() { # LEAST
    local most=0 report blocks
    for report in "$reports"/*.json; do
        [ -s "$report" ] || continue
        blocks=$(blocks_of "$report")
        if [ "$blocks" -gt "$most" ]; then most=$blocks; fi
    done
    rm -f "$reports"/*.json
    if [ "$most" -lt "$1" ]; then
        fail "no process used Arenite for $1 blocks or more; the most were $most"
    fi
}

# Waits until a command succeeds, for at most ten seconds.
wait_for() {
    local tries
    for tries in $(seq 100); do
        if "$@" >/dev/null 2>&1; then return; fi
        sleep 0.1
    done
    fail "still not true after $tries tries: $*"
}
