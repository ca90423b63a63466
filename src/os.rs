//! What the allocator asks of the kernel. Every call leaves `errno` as it was unless it says otherwise, and is no
//! cancellation point (see pthreads(7)). Most of those of [`KernelCalls`] are counted.

mod files;
mod threads;

pub use files::{
    STATUS, bytes_behind, leave_open_files, line_behind, number_behind, read_file, write_all,
};
pub use threads::{
    HAS_BARRIER, ProcessMark, barrier, count_threads, futex_wait, futex_wake, has_thread,
    is_main_thread, is_single_threaded, run_as_main_thread, thread_id, thread_number,
    without_signals, yield_now,
};

use core::ffi::c_int;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU64, AtomicUsize};

/// Unit of chunks, in bytes: the smallest page size of any supported machine. Calls to the
/// kernel are rounded to [`page_size`] where that is larger.
pub const PAGE: usize = 4096;

/// Calls into the kernel since the start, by kind. Relaxed counters: nothing is ordered by them.
#[derive(Debug)]
pub struct KernelCalls {
    /// `brk`, through `sbrk`.
    pub brk: AtomicU64,
    /// `mmap`.
    pub mmap: AtomicU64,
    /// `munmap`.
    pub munmap: AtomicU64,
    /// `mremap`.
    pub mremap: AtomicU64,
    /// `mprotect`.
    pub mprotect: AtomicU64,
    /// `madvise`.
    pub madvise: AtomicU64,
    /// `futex` waits.
    pub futex_wait: AtomicU64,
    /// `futex` wakes.
    pub futex_wake: AtomicU64,
}

/// The process's counters.
pub static KERNEL_CALLS: KernelCalls = KernelCalls {
    brk: AtomicU64::new(0),
    mmap: AtomicU64::new(0),
    munmap: AtomicU64::new(0),
    mremap: AtomicU64::new(0),
    mprotect: AtomicU64::new(0),
    madvise: AtomicU64::new(0),
    futex_wait: AtomicU64::new(0),
    futex_wake: AtomicU64::new(0),
};

/// Bytes of free memory, and of what described it, given back by `MADV_DONTNEED` since the start. What the break's
/// trims and `munmap` give back is not in it.
pub static PURGED_BYTES: AtomicU64 = AtomicU64::new(0);

fn count(counter: &AtomicU64) {
    counter.fetch_add(1, Relaxed);
}

/// Runs `call` and puts `errno` back.
fn keeping_errno<T>(call: impl FnOnce() -> T) -> T {
    let saved = errno();
    let result = call();
    set_errno(saved);
    result
}

/// The calling thread's `errno`.
pub fn errno() -> c_int {
    // SAFETY: the location is valid as long as the thread runs.
    unsafe { *libc::__errno_location() }
}

/// Sets the calling thread's `errno`.
pub fn set_errno(value: c_int) {
    // SAFETY: as above.
    unsafe { *libc::__errno_location() = value }
}

/// Page size in bytes that the kernel is taken to have where its own is smaller: a power of two,
/// or 0. For tests of other machines' kernels; set before the first allocation, or never.
pub static SIMULATED_PAGE: AtomicUsize = AtomicUsize::new(0);

/// The kernel's page size in bytes, at least [`PAGE`].
pub fn page_size() -> usize {
    kernel_page_size().max(PAGE).max(SIMULATED_PAGE.load(Relaxed))
}

/// The page size in bytes that the kernel has in truth.
pub fn kernel_page_size() -> usize {
    // SAFETY: no precondition; the value comes from the auxiliary vector, without a call.
    unsafe { libc::getauxval(libc::AT_PAGESZ) as usize }
}

/// Whether the program has rights that its user has not (set-user-ID, capabilities; `AT_SECURE` of
/// getauxval(3)): who may start it may not direct it.
pub fn has_more_rights_than_its_user() -> bool {
    // SAFETY: no precondition; the value comes from the auxiliary vector, without a call.
    unsafe { libc::getauxval(libc::AT_SECURE) != 0 }
}

/// `bytes` rounded up to a multiple of `unit`, a power of two; `None` on overflow.
pub const fn round_up(bytes: usize, unit: usize) -> Option<usize> {
    match bytes.checked_add(unit - 1) {
        Some(sum) => Some(sum & !(unit - 1)),
        None => None,
    }
}

/// Milliseconds of a clock that goes on evenly, exact to one tick of the kernel (1 to 10 ms); no
/// call into the kernel on the usual machine (vdso(7)).
pub fn coarse_milliseconds() -> u64 {
    let now = clock(libc::CLOCK_MONOTONIC_COARSE);
    now.tv_sec as u64 * 1000 + now.tv_nsec as u64 / 1_000_000
}

/// Microseconds of the same clock, exact; more work, and a call into the kernel on some machines.
pub fn microseconds() -> u64 {
    let now = clock(libc::CLOCK_MONOTONIC);
    now.tv_sec as u64 * 1_000_000 + now.tv_nsec as u64 / 1000
}

fn clock(which: libc::clockid_t) -> libc::timespec {
    // SAFETY: all zeros is a valid timespec, which the call fills.
    unsafe {
        let mut now: libc::timespec = core::mem::zeroed();
        libc::clock_gettime(which, &mut now);
        now
    }
}

/// Ends the process when a range for the kernel is not one of whole pages, which only some
/// machines' kernels refuse. Only debug builds check.
#[inline(always)]
fn whole_pages(start: usize, bytes: usize) {
    if cfg!(debug_assertions) && !(start | bytes).is_multiple_of(page_size()) {
        not_whole_pages();
    }
}

#[cold]
#[inline(never)]
fn not_whole_pages() -> ! {
    write_all(2, b"arenite: internal error: a call on a part of a page\n");
    // SAFETY: no precondition.
    unsafe { libc::abort() }
}

/// Whether the kernel is to refuse a mapping that the machine could never fill, as its setting
/// `overcommit_memory` says (Documentation/mm/overcommit-accounting.rst).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Commit {
    /// Yes: the program asked for all of it.
    All,
    /// No: it is used little by little, or never whole.
    AsTouched,
}

/// Maps `bytes` of zeroed private memory, a multiple of the page size, to be used as it is touched; null
/// when the kernel has none.
pub fn map(bytes: usize) -> *mut u8 {
    map_near(bytes, 0, Commit::AsTouched)
}

/// As [`map`], at the address `hint` if nothing lies there; 0: anywhere.
fn map_near(bytes: usize, hint: usize, commit: Commit) -> *mut u8 {
    whole_pages(hint, bytes);
    count(&KERNEL_CALLS.mmap);
    keeping_errno(|| {
        let unit = page_size();
        let p = map_readable(bytes, hint, commit);
        if SIMULATED_PAGE.load(Relaxed) == 0 || p.is_null() || p.addr().is_multiple_of(unit) {
            return p;
        }
        // Such a kernel would have mapped whole pages of its own.
        // SAFETY: the mappings were made just now, and the ends of the second one are not used.
        unsafe {
            libc::munmap(p.cast(), bytes);
            let p = map_readable(bytes + unit, 0, commit);
            if p.is_null() {
                return p;
            }
            let skip = p.addr().wrapping_neg() & (unit - 1);
            if skip > 0 {
                libc::munmap(p.cast(), skip);
            }
            libc::munmap(p.add(skip + bytes).cast(), unit - skip);
            p.add(skip)
        }
    })
}

/// The call itself.
fn map_readable(bytes: usize, hint: usize, commit: Commit) -> *mut u8 {
    let lazily = if commit == Commit::All { 0 } else { libc::MAP_NORESERVE };
    let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | lazily;
    let hint = core::ptr::without_provenance_mut(hint);
    // SAFETY: a new anonymous mapping, which replaces none.
    let p = unsafe { libc::mmap(hint, bytes, libc::PROT_READ | libc::PROT_WRITE, flags, -1, 0) };
    if p == libc::MAP_FAILED { core::ptr::null_mut() } else { p.cast() }
}

/// Maps `bytes` at a multiple of `align`, a power of two of at least the page size; null when
/// the kernel has none; at the address `hint` if nothing lies there, 0: anywhere. Maps more for
/// an instant and gives the rest back.
pub fn map_aligned(bytes: usize, align: usize, hint: usize, commit: Commit) -> *mut u8 {
    let first = map_near(bytes, hint, commit);
    if first.is_null() || first.addr() & (align - 1) == 0 {
        return first;
    }
    // SAFETY: the mapping was made just above and nobody knows of it.
    unsafe { unmap(first, bytes) };
    let Some(total) = bytes.checked_add(align - page_size()) else {
        return core::ptr::null_mut();
    };
    let start = map_near(total, 0, commit);
    if start.is_null() {
        return start;
    }
    let skip = start.addr().wrapping_neg() & (align - 1);
    // SAFETY: both ends are parts of the new mapping that nobody uses.
    unsafe {
        if skip > 0 {
            unmap(start, skip);
        }
        if total - skip - bytes > 0 {
            unmap(start.add(skip + bytes), total - skip - bytes);
        }
        start.add(skip)
    }
}

/// Takes a new mapping's memory back, if the kernel filled it at once because the program called
/// `mlockall(MCL_FUTURE)`: what is touched later is locked then (mlock2(2)), as far as the kernel knows that.
pub fn fill_as_touched(start: *mut u8, bytes: usize) {
    const MLOCK_ONFAULT: libc::c_uint = 1;
    let mut is_there = 0u8;
    keeping_errno(|| {
        // SAFETY: the mapping is the caller's, and holds nothing yet. Of one byte the kernel says one page,
        // in one byte, however large its pages are.
        unsafe {
            let last = start.add(bytes - page_size());
            if libc::mincore(last.cast(), 1, &mut is_there) == 0
                && is_there & 1 != 0
                // Not every kernel knows what is there.
                && is_locked(last, page_size())
            {
                libc::munlock(start.cast(), bytes);
                libc::madvise(start.cast(), bytes, libc::MADV_DONTNEED);
                libc::syscall(libc::SYS_mlock2, start, bytes, MLOCK_ONFAULT);
            }
        }
    });
}

/// Gives a mapping back. Whether the kernel did it (it can refuse to split a mapping when the
/// process has too many).
///
/// # Safety
/// The range is whole pages of the caller's own mapping, which nobody uses any more.
pub unsafe fn unmap(p: *mut u8, bytes: usize) -> bool {
    whole_pages(p.addr(), bytes);
    count(&KERNEL_CALLS.munmap);
    // SAFETY: the caller's contract.
    keeping_errno(|| unsafe { libc::munmap(p.cast(), bytes) == 0 })
}

/// Moves or resizes a mapping, to whole pages; null when the kernel can not.
///
/// # Safety
/// The range is a whole mapping of the caller's, of `old` bytes; with `may_move`, nobody uses
/// its old address any more.
pub unsafe fn remap(p: *mut u8, old: usize, new: usize, may_move: bool) -> *mut u8 {
    whole_pages(p.addr(), old | new);
    count(&KERNEL_CALLS.mremap);
    // The kernel moves by its own pages, and so may end at no multiple of a simulated one's.
    let simulates = SIMULATED_PAGE.load(Relaxed) != 0;
    let flags = if may_move && !simulates { libc::MREMAP_MAYMOVE } else { 0 };
    let moved: *mut u8 = keeping_errno(|| {
        // SAFETY: the caller's contract.
        let moved = unsafe { libc::mremap(p.cast(), old, new, flags) };
        if moved == libc::MAP_FAILED { core::ptr::null_mut() } else { moved.cast() }
    });
    if !moved.is_null() || !simulates || !may_move {
        return moved;
    }
    let to = map_near(new, 0, Commit::All);
    // SAFETY: the caller's contract; the new mapping is nobody's.
    if to.is_null() || unsafe { move_over(p, old, new, to) } {
        return to;
    }
    // SAFETY: as above.
    unsafe { unmap(to, new) };
    core::ptr::null_mut()
}

/// Moves a mapping of `bytes` to the address `to`, if nothing lies there.
///
/// # Safety
/// The mapping is the caller's, and nobody uses its old address any more.
pub unsafe fn move_back(p: *mut u8, bytes: usize, to: *mut u8) -> bool {
    whole_pages(p.addr() | to.addr(), bytes);
    // SAFETY: mremap has no MREMAP_FIXED_NOREPLACE, and FIXED would drop what another thread
    // mapped there meanwhile; so the move only goes over a mapping made here.
    keeping_errno(|| unsafe {
        let flags = libc::MAP_PRIVATE | libc::MAP_ANONYMOUS | libc::MAP_FIXED_NOREPLACE;
        let held = libc::mmap(to.cast(), bytes, libc::PROT_NONE, flags, -1, 0);
        held.cast() == to && move_over(p, bytes, bytes, to)
    })
}

/// Moves a mapping over another one.
///
/// # Safety
/// Both are the caller's, of `old` and `new` bytes; nobody uses the first one's address any more,
/// nor what the second one holds.
unsafe fn move_over(p: *mut u8, old: usize, new: usize, to: *mut u8) -> bool {
    let flags = libc::MREMAP_MAYMOVE | libc::MREMAP_FIXED;
    // SAFETY: the caller's contract.
    keeping_errno(|| unsafe { libc::mremap(p.cast(), old, new, flags, to) == to.cast() })
}

/// Bytes of the huge page that the kernel can map in place of 512 pages of 4 KiB. Where its own
/// page is larger, so is its huge page; advice then has to do with the sizes between, if any.
pub const HUGE_PAGE: usize = 2 * 1024 * 1024;

/// madvise(2); whether the kernel took the advice.
///
/// # Safety
/// What the advice does to the range is what the caller may do to it.
unsafe fn advise(start: *mut u8, bytes: usize, advice: c_int) -> bool {
    count(&KERNEL_CALLS.madvise);
    // SAFETY: the caller's contract.
    keeping_errno(|| unsafe { libc::madvise(start.cast(), bytes, advice) == 0 })
}

/// Asks for huge pages in the range (`MADV_HUGEPAGE`), which the kernel gives where one lies in it as a whole. A kernel
/// that has none refuses, and all stays as it is.
///
/// # Safety
/// The range is anonymous private memory of the caller's.
pub unsafe fn prefer_huge_pages(start: usize, bytes: usize) {
    whole_pages(start, bytes);
    let memory = core::ptr::with_exposed_provenance_mut(start);
    // SAFETY: only how the kernel backs the memory changes.
    unsafe { advise(memory, bytes, libc::MADV_HUGEPAGE) };
}

/// Asks for small pages in a range, of which little is touched here and there (`MADV_NOHUGEPAGE`): where the
/// kernel gives huge pages unasked, each touch would make 2 MiB of it memory. Harmless for any memory.
pub fn refuse_huge_pages(start: usize, bytes: usize) {
    let from = round_up(start, kernel_page_size()).unwrap_or(start);
    let to = (start + bytes) & !(kernel_page_size() - 1);
    let memory = core::ptr::with_exposed_provenance_mut(from);
    // SAFETY: only how the kernel backs the memory changes.
    unsafe { advise(memory, to.saturating_sub(from), libc::MADV_NOHUGEPAGE) };
}

/// Makes a mapping as a new one, but for what it contains: undoes what the program may have told the kernel of it by
/// madvise(2) and mprotect(2). False if it is none that can be: locked in memory (mlock(2)), not private any more, or in
/// several parts. (What mbind(2), pkey_mprotect(2) and the advices of huge and of equal pages said stays.)
///
/// # Safety
/// The range is the caller's, who needs nothing that is in it.
pub unsafe fn renew(p: *mut u8, bytes: usize) -> bool {
    // The third of them is for private memory alone, and undone by the fourth.
    const ADVICES: [c_int; 4] =
        [libc::MADV_DOFORK, libc::MADV_DODUMP, libc::MADV_WIPEONFORK, libc::MADV_KEEPONFORK];
    const READ_WRITE: c_int = libc::PROT_READ | libc::PROT_WRITE;
    count(&KERNEL_CALLS.mprotect);
    // SAFETY: the caller's contract.
    keeping_errno(|| unsafe {
        libc::mprotect(p.cast(), bytes, READ_WRITE) == 0
            && ADVICES.iter().all(|&advice| advise(p, bytes, advice))
            && !is_locked(p, bytes)
            && is_one_mapping(p, bytes)
    })
}

/// Whether something in the range is locked in memory (mlock(2)), or nothing is mapped there. Changes errno.
fn is_locked(p: *mut u8, bytes: usize) -> bool {
    // Of private memory that is all that the call does (msync(2)). libc's is a cancellation point.
    // SAFETY: it changes no memory.
    unsafe { libc::syscall(libc::SYS_msync, p, bytes, libc::MS_ASYNC | libc::MS_INVALIDATE) != 0 }
}

/// Whether the range, which ends a mapping, is in no other one besides: then the kernel enlarges it, or has no room.
///
/// # Safety
/// The range is the caller's.
unsafe fn is_one_mapping(p: *mut u8, bytes: usize) -> bool {
    count(&KERNEL_CALLS.mremap);
    let more = page_size();
    // SAFETY: the caller's contract; what is added is nobody's.
    unsafe {
        if libc::mremap(p.cast(), bytes, bytes + more, 0) == libc::MAP_FAILED {
            errno() == libc::ENOMEM
        } else {
            unmap(p.add(bytes), more)
        }
    }
}

/// Drops the contents of the whole kernel pages inside the range at once (`MADV_DONTNEED`):
/// the next touch sees zeros. Returns the bytes dropped. A huge page of which only a part is in
/// the range is split, and the rest of it stays as small pages.
///
/// # Safety
/// The range is anonymous private memory of the caller's whose contents nobody needs.
pub unsafe fn discard(p: *mut u8, bytes: usize) -> usize {
    let unit = page_size();
    let skip = p.addr().wrapping_neg() & (unit - 1);
    let inner = bytes.saturating_sub(skip) & !(unit - 1);
    if inner == 0 {
        return 0;
    }
    whole_pages(p.addr() + skip, inner);
    // SAFETY: the caller's contract; the range is inside the caller's.
    if !unsafe { advise(p.add(skip), inner, libc::MADV_DONTNEED) } {
        return 0;
    }
    PURGED_BYTES.fetch_add(inner as u64, Relaxed);
    inner
}

/// The program break, moved by `increment` bytes to a page's start through libc, whose idea of
/// the break stays right; the old break, or null when the kernel refuses.
///
/// # Safety
/// The rule of the break holds (see `heap/brk.rs`): no other thread moves it at this instant,
/// and a negative increment only returns memory of the caller's.
pub unsafe fn sbrk(increment: isize) -> *mut u8 {
    if increment != 0 {
        count(&KERNEL_CALLS.brk);
    }
    keeping_errno(|| {
        // SAFETY: the caller's contract.
        let old = unsafe { libc::sbrk(increment) };
        if increment != 0 && old.addr() != usize::MAX {
            whole_pages(old.addr().wrapping_add_signed(increment), 0);
        }
        if old.addr() == usize::MAX { core::ptr::null_mut() } else { old.cast() }
    })
}

/// Where the kernel takes the break to be, which libc keeps a copy of.
pub fn kernel_break() -> usize {
    count(&KERNEL_CALLS.brk);
    // SAFETY: an address of 0 only asks (brk(2), "C library/kernel differences").
    unsafe { libc::syscall(libc::SYS_brk, 0) as usize }
}
