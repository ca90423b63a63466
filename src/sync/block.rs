//! A free block, seen through the two words the allocator keeps in it.

use super::prim::Cell;

/// The first 16 bytes of a free block. Blocks in use belong to the program alone.
#[repr(C)]
pub struct Block {
    /// The next free block of the list this one is on.
    next: Cell<*mut Block>,
    /// [`crate::check`]'s mark of a free block, by which a double free is found.
    mark: Cell<usize>,
}

impl Block {
    /// A block on no list. Only models make blocks; the allocator casts memory to them.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { next: Cell::new(core::ptr::null_mut()), mark: Cell::new(0) }
    }

    /// The next block of the list.
    ///
    /// # Safety
    /// `block` points to a free block that no other thread writes now.
    #[inline(always)]
    pub unsafe fn next(block: *mut Block) -> *mut Block {
        // SAFETY: the caller's contract.
        unsafe { (*block).next.get() }
    }

    /// Links `block` to `next`.
    ///
    /// # Safety
    /// `block` points to a free block that no other thread uses now.
    #[inline(always)]
    pub unsafe fn set_next(block: *mut Block, next: *mut Block) {
        // SAFETY: the caller's contract.
        unsafe { (*block).next.set(next) }
    }

    /// The last block of the list that begins with `block` and ends in null.
    ///
    /// # Safety
    /// The list's blocks are free, and no other thread writes them now.
    pub unsafe fn last(mut block: *mut Block) -> *mut Block {
        loop {
            // SAFETY: the caller's contract.
            let next = unsafe { Self::next(block) };
            if next.is_null() {
                return block;
            }
            block = next;
        }
    }

    /// Whether the list that begins with `head` and ends in null holds `block`.
    ///
    /// # Safety
    /// The list's blocks are free, and no other thread writes them now.
    pub unsafe fn list_holds(mut head: *mut Block, block: *mut Block) -> bool {
        while !head.is_null() && head != block {
            // SAFETY: the caller's contract.
            head = unsafe { Self::next(head) };
        }
        !head.is_null()
    }

    /// Asks the processor for the first line of `block`, if it is one: whoever takes that block next reads its link.
    #[inline(always)]
    pub fn prefetch(block: *mut Block) {
        // SAFETY: a hint, which faults for no address.
        #[cfg(target_arch = "x86_64")]
        unsafe {
            use core::arch::x86_64::{_MM_HINT_T0, _mm_prefetch};
            _mm_prefetch::<_MM_HINT_T0>(block.cast());
        }
        // SAFETY: as above.
        #[cfg(target_arch = "aarch64")]
        unsafe {
            core::arch::asm!(
                "prfm pldl1keep, [{}]",
                in(reg) block,
                options(readonly, nostack, preserves_flags)
            );
        }
        #[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
        let _ = block;
    }

    /// The mark word of the block.
    ///
    /// # Safety
    /// `block` points to 16 readable bytes that no other thread writes now.
    #[inline(always)]
    pub unsafe fn mark(block: *mut Block) -> usize {
        // SAFETY: the caller's contract.
        unsafe { (*block).mark.get() }
    }

    /// Writes the mark word.
    ///
    /// # Safety
    /// `block` points to a block that no other thread uses now.
    #[inline(always)]
    pub unsafe fn set_mark(block: *mut Block, mark: usize) {
        // SAFETY: the caller's contract.
        unsafe { (*block).mark.set(mark) }
    }
}

#[cfg(loom)]
impl Default for Block {
    fn default() -> Self {
        Self::new()
    }
}

/// Blocks linked through their first words, with an exact count: a magazine, a slab's free
/// list, a chain on its way home. Dropping one loses the blocks, so it is not `Copy`.
#[derive(Debug)]
pub struct Chain {
    /// First block; null when empty.
    pub head: *mut Block,
    /// Last block, where somebody links behind it; else it may be null.
    pub tail: *mut Block,
    /// Number of blocks.
    pub count: usize,
}

impl Chain {
    /// A chain of no blocks.
    pub const EMPTY: Chain =
        Chain { head: core::ptr::null_mut(), tail: core::ptr::null_mut(), count: 0 };

    /// Puts `block` in front.
    ///
    /// # Safety
    /// `block` is a free block that is on no list, and no other thread uses it.
    #[inline]
    pub unsafe fn push(&mut self, block: *mut Block) {
        // SAFETY: the caller's contract.
        unsafe { Block::set_next(block, self.head) };
        self.head = block;
        if self.tail.is_null() {
            self.tail = block;
        }
        self.count += 1;
    }
}
