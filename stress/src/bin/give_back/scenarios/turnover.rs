//! A live set that shrinks to a tenth, at random places, and is then replaced again and again.

use super::between_steps;
use crate::books::Books;
use crate::report::{Figure, Measured};
use crate::rss;
use crate::scenario::{Scenario, Setup, WHOLE};
use crate::source::Source;
use std::ops::RangeInclusive;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;
use stress::Block;

pub const SCENARIO: Scenario = Scenario {
    name: "turnover",
    about: "nine of ten blocks are freed, and the others replaced at random, again and again",
    parts: WHOLE,
    address_space: None,
    run,
    judge: |parts| {
        let [live, shrunk, kept] =
            ["live_bytes", "shrunk_bytes", "kept_bytes"].map(|name| parts[0].mib(name));
        vec![
            Figure::new("live", live, "MiB"),
            Figure::new("resident / live at once", shrunk / live, "x"),
            Figure::new("resident / live at the end", kept / live, "x").at_most(2.0),
        ]
    },
};

/// Sizes of the blocks, in bytes.
const SIZES: RangeInclusive<usize> = 16..=1024;
/// One block in so many stays.
const ONE_IN: usize = 10;
/// Time in which as many blocks are replaced as are left.
const ROUND: Duration = Duration::from_millis(50);
/// Parts of a round.
const PARTS: usize = 10;

fn run(setup: &Setup) -> Measured {
    let threads = setup.scale.threads();
    let step = Barrier::new(threads + 1);
    thread::scope(|scope| {
        let workers: Vec<_> = (0..threads)
            .map(|number| {
                let (step, source) = (&step, setup.source(number));
                scope.spawn(move || work(source, setup, step))
            })
            .collect();
        let before = between_steps(&step, rss::now);
        let beyond = || rss::now().saturating_sub(before);
        let shrunk = between_steps(&step, beyond);
        let kept = between_steps(&step, beyond);
        let live: usize =
            workers.into_iter().map(|worker| worker.join().expect("a thread that ends")).sum();
        Measured::default()
            .with("live_bytes", live)
            .with("shrunk_bytes", shrunk)
            .with("kept_bytes", kept)
    })
}

/// One thread's part; the bytes that it had at the end.
fn work(mut source: Source, setup: &Setup, step: &Barrier) -> usize {
    let each = setup.scale.burst() / setup.scale.threads();
    let rounds = setup.scale.rounds(100, 60);
    let mut blocks = Books::for_blocks(each, &SIZES);
    between_steps(step, || ());
    source.fill(&mut blocks, each, &SIZES);
    source.rng.shuffle(&mut blocks);
    let left = blocks.len() / ONE_IN;
    while blocks.len() > left
        && let Some(block) = blocks.pop()
    {
        source.free(block);
    }
    between_steps(step, || ());
    for _ in 0..rounds * PARTS {
        for _ in 0..left / PARTS {
            let place = source.rng.usize(..blocks.len());
            source.replace(&mut blocks, place, &SIZES);
        }
        thread::sleep(ROUND / PARTS as u32);
    }
    between_steps(step, || ());
    let live = blocks.iter().map(Block::size).sum();
    source.free_all(&mut blocks);
    live
}
