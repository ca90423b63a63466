//! The workloads. Each function's `ops` is the number of blocks that one thread allocates, about.

use crate::block::Block;
use fastrand::Rng;
use std::collections::VecDeque;
use std::hint::black_box;
use std::sync::{Mutex, mpsc};
use std::thread::{self, Scope};

/// Random numbers of thread `thread`, the same in every run.
pub fn random(thread: usize) -> Rng {
    Rng::with_seed(0x5eed + thread as u64)
}

/// A size up to `max` bytes, at least 8; each power of two is as likely as the others.
#[inline]
fn any_magnitude(rng: &mut Rng, max: usize) -> usize {
    let bits = rng.u32(3..=max.ilog2() - 1);
    (1 << bits) + rng.usize(0..=1 << bits)
}

/// Keeps `slots` blocks of up to `max` bytes and replaces random ones.
pub fn replace(mut rng: Rng, ops: u64, slots: usize, max: usize) {
    let mut set: Vec<Option<Block>> = (0..slots).map(|_| None).collect();
    for _ in 0..ops {
        let slot = rng.usize(..slots);
        let block = Block::new(any_magnitude(&mut rng, max));
        // The old one is freed after the new one came.
        set[slot] = Some(block);
    }
}

/// Allocates many blocks of many sizes, frees them all, in the order of their allocation, in the
/// opposite one, and in a random one.
pub fn burst(mut rng: Rng, ops: u64) {
    const BLOCKS: u64 = 20_000;
    for round in 0..(ops / BLOCKS).max(1) {
        let blocks = ops.min(BLOCKS);
        let mut set: VecDeque<Block> =
            (0..blocks).map(|_| Block::new(any_magnitude(&mut rng, 2048))).collect();
        match round % 3 {
            0 => drop(set),
            1 => while set.pop_back().is_some() {},
            _ => {
                rng.shuffle(set.make_contiguous());
                drop(set);
            }
        }
    }
}

/// Sizes and lifetimes of a Pareto distribution. Time is counted in allocations.
pub fn pareto(mut rng: Rng, ops: u64) {
    const TIMES: usize = 1 << 16;
    let mut ends: Vec<Vec<Block>> = (0..TIMES).map(|_| Vec::new()).collect();
    for now in 0..ops as usize {
        let size = pareto_number(&mut rng, 16.0, 1.1, 64 << 10);
        let life = pareto_number(&mut rng, 1.0, 0.7, TIMES - 1);
        ends[(now + life) % TIMES].push(Block::new(size));
        ends[now % TIMES].clear();
    }
}

/// A number of a Pareto distribution of this least value and shape, cut off at `max`.
#[inline]
fn pareto_number(rng: &mut Rng, least: f64, shape: f64, max: usize) -> usize {
    let uniform = 1.0 - rng.f64();
    ((least * uniform.powf(-1.0 / shape)) as usize).min(max)
}

/// Keeps 16 blocks of 64 KiB to 4 MiB and replaces random ones.
pub fn large(mut rng: Rng, ops: u64) {
    let mut set: Vec<Option<Block>> = (0..16).map(|_| None).collect();
    for _ in 0..ops {
        let slot = rng.usize(..set.len());
        set[slot] = None;
        let size = (64 << 10) + any_magnitude(&mut rng, 4 << 20) - 8;
        set[slot] = Some(Block::new(size.min(4 << 20)));
    }
}

/// Allocates 100 blocks of 256 KiB to 4 MiB, writes to each of their pages, and frees them all, again and again.
pub fn batches(mut rng: Rng, ops: u64) {
    const BLOCKS: u64 = 100;
    const PAGE: usize = 4096;
    let mut size = || (rng.usize(256..512) << 10) << rng.u32(0..4);
    for _ in 0..ops.div_ceil(BLOCKS) {
        let write = |size| {
            let mut block = Block::new(size);
            (PAGE..size).step_by(PAGE).for_each(|at| *block.byte(at) = 1);
            block
        };
        drop((0..BLOCKS).map(|_| write(size())).collect::<Vec<_>>());
    }
}

/// Replaces random ones of 1000 blocks of up to 8 KiB by zeroed ones.
pub fn calloc(mut rng: Rng, ops: u64) {
    let mut set: Vec<Option<Block>> = (0..1000).map(|_| None).collect();
    for _ in 0..ops {
        let slot = rng.usize(..set.len());
        set[slot] = Some(Block::zeroed(any_magnitude(&mut rng, 8 << 10)));
    }
}

/// Eight buffers that grow by a half from 16 bytes until they exceed some size, in turns. An
/// operation is one growth.
pub fn realloc(mut rng: Rng, ops: u64) {
    struct Buffer {
        block: Block,
        size: usize,
        limit: usize,
    }
    let fresh = |rng: &mut Rng| Buffer {
        block: Block::new(16),
        size: 16,
        limit: any_magnitude(rng, 256 << 10),
    };
    let mut buffers: Vec<Buffer> = (0..8).map(|_| fresh(&mut rng)).collect();
    for _ in 0..ops {
        let which = rng.usize(..buffers.len());
        let buffer = &mut buffers[which];
        if buffer.size > buffer.limit {
            *buffer = fresh(&mut rng);
        } else {
            buffer.size += buffer.size / 2;
            buffer.block.resize(buffer.size);
        }
    }
}

/// A ring of threads: each sends batches of blocks to the next, which frees them.
pub fn hand_off(threads: usize, ops: u64) {
    const BATCH: u64 = 64;
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..threads).map(|_| mpsc::sync_channel::<Vec<Block>>(16)).unzip();
    thread::scope(|scope| {
        for (thread, inbox) in receivers.into_iter().enumerate() {
            let outbox = senders[(thread + 1) % threads].clone();
            scope.spawn(move || {
                let mut rng = random(thread);
                for _ in 0..ops.div_ceil(BATCH) {
                    let batch = (0..BATCH).map(|_| Block::new(any_magnitude(&mut rng, 1024)));
                    // Nobody ends before it has received as often as it has sent.
                    outbox.send(batch.collect()).expect("the next thread still receives");
                    drop(inbox.recv().expect("the one before still sends"));
                }
            });
        }
    });
}

/// Each thread frees a small block that the first thread allocated next to the others', allocates
/// one of the same size, writes it often, and again. An operation is one block.
pub fn cache_scratch(threads: usize, ops: u64) {
    const WRITES: u32 = 200;
    let given: Vec<Block> = (0..threads).map(|_| Block::new(8)).collect();
    thread::scope(|scope| {
        for block in given {
            scope.spawn(move || {
                drop(block);
                for _ in 0..ops {
                    let mut block = Block::new(8);
                    for write in 0..WRITES {
                        // What is written must reach the memory each time.
                        *black_box(block.byte(1)) = write as u8;
                    }
                }
            });
        }
    });
}

/// Threads that replace random blocks of up to 1 KiB; each ends after a while and leaves its set
/// to a successor, by way of the sets that nobody has at the moment.
pub fn larson(threads: usize, ops: u64) {
    // One set more than threads, so that a successor seldom gets its predecessor's.
    let idle = Mutex::new(vec![Vec::new()]);
    thread::scope(|scope| {
        for thread in 0..threads {
            let idle = &idle;
            scope.spawn(move || turn(scope, idle, random(thread), Vec::new(), ops));
        }
    });
}

/// One thread's turn of `larson`, with `left` operations left to it and its successors.
fn turn<'scope>(
    scope: &'scope Scope<'scope, '_>,
    idle: &'scope Mutex<Vec<Vec<Block>>>,
    mut rng: Rng,
    mut set: Vec<Block>,
    left: u64,
) {
    const BLOCKS: usize = 1000;
    const TURN: u64 = 50_000;
    for _ in 0..left.min(TURN) {
        let block = Block::new(any_magnitude(&mut rng, 1024));
        if set.len() < BLOCKS {
            set.push(block);
        } else {
            let slot = rng.usize(..BLOCKS);
            set[slot] = block;
        }
    }
    if left > TURN {
        let mut idle_sets = idle.lock().expect("no thread panicked");
        let other = rng.usize(..idle_sets.len());
        std::mem::swap(&mut set, &mut idle_sets[other]);
        drop(idle_sets);
        scope.spawn(move || turn(scope, idle, rng, set, left - TURN));
    }
}

/// Threads that allocate 500 small blocks, free them and end; `threads` at a time.
pub fn threads(threads: usize, ops: u64) {
    const BLOCKS: u64 = 500;
    thread::scope(|scope| {
        for thread in 0..threads {
            scope.spawn(move || {
                for life in 0..ops.div_ceil(BLOCKS) {
                    let rng = random(thread * 1_000_003 + life as usize);
                    thread::spawn(move || replace(rng, BLOCKS, 100, 512))
                        .join()
                        .expect("no thread panicked");
                }
            });
        }
    });
}
