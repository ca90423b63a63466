//! Allocators broken on purpose.
//!
//! A stress that has never found anything proves nothing. With `--sabotage` a binary runs on one
//! of these, and has to end with a violation.

use crate::Target;
use std::alloc::{GlobalAlloc, Layout};
use std::sync::atomic::AtomicUsize;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Mutex, PoisonError};

/// What is broken.
#[derive(Debug, Clone, Copy, PartialEq, Eq, clap::ValueEnum)]
pub enum Sabotage {
    /// Every 64th small block lies in the same bytes.
    Overlap,
    /// Blocks aligned to more than 16 lie 16 bytes further on.
    Misaligned,
    /// One byte of a zeroed block is not zero.
    NotZeroed,
    /// A resized block loses its last byte that should have been kept.
    ReallocLoses,
    /// A lock is held by one thread or another at nearly every moment, and fork copies it as it
    /// is: the child waits for a thread that does not exist.
    LockOverFork,
    /// Freed memory is never given back.
    Leak,
}

/// How many small blocks from one that lies in [`SHARED`] to the next.
const EVERY: usize = 64;
/// The size up to which blocks count as small.
const SMALL: usize = 4096;

/// The bytes that small blocks share.
#[repr(align(4096))]
struct Shared([AtomicUsize; SMALL / size_of::<usize>()]);

static SHARED: Shared = Shared([const { AtomicUsize::new(0) }; SMALL / size_of::<usize>()]);

/// An allocator with a fault, on top of one without.
pub struct Saboteur {
    inner: Target,
    how: Sabotage,
    count: AtomicUsize,
    lock: Mutex<()>,
}

impl Saboteur {
    /// Breaks `inner`.
    pub fn new(inner: Target, how: Sabotage) -> Self {
        Self { inner, how, count: AtomicUsize::new(0), lock: Mutex::new(()) }
    }

    /// The layout with room to move the block for [`Sabotage::Misaligned`].
    fn moved(&self, layout: Layout) -> Option<Layout> {
        (self.how == Sabotage::Misaligned && layout.align() > 16).then(|| {
            Layout::from_size_align(layout.size() + 16, layout.align()).expect("a valid layout")
        })
    }
}

fn shared() -> *mut u8 {
    SHARED.0.as_ptr().cast_mut().cast()
}

// SAFETY: it breaks the contract of GlobalAlloc; it is only ever used to see that noticed.
unsafe impl GlobalAlloc for Saboteur {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if self.how == Sabotage::LockOverFork {
            let guard = self.lock.lock().unwrap_or_else(PoisonError::into_inner);
            for _ in 0..200 {
                std::hint::spin_loop();
            }
            drop(guard);
        }
        if self.how == Sabotage::Overlap
            && layout.size() <= SMALL
            && self.count.fetch_add(1, Relaxed).is_multiple_of(EVERY)
        {
            return shared();
        }
        if let Some(layout) = self.moved(layout) {
            // SAFETY: a larger layout is not empty either.
            let block = unsafe { self.inner.alloc(layout) };
            return if block.is_null() { block } else { block.wrapping_add(16) };
        }
        // SAFETY: the caller's promise.
        unsafe { self.inner.alloc(layout) }
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        if block == shared() || self.how == Sabotage::Leak {
            return;
        }
        match self.moved(layout) {
            // SAFETY: `alloc` moved the block.
            Some(layout) => unsafe { self.inner.dealloc(block.wrapping_sub(16), layout) },
            // SAFETY: the caller's promise.
            None => unsafe { self.inner.dealloc(block, layout) },
        }
    }

    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        let block = unsafe { self.alloc(layout) };
        if !block.is_null() {
            // SAFETY: the block has this size; the byte is inside.
            unsafe {
                block.write_bytes(0, layout.size());
                if self.how == Sabotage::NotZeroed {
                    block.add(layout.size() / 2).write(1);
                }
            }
        }
        block
    }

    unsafe fn realloc(&self, block: *mut u8, layout: Layout, size: usize) -> *mut u8 {
        let new = Layout::from_size_align(size, layout.align()).expect("a valid layout");
        // SAFETY: the caller's promise: `size` is not 0.
        let to = unsafe { self.alloc(new) };
        if !to.is_null() {
            let keep = layout.size().min(size);
            // SAFETY: both blocks have `keep` bytes; `copy` allows for the shared block twice.
            unsafe {
                to.copy_from(block, keep);
                if self.how == Sabotage::ReallocLoses {
                    *to.add(keep - 1) ^= 1;
                }
                self.dealloc(block, layout);
            }
        }
        to
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{Block, Violation};
    use std::alloc::System;

    fn broken(how: Sabotage) -> Target {
        Box::leak(Box::new(Saboteur::new(&System, how)))
    }

    fn layout(size: usize, align: usize) -> Layout {
        Layout::from_size_align(size, align).unwrap()
    }

    #[test]
    fn overlap_is_found() {
        let target = broken(Sabotage::Overlap);
        let blocks: Vec<_> = (0..2 * EVERY as u64)
            .map(|id| Block::allocate(target, layout(48, 16), id).unwrap().unwrap())
            .collect();
        let found = blocks.into_iter().map(|block| block.free(target));
        assert_eq!(found.filter(Result::is_err).count(), 1);
    }

    #[test]
    fn a_wrong_alignment_is_found() {
        let found = Block::allocate(broken(Sabotage::Misaligned), layout(100, 64), 1);
        assert!(matches!(found, Err(Violation::Misaligned { .. })));
    }

    #[test]
    fn a_dirty_zeroed_block_is_found() {
        let found = Block::allocate_zeroed(broken(Sabotage::NotZeroed), layout(99, 1), 1);
        assert!(matches!(found, Err(Violation::NotZero { offset: 49, found: 1, .. })));
    }

    #[test]
    fn contents_lost_in_realloc_are_found() {
        let target = broken(Sabotage::ReallocLoses);
        let block = Block::allocate(target, layout(99, 1), 1);
        let found = block.unwrap().unwrap().resize(target, 500);
        assert!(matches!(found, Err(Violation::Changed { offset: 98, .. })));
    }
}
