//! Blocks of another arena that a thread freed, and has not sent home yet, go home while it sleeps.

mod alone;

use alone::alone;
use arenite::{Arenite, stats};
use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::AtomicBool;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::mpsc::{channel, sync_channel};
use std::thread::{self, sleep};
use std::time::{Duration, Instant};

static ARENITE: Arenite = Arenite::new().arenas(2);

/// Fewer than a thread sends home by itself.
const BLOCKS: usize = 100;
const LAYOUT: Layout = Layout::new::<[u64; 32]>();

/// A block that is its thread's.
struct Block(*mut u64);

// SAFETY: nobody else has the pointer.
unsafe impl Send for Block {}

impl Block {
    fn new(value: u64) -> Block {
        // SAFETY: the layout is not empty.
        let block = unsafe { ARENITE.alloc(LAYOUT) }.cast::<u64>();
        assert!(!block.is_null());
        // SAFETY: the block is as large.
        (0..LAYOUT.size() / 8).for_each(|at| unsafe { block.add(at).write(value) });
        Block(block)
    }

    /// Checks its contents and frees it.
    fn free(self, value: u64) {
        // SAFETY: the block is this one's, and filled.
        unsafe {
            assert!((0..LAYOUT.size() / 8).all(|at| self.0.add(at).read() == value));
            ARENITE.dealloc(self.0.cast(), LAYOUT);
        }
    }
}

fn pending() -> usize {
    stats::collect().remote_pending_bytes
}

/// Trims until nothing is on its way home: the other thread may still be about to sleep.
fn trim_until_all_is_home() {
    let begun = Instant::now();
    while pending() > 0 {
        assert!(begun.elapsed() < Duration::from_secs(60), "{} bytes stay", pending());
        ARENITE.trim();
        sleep(Duration::from_millis(1));
    }
}

/// Blocks of the class in use, as far as the arenas know.
fn in_use() -> usize {
    let classes = stats::collect().classes;
    classes.iter().find(|class| class.size == LAYOUT.size()).expect("a class").in_use
}

#[test]
fn no_block_is_lost_while_others_trim() {
    alone(others_trim);
}

#[test]
fn what_a_thread_that_sleeps_has_not_sent_goes_home() {
    alone(a_thread_sleeps);
}

fn others_trim() {
    let before = in_use();
    let stop = AtomicBool::new(false);
    thread::scope(|scope| {
        let (blocks_to, blocks) = sync_channel::<Vec<Block>>(2);
        let trims = scope.spawn(|| {
            while !stop.load(Relaxed) {
                ARENITE.trim();
            }
        });
        let frees = scope.spawn(move || {
            Block::new(1).free(1);
            for (round, blocks) in blocks.iter().enumerate() {
                blocks.into_iter().for_each(|block| block.free(round as u64));
            }
        });
        for round in 0..3000 {
            let count = 1 + round as usize % BLOCKS;
            blocks_to.send((0..count).map(|_| Block::new(round)).collect()).expect("it waits");
        }
        drop(blocks_to);
        stop.store(true, Relaxed);
        // A scope alone does not wait until they have left their arenas.
        trims.join().expect("it ends");
        frees.join().expect("it ends");
    });
    // So that it is not one too many of some milliseconds.
    sleep(Duration::from_millis(20));
    ARENITE.trim();
    assert_eq!(in_use(), before);
}

fn a_thread_sleeps() {
    // This thread joins its arena before the other one, which else may choose the same at the same time.
    Block::new(0).free(0);
    let (blocks_to, blocks) = channel::<Vec<Block>>();
    let (done_to, done) = channel();
    let frees = thread::spawn(move || {
        // An arena of its own, where there is a CPU for it.
        Block::new(1).free(1);
        for (round, blocks) in blocks.iter().enumerate() {
            blocks.into_iter().for_each(|block| block.free(round as u64));
            done_to.send(()).expect("the other thread waits");
        }
    });
    let has_two_arenas = thread::available_parallelism().is_ok_and(|cpus| cpus.get() > 1);
    for round in 0..20 {
        blocks_to.send((0..BLOCKS).map(|_| Block::new(round)).collect()).expect("it waits");
        done.recv().expect("it goes on");
        if round == 0 && has_two_arenas {
            assert!(pending() >= BLOCKS * LAYOUT.size(), "{} bytes are on their way", pending());
        }
        trim_until_all_is_home();
    }
    drop(blocks_to);
    frees.join().expect("the thread ends");
}
