//! Heaps: contiguous stretches of memory from the kernel, and the top chunk of an arena's
//! newest one.
//!
//! ```text
//! base                top            zero_from          end
//!  │ chunks, in use    │ top chunk: free │ top chunk: free │
//!  │ or free           │ but dirty       │ and still zero  │
//! ```
//!
//! A chunk that frees itself up to `top` lowers `top`. When a heap can not grow, the arena turns
//! its top chunk into an ordinary free chunk and goes on in a new heap.

pub mod brk;
pub mod mmap;
pub mod reach;

use crate::config;
use crate::os::{self, PAGE};
use crate::page_map;
use crate::size_class::GRANULE;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicUsize, Ordering};

/// Bytes that heaps hold by `brk` and by `mmap`, and how many heaps there are, now and at most.
#[derive(Debug)]
pub struct Mapped {
    /// Bytes by which the break was moved.
    pub brk: Gauge,
    /// Bytes mapped: heaps, huge blocks, windows and caches. (Not the page map's regions.)
    pub mmap: Gauge,
    /// Number of heaps.
    pub heaps: Gauge,
}

impl Mapped {
    /// Bytes of both kinds.
    pub fn bytes(&self) -> usize {
        self.brk.get() + self.mmap.get()
    }
}

/// A count and its highest value.
#[derive(Debug)]
pub struct Gauge {
    now: AtomicUsize,
    peak: AtomicUsize,
}

impl Gauge {
    pub(crate) const fn new() -> Self {
        Self { now: AtomicUsize::new(0), peak: AtomicUsize::new(0) }
    }

    /// Adds to the count. Relaxed: figures for people, ordering nothing.
    pub fn add(&self, amount: usize) {
        let now = self.now.fetch_add(amount, Ordering::Relaxed) + amount;
        self.peak.fetch_max(now, Ordering::Relaxed);
    }

    /// Takes from the count.
    pub fn sub(&self, amount: usize) {
        self.now.fetch_sub(amount, Ordering::Relaxed);
    }

    /// The count.
    pub fn get(&self) -> usize {
        self.now.load(Relaxed)
    }

    /// The highest count.
    pub fn peak(&self) -> usize {
        self.peak.load(Relaxed)
    }
}

/// The process's figures.
pub static MAPPED: Mapped = Mapped { brk: Gauge::new(), mmap: Gauge::new(), heaps: Gauge::new() };

/// Where a heap's memory comes from.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Source {
    /// No heap yet.
    None,
    /// The program break; main arena only.
    Brk,
    /// A mapping.
    Mmap,
}

/// An arena's newest heap. Addresses are multiples of [`PAGE`].
#[derive(Debug)]
pub struct Heap {
    /// Where it comes from.
    pub source: Source,
    /// First byte.
    pub base: usize,
    /// First byte of the top chunk.
    pub top: usize,
    /// End of the top chunk.
    pub end: usize,
    /// From here to `end` nothing was ever touched.
    pub zero_from: usize,
    /// Up to here huge pages were asked for; 0: nowhere yet.
    pub huge_to: usize,
}

impl Heap {
    /// No heap.
    pub const NONE: Heap = Heap::new(Source::None, 0, 0);

    /// An untouched one.
    const fn new(source: Source, base: usize, end: usize) -> Heap {
        Heap { source, base, top: base, end, zero_from: base, huge_to: 0 }
    }

    /// Says that the heap ends earlier than it did.
    fn shorten(&mut self, end: usize) {
        self.end = end;
        self.zero_from = self.zero_from.min(end);
        // A huge page that lost its end is to be asked for again.
        self.huge_to = self.huge_to.min(end & !(os::HUGE_PAGE - 1));
    }

    /// Asks for huge pages in what the heap got since the last time, if that is as large as one
    /// and the policy wants them for an arena with `in_use` bytes in use.
    pub fn ask_for_huge_pages(&mut self, in_use: usize) {
        if self.source == Source::None || !config::wants_huge_pages(in_use) {
            return;
        }
        // What lies below the heap may have become part of it, up to any page of 4 KiB (`lower_top`).
        let Some(from) = os::round_up(self.huge_to.max(self.base), os::page_size()) else { return };
        // The page that ends a mapped heap belongs to its last huge page.
        let end = (self.end + PAGE) & !(os::HUGE_PAGE - 1);
        let to = if self.source == Source::Mmap { end } else { self.end & !(os::HUGE_PAGE - 1) };
        if from < to {
            // SAFETY: the heap's own memory.
            unsafe { os::prefer_huge_pages(from, to - from) };
            self.huge_to = to;
        }
    }

    /// Takes `bytes` at a multiple of `align` off the top, if they are there: the start of the
    /// gap before them (up to the address itself), the address, and whether it is all zero.
    pub fn take(&mut self, bytes: usize, align: usize) -> Option<(usize, usize, bool)> {
        let start = os::round_up(self.top, align)?;
        let stop = start.checked_add(bytes)?;
        if self.source == Source::None || stop > self.end {
            return None;
        }
        let gap = self.top;
        let zero = start >= self.zero_from;
        self.top = stop;
        self.zero_from = self.zero_from.max(stop);
        Some((gap, start, zero))
    }

    /// Gives the memory from `start` to `top` back to the top chunk; whether it is zero.
    pub fn lower_top(&mut self, start: usize, zero: bool) {
        if zero && self.zero_from <= self.top {
            self.zero_from = start;
        }
        self.top = start;
        // What lies below may be an older heap of the break, where that could not be moved for a while.
        self.base = self.base.min(start);
    }

    /// Gives the kernel what the top chunk holds beyond the pad. Returns the bytes given back; the heap is shorter
    /// then, or has them still, untouched.
    pub fn trim(&mut self, pad: usize) -> usize {
        if self.end - self.top <= pad {
            return 0;
        }
        let Some(keep_to) = os::round_up(self.top + pad, GRANULE.max(os::page_size())) else {
            return 0;
        };
        let lowered = if self.source == Source::Brk { brk::lower(self, keep_to) } else { 0 };
        match lowered {
            // A mapped heap, or a break that can not be lowered, since the program moved it itself.
            0 => self.discard(self.zero_from.saturating_sub(keep_to)),
            lowered => lowered,
        }
    }

    /// Drops at most `bytes` of the touched memory at the end of the top chunk; the bytes given
    /// back. The arena's lock is held.
    pub fn discard(&mut self, bytes: usize) -> usize {
        let spare = self.spare_bytes().min(bytes);
        let unit = os::page_size();
        let Some(from) = os::round_up(self.zero_from - spare, unit) else { return 0 };
        if from >= self.zero_from {
            return 0;
        }
        // To the end of the kernel page that was touched last: a page that stayed would not be
        // zero. A heap's memory ends with a kernel page.
        let end = os::round_up(self.zero_from, unit).unwrap_or(self.zero_from);
        // Where the program lowered the break, what lies above may be its own, or another's.
        // SAFETY: reading the break has no precondition.
        if self.source == Source::Brk && end > self.end.min(unsafe { os::sbrk(0) }.addr()) {
            return 0;
        }
        // SAFETY: above `top` nothing is in use; the arena's lock is held.
        let freed =
            unsafe { os::discard(core::ptr::with_exposed_provenance_mut(from), end - from) };
        if freed > 0 {
            // Pieces are small, and so is what describes them: all above is free as well.
            let unit = page_map::described_by(os::page_size());
            let described = os::round_up(self.zero_from, unit).unwrap_or(self.end).min(self.end);
            if from & !(unit - 1) != self.zero_from & !(unit - 1) {
                // SAFETY: as above; nothing above `top` is described.
                unsafe { page_map::forget(from, described - from) };
            }
            self.zero_from = from;
        }
        freed
    }

    /// Bytes of the top chunk that were touched: what a trim is good for.
    pub fn spare_bytes(&self) -> usize {
        self.zero_from.saturating_sub(self.top)
    }
}

/// Makes the page map know a heap's memory.
fn adopt(start: usize, bytes: usize, arena: u16) -> bool {
    if !page_map::cover(start, bytes) {
        return false;
    }
    // SAFETY: covered just now; the memory is the arena's.
    unsafe { page_map::set_owner(start, bytes, page_map::Owner::new(arena, page_map::KIND_LARGE)) };
    true
}

const _: () = assert!(GRANULE.is_multiple_of(PAGE));
