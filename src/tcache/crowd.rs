//! Whether a thread meets its arena's lock held by others so often that it should move to another
//! arena.
//!
//! A move costs memory: what is free in the old arena stays there. A thread that has just begun
//! has little there, so that short waits suffice; later only waits that put it to sleep count.

use crate::arena::Waits;
use crate::sync::lock::Locked;
use core::cell::Cell;

/// Uses of its arena's lock for which a thread is young.
const YOUNG_USES: u32 = 512;
/// Uses of the lock after which a young thread asks itself whether to move …
const YOUNG_VERDICT: u32 = 32;
/// … and those among them that met the lock held, from which it moves.
const YOUNG_MET: u32 = 4;
/// As many uses of one that is not young …
const VERDICT: u32 = 256;
/// … and the part of them that slept.
const SLEPT: u32 = 4;

/// What a thread remembers of its uses of its arena's lock.
pub struct Crowd {
    /// Uses since the thread joined the arena; up to [`YOUNG_USES`].
    age: Cell<u32>,
    /// Uses since the last verdict …
    uses: Cell<u32>,
    /// … that met the lock held, …
    met: Cell<u32>,
    /// … and that slept.
    slept: Cell<u32>,
}

impl Crowd {
    /// No use yet.
    pub const fn new() -> Self {
        Self { age: Cell::new(0), uses: Cell::new(0), met: Cell::new(0), slept: Cell::new(0) }
    }

    /// Forgets all: the thread joins an arena.
    pub fn reset(&self) {
        self.age.set(0);
        self.uses.set(0);
        self.met.set(0);
        self.slept.set(0);
    }

    /// Counts a use of the lock.
    pub fn note(&self, how: Locked) {
        let add = |count: &Cell<u32>, if_so| count.set(count.get() + u32::from(if_so));
        add(&self.uses, true);
        add(&self.met, how != Locked::AtOnce);
        add(&self.slept, how == Locked::AfterWait);
    }

    /// Why to move, if so. The counts start anew with each verdict, so that it needs a sustained
    /// share.
    pub fn verdict(&self) -> Option<Waits> {
        let uses = self.uses.get();
        let young = self.age.get() < YOUNG_USES;
        if uses < if young { YOUNG_VERDICT } else { VERDICT } {
            return None;
        }
        let (met, slept) = (self.met.replace(0), self.slept.replace(0));
        self.uses.set(0);
        if young {
            self.age.set(self.age.get() + uses);
        }
        if slept >= uses / SLEPT {
            Some(Waits::Long)
        } else if young && met >= YOUNG_MET {
            Some(Waits::Short)
        } else {
            None
        }
    }
}
