//! The soft and the hard limit of the memory that the process gets from the allocator.
//!
//! What counts is what may hold memory of the machine: blocks in use or free in caches and slabs,
//! dirty chunks, touched tops, huge blocks. Not chunks and tops that were purged or never touched, nor the
//! allocator's own (but pages that went back out of slabs count: blocks in them are given without a look at the limit). Arenas say how much they hold each time that their lock is given up, and only
//! while there is a limit; so several threads at once may go beyond it by what each takes.

use crate::config;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicUsize};

/// Bytes that count.
static USED: AtomicUsize = AtomicUsize::new(0);

/// The soft limit was crossed, and the process has not come down again.
static ABOVE: AtomicBool = AtomicBool::new(false);

/// Whether there is a limit.
#[inline]
pub fn is_set() -> bool {
    config::SOFT_LIMIT.load(Relaxed) != 0 || config::HARD_LIMIT.load(Relaxed) != 0
}

/// Takes note that one that held `before` bytes holds `now`.
pub fn note(before: usize, now: usize) {
    // Relaxed: a count, which orders nothing. Wraps where it goes down.
    USED.fetch_add(now.wrapping_sub(before), Relaxed);
}

/// Bytes that count now.
pub fn used() -> usize {
    USED.load(Relaxed)
}

/// Whether the hard limit lets `bytes` more be used.
#[inline]
pub fn admits(bytes: usize) -> bool {
    let limit = config::HARD_LIMIT.load(Relaxed);
    limit == 0 || used().saturating_add(bytes) <= limit
}

/// Whether the hard limit refuses `bytes` now, and would not if enough went back.
pub fn may_admit(bytes: usize) -> bool {
    bytes <= config::HARD_LIMIT.load(Relaxed) && !admits(bytes)
}

/// Whether the process is above its soft limit.
#[inline]
pub fn is_above_soft() -> bool {
    let limit = config::SOFT_LIMIT.load(Relaxed);
    limit != 0 && used() > limit
}

/// Whether the process is above its soft limit, or was and did not come down again.
#[inline]
pub fn is_at_soft() -> bool {
    is_above_soft() || ABOVE.load(Relaxed)
}

/// Whether the process is below seven eighths of its soft limit: then it may cross it again.
pub fn came_down() -> bool {
    let limit = config::SOFT_LIMIT.load(Relaxed);
    let is_down = used() < limit - limit / 8 || limit == 0;
    if is_down {
        ABOVE.store(false, Relaxed);
    }
    is_down
}

/// Whether the process is above its soft limit, and was not since it last came down.
pub fn is_crossed() -> bool {
    is_above_soft() && !ABOVE.swap(true, Relaxed)
}
