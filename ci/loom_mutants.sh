#!/usr/bin/env bash
# Shows that the loom models see what they are for: weakens one ordering or breaks one step at a
# time, in a copy of the workspace, and expects the model to fail. Fails if a mutant survives, does
# not compile, or does not change its file. `ci/loom_mutants.sh depot` runs one model's only, and
# `ci/loom_mutants.sh --apply` looks only whether each changes its file.
set -euo pipefail
cd "$(dirname "$0")/.."
only=${1:-} apply_only=""
if [ "$only" = --apply ]; then only="" apply_only=yes; fi

# Not the directory of ci/loom.sh: cargo would take what was built from the copy for its own.
export CARGO_TARGET_DIR=${CARGO_TARGET_DIR:-$PWD/target}/loom_mutants
export CARGO_PROFILE_RELEASE_LTO=off CARGO_PROFILE_RELEASE_CODEGEN_UNITS=16
export RUSTFLAGS="${RUSTFLAGS:-} --cfg loom" RUST_BACKTRACE=0
unset "${!LOOM_@}"

copy=$(mktemp -d)
trap 'rm -rf "$copy"' EXIT
mkdir "$copy/src" "$copy/loom_tests"
cp Cargo.lock "$copy"
# Under loom nothing of the core but src/sync compiles.
sed -e 's/^members = .*/members = [".", "loom_tests"]/' -e '/^default-members/d' Cargo.toml \
    >"$copy/Cargo.toml"
cp -r src/lib.rs src/sync "$copy/src"
# Cargo wants to see what Cargo.toml names.
cp -r tests examples "$copy"
cp -r loom_tests/Cargo.toml loom_tests/src loom_tests/tests "$copy/loom_tests"

log=$copy/log
mutants=0
bad=0

# Whether the model passes in the copy. Ends the script if it does not compile.
passes() {
    if ! (cd "$copy" && cargo test --offline --release --package loom_tests --test "$1" --no-run) \
        >"$log" 2>&1; then
        cat "$log"
        echo "loom_mutants: does not compile: $2" >&2
        exit 1
    fi
    (cd "$copy" && timeout 300 cargo test --offline --release --package loom_tests --test "$1") \
        >"$log" 2>&1
}

# mutant MODEL FILE WHAT SED: applies the sed script (to the file as one line) and runs the model.
mutant() {
    local model=$1 file=$2 what=$3 script=$4 status=0 verdict
    [ -z "$only" ] || [ "$only" = "$model" ] || return 0
    mutants=$((mutants + 1))
    cp "$copy/$file" "$copy/original"
    sed -z -E -i "$script" "$copy/$file"
    if cmp -s "$copy/original" "$copy/$file"; then
        verdict="NOT APPLIED"
    elif [ -n "$apply_only" ]; then
        verdict="yes: not asked"
    else
        passes "$model" "$what" || status=$?
        if [ "$status" -eq 0 ]; then
            verdict="SURVIVED"
        elif [ "$status" -eq 124 ]; then
            verdict="TIMED OUT"
        else
            # The first panic's message.
            verdict=$(sed -n '/ panicked at /{n;p;q}' "$log" | cut -c 1-56)
            verdict=${verdict:+yes: $verdict}
        fi
    fi
    case "${verdict:=DIED WITHOUT A MESSAGE}" in yes:*) ;; *) bad=$((bad + 1)) ;; esac
    # A fresh time stamp, so that cargo builds the original again.
    cat "$copy/original" >"$copy/$file"
    [ -n "$apply_only" ] && [ "$verdict" != "NOT APPLIED" ] ||
        printf '| %-52s | %-27s | %-12s | %s |\n' "$what" "$file" "$model" "$verdict"
}

printf '| %-52s | %-27s | %-12s | %s |\n' mutant file model 'caught?'
printf '|---|---|---|---|\n'

file=src/sync/lock.rs
mutant arena_lock $file 'try_lock: acquire -> relaxed' \
    's/(compare_exchange\(FREE, HELD, )Acquire/\1Relaxed/'
mutant arena_lock $file 'try_lock: load and store' \
    's/let free = [^;]*;/let free = self.state.load(Acquire) == FREE; if free { self.state.store(HELD, Relaxed); }/'
mutant arena_lock $file 'lock_slow: acquire -> relaxed' \
    's/swap\(CONTENDED, Acquire\)/swap(CONTENDED, Relaxed)/'
mutant arena_lock $file 'lock_slow: forgets the other sleepers' \
    's/while self\.state\.swap\(CONTENDED, Acquire\) != FREE \{/while !self.try_lock(thread) { let _ = self.state.compare_exchange(HELD, CONTENDED, Relaxed, Relaxed);/'
mutant arena_lock $file 'lock_slow: does not look again after waking' \
    's/while (self.state.swap\(CONTENDED)/if \1/'
mutant arena_lock $file 'lock_slow: does not record the holder' \
    's/self.holder.store\(thread, Relaxed\);(\s*Locked::AfterWait)/\1/'
mutant arena_lock $file 'lock_slow: takes the lock when out of patience' \
    's/return Locked::TimedOut;/break;/'
mutant arena_lock $file 'unlock: release -> relaxed' \
    's/swap\(FREE, Release\)/swap(FREE, Relaxed)/'
mutant arena_lock $file 'unlock: wakes when nobody sleeps' \
    's/(swap\(FREE, Release\) == )CONTENDED/\1HELD/'
mutant arena_lock $file 'unlock: clears the holder after the state' \
    's/(self\.holder\.store\(0, Relaxed\);)(\s*\/\/ Release pairs.*wake_one\(&self\.state\);\s*\})/\2 \1/'

file=src/sync/remote_list.rs
mutant remote_list $file 'push: release -> relaxed' \
    's/(compare_exchange_weak\(old, new, )Release/\1Relaxed/'
mutant remote_list $file 'push: store' \
    's/match self\.word\.compare_exchange_weak\(old, new, Release, Relaxed\)/match { self.word.store(new, Release); Ok::<usize, usize>(old) }/'
mutant remote_list $file 'push: links the tail once only' \
    's/(loop \{)(\s*\/\/ SAFETY[^\n]*\s*unsafe[^\n]*)/\2 \1/'
mutant remote_list $file 'take_all: acquire -> relaxed' \
    's/fetch_and\(ATTACHED, Acquire\)/fetch_and(ATTACHED, Relaxed)/'
mutant remote_list $file 'take_all: load and store' \
    's/self\.word\.fetch_and\(ATTACHED, Acquire\)/{ let old = self.word.load(Acquire); self.word.store(old \& ATTACHED, Relaxed); old }/'
mutant remote_list $file 'adopt: store' \
    's/self\.word\.fetch_or\(ATTACHED, Relaxed\)/self.word.store(ATTACHED, Relaxed)/'

file=src/sync/depot.rs
mutant depot $file 'put: release -> relaxed' \
    's/(compare_exchange\(0, word, )Release/\1Relaxed/'
mutant depot $file 'put: store' \
    's/match self\.word\.compare_exchange\(0, word, Release, Relaxed\)/match { self.word.store(word, Release); Ok::<u64, u64>(0) }/'
mutant depot $file 'put: keeps the magazine that it refuses' \
    's/Err\(_\) => Err\(magazine\)/Err(_) => Ok(())/'
mutant depot $file 'take: acquire -> relaxed' \
    's/swap\(0, Acquire\)/swap(0, Relaxed)/'
mutant depot $file 'take: load and store' \
    's/self\.word\.swap\(0, Acquire\)/{ let word = self.word.load(Acquire); self.word.store(0, Relaxed); word }/'

file=src/sync/publish.rs
mutant page_map $file 'publish: acquire and release -> acquire' \
    's/(region, )AcqRel, Acquire/\1Acquire, Acquire/'
mutant page_map $file 'publish: the loser does not acquire' \
    's/(region, AcqRel, )Acquire/\1Relaxed/; s/AcqRel, Acquire, Release\}/AcqRel, Acquire, Relaxed, Release}/'
mutant page_map $file 'publish: the loser uses its own region' \
    's/Err\(winner\) => winner/Err(_) => region/'
mutant page_map $file 'publish: store' \
    's/match self\s*\.region\s*\.compare_exchange\([^)]*\(\), region, AcqRel, Acquire\)/match { self.region.store(region, Release); Ok::<*mut T, *mut T>(region) }/'
mutant page_map $file 'RegionSlot::get: acquire -> relaxed' \
    's/region\.load\(Acquire\)/region.load(Relaxed)/; s/AcqRel, Acquire, Release\}/AcqRel, Acquire, Relaxed, Release}/'
mutant page_map $file 'Entry::get: acquire -> relaxed' \
    's/word\.load\(Acquire\)/word.load(Relaxed)/; s/AcqRel, Acquire, Release\}/AcqRel, Acquire, Relaxed, Release}/'
mutant page_map $file 'Entry::set: release -> relaxed' \
    's/store\(value, Release\)/store(value, Relaxed)/; s/AcqRel, Acquire, Release\}/AcqRel, Acquire, Relaxed, Release}/'
mutant page_map $file 'Entry::claim: load and store' \
    's/self\.word\.compare_exchange\(value, 0, AcqRel, Acquire\)\.is_ok\(\)/self.word.load(Acquire) == value \&\& { self.word.store(0, Release); true }/'
file=loom_tests/tests/page_map.rs
mutant page_map $file 'the block is handed out before its entry is set' \
    's/(root\.cover\(\)\.describe\(0\);)(\s*)(handed\.store\(BASE, Release\);)/\3\2\1/'

file=src/sync/attach.rs
mutant attach $file 'attach: load and store' \
    's/match self\.word\.compare_exchange_weak\(word, word \+ 1, AcqRel, Relaxed\)/match { self.word.store(word + 1, Release); Ok::<u32, u32>(word) }/; s/AcqRel, Relaxed\}/AcqRel, Relaxed, Release}/'
mutant attach $file 'attach: also when closed' \
    's/while word & CLOSED == 0/while word != u32::MAX/'
mutant attach $file 'attach: closed is looked at once only' \
    's/(pub fn attach.*)Err\(now\) => word = now,(.*pub fn detach)/\1Err(now) => return self.word.compare_exchange(now, now + 1, AcqRel, Relaxed).is_ok(),\2/'
mutant attach $file 'detach: load and store' \
    's/match self\.word\.compare_exchange_weak\(word, word - 1, AcqRel, Relaxed\)/match { self.word.store(word - 1, Release); Ok::<u32, u32>(word) }/; s/AcqRel, Relaxed\}/AcqRel, Relaxed, Release}/'
mutant attach $file 'detach: asks for the count afterwards' \
    's/return word & !CLOSED == 1/return self.threads() == 0/'
mutant attach $file 'detach: below none' \
    's/while word & !CLOSED != 0/while word != 77/; s/word - 1/word.wrapping_sub(1)/'
mutant attach $file 'close: load and store' \
    's/self\.word\.fetch_or\(CLOSED, AcqRel\)/self.word.store(self.word.load(Relaxed) | CLOSED, Relaxed)/'

file=src/sync/remote_list.rs
mutant thread_end $file 'orphan: load and store' \
    's/self\.word\.swap\(0, AcqRel\)/{ let old = self.word.load(Acquire); self.word.store(0, Release); old }/'
mutant thread_end $file 'orphan: takes first, clears the flag after' \
    's/\(self\.word\.swap\(0, AcqRel\) & !ATTACHED\) as \*mut Block/let head = self.take_all(); self.word.fetch_and(!ATTACHED, AcqRel); head/'
mutant thread_end $file 'orphan: release only' \
    's/swap\(0, AcqRel\)/swap(0, Release)/'
mutant thread_end $file 'orphan: does not clear the flag' \
    's/swap\(0, AcqRel\)/swap(ATTACHED, AcqRel)/'
mutant thread_end $file 'push: sets the flag' \
    's/chain\.head as usize \| \(old & ATTACHED\)/chain.head as usize | ATTACHED/'
mutant thread_end $file 'push: does not say that nobody is attached' \
    's/return old & ATTACHED == 0/return false/'
mutant thread_end src/sync/lock.rs 'unlock: release -> relaxed' \
    's/swap\(FREE, Release\)/swap(FREE, Relaxed)/'
file=loom_tests/src/arena.rs
mutant thread_end $file 'leave: every thread that leaves says that none is left' \
    's/if self\.attach\.detach\(\) \{/self.attach.detach(); {/'
mutant thread_end $file 'join: does not set the flag' \
    's/self\.remote\.adopt\(\);//'
mutant thread_end $file 'send: drains without the lock' \
    's/match self\.try_lock\(thread\)/match Some(Guard { arena: self })/'

file=src/sync/remote_list.rs
mutant heap_release $file 'push: release -> relaxed' \
    's/(compare_exchange_weak\(old, new, )Release/\1Relaxed/'
mutant heap_release $file 'take_all: acquire -> relaxed' \
    's/fetch_and\(ATTACHED, Acquire\)/fetch_and(ATTACHED, Relaxed)/'
mutant heap_release $file 'take_all: leaves the blocks on the list' \
    's/fetch_and\(ATTACHED, Acquire\)/load(Acquire)/'
mutant heap_release src/sync/lock.rs 'unlock: release -> relaxed' \
    's/swap\(FREE, Release\)/swap(FREE, Relaxed)/'
file=loom_tests/tests/heap_release.rs
mutant heap_release $file 'the entry is cleared after the unmapping' \
    's/(self\.at\.entry\.set\(0\);)(\s*)(self\.at\.unmap\(self\.blocks\);)/\3\2\1/'
mutant heap_release $file 'the entry is cleared before the last block is home' \
    's/(self\.out -= back;)/\1 if self.out == 1 { self.at.entry.set(0); }/'
mutant heap_release $file 'the heap is released one block too early' \
    's/self\.out == 0 \{/self.out <= 1 {/'

file=src/sync/gate.rs
mutant gate $file 'enter: acquire -> relaxed after a drain' \
    's/compare_exchange\(OPEN, BUSY, Acquire, Acquire\)/compare_exchange(OPEN, BUSY, Acquire, Relaxed)/'
mutant gate $file 'enter: does not wait' \
    's/(Err\(held\) if held & STATE == HELD => \{)/\1 return Passage::Again;/'
mutant gate $file 'leave: release -> relaxed' \
    's/store\(OPEN, Release\)/store(OPEN, Relaxed)/'
mutant gate $file 'hold: also while the thread is inside' \
    's/self\.state\.compare_exchange\(OPEN, held, AcqRel, Relaxed\)\.is_ok\(\)/self.state.swap(held, Acquire) \& STATE < HELD/'
mutant gate $file 'release: release -> relaxed' \
    's/swap\(next, Release\)/swap(next, Relaxed)/'
mutant gate $file 'release: wakes nobody' \
    's/== AWAITED \{/== 77 {/'
mutant gate $file 'cut: the list leads on' \
    's/unsafe \{ Block::set_next\(last, ptr::null_mut\(\)\) \};//'
file=loom_tests/tests/gate.rs
mutant gate $file 'drain: reads before the barrier' \
    's/(self\.word\.store\(false, Relaxed\);\s*)fence\(SeqCst\);/\1/'
mutant gate $file 'drain: the first block as well' \
    's/unsafe \{ Block::next\(first\) \}/first/'
mutant gate $file 'drain: does not turn the word away' \
    's/self\.word\.store\(false, Relaxed\);//'

file=src/sync/prim_loom.rs
mutant exploration $file 'the facade takes no turns' \
    's/self\.turn\.fetch_and\(0, Relaxed\);//'

if [ "$mutants" -eq 0 ]; then
    echo "loom_mutants: no model is called '$only'" >&2
    exit 1
fi
if [ -n "$apply_only" ]; then
    echo "loom_mutants: $((mutants - bad)) of $mutants mutants apply"
    [ "$bad" -eq 0 ]
    exit
fi
# What failed was the mutants: the models pass on what is in the copy now.
for model in "$copy"/loom_tests/tests/*.rs; do
    name=$(basename "$model" .rs)
    [ -z "$only" ] || [ "$only" = "$name" ] || continue
    passes "$name" "the original" ||
        { cat "$log"; echo "loom_mutants: $name fails without a mutant" >&2; exit 1; }
done
echo "loom_mutants: $((mutants - bad)) of $mutants mutants caught in $SECONDS s"
[ "$bad" -eq 0 ]
