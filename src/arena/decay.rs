//! How much free memory an arena keeps: what the program needed again within the decay time.
//!
//! For each of the last [`STEPS`] epochs, a sixteenth of the decay time each, the *low-water mark*
//! is kept: the fewest dirty free pages at any instant of it. Of the pages that are free now, those
//! above an epoch's mark were in use then and may be wanted again; a weight that stays 1 for half
//! the time and then falls to 0 along a smooth curve says how much an old epoch still counts. So a program that needs the same
//! memory again and again keeps it, and what was freed once and for all leaves over the decay time.
//!
//! The curve is that of jemalloc's decay (`decay.c`, smootherstep); counting low-water marks instead
//! of pages that became dirty is what tcmalloc does for its central caches.

/// Epochs in the decay time.
pub const STEPS: usize = 16;

/// Low-water marks of an arena, in pages.
#[derive(Debug)]
pub struct Decay {
    /// One per epoch, in a ring.
    low: [u32; STEPS],
    /// The current epoch's place.
    now: usize,
}

/// Epochs that count in full.
const FULL: usize = STEPS / 2;

/// 1024 while an epoch counts in full, then 1024 × (1 - smootherstep).
const WEIGHTS: [u32; STEPS] = weights();

const fn weights() -> [u32; STEPS] {
    let mut weights = [1024; STEPS];
    let mut age = FULL;
    while age < STEPS {
        // 6x⁵ - 15x⁴ + 10x³, with x = a / n: (6a⁵ - 15a⁴n + 10a³n²) / n⁵.
        let (a, n) = ((age - FULL) as u64, (STEPS - FULL) as u64);
        let cube = a * a * a;
        let step = (6 * cube * a * a + 10 * cube * n * n - 15 * cube * a * n) * 1024 / n.pow(5);
        weights[age] = 1024 - step as u32;
        age += 1;
    }
    weights
}

impl Decay {
    /// Nothing was ever free.
    pub const fn new() -> Self {
        Self { low: [0; STEPS], now: 0 }
    }

    /// Takes note that `dirty` pages are left after some were taken.
    pub fn note(&mut self, dirty: usize) {
        let low = &mut self.low[self.now % STEPS];
        *low = (*low).min(u32::try_from(dirty).unwrap_or(u32::MAX));
    }

    /// Goes on to the next epoch, `epochs` after the last one; `dirty` pages are free. What is
    /// known of the last one holds for those that were missed.
    pub fn advance(&mut self, epochs: u64, dirty: usize) {
        let low = self.low[self.now % STEPS];
        for _ in 0..epochs.min(STEPS as u64) {
            self.now = (self.now + 1) % STEPS;
            self.low[self.now % STEPS] = low;
        }
        self.low[self.now % STEPS] = u32::try_from(dirty).unwrap_or(u32::MAX);
    }

    /// Of `dirty` free pages those that should stay.
    pub fn keep(&self, dirty: usize) -> usize {
        WEIGHTS.iter().enumerate().fold(0, |keep, (age, &weight)| {
            let low = self.low[(self.now + STEPS - age) % STEPS] as usize;
            keep.max(dirty.saturating_sub(low) * weight as usize / 1024)
        })
    }

    /// Takes note that `pages` more are free, and were all the time, in blocks that nobody used.
    pub fn were_free(&mut self, pages: usize) {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        for low in &mut self.low {
            *low = low.saturating_add(pages);
        }
    }

    /// Takes note that `pages` of the free ones were given back.
    pub fn purged(&mut self, pages: usize) {
        let pages = u32::try_from(pages).unwrap_or(u32::MAX);
        for low in &mut self.low {
            *low = low.saturating_sub(pages);
        }
    }
}

/// For how many epochs a count has not changed.
#[derive(Debug, Clone, Copy)]
pub struct IdleEpochs {
    /// The count when it was last looked at.
    pub seen: u32,
    /// Epochs since it changed; stays at the most that fits.
    pub epochs: u8,
}

impl IdleEpochs {
    /// Of a count that is 0.
    pub const NONE: Self = Self { seen: 0, epochs: 0 };

    /// Looks at the count, once per epoch; the epochs since it changed.
    pub fn tick(&mut self, count: u32) -> usize {
        let same = core::mem::replace(&mut self.seen, count) == count;
        self.epochs = if same { self.epochs.saturating_add(1) } else { 0 };
        usize::from(self.epochs)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Purges as an arena does; the pages left.
    fn tick(decay: &mut Decay, dirty: usize) -> usize {
        decay.advance(1, dirty);
        let keep = decay.keep(dirty);
        decay.purged(dirty - keep);
        keep
    }

    #[test]
    fn weights_fall_smoothly_from_one_to_almost_nothing() {
        assert_eq!(WEIGHTS[0], 1024);
        assert!(WEIGHTS.is_sorted_by(|a, b| a >= b));
        assert_eq!(WEIGHTS[FULL], 1024);
        assert_eq!(WEIGHTS[(FULL + STEPS) / 2], 512);
        assert!(WEIGHTS[STEPS - 1] < 20);
    }

    #[test]
    fn a_burst_drains_over_the_decay_time_and_not_at_once() {
        let mut decay = Decay::new();
        let mut dirty = 10_000;
        let mut largest = 0;
        for _ in 0..STEPS + 1 {
            let left = tick(&mut decay, dirty);
            largest = largest.max(dirty - left);
            dirty = left;
        }
        assert_eq!(dirty, 0);
        assert!(largest < 10_000 / 2, "{largest} pages in one step");
    }

    #[test]
    fn what_is_needed_in_every_epoch_stays() {
        let mut decay = Decay::new();
        for _ in 0..10 * STEPS {
            // All is taken and comes back, within each epoch.
            decay.note(0);
            assert_eq!(tick(&mut decay, 1000), 1000);
        }
    }

    #[test]
    fn of_a_heap_that_breathes_only_the_surplus_goes() {
        let mut decay = Decay::new();
        let mut free = 1000;
        for _ in 0..10 * STEPS {
            decay.note(free - 300);
            free = tick(&mut decay, free);
        }
        assert_eq!(free, 300);
    }

    #[test]
    fn a_count_that_changes_is_not_idle() {
        let mut idle = IdleEpochs::NONE;
        assert_eq!([0, 0, 5, 5, 6].map(|count| idle.tick(count)), [1, 2, 0, 1, 0]);
        (0..300).for_each(|_| _ = idle.tick(6));
        assert_eq!(idle.tick(6), 255);
    }

    #[test]
    fn missed_epochs_are_as_the_last_one_known() {
        let mut decay = Decay::new();
        decay.advance(1, 500);
        decay.note(400);
        decay.advance(100, 500);
        assert_eq!(decay.keep(500), 100);
    }
}
