//! What the process holds at most is not made of free memory: before it would be more than ever before, what was not
//! needed lately goes back.
//!
//! Free memory stays for the decay time, in which a program may ask for fresh memory: for a block above 32 MiB it is of
//! no use. While the process stays below its peak, nothing is done here.

use super::{bytes_in_arenas, purge};
use crate::arena::ARENAS;
use crate::config;
use crate::huge;
use crate::os::{self, PAGE};
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::Relaxed;

/// Chunks go first that are free for some epochs.
const AGES: [u16; 3] = [2, 1, 0];

/// What a program comes near again and again, and then gives back for, becomes the peak by such a part each time.
const GROWTH_PART: usize = 16;

/// The most that the process held when huge blocks were mapped, about.
static PEAK: AtomicUsize = AtomicUsize::new(0);

/// The most that was ever resident of the process when huge blocks came to be kept, in bytes; 0 while none is.
static RESIDENT_PEAK: AtomicUsize = AtomicUsize::new(0);

/// What is kept may raise that by this part of it.
const RAISE_PART: usize = 16;

/// Gives the huge blocks back that are kept, if the process has come to hold more than ever before beside them: of files and
/// of the program's own mappings only the kernel knows. To be called in each epoch, by a thread that may open a file.
pub fn look() {
    let kept = huge::kept::bytes();
    if kept == 0 {
        RESIDENT_PEAK.store(0, Relaxed);
        return;
    }
    let peak = os::bytes_behind(os::STATUS, b"VmHWM:") as usize;
    // Relaxed: a guess. One thread looks at a time.
    let before = RESIDENT_PEAK.load(Relaxed);
    if before == 0 {
        RESIDENT_PEAK.store(peak, Relaxed);
    } else if peak > before + kept / RAISE_PART {
        huge::kept::release(0);
        RESIDENT_PEAK.store(0, Relaxed);
    }
}

/// Gives chunks back, and then huge blocks that are kept, for a huge block that was mapped or enlarged just now, and of
/// which nothing is touched yet, if with it the process holds more than ever before. (Before it is known that the kernel
/// maps it, nothing goes: a program may ask for what it can not have.) No lock is held.
pub fn make_room() {
    let held = || bytes_in_arenas() + huge::BYTES.get() + huge::kept::bytes();
    // Relaxed: a guess.
    let excess = || held().saturating_sub(PEAK.load(Relaxed)) / PAGE;
    PEAK.fetch_add(excess() * PAGE / GROWTH_PART, Relaxed);
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
    PEAK.fetch_max(held(), Relaxed);
}
