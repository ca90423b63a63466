//! The contract of `GlobalAlloc` and what Arenite adds to it, on Arenite itself as the global
//! allocator of this test.

use arenite::Arenite;
use std::alloc::{GlobalAlloc, Layout};
use std::collections::HashSet;
use std::sync::{Barrier, Mutex, mpsc};
use std::thread;

#[global_allocator]
static GLOBAL: Arenite = Arenite::new();

/// Sizes around everything that is a border inside the allocator, in bytes.
const SIZES: [usize; 22] = [
    1, 15, 16, 17, 128, 129, 1024, 1025, 2048, 2049, 4095, 4097, 16_384, 32_768, 32_769, 65_536,
    131_071, 131_072, 1_000_000, 5_000_000, 40_000_000, 70_000_000,
];

fn layout(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a valid layout")
}

/// A block that is filled with its own pattern.
struct Filled {
    address: *mut u8,
    layout: Layout,
    seed: u8,
}

// SAFETY: the block is the value's alone.
unsafe impl Send for Filled {}

impl Filled {
    fn new(layout: Layout, seed: u8) -> Self {
        // SAFETY: the layout is not empty.
        let address = unsafe { GLOBAL.alloc(layout) };
        assert!(!address.is_null(), "{layout:?}");
        assert!(address.addr().is_multiple_of(layout.align()), "{layout:?} at {address:?}");
        let block = Self { address, layout, seed };
        block.bytes().enumerate().for_each(|(i, place)| {
            // SAFETY: the place is in the block.
            unsafe { place.write(block.pattern(i)) }
        });
        block
    }

    fn pattern(&self, index: usize) -> u8 {
        self.seed.wrapping_add((index % 251) as u8)
    }

    /// Some places of the block, the first and the last among them, and all of a small one.
    fn bytes(&self) -> impl Iterator<Item = *mut u8> + use<> {
        let (address, size) = (self.address, self.layout.size());
        (0..size.min(4096)).map(move |i| {
            let offset = if size <= 4096 { i } else { i * (size - 1) / 4095 };
            address.wrapping_add(offset)
        })
    }

    fn check(&self, how_much: usize) {
        for (i, place) in self.bytes().enumerate().take(how_much) {
            // SAFETY: the place is in the block, which was filled.
            assert_eq!(unsafe { place.read() }, self.pattern(i), "{:?}", self.layout);
        }
    }

    fn free(self) {
        self.check(usize::MAX);
        // SAFETY: the block came from `alloc` with this layout.
        unsafe { GLOBAL.dealloc(self.address, self.layout) };
    }
}

#[test]
fn blocks_are_aligned_disjoint_and_intact() {
    let mut blocks = Vec::new();
    for size in SIZES {
        for align_log in 0..22 {
            if size < 2_000_000 || align_log % 7 == 0 {
                blocks.push(Filled::new(layout(size, 1 << align_log), blocks.len() as u8));
            }
        }
    }
    blocks.into_iter().for_each(Filled::free);
}

#[test]
fn small_requests_with_large_alignments_are_told_apart() {
    // Each is a mapping of its own or a run of pages; no two may begin in one granule of the
    // page map.
    for align in [8192, 16_384, 32_768, 65_536, 1 << 20] {
        let blocks: Vec<_> =
            (0..60).map(|i| Filled::new(layout(1 + i * 3, align), i as u8)).collect();
        let places: HashSet<_> = blocks.iter().map(|block| block.address).collect();
        assert_eq!(places.len(), blocks.len());
        blocks.into_iter().for_each(Filled::free);
    }
}

#[test]
fn zeroed_blocks_are_zero_after_dirty_reuse() {
    for _ in 0..3 {
        for size in SIZES.into_iter().filter(|&size| size < 10_000_000) {
            let dirty: Vec<_> = (0..8).map(|i| Filled::new(layout(size, 8), i)).collect();
            dirty.into_iter().for_each(Filled::free);
            for align in [8, 64, 8192] {
                let layout = layout(size, align);
                // SAFETY: the layout is not empty; the block is read within its size and freed
                // with its layout.
                unsafe {
                    let block = GLOBAL.alloc_zeroed(layout);
                    assert!(!block.is_null());
                    let bytes = std::slice::from_raw_parts(block, size);
                    assert!(bytes.iter().all(|&byte| byte == 0), "{layout:?}");
                    GLOBAL.dealloc(block, layout);
                }
            }
        }
    }
}

#[test]
fn realloc_keeps_contents_and_alignment() {
    for align in [1, 16, 64, 4096, 1 << 16] {
        for from in SIZES.into_iter().filter(|&size| size < 6_000_000) {
            for to in SIZES.into_iter().filter(|&size| size < 6_000_000) {
                let old = layout(from, align);
                // SAFETY: the layouts are not empty, and each block is freed with its own.
                unsafe {
                    let block = GLOBAL.alloc(old);
                    assert!(!block.is_null());
                    block.write_bytes(0xa5, from);
                    let block = GLOBAL.realloc(block, old, to);
                    assert!(!block.is_null());
                    assert!(block.addr().is_multiple_of(align), "{from} to {to} at {align}");
                    let kept = std::slice::from_raw_parts(block, from.min(to));
                    assert!(kept.iter().all(|&byte| byte == 0xa5), "{from} to {to}");
                    GLOBAL.dealloc(block, layout(to, align));
                }
            }
        }
    }
}

#[test]
fn a_block_that_shrinks_in_steps_is_a_small_one_in_the_end() {
    let mut block = Filled::new(layout(1000, 8), 7);
    for size in [520, 270, 140, 75, 40, 24] {
        // SAFETY: the block came from `alloc` or `realloc` with this layout.
        block.address = unsafe { GLOBAL.realloc(block.address, block.layout, size) };
        block.layout = layout(size, 8);
        block.check(size);
    }
    // SAFETY: the block is in use.
    let usable = unsafe { arenite::c_api::malloc_usable_size(block.address.cast()) };
    assert!(usable <= 64, "{usable} bytes for 24");
    block.free();
}

#[test]
fn impossible_requests_give_null_and_harm_nothing() {
    let kept = Filled::new(layout(5000, 16), 7);
    for impossible in [
        layout(isize::MAX as usize - 15, 16),
        layout(1 << 46, 1 << 20),
        layout(16, 1 << 47),
        layout(1, 1 << 62),
    ] {
        // SAFETY: the layouts are not empty.
        unsafe {
            assert!(GLOBAL.alloc(impossible).is_null(), "{impossible:?}");
            assert!(GLOBAL.alloc_zeroed(impossible).is_null(), "{impossible:?}");
        }
    }
    // SAFETY: the block came with this layout, and a failed realloc leaves it.
    let moved = unsafe { GLOBAL.realloc(kept.address, kept.layout, isize::MAX as usize - 15) };
    assert!(moved.is_null());
    kept.free();
}

#[test]
fn blocks_travel_between_threads() {
    const THREADS: usize = 8;
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..THREADS).map(|_| mpsc::channel::<Filled>()).unzip();
    thread::scope(|scope| {
        for (number, receiver) in receivers.into_iter().enumerate() {
            let next = senders[(number + 1) % THREADS].clone();
            scope.spawn(move || {
                for i in 0..4000usize {
                    let size = SIZES[(i * 7 + number) % 14] + i % 13;
                    next.send(Filled::new(layout(size, 8), i as u8)).expect("the next thread");
                    receiver.recv().expect("the thread before").free();
                }
            });
        }
        drop(senders);
    });
}

#[test]
fn threads_that_meet_at_one_lock_all_get_blocks() {
    // More blocks at once than caches and depot hold, so that every thread keeps coming for the
    // arena's lock, and some move to arenas of their own. None may be told that memory is out.
    const THREADS: usize = 8;
    let start = Barrier::new(THREADS);
    thread::scope(|scope| {
        for number in 0..THREADS {
            let start = &start;
            scope.spawn(move || {
                let size = [16, 48, 500, 2000][number % 4];
                start.wait();
                for _ in 0..6 {
                    let blocks: Vec<_> = (0..6_000_000 / (size + 200))
                        .map(|i| Filled::new(layout(size, 8), i as u8))
                        .collect();
                    blocks.into_iter().for_each(Filled::free);
                }
            });
        }
    });
}

/// Held by tests that trim: one's trim takes what another's counts.
pub static TRIMS: Mutex<()> = Mutex::new(());

#[test]
fn trim_gives_memory_back() {
    let _alone = TRIMS.lock();
    // Again where other tests' threads took what was free, or the helper gave it back, before the trim.
    let gives_back = (0..10).any(|_| {
        let blocks: Vec<_> = (0..20_000).map(|i| Filled::new(layout(1000, 8), i as u8)).collect();
        blocks.into_iter().for_each(Filled::free);
        GLOBAL.trim() > 10_000_000
    });
    assert!(gives_back);
}
