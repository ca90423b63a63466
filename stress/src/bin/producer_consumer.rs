//! Producers allocate, consumers free: every block is freed by a thread that did not allocate
//! it. Some are resized there first.

use arenite::Arenite;
use clap::Parser;
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::thread;
use stress::sizes::{any_magnitude, layout};
use stress::{Block, Common, Run, Worker, fail};

#[cfg_attr(not(feature = "system"), global_allocator)]
static GLOBAL: Arenite = Arenite::new();

#[derive(Parser)]
#[command(about = "Blocks that are freed by another thread than allocated them")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Blocks that go over at once
    #[arg(long, default_value_t = 50)]
    batch: usize,
    /// Batches that wait for a consumer at most
    #[arg(long, default_value_t = 20)]
    queue: usize,
    /// Size of the largest block
    #[arg(long, default_value_t = 8192)]
    max_size: usize,
}

fn main() {
    let args = Args::parse();
    let run = Run::start("producer_consumer", &args.common, &GLOBAL);
    let producers = run.threads().div_ceil(2);
    let consumers = (run.threads() / 2).max(1);
    let (senders, receivers): (Vec<_>, Vec<_>) =
        (0..consumers).map(|_| sync_channel(args.queue)).unzip();
    thread::scope(|scope| {
        for number in 0..producers {
            let (worker, senders, args) = (run.worker(number), senders.clone(), &args);
            scope.spawn(move || produce(worker, args, &senders));
        }
        for (number, receiver) in receivers.into_iter().enumerate() {
            let worker = run.worker(producers + number);
            scope.spawn(move || consume(worker, receiver));
        }
        // The consumers end when the last producer has.
        drop(senders);
    });
    run.finish();
}

/// Allocates batches, for one consumer after the other.
fn produce(mut worker: Worker, args: &Args, consumers: &[SyncSender<Vec<Block>>]) {
    let mut batch = Vec::new();
    let mut next = worker.rng.usize(..consumers.len());
    while worker.more() {
        let size = any_magnitude(&mut worker.rng, args.max_size);
        batch.push(worker.allocate(layout(size)));
        if batch.len() == args.batch {
            let full = std::mem::take(&mut batch);
            consumers[next].send(full).expect("consumers end last");
            next = (next + 1) % consumers.len();
        }
    }
    worker.free_all(batch);
}

/// Frees what comes, out of order: a part of each batch stays until the next.
fn consume(mut worker: Worker, batches: Receiver<Vec<Block>>) {
    let mut kept = Vec::new();
    for mut batch in batches {
        worker.rng.shuffle(&mut batch);
        let keep = worker.rng.usize(..=batch.len() / 4);
        worker.free_all(kept.drain(..));
        kept.extend(batch.drain(..keep));
        if let Some(block) = batch.first_mut()
            && !worker.try_resize(block, 2 * block.size())
        {
            fail!("no memory to resize");
        }
        worker.free_all(batch);
    }
    worker.free_all(kept);
}
