//! Memory between arenas: what threads of one leave and free is of use to those of another.

use arenite::{Arenite, config, stats};
use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::AtomicU64;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::thread;

static ARENITE: Arenite = Arenite::new();

/// The figures are the process's, and each test's own.
static ALONE: Mutex<()> = Mutex::new(());

const SIZE: usize = 256;

/// A block that any thread may free.
struct Block(*mut u8);

// SAFETY: owned memory, which nothing refers to.
unsafe impl Send for Block {}

fn layout() -> Layout {
    Layout::from_size_align(SIZE, 8).expect("a valid layout")
}

fn allocate(bytes: usize) -> Vec<Block> {
    // SAFETY: the layout is not empty.
    (0..bytes / SIZE).map(|_| Block(unsafe { ARENITE.alloc(layout()) })).collect()
}

fn free(blocks: impl IntoIterator<Item = Block>) {
    // SAFETY: allocated with this layout, and used by nobody.
    blocks.into_iter().for_each(|Block(block)| unsafe { ARENITE.dealloc(block, layout()) });
}

/// Slabs of blocks of [`SIZE`] bytes.
fn slabs() -> usize {
    let classes = stats::collect().classes;
    classes.iter().find(|class| class.size == SIZE).map_or(0, |class| class.slabs)
}

/// Moves every eighth block out of `blocks`, beginning with number `first`.
fn every_eighth(blocks: Vec<Block>, first: usize) -> (Vec<Block>, Vec<Block>) {
    let (out, rest): (Vec<_>, Vec<_>) =
        blocks.into_iter().enumerate().partition(|(number, _)| number % 8 == first);
    let strip = |numbered: Vec<(usize, Block)>| numbered.into_iter().map(|(_, block)| block);
    (strip(out).collect(), strip(rest).collect())
}

/// A thread with 32 MiB of blocks gives an eighth of them to this one, which frees them, and allocates as many, 16
/// times. After each it calls `check` with the number of the round and of the slabs at first.
fn free_for_another(check: fn(usize, usize)) {
    const LIVE: usize = 32 << 20;
    // This thread joins its arena before the other one.
    free(allocate(SIZE));
    let (to_free, frees) = sync_channel::<Vec<Block>>(0);
    let (freed, is_freed) = sync_channel::<()>(0);
    let allocator = thread::spawn(move || {
        let mut live = allocate(LIVE);
        let filled = slabs();
        for round in 0..16 {
            let (out, rest) = every_eighth(live, round % 8);
            let bytes = out.len() * SIZE;
            live = rest;
            to_free.send(out).expect("the other thread waits");
            is_freed.recv().expect("the other thread answers");
            live.extend(allocate(bytes));
            check(round, filled);
        }
        free(live);
    });
    for blocks in frees {
        free(blocks);
        freed.send(()).expect("the other thread waits");
    }
    allocator.join().expect("no panic");
}

#[test]
fn a_thread_does_not_leave_much_memory_behind_to_follow_others() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    free_for_another(|round, filled| {
        let now = slabs();
        assert!(now < filled + filled / 4, "round {round}: {now} slabs instead of {filled}");
    });
}

#[test]
fn who_only_frees_goes_where_the_others_stay() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    static EARLY: AtomicU64 = AtomicU64::new(0);
    free_for_another(|round, _| {
        let remote = stats::collect().remote_frees;
        if round < 4 {
            EARLY.store(remote, Relaxed);
        }
        let late = remote - EARLY.load(Relaxed);
        assert_eq!(late, 0, "round {round}: blocks freed from another arena");
    });
}

#[test]
fn what_is_free_in_one_arena_serves_the_slabs_of_others() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const BYTES: usize = 16 << 20;
    ARENITE.set_decay_ms(config::NEVER);
    let _last = {
        let blocks = allocate(BYTES);
        // Keeps what is free below it from the top.
        let last = allocate(SIZE);
        free(blocks);
        last
    };
    let before = stats::collect().free_chunk_bytes;
    let blocks = thread::spawn(|| allocate(BYTES)).join().expect("no panic");
    let taken = before.saturating_sub(stats::collect().free_chunk_bytes);
    free(blocks);
    assert!(before > BYTES / 2, "{before} bytes were free");
    assert!(taken > BYTES / 2, "{taken} of {before} bytes were taken");
}

#[test]
fn what_is_free_in_one_arena_serves_the_large_blocks_of_others() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const COUNT: usize = 64;
    let large = Layout::from_size_align(100 << 10, 16).expect("a valid layout");
    // SAFETY: the layout is not empty.
    let allocate_large = move || Block(unsafe { ARENITE.alloc(large) });
    // SAFETY: allocated with this layout, and used by nobody.
    let free_large = |Block(block): Block| unsafe { ARENITE.dealloc(block, large) };
    ARENITE.set_decay_ms(config::NEVER);
    // Nothing is left that the other thread's arena could take instead.
    ARENITE.trim();
    let (freed, last) = {
        let blocks: Vec<Block> = (0..COUNT).map(|_| allocate_large()).collect();
        let freed: Vec<usize> = blocks.iter().map(|block| block.0.addr()).collect();
        // Keeps what is free below it from the top.
        let last = allocate_large();
        blocks.into_iter().for_each(free_large);
        (freed, last)
    };
    let before = stats::collect().in_use_blocks;
    let other = thread::spawn(move || (0..COUNT).map(|_| allocate_large()).collect::<Vec<Block>>());
    let blocks = other.join().expect("no panic");
    let lies_there = |block: &&Block| {
        let end = block.0.addr() + large.size();
        freed.iter().any(|&start| start < end && block.0.addr() < start + large.size())
    };
    let taken = blocks.iter().filter(lies_there).count();
    let during = stats::collect().in_use_blocks;
    blocks.into_iter().for_each(free_large);
    assert!(taken >= COUNT * 3 / 4, "{taken} of {COUNT} blocks lie where others did");
    assert_eq!(during, before + COUNT);
    assert_eq!(stats::collect().in_use_blocks, before);
    free_large(last);
}

#[test]
fn a_thread_that_trades_goes_where_memory_is_free() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    const LIVE: usize = 32 << 20;
    free(allocate(SIZE));
    // Nothing is left that this thread's arena could take instead.
    ARENITE.trim();
    let live = thread::spawn(|| allocate(LIVE)).join().expect("no panic");
    let before = slabs();
    let live = (0..3).fold(live, |live, first| {
        let (out, rest) = every_eighth(live, first);
        free(out);
        rest
    });
    let more = allocate(LIVE / 4);
    let now = slabs();
    free(more.into_iter().chain(live));
    assert!(now < before + LIVE / 4 / (16 << 10) / 4, "{now} slabs instead of {before}");
}

#[test]
fn an_aligned_block_as_large_as_a_slab_is_of_the_arena_that_serves_it() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    // As long and as aligned as a slab, for which memory of another arena would do.
    let aligned = Layout::from_size_align(64 << 10, 16 << 10).expect("a valid layout");
    ARENITE.set_decay_ms(config::NEVER);
    let _last = {
        let blocks = allocate(16 << 20);
        let last = allocate(SIZE);
        free(blocks);
        last
    };
    let before = stats::collect().in_use_blocks;
    // SAFETY: the layout is not empty.
    let block = thread::spawn(move || Block(unsafe { ARENITE.alloc(aligned) }));
    let Block(block) = block.join().expect("no panic");
    assert!(!block.is_null() && block.addr().is_multiple_of(aligned.align()));
    assert_eq!(stats::collect().in_use_blocks, before + 1);
    // SAFETY: allocated with this layout, and used by nobody.
    unsafe { ARENITE.dealloc(block, aligned) };
    assert_eq!(stats::collect().in_use_blocks, before);
}
