//! Thousands of short-lived threads, started and joined in batches. Each allocates, frees what
//! threads before it left, leaves blocks behind, and allocates and frees once more while it
//! ends: in a destructor of thread-specific data.

use arenite::Arenite;
use clap::Parser;
use std::ffi::c_void;
use std::thread;
use stress::run::{checked, mib, rss, target};
use stress::sizes::{any_magnitude, layout};
use stress::{Block, Common, Run, Worker, fail};

#[cfg_attr(not(feature = "system"), global_allocator)]
static GLOBAL: Arenite = Arenite::new();

#[derive(Parser)]
#[command(about = "Short-lived threads; --threads is how many live at once [default: 50], \
                   --ops how many there are in all")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Blocks that a thread leaves behind
    #[arg(long, default_value_t = 100)]
    leave: usize,
    /// Size of the largest block
    #[arg(long, default_value_t = 4096)]
    max_size: usize,
    /// The main thread frees what threads leave, not the threads of the next batch
    #[arg(long)]
    main_frees: bool,
    /// It is a violation if resident memory after the last thread is more than this many times
    /// that after the first 100
    #[arg(long, value_name = "FACTOR")]
    max_growth: Option<f64>,
}

fn main() {
    let mut args = Args::parse();
    args.common.threads = args.common.threads.or(Some(50));
    let run = Run::start("thread_churn", &args.common, &GLOBAL);
    let key = farewell_key();

    // Its operations are the threads of the run.
    let mut main = run.worker(0);
    let mut left: Vec<Vec<Block>> = Vec::new();
    let mut threads = 0;
    let mut rss_at_100 = None;
    loop {
        let batch: Vec<Worker> = (0..run.threads())
            .map_while(|i| main.more().then(|| run.worker(1 + threads + i)))
            .collect();
        if batch.is_empty() {
            break;
        }
        threads += batch.len();
        left = thread::scope(|scope| {
            let mut inherited = left.into_iter();
            let batch: Vec<_> = batch
                .into_iter()
                .map(|worker| {
                    let (inherited, args) = (inherited.next().unwrap_or_default(), &args);
                    scope.spawn(move || live(worker, args, inherited, key))
                })
                .collect();
            // Only if this batch is a shorter one.
            main.free_all(inherited.flatten());
            let left = batch.into_iter().map(|thread| thread.join());
            left.map(|left| left.expect("no thread panicked")).collect()
        });
        if args.main_frees {
            main.free_all(left.drain(..).flatten());
        }
        if threads >= 100 {
            rss_at_100.get_or_insert_with(rss);
        }
    }
    main.free_all(left.into_iter().flatten());

    if let Some(first) = rss_at_100 {
        let (last, first) = (mib(rss()), mib(first));
        println!("RSS after the first 100 threads {first:.1} MiB, after {threads} {last:.1} MiB");
        if args.max_growth.is_some_and(|factor| last > first * factor) {
            fail!("resident memory grew from {first:.1} to {last:.1} MiB");
        }
    }
    drop(main);
    run.finish();
}

/// The life of one thread: what it leaves.
fn live(
    mut worker: Worker,
    args: &Args,
    inherited: Vec<Block>,
    key: libc::pthread_key_t,
) -> Vec<Block> {
    let mut blocks = Vec::new();
    for block in inherited {
        let size = any_magnitude(&mut worker.rng, args.max_size);
        blocks.push(worker.allocate(layout(size)));
        worker.free(block);
    }
    while blocks.len() < 2 * args.leave {
        let size = any_magnitude(&mut worker.rng, args.max_size);
        blocks.push(worker.allocate(layout(size)));
    }
    worker.rng.shuffle(&mut blocks);
    worker.free_all(blocks.drain(args.leave..));

    let last = Box::new(worker.allocate(layout(100)));
    // SAFETY: the key is valid; its destructor takes back exactly such a box.
    unsafe { libc::pthread_setspecific(key, Box::into_raw(last).cast()) };
    blocks
}

/// A key whose destructor runs after the allocator's own, which was made before it: the thread
/// has given its cache up by then.
fn farewell_key() -> libc::pthread_key_t {
    let mut key = 0;
    // SAFETY: the destructor has the right type and stays where it is.
    let result = unsafe { libc::pthread_key_create(&mut key, Some(farewell)) };
    assert_eq!(result, 0);
    key
}

unsafe extern "C" fn farewell(last: *mut c_void) {
    // SAFETY: the value of the key is such a box, and this is its only use.
    let mut last = unsafe { Box::from_raw(last.cast::<Block>()) };
    let late = checked(Block::allocate(target(), layout(200), u64::MAX));
    checked(last.resize(target(), 5000));
    checked(last.free(target()));
    late.into_iter().for_each(|late| checked(late.free(target())));
}
