//! Where mapped heaps go: into one range of 32 GiB of addresses, which begins at the break. Every
//! arena's window ([`crate::window`]) covers it, so that a slab which an arena borrows from another
//! one's heap is freed as fast as its own.
//!
//! The kernel maps from the top of the address space down, far from the break. So each heap asks for a
//! place here, the highest first, out of the way of the break; where that is not to be had, the
//! kernel's choice is taken.

use super::mmap::HEAP_BYTES;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU64, AtomicUsize};

/// Bytes of the range.
pub const REACH_BYTES: usize = 32 * 1024 * 1024 * 1024;

/// Below this address no places are asked for: programs that want low addresses, for pointers of 32
/// bits or compressed ones, know how many they need.
const LOW: usize = 2 * REACH_BYTES;

/// Places of heaps.
const PLACES: usize = REACH_BYTES / HEAP_BYTES;

/// The range, and which of its places are taken.
///
/// Relaxed everywhere: a place is only a wish, and the kernel gives no address twice.
pub struct Reach {
    /// First byte; 0 until there is a heap.
    base: AtomicUsize,
    /// Bit n of word m: place 64 m + n is a heap's, or was refused by the kernel.
    taken: [AtomicU64; PLACES / 64],
}

/// The process's.
pub static REACH: Reach = Reach::new();

impl Reach {
    const fn new() -> Self {
        Self { base: AtomicUsize::new(0), taken: [const { AtomicU64::new(0) }; PLACES / 64] }
    }

    /// Makes `base` the start of the range, unless it has one.
    pub fn begin_at(&self, base: usize) {
        _ = self.base.compare_exchange(0, base, Relaxed, Relaxed);
    }

    /// First byte of a range that holds the heap at an address: the common one, or one with the heap at
    /// its end, since the kernel puts later ones below.
    pub fn base_for(&self, heap: usize) -> usize {
        let own = heap.saturating_sub(REACH_BYTES - HEAP_BYTES);
        self.begin_at(own);
        let base = self.base.load(Relaxed);
        if heap.wrapping_sub(base) < REACH_BYTES { base } else { own }
    }

    /// First byte of the first place.
    fn first_place(&self) -> usize {
        self.base.load(Relaxed).next_multiple_of(HEAP_BYTES)
    }

    /// The word and the bit of the place at an address, if there is one.
    fn place_of(&self, address: usize) -> Option<(&AtomicU64, u64)> {
        let place = address.wrapping_sub(self.first_place()) / HEAP_BYTES;
        Some((self.taken.get(place / 64)?, 1 << (place % 64)))
    }

    /// An address for a heap of [`HEAP_BYTES`], a multiple of that; 0 for the kernel's choice.
    pub fn ask(&self) -> usize {
        let first = self.first_place();
        if first < LOW {
            return 0;
        }
        // The last place would end behind the range, if that does not begin at a multiple.
        let places = (0..PLACES - 1).rev().map(|place| first + place * HEAP_BYTES);
        let mut free = places.filter(|&address| self.note_taken(address));
        free.next().unwrap_or(0)
    }

    /// Takes note that a heap of [`HEAP_BYTES`] begins at an address; whether that is a place that was
    /// free.
    pub fn note_taken(&self, heap: usize) -> bool {
        let place = self.place_of(heap);
        place.is_some_and(|(word, bit)| word.fetch_or(bit, Relaxed) & bit == 0)
    }

    /// Takes note that it is gone.
    pub fn note_free(&self, heap: usize) {
        if let Some((word, bit)) = self.place_of(heap) {
            word.fetch_and(!bit, Relaxed);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const BREAK: usize = 0x5555_5575_4000;

    #[test]
    fn places_are_taken_from_the_end_of_the_range_and_come_back() {
        let reach = Reach::new();
        assert_eq!(reach.ask(), 0, "no range yet");
        assert_eq!(reach.base_for(BREAK), BREAK - (REACH_BYTES - HEAP_BYTES));
        let reach = Reach::new();
        reach.begin_at(BREAK);
        let first = reach.ask();
        assert!(first.is_multiple_of(HEAP_BYTES));
        assert!(first + 2 * HEAP_BYTES > BREAK + REACH_BYTES - HEAP_BYTES);
        assert_eq!(reach.base_for(first), BREAK);
        assert_eq!(reach.ask(), first - HEAP_BYTES);
        assert!(!reach.note_taken(first - HEAP_BYTES) && reach.note_taken(first - 2 * HEAP_BYTES));
        reach.note_free(first);
        assert_eq!([reach.ask(), reach.ask()], [first, first - 3 * HEAP_BYTES]);
        let rest = core::iter::from_fn(|| Some(reach.ask()).filter(|&place| place != 0));
        let lowest = rest.last().expect("more places");
        assert!(lowest > BREAK && lowest < BREAK + HEAP_BYTES);
    }

    #[test]
    fn low_addresses_and_those_far_away_are_left_alone() {
        let reach = Reach::new();
        reach.begin_at(0x40_0000);
        assert_eq!(reach.ask(), 0);
        let far = 0x7fff_0000_0000;
        assert_eq!(reach.base_for(far), far - (REACH_BYTES - HEAP_BYTES));
        assert!(!reach.note_taken(far));
        reach.note_free(far);
        reach.note_free(0);
    }
}
