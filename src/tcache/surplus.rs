//! What a thread's bins have too much.

use super::{Tcache, magazine_capacity};
use crate::arena::Guard;
use crate::size_class::{Class, size};
use crate::sync::block::Chain;

/// Magazines of a class in a row that found the depot full, after which it is taken that the thread
/// only frees, and nobody needs them …
const MANY: usize = 8;
/// (one of more than so many blocks, or bytes, counts as several, and small ones as less) …
const MANY_BLOCKS: usize = 128;
const MANY_BYTES: usize = 16 * 1024;
/// … unless it was wrong before: each time doubles the number, up to this often.
const MOST_PATIENCE: u8 = 4;
/// The thread gives home what it and its arena keep then …
const ONLY_FREES: u8 = PROBED - 2;
/// … puts one small magazine into the depot, to see whether somebody takes it, …
const PROBE_IS_DUE: u8 = PROBED - 1;
/// … and gives home what comes together in a bin of few places: what lies there after a burst stays there, and each block
/// may keep a page, or a slab, of its own.
pub(super) const PROBED: u8 = u8::MAX;
const _: () = assert!(MANY << MOST_PATIENCE < ONLY_FREES as usize);
/// Blocks of the small magazine.
const PROBE_BLOCKS: usize = 2;
/// Places of such a bin, …
const FEW_PLACES: usize = 64;
/// … but no more than hold so many bytes, …
const FEW_BYTES: usize = 16 * 1024;
/// … and these in any case, if a magazine has them.
const FEWEST_PLACES: usize = 8;

/// Places of the bin of a class that the thread only frees.
fn few_places(class: Class) -> usize {
    let most = magazine_capacity(class).min(FEW_PLACES);
    (FEW_BYTES / size(class)).max(FEWEST_PLACES).min(most)
}

impl Tcache {
    /// Makes room in the full bin of `class`.
    #[cold]
    #[inline(never)]
    pub fn make_room(&self, class: Class) {
        let _inside = self.go_inside();
        if self.bin(class).has_room() {
            // Somebody made it meanwhile.
            return;
        }
        self.activity.note(class);
        let overflows = &self.overflows[class];
        match overflows.get() {
            0..ONLY_FREES => self.empty_into_spare(class),
            ONLY_FREES => {
                overflows.set(PROBE_IS_DUE);
                let depot = || self.arena().depot_take(class);
                while let Some(magazine) = self.spare(class).take().or_else(depot) {
                    self.give_home(class, magazine);
                }
                while let Some(mut held) = self.lock_to_give() {
                    // SAFETY: the lock is held.
                    if !unsafe { held.give_magazines(class) } {
                        break;
                    }
                }
                self.give_home(class, self.empty_bin(class, PROBE_BLOCKS));
            }
            PROBE_IS_DUE => {
                overflows.set(PROBED);
                let probe = self.empty_bin(class, few_places(class));
                // SAFETY: the bin is a list of this thread's own blocks of its arena.
                if let Err(probe) = unsafe { self.arena().depot_put(class, probe) } {
                    self.give_home(class, probe);
                }
            }
            _ if self.arena().depot_count(class) == 0 => {
                self.begin_to_keep(class);
                self.empty_into_spare(class);
            }
            _ => self.give_home(class, self.empty_bin(class, few_places(class))),
        }
    }

    /// Takes note that the thread has a use for blocks of `class`.
    #[inline]
    pub(super) fn begin_to_keep(&self, class: Class) {
        if self.overflows[class].replace(0) >= ONLY_FREES {
            let patience = &self.patience[class];
            patience.set((patience.get() + 1).min(MOST_PATIENCE));
        }
    }

    /// Makes the full bin of `class` the spare magazine, and gives the old one away; or the bin as well, as long
    /// as it is small.
    fn empty_into_spare(&self, class: Class) {
        let spare = self.spare(class);
        if let Some(old) = spare.take() {
            self.retire(class, old);
        }
        let full = self.empty_bin(class, self.capacity(class));
        if self.directions[class].halvings() > 0 {
            return self.retire(class, full);
        }
        // Not named in `in_transit`: as soon as it is in the slot, another thread may take it and
        // give it home, and a child must not do so again.
        // SAFETY: a bin is a list of so many blocks, this thread's.
        if let Err(magazine) = unsafe { spare.put(full) } {
            self.give_home(class, magazine);
        }
    }

    /// Gives the bin of `class` home, if the thread only frees such blocks.
    pub(super) fn give_few_home(&self, class: Class) {
        if self.overflows[class].get() == PROBED && !self.bin(class).head.get().is_null() {
            self.give_home(class, self.empty_bin(class, few_places(class)));
        }
    }

    /// Gives a magazine away: to the depot, to the arena, or to the slabs.
    ///
    /// It is not named in `in_transit` any more: a child must not take back what another thread
    /// has taken from the depot already. A fork at the very instant loses it.
    fn retire(&self, class: Class, magazine: Chain) {
        let overflows = &self.overflows[class];
        // SAFETY: the magazine is a list of so many of this thread's own blocks of its arena.
        let in_depot = unsafe { self.arena().depot_put(class, magazine) };
        self.directions[class].note_given(in_depot.is_ok());
        let Err(magazine) = in_depot else { return overflows.set(0) };
        let mut held = self.lock_to_give();
        // SAFETY: as above; a guard holds the arena's lock.
        unsafe {
            let kept = match &mut held {
                Some(held) => held.put_magazine(class, magazine),
                None => Err(magazine),
            };
            if let Err(magazine) = kept {
                self.arena().give_under(held.as_mut(), class, magazine.head);
            }
        }
        let blocks = magazine_capacity(class);
        let weight = (blocks / MANY_BLOCKS).max(blocks * size(class) / MANY_BYTES).max(1);
        let count = usize::from(overflows.get()) + weight;
        let doublings = self.patience[class].get() + self.directions[class].halvings();
        let is_many = count >= usize::min(MANY << doublings, usize::from(ONLY_FREES) - 1);
        overflows.set(if is_many { ONLY_FREES } else { count as u8 });
    }

    /// Gives a list of blocks of one class to their slabs.
    fn give_home(&self, class: Class, magazine: Chain) {
        let mut held = self.lock_to_give();
        // SAFETY: the magazine is a list of this thread's own blocks of its arena.
        unsafe { self.arena().give_under(held.as_mut(), class, magazine.head) };
    }

    /// The lock of the thread's arena, if it is to be had, with what came home taken.
    fn lock_to_give(&self) -> Option<Guard<'static>> {
        let arena = self.arena();
        let mut held = arena.lock_open()?;
        arena.drain(&mut held);
        self.crowd.note(held.how);
        Some(held)
    }
}
