//! Classic allocator workloads on the process's malloc, which LD_PRELOAD chooses: fixed work, the
//! same sizes and lifetimes every time, blocks touched at their ends only, so that the allocator
//! is most of what is measured. (The stress binaries fill and check every byte instead.)

mod block;
mod patterns;

use clap::{Parser, ValueEnum};
use std::thread;

#[derive(Parser)]
#[command(about = "A classic allocator workload on the process's malloc")]
struct Args {
    /// The workload
    name: Name,
    /// Threads
    #[arg(long, default_value_t = 1, value_parser = clap::value_parser!(u64).range(1..=1024))]
    threads: u64,
    /// Blocks that each thread allocates, about
    #[arg(long, default_value_t = 1_000_000)]
    ops: u64,
}

/// The workloads.
#[derive(Clone, Copy, ValueEnum)]
enum Name {
    /// A server: threads replace random blocks, end, and leave their blocks to a successor
    Larson,
    /// Many sizes: all allocated, then all freed, in three orders
    Burst,
    /// Every block is freed by the next thread of a ring
    HandOff,
    /// Sizes to 16 KiB of any magnitude, random lifetimes
    Mixed,
    /// Small blocks, random lifetimes
    Small,
    /// Sizes and lifetimes of a Pareto distribution: most small and short-lived, few the opposite
    Pareto,
    /// Blocks of one cache line's neighbours, written by different threads (Hoard's cache-scratch)
    CacheScratch,
    /// Blocks of 64 KiB to 4 MiB
    Large,
    /// Batches of blocks of 256 KiB to 4 MiB, written, then all freed
    Batches,
    /// calloc to 8 KiB
    Calloc,
    /// Buffers that grow by realloc, several at a time
    Realloc,
    /// Many threads, each with little to do
    Threads,
}

fn main() {
    let args = Args::parse();
    let threads = args.threads as usize;
    match args.name {
        Name::Larson => patterns::larson(threads, args.ops),
        Name::HandOff => patterns::hand_off(threads, args.ops),
        Name::CacheScratch => patterns::cache_scratch(threads, args.ops),
        Name::Threads => patterns::threads(threads, args.ops),
        Name::Burst => each(threads, |rng| patterns::burst(rng, args.ops)),
        Name::Mixed => each(threads, |rng| patterns::replace(rng, args.ops, 2000, 16 << 10)),
        Name::Small => each(threads, |rng| patterns::replace(rng, args.ops, 10_000, 128)),
        Name::Pareto => each(threads, |rng| patterns::pareto(rng, args.ops)),
        Name::Large => each(threads, |rng| patterns::large(rng, args.ops)),
        Name::Batches => each(threads, |rng| patterns::batches(rng, args.ops)),
        Name::Calloc => each(threads, |rng| patterns::calloc(rng, args.ops)),
        Name::Realloc => each(threads, |rng| patterns::realloc(rng, args.ops)),
    }
}

/// Runs `work` on so many threads, each with random numbers of its own.
fn each(threads: usize, work: impl Fn(fastrand::Rng) + Sync) {
    thread::scope(|scope| {
        for thread in 0..threads {
            let work = &work;
            scope.spawn(move || work(patterns::random(thread)));
        }
    });
}
