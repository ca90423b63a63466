//! The workloads, run in a process of their own under valgrind.

use benches::blocks::{layout, random_layouts};
use benches::for_each_allocator;
use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{CStr, c_void};
use std::hint::black_box;
use std::mem::transmute;
use std::ptr;

/// Blocks alive at the peak of the workload `burst`.
const BURST: u64 = 500;
/// Random sizes of the workload `mixed`, taken in turn.
const SIZES: usize = 1000;
/// Pairs before those that are counted, so that caches are warm; the same in both runs.
const WARM_UP: u64 = 5000;

/// What is counted: names on the command line.
pub const WORKLOADS: [&str; 4] = ["fixed", "sized", "mixed", "burst"];

/// No allocator: what remains is the loop.
struct Nothing;

// SAFETY: never used for memory: the workloads do not touch their blocks.
unsafe impl GlobalAlloc for Nothing {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        ptr::without_provenance_mut(layout.align())
    }

    #[inline(always)]
    unsafe fn dealloc(&self, _: *mut u8, _: Layout) {}
}

/// `malloc` and `free` of the process. Its frees do not tell the size.
struct C;

// SAFETY: `malloc`'s blocks hold the size at 16 bytes' alignment, which no layout here exceeds.
unsafe impl GlobalAlloc for C {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: `malloc` may always be called.
        unsafe { libc::malloc(layout.size()).cast() }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller's contract: the block is `malloc`'s.
        unsafe { libc::free(block.cast()) }
    }
}

/// `malloc` and C23's `free_sized` of a preloaded library.
struct CSized(unsafe extern "C" fn(*mut c_void, usize));

// SAFETY: as for `C`.
unsafe impl GlobalAlloc for CSized {
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: `malloc` may always be called.
        unsafe { libc::malloc(layout.size()).cast() }
    }

    #[inline(always)]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract: the block is `malloc`'s, of this size.
        unsafe { (self.0)(block.cast(), layout.size()) }
    }
}

/// Runs PATH ALLOCATOR WORKLOAD PAIRS; ends with status 3 where there is no such thing.
pub fn run(job: &[String]) {
    let [path, allocator, workload, pairs] = job else { unreachable!("clap counts the values") };
    let Ok(pairs) = pairs.parse() else { std::process::exit(2) };
    let mut job = Job { allocator, workload, pairs, done: false };
    match path.as_str() {
        "loop" => job.run(allocator, &Nothing),
        "rust" => for_each_allocator!(run_if_named, &mut job),
        "c" if workload == "sized" => {
            if let Some(free) = free_sized(c"free_sized") {
                job.run(allocator, &CSized(free));
            }
        }
        "c" => job.run(allocator, &C),
        _ => {}
    }
    if !job.done {
        std::process::exit(3);
    }
}

/// The function of this name, if a library of the process has it.
fn free_sized(name: &CStr) -> Option<unsafe extern "C" fn(*mut c_void, usize)> {
    // SAFETY: the name ends with NUL.
    let symbol = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    // SAFETY: `free_sized` has this type in C23.
    (!symbol.is_null()).then(|| unsafe {
        transmute::<*mut c_void, unsafe extern "C" fn(*mut c_void, usize)>(symbol)
    })
}

struct Job<'a> {
    allocator: &'a str,
    workload: &'a str,
    pairs: u64,
    done: bool,
}

fn run_if_named<A: GlobalAlloc>(name: &str, allocator: &A, job: &mut Job) {
    job.run(name, allocator);
}

impl Job<'_> {
    #[inline(never)]
    fn run<A: GlobalAlloc>(&mut self, name: &str, allocator: &A) {
        if name != self.allocator {
            return;
        }
        let workload: fn(&A, u64) = match self.workload {
            "fixed" => fixed::<A>,
            "sized" => sized::<A>,
            "mixed" => mixed::<A>,
            "burst" => burst::<A>,
            _ => return,
        };
        workload(allocator, WARM_UP);
        workload(allocator, self.pairs);
        self.done = true;
    }
}

/// A pair that the optimiser can not see through. Blocks are not touched.
#[inline(always)]
fn pair<A: GlobalAlloc>(allocator: &A, layout: Layout) {
    // SAFETY: no size is 0; the block is freed once, with its layout. Memory does not run out
    // with one block alive; if it did, the null pointer would show as a crash.
    unsafe { allocator.dealloc(black_box(allocator.alloc(layout)), layout) }
}

/// 64 bytes, a size that the compiler does not know.
#[inline(never)]
fn fixed<A: GlobalAlloc>(allocator: &A, pairs: u64) {
    for _ in 0..pairs {
        pair(allocator, black_box(layout(64)));
    }
}

/// 64 bytes, known to the compiler when it allocates and when it frees.
#[inline(never)]
fn sized<A: GlobalAlloc>(allocator: &A, pairs: u64) {
    for _ in 0..pairs {
        pair(allocator, const { layout(64) });
    }
}

/// Random sizes.
#[inline(never)]
fn mixed<A: GlobalAlloc>(allocator: &A, pairs: u64) {
    let layouts = random_layouts(SIZES, 16..=1024);
    for _ in 0..pairs / SIZES as u64 {
        for layout in &layouts {
            pair(allocator, *layout);
        }
    }
}

/// `BURST` blocks of 64 bytes allocated, then freed in the same order.
#[inline(never)]
fn burst<A: GlobalAlloc>(allocator: &A, pairs: u64) {
    let mut blocks = [ptr::null_mut(); BURST as usize];
    for _ in 0..pairs / BURST {
        for block in &mut blocks {
            // SAFETY: the size is not 0.
            *block = unsafe { allocator.alloc(black_box(layout(64))) };
        }
        for block in black_box(&blocks) {
            // SAFETY: each block is freed once, with its layout.
            unsafe { allocator.dealloc(*block, black_box(layout(64))) };
        }
    }
}
