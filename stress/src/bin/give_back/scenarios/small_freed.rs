//! Many small blocks freed by a thread that then idles, in a process that has another thread.

use crate::books::Books;
use crate::report::{Figure, Measured};
use crate::rss;
use crate::scenario::{Scenario, Setup, WHOLE};
use std::ops::RangeInclusive;
use std::sync::Barrier;
use std::thread;
use std::time::Duration;
use stress::Block;

pub const SCENARIO: Scenario = Scenario {
    name: "small_freed",
    about: "200,000 blocks of 32 to 100 bytes freed on the main thread; another thread sleeps",
    parts: WHOLE,
    address_space: None,
    run,
    judge: |parts| {
        vec![
            Figure::new("at the peak", parts[0].mib("full_bytes"), "MiB"),
            Figure::new("kept after 1.5 s", parts[0].mib("kept_bytes"), "MiB").at_most(1.0),
        ]
    },
};

const BLOCKS: usize = 200_000;
/// Sizes of the blocks, in bytes.
const SIZES: RangeInclusive<usize> = 32..=100;
/// When memory has to be back.
const BACK_AFTER: Duration = Duration::from_millis(1500);

fn run(setup: &Setup) -> Measured {
    let mut source = setup.source(0);
    let mut blocks: Books<Block> = Books::new(BLOCKS);
    let step = Barrier::new(2);
    thread::scope(|scope| {
        scope.spawn(|| {
            step.wait();
            step.wait();
        });
        step.wait();
        let before = rss::now();
        (0..BLOCKS).for_each(|_| blocks.push(source.allocate_any(&SIZES)));
        let full = rss::now().saturating_sub(before);
        // In the order of the requests.
        blocks.reverse();
        source.free_all(&mut blocks);
        thread::sleep(BACK_AFTER);
        let kept = rss::now().saturating_sub(before);
        step.wait();
        Measured::default().with("full_bytes", full).with("kept_bytes", kept)
    })
}
