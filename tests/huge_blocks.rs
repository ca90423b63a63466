//! Huge blocks that are asked for again and again are kept for that, and for no longer than they may be.

mod process;

use arenite::{Arenite, stats};
use process::in_a_process;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::mpsc::channel;
use std::thread;
use std::time::{Duration, Instant};

static ARENITE: Arenite = Arenite::new().decay_ms(60_000);

const MIB: usize = 1 << 20;
/// Too large for a heap.
const HUGE: usize = 33 * MIB;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a valid layout")
}

/// Allocates a block, and writes to its middle and its end.
fn allocate(size: usize) -> *mut u8 {
    // SAFETY: the layout is not empty.
    let block = unsafe { ARENITE.alloc(layout(size)) };
    assert!(!block.is_null());
    stamp(block, size, 0xa5);
    block
}

fn stamp(block: *mut u8, size: usize, value: u8) {
    // SAFETY: inside the block, which is the caller's.
    unsafe {
        block.add(size / 2).write(value);
        block.add(size - 1).write(value);
    }
}

fn stamps(block: *mut u8, size: usize) -> [u8; 2] {
    // SAFETY: inside the block, which is the caller's, and was written or zeroed.
    unsafe { [block.add(size / 2).read(), block.add(size - 1).read()] }
}

fn free(block: *mut u8, size: usize) {
    // SAFETY: allocated with this layout, and used by nobody.
    unsafe { ARENITE.dealloc(block, layout(size)) };
}

/// Bytes that are kept: here, those of huge blocks. (Small ones are in few.)
fn kept() -> usize {
    stats::collect().cached_bytes / MIB * MIB
}

/// Has a block of `size` kept; where it is.
fn keep(size: usize) -> *mut u8 {
    // As often as it takes: with a short decay time the thread may have lost its CPU in between for as long.
    for _ in 0..100 {
        let block = allocate(size);
        free(block, size);
        if kept() > 0 {
            return block;
        }
    }
    panic!("no block of {size} bytes is kept");
}

/// Waits until nothing is kept.
fn wait_for_none() {
    let begun = Instant::now();
    while kept() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} bytes stay", kept());
        thread::sleep(Duration::from_millis(5));
    }
}

fn it_is_kept_for_the_next_request() {
    let before = stats::collect();
    free(allocate(HUGE), HUGE);
    assert_eq!(kept(), 0, "a size that nobody asked for again");
    let block = keep(HUGE);
    let after = stats::collect();
    assert_eq!(after.huge_blocks, before.huge_blocks);
    assert_eq!((after.in_use_bytes, after.cached_bytes), (before.in_use_bytes, HUGE));
    let again = allocate_kept(block);
    assert_eq!(stamps(again, HUGE), [0xa5; 2]);
    assert_eq!((kept(), stats::collect().huge_bytes), (0, before.huge_bytes + HUGE));
    free(again, HUGE);
    assert_eq!(kept(), HUGE);
}

fn its_end_moves_for_another_size() {
    for other in [HUGE + MIB, HUGE + 20 * MIB, HUGE + 4096] {
        let block = keep(HUGE);
        stamp(allocate_kept(block), HUGE, 7);
        free(block, HUGE);
        // SAFETY: the layout is not empty.
        let moved = unsafe { ARENITE.alloc(layout(other)) };
        assert_eq!((kept(), stamps(moved, HUGE)), (0, [7; 2]), "{other} bytes");
        stamp(moved, other, 8);
        free(moved, other);
        assert_eq!(kept(), other / MIB * MIB);
        // SAFETY: the layout is not empty.
        let shrunk = unsafe { ARENITE.alloc(layout(HUGE)) };
        assert_eq!((kept(), stamps(shrunk, HUGE)[0]), (0, 7), "{other} bytes");
        free(shrunk, HUGE);
        ARENITE.trim();
    }
}

/// The block that is kept.
fn allocate_kept(block: *mut u8) -> *mut u8 {
    // SAFETY: the layout is not empty.
    let again = unsafe { ARENITE.alloc(layout(HUGE)) };
    assert_eq!(again, block);
    again
}

fn a_zeroed_one_is_zero() {
    // So much was in use at once, that the kept one need not go.
    [allocate(HUGE), allocate(HUGE)].into_iter().for_each(|block| free(block, HUGE));
    keep(HUGE);
    for _ in 0..3 {
        // SAFETY: the layout is not empty.
        let block = unsafe { ARENITE.alloc_zeroed(layout(HUGE)) };
        assert_eq!(stamps(block, HUGE), [0; 2]);
        stamp(block, HUGE, 1);
        free(block, HUGE);
    }
}

fn alignments_are_kept_to() {
    for align in [64 * 1024, 2 * MIB, 64 * MIB] {
        keep(HUGE);
        let layout = Layout::from_size_align(HUGE, align).expect("a valid layout");
        // SAFETY: the layout is not empty; the block is this function's.
        unsafe {
            let block = ARENITE.alloc(layout);
            assert!(block.addr().is_multiple_of(align));
            stamp(block, HUGE, 1);
            ARENITE.dealloc(block, layout);
        }
    }
}

fn protected_pages_can_be_used_again() {
    let block = keep(HUGE);
    let again = allocate_kept(block);
    // SAFETY: whole pages inside the block, which is this function's. (It is as large as a mapping of its own.)
    let protected = unsafe { libc::mprotect(again.add(4 * MIB).cast(), MIB, libc::PROT_NONE) };
    assert_eq!(protected, 0);
    free(again, HUGE);
    assert_eq!(kept(), HUGE);
    let again = allocate_kept(block);
    // SAFETY: inside the block, which is this function's.
    unsafe { again.write_bytes(1, HUGE) };
    free(again, HUGE);
}

/// Tells the kernel something of some pages of the block.
fn advise(block: *mut u8, advice: i32) {
    // SAFETY: whole pages inside the block, which is the caller's. (It is as large as a mapping of its own.)
    let advised = unsafe { libc::madvise(block.add(4 * MIB).cast(), 16 * MIB, advice) };
    assert_eq!(advised, 0);
}

fn what_the_kernel_was_told_is_forgotten() {
    let block = keep(HUGE);
    for advice in [libc::MADV_DONTFORK, libc::MADV_WIPEONFORK, libc::MADV_DONTDUMP] {
        let again = allocate_kept(block);
        advise(again, advice);
        free(again, HUGE);
        assert_eq!(kept(), HUGE);
        in_a_process("a child, before", || stamp(allocate(HUGE), HUGE, 2));
        let again = allocate_kept(block);
        stamp(again, HUGE, 1);
        in_a_process("a child, after", || assert_eq!(stamps(again, HUGE), [1; 2]));
        free(again, HUGE);
    }
}

fn what_is_locked_or_shared_is_not_kept() {
    let again = allocate_kept(keep(HUGE));
    // SAFETY: whole pages inside the block, which is this function's.
    assert_eq!(unsafe { libc::mlock(again.add(4 * MIB).cast(), 1) }, 0);
    free(again, HUGE);
    assert_eq!(kept(), 0);

    for at in [HUGE / 2, 0] {
        let again = allocate_kept(keep(HUGE));
        let flags = libc::MAP_SHARED | libc::MAP_ANONYMOUS | libc::MAP_FIXED;
        let protection = libc::PROT_READ | libc::PROT_WRITE;
        // SAFETY: as above.
        let shared =
            unsafe { libc::mmap(again.add(at).cast(), HUGE - at, protection, flags, -1, 0) };
        assert_eq!(shared.addr(), again.addr() + at);
        // SAFETY: as above. The kernel refuses that for shared memory; an emulator may not.
        if at == 0 && unsafe { libc::madvise(shared, MIB, libc::MADV_WIPEONFORK) } == 0 {
            return;
        }
        free(again, HUGE);
        assert_eq!(kept(), 0);
    }
}

fn who_sets_the_threshold_gets_mappings() {
    let threshold = Arenite::new().mmap_threshold(MIB);
    // SAFETY: the layout is not empty; the blocks are this function's.
    unsafe {
        for _ in 0..4 {
            threshold.dealloc(threshold.alloc(layout(HUGE)), layout(HUGE));
        }
    }
    assert_eq!(kept(), 0);
}

fn a_trim_gives_it_back() {
    keep(HUGE);
    let mapped = stats::collect().mmap_bytes;
    assert!(ARENITE.trim() >= HUGE);
    assert_eq!((kept(), stats::collect().mmap_bytes), (0, mapped - HUGE));
}

fn another_huge_block_does_not_raise_the_peak() {
    keep(HUGE);
    let peak = stats::collect().peak_mmap_bytes;
    let other = allocate(HUGE + MIB);
    assert_eq!(kept(), 0);
    assert!(stats::collect().peak_mmap_bytes <= peak + MIB);
    free(other, HUGE + MIB);
    // Nor does one that grows.
    let block = allocate(HUGE + MIB);
    stamp(block, HUGE, 1);
    keep(HUGE);
    // SAFETY: allocated with this layout.
    let block = unsafe { ARENITE.realloc(block, layout(HUGE + MIB), 4 * HUGE) };
    assert_eq!((kept(), stamps(block, HUGE)), (0, [1; 2]));
    free(block, 4 * HUGE);
}

/// Bytes of memory that the process has now.
fn resident() -> usize {
    let pages = std::fs::read_to_string("/proc/self/statm").expect("the kernel tells it");
    pages
        .split(' ')
        .nth(1)
        .and_then(|pages| pages.parse().ok())
        .map_or(0, |pages: usize| pages * 4096)
}

/// As [`allocate`], and writes to all of it.
fn fill(size: usize) -> *mut u8 {
    let block = allocate(size);
    // SAFETY: the block has so many bytes.
    unsafe { block.write_bytes(1, size) };
    block
}

fn a_mapping_that_a_heap_could_hold_leaves_free_memory_where_it_is() {
    const LARGE: usize = 8 * MIB;
    let mapped = allocate(LARGE + MIB);
    free(fill(LARGE), LARGE);
    let blocks = [(); 4].map(|()| fill(LARGE));
    let above = allocate(100_000);
    blocks.into_iter().for_each(|block| free(block, LARGE));
    let before = resident();
    // SAFETY: allocated with this layout.
    let mapped = unsafe { ARENITE.realloc(mapped, layout(LARGE + MIB), LARGE + 2 * MIB) };
    assert!(resident() + 4 * MIB > before, "{} MiB, before {}", resident() / MIB, before / MIB);
    free(mapped, LARGE + 2 * MIB);
    free(above, 100_000);
}

fn free_memory_of_heaps_does_not_raise_the_peak() {
    const LARGE: usize = 8 * MIB;
    // The first one is mapped; once it was freed, others like it come from a heap.
    free(fill(LARGE), LARGE);
    let blocks = [(); 8].map(|()| fill(LARGE));
    let above = allocate(100_000);
    let before = resident();
    blocks.into_iter().for_each(|block| free(block, LARGE));
    let huge = [(); 2].map(|()| fill(HUGE));
    // With the pages of the blocks there would be 66 MiB more.
    assert!(resident() < before + 20 * MIB, "{} MiB, before {}", resident() / MIB, before / MIB);
    huge.into_iter().for_each(|block| free(block, HUGE));
    free(above, 100_000);
}

fn a_refused_request_raises_no_peak() {
    // SAFETY: no size is zero.
    assert!(unsafe { ARENITE.alloc(layout(1 << 46)) }.is_null());
    free_memory_of_heaps_does_not_raise_the_peak();
}

fn a_refused_growth_raises_no_peak() {
    let block = allocate(HUGE);
    for size in [1 << 46, isize::MAX as usize - 15] {
        // SAFETY: allocated with this layout.
        assert!(unsafe { ARENITE.realloc(block, layout(HUGE), size) }.is_null());
    }
    free(block, HUGE);
    ARENITE.trim();
    free_memory_of_heaps_does_not_raise_the_peak();
}

fn a_refused_request_gives_nothing_back() {
    const LARGE: usize = 8 * MIB;
    free(fill(LARGE), LARGE);
    free(fill(LARGE), LARGE);
    let before = resident();
    // SAFETY: no size is zero.
    assert!(unsafe { ARENITE.alloc(layout(1 << 46)) }.is_null());
    assert!(resident() + MIB > before, "{} MiB, before {}", resident() / MIB, before / MIB);
}

fn small_blocks_do_not_raise_the_peak() {
    keep(HUGE);
    let blocks: Vec<_> = (0..HUGE / 4 / 1000).map(|_| allocate(1000)).collect();
    assert_eq!(kept(), 0);
    blocks.into_iter().for_each(|block| free(block, 1000));
}

fn one_thread_keeps_no_more_than_it_uses() {
    const LARGE: usize = 100 * MIB;
    for _ in 0..4 {
        free(allocate(LARGE), LARGE);
    }
    assert_eq!(kept(), 0);
    let used = allocate(LARGE + MIB);
    keep(LARGE);
    free(used, LARGE + MIB);
    assert_eq!(kept(), 0);
}

fn it_goes_after_the_decay_time() {
    ARENITE.set_decay_ms(100);
    let (end, ended) = channel::<()>();
    let (begin, begun) = channel();
    let use_small = || free(allocate(100), 100);
    let other = thread::spawn(move || {
        use_small();
        begin.send(()).expect("the first thread waits");
        ended.recv()
    });
    use_small();
    begun.recv().expect("the other thread has a cache");
    for _ in 0..3 {
        keep(HUGE);
        wait_for_none();
    }
    drop(end);
    assert!(other.join().is_ok());
}

fn the_hard_limit_counts_it() {
    keep(HUGE);
    assert!(ARENITE.set_limits(0, 50 * MIB, None));
    let small = allocate(20 * MIB);
    assert_eq!(kept(), 0);
    // SAFETY: the layout is not empty.
    assert!(unsafe { ARENITE.alloc(layout(HUGE)) }.is_null());
    free(small, 20 * MIB);
    free(allocate(HUGE), HUGE);
}

fn parent_and_child_have_one_each() {
    let block = keep(HUGE);
    in_a_process("its child", || {
        let child = allocate(HUGE);
        assert_eq!(child, block);
        stamp(child, HUGE, 1);
        free(child, HUGE);
    });
    let again = allocate_kept(block);
    assert_eq!(stamps(again, HUGE), [0xa5; 2]);
}

fn threads_get_blocks_of_their_own() {
    let work = |thread: u8| {
        let sizes = [HUGE, HUGE, HUGE + MIB];
        for round in 0..500_usize {
            let size = sizes[round % sizes.len()];
            let zeroed = round % 7 == 3;
            // SAFETY: the layout is not empty; the block is this thread's until it is freed.
            let block = unsafe {
                if zeroed {
                    ARENITE.alloc_zeroed(layout(size))
                } else {
                    ARENITE.alloc(layout(size))
                }
            };
            assert!(!block.is_null());
            assert!(!zeroed || stamps(block, size) == [0; 2]);
            stamp(block, size, thread);
            thread::yield_now();
            assert_eq!(stamps(block, size), [thread; 2]);
            free(block, size);
        }
    };
    let threads: Vec<_> = (1..=4).map(|thread| thread::spawn(move || work(thread))).collect();
    threads.into_iter().for_each(|thread| assert!(thread.join().is_ok()));
    ARENITE.trim();
    let stats = stats::collect();
    assert_eq!((stats.huge_blocks, stats.huge_bytes, kept()), (0, 0, 0));
}

fn main() {
    in_a_process("it is kept for the next request", it_is_kept_for_the_next_request);
    in_a_process("its end moves", its_end_moves_for_another_size);
    in_a_process("a zeroed one is zero", a_zeroed_one_is_zero);
    in_a_process("alignments are kept to", alignments_are_kept_to);
    in_a_process("protected pages", protected_pages_can_be_used_again);
    in_a_process("what the kernel was told", what_the_kernel_was_told_is_forgotten);
    in_a_process("locked or shared", what_is_locked_or_shared_is_not_kept);
    in_a_process("a threshold that is set", who_sets_the_threshold_gets_mappings);
    in_a_process("a trim gives it back", a_trim_gives_it_back);
    in_a_process("another huge block", another_huge_block_does_not_raise_the_peak);
    in_a_process("free memory of heaps", free_memory_of_heaps_does_not_raise_the_peak);
    in_a_process(
        "a smaller mapping",
        a_mapping_that_a_heap_could_hold_leaves_free_memory_where_it_is,
    );
    in_a_process("refused requests", a_refused_request_raises_no_peak);
    in_a_process("refused growth", a_refused_growth_raises_no_peak);
    in_a_process("refused, and nothing given back", a_refused_request_gives_nothing_back);
    in_a_process("small blocks", small_blocks_do_not_raise_the_peak);
    in_a_process("one thread", one_thread_keeps_no_more_than_it_uses);
    in_a_process("the decay time", it_goes_after_the_decay_time);
    in_a_process("the hard limit", the_hard_limit_counts_it);
    in_a_process("parent and child", parent_and_child_have_one_each);
    in_a_process("threads", threads_get_blocks_of_their_own);
}
