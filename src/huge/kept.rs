//! Huge blocks that were freed, and are kept for the next request of as many bytes.
//!
//! To the kernel, a block that a program maps, fills and unmaps by turns is new each time: it clears all its
//! pages, at about the speed at which the program fills them. Blocks of up to
//! [`config::MMAP_THRESHOLD_MAX`] bytes come from heaps, where pages stay for the decay time. Larger ones stay here as
//! long, of sizes that were asked for again within the decay time after one was freed.
//!
//! Keeping them does not raise the peak: what would have the process hold more than before has them unmapped
//! first (`purge/peak.rs`, [`make_room_beside`]). Nor do they serve requests for zeroed blocks: those get fresh pages,
//! which the kernel clears only where they are touched.

use super::unmap;
use crate::config;
use crate::os::{self, PAGE};
use crate::page_map;
use crate::sync::block::Chain;
use crate::sync::depot::DepotSlot;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

/// Where a block may be kept, and what is known about its size. All but the slot are guesses, which nothing but time
/// and memory depends on: so Relaxed.
struct Place {
    /// The block, as a chain of one.
    slot: DepotSlot,
    /// The size that this place is for.
    bytes: AtomicUsize,
    /// When a block of that size was freed last, in [`os::coarse_milliseconds`].
    freed: AtomicU64,
    /// Such a block was asked for soon after one was freed.
    is_wanted: AtomicBool,
}

/// How many sizes are known, and blocks are kept, at once: an expression of arrays has a few results in between.
static PLACES: [Place; 4] = [const { Place::new() }; 4];

/// Bytes of all blocks that are kept.
static KEPT: AtomicUsize = AtomicUsize::new(0);

/// What else the process held when the first of them came.
static BESIDE: AtomicUsize = AtomicUsize::new(0);

/// What else the process holds may grow by this part of what is kept.
const GROWTH_PART: usize = 8;

impl Place {
    const fn new() -> Self {
        Self {
            slot: DepotSlot::new(),
            bytes: AtomicUsize::new(0),
            freed: AtomicU64::new(0),
            is_wanted: AtomicBool::new(false),
        }
    }

    fn is_of(&self, bytes: usize) -> bool {
        self.bytes.load(Relaxed) == bytes
    }

    fn is_empty(&self) -> bool {
        self.slot.count() == 0
    }

    /// Milliseconds since a block of the size was freed.
    fn age(&self) -> u64 {
        os::coarse_milliseconds().saturating_sub(self.freed.load(Relaxed))
    }

    fn set(&self, bytes: usize, is_wanted: bool) {
        self.bytes.store(bytes, Relaxed);
        self.freed.store(os::coarse_milliseconds(), Relaxed);
        self.is_wanted.store(is_wanted, Relaxed);
    }

    /// Takes the block out, and its size.
    fn take(&self) -> Option<(*mut u8, usize)> {
        let block = self.slot.take()?.head.cast::<u8>();
        // SAFETY: whoever put the block there left its size in its descriptor; it is the caller's now.
        let bytes = unsafe { (*page_map::desc(block.addr())).pages as usize * PAGE };
        KEPT.fetch_sub(bytes, Relaxed);
        Some((block, bytes))
    }

    /// Gives the block back to the kernel; its bytes.
    fn empty(&self) -> usize {
        // SAFETY: the block is the caller's, and unknown to anybody else.
        self.take().map_or(0, |(block, bytes)| unsafe {
            unmap(block, bytes);
            bytes
        })
    }
}

/// Bytes of blocks that are kept.
pub fn bytes() -> usize {
    KEPT.load(Relaxed)
}

/// How many blocks are kept.
pub fn blocks() -> usize {
    PLACES.iter().filter(|place| !place.is_empty()).count()
}

/// Whether a block may be kept that is freed.
pub fn is_any_wanted() -> bool {
    PLACES.iter().any(|place| place.is_wanted.load(Relaxed))
}

/// A block of exactly `bytes` at a multiple of `align`, which is not in the page map; its contents are undefined.
pub(super) fn take(bytes: usize, align: usize) -> Option<*mut u8> {
    let places = || PLACES.iter().filter(|place| place.is_of(bytes));
    let found = places().find_map(|place| {
        let (block, has) = place.take()?;
        if has == bytes && block.addr().is_multiple_of(align) {
            return Some(block);
        }
        // The place is for another size since it was looked at; or the request is the odd one.
        // SAFETY: the block is this thread's, and unknown to anybody else.
        unsafe { unmap(block, has) };
        None
    });
    if found.is_none()
        && let Some(place) = places().find(|place| place.age() <= decay_milliseconds())
    {
        place.is_wanted.store(true, Relaxed);
    }
    found
}

fn decay_milliseconds() -> u64 {
    config::DECAY_MS.load(Relaxed) as u64
}

/// Keeps a block that is not in the page map any more, if its size is wanted and `may_keep` lets so many bytes be kept;
/// whether it did. If they may not even be without the block, all of them go.
///
/// # Safety
/// The block is the caller's, and has that many bytes.
pub(super) unsafe fn keep(block: *mut u8, bytes: usize, may_keep: impl Fn(usize) -> bool) -> bool {
    if bytes <= config::MMAP_THRESHOLD_MAX || decay_milliseconds() == 0 {
        return false;
    }
    let same = || PLACES.iter().filter(|place| place.is_of(bytes));
    let is_wanted = same().any(|place| place.is_wanted.load(Relaxed));
    let oldest = || PLACES.iter().filter(|place| place.is_empty()).max_by_key(|place| place.age());
    let Some(place) = same().find(|place| place.is_empty()).or_else(oldest) else { return false };
    place.set(bytes, is_wanted);
    if !is_wanted || !may_keep(bytes + self::bytes()) {
        if self::bytes() > 0 && !may_keep(self::bytes()) {
            release(0);
        }
        return false;
    }
    // SAFETY: the caller's contract; the block's region is covered for ever.
    unsafe { (*page_map::desc(block.addr())).pages = (bytes / PAGE) as u32 };
    KEPT.fetch_add(bytes, Relaxed);
    let mut chain = Chain::EMPTY;
    // SAFETY: as above.
    let is_kept = unsafe {
        chain.push(block.cast());
        place.slot.put(chain).is_ok()
    };
    if !is_kept {
        KEPT.fetch_sub(bytes, Relaxed);
    }
    is_kept
}

/// Gives all blocks back to the kernel of whose size none was freed for `age` milliseconds; the bytes.
pub fn release(age: u64) -> usize {
    PLACES.iter().filter(|place| !place.is_empty() && place.age() >= age).map(Place::empty).sum()
}

/// Gives all of them back when what the process holds beside huge blocks, `beside` bytes, grew since they were kept.
pub fn make_room_beside(beside: usize) {
    let kept = bytes();
    if kept > 0 && beside > BESIDE.load(Relaxed) + kept / GROWTH_PART {
        release(0);
    }
}

/// Takes note of what the process holds beside huge blocks, before one is kept.
pub fn note_beside(beside: usize) {
    if bytes() == 0 {
        BESIDE.store(beside, Relaxed);
    }
}
