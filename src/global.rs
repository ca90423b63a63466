//! The Rust face: `#[global_allocator]`.

use crate::config::{self, HugePages, Key, Origin, Program};
use crate::malloc;
use crate::os::PAGE;
use crate::purge;
use crate::purger;
use crate::size_class::{self, MAX_TABLE, MIN_ALIGN};
use crate::thread;
use core::alloc::{GlobalAlloc, Layout};

/// The allocator.
///
/// ```
/// use arenite::Arenite;
///
/// #[global_allocator]
/// static GLOBAL: Arenite = Arenite::new();
///
/// let numbers: Vec<u64> = (0..1000).collect();
/// assert_eq!(numbers.iter().sum::<u64>(), 499_500);
/// ```
///
/// All values of this type are the same allocator: its state is the process's.
///
/// A shared library that has it must not be unloaded by dlclose(3): threads that used it end later, by code
/// of its. Link such a library with `-z nodelete`, as libarenite.so is. If it comes by dlopen(3), switch the
/// feature `dynamic_tls` on: glibc has little room for thread-local variables of such libraries else.
///
/// # Settings
///
/// A program can build settings in:
///
/// ```
/// use arenite::{Arenite, HugePages};
///
/// #[global_allocator]
/// static GLOBAL: Arenite =
///     Arenite::new().arenas(4).decay_ms(500).purge_thread(false).huge_pages(HugePages::Never);
///
/// let arenas = arenite::config::settings().find(|setting| setting.name == "arenas");
/// assert_eq!(arenas.expect("a setting").value.to_string(), "4");
/// ```
///
/// They are in force from the first allocation on; where several values of this type have
/// settings, those of the first that serves one are. What the environment sets
/// ([`config`]) goes before them, so that who runs the program has the last word.
/// Values out of range are named on standard error and ignored.
#[derive(Debug, Clone, Copy)]
pub struct Arenite {
    program: Program,
}

impl Default for Arenite {
    fn default() -> Self {
        Self::new()
    }
}

impl Arenite {
    /// The allocator, with the default settings.
    pub const fn new() -> Self {
        Self { program: Program::NONE }
    }

    /// Gives back to the kernel all memory that is free in the arenas, as `malloc_trim(0)` does
    /// (malloc_trim(3)). Returns the bytes given back, of memory or, where that is more, of address space. Blocks
    /// cached by other threads that run stay with them. A program that does so many times in some milliseconds gets 0 at
    /// once where little is free.
    pub fn trim(&self) -> usize {
        thread::come_back();
        purge::trim_on_demand(0)
    }
}

/// Settings to build in.
impl Arenite {
    const fn with(program: Program) -> Self {
        Self { program: Program { any: true, ..program } }
    }

    /// Arenas at most; 0: 8 for each usable CPU.
    pub const fn arenas(self, most: usize) -> Self {
        Self::with(Program { arenas: Some(most), ..self.program })
    }

    /// Milliseconds until free memory that is not needed is given back to the kernel; 0: at the
    /// next opportunity; [`config::NEVER`]: not.
    pub const fn decay_ms(self, milliseconds: usize) -> Self {
        Self::with(Program { decay_ms: Some(milliseconds), ..self.program })
    }

    /// Whether a helper thread may be started, which gives memory back while the program sleeps.
    pub const fn purge_thread(self, may_start: bool) -> Self {
        Self::with(Program { purge_thread: Some(may_start), ..self.program })
    }

    /// Bytes taken beyond what is needed when the break grows, and kept at a trim (mallopt(3),
    /// M_TOP_PAD). At most 1 GiB.
    pub const fn top_pad(self, bytes: usize) -> Self {
        Self::with(Program { top_pad: Some(bytes), ..self.program })
    }

    /// Touched free bytes at the top of a heap, beyond the pad, from which they are given back (mallopt(3),
    /// M_TRIM_THRESHOLD); [`config::NEVER`]: not.
    pub const fn trim_threshold(self, bytes: usize) -> Self {
        Self::with(Program { trim_threshold: Some(bytes), ..self.program })
    }

    /// Bytes from which a block gets a mapping of its own (mallopt(3), M_MMAP_THRESHOLD). At most
    /// 32 MiB; less than 36 KiB counts as that.
    pub const fn mmap_threshold(self, bytes: usize) -> Self {
        Self::with(Program { mmap_threshold: Some(bytes), ..self.program })
    }

    /// Blocks with a mapping of their own at most (mallopt(3), M_MMAP_MAX). Beyond, heaps serve
    /// blocks of up to 32 MiB.
    pub const fn mmap_max(self, most: usize) -> Self {
        Self::with(Program { mmap_max: Some(most), ..self.program })
    }

    /// Bytes held from which free memory is given back at once; 0: no limit. See
    /// [`set_limits`](Self::set_limits).
    pub const fn soft_limit(self, bytes: usize) -> Self {
        Self::with(Program { soft_limit: Some(bytes), ..self.program })
    }

    /// Bytes held beyond which requests fail; 0: no limit. See [`set_limits`](Self::set_limits).
    pub const fn hard_limit(self, bytes: usize) -> Self {
        Self::with(Program { hard_limit: Some(bytes), ..self.program })
    }

    /// Where huge pages of the kernel are asked for.
    pub const fn huge_pages(self, arenas: HugePages) -> Self {
        Self::with(Program { huge_pages: Some(arenas as u8), ..self.program })
    }
}

/// Settings while the program runs. They override all others.
impl Arenite {
    /// Limits what the allocator holds from the kernel, in bytes; 0: no limit.
    ///
    /// Above `soft`, free memory is given back at once, whatever the decay time is, and `hook` is called by
    /// the thread that crossed the limit, at the end of the call with which it noticed: each time that the
    /// process was below seven eighths of the limit in between. No lock of the allocator is held then: the
    /// hook may allocate and free, and should drop what the program can do without. It must not panic, which
    /// ends the process. Above `hard` nothing more is taken from
    /// the kernel: requests fail. False, with nothing changed, if a limit is more than half the
    /// address space.
    pub fn set_limits(&self, soft: usize, hard: usize, hook: Option<fn()>) -> bool {
        self.program.put_in_force();
        let set = config::set_limits(soft, hard, hook);
        purge::count_for_limits();
        set
    }

    /// Sets the milliseconds until free memory that is not needed is given back to the kernel; 0:
    /// at the next opportunity; [`config::NEVER`]: not.
    pub fn set_decay_ms(&self, milliseconds: usize) {
        self.program.put_in_force();
        config::set(Key::DecayMs, milliseconds, Origin::Program);
        purger::decay_time_changed();
    }

    /// The slow way, which also puts built-in settings in force: the fast paths know nothing of
    /// them.
    #[inline(always)]
    fn alloc_slow(&self, bytes: usize) -> *mut u8 {
        self.program.put_in_force();
        malloc::malloc_slow(bytes)
    }

    /// The same, for an alignment that not every block has.
    #[inline(always)]
    fn alloc_aligned(&self, layout: Layout) -> *mut u8 {
        self.program.put_in_force();
        malloc::malloc_aligned(layout.size(), layout.align())
    }
}

// SAFETY: blocks hold the layout's size at its alignment, are disjoint, and stay until freed;
// nothing here unwinds.
unsafe impl GlobalAlloc for Arenite {
    // Always: where the layout is not known it is two fast paths, which the compiler takes for too much.
    #[inline(always)]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        if layout.align() <= MIN_ALIGN {
            malloc::malloc_known_or(layout.size(), |bytes| self.alloc_slow(bytes))
        } else if layout.align() <= PAGE {
            // A block of a larger class, which serves it at the start of a program, is aligned as well:
            // its size is a power of two, or it is pages.
            let bytes = size_class::aligned(layout.size(), layout.align());
            malloc::malloc_known_or(bytes, |_| self.alloc_aligned(layout))
        } else {
            self.alloc_aligned(layout)
        }
    }

    /// The window tells the class in fewer instructions than a layout that is not known when the program
    /// is compiled, and as few as one that is.
    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller's contract: the block came from `alloc`.
        unsafe { malloc::free(block) }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        if layout.size() > MAX_TABLE || layout.align() > MIN_ALIGN {
            self.program.put_in_force();
            return malloc::calloc_aligned(layout.size(), layout.align());
        }
        // SAFETY: the caller's contract; the block holds so many bytes.
        unsafe {
            let block = self.alloc(layout);
            if !block.is_null() {
                block.write_bytes(0, layout.size());
            }
            block
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract.
        unsafe {
            if layout.align() <= MIN_ALIGN && layout.size().max(new_size) <= MAX_TABLE {
                malloc::realloc_known(block, layout.size(), new_size)
            } else {
                malloc::realloc(block, new_size, layout.align())
            }
        }
    }
}
