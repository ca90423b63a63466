#!/usr/bin/env bash
# CPython and its own tests. Once as it is, with its own pools over malloc, and once with all
# objects straight from malloc.
source "${BASH_SOURCE%/*}/common.sh"

python=/usr/bin/python3
modules=(test_list test_dict test_threading test_subprocess test_json)
for allocator in default malloc; do
    # Outside the network and without the files of other users' tests.
    if ! PYTHONMALLOC=$allocator on_arenite "$python" -m test --timeout 300 "${modules[@]}" \
        >"$allocator.log" 2>&1; then
        tail -n 60 "$allocator.log" >&2
        fail "CPython's own tests fail with PYTHONMALLOC=$allocator"
    fi
    grep -q "All ${#modules[@]} tests OK" "$allocator.log" || fail "not all modules ran: $(tail -n 5 "$allocator.log")"
done
expect_blocks 100000
