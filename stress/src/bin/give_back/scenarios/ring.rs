//! Blocks that travel round a ring of threads: each frees what the one before it allocated.

use super::between_steps;
use crate::books::Books;
use crate::report::{Figure, Measured};
use crate::rss;
use crate::scenario::{Scenario, Setup, WHOLE};
use crate::source::Source;
use std::ops::RangeInclusive;
use std::sync::{Barrier, Mutex, PoisonError};
use std::thread;
use stress::Block;

pub const SCENARIO: Scenario = Scenario {
    name: "ring",
    about: "each thread frees what the thread before it allocated; constant live set",
    parts: WHOLE,
    address_space: None,
    run,
    judge: |parts| {
        let live = parts[0].mib("live_bytes");
        vec![
            Figure::new("live", live, "MiB"),
            Figure::new("peak / live", parts[0].mib("peak_bytes") / live, "x").at_most(1.3),
        ]
    },
};

/// Sizes of the blocks, in bytes.
const SIZES: RangeInclusive<usize> = 16..=1024;

type Share = Mutex<Books<Block>>;

fn run(setup: &Setup) -> Measured {
    let threads = setup.scale.threads();
    let each = setup.scale.live() / threads;
    let rounds = setup.scale.rounds(50, 10);
    let shares: Vec<Share> =
        (0..threads).map(|_| Mutex::new(Books::for_blocks(each, &SIZES))).collect();
    let step = Barrier::new(threads + 1);
    thread::scope(|scope| {
        for number in 0..threads {
            let (shares, step) = (&shares, &step);
            let source = setup.source(number);
            scope.spawn(move || pass_round(source, number, each, rounds, shares, step));
        }
        let before = between_steps(&step, || {
            rss::reset_peak();
            rss::now()
        });
        let live_after_filling = between_steps(&step, || live(&shares));
        for _ in 0..rounds {
            step.wait();
        }
        let peak = rss::peak().saturating_sub(before);
        let live = live_after_filling.max(live(&shares));
        step.wait();
        Measured::default().with("live_bytes", live).with("peak_bytes", peak)
    })
}

fn live(shares: &[Share]) -> usize {
    shares.iter().map(|share| lock(share).iter().map(Block::size).sum::<usize>()).sum()
}

fn lock(share: &Share) -> impl std::ops::DerefMut<Target = Books<Block>> {
    share.lock().unwrap_or_else(PoisonError::into_inner)
}

/// One thread: fills its own share, then replaces the blocks of the share that the thread before
/// it filled in the round before.
fn pass_round(
    mut source: Source,
    number: usize,
    each: usize,
    rounds: usize,
    shares: &[Share],
    step: &Barrier,
) {
    step.wait();
    step.wait();
    source.fill(&mut lock(&shares[number]), each, &SIZES);
    step.wait();
    step.wait();
    for round in 1..=rounds {
        // Thread n filled share n - round + 1 in the last round: the share of thread n - 1 then
        // is n - round.
        let place = (number + rounds * shares.len() - round) % shares.len();
        let mut blocks = lock(&shares[place]);
        source.rng.shuffle(&mut blocks);
        for place in 0..blocks.len() {
            source.replace(&mut blocks, place, &SIZES);
        }
        drop(blocks);
        step.wait();
    }
    step.wait();
    source.free_all(&mut lock(&shares[number]));
}
