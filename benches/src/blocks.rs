//! Blocks under test, and the sizes asked for: the same for every allocator and every run.

use std::alloc::{GlobalAlloc, Layout, handle_alloc_error};
use std::hint::black_box;
use std::ops::RangeInclusive;

/// Bytes from one touched byte to the next: a page of the kernel.
const PAGE: usize = 4096;

/// A block of an allocator; remembers its layout, as Rust's containers do.
#[derive(Debug, Clone, Copy)]
pub struct Block {
    address: *mut u8,
    layout: Layout,
}

// SAFETY: a block is plain memory, which may be used and freed by any thread; all allocators here
// are `Sync`.
unsafe impl Send for Block {}

impl Block {
    /// A block of the layout, whose size is not 0. Ends the process when there is no memory.
    #[inline(always)]
    pub fn new<A: GlobalAlloc>(allocator: &A, layout: Layout) -> Self {
        debug_assert_ne!(layout.size(), 0);
        // SAFETY: no caller asks for size 0.
        Self::checked(unsafe { allocator.alloc(layout) }, layout)
    }

    /// A block of zeros.
    #[inline(always)]
    pub fn zeroed<A: GlobalAlloc>(allocator: &A, layout: Layout) -> Self {
        debug_assert_ne!(layout.size(), 0);
        // SAFETY: no caller asks for size 0.
        Self::checked(unsafe { allocator.alloc_zeroed(layout) }, layout)
    }

    #[inline(always)]
    fn checked(address: *mut u8, layout: Layout) -> Self {
        if address.is_null() {
            handle_alloc_error(layout);
        }
        // Nothing about the block may be known: else its life could be optimised away.
        Self { address: black_box(address), layout }
    }

    /// Makes the block larger, as a `Vec` does.
    #[inline(always)]
    pub fn grow<A: GlobalAlloc>(self, allocator: &A, size: usize) -> Self {
        // No caller's sizes come near the largest layout.
        let layout = Layout::from_size_align(size, self.layout.align()).expect("a small layout");
        // SAFETY: the block is the allocator's with this layout; the new size is a layout's.
        let address = unsafe { allocator.realloc(self.address, self.layout, size) };
        Self::checked(address, layout)
    }

    /// Writes one byte to each page from an offset on, in bytes, so that the kernel's work counts.
    #[inline(always)]
    pub fn touch_from(&self, offset: usize) {
        for at in (offset..self.layout.size()).step_by(PAGE) {
            // SAFETY: `at` lies inside of the block, which is in use.
            unsafe { self.address.add(at).write_volatile(1) };
        }
    }

    /// Gives the block back to the allocator that it is from, with its size.
    #[inline(always)]
    pub fn free<A: GlobalAlloc>(self, allocator: &A) {
        // SAFETY: the benchmarks free each block once, to its own allocator; the layout is its own.
        unsafe { allocator.dealloc(self.address, self.layout) }
    }
}

/// A layout of a size in bytes, aligned as most of Rust's types are: to 8 bytes.
pub const fn layout(size: usize) -> Layout {
    aligned_layout(size, 8)
}

/// A layout of a size and alignment in bytes.
pub const fn aligned_layout(size: usize, align: usize) -> Layout {
    match Layout::from_size_align(size, align) {
        Ok(layout) => layout,
        Err(_) => panic!("no such layout"),
    }
}

/// Random layouts, evenly spread over the sizes in bytes; the same at every call.
pub fn random_layouts(count: usize, sizes: RangeInclusive<usize>) -> Vec<Layout> {
    let mut random = fastrand::Rng::with_seed(0x5eed);
    (0..count).map(|_| layout(random.usize(sizes.clone()))).collect()
}

/// Random places below a limit; the same at every call.
pub fn random_places(count: usize, limit: usize) -> Vec<usize> {
    let mut random = fastrand::Rng::with_seed(0x51075);
    (0..count).map(|_| random.usize(..limit)).collect()
}
