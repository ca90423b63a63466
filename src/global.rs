//! The Rust face: `#[global_allocator]`.

use crate::malloc;
use crate::size_class::{self, MAX_SMALL, MIN_ALIGN};
use core::alloc::{GlobalAlloc, Layout};

/// The allocator.
///
/// ```
/// use arenite::Arenite;
///
/// #[global_allocator]
/// static GLOBAL: Arenite = Arenite::new();
///
/// let numbers: Vec<u64> = (0..1000).collect();
/// assert_eq!(numbers.iter().sum::<u64>(), 499_500);
/// ```
///
/// All values of this type are the same allocator: its state is the process's.
#[derive(Debug, Clone, Copy, Default)]
pub struct Arenite {
    _private: (),
}

impl Arenite {
    /// The allocator.
    pub const fn new() -> Self {
        Self { _private: () }
    }

    /// Gives back to the kernel all memory that is free in the arenas, as `malloc_trim(0)` does
    /// (malloc_trim(3)). Returns the bytes given back. Blocks cached by other threads stay with
    /// them.
    pub fn trim(&self) -> usize {
        malloc::trim(0)
    }
}

/// Whether the layout is one that a class serves, whose sized free needs no look-up.
#[inline(always)]
const fn is_plain(layout: &Layout) -> bool {
    layout.size() <= MAX_SMALL && layout.align() <= MIN_ALIGN
}

// SAFETY: blocks hold the layout's size at its alignment, are disjoint, and stay until freed;
// nothing here unwinds.
unsafe impl GlobalAlloc for Arenite {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if is_plain(&layout) {
            malloc::malloc_class(size_class::of(layout.size()))
        } else {
            malloc::malloc_aligned(layout.size(), layout.align())
        }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract: the block came from `alloc` with this layout.
        unsafe {
            if is_plain(&layout) {
                malloc::free_class(block, size_class::of(layout.size()));
            } else {
                malloc::free(block);
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        malloc::calloc_aligned(layout.size(), layout.align())
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe { malloc::realloc(block, new_size, layout.align()) }
    }
}
