//! Every alignment with every size: zeroed or not, resized, freed by the next thread. With
//! --system also blocks of size 0, which C's functions give and Rust's do not.

use arenite::Arenite;
use clap::Parser;
use fastrand::Rng;
use std::alloc::Layout;
use std::collections::HashSet;
use std::ffi::c_void;
use std::sync::Mutex;
use std::thread;
use stress::sizes::{aligned, any_magnitude};
use stress::{Block, Common, Run, Worker, fail};

#[cfg_attr(not(feature = "system"), global_allocator)]
static GLOBAL: Arenite = Arenite::new();

#[derive(Parser)]
#[command(about = "All alignments, all sizes, zeroed or not")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Blocks that a thread has
    #[arg(long, default_value_t = 100)]
    blocks: usize,
    /// The largest alignment
    #[arg(long, default_value_t = 32 << 20)]
    max_align: usize,
    /// Size of the largest block
    #[arg(long, default_value_t = 4 << 20)]
    max_size: usize,
}

fn main() {
    let args = Args::parse();
    let run = Run::start("alignment_mix", &args.common, &GLOBAL);
    let swap = Mutex::new(Vec::new());
    thread::scope(|scope| {
        for worker in run.workers() {
            scope.spawn(|| align(worker, &args, &swap));
        }
    });
    let last = swap.into_inner().expect("no thread panicked");
    run.worker(run.threads()).free_all(last);
    run.finish();
}

fn align(mut worker: Worker, args: &Args, swap: &Mutex<Vec<Block>>) {
    let mut blocks = Vec::new();
    while worker.more() {
        if blocks.len() < args.blocks {
            let layout = any_layout(&mut worker.rng, args);
            let block = if worker.rng.bool() {
                worker.try_allocate(layout)
            } else {
                worker.try_allocate_zeroed(layout)
            };
            blocks.push(block.unwrap_or_else(|| fail!("no memory for {layout:?}")));
            continue;
        }
        let i = worker.rng.usize(..blocks.len());
        if worker.rng.u8(..4) == 0 {
            let size = any_magnitude(&mut worker.rng, args.max_size);
            if !worker.try_resize(&mut blocks[i], size) {
                fail!("no memory to resize to {size} bytes");
            }
        } else {
            let block = blocks.swap_remove(i);
            worker.free(block);
        }
        if worker.rng.u8(..) == 0 {
            std::mem::swap(&mut blocks, &mut swap.lock().expect("no thread panicked"));
            if args.common.system {
                nothing(&mut worker.rng, args.max_align);
            }
        }
    }
    worker.free_all(blocks);
}

/// Small alignments mostly, as large ones cost address space, and now and then a large block.
fn any_layout(rng: &mut Rng, args: &Args) -> Layout {
    let max_align = if rng.u8(..8) == 0 { args.max_align } else { args.max_align.min(8192) };
    let max_size = if rng.u8(..8) == 0 { args.max_size } else { args.max_size.min(20_000) };
    let align = 1 << rng.u32(0..=max_align.ilog2());
    aligned(any_magnitude(rng, max_size), align)
}

/// Blocks of size 0 from C's functions: valid, aligned, no two the same.
fn nothing(rng: &mut Rng, max_align: usize) {
    let mut blocks = HashSet::new();
    for _ in 0..20 {
        let align = 1 << rng.u32(4..=max_align.ilog2());
        // SAFETY: all of these take any size; posix_memalign writes to `aligned` only.
        let block: *mut c_void = unsafe {
            match rng.u8(..3) {
                0 => libc::malloc(0),
                1 => libc::calloc(0, 8),
                _ => {
                    let mut block = std::ptr::null_mut();
                    libc::posix_memalign(&mut block, align, 0);
                    if !block.addr().is_multiple_of(align) {
                        fail!("empty block {block:p} is not aligned to {align}");
                    }
                    block
                }
            }
        };
        if block.is_null() || !blocks.insert(block) {
            fail!("empty block {block:p} is null or there twice");
        }
    }
    for block in blocks {
        // SAFETY: each was allocated above and is freed once.
        unsafe { libc::free(block) };
    }
}
