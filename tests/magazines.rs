//! Full magazines beyond the depot's slots: what a burst frees is kept for the next one, unless
//! something else needs it.

mod alone;

use alone::alone;
use arenite::{Arenite, stats};
use std::alloc::{GlobalAlloc, Layout};
use std::sync::mpsc::sync_channel;
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

static ARENITE: Arenite = Arenite::new().arenas(1);

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 8).expect("a valid layout")
}

fn allocate(bytes: usize, size: usize) -> Vec<*mut u8> {
    // SAFETY: the layout is not empty.
    (0..bytes / size).map(|_| unsafe { ARENITE.alloc(layout(size)) }).collect()
}

fn free(blocks: Vec<*mut u8>, size: usize) {
    // SAFETY: allocated with this layout, and used by nobody.
    blocks.into_iter().for_each(|block| unsafe { ARENITE.dealloc(block, layout(size)) });
}

/// Slabs, and bytes of cached blocks, of the class with blocks of `size` bytes.
fn figures(size: usize) -> (usize, usize) {
    let classes = stats::collect().classes;
    let class = classes.iter().find(|class| class.size == size).expect("a class");
    (class.slabs, class.cached * size)
}

/// Bytes of a burst: more than the depot holds.
const BURST: usize = 512 * 1024;

/// Bursts until the thread has learned that it needs again what it frees.
fn bursts(size: usize) {
    (0..8).for_each(|_| free(allocate(BURST, size), size));
}

#[test]
fn what_a_burst_freed_is_kept_for_the_next_one() {
    alone(|| {
        for size in [32, 64, 256, 2048, 16 * 1024] {
            bursts(size);
            let (slabs, cached) = figures(size);
            assert!(cached >= BURST, "{cached} bytes of blocks of {size} bytes are cached");
            let again = allocate(BURST, size);
            assert_eq!(figures(size).0, slabs, "slabs of {size} bytes");
            free(again, size);
            // So that it is not one too many of some milliseconds.
            sleep(Duration::from_millis(20));
            assert!(ARENITE.trim() > 0);
            let (_, cached) = figures(size);
            assert_eq!(cached, 0, "bytes of blocks of {size} bytes after a trim");
        }
    });
}

#[test]
fn another_class_gets_what_a_burst_freed_before_fresh_memory() {
    alone(|| {
        // What other tests have left free would come first.
        ARENITE.trim();
        bursts(96);
        let (before, _) = figures(96);
        let others = allocate(BURST, 1024);
        let (after, _) = figures(96);
        assert!(after < before / 2, "{after} slabs of {before} are left");
        free(others, 1024);
        ARENITE.trim();
    });
}

#[test]
fn what_a_burst_freed_goes_home_when_nobody_wants_it() {
    alone(|| {
        ARENITE.set_decay_ms(50);
        // Slow paths see to it where no helper runs, if much is free; of blocks that are larger than all
        // magazines together, which do not go home for them.
        let slow_paths = || free(allocate(16 << 20, 1 << 20), 1 << 20);
        slow_paths();
        bursts(80);
        assert!(figures(80).1 > BURST / 2, "{} bytes are cached", figures(80).1);
        let begin = Instant::now();
        while figures(80).1 > BURST / 2 {
            assert!(begin.elapsed() < Duration::from_secs(60), "{} bytes are left", figures(80).1);
            sleep(Duration::from_millis(5));
            slow_paths();
        }
        ARENITE.set_decay_ms(1000);
    });
}

#[test]
fn a_thread_that_only_frees_what_another_allocates_gives_small_magazines_away() {
    alone(|| {
        const SIZE: usize = 160;
        const BATCH: usize = 50;
        ARENITE.trim();
        let (to_free, frees) = sync_channel::<Vec<usize>>(0);
        let consumer = thread::spawn(move || {
            let free_all = |batch: Vec<usize>| {
                free(batch.into_iter().map(std::ptr::with_exposed_provenance_mut).collect(), SIZE)
            };
            frees.into_iter().for_each(free_all);
        });
        for _ in 0..1000 {
            let batch = allocate(BATCH * SIZE, SIZE);
            let batch = batch.into_iter().map(|block| block.expose_provenance()).collect();
            to_free.send(batch).expect("the other thread waits");
        }
        let (_, cached) = figures(SIZE);
        drop(to_free);
        consumer.join().expect("no panic");
        // Two full magazines; the thread's bin and spare, and those in the depot, held three.
        assert!(cached < 32 * 1024, "{cached} bytes are cached");
    });
}
