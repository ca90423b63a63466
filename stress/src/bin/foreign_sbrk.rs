//! Somebody else moves the break between allocations, by any number of bytes. What `sbrk`
//! returned to them is theirs: no block may ever overlap it, and both keep what was written.
//!
//! First in a single-threaded process, then with other threads that allocate. Those pause while
//! the break moves if they may move it themselves: two callers of `sbrk` at once is what no
//! program survives.

use arenite::Arenite;
use clap::Parser;
use std::alloc::Layout;
use std::sync::{PoisonError, RwLock};
use std::thread;
use stress::intervals::Intervals;
use stress::sizes::{any_magnitude, layout};
use stress::{Block, Common, Run, Worker, fail};

#[cfg_attr(not(feature = "system"), global_allocator)]
static GLOBAL: Arenite = Arenite::new();

#[derive(Parser)]
#[command(about = "sbrk by the program itself between allocations")]
struct Args {
    #[command(flatten)]
    common: Common,
    /// Blocks at once
    #[arg(long, default_value_t = 300)]
    blocks: usize,
    /// Size of the largest block
    #[arg(long, default_value_t = 300_000)]
    max_size: usize,
    /// Bytes by which the program itself moves the break, in all
    #[arg(long, default_value_t = 256 << 20)]
    max_break: usize,
}

/// By how much the break moves.
const STEPS: [usize; 12] = [1000, 4096, 1000, 4096, 1000, 999, 1, 16, 8192, 65_536, 135_168, 1000];

/// Bytes that `sbrk` returned to this program.
struct Foreign {
    start: usize,
    len: usize,
    fill: u8,
}

/// The one thread that moves the break and allocates as well.
struct Mover<'a> {
    args: &'a Args,
    worker: Worker,
    blocks: Vec<Block>,
    foreign: Vec<Foreign>,
    foreign_bytes: usize,
    /// All of the above by address.
    taken: Intervals,
    /// Where the break is if nobody but this program may move it.
    expected_break: Option<usize>,
}

fn main() {
    let args = Args::parse();
    let run = Run::start("foreign_sbrk", &args.common, &GLOBAL);
    let mut mover = Mover {
        args: &args,
        worker: run.worker(0),
        blocks: Vec::new(),
        foreign: Vec::new(),
        foreign_bytes: 0,
        taken: Intervals::default(),
        expected_break: None,
    };
    let start = std::time::Instant::now();
    let mut steps = 0;
    let half_ops = args.common.ops.unwrap_or(u64::MAX) / 2;
    while steps < half_ops && start.elapsed().as_secs_f64() < args.common.seconds / 2.0 {
        if !mover.worker.more() {
            break;
        }
        mover.step();
        steps += 1;
    }

    // Threads that allocate hold it for reading; it is held for writing while the break moves.
    let moving = RwLock::new(());
    thread::scope(|scope| {
        for number in 1..run.threads() {
            let (worker, args, moving) = (run.worker(number), &args, &moving);
            scope.spawn(move || allocate(worker, args, moving));
        }
        // Arenite leaves the break alone as soon as there is a second thread, unless it is the
        // process's malloc: then nothing else moves it from here on.
        if !args.common.system {
            // SAFETY: it only asks.
            mover.expected_break = Some(unsafe { libc::sbrk(0) }.addr());
        }
        while mover.worker.more() {
            let guard =
                args.common.system.then(|| moving.write().unwrap_or_else(PoisonError::into_inner));
            mover.step();
            drop(guard);
        }
    });
    let kept = mover.foreign_bytes;
    mover.finish();
    println!("{kept} bytes of the break are the program's own");
    run.finish();
}

/// What the other threads do.
fn allocate(mut worker: Worker, args: &Args, moving: &RwLock<()>) {
    let mut blocks: Vec<Block> = Vec::new();
    while worker.more() {
        let guard =
            args.common.system.then(|| moving.read().unwrap_or_else(PoisonError::into_inner));
        if blocks.len() == args.blocks {
            let i = worker.rng.usize(..blocks.len());
            let block = blocks.swap_remove(i);
            worker.free(block);
        } else {
            let size = any_magnitude(&mut worker.rng, args.max_size);
            blocks.push(worker.allocate(layout(size)));
        }
        drop(guard);
    }
    let _guard = moving.read().unwrap_or_else(PoisonError::into_inner);
    worker.free_all(blocks);
}

impl Mover<'_> {
    fn step(&mut self) {
        match self.worker.rng.u8(..10) {
            0 | 1 => self.move_break_up(),
            2 if self.worker.rng.u8(..4) == 0 => self.move_break_down(),
            3..=6 if !self.blocks.is_empty() => {
                let i = self.worker.rng.usize(..self.blocks.len());
                let block = self.blocks.swap_remove(i);
                self.taken.remove(block.address());
                self.worker.free(block);
            }
            _ if self.blocks.len() < self.args.blocks => {
                let size = any_magnitude(&mut self.worker.rng, self.args.max_size);
                self.add(layout(size));
            }
            _ => {
                let i = self.worker.rng.usize(..self.foreign.len().max(1));
                self.foreign.get(i).into_iter().for_each(Foreign::check);
            }
        }
    }

    fn add(&mut self, layout: Layout) {
        let block = self.worker.allocate(layout);
        self.take(block.address(), block.size(), "block");
        self.blocks.push(block);
    }

    fn take(&mut self, start: usize, len: usize, kind: &'static str) {
        if let Err(overlap) = self.taken.insert(start, len, kind) {
            fail!("{overlap}");
        }
    }

    fn move_break_up(&mut self) {
        let len = STEPS[self.worker.rng.usize(..STEPS.len())];
        if self.foreign_bytes + len > self.args.max_break {
            return;
        }
        // SAFETY: no other thread moves the break now, see `moving`.
        let start = unsafe { libc::sbrk(len as libc::intptr_t) }.addr();
        if start == usize::MAX {
            // A mapping is in the way, or a limit.
            return;
        }
        if self.expected_break.is_some_and(|expected| start != expected) {
            fail!("with threads, the break moved to {start:#x} and not by the program");
        }
        self.expected_break = self.expected_break.map(|_| start + len);
        self.take(start, len, "break");
        let fill = self.worker.rng.u8(1..);
        let foreign = Foreign { start, len, fill };
        foreign.fill();
        self.foreign.push(foreign);
        self.foreign_bytes += len;
    }

    /// Gives the last bytes back if they are still the last.
    fn move_break_down(&mut self) {
        // SAFETY: it only asks.
        let now = unsafe { libc::sbrk(0) }.addr();
        let Some(last) = self.foreign.pop_if(|last| last.start + last.len == now) else {
            return;
        };
        last.check();
        self.taken.remove(last.start);
        self.foreign_bytes -= last.len;
        // SAFETY: the bytes up to the break are this program's own, and no longer used.
        unsafe { libc::sbrk(-(last.len as libc::intptr_t)) };
        self.expected_break = self.expected_break.map(|_| last.start);
    }

    fn finish(mut self) {
        self.worker.free_all(self.blocks);
        self.foreign.iter().for_each(Foreign::check);
    }
}

impl Foreign {
    /// The bytes themselves.
    fn bytes(&self) -> *mut u8 {
        std::ptr::with_exposed_provenance_mut(self.start)
    }

    fn fill(&self) {
        // SAFETY: `sbrk` returned these bytes.
        unsafe { self.bytes().write_bytes(self.fill, self.len) };
    }

    fn check(&self) {
        // SAFETY: `sbrk` returned these bytes, and `fill` wrote them.
        let bytes = unsafe { std::slice::from_raw_parts(self.bytes(), self.len) };
        if let Some(offset) = bytes.iter().position(|&byte| byte != self.fill) {
            fail!(
                "byte {offset} of {} that sbrk returned at {:#x} is {:#04x}, not {:#04x}",
                self.len,
                self.start,
                bytes[offset],
                self.fill
            );
        }
    }
}
