//! A block of the process's malloc, touched at its two ends only.

use std::alloc::{GlobalAlloc, Layout, System, handle_alloc_error};
use std::ptr::NonNull;

/// A block; dropping it frees it, on whichever thread that is.
pub struct Block {
    start: NonNull<u8>,
    /// In bytes, at least 1.
    size: usize,
}

// SAFETY: a block is owned memory, which any thread may write and free.
unsafe impl Send for Block {}

impl Block {
    /// A block of `size` bytes, at least 1; its first and its last byte hold a tag.
    #[inline]
    pub fn new(size: usize) -> Self {
        let layout = layout(size);
        // SAFETY: the size of the layout is not 0.
        let start = unsafe { System.alloc(layout) };
        let mut block = Self::own(start, layout);
        block.tag();
        block
    }

    /// As `new`, by calloc.
    ///
    /// # Panics
    ///
    /// If the first, middle or last byte is not 0.
    #[inline]
    pub fn zeroed(size: usize) -> Self {
        let layout = layout(size);
        // SAFETY: the size of the layout is not 0.
        let start = unsafe { System.alloc_zeroed(layout) };
        let mut block = Self::own(start, layout);
        for at in [0, size / 2, size - 1] {
            assert_eq!(*block.byte(at), 0, "byte {at} of {size} of calloc");
        }
        block.tag();
        block
    }

    /// Resizes the block to `size` bytes, at least 1, by realloc.
    #[inline]
    pub fn resize(&mut self, size: usize) {
        self.check();
        let (new, mark) = (layout(size), self.mark());
        // SAFETY: the block is System's, with this layout, and is given up here; the new size is
        // not 0, and `layout` accepted it.
        let start = unsafe { System.realloc(self.start.as_ptr(), layout(self.size), size) };
        self.start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(new));
        assert_eq!(*self.byte(0), mark, "the first byte changed in a realloc");
        self.size = size;
        self.tag();
    }

    /// The byte `at`, to be read or written.
    ///
    /// # Panics
    ///
    /// If the block is not longer than `at`.
    #[inline]
    pub fn byte(&mut self, at: usize) -> &mut u8 {
        assert!(at < self.size);
        // SAFETY: the byte is in the block, which is owned, and which nobody else refers to. Bytes
        // are read only where they were written, or came zeroed.
        unsafe { self.start.add(at).as_mut() }
    }

    #[inline]
    fn own(start: *mut u8, layout: Layout) -> Self {
        let start = NonNull::new(start).unwrap_or_else(|| handle_alloc_error(layout));
        Self { start, size: layout.size() }
    }

    #[inline]
    fn tag(&mut self) {
        let mark = self.mark();
        let last = self.size - 1;
        *self.byte(0) = mark;
        *self.byte(last) = mark;
    }

    #[inline]
    fn check(&mut self) {
        let last = self.size - 1;
        let intact = *self.byte(0) == self.mark() && *self.byte(last) == self.mark();
        assert!(intact, "the ends of a block of {} bytes changed", self.size);
    }

    #[inline]
    fn mark(&self) -> u8 {
        self.size as u8 | 1
    }
}

impl Drop for Block {
    #[inline]
    fn drop(&mut self) {
        self.check();
        // SAFETY: the block is System's, with this layout, and nobody refers to it any more.
        unsafe { System.dealloc(self.start.as_ptr(), layout(self.size)) }
    }
}

/// Bytes with the alignment that malloc gives anyway, so that it is malloc that is called.
#[inline]
fn layout(size: usize) -> Layout {
    debug_assert!(size > 0);
    Layout::from_size_align(size, 8).expect("a size below isize::MAX")
}
