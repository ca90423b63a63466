//! Settings: limits and thresholds, where they come from, and what the process may use of the
//! machine.
//!
//! Every setting has a row in one table (`table.rs`), which all sources set it through. In rising
//! precedence they are: the default; what a Rust program has built in; glibc's environment
//! variables; `GLIBC_TUNABLES`; `ARENITE_CONF`; and calls at run time, of mallopt(3) or of
//! [`Arenite`](crate::Arenite)'s functions. The environment goes before what is built in, since
//! who runs a program knows the machine. What is wrong in it is named in one line on standard
//! error and ignored. A set-user-ID program does not look at it.

mod environment;
mod listing;
mod machine;
mod parse;
mod program;
mod table;

pub(crate) use environment::read as read_environment;
pub use listing::{Setting, Source, Value, settings, write_lines};
pub(crate) use machine::{FilePath, cgroup_path, usable_cpus};
pub(crate) use parse::{decimal, huge_pages_name};
pub(crate) use program::Program;
pub(crate) use table::{Key, Origin};

use crate::os;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicPtr, AtomicU8, AtomicUsize};

/// First growth of the break, in bytes: 132 KiB, as glibc's (`top_pad` 128 KiB and a page).
pub(crate) const FIRST_BRK: usize = 0x21000;

/// Bytes kept above the last block when the break grows or the top is trimmed.
pub(crate) static TOP_PAD: AtomicUsize = AtomicUsize::new(128 * 1024);

/// Requests of at least so many bytes get a mapping of their own. Grows as glibc's does: the
/// free of a mapped block of up to [`MMAP_THRESHOLD_MAX`] raises it to a page more than that block has.
pub(crate) static MMAP_THRESHOLD: AtomicUsize = AtomicUsize::new(128 * 1024);

/// Free bytes at the top from which the top is given back; twice the mmap threshold once that
/// has moved (mallopt(3), M_TRIM_THRESHOLD).
pub(crate) static TRIM_THRESHOLD: AtomicUsize = AtomicUsize::new(128 * 1024);

/// Whether the thresholds still follow the program; setting one of them, the pad or the number of mappings ends that.
pub(crate) static DYNAMIC_THRESHOLDS: AtomicBool = AtomicBool::new(true);

/// Upper end of the dynamic mmap threshold in bytes (glibc's `DEFAULT_MMAP_THRESHOLD_MAX`).
pub(crate) const MMAP_THRESHOLD_MAX: usize = 32 * 1024 * 1024;

/// Huge blocks at most; beyond, requests come from heaps where they fit (mallopt(3), M_MMAP_MAX).
pub(crate) static MMAP_MAX: AtomicUsize = AtomicUsize::new(65536);

/// Settable ceiling of the number of arenas; 0: from the CPUs.
pub(crate) static ARENA_MAX: AtomicUsize = AtomicUsize::new(0);

/// Byte with which the C functions fill blocks that they take back, and whose complement they
/// fill those with that they give out; 0: off (mallopt(3), M_PERTURB). Threads that start, or
/// make the setting, while it is not 0 do without a cache, so that every call is a slow one.
pub(crate) static PERTURB: AtomicU8 = AtomicU8::new(0);

/// Milliseconds until free memory that is not needed is given back to the kernel; 0: at the
/// next opportunity; [`NEVER`]: not.
pub(crate) static DECAY_MS: AtomicUsize = AtomicUsize::new(1000);

/// The decay time, for instants of [`os::coarse_milliseconds`](crate::os::coarse_milliseconds).
pub(crate) fn decay_milliseconds() -> u64 {
    DECAY_MS.load(Relaxed) as u64
}

/// The `decay_ms` and the `trim_threshold` that mean never.
pub const NEVER: usize = usize::MAX;

/// Whether the helper thread may be started.
pub(crate) static PURGE_THREAD: AtomicBool = AtomicBool::new(true);

/// Bytes in use from which memory is given back at once and the hook is called; 0: no limit.
pub(crate) static SOFT_LIMIT: AtomicUsize = AtomicUsize::new(0);

/// Bytes beyond which nothing is taken from the kernel; 0: no limit.
pub(crate) static HARD_LIMIT: AtomicUsize = AtomicUsize::new(0);

/// A `fn()` that is called when [`SOFT_LIMIT`] is crossed, or null.
static LIMIT_HOOK: AtomicPtr<()> = AtomicPtr::new(core::ptr::null_mut());

/// What is called when [`SOFT_LIMIT`] is crossed: by the thread that crossed it, while it holds no
/// lock, so that it may allocate.
pub(crate) fn limit_hook() -> Option<fn()> {
    let hook = LIMIT_HOOK.load(Relaxed);
    // SAFETY: null, which is None, or a `fn()` that was stored.
    unsafe { core::mem::transmute::<*mut (), Option<fn()>>(hook) }
}

/// Sets the limits and the hook; see [`Arenite::set_limits`](crate::Arenite::set_limits).
pub(crate) fn set_limits(soft: usize, hard: usize, hook: Option<fn()>) -> bool {
    if soft.max(hard) > isize::MAX as usize {
        return false;
    }
    let hook = hook.map_or(core::ptr::null_mut(), |hook| hook as *mut ());
    LIMIT_HOOK.store(hook, Relaxed);
    set(Key::SoftLimit, soft, Origin::Program) && set(Key::HardLimit, hard, Origin::Program)
}

/// Sets a value while the program runs. False if it is out of range.
pub(crate) fn set(key: Key, value: usize, origin: Origin) -> bool {
    // What the environment says comes before this, and is overridden.
    read_environment();
    table::spec(key).is_some_and(|spec| spec.set(value, origin).is_ok())
}

/// Where huge pages of the kernel are asked for: one of [`HUGE_NEVER`], [`HUGE_DENSE`] and
/// [`HUGE_ALWAYS`]. Public for tests, which set it before the first allocation.
#[doc(hidden)]
pub static HUGE_PAGES: AtomicU8 = AtomicU8::new(HUGE_NEVER);

/// Not at all.
pub(crate) const HUGE_NEVER: u8 = 0;
/// In arenas with much in use.
pub(crate) const HUGE_DENSE: u8 = 1;
/// In all arenas.
pub(crate) const HUGE_ALWAYS: u8 = 2;

/// Where huge pages of the kernel are asked for (madvise(2), MADV_HUGEPAGE).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
#[repr(u8)]
pub enum HugePages {
    /// Nowhere.
    Never = HUGE_NEVER,
    /// In arenas with much in use.
    Dense = HUGE_DENSE,
    /// In all arenas.
    Always = HUGE_ALWAYS,
}

/// Bytes in use from which an arena, or all huge blocks together, count as much.
pub(crate) const DENSE_BYTES: usize = 16 * 1024 * 1024;

/// Whether huge pages are asked for where `in_use` bytes are in use.
pub(crate) fn wants_huge_pages(in_use: usize) -> bool {
    match HUGE_PAGES.load(Relaxed) {
        HUGE_NEVER => false,
        HUGE_DENSE => in_use > DENSE_BYTES,
        _ => true,
    }
}

static PROCESS_MALLOC: AtomicBool = AtomicBool::new(false);

/// Says that Arenite is the process's `malloc`, so that nothing else but a program's own calls
/// moves the break.
pub(crate) fn set_process_malloc() {
    PROCESS_MALLOC.store(true, Relaxed);
}

/// Whether the main arena may move the break now: Arenite is the process's malloc, or no other
/// thread exists that could be inside the process's malloc.
pub(crate) fn may_move_break() -> bool {
    PROCESS_MALLOC.load(Relaxed) || os::is_single_threaded()
}

/// Learns from the free of a mapped block of `bytes` (malloc.c, `free_mmapped_chunk` caller).
pub(crate) fn note_mapped_free(bytes: usize) {
    if DYNAMIC_THRESHOLDS.load(Relaxed)
        && bytes >= MMAP_THRESHOLD.load(Relaxed)
        && bytes <= MMAP_THRESHOLD_MAX
    {
        // Above that size: requests of it come from the heap from now on. (glibc stores the size
        // of its chunk, which is the page that holds its header larger than the request.)
        MMAP_THRESHOLD.store(bytes + os::PAGE, Relaxed);
        TRIM_THRESHOLD.store(2 * bytes, Relaxed);
    }
}

/// The most arenas the process opens: the setting, or 8 per usable CPU.
pub(crate) fn arena_ceiling() -> usize {
    match ARENA_MAX.load(Relaxed) {
        0 => 8 * usable_cpus() as usize,
        set => set,
    }
}
