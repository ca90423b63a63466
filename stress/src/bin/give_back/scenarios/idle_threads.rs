//! Threads that worked and now sleep: what each of them still holds.

use super::IDLE;
use crate::books::Books;
use crate::report::{Figure, Measured};
use crate::rss;
use crate::scenario::{Scenario, Setup, WHOLE};
use crate::source::Source;
use std::ops::RangeInclusive;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::thread;
use std::time::Duration;
use stress::Block;

pub const SCENARIO: Scenario = Scenario {
    name: "idle_threads",
    about: "65 threads allocate and free 4 MiB each; one works on a little, the others sleep",
    parts: WHOLE,
    address_space: None,
    run,
    judge: |parts| {
        vec![
            Figure::new("per thread at once", parts[0].get("at_once_bytes") / 1024.0, "KiB"),
            Figure::new("per thread after 2 s", parts[0].get("kept_bytes") / 1024.0, "KiB")
                .at_most(1024.0),
        ]
    },
};

/// Sizes of the blocks, in bytes.
const SIZES: RangeInclusive<usize> = 16..=2048;
/// Bytes that each thread allocates.
const EACH: usize = 4 << 20;
/// Threads that sleep afterwards.
const SLEEPERS: usize = 64;
/// Blocks of the thread that goes on.
const FEW: usize = 64;

fn run(setup: &Setup) -> Measured {
    let step = Barrier::new(SLEEPERS + 2);
    let stop = AtomicBool::new(false);
    let wait = || _ = step.wait();
    thread::scope(|scope| {
        for number in 0..=SLEEPERS {
            let mut source = setup.source(number);
            let (wait, stop) = (&wait, &stop);
            scope.spawn(move || {
                let mut blocks = Books::for_blocks(EACH, &SIZES);
                wait();
                wait();
                burst(&mut source, &mut blocks);
                wait();
                if number == SLEEPERS {
                    go_on(&mut source, &mut blocks, stop);
                }
                wait();
            });
        }
        wait();
        let before = rss::now();
        wait();
        wait();
        let at_once = rss::now().saturating_sub(before);
        thread::sleep(IDLE);
        let kept = rss::now().saturating_sub(before);
        stop.store(true, Relaxed);
        wait();
        Measured::default()
            .with("at_once_bytes", at_once / SLEEPERS)
            .with("kept_bytes", kept / SLEEPERS)
    })
}

fn burst(source: &mut Source, blocks: &mut Books<Block>) {
    source.fill(blocks, EACH, &SIZES);
    source.rng.shuffle(blocks);
    source.free_all(blocks);
}

/// Replaces a few blocks all the time.
fn go_on(source: &mut Source, blocks: &mut Books<Block>, stop: &AtomicBool) {
    (0..FEW).for_each(|_| blocks.push(source.allocate_any(&SIZES)));
    while !stop.load(Relaxed) {
        for place in 0..FEW {
            let block = source.allocate_any(&SIZES);
            source.free(std::mem::replace(&mut blocks[place], block));
        }
        thread::sleep(Duration::from_millis(1));
    }
    source.free_all(blocks);
}
