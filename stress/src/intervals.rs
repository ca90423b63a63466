//! Which address ranges are taken, and by what.

use std::collections::BTreeMap;
use std::fmt;

/// A set of address ranges none of which overlap.
#[derive(Debug, Default)]
pub struct Intervals {
    /// From the start of a range to its end and its kind.
    ranges: BTreeMap<usize, (usize, &'static str)>,
}

/// Two ranges that share bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Overlap {
    /// The range that was there: start, end, kind.
    pub old: (usize, usize, &'static str),
    /// The range that came: start, end, kind.
    pub new: (usize, usize, &'static str),
}

impl fmt::Display for Overlap {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let ((a, b, old), (c, d, new)) = (self.old, self.new);
        write!(f, "{new} {c:#x}..{d:#x} overlaps {old} {a:#x}..{b:#x}")
    }
}

impl Intervals {
    /// Adds `len` bytes from `start`, or names a range they overlap.
    pub fn insert(&mut self, start: usize, len: usize, kind: &'static str) -> Result<(), Overlap> {
        let end = start + len;
        // The ranges are disjoint, so only the last one that begins below `end` can reach in.
        if let Some((&old, &(old_end, old_kind))) = self.ranges.range(..end).next_back()
            && old_end > start
        {
            return Err(Overlap { old: (old, old_end, old_kind), new: (start, end, kind) });
        }
        self.ranges.insert(start, (end, kind));
        Ok(())
    }

    /// Takes the range that begins at `start` out.
    pub fn remove(&mut self, start: usize) {
        self.ranges.remove(&start).expect("a range begins here");
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn neighbours_are_fine_and_overlaps_are_found() {
        let mut set = Intervals::default();
        assert_eq!(set.insert(100, 50, "block"), Ok(()));
        assert_eq!(set.insert(150, 10, "block"), Ok(()));
        assert_eq!(set.insert(90, 10, "break"), Ok(()));
        for (start, len) in [(149, 1), (100, 1), (80, 11), (120, 5), (0, 1000), (159, 9)] {
            assert!(set.insert(start, len, "break").is_err(), "{start}+{len}");
        }
        set.remove(100);
        assert_eq!(set.insert(149, 1, "break"), Ok(()));
    }
}
