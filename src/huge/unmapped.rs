//! Bytes of blocks that were freed and unmapped, and that a heap could have held.
//!
//! The mmap threshold learns from such a block (`config::note_mapped_free`): the next one comes from a heap. What the
//! program touches there soon afterwards it needs again and again, as what it touches after a trim.

use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU64, AtomicUsize};

// Both are guesses, on which only depends how much memory stays: so Relaxed.

/// Bytes that were unmapped, and were not touched again yet.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// When the last of them were, in [`crate::os::coarse_milliseconds`].
static SINCE: AtomicU64 = AtomicU64::new(0);

/// Takes note of a block.
pub(super) fn note(bytes: usize, now: u64) {
    SINCE.store(now, Relaxed);
    BYTES.fetch_add(bytes, Relaxed);
}

/// Whether what is touched next is of interest.
pub fn is_open() -> bool {
    BYTES.load(Relaxed) > 0
}

/// How many of `bytes` that an arena touches anew were unmapped within the last `decay` milliseconds. They are counted
/// once.
pub fn claim(bytes: usize, now: u64, decay: u64) -> usize {
    let is_late = now.saturating_sub(SINCE.load(Relaxed)) > decay;
    let claim = |left: usize| Some(if is_late { 0 } else { left.saturating_sub(bytes) });
    let left = BYTES.fetch_update(Relaxed, Relaxed, claim).unwrap_or_else(|left| left);
    if is_late { 0 } else { left.min(bytes) }
}
