//! Blocks grow and shrink across small, large and mapped sizes, and keep their contents. Now and
//! then a block changes hands, so that threads also resize what others allocated.

use arenite::Arenite;
use clap::Parser;
use fastrand::Rng;
use std::sync::Mutex;
use std::thread;
use stress::sizes::{aligned, any_magnitude};
use stress::{Block, Common, Run, Worker, fail};

#[cfg_attr(not(feature = "system"), global_allocator)]
static GLOBAL: Arenite = Arenite::new();

#[derive(Parser)]
#[command(about = "realloc up and down over small, large and mapped sizes")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Blocks that a thread has
    #[arg(long, default_value_t = 64)]
    blocks: usize,
    /// Size of the largest block
    #[arg(long, default_value_t = 16 << 20)]
    max_size: usize,
    /// Bytes that a thread has at most
    #[arg(long, default_value_t = 48 << 20)]
    budget: usize,
}

fn main() {
    let args = Args::parse();
    let run = Run::start("realloc_mix", &args.common, &GLOBAL);
    let swap = Mutex::new(None);
    thread::scope(|scope| {
        for worker in run.workers() {
            scope.spawn(|| resize(worker, &args, &swap));
        }
    });
    let last = swap.into_inner().expect("no thread panicked");
    run.worker(run.threads()).free_all(last);
    run.finish();
}

fn resize(mut worker: Worker, args: &Args, swap: &Mutex<Option<Block>>) {
    let mut blocks = Vec::new();
    let mut bytes = 0;
    while worker.more() {
        if blocks.len() < args.blocks {
            let align = 1 << [0, 3, 4, 4, 4, 6, 12][worker.rng.usize(..7)];
            let size = any_magnitude(&mut worker.rng, 1024);
            blocks.push(worker.allocate(aligned(size, align)));
            bytes += size;
            continue;
        }
        let i = worker.rng.usize(..blocks.len());
        let old = blocks[i].size();
        let room = args.budget.saturating_sub(bytes).max(1);
        let new = next_size(&mut worker.rng, old, args.max_size).min(old + room);
        if !worker.try_resize(&mut blocks[i], new) {
            fail!("no memory to resize from {old} to {new} bytes");
        }
        bytes = bytes - old + new;
        if worker.rng.u8(..) == 0 {
            let ours = blocks.swap_remove(i);
            bytes -= ours.size();
            let theirs = swap.lock().expect("no thread panicked").replace(ours);
            bytes += theirs.as_ref().map_or(0, Block::size);
            blocks.extend(theirs);
        }
    }
    worker.free_all(blocks);
}

/// What a block of `old` bytes is resized to: in the ways of a vector, of a string that is cut,
/// of a buffer that is reused for something else.
fn next_size(rng: &mut Rng, old: usize, max: usize) -> usize {
    let new = match rng.u8(..10) {
        0 => old + 1,
        1 => old - 1,
        2 | 3 => old + old / 2 + 1,
        4 => old * 2,
        5 => old / 2,
        6 => old + rng.usize(1..=4096),
        7 => rng.usize(1..=old),
        // Mostly small again: large blocks are few in programs, and slow to check.
        8 => any_magnitude(rng, max),
        _ => any_magnitude(rng, 512),
    };
    new.clamp(1, max)
}
