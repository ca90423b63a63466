//! The main arena's heap: the program break.
//!
//! **The rule of the break.** The break is one variable of the process, and glibc's own malloc
//! moves it too. Two threads that move it at once each believe they own the same bytes. So it is
//! moved only (a) when Arenite is the process's malloc or (b) while the process has one thread
//! ([`config::may_move_break`]), always through libc's `sbrk`, under the main arena's lock.
//!
//! Programs may call `sbrk` themselves between two growths, by any number of bytes. The break
//! is then not where it was left: the heap ends, and a new one starts at the next page above.
//! A break below the heap's end means that somebody took memory back that was not theirs: where nothing was touched, the
//! heap is only shorter; else the break is left alone for good.

use super::reach::REACH_BYTES;
use super::{Heap, MAPPED, Source, adopt};
use crate::config::{self, FIRST_BRK, TOP_PAD};
use crate::os::{self, PAGE};
use crate::page_map::{self, Owner};
use crate::size_class::GRANULE;
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicUsize};

/// The break was lowered below memory in use, somebody moves it at the same time, or the kernel has a
/// wrong idea of it: it is not to be moved any more.
static UNUSABLE: AtomicBool = AtomicBool::new(false);

/// Where the break's newest heap ends.
static END: AtomicUsize = AtomicUsize::new(0);

/// Most bytes of one growth, which would else be limited by the page map alone: its descriptions are memory, for good.
const MOST: usize = REACH_BYTES;

/// A heap of fewer bytes doubles when it grows.
const DOUBLES_TO: usize = 1024 * 1024;

/// From so many bytes on, what the break is moved ahead of the request, and of what was asked to be kept there, does not
/// stay memory where the program locks what it gets (mlockall(2)): that takes calls.
const LOCKED_AHEAD: usize = 1024 * 1024;

/// What became of a request to grow.
pub enum Grown {
    /// The heap goes on where it ended; its top chunk is larger now.
    Longer,
    /// A new heap, not contiguous with the old one.
    Elsewhere(Heap),
    /// The break can not be used.
    No,
}

/// Looks whether the break can still be moved, in the child of a process with several threads.
///
/// Linux copies the number that says where the break is before it locks the address space that
/// it copies next (kernel/fork.c, `dup_mm`). Another thread may move the break in between: the
/// child's number then is not where its memory ends, and a later brk(2) that seems to succeed
/// may map nothing (mm/mmap.c, `brk`: below the old break there is nothing to do).
pub fn after_fork() {
    // SAFETY: reading the break has no precondition.
    if os::kernel_break() != unsafe { os::sbrk(0) }.addr() {
        UNUSABLE.store(true, Relaxed);
    }
}

/// Makes room for `bytes` at the break.
///
/// The caller holds the main arena's lock.
pub fn grow(heap: &mut Heap, bytes: usize) -> Grown {
    if UNUSABLE.load(Relaxed) || !config::may_move_break() {
        return Grown::No;
    }
    // SAFETY: reading the break has no precondition.
    let now = unsafe { os::sbrk(0) }.addr();
    if now == 0 {
        return Grown::No;
    }
    if now < END.load(Relaxed) {
        if heap.source != Source::Brk || now < heap.zero_from {
            UNUSABLE.store(true, Relaxed);
            return Grown::No;
        }
        // Untouched memory was taken from the top: the heap is only shorter.
        let end = heap.end;
        heap.shorten(now & !(PAGE - 1));
        END.store(heap.end, Relaxed);
        MAPPED.brk.sub(end - heap.end);
    }
    let unit = os::page_size();
    // A program that lowered the break into a kernel page left the page's rest as dirty as it was.
    let contiguous = heap.source == Source::Brk && now == heap.end && now.is_multiple_of(unit);
    let Some(start) = (if contiguous { Some(now) } else { os::round_up(now, unit) }) else {
        return Grown::No;
    };
    let missing = if contiguous { bytes - (heap.end - heap.top).min(bytes) } else { bytes };
    // A small heap doubles and a large one grows by an eighth, so that a growing program makes few
    // calls. Memory that nobody touches costs nothing.
    let size = if heap.source == Source::Brk { heap.end - heap.base } else { 0 };
    let ahead = (size / 8).max(size.min(DOUBLES_TO));
    let step = match MAPPED.brk.get() {
        0 => missing.saturating_add(PAGE).max(FIRST_BRK),
        _ => missing.saturating_add(TOP_PAD.load(Relaxed).max(ahead)),
    };
    // Near a limit of the process there may be room for what is missing, if not for what is taken ahead of it.
    // SAFETY: the rule of the break, checked above.
    let raise = |step| unsafe { raise(now, start.checked_add(step)?) };
    let steps = [step, missing.saturating_add(TOP_PAD.load(Relaxed)), missing];
    let Some(end) = steps.into_iter().find_map(raise) else { return Grown::No };
    if !adopt(start, end - start, 0) {
        // No memory for the page map. What nobody can use goes back.
        let increment = (end - now) as isize;
        // SAFETY: the rule of the break; reading it has no precondition.
        let is_back = unsafe { os::sbrk(0).addr() == end && !os::sbrk(-increment).is_null() };
        UNUSABLE.fetch_or(!is_back, Relaxed);
        return Grown::No;
    }
    END.store(end, Relaxed);
    MAPPED.brk.add(end - start);
    let wanted = (start + missing).saturating_add(TOP_PAD.load(Relaxed));
    let beyond = end - os::round_up(wanted, unit).unwrap_or(end).min(end);
    if beyond >= LOCKED_AHEAD {
        os::fill_as_touched(ptr::with_exposed_provenance_mut(end - beyond), beyond);
    }
    if contiguous {
        heap.end = end;
        return Grown::Longer;
    }
    MAPPED.heaps.add(1);
    Grown::Elsewhere(Heap::new(Source::Brk, start, end))
}

/// Raises the break from `now` to `end`, and on to the end of a granule; where it is then. `None` if the kernel refuses, or
/// somebody else moves it.
///
/// # Safety
/// The rule of the break holds.
unsafe fn raise(now: usize, end: usize) -> Option<usize> {
    let end = os::round_up(end, GRANULE.max(os::page_size()))?;
    if UNUSABLE.load(Relaxed) || end - now > MOST {
        return None;
    }
    // SAFETY: the caller's contract.
    let old = unsafe { os::sbrk((end - now) as isize) }.addr();
    // Moved by somebody in between: leave it to them.
    UNUSABLE.fetch_or(old != 0 && old != now, Relaxed);
    (old == now).then_some(end)
}

/// Lowers the break to `keep_to`, if it still is where the heap ends. Returns the bytes given
/// back. The caller holds the main arena's lock, and nothing above `keep_to` is in use.
pub fn lower(heap: &mut Heap, keep_to: usize) -> usize {
    if UNUSABLE.load(Relaxed) || !config::may_move_break() || keep_to >= heap.end {
        return 0;
    }
    // SAFETY: reading the break has no precondition.
    if unsafe { os::sbrk(0) }.addr() != heap.end {
        return 0;
    }
    let bytes = heap.end - keep_to;
    // The entries go first: what the break gives up may be mapped by others at once.
    // SAFETY: the range is the heap's own, covered when it grew, and free.
    unsafe {
        page_map::set_owner(keep_to, bytes, Owner::NONE);
        page_map::forget(keep_to, bytes);
    }
    // SAFETY: the rule of the break; the memory is the heap's and not in use.
    if unsafe { os::sbrk(-(bytes as isize)) }.is_null() {
        adopt(keep_to, bytes, 0);
        return 0;
    }
    END.store(keep_to, Relaxed);
    MAPPED.brk.sub(bytes);
    heap.shorten(keep_to);
    bytes
}
