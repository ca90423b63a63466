//! One run of a stress binary, from its arguments to its last line.

use crate::sabotage::{Sabotage, Saboteur};
use crate::{Block, Target, Violation, child, fail};
use fastrand::Rng;
use std::alloc::{Layout, System};
use std::fs;
use std::sync::OnceLock;
use std::sync::atomic::Ordering::Relaxed;
use std::sync::atomic::{AtomicBool, AtomicI64, AtomicU64};
use std::thread;
use std::time::{Duration, Instant};

/// The arguments that every binary takes.
#[derive(Debug, Clone, clap::Args)]
pub struct Common {
    /// Threads at work [default: two per CPU, at least 4]
    #[arg(long, value_name = "N")]
    pub threads: Option<usize>,
    /// How long to run
    #[arg(long, value_name = "S", default_value_t = 5.0)]
    pub seconds: f64,
    /// Where the random numbers begin
    #[arg(long, value_name = "X", default_value_t = 1)]
    pub seed: u64,
    /// Fixed work instead of a fixed time: operations per thread
    #[arg(long, value_name = "N")]
    pub ops: Option<u64>,
    /// Test the system's malloc, or what is preloaded in its place, instead of Arenite
    #[arg(long)]
    pub system: bool,
    /// Seconds without any progress that count as a hang
    #[arg(long, value_name = "S", default_value_t = 60)]
    pub hang_after: u64,
    /// Break the allocator, to see it found
    #[arg(long, hide = true)]
    pub sabotage: Option<Sabotage>,
}

/// The allocator under test, for code that has no [`Worker`] at hand.
static TARGET: OnceLock<Target> = OnceLock::new();
/// Operations done by all workers, counted in steps of [`COUNT_EVERY`].
static DONE: AtomicU64 = AtomicU64::new(0);
/// No worker shall begin another operation.
static STOP: AtomicBool = AtomicBool::new(false);

/// How many operations a worker does between two additions to the common count.
const COUNT_EVERY: u64 = 64;
/// Milliseconds from one look of the watchdog to the next.
const TICK: i64 = 50;

/// Looks of the watchdog that are left until the end of the run.
static TICKS_LEFT: AtomicI64 = AtomicI64::new(0);
/// Looks of the watchdog without progress that are a hang.
static PATIENCE: AtomicI64 = AtomicI64::new(0);
/// Looks since the count last moved.
static IDLE: AtomicI64 = AtomicI64::new(0);
/// The count at the last look.
static SEEN: AtomicU64 = AtomicU64::new(0);

/// The watchdog: a timer's signal and not a thread, so that a program can be single-threaded
/// and so that a hung allocator can not keep it from looking.
extern "C" fn tick(_: libc::c_int) {
    if TICKS_LEFT.fetch_sub(1, Relaxed) <= 0 {
        STOP.store(true, Relaxed);
    }
    let done = DONE.load(Relaxed);
    if SEEN.swap(done, Relaxed) != done {
        IDLE.store(0, Relaxed);
    } else if IDLE.fetch_add(1, Relaxed) >= PATIENCE.load(Relaxed) {
        child::kill_all();
        let seconds = PATIENCE.load(Relaxed) * TICK / 1000;
        fail!("hang: no thread got on for {seconds} s");
    }
}

/// Makes `signal` call `handler`, and a timer send it.
///
/// `which` is one of the process's interval timers.
pub fn every_so_often(
    which: libc::c_int,
    signal: libc::c_int,
    interval: Duration,
    handler: extern "C" fn(libc::c_int),
) {
    let interval = libc::timeval {
        tv_sec: interval.as_secs() as libc::time_t,
        tv_usec: libc::suseconds_t::from(interval.subsec_micros() as i32),
    };
    let timer = libc::itimerval { it_interval: interval, it_value: interval };
    // SAFETY: all zero is a valid sigaction; the handlers passed here are safe in a signal.
    unsafe {
        let mut action: libc::sigaction = std::mem::zeroed();
        action.sa_sigaction = handler as *const () as usize;
        action.sa_flags = libc::SA_RESTART;
        assert_eq!(libc::sigaction(signal, &action, std::ptr::null_mut()), 0);
        assert_eq!(setitimer(which, &timer, std::ptr::null_mut()), 0);
    }
}

unsafe extern "C" {
    /// Not in the `libc` crate for Linux.
    fn setitimer(
        which: libc::c_int,
        new: *const libc::itimerval,
        old: *mut libc::itimerval,
    ) -> libc::c_int;
}

/// One run.
pub struct Run {
    name: &'static str,
    common: Common,
    start: Instant,
    target: Target,
}

impl Run {
    /// Starts the clock and the watchdog. One run a process.
    pub fn start(name: &'static str, common: &Common, arenite: Target) -> Self {
        let mut target = if common.system { &System } else { arenite };
        if let Some(how) = common.sabotage {
            target = Box::leak(Box::new(Saboteur::new(target, how)));
        }
        assert!(TARGET.set(target).is_ok(), "one run a process");
        let run_ticks = match common.ops {
            None => (common.seconds * 1000.0) as i64 / TICK,
            Some(_) => i64::MAX,
        };
        TICKS_LEFT.store(run_ticks, Relaxed);
        PATIENCE.store(common.hang_after as i64 * 1000 / TICK, Relaxed);
        let interval = Duration::from_millis(TICK as u64);
        every_so_often(libc::ITIMER_REAL, libc::SIGALRM, interval, tick);
        Self { name, common: common.clone(), start: Instant::now(), target }
    }

    /// How many threads work.
    pub fn threads(&self) -> usize {
        let cpus = || thread::available_parallelism().map_or(2, |n| n.get());
        let threads = self.common.threads;
        threads.unwrap_or_else(|| (2 * cpus()).max(4)).max(1)
    }

    /// One worker for each thread.
    pub fn workers(&self) -> impl Iterator<Item = Worker> {
        (0..self.threads()).map(|number| self.worker(number))
    }

    /// Worker `number`. Its random numbers follow from the seed and the number.
    pub fn worker(&self, number: usize) -> Worker {
        let seed = self.common.seed.wrapping_mul(0x9e37_79b9_7f4a_7c15);
        Worker {
            rng: Rng::with_seed(seed.wrapping_add(number as u64)),
            target: self.target,
            // Ids of different workers never meet.
            next_id: (number as u64) << 40,
            done: 0,
            budget: self.common.ops.unwrap_or(u64::MAX),
        }
    }

    /// How long a child may take before it counts as hung.
    pub fn patience(&self) -> Duration {
        Duration::from_secs(self.common.hang_after)
    }

    /// The last line. Whoever gets here found nothing wrong.
    pub fn finish(self) {
        let seconds = self.start.elapsed().as_secs_f64();
        let done = DONE.load(Relaxed);
        println!(
            "{}: {done} operations in {seconds:.2} s, {:.0} operations/s, peak RSS {:.1} MiB, \
             no violation",
            self.name,
            done as f64 / seconds,
            mib(peak_rss()),
        );
    }
}

/// The allocator under test; the run has started.
pub fn target() -> Target {
    *TARGET.get().expect("the run has started")
}

/// The time is up.
pub fn stopped() -> bool {
    STOP.load(Relaxed)
}

/// One thread's part of the run: its random numbers, its blocks' ids, its operations.
pub struct Worker {
    /// The thread's random numbers.
    pub rng: Rng,
    target: Target,
    next_id: u64,
    done: u64,
    budget: u64,
}

impl Worker {
    /// Counts an operation that now begins; false if there shall be none.
    pub fn more(&mut self) -> bool {
        let more = !self.enough();
        if more {
            self.count();
        }
        more
    }

    /// The worker has done all it should.
    pub fn enough(&self) -> bool {
        self.done >= self.budget || stopped()
    }

    /// Counts an operation, one more than asked for if need be.
    pub fn count(&mut self) {
        self.done += 1;
        if self.done.is_multiple_of(COUNT_EVERY) {
            DONE.fetch_add(COUNT_EVERY, Relaxed);
        }
    }

    /// Allocates a block, which has to succeed.
    pub fn allocate(&mut self, layout: Layout) -> Block {
        self.try_allocate(layout).unwrap_or_else(|| fail!("no memory for {} bytes", layout.size()))
    }

    /// Allocates a block if there is memory.
    pub fn try_allocate(&mut self, layout: Layout) -> Option<Block> {
        let id = self.id();
        checked(Block::allocate(self.target, layout, id))
    }

    /// Allocates a zeroed block if there is memory.
    pub fn try_allocate_zeroed(&mut self, layout: Layout) -> Option<Block> {
        let id = self.id();
        checked(Block::allocate_zeroed(self.target, layout, id))
    }

    /// Checks, resizes and checks a block; false if there is no memory.
    pub fn try_resize(&mut self, block: &mut Block, size: usize) -> bool {
        checked(block.resize(self.target, size))
    }

    /// Checks and frees a block.
    pub fn free(&mut self, block: Block) {
        checked(block.free(self.target));
    }

    /// Checks and frees blocks.
    pub fn free_all(&mut self, blocks: impl IntoIterator<Item = Block>) {
        blocks.into_iter().for_each(|block| self.free(block));
    }

    fn id(&mut self) -> u64 {
        self.next_id += 1;
        self.next_id
    }
}

impl Drop for Worker {
    fn drop(&mut self) {
        DONE.fetch_add(self.done % COUNT_EVERY, Relaxed);
    }
}

/// The value, or the end of the process.
pub fn checked<T>(found: Result<T, Violation>) -> T {
    found.unwrap_or_else(|violation| fail!("{violation}"))
}

/// Bytes as MiB.
pub fn mib(bytes: usize) -> f64 {
    bytes as f64 / f64::from(1 << 20)
}

/// The most memory the process had resident, in bytes.
///
/// The kernel's own mark, as `getrusage` gives a maximum that exec does not reset: under
/// `cargo run` it would be cargo's. `getrusage` serves where the mark is not to be had.
pub fn peak_rss() -> usize {
    status("VmHWM:").unwrap_or_else(|| {
        // SAFETY: all zero is a valid rusage, and the call only writes to it.
        let usage = unsafe {
            let mut usage = std::mem::zeroed();
            libc::getrusage(libc::RUSAGE_SELF, &mut usage);
            usage
        };
        usage.ru_maxrss as usize * 1024
    })
}

/// The memory the process has resident now, in bytes.
pub fn rss() -> usize {
    status("VmRSS:").unwrap_or(0)
}

/// A field of /proc/self/status that the kernel gives in kB, in bytes.
pub fn status(field: &str) -> Option<usize> {
    let status = fs::read_to_string("/proc/self/status").ok()?;
    let value = status.lines().find_map(|line| line.strip_prefix(field))?;
    let kib: usize = value.trim().strip_suffix(" kB")?.parse().ok()?;
    Some(kib * 1024)
}
