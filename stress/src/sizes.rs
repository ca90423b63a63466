//! Sizes to ask for.

use fastrand::Rng;
use std::alloc::Layout;

/// A size from 1 to `max` whose magnitude is even: as many below 16 as from 1 to 16 KiB per
/// power of two. `max` is at least 1.
pub fn any_magnitude(rng: &mut Rng, max: usize) -> usize {
    let low = 1 << rng.u32(0..=max.ilog2());
    rng.usize(low..(2 * low).min(max + 1))
}

/// A layout with the alignment that C's malloc gives.
pub fn layout(size: usize) -> Layout {
    aligned(size, 16)
}

/// A layout of this size and alignment, which is a power of two.
pub fn aligned(size: usize, align: usize) -> Layout {
    Layout::from_size_align(size, align).expect("a size and an alignment that exist")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn sizes_stay_in_range_and_reach_both_ends() {
        for max in [1, 2, 15, 16, 17] {
            let mut rng = Rng::with_seed(3);
            let mut seen = vec![false; max + 1];
            for _ in 0..10_000 {
                seen[any_magnitude(&mut rng, max)] = true;
            }
            assert!(!seen[0]);
            assert!(seen[1..].iter().all(|&seen| seen), "up to {max}: {seen:?}");
        }
    }
}
