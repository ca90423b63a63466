//! The large block that a thread freed last is kept for its next one of that size, and for nothing else.

use arenite::{Arenite, stats};
use std::alloc::{GlobalAlloc, Layout};
use std::sync::mpsc::sync_channel;
use std::sync::{Mutex, PoisonError};
use std::thread;

static ARENITE: Arenite = Arenite::new().arenas(1);

/// The figures are the process's, and each test's own.
static ALONE: Mutex<()> = Mutex::new(());

const KIB: usize = 1024;
const BUFFER: usize = 64 * KIB;

fn layout(size: usize) -> Layout {
    Layout::from_size_align(size, 16).expect("a valid layout")
}

/// Allocates a block, fills it, and frees it; where it was.
fn use_buffer(size: usize) -> usize {
    // SAFETY: the layout is not empty; the block is this function's.
    unsafe {
        let block = ARENITE.alloc(layout(size));
        assert!(!block.is_null());
        block.write_bytes(0xa5, size);
        ARENITE.dealloc(block, layout(size));
        block.addr()
    }
}

/// Bytes that caches hold: here, those of large blocks.
fn cached() -> usize {
    stats::collect().cached_bytes
}

/// Makes the thread keep a block of [`BUFFER`] bytes.
fn keep() {
    (0..3).for_each(|_| _ = use_buffer(BUFFER));
    assert_eq!(cached(), BUFFER);
}

/// Runs a test in a thread of its own; what is cached after that.
fn in_a_thread(test: fn()) -> usize {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    assert_eq!(cached(), 0);
    assert!(thread::spawn(test).join().is_ok());
    cached()
}

#[test]
fn a_buffer_is_kept_from_the_second_time_on() {
    in_a_thread(|| {
        let in_use = stats::collect().in_use_bytes;
        let places = [BUFFER; 4].map(use_buffer);
        assert_eq!(places, [places[0]; 4]);
        let stats = stats::collect();
        assert_eq!((stats.in_use_bytes, stats.cached_blocks), (in_use, 1));
        // One that is used once is not.
        use_buffer(2 * BUFFER);
        assert_eq!(cached(), 0);
    });
}

#[test]
fn it_goes_home_for_a_block_of_another_size() {
    in_a_thread(|| {
        for other in [BUFFER + KIB, BUFFER - 8 * KIB, 256 * KIB, 8 << 20] {
            keep();
            // SAFETY: the layout is not empty; the block is this test's.
            unsafe {
                let block = ARENITE.alloc(layout(other));
                assert_eq!(cached(), 0, "beside {other} bytes");
                ARENITE.dealloc(block, layout(other));
            }
        }
    });
}

#[test]
fn several_blocks_of_one_size_are_distinct() {
    in_a_thread(|| {
        keep();
        for _ in 0..10 {
            // SAFETY: the layout is not empty; the blocks are this test's.
            unsafe {
                let blocks = [(); 5].map(|()| ARENITE.alloc_zeroed(layout(BUFFER)));
                for (value, &block) in blocks.iter().enumerate() {
                    let bytes = core::slice::from_raw_parts_mut(block, BUFFER);
                    assert!(bytes.iter().all(|&byte| byte == 0));
                    bytes.fill(value as u8 + 1);
                }
                for (value, &block) in blocks.iter().enumerate() {
                    let bytes = core::slice::from_raw_parts(block, BUFFER);
                    assert!(bytes.iter().all(|&byte| byte == value as u8 + 1));
                    ARENITE.dealloc(block, layout(BUFFER));
                }
            }
            assert_eq!(cached(), BUFFER);
        }
    });
}

#[test]
fn it_goes_home_with_the_thread() {
    assert_eq!(in_a_thread(keep), 0);
}

#[test]
fn a_trim_of_another_thread_gives_it_back() {
    let _alone = ALONE.lock().unwrap_or_else(PoisonError::into_inner);
    let (kept, has_kept) = sync_channel(0);
    let (trimmed, has_trimmed) = sync_channel(0);
    let thread = thread::spawn(move || {
        keep();
        kept.send(()).expect("the test waits");
        has_trimmed.recv().expect("the test goes on");
        keep();
    });
    has_kept.recv().expect("the thread keeps one");
    ARENITE.trim();
    assert_eq!(cached(), 0);
    trimmed.send(()).expect("the thread waits");
    assert!(thread.join().is_ok());
}
