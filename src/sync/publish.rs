//! How a region of the page map comes into being while others read.
//!
//! | slot | entry | a reader sees |
//! |---|---|---|
//! | null | – | "not ours" |
//! | region | 0 | "not ours" |
//! | region | kind and arena | the granule's owner; written before a block of it is handed out |
//!
//! A slot changes once, from null to a region; regions live as long as the process.

use super::prim::{AtomicPtr, AtomicU16};
use core::ptr;
use core::sync::atomic::Ordering::{AcqRel, Acquire, Release};

/// A slot of the page map's root.
#[derive(Debug)]
pub struct RegionSlot<T> {
    region: AtomicPtr<T>,
}

impl<T> RegionSlot<T> {
    /// An empty slot.
    #[cfg(not(loom))]
    pub const fn new() -> Self {
        Self { region: AtomicPtr::new(ptr::null_mut()) }
    }

    /// An empty slot.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { region: AtomicPtr::new(ptr::null_mut()) }
    }

    /// The region, or null.
    #[inline(always)]
    pub fn get(&self) -> *mut T {
        // Acquire pairs with `publish`: who sees the region sees it initialised.
        self.region.load(Acquire)
    }

    /// Publishes `region` unless another thread was first. Returns the region that stands;
    /// `region` still belongs to the caller when that is another one.
    pub fn publish(&self, region: *mut T) -> *mut T {
        // Release publishes the region's contents; acquire, on failure, those of the winner's.
        match self.region.compare_exchange(ptr::null_mut(), region, AcqRel, Acquire) {
            Ok(_) => region,
            Err(winner) => winner,
        }
    }
}

impl<T> Default for RegionSlot<T> {
    fn default() -> Self {
        Self::new()
    }
}

/// A granule's entry in a region.
#[derive(Debug)]
pub struct Entry {
    word: AtomicU16,
}

impl Entry {
    /// The entry of a granule that is not ours.
    #[cfg(loom)]
    pub fn new() -> Self {
        Self { word: AtomicU16::new(0) }
    }

    /// The entry's value.
    #[inline(always)]
    pub fn get(&self) -> u16 {
        // Acquire pairs with `set`, so that the granule's descriptor is visible with it.
        self.word.load(Acquire)
    }

    /// Says whose the granule is. The caller owns the granule (holds its arena's lock, or made
    /// the mapping).
    #[inline]
    pub fn set(&self, value: u16) {
        // Release publishes the descriptor that was written before.
        self.word.store(value, Release);
    }

    /// Takes the entry away if it is still `value`. Of two threads that free one huge block at
    /// once, exactly one succeeds.
    pub fn claim(&self, value: u16) -> bool {
        self.word.compare_exchange(value, 0, AcqRel, Acquire).is_ok()
    }
}

#[cfg(loom)]
impl Default for Entry {
    fn default() -> Self {
        Self::new()
    }
}
