//! The gate of a thread's bins: each block that a thread has cached stays the thread's or goes to who drains
//! the bins while the thread goes on, and to one of them only.
//!
//! The bin is a model of those in `src/tcache/`: the fast paths take no step in common with who drains, but
//! that the kernel lets a barrier run on all CPUs. A fence before and after each stands for that.
#![cfg(loom)]

use arenite::sync::block::Block;
use arenite::sync::gate::{Gate, Passage, cut};
use loom::sync::atomic::Ordering::{Acquire, Relaxed, Release, SeqCst};
use loom::sync::atomic::{AtomicBool, AtomicPtr, fence};
use loom::thread;
use loom_tests::blocks::{Blocks, assert_each_once};
use loom_tests::check_bounded;
use std::ptr;
use std::sync::Arc;

/// A thread's cache with one bin.
struct Cache {
    gate: Gate,
    /// Whether the thread's word leads here.
    word: AtomicBool,
    head: AtomicPtr<Block>,
    taken: AtomicPtr<Block>,
    /// Whether the thread changes its chain of blocks on their way home.
    collects: AtomicBool,
    /// That chain.
    pending: AtomicPtr<Block>,
}

impl Cache {
    fn new() -> Self {
        Self {
            gate: Gate::new(),
            word: AtomicBool::new(true),
            head: AtomicPtr::new(ptr::null_mut()),
            taken: AtomicPtr::new(ptr::null_mut()),
            collects: AtomicBool::new(false),
            pending: AtomicPtr::new(ptr::null_mut()),
        }
    }

    /// A step of the thread: on the fast path if its word leads here, else inside the gate.
    fn step<R>(&self, step: impl FnOnce(&Self) -> R) -> R {
        if self.word.load(Relaxed) {
            fence(SeqCst);
            let result = step(self);
            fence(SeqCst);
            return result;
        }
        self.inside(step)
    }

    /// A slow path of the thread.
    fn inside<R>(&self, steps: impl FnOnce(&Self) -> R) -> R {
        let passage = self.gate.enter(|_| false);
        if passage == Passage::AfterDrain {
            let taken = self.taken.load(Relaxed);
            if !taken.is_null() {
                // SAFETY: the bin is the thread's, which is inside its gate.
                let (head, _) = unsafe { cut(self.head.load(Relaxed), taken) };
                self.head.store(head, Relaxed);
                self.taken.store(ptr::null_mut(), Relaxed);
            }
            self.word.store(true, Relaxed);
        }
        let result = steps(self);
        if passage != Passage::Again {
            self.gate.leave();
        }
        result
    }

    /// Takes the first block, as the fast path does.
    fn pop(&self) -> *mut Block {
        let block = self.head.load(Relaxed);
        if !block.is_null() {
            // SAFETY: the first block is the thread's.
            self.head.store(unsafe { Block::next(block) }, Relaxed);
        }
        block
    }

    /// Puts a block in front, as the fast path does.
    fn push(&self, block: *mut Block) {
        // SAFETY: the block is the thread's.
        unsafe { Block::set_next(block, self.head.load(Relaxed)) };
        self.head.store(block, Release);
    }

    /// Puts a block on its way home, as `src/tcache/remote.rs` does.
    fn collect(&self, block: *mut Block) {
        let put = |cache: &Self| {
            // SAFETY: the block is the thread's.
            unsafe { Block::set_next(block, cache.pending.load(Relaxed)) };
            cache.pending.store(block, Relaxed);
        };
        self.collects.store(true, Relaxed);
        fence(SeqCst);
        if self.word.load(Relaxed) {
            put(self);
        } else {
            self.inside(put);
        }
        self.collects.store(false, Release);
    }

    /// Takes what is behind the first block, and what is on its way home, as `src/tcache/drain.rs` does.
    fn drain(&self) -> [*mut Block; 2] {
        if !self.gate.hold(1) {
            return [ptr::null_mut(); 2];
        }
        self.word.store(false, Relaxed);
        fence(SeqCst);
        let first = self.head.load(Acquire);
        // SAFETY: the model's program does not write its blocks, so that the word can be read.
        let rest = if first.is_null() { first } else { unsafe { Block::next(first) } };
        fence(SeqCst);
        let rest = if self.head.load(Relaxed) == first { rest } else { ptr::null_mut() };
        self.taken.store(rest, Relaxed);
        let mut pending = ptr::null_mut();
        if !self.collects.load(Acquire) {
            pending = self.pending.load(Relaxed);
            self.pending.store(ptr::null_mut(), Relaxed);
        }
        self.gate.release(true);
        [rest, pending]
    }
}

/// Runs the thread's steps, which return the blocks that it has at the end, beside one that drains; the bin
/// holds the blocks at `places` before. Each block is somebody's then.
fn run(count: usize, places: &'static [usize], steps: fn(&Cache, &Blocks) -> Vec<*mut Block>) {
    check_bounded(4, move || {
        let blocks = Arc::new(Blocks::new(count));
        let cache = Arc::new(Cache::new());
        let owner = {
            let (blocks, cache) = (blocks.clone(), cache.clone());
            thread::spawn(move || {
                // SAFETY: the blocks are the thread's.
                cache.inside(|cache| unsafe {
                    cache.head.store(blocks.chain(places).head, Relaxed);
                });
                let hands = steps(&cache, &blocks);
                let taken = hands.into_iter().filter(|block| !block.is_null());
                taken.map(|block| blocks.place(block)).collect::<Vec<_>>()
            })
        };
        let taken = cache.drain();
        // SAFETY: what was taken belongs to who drains.
        let mut all = unsafe { taken.map(|list| blocks.places(list)) }.concat();
        all.extend(owner.join().unwrap());
        let left =
            cache.inside(|cache| [&cache.head, &cache.pending].map(|list| list.load(Relaxed)));
        // SAFETY: nobody else is left.
        all.extend(unsafe { left.map(|list| blocks.places(list)) }.concat());
        assert_each_once(all, count);
    });
}

/// The thread takes blocks meanwhile.
#[test]
fn the_thread_takes_blocks() {
    run(3, &[0, 1, 2], |cache, _| vec![cache.step(Cache::pop), cache.step(Cache::pop)]);
}

/// The thread puts a block in front meanwhile, and takes one.
#[test]
fn the_thread_frees_and_takes_blocks() {
    run(3, &[0, 1], |cache, blocks| {
        // SAFETY: the block is the thread's.
        let block = unsafe { blocks.chain(&[2]) }.head;
        cache.step(|cache| cache.push(block));
        vec![cache.step(Cache::pop)]
    });
}

/// The thread takes two blocks meanwhile and puts the first one back: the first block of the bin is what it was,
/// what follows is not.
#[test]
fn the_first_block_comes_back() {
    run(3, &[0, 1, 2], |cache, _| {
        let (first, second) = (cache.step(Cache::pop), cache.step(Cache::pop));
        if !first.is_null() {
            cache.step(|cache| cache.push(first));
        }
        vec![second]
    });
}

/// The thread empties its bin on a slow path meanwhile.
#[test]
fn the_thread_empties_its_bin() {
    run(3, &[0, 1, 2], |cache, _| {
        let first = cache.step(Cache::pop);
        let (second, third) = cache.inside(|cache| (cache.pop(), cache.pop()));
        vec![first, second, third]
    });
}

/// The thread puts blocks on their way home meanwhile.
#[test]
fn the_thread_sends_blocks_home() {
    run(2, &[0], |cache, blocks| {
        // SAFETY: the block is the thread's.
        cache.collect(unsafe { blocks.chain(&[1]) }.head);
        let block = cache.step(Cache::pop);
        if !block.is_null() {
            cache.collect(block);
        }
        vec![]
    });
}
