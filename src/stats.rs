//! What the allocator holds, and for whom: the figures behind `mallinfo2`, `malloc_info` and
//! the report. All are derived on demand from what the layers keep anyway; nothing is counted
//! on the fast paths.

use crate::arena::top::top_bytes;
use crate::arena::{ARENAS, Arena, Inner};
use crate::check::Text;
use crate::config;
use crate::heap::MAPPED;
use crate::huge;
use crate::os::{self, KERNEL_CALLS, PAGE, PURGED_BYTES};
use crate::pressure;
use crate::size_class::{self, CLASSES};
use crate::tcache::{State, Tcache};
use core::ffi::{CStr, c_int};
use core::sync::atomic::Ordering::Relaxed;

/// Figures of one size class.
#[derive(Debug, Clone, Copy, Default)]
pub struct ClassStats {
    /// Block size in bytes.
    pub size: usize,
    /// Slabs.
    pub slabs: usize,
    /// Those of them that give blocks only when no open one with all its pages can, and get their own back when these
    /// are freed, since little of the class was used for the decay time.
    pub closed_slabs: usize,
    /// Blocks that the program holds, or that are on their way home from other arenas' threads.
    pub in_use: usize,
    /// Blocks that thread caches, depots and arenas keep in magazines.
    pub cached: usize,
    /// Blocks given to thread caches since the start.
    pub refilled: u64,
}

impl ClassStats {
    const NONE: Self =
        Self { size: 0, slabs: 0, closed_slabs: 0, in_use: 0, cached: 0, refilled: 0 };

    /// Bytes of the slabs, of class number `class`, that are in no block in use or cached.
    fn free_bytes(&self, class: usize) -> usize {
        let blocks = (self.in_use + self.cached) * self.size;
        (self.slabs * size_class::slab_bytes(class)).saturating_sub(blocks)
    }

    /// Blocks of the slabs, of class number `class`, that are neither in use nor cached.
    fn free_blocks(&self, class: usize) -> usize {
        let blocks = self.slabs * size_class::slab_blocks(class);
        blocks.saturating_sub(self.in_use + self.cached)
    }
}

/// Figures of the process. Other threads go on meanwhile, so that sums may be off by what they
/// do in that time. What an arena holds that a fork closed, or that another thread has locked for very long, is left out.
#[derive(Debug, Clone, Copy)]
#[non_exhaustive]
pub struct Stats {
    /// Bytes by which the break was moved, now.
    pub brk_bytes: usize,
    /// Bytes mapped, now: heaps, huge blocks, and the allocator's own.
    pub mmap_bytes: usize,
    /// Bytes of heaps, now: of the break or mapped, in use or free.
    pub heap_bytes: usize,
    /// The sum of the most that each arena's heaps had.
    pub peak_heap_bytes: usize,
    /// The highest `brk_bytes`.
    pub peak_brk_bytes: usize,
    /// The highest `mmap_bytes`.
    pub peak_mmap_bytes: usize,
    /// Huge blocks in use.
    pub huge_blocks: usize,
    /// Their bytes.
    pub huge_bytes: usize,
    /// Huge blocks that were freed and are kept for the next one.
    pub kept_huge_blocks: usize,
    /// Their bytes.
    pub kept_huge_bytes: usize,
    /// Arenas that were opened.
    pub arenas: usize,
    /// Heaps, of all arenas.
    pub heaps: usize,
    /// Thread caches in use.
    pub thread_caches: usize,
    /// Blocks the program holds, of every kind.
    pub in_use_blocks: usize,
    /// Their bytes.
    pub in_use_bytes: usize,
    /// Free blocks in thread caches, depots, and on their way home, and huge ones that are kept.
    pub cached_blocks: usize,
    /// Their bytes.
    pub cached_bytes: usize,
    /// Number of free chunks.
    pub free_chunks: usize,
    /// Bytes of free chunks.
    pub free_chunk_bytes: usize,
    /// Bytes of top chunks.
    pub top_bytes: usize,
    /// Blocks freed by threads of other arenas, ever.
    pub remote_frees: u64,
    /// Bytes on their way home.
    pub remote_pending_bytes: usize,
    /// Times a thread waited for an arena's lock.
    pub lock_waits: u64,
    /// By class; index 0 is unused.
    pub classes: [ClassStats; CLASSES],
}

/// Collects the figures. Takes each arena's lock once.
#[inline(always)]
pub fn collect() -> Stats {
    // In the caller's frame, and no second time: a thread may have a stack of 16 KiB (PTHREAD_STACK_MIN). Where the compiler
    // would copy it, callers fill their own.
    let mut stats = Stats::NONE;
    stats.fill();
    stats
}

impl Stats {
    const NONE: Self = Self {
        brk_bytes: 0,
        mmap_bytes: 0,
        heap_bytes: 0,
        peak_heap_bytes: 0,
        peak_brk_bytes: 0,
        peak_mmap_bytes: 0,
        huge_blocks: 0,
        huge_bytes: 0,
        kept_huge_blocks: 0,
        kept_huge_bytes: 0,
        arenas: 0,
        heaps: 0,
        thread_caches: 0,
        in_use_blocks: 0,
        in_use_bytes: 0,
        cached_blocks: 0,
        cached_bytes: 0,
        free_chunks: 0,
        free_chunk_bytes: 0,
        top_bytes: 0,
        remote_frees: 0,
        remote_pending_bytes: 0,
        lock_waits: 0,
        classes: [ClassStats::NONE; CLASSES],
    };

    /// Enters the figures, where there are none yet.
    #[inline(never)]
    fn fill(&mut self) {
        Tcache::empty_vanished();
        self.brk_bytes = MAPPED.brk.get();
        self.mmap_bytes = MAPPED.mmap.get();
        self.peak_brk_bytes = MAPPED.brk.peak();
        self.peak_mmap_bytes = MAPPED.mmap.peak();
        self.huge_blocks = huge::BLOCKS.get();
        self.huge_bytes = huge::BYTES.get();
        self.arenas = ARENAS.count();
        self.heaps = MAPPED.heaps.get();
        self.thread_caches = Tcache::all().filter(|cache| cache.state() == State::Live).count();
        self.in_use_blocks = self.huge_blocks;
        self.in_use_bytes = self.huge_bytes;
        self.kept_huge_blocks = huge::kept::blocks();
        self.kept_huge_bytes = huge::kept::bytes();
        self.cached_blocks = self.kept_huge_blocks;
        self.cached_bytes = self.kept_huge_bytes;
        let mut out = [0usize; CLASSES];
        for arena in ARENAS.iter() {
            if let Some(mut held) = arena.lock_open() {
                arena.drain(&mut held);
                self.add_arena(&held, &mut out);
            }
            let (pending, remote) = arena.remote_figures();
            self.remote_pending_bytes += pending;
            self.remote_frees += remote;
            self.lock_waits += arena.lock_waits.load(Relaxed);
        }
        for (class, (figures, &out)) in self.classes.iter_mut().zip(&out).enumerate().skip(1) {
            figures.size = size_class::size(class);
            // Of those whose blocks are in `out`.
            let arenas = ARENAS.iter().filter(|arena| !arena.attach().is_closed());
            let caches = Tcache::all().filter(|cache| !cache.arena().attach().is_closed());
            figures.cached += caches.map(|cache| cache.count(class)).sum::<usize>()
                + arenas.map(|arena| arena.depot_count(class)).sum::<usize>();
            figures.in_use = out.saturating_sub(figures.cached);
            self.in_use_blocks += figures.in_use;
            self.in_use_bytes += figures.in_use * figures.size;
            self.cached_blocks += figures.cached;
            self.cached_bytes += figures.cached * figures.size;
        }
        for cache in Tcache::all() {
            let (pending_bytes, pending) = cache.pending_figures();
            let large_bytes = cache.large_bytes();
            self.remote_pending_bytes += pending_bytes;
            // Both count as in use so far.
            let blocks = pending + usize::from(large_bytes > 0);
            let bytes = pending_bytes + large_bytes;
            self.cached_blocks += blocks;
            self.cached_bytes += bytes;
            self.in_use_blocks = self.in_use_blocks.saturating_sub(blocks);
            self.in_use_bytes = self.in_use_bytes.saturating_sub(bytes);
        }
    }

    fn add_arena(&mut self, inner: &Inner, out: &mut [usize; CLASSES]) {
        for (class, (out, figures)) in out.iter_mut().zip(&mut self.classes).enumerate().skip(1) {
            let state = inner.class(class);
            *out += state.out;
            figures.slabs += state.slabs as usize;
            figures.closed_slabs += state.closed as usize;
            figures.refilled += state.refilled;
            figures.cached += state.magazines.blocks;
        }
        self.heap_bytes += inner.heap_bytes;
        self.peak_heap_bytes += inner.peak_heap_bytes;
        self.in_use_blocks += inner.large_blocks;
        self.in_use_bytes += inner.large_bytes;
        self.top_bytes += top_bytes(&inner.heap);
        self.free_chunk_bytes += inner.bins.pages() * PAGE;
        // SAFETY: the caller holds the arena's lock.
        self.free_chunks += unsafe { inner.bins.count() };
    }

    /// Bytes of slabs that are in no block in use or cached.
    pub fn slab_free_bytes(&self) -> usize {
        let classes = self.classes.iter().enumerate().skip(1);
        classes.map(|(class, figures)| figures.free_bytes(class)).sum()
    }

    /// Bytes of heaps that the program does not hold: in chunks, tops, slabs and caches.
    pub fn free_heap_bytes(&self) -> usize {
        let (_, cached) = self.cached_in_heaps();
        self.free_chunk_bytes + self.top_bytes + self.slab_free_bytes() + cached
    }

    /// Cached blocks that lie in heaps, and their bytes.
    pub fn cached_in_heaps(&self) -> (usize, usize) {
        (
            self.cached_blocks.saturating_sub(self.kept_huge_blocks),
            self.cached_bytes.saturating_sub(self.kept_huge_bytes),
        )
    }

    /// Writes the figures as one JSON object to a file descriptor.
    pub fn write_json(&self, fd: c_int) {
        self.write_process(fd);
        write_kernel_calls(fd);
        for (class, figures) in self.classes.iter().enumerate().skip(1) {
            figures.write(fd, class == 1);
        }
        os::write_all(fd, b"]}\n");
    }

    #[inline(never)]
    fn write_process(&self, fd: c_int) {
        // SAFETY: no precondition.
        let pid = unsafe { libc::getpid() };
        let mut line = Text::new();
        line.str("{\"version\":1");
        put_fields(
            &mut line,
            &[
                ("pid", pid as u64),
                ("peak_rss_bytes", os::bytes_behind(os::STATUS, b"VmHWM:")),
                ("rss_bytes", os::bytes_behind(os::STATUS, b"VmRSS:")),
                ("brk_bytes", self.brk_bytes as u64),
                ("mmap_bytes", self.mmap_bytes as u64),
                ("heap_bytes", self.heap_bytes as u64),
                ("peak_heap_bytes", self.peak_heap_bytes as u64),
                ("peak_brk_bytes", self.peak_brk_bytes as u64),
                ("peak_mmap_bytes", self.peak_mmap_bytes as u64),
                ("huge_blocks", self.huge_blocks as u64),
                ("huge_bytes", self.huge_bytes as u64),
                ("kept_huge_bytes", self.kept_huge_bytes as u64),
                ("arenas", self.arenas as u64),
                ("heaps", self.heaps as u64),
                ("thread_caches", self.thread_caches as u64),
                ("in_use_blocks", self.in_use_blocks as u64),
                ("in_use_bytes", self.in_use_bytes as u64),
                ("cached_blocks", self.cached_blocks as u64),
                ("cached_bytes", self.cached_bytes as u64),
                ("slab_free_bytes", self.slab_free_bytes() as u64),
                ("free_chunk_bytes", self.free_chunk_bytes as u64),
                ("top_bytes", self.top_bytes as u64),
                ("purged_bytes", PURGED_BYTES.load(Relaxed)),
                ("remote_frees", self.remote_frees),
                ("remote_pending_bytes", self.remote_pending_bytes as u64),
                ("lock_waits", self.lock_waits),
                ("memory_pressure_percent", u64::from(pressure::look())),
                (
                    "anon_huge_page_bytes",
                    os::bytes_behind(c"/proc/self/smaps_rollup", b"AnonHugePages:"),
                ),
            ],
        );
        let policy = config::huge_pages_name(config::HUGE_PAGES.load(Relaxed));
        line.str(",\"huge_page_policy\":\"").str(policy).str("\"");
        os::write_all(fd, line.as_bytes());
    }
}

#[inline(never)]
fn write_kernel_calls(fd: c_int) {
    let mut line = Text::new();
    line.str(",\"kernel_calls\":{\"brk\":").number(KERNEL_CALLS.brk.load(Relaxed));
    put_fields(
        &mut line,
        &[
            ("mmap", KERNEL_CALLS.mmap.load(Relaxed)),
            ("munmap", KERNEL_CALLS.munmap.load(Relaxed)),
            ("mremap", KERNEL_CALLS.mremap.load(Relaxed)),
            ("mprotect", KERNEL_CALLS.mprotect.load(Relaxed)),
            ("madvise", KERNEL_CALLS.madvise.load(Relaxed)),
            ("futex_wait", KERNEL_CALLS.futex_wait.load(Relaxed)),
            ("futex_wake", KERNEL_CALLS.futex_wake.load(Relaxed)),
        ],
    );
    line.str("},\"size_classes\":[");
    os::write_all(fd, line.as_bytes());
}

impl ClassStats {
    #[inline(never)]
    fn write(&self, fd: c_int, is_first: bool) {
        let mut line = Text::new();
        line.str(if is_first { "" } else { "," });
        line.str("{\"size\":").number(self.size as u64);
        put_fields(
            &mut line,
            &[
                ("slabs", self.slabs as u64),
                ("closed_slabs", self.closed_slabs as u64),
                ("in_use", self.in_use as u64),
                ("cached", self.cached as u64),
                ("refilled", self.refilled),
            ],
        );
        line.str("}");
        os::write_all(fd, line.as_bytes());
    }
}

/// Appends `,"name":value` for each.
fn put_fields(line: &mut Text, fields: &[(&str, u64)]) {
    for &(name, value) in fields {
        line.str(",\"").str(name).str("\":").number(value);
    }
}

/// Writes the report as JSON to the file at `pattern`, in which `%p` is the number of the process and `%%` is `%`. Nothing
/// where that can not be opened, or is a pipe that nobody reads, or the path is longer than 1023 bytes.
pub fn write_report(pattern: &CStr) {
    let pattern = pattern.to_bytes();
    let mut path = Text::new();
    let mut at = 0;
    while let Some(&byte) = pattern.get(at) {
        at += 1;
        match pattern.get(at) {
            Some(b'p') if byte == b'%' => {
                // SAFETY: no precondition.
                path.number(unsafe { libc::getpid() } as u64);
                at += 1;
            }
            Some(b'%') if byte == b'%' => {
                path.byte(b'%');
                at += 1;
            }
            _ => {
                path.byte(byte);
            }
        }
    }
    path.byte(0);
    // A path that does not fit is cut, and so ends in no zero: no report.
    let Ok(path) = CStr::from_bytes_until_nul(path.as_bytes()) else {
        return;
    };
    let flags = libc::O_WRONLY | libc::O_CREAT | libc::O_TRUNC | libc::O_CLOEXEC;
    // SAFETY: the path is a C string; the file is this function's.
    let fd = unsafe {
        // A process that ends waits for no reader, but for one that is there.
        let fd = libc::open(path.as_ptr(), flags | libc::O_NONBLOCK, 0o666);
        if fd < 0 {
            return;
        }
        libc::fcntl(fd, libc::F_SETFL, 0);
        fd
    };
    write_figures(fd);
    // SAFETY: the descriptor was opened above.
    unsafe { libc::close(fd) };
}

#[inline(never)]
fn write_figures(fd: c_int) {
    let mut stats = Stats::NONE;
    stats.fill();
    stats.write_json(fd);
}

/// Writes malloc_info(3)'s XML, version 1, through `put`.
pub fn write_xml(mut put: impl FnMut(&[u8])) {
    let mut stats = Stats::NONE;
    stats.fill();
    put(b"<malloc version=\"1\">\n");
    let tops = ARENAS.iter().map(|arena| write_heap_xml(arena, &mut put)).sum();
    write_totals_xml(&stats, tops, &mut put);
}

#[inline(never)]
fn write_totals_xml(stats: &Stats, tops: usize, put: &mut impl FnMut(&[u8])) {
    let mut line = Text::new();
    let (cached_blocks, cached_bytes) = stats.cached_in_heaps();
    line.str("<total type=\"fast\" count=\"").number(cached_blocks as u64);
    line.str("\" size=\"").number(cached_bytes as u64).str("\"/>\n");
    let classes = stats.classes.iter().enumerate().skip(1);
    let in_slabs: usize = classes.map(|(class, figures)| figures.free_blocks(class)).sum();
    line.str("<total type=\"rest\" count=\"").number((stats.free_chunks + in_slabs + tops) as u64);
    let rest = stats.free_chunk_bytes + stats.slab_free_bytes() + stats.top_bytes;
    line.str("\" size=\"").number(rest as u64).str("\"/>\n");
    line.str("<total type=\"mmap\" count=\"").number(stats.huge_blocks as u64);
    line.str("\" size=\"").number(stats.huge_bytes as u64).str("\"/>\n");
    line.str("<system type=\"current\" size=\"").number(stats.heap_bytes as u64).str("\"/>\n");
    line.str("<system type=\"max\" size=\"").number(stats.peak_heap_bytes as u64).str("\"/>\n");
    line.str("<aspace type=\"total\" size=\"").number(stats.heap_bytes as u64).str("\"/>\n");
    line.str("<aspace type=\"mprotect\" size=\"").number(stats.heap_bytes as u64);
    line.str("\"/>\n</malloc>\n");
    put(line.as_bytes());
}

/// Writes an arena's part. How many of its chunks are tops: one that is not empty, or none.
#[inline(never)]
fn write_heap_xml(arena: &Arena, put: &mut impl FnMut(&[u8])) -> usize {
    let Some(held) = arena.lock_open() else { return 0 };
    let (top, free, chunks) = {
        // SAFETY: the lock is held.
        let chunks = unsafe { held.bins.count() };
        (top_bytes(&held.heap), held.bins.pages() * PAGE, chunks)
    };
    let mut classes = [(0usize, 0usize); CLASSES];
    // Slabs may lie in other arenas' heaps: what is this arena's is what it holds.
    let mut system = held.large_bytes + free + top;
    let (mut free_in_slabs, mut free_blocks) = (0, 0);
    for (class, figures) in classes.iter_mut().enumerate().skip(1) {
        let state = held.class(class);
        let slabs = state.slabs as usize;
        *figures = (slabs, slabs * size_class::slab_blocks(class) - state.out);
        let bytes = slabs * size_class::slab_bytes(class);
        system += bytes;
        free_in_slabs += bytes - state.out * size_class::size(class);
        free_blocks += figures.1;
    }
    let peak = held.peak_heap_bytes.max(system) as u64;
    let system = system as u64;
    drop(held);
    let mut line = Text::new();
    line.str("<heap nr=\"").number(u64::from(arena.id())).str("\">\n<sizes>\n");
    put(line.as_bytes());
    for (class, &(slabs, free)) in classes.iter().enumerate().filter(|(_, figures)| figures.0 > 0) {
        let mut line = Text::new();
        let size = size_class::size(class) as u64;
        line.str("  <size from=\"").number(size);
        line.str("\" to=\"").number(size);
        line.str("\" total=\"").number(free as u64 * size);
        line.str("\" count=\"").number(free as u64);
        line.str("\" slabs=\"").number(slabs as u64).str("\"/>\n");
        put(line.as_bytes());
    }
    let mut line = Text::new();
    line.str("</sizes>\n<total type=\"fast\" count=\"0\" size=\"0\"/>\n");
    let tops = usize::from(top > 0);
    line.str("<total type=\"rest\" count=\"").number((chunks + free_blocks + tops) as u64);
    line.str("\" size=\"").number((free + free_in_slabs + top) as u64).str("\"/>\n");
    line.str("<system type=\"current\" size=\"").number(system).str("\"/>\n");
    line.str("<system type=\"max\" size=\"").number(peak).str("\"/>\n");
    line.str("<aspace type=\"total\" size=\"").number(system).str("\"/>\n");
    line.str("<aspace type=\"mprotect\" size=\"").number(system).str("\"/>\n");
    line.str("</heap>\n");
    put(line.as_bytes());
    tops
}

/// Writes malloc_stats(3)'s summary to standard error.
pub fn write_summary() {
    let stats = collect();
    let mut text = Text::new();
    let mut row = |name: &str, value: usize| {
        text.str(name).str(" = ").number(value as u64).str("\n");
    };
    row("arenas        ", stats.arenas);
    row("heaps         ", stats.heaps);
    row("brk bytes     ", stats.brk_bytes);
    row("mmap bytes    ", stats.mmap_bytes);
    row("system bytes  ", stats.heap_bytes);
    row("in use bytes  ", stats.in_use_bytes);
    row("in use blocks ", stats.in_use_blocks);
    row("cached bytes  ", stats.cached_bytes);
    row("free bytes    ", stats.free_heap_bytes());
    row("mmap blocks   ", stats.huge_blocks);
    os::write_all(2, text.as_bytes());
}
