//! A program of which little is left comes to need little: as its blocks are replaced, what stays in use
//! gathers in few slabs.

use arenite::{Arenite, stats};
use std::alloc::{GlobalAlloc, Layout};
use std::thread::sleep;
use std::time::Duration;

static ARENITE: Arenite = Arenite::new().arenas(1).decay_ms(20);

/// Bytes of the blocks at first, and of each.
const BYTES: usize = 32 << 20;
const SIZES: [usize; 4] = [48, 128, 320, 1024];
/// One block in so many stays.
const ONE_IN: usize = 10;
/// Most times that as many blocks are replaced as are left.
const ROUNDS: usize = 2000;

struct Block(*mut u8, Layout);

impl Block {
    fn new(size: usize) -> Block {
        let layout = Layout::from_size_align(size, 16).expect("a valid layout");
        // SAFETY: the layout is not empty.
        let block = unsafe { ARENITE.alloc(layout) };
        assert!(!block.is_null());
        // SAFETY: so many bytes.
        unsafe { block.write_bytes(size as u8, size) };
        Block(block, layout)
    }
}

impl Drop for Block {
    fn drop(&mut self) {
        // SAFETY: allocated with this layout, filled, and used by nobody else.
        unsafe {
            assert!((0..self.1.size()).all(|at| *self.0.add(at) == self.1.size() as u8));
            ARENITE.dealloc(self.0, self.1);
        }
    }
}

/// Random numbers, by a linear congruential generator with the multiplier of Knuth's MMIX.
struct Rng(u64);

impl Rng {
    fn below(&mut self, bound: usize) -> usize {
        self.0 = self.0.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
        (self.0 >> 33) as usize % bound
    }
}

/// Slabs of the classes of the sizes, and closed ones.
fn slabs() -> (usize, usize) {
    let classes = stats::collect().classes;
    let own = classes.iter().filter(|class| SIZES.contains(&class.size));
    own.fold((0, 0), |(all, closed), class| (all + class.slabs, closed + class.closed_slabs))
}

#[test]
fn what_stays_in_use_gathers_in_few_slabs() {
    let mut rng = Rng(1);
    let mut blocks = Vec::new();
    for size in SIZES {
        blocks.extend((0..BYTES / SIZES.len() / size).map(|_| Block::new(size)));
    }
    let (full, closed) = slabs();
    assert_eq!(closed, 0);
    (1..blocks.len()).for_each(|place| blocks.swap(place, rng.below(place + 1)));
    blocks.truncate(blocks.len() / ONE_IN);
    let (shrunk, _) = slabs();
    assert!(shrunk > full / 4 * 3, "what is left lies in {shrunk} of {full} slabs");
    let mut most_closed = 0;
    for _ in 0..ROUNDS {
        for _ in 0..blocks.len() {
            let place = rng.below(blocks.len());
            let size = blocks[place].1.size();
            drop(blocks.swap_remove(place));
            blocks.push(Block::new(size));
        }
        let (all, closed) = slabs();
        assert!(closed <= all);
        most_closed = closed.max(most_closed);
        if all < full / 4 {
            assert!(most_closed > full / 4, "{most_closed} of {full} slabs were closed");
            return;
        }
        sleep(Duration::from_millis(1));
    }
    panic!("{:?} slabs, {full} when all was in use", slabs());
}
