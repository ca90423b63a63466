//! `malloc_trim` with much to give back, while other threads allocate: how long they wait.

use crate::books::Books;
use crate::malloc;
use crate::report::{BOUNDS_NS, Distribution, Figure, Measured, Waits};
use crate::rss;
use crate::scenario::{Scenario, Setup, WHOLE};
use crate::source::Source;
use hdrhistogram::Histogram;
use std::alloc::{GlobalAlloc, Layout};
use std::cell::Cell;
use std::sync::Barrier;
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};
use std::thread;
use std::time::{Duration, Instant};
use stress::sizes::any_magnitude;
use stress::{Block, Target, fail};

pub const SCENARIO: Scenario = Scenario {
    name: "trim",
    about: "every second of many blocks of 64 KiB freed, then malloc_trim; two threads allocate",
    parts: WHOLE,
    address_space: None,
    run,
    judge,
};

/// Size of the blocks of which every second is freed.
const FRAGMENT: usize = 64 << 10;
/// Size of the largest block of the threads that go on.
const LARGEST: usize = 32 << 10;
/// Threads that go on, and live blocks of each.
const THREADS: usize = 2;
const BLOCKS: usize = 512;
/// Blocks replaced between two moments at which a thread leaves its CPU to whoever waits for it:
/// a thread that is out of time there is seldom out of time within a call.
const BETWEEN_YIELDS: u32 = 32;
/// Least time that calls are measured with the trim, and without.
const WINDOW: Duration = Duration::from_secs(1);

/// What goes on at the moment.
const BETWEEN: u8 = 0;
const TRIM: u8 = 1;
const CONTROL: u8 = 2;
const END: u8 = 3;

fn judge(parts: &[Measured]) -> Vec<Figure> {
    let longest = |name, of: fn(&Waits) -> &Distribution| {
        let waits = parts[0].waits.as_ref();
        let ns = waits.map_or(f64::NAN, |waits| of(waits).max_ns as f64);
        Figure::new(name, ns / 1e6, "ms")
    };
    let mut figures = vec![
        Figure::new("free in fragments", parts[0].mib("fragments_bytes"), "MiB"),
        Figure::new("back before the trim", parts[0].mib("before_trim_bytes"), "MiB"),
        Figure::new("back 1 s later", parts[0].mib("after_bytes"), "MiB"),
    ];
    // Without a trim nothing was measured that the limit is about.
    if parts[0].get("has_trim") == 1.0 {
        figures.extend([
            Figure::new("trim took", 1e3 * parts[0].get("trim_s"), "ms"),
            longest("longest wait", |waits| &waits.trim).at_most(1.0),
            longest("control", |waits| &waits.control),
        ]);
    }
    figures
}

fn run(setup: &Setup) -> Measured {
    let mut source = setup.source(THREADS);
    let count = (setup.scale.fragments_mib() << 20) / FRAGMENT;
    let (mut kept, mut fragments) = (Books::new(count), Books::new(count));
    let phase = AtomicU8::new(BETWEEN);
    let step = Barrier::new(THREADS + 1);
    let clocked: Target = Box::leak(Box::new(Clocked(setup.target)));
    thread::scope(|scope| {
        let workers: Vec<_> = (0..THREADS)
            .map(|number| {
                let source = Source::new(clocked, setup.scale.seed, number);
                let (phase, step) = (&phase, &step);
                scope.spawn(move || go_on(source, phase, step))
            })
            .collect();
        for _ in 0..count {
            fragments.push(source.allocate(FRAGMENT));
            kept.push(source.allocate(FRAGMENT));
        }
        step.wait();
        let full = rss::now();
        source.free_all(&mut fragments);
        let fragmented = rss::now();

        let start = Instant::now();
        phase.store(TRIM, Relaxed);
        let has_trim = malloc::trim();
        let trim = start.elapsed();
        // The calls that waited for it end within the window.
        let window = WINDOW.max(2 * trim);
        thread::sleep(window.saturating_sub(trim));
        phase.store(BETWEEN, Relaxed);
        let trimmed = rss::now();
        phase.store(CONTROL, Relaxed);
        thread::sleep(window);
        phase.store(END, Relaxed);

        let mut all = Times::new();
        for worker in workers {
            let Ok(times) = worker.join() else { fail!("a thread ended early") };
            all.add(&times);
        }
        source.free_all(&mut kept);
        let mut measured = Measured::default()
            .with("fragments_bytes", count * FRAGMENT)
            .with("before_trim_bytes", full as f64 - fragmented as f64)
            .with("after_bytes", full as f64 - trimmed as f64)
            .with("has_trim", f64::from(u8::from(has_trim)))
            .with("trim_s", trim.as_secs_f64())
            .with("window_s", window.as_secs_f64());
        measured.waits =
            Some(Waits { trim: distribution(&all.trim), control: distribution(&all.control) });
        measured
    })
}

/// Allocates and frees, and enters how long each call took by what went on when it began.
fn go_on(mut source: Source, phase: &AtomicU8, step: &Barrier) -> Times {
    let mut blocks: Books<Block> = Books::new(BLOCKS);
    let mut times = Times::new();
    for _ in 0..BLOCKS {
        let size = any_magnitude(&mut source.rng, LARGEST);
        blocks.push(source.allocate(size));
    }
    step.wait();
    for number in 0_u32.. {
        let now = phase.load(Relaxed);
        if now == END {
            break;
        }
        if number % BETWEEN_YIELDS == 0 {
            thread::yield_now();
        }
        let place = source.rng.usize(..BLOCKS);
        let size = any_magnitude(&mut source.rng, LARGEST);
        let block = source.allocate(size);
        times.enter(now);
        let old = std::mem::replace(&mut blocks[place], block);
        let now = phase.load(Relaxed);
        source.free(old);
        times.enter(now);
    }
    source.free_all(&mut blocks);
    times
}

/// How long calls took.
struct Times {
    trim: Histogram<u64>,
    control: Histogram<u64>,
}

impl Times {
    /// Both have their memory from the start: entering a time allocates nothing.
    fn new() -> Self {
        // Ten minutes, with three digits.
        let new = || Histogram::new_with_bounds(1, 600_000_000_000, 3);
        let [Ok(trim), Ok(control)] = [new(), new()] else { fail!("no histogram") };
        Self { trim, control }
    }

    /// Enters the time of the last call.
    fn enter(&mut self, phase: u8) {
        match phase {
            TRIM => self.trim.saturating_record(LAST_CALL_NS.get()),
            CONTROL => self.control.saturating_record(LAST_CALL_NS.get()),
            _ => {}
        }
    }

    fn add(&mut self, other: &Self) {
        if self.trim.add(&other.trim).is_err() || self.control.add(&other.control).is_err() {
            fail!("histograms of different ranges");
        }
    }
}

fn distribution(times: &Histogram<u64>) -> Distribution {
    let mut histogram = vec![0; BOUNDS_NS.len() + 1];
    for step in times.iter_recorded() {
        let bin = BOUNDS_NS.partition_point(|&bound| bound <= step.value_iterated_to());
        histogram[bin] += step.count_since_last_iteration();
    }
    Distribution {
        calls: times.len(),
        p50_ns: times.value_at_quantile(0.5),
        p99_ns: times.value_at_quantile(0.99),
        p999_ns: times.value_at_quantile(0.999),
        max_ns: times.max(),
        histogram,
    }
}

thread_local! {
    /// How long the thread's last call of a [`Clocked`] allocator took.
    static LAST_CALL_NS: Cell<u64> = const { Cell::new(0) };
}

/// An allocator that takes the time of each call.
struct Clocked(Target);

// SAFETY: the allocator inside keeps the contract.
unsafe impl GlobalAlloc for Clocked {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's promise.
        timed(|| unsafe { self.0.alloc(layout) })
    }

    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's promise.
        timed(|| unsafe { self.0.dealloc(block, layout) });
    }
}

fn timed<T>(call: impl FnOnce() -> T) -> T {
    let start = Instant::now();
    let result = call();
    LAST_CALL_NS.set(start.elapsed().as_nanos() as u64);
    result
}
