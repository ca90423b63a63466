//! A burst of mixed small blocks from several threads, all freed; then nothing happens.

use super::{IDLE, between_steps};
use crate::books::Books;
use crate::report::{Figure, Measured};
use crate::rss;
use crate::scenario::{Scenario, Setup, WHOLE};
use std::ops::RangeInclusive;
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use stress::Block;

pub const SCENARIO: Scenario = Scenario {
    name: "burst",
    about: "blocks of 16 to 1024 bytes from several threads, all freed; the threads then sleep",
    parts: WHOLE,
    address_space: None,
    run: |setup| {
        let burst = Burst::new(setup, None).run();
        Measured::default()
            .with("full_bytes", burst.full)
            .with("at_once_bytes", burst.at_once)
            .with("kept_bytes", burst.kept)
    },
    judge: |parts| {
        vec![
            Figure::new("at the peak", parts[0].mib("full_bytes"), "MiB"),
            Figure::new("kept at once", parts[0].mib("at_once_bytes"), "MiB"),
            Figure::new("kept after 2 s", parts[0].mib("kept_bytes"), "MiB").at_most(10.0),
        ]
    },
};

/// Sizes of the blocks, in bytes.
const SIZES: RangeInclusive<usize> = 16..=1024;

/// A burst, of which a part may survive.
pub struct Burst<'a> {
    setup: &'a Setup,
    /// One block in so many stays.
    one_in: Option<usize>,
    each: usize,
    step: Barrier,
    /// The pages in which there is a byte of a survivor, with repetitions.
    pages: Mutex<Books<usize>>,
}

/// What was resident beyond the start, in bytes.
pub struct Resident {
    /// With all blocks in use.
    pub full: usize,
    /// When the last was freed.
    pub at_once: usize,
    /// Some time later, in which nobody called the allocator.
    pub kept: usize,
    /// The pages of the blocks that stayed.
    pub pinned: usize,
}

impl<'a> Burst<'a> {
    /// A burst of which one block in `one_in` survives.
    pub fn new(setup: &'a Setup, one_in: Option<usize>) -> Self {
        let bytes = setup.scale.burst();
        let threads = setup.scale.threads();
        let survivors = one_in.map_or(0, |n| bytes / (SIZES.end() / 2) / n);
        Self {
            setup,
            one_in,
            each: bytes / threads,
            step: Barrier::new(threads + 1),
            pages: Mutex::new(Books::new(4 * survivors + 1024)),
        }
    }

    /// Runs it and reads what is resident in between.
    pub fn run(&self) -> Resident {
        thread::scope(|scope| {
            for number in 0..self.setup.scale.threads() {
                scope.spawn(move || self.work(number));
            }
            let before = between_steps(&self.step, rss::now);
            let beyond = || rss::now().saturating_sub(before);
            let full = between_steps(&self.step, beyond);
            let (at_once, kept) = between_steps(&self.step, || {
                let at_once = beyond();
                thread::sleep(IDLE);
                (at_once, beyond())
            });
            let pinned = self.pinned();
            Resident { full, at_once, kept, pinned }
        })
    }

    /// One thread's part.
    fn work(&self, number: usize) {
        let mut source = self.setup.source(number);
        let mut blocks = Books::for_blocks(self.each, &SIZES);
        let mut survivors: Books<Block> = Books::for_blocks(self.each / 100, &SIZES);
        between_steps(&self.step, || ());
        let mut bytes = 0;
        while bytes < self.each {
            let block = source.allocate_any(&SIZES);
            bytes += block.size();
            match self.one_in {
                Some(n) if source.rng.usize(..n) == 0 => survivors.push(block),
                _ => blocks.push(block),
            }
        }
        between_steps(&self.step, || ());
        source.rng.shuffle(&mut blocks);
        source.free_all(&mut blocks);
        self.enter_pages(&survivors);
        between_steps(&self.step, || ());
        source.free_all(&mut survivors);
    }

    fn enter_pages(&self, blocks: &[Block]) {
        let size = rss::page_size();
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        for block in blocks {
            let (first, last) = (block.address(), block.address() + block.size() - 1);
            (first / size..=last / size).for_each(|page| pages.push(page));
        }
    }

    /// The bytes of all pages that were entered.
    fn pinned(&self) -> usize {
        let mut pages = self.pages.lock().unwrap_or_else(PoisonError::into_inner);
        pages.sort_unstable();
        pages.chunk_by(|a, b| a == b).count() * rss::page_size()
    }
}
