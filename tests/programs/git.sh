#!/usr/bin/env bash
# git: a repository with history, cloned, repacked with threads, and checked.
source "${BASH_SOURCE%/*}/common.sh"

export HOME=$PWD GIT_CONFIG_NOSYSTEM=1 GIT_AUTHOR_DATE='2001-01-01T00:00:00Z' GIT_COMMITTER_DATE='2001-01-01T00:00:00Z'
git=(on_arenite git -c user.name=Test -c user.email=test@example.org -c init.defaultBranch=main
    -c gc.auto=0 -c pack.threads=4)
"${git[@]}" init -q origin
cd origin
for commit in $(seq 40); do
    for file in $(seq 12); do
        seq "$((commit * file))" "$((commit * file + 300 * (file % 5 + 1)))" >"file$file"
    done
    "${git[@]}" add -A
    "${git[@]}" commit -q -m "change $commit"
done
cd ..
"${git[@]}" clone -q "file://$PWD/origin" copy
cd copy
"${git[@]}" gc --aggressive --prune=now -q
"${git[@]}" fsck --full --strict >../fsck.log 2>&1 || fail "$(cat ../fsck.log)"
[ "$("${git[@]}" rev-parse HEAD)" = "$(git -C ../origin rev-parse HEAD)" ] || fail "another commit"
[ "$("${git[@]}" log --oneline | wc -l)" -eq 40 ] || fail "commits are missing"
"${git[@]}" log -p --stat | sha1sum >../arenite.sum
cd ../origin
git log -p --stat | sha1sum >../plain.sum
cd ..
cmp arenite.sum plain.sum || fail "git log prints something else"
expect_blocks 2000
