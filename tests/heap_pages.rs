//! Heaps on the break and mapped ones, with the kernel's own page size and with pages of 16 and
//! 64 KiB. Each in a process of its own: the break may move only where there is one thread.

mod process;

use arenite::{Arenite, SIMULATED_PAGE, stats};
use process::in_a_process;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::Ordering::Relaxed;
use std::thread;
use std::time::Duration;

/// Not this program's global allocator: the system's moves the break as well.
static ARENITE: Arenite = Arenite::new();

fn main() {
    // 0: the kernel's own.
    for page in [0, 16 * 1024, 64 * 1024] {
        with_pages(page, "break", || {
            grows_and_shrinks();
            assert!(brk_bytes() > 0);
            goes_on_after_the_programs_own_sbrk();
        });
        with_pages(page, "a break that the program lowers", || {
            starts_anew_where_the_program_lowered_the_break(page);
        });
        with_pages(page, "memory that the program locked", || {
            goes_on_where_the_kernel_refuses();
        });
        with_pages(page, "mapped heaps", || {
            // A second thread, so that the break may not move.
            std::thread::spawn(|| {
                loop {
                    std::thread::park();
                }
            });
            grows_and_shrinks();
            assert_eq!(brk_bytes(), 0);
        });
    }
}

fn with_pages(page: usize, what: &str, test: impl FnOnce()) {
    in_a_process(&format!("{what}, pages of {page} bytes"), || {
        SIMULATED_PAGE.store(page, Relaxed);
        test();
    });
}

const LARGE: usize = 100_000;

fn layout() -> Layout {
    Layout::from_size_align(LARGE, 8).expect("a valid layout")
}

/// A block of [`LARGE`] bytes, which must be zero, filled.
fn zeroed_then_filled() -> *mut u8 {
    // SAFETY: the layout is not empty; the block is as long as said.
    unsafe {
        let block = ARENITE.alloc_zeroed(layout());
        assert!(!block.is_null());
        let bytes = std::slice::from_raw_parts_mut(block, LARGE);
        assert!(bytes.iter().all(|&byte| byte == 0));
        bytes.fill(0xa5);
        block
    }
}

fn free(block: *mut u8) {
    // SAFETY: the block came from `zeroed_then_filled`, and is freed once.
    unsafe {
        let bytes = std::slice::from_raw_parts(block, LARGE);
        assert!(bytes.iter().all(|&byte| byte == 0xa5));
        ARENITE.dealloc(block, layout());
    }
}

fn brk_bytes() -> usize {
    stats::collect().brk_bytes
}

fn heap_bytes() -> usize {
    let stats = stats::collect();
    stats.brk_bytes + stats.mmap_bytes
}

fn grows_and_shrinks() {
    // Blocks that stay, so that the top begins at every place in a page.
    let stays = |pages: usize| Layout::from_size_align(32_000 + pages * 4096, 8).expect("valid");
    let kept: Vec<_> = (1..40)
        .map(|step| {
            // SAFETY: the layout is not empty.
            let block = unsafe { ARENITE.alloc(stays(step % 16)) };
            assert!(!block.is_null());
            let blocks: Vec<_> = (0..[3, 17, 64][step % 3]).map(|_| zeroed_then_filled()).collect();
            let grown = heap_bytes();
            assert!(grown >= blocks.len() * LARGE, "{grown} bytes");
            blocks.into_iter().for_each(free);
            // So that it is not one too many of some milliseconds.
            thread::sleep(Duration::from_millis(20));
            let trimmed = ARENITE.trim();
            assert!(trimmed > 0);
            assert!(brk_bytes() == 0 || heap_bytes() < grown, "nothing went back");
            (block, stays(step % 16))
        })
        .collect();
    // SAFETY: in use until now.
    kept.into_iter().for_each(|(block, layout)| unsafe { ARENITE.dealloc(block, layout) });
}

/// Moves the break as a program does; the old one.
fn sbrk(bytes: isize) -> *mut u8 {
    // SAFETY: only memory that this function gave goes back.
    let old = unsafe { libc::sbrk(bytes) }.cast::<u8>();
    assert_ne!(old.addr(), usize::MAX);
    old
}

fn goes_on_after_the_programs_own_sbrk() {
    for bytes in [1, 4096, 5000, 16 * 1024, 20_000, 64 * 1024, 100_000] {
        let before: Vec<_> = (0..4).map(|_| zeroed_then_filled()).collect();
        let own = sbrk(bytes as isize);
        // SAFETY: the memory is this program's.
        unsafe { own.write_bytes(0x77, bytes) };
        let after: Vec<_> = (0..20).map(|_| zeroed_then_filled()).collect();
        // SAFETY: as above.
        let kept = unsafe { std::slice::from_raw_parts(own, bytes) };
        assert!(kept.iter().all(|&byte| byte == 0x77), "{bytes} bytes");
        before.into_iter().chain(after).for_each(free);
        ARENITE.trim();

        // And one that takes its own back again, and dirty memory in the page with it.
        let block = zeroed_then_filled();
        let own = sbrk(bytes as isize);
        // SAFETY: as above.
        unsafe { own.write_bytes(0x77, bytes) };
        sbrk(-(bytes as isize));
        let more: Vec<_> = (0..20).map(|_| zeroed_then_filled()).collect();
        more.into_iter().for_each(free);
        free(block);
    }
}

fn starts_anew_where_the_program_lowered_the_break(page: usize) {
    let block = zeroed_then_filled();
    let heaps = stats::collect().heaps;
    // Of the heap's end that nobody touched. A kernel with larger pages keeps the rest of the page.
    sbrk(-4096);
    let more: Vec<_> = (0..20).map(|_| zeroed_then_filled()).collect();
    // SAFETY: no precondition.
    let page = page.max(unsafe { libc::sysconf(libc::_SC_PAGESIZE) } as usize);
    assert_eq!(stats::collect().heaps, if page == 4096 { heaps } else { heaps + 1 });
    more.into_iter().for_each(free);
    free(block);
}

fn goes_on_where_the_kernel_refuses() {
    let mut blocks: Vec<_> = (0..9).map(|_| zeroed_then_filled()).collect();
    let locked = blocks.swap_remove(4);
    // SAFETY: the memory is this program's. What is locked can not be dropped (madvise(2)).
    let lock = unsafe { libc::mlock(locked.cast(), LARGE) };
    assert_eq!(lock, 0, "less than 128 KiB may be locked");
    free(locked);
    ARENITE.trim();
    blocks.push(zeroed_then_filled());
    blocks.into_iter().for_each(free);
    ARENITE.trim();
}
