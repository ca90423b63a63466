//! What the process holds at most is not made of free memory: before it would be more than ever before, what was not
//! needed lately goes back.
//!
//! Free memory stays for the decay time, in which a program may ask for fresh memory: for a block above 32 MiB it is of
//! no use. While the process stays below its peak, nothing is done here.

use super::{bytes_in_arenas, purge};
use crate::arena::ARENAS;
use crate::config;
use crate::huge;
use crate::os::PAGE;
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

/// Chunks go first that are free for some epochs.
const AGES: [u16; 3] = [2, 1, 0];

/// What a program comes near again and again, and then gives back for, becomes the peak by such a part each time.
const GROWTH_PART: usize = 16;

/// The most that the process held when huge blocks were mapped, about.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The most that the process may hold by a huge block that [`make_room`] was called for.
#[must_use]
pub struct Room(usize);

/// Gives chunks back, and then huge blocks that are kept, before `bytes` more are mapped for a huge block, if the
/// process then would hold more than ever before. No lock is held.
pub fn make_room(bytes: usize) -> Room {
    let would_hold = || held().saturating_add(bytes);
    // Relaxed: a guess.
    let peak = PEAK.load(Relaxed);
    let peak = peak.saturating_add(would_hold().saturating_sub(peak) / GROWTH_PART);
    let excess = || would_hold().saturating_sub(peak).div_ceil(PAGE);
    if config::DECAY_MS.load(Relaxed) != config::NEVER {
        for arena in ARENAS.iter_open() {
            if excess() > 0 {
                purge(arena, excess(), usize::MAX, &AGES);
            }
        }
    }
    if excess() > 0 {
        huge::kept::release(0);
    }
    Room(peak)
}

impl Room {
    /// Takes note that the huge block was mapped. Where the kernel refused it, nothing is more than before.
    pub fn was_taken(self) {
        PEAK.fetch_max(self.0.max(held()), Relaxed);
    }
}

/// Bytes that the process holds, about.
fn held() -> usize {
    bytes_in_arenas() + huge::BYTES.get() + huge::kept::bytes()
}
