//! Memory for the allocator's own structures: arenas and thread caches. It is mapped, never
//! given back, and never handed to the program, so that an overrun of a block can not reach it.

use crate::heap::MAPPED;
use crate::os::{self, Commit};
use core::sync::atomic::AtomicUsize;
use core::sync::atomic::Ordering::{AcqRel, Acquire};

/// Bytes mapped at a time.
const STEP: usize = 256 * 1024;

/// The rest of the newest mapping: address of its next free byte; its end is the next multiple
/// of [`STEP`]. 0: none yet.
static NEXT: AtomicUsize = AtomicUsize::new(0);

/// Zeroed memory of `bytes`, which must be less than [`STEP`], aligned to 128 bytes; null when
/// the kernel has none. Without a lock, so that a fork at any instant leaves it whole.
pub fn allocate(bytes: usize) -> *mut u8 {
    let bytes = (bytes + 127) & !127;
    let mut next = NEXT.load(Acquire);
    loop {
        let rest = next.wrapping_neg() % STEP;
        if next != 0 && rest >= bytes {
            // AcqRel: who takes a part sees the mapping that the one before published.
            match NEXT.compare_exchange_weak(next, next + bytes, AcqRel, Acquire) {
                Ok(_) => return core::ptr::with_exposed_provenance_mut(next),
                Err(now) => next = now,
            }
            continue;
        }
        let start = os::map_aligned(STEP, STEP, 0, Commit::AsTouched);
        if start.is_null() {
            return start;
        }
        MAPPED.mmap.add(STEP);
        let new = start.expose_provenance();
        match NEXT.compare_exchange(next, new + bytes, AcqRel, Acquire) {
            Ok(_) => return start,
            Err(now) => {
                MAPPED.mmap.sub(STEP);
                // SAFETY: mapped just now, unknown to anybody.
                unsafe { os::unmap(start, STEP) };
                next = now;
            }
        }
    }
}
