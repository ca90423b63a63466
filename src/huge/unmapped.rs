//! Bytes of blocks that were freed and unmapped, and that a heap could have held.
//!
//! The mmap threshold learns from such a block (`config::note_mapped_free`): the next one comes from a heap. What the
//! program touches there soon afterwards it needs again and again, as what it touches after a trim. But for what it maps
//! meanwhile: so no more counts than was in use at once.

use crate::config;
use crate::os;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU64, AtomicUsize};

// Both are guesses, on which only depends how much memory stays: so Relaxed.

/// Bytes that were unmapped, and were not touched again yet.
static BYTES: AtomicUsize = AtomicUsize::new(0);

/// When the last of them were, in [`crate::os::coarse_milliseconds`].
static SINCE: AtomicU64 = AtomicU64::new(0);

/// Takes note of a block.
pub(super) fn note(bytes: usize) {
    let now = os::coarse_milliseconds();
    let since = SINCE.swap(now, Relaxed);
    if is_late(since, now) {
        BYTES.store(bytes, Relaxed);
    } else {
        BYTES.fetch_add(bytes, Relaxed);
    }
}

fn is_late(since: u64, now: u64) -> bool {
    now.saturating_sub(since) > config::decay_milliseconds()
}

/// Whether what is touched next is of interest.
pub fn is_open() -> bool {
    BYTES.load(Relaxed) > 0
}

/// How many of `bytes` that are touched anew were unmapped within the decay time. They are counted once.
pub fn claim(bytes: usize) -> usize {
    if !is_open() {
        return 0;
    }
    let is_late = is_late(SINCE.load(Relaxed), os::coarse_milliseconds());
    let claim = |left: usize| Some(if is_late { 0 } else { left.saturating_sub(bytes) });
    let left = BYTES.fetch_update(Relaxed, Relaxed, claim).unwrap_or_else(|left| left);
    if is_late { 0 } else { left.min(bytes) }
}
