//! Memory runs out, again and again: under a limit that the program sets itself. Requests then
//! give null and ENOMEM, what was allocated keeps its contents, and after frees the allocator
//! goes on.

use arenite::Arenite;
use clap::Parser;
use std::io;
use std::sync::Barrier;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicUsize};
use std::thread;
use stress::run::{mib, status};
use stress::sizes::{aligned, layout};
use stress::{Block, Common, Run, Worker, fail};

#[cfg_attr(not(feature = "system"), global_allocator)]
static GLOBAL: Arenite = Arenite::new();

#[derive(Parser)]
#[command(about = "Out of memory under a limit on the address space; ends after whole passes")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Address space that the program leaves itself, in MiB
    #[arg(long, value_name = "MIB", default_value_t = 128)]
    limit: usize,
}

/// What a pass fills the memory with, one size after the other; large blocks again and again
/// where small ones were.
const SIZES: [usize; 15] = [
    1 << 20,
    16,
    40_000,
    100,
    5 << 20,
    2048,
    256,
    200_000,
    48,
    16_384,
    16 << 20,
    1000,
    4096,
    130_000,
    10_000,
];

/// What the threads share. They take each step together.
struct Pass {
    limit: usize,
    step: Barrier,
    /// Blocks there were when memory ran out.
    blocks: AtomicUsize,
    /// Another pass begins.
    more: AtomicBool,
}

fn main() {
    let args = Args::parse();
    let run = Run::start("oom", &args.common, &GLOBAL);
    let pass = Pass {
        limit: args.limit << 20,
        step: Barrier::new(run.threads()),
        blocks: AtomicUsize::new(0),
        more: AtomicBool::new(true),
    };
    // The first line also gives stdout its buffer, before memory runs out.
    println!("blocks until {} MiB are full:", args.limit);
    thread::scope(|scope| {
        for (number, worker) in run.workers().enumerate() {
            let pass = &pass;
            scope.spawn(move || exhaust(worker, number == 0, pass));
        }
    });
    run.finish();
}

/// One thread's part. One of them leads: it does what is done once.
fn exhaust(mut worker: Worker, leads: bool, pass: &Pass) {
    // The books come before the limit: address space only, until there are blocks to enter. The
    // allocator may have some of its own from before the limit, hence a multiple of it.
    let mut blocks = Vec::with_capacity((2 * pass.limit + (64 << 20)) / SIZES[1]);
    pass.step.wait();
    if leads {
        limit_address_space(pass.limit);
    }
    pass.step.wait();
    let mut first = leads;
    while pass.more.load(Relaxed) {
        for size in SIZES {
            fill(&mut worker, size, &mut blocks);
            refuse(&mut worker, pass.limit, blocks.last_mut());
            pass.blocks.fetch_add(blocks.len(), Relaxed);
            pass.step.wait();

            if leads {
                let blocks = pass.blocks.swap(0, Relaxed);
                if first {
                    let filled = mib(blocks * size);
                    println!("{size:9} bytes: {blocks:8} blocks, {filled:4.0} MiB");
                }
                if blocks == 0 {
                    fail!("not one block of {size} bytes, with nothing else allocated");
                }
            }
            worker.rng.shuffle(&mut blocks);
            let freed = blocks.len().div_ceil(2);
            worker.free_all(blocks.drain(..freed));
            pass.step.wait();

            // Half of what every thread just freed has to be there again for all of them.
            for _ in 0..freed / 2 {
                worker.count();
                blocks.push(worker.allocate(layout(size)));
            }
            worker.free_all(blocks.drain(..));
            pass.step.wait();
        }
        if leads {
            first = false;
            pass.more.store(!worker.enough(), Relaxed);
        }
        pass.step.wait();
    }
}

/// Allocates until there is no memory.
fn fill(worker: &mut Worker, size: usize, blocks: &mut Vec<Block>) {
    let zeroed = worker.rng.bool();
    loop {
        worker.count();
        clear_errno();
        let block = if zeroed {
            worker.try_allocate_zeroed(layout(size))
        } else {
            worker.try_allocate(layout(size))
        };
        let Some(block) = block else {
            return expect_enomem("allocate");
        };
        if blocks.len() == blocks.capacity() {
            fail!("the limit on the address space does not hold");
        }
        blocks.push(block);
    }
}

/// Asks for what can not be had; `block` stays as it is.
fn refuse(worker: &mut Worker, limit: usize, block: Option<&mut Block>) {
    clear_errno();
    if worker.try_allocate(layout(isize::MAX as usize - 15)).is_some() {
        fail!("all of the address space in one block");
    }
    expect_enomem("allocate all there is");
    if worker.try_allocate(aligned(16, 1 << 46)).is_some() {
        fail!("a block aligned to half of the address space");
    }
    if let Some(block) = block {
        clear_errno();
        if worker.try_resize(block, 4 * limit) {
            fail!("the limit on the address space does not hold");
        }
        expect_enomem("resize");
    }
}

fn clear_errno() {
    // SAFETY: the thread's own errno.
    unsafe { *libc::__errno_location() = 0 };
}

fn expect_enomem(what: &str) {
    let error = io::Error::last_os_error();
    if error.raw_os_error() != Some(libc::ENOMEM) {
        fail!("no memory to {what}, but errno is not ENOMEM: {error:?}");
    }
}

/// Leaves the process `limit` bytes of address space beyond what it has.
fn limit_address_space(limit: usize) {
    let now = status("VmSize:").expect("the kernel says how large the process is");
    let limit =
        libc::rlimit { rlim_cur: (now + limit) as libc::rlim_t, rlim_max: libc::RLIM_INFINITY };
    // SAFETY: the limit is a valid rlimit.
    if unsafe { libc::setrlimit(libc::RLIMIT_AS, &limit) } != 0 {
        fail!("setrlimit: {}", io::Error::last_os_error());
    }
}
