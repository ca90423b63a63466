//! How large the magazines are that a thread gives away.
//!
//! Who allocates and frees blocks of a class by turns goes to its arena the less often the larger they
//! are. A thread that only frees, since others allocate, fills one after the other anyway; what lies
//! in large ones is memory that nobody uses, and is cold when somebody does. So the first are small, and
//! grow each time that the thread turns: takes blocks of a class after it gave some away.

use super::{Tcache, magazine_capacity};
use crate::size_class::Class;
use core::cell::Cell;

/// How often a magazine is halved at first, …
const MOST_HALVINGS: u8 = 2;
/// … but to no fewer blocks than this, which are still few uses of the depot.
const LEAST_BLOCKS: usize = 4;
/// Magazines in a row that a thread puts into the depot, without taking one, after which they are small again.
const IN_A_ROW: u8 = 128;

/// Which way the blocks of a class go.
pub struct Direction {
    /// Magazines that the thread gave away since it last took blocks; up to [`IN_A_ROW`].
    given: Cell<u8>,
    /// How often its magazines are halved.
    halvings: Cell<u8>,
}

impl Direction {
    /// Not known yet.
    pub const fn new() -> Self {
        Self { given: Cell::new(0), halvings: Cell::new(MOST_HALVINGS) }
    }

    /// How often the magazines are halved.
    pub fn halvings(&self) -> u8 {
        self.halvings.get()
    }

    /// Takes note that the thread took blocks.
    #[inline]
    pub fn note_taken(&self) {
        if self.given.replace(0) > 0 {
            self.halvings.set(self.halvings.get().saturating_sub(1));
        }
    }

    /// Takes note that it gave a magazine away, `to_depot` or, where that was full, to the arena: what it frees
    /// in a burst goes there, and comes back from there.
    #[inline]
    pub fn note_given(&self, to_depot: bool) {
        let given = self.given.get();
        self.given.set(if to_depot { (given + 1).min(IN_A_ROW) } else { given.max(1) });
        if self.given.get() == IN_A_ROW {
            self.halvings.set(MOST_HALVINGS);
        }
    }
}

impl Tcache {
    /// Blocks of the magazines of `class` that the thread gives away.
    #[inline]
    pub(super) fn capacity(&self, class: Class) -> usize {
        let most = magazine_capacity(class);
        (most >> self.directions[class].halvings()).max(LEAST_BLOCKS).min(most)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn give(direction: &Direction, magazines: u8, to_depot: bool) {
        (0..magazines).for_each(|_| direction.note_given(to_depot));
    }

    #[test]
    fn magazines_of_a_thread_that_only_takes_or_only_gives_stay_small() {
        let direction = Direction::new();
        (0..200).for_each(|_| direction.note_taken());
        assert_eq!(direction.halvings(), MOST_HALVINGS);
        give(&direction, 200, true);
        assert_eq!(direction.halvings(), MOST_HALVINGS);
    }

    #[test]
    fn each_turn_doubles_them() {
        let direction = Direction::new();
        for turn in 1..=4 {
            give(&direction, 3, turn % 2 == 0);
            direction.note_taken();
            direction.note_taken();
            assert_eq!(direction.halvings(), MOST_HALVINGS.saturating_sub(turn));
        }
    }

    #[test]
    fn a_burst_that_goes_beyond_the_depot_leaves_them_large() {
        let direction = Direction::new();
        for _ in 0..4 {
            give(&direction, 4, true);
            give(&direction, 200, false);
            direction.note_taken();
        }
        assert_eq!(direction.halvings(), 0);
        give(&direction, IN_A_ROW - 1, true);
        assert_eq!(direction.halvings(), 0);
        give(&direction, 1, true);
        assert_eq!(direction.halvings(), MOST_HALVINGS);
    }
}
