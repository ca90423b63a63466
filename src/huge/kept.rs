//! Huge blocks that were freed, and are kept for the next request.
//!
//! To the kernel, a block that a program maps, fills and unmaps by turns is new each time: it clears all its
//! pages, at about the speed at which the program fills them. Blocks of up to
//! [`config::MMAP_THRESHOLD_MAX`] bytes come from heaps, where pages stay for the decay time. Larger ones stay here as
//! long, once one was asked for within the decay time after another one was freed. The next request gets the one whose
//! size is nearest, and the kernel moves its end (mremap(2)).
//!
//! To the program each is a new one: what it told the kernel of the old one is undone, and one that it locked, shared or
//! mapped anew is not kept (`os::renew`).
//!
//! Who sets one of the thresholds by which glibc decides what is mapped (mallopt(3)) wants to know what happens: then none
//! is kept. Keeping them hardly raises the peak: what would have the process hold more than before has them unmapped
//! first (`purge/peak.rs`, [`make_room_beside`]), and what the allocator does not see, files and the program's own mappings,
//! soon (`purge::peak::look`). Requests for zeroed blocks get one without its pages, since the kernel clears only those that
//! are touched; it is not for them that blocks are kept.

use super::unmap;
use crate::config;
use crate::os;
use crate::page_map;
use crate::sync::block::Chain;
use crate::sync::depot::DepotSlot;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU64, AtomicUsize};

/// Where a block may be kept. All but the slot are guesses, which nothing but time and memory depends on: so Relaxed.
struct Place {
    /// The block, as a chain of one.
    slot: DepotSlot,
    /// Its size in bytes. (Of two threads that find the place empty, the one that is too late may leave its own.)
    bytes: AtomicUsize,
    /// When it came, in [`os::coarse_milliseconds`].
    since: AtomicU64,
}

/// How many blocks are kept at once: an expression of arrays has a few results in between.
static PLACES: [Place; 4] = [const { Place::new() }; 4];

/// When a block was freed that may be kept, in [`os::coarse_milliseconds`]; 0 before the first one.
static FREED: AtomicU64 = AtomicU64::new(0);

/// Another one was asked for soon after.
static IS_WANTED: AtomicBool = AtomicBool::new(false);

/// What else the process held when the first of them came.
static BESIDE: AtomicUsize = AtomicUsize::new(0);

/// What else the process holds may grow by this part of what is kept.
const GROWTH_PART: usize = 8;

impl Place {
    const fn new() -> Self {
        Self { slot: DepotSlot::new(), bytes: AtomicUsize::new(0), since: AtomicU64::new(0) }
    }

    fn is_empty(&self) -> bool {
        self.slot.count() == 0
    }

    /// Takes the block out, and its size.
    fn take(&self) -> Option<(*mut u8, usize)> {
        let block = self.slot.take()?.head.cast::<u8>();
        // SAFETY: the block's region is covered for ever. The block is the caller's now, and has the bytes that it had
        // when it was freed.
        let bytes = unsafe { page_map::huge_bytes(block.addr()) };
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

/// Places with a block.
fn filled() -> impl Iterator<Item = &'static Place> {
    PLACES.iter().filter(|place| !place.is_empty())
}

/// Bytes of blocks that are kept, about.
pub fn bytes() -> usize {
    filled().map(|place| place.bytes.load(Relaxed)).sum()
}

/// How many blocks are kept.
pub fn blocks() -> usize {
    filled().count()
}

/// Whether blocks are kept that are freed.
pub fn is_wanted() -> bool {
    IS_WANTED.load(Relaxed)
}

/// The block whose size is nearest to `bytes`, and its size, for a request that may be for a `zeroed` one. It is not in
/// the page map; its contents are undefined.
pub fn take(bytes: usize, zeroed: bool) -> Option<(*mut u8, usize)> {
    let nearest = filled().min_by_key(|place| place.bytes.load(Relaxed).abs_diff(bytes));
    let taken = nearest.and_then(Place::take);
    let freed = FREED.load(Relaxed);
    if taken.is_none() && !zeroed && freed != 0 && since(freed) <= config::decay_milliseconds() {
        IS_WANTED.store(true, Relaxed);
    }
    taken
}

/// Milliseconds since an instant.
fn since(instant: u64) -> u64 {
    os::coarse_milliseconds().saturating_sub(instant)
}

/// Keeps a block that is not in the page map any more, if it is wanted and `may_keep` lets so many bytes be kept; whether
/// it did.
///
/// # Safety
/// The block is the caller's, and has that many bytes.
pub(super) unsafe fn keep(
    block: *mut u8,
    bytes: usize,
    may_keep: impl FnOnce(usize) -> bool,
) -> bool {
    let is_large = bytes > config::MMAP_THRESHOLD_MAX;
    if !is_large || config::decay_milliseconds() == 0 || !config::DYNAMIC_THRESHOLDS.load(Relaxed) {
        return false;
    }
    let now = os::coarse_milliseconds();
    FREED.store(now, Relaxed);
    if !is_wanted() || !may_keep(bytes + self::bytes()) {
        return false;
    }
    let Some(place) = PLACES.iter().find(|place| place.is_empty()) else { return false };
    // With the mapping the kernel would have forgotten what the program told it of that.
    // SAFETY: the caller's contract.
    if !unsafe { os::renew(block, bytes) } {
        return false;
    }
    place.bytes.store(bytes, Relaxed);
    place.since.store(now, Relaxed);
    let mut chain = Chain::EMPTY;
    // SAFETY: as above.
    unsafe {
        chain.push(block.cast());
        place.slot.put(chain).is_ok()
    }
}

/// Gives all blocks back to the kernel that were kept for `age` milliseconds; the bytes.
pub fn release(age: u64) -> usize {
    let is_old = |instant: &AtomicU64| since(instant.load(Relaxed)) >= age;
    if age > 0 && is_old(&FREED) {
        IS_WANTED.store(false, Relaxed);
    }
    filled().filter(|place| is_old(&place.since)).map(Place::empty).sum()
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
