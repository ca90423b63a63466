//! Producers allocate, consumers free; the live set stays as large as it is.

use super::between_steps;
use crate::books::Books;
use crate::report::{Figure, Measured};
use crate::rss::{self, Series};
use crate::scenario::{Scenario, Setup, WHOLE};
use crate::source::Source;
use std::ops::RangeInclusive;
use std::sync::Barrier;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use stress::Block;

pub const SCENARIO: Scenario = Scenario {
    name: "producer_consumer",
    about: "half of the threads allocate, the other half frees; constant live set",
    parts: WHOLE,
    address_space: None,
    run,
    judge: |parts| {
        let live = parts[0].mib("live_bytes");
        vec![
            Figure::new("live", live, "MiB"),
            Figure::new("RSS / live", parts[0].mib("peak_bytes") / live, "x").at_most(1.5),
            Figure::new("RSS, swing", 100.0 * parts[0].get("swing_ratio"), "%").at_most(5.0),
        ]
    },
};

/// Sizes of the blocks, in bytes.
const SIZES: RangeInclusive<usize> = 16..=1024;
/// Blocks that go over at once.
const BATCH: usize = 16;
/// Batches that wait for a consumer at most. They are beyond the live set, and little beside it.
const QUEUE: usize = 4;

type Batch = [Block; BATCH];

fn run(setup: &Setup) -> Measured {
    let pairs = setup.scale.threads().div_ceil(2);
    let time = setup.scale.duration(60.0, 5.0);
    let mut series = Series::new(time);
    let stop = AtomicBool::new(false);
    let step = Barrier::new(pairs + 1);
    thread::scope(|scope| {
        let mut consumers = Vec::with_capacity(pairs);
        for pair in 0..pairs {
            let (sender, receiver) = sync_channel(QUEUE);
            let (producer, consumer) = (setup.source(2 * pair), setup.source(2 * pair + 1));
            let (step, stop) = (&step, &stop);
            scope.spawn(move || produce(producer, &sender, stop));
            let live = setup.scale.live() / pairs;
            consumers.push(scope.spawn(move || consume(consumer, &receiver, live, step)));
        }
        let before = between_steps(&step, rss::now);
        // All live blocks are there.
        step.wait();
        series.record(time);
        stop.store(true, Relaxed);
        let live =
            consumers.into_iter().map(|consumer| consumer.join().unwrap_or(0)).sum::<usize>();
        Measured::default()
            .with("live_bytes", live)
            .with("peak_bytes", series.spread().max.saturating_sub(before))
            .with("swing_ratio", series.later_half().relative(before))
    })
}

fn produce(mut source: Source, consumer: &SyncSender<Batch>, stop: &AtomicBool) {
    while !stop.load(Relaxed) {
        let batch = std::array::from_fn(|_| source.allocate_any(&SIZES));
        if consumer.send(batch).is_err() {
            return;
        }
    }
}

/// Puts what comes in the place of blocks of the live set, which it frees. Returns the bytes that
/// were live in the end.
fn consume(mut source: Source, batches: &Receiver<Batch>, live: usize, step: &Barrier) -> usize {
    let mut blocks = Books::for_blocks(live, &SIZES);
    let mut bytes = 0;
    step.wait();
    // The producers run already, but no further than their queue.
    step.wait();
    while bytes < live {
        let Ok(batch) = batches.recv() else { break };
        for block in batch {
            bytes += block.size();
            blocks.push(block);
        }
    }
    step.wait();
    while let Ok(batch) = batches.recv() {
        for block in batch {
            let place = source.rng.usize(..blocks.len());
            source.free(std::mem::replace(&mut blocks[place], block));
        }
    }
    let bytes = blocks.iter().map(Block::size).sum();
    source.free_all(&mut blocks);
    bytes
}
