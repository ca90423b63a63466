//! The C functions, as the man pages malloc(3), posix_memalign(3), malloc_usable_size(3),
//! mallopt(3), malloc_trim(3) and glibc's `malloc/malloc.c` describe them. A library that
//! exports them only forwards here.
//!
//! Exporting them does not make Arenite the process's malloc: a library may also be opened by
//! dlopen(3). Who knows that it is calls [`set_process_malloc`]; only then may the main arena go
//! on moving the break in a multi-threaded process.

use crate::check::Misuse;
use crate::config::{self, Key, Origin, PERTURB};
use crate::malloc::{self, or_enomem};
use crate::os;
use crate::purge;
use crate::size_class::{MAX_SMALL, MIN_ALIGN};
use crate::thread;
use core::ffi::{c_int, c_void};
use core::ptr;
use core::sync::atomic::Ordering::Relaxed;

/// Says that the C functions of the process are these, so that nothing but the program's own
/// calls of sbrk(2) moves the break.
///
/// # Safety
/// So it is: another malloc that moves the break at the same time would get the same memory.
pub unsafe fn set_process_malloc() {
    config::set_process_malloc();
}

/// malloc(3).
#[inline(always)]
pub fn malloc(bytes: usize) -> *mut c_void {
    malloc_or(bytes, malloc_slow)
}

/// As [`malloc`], with the caller's own way out of the fast path, which calls [`malloc_slow`].
#[inline(always)]
pub fn malloc_or(bytes: usize, slow: impl FnOnce(usize) -> *mut c_void) -> *mut c_void {
    malloc::malloc_or(bytes, |bytes| slow(bytes).cast()).cast()
}

/// What [`malloc`] does beyond its fast path.
#[cold]
#[inline(never)]
pub fn malloc_slow(bytes: usize) -> *mut c_void {
    if PERTURB.load(Relaxed) != 0 {
        malloc_filled(bytes)
    } else {
        malloc::malloc_slow(bytes).cast()
    }
}

/// Apart from [`malloc_slow`], which then has nothing to do after the call.
#[cold]
#[inline(never)]
fn malloc_filled(bytes: usize) -> *mut c_void {
    served(malloc::malloc_slow(bytes), bytes).cast()
}

/// What a slow path hands out: filled if `M_PERTURB` asks for that.
#[cold]
#[inline(never)]
fn served(block: *mut u8, bytes: usize) -> *mut u8 {
    let perturb = PERTURB.load(Relaxed);
    if perturb != 0 && !block.is_null() {
        // SAFETY: the block holds so many bytes.
        unsafe { block.write_bytes(!perturb, bytes) };
    }
    block
}

/// free(3). Keeps `errno`.
///
/// # Safety
/// The block is the caller's, who does not use it any more.
#[inline(always)]
pub unsafe fn free(block: *mut c_void) {
    // SAFETY: the caller's contract.
    unsafe { malloc::free_or(block.cast(), |block| free_slow(block)) }
}

/// # Safety
/// As for [`free`].
#[cold]
#[inline(never)]
unsafe fn free_slow(block: *mut u8) {
    // SAFETY: the caller's contract.
    unsafe {
        if PERTURB.load(Relaxed) == 0 {
            malloc::free_beyond_fast_path(block);
        } else {
            free_filled(block);
        }
    }
}

/// Fills a block that is freed, as `M_PERTURB` asks, and frees it.
///
/// # Safety
/// As for [`free`].
#[cold]
#[inline(never)]
unsafe fn free_filled(block: *mut u8) {
    // SAFETY: the caller's contract; the size ends the process unless the block is in use.
    unsafe {
        if !block.is_null() {
            let bytes = malloc::usable_size(block, Misuse::InvalidFree);
            block.write_bytes(PERTURB.load(Relaxed), bytes);
        }
        malloc::free_slow(block);
    }
}

/// calloc(3).
pub fn calloc(count: usize, size: usize) -> *mut c_void {
    let Some(bytes) = count.checked_mul(size) else {
        return or_enomem(ptr::null_mut()).cast();
    };
    if bytes > MAX_SMALL {
        return malloc::calloc(bytes).cast();
    }
    let block = malloc(bytes);
    if !block.is_null() {
        // SAFETY: the block holds so many bytes.
        unsafe { block.cast::<u8>().write_bytes(0, bytes) };
    }
    block
}

/// realloc(3), as glibc has it: `realloc(p, 0)` frees and returns NULL.
///
/// # Safety
/// The block is null or the caller's, who uses only the returned one afterwards.
pub unsafe fn realloc(block: *mut c_void, bytes: usize) -> *mut c_void {
    if block.is_null() {
        return malloc(bytes);
    }
    // SAFETY: the caller's contract.
    unsafe {
        if bytes == 0 {
            malloc::usable_size(block.cast(), Misuse::InvalidRealloc);
            free(block);
            return ptr::null_mut();
        }
        if PERTURB.load(Relaxed) != 0 {
            return realloc_filled(block.cast(), bytes).cast();
        }
        malloc::realloc(block.cast(), bytes, MIN_ALIGN).cast()
    }
}

/// [`realloc`] where `M_PERTURB` asks that what a block gets is filled.
///
/// # Safety
/// The block is the caller's, who uses only the returned one afterwards.
#[cold]
#[inline(never)]
unsafe fn realloc_filled(block: *mut u8, bytes: usize) -> *mut u8 {
    // SAFETY: the caller's contract; the size ends the process unless the block is in use.
    unsafe {
        let old = malloc::usable_size(block, Misuse::InvalidRealloc);
        let new = malloc::realloc(block, bytes, MIN_ALIGN);
        if !new.is_null() && bytes > old {
            new.add(old).write_bytes(!PERTURB.load(Relaxed), bytes - old);
        }
        new
    }
}

/// reallocarray(3).
///
/// # Safety
/// As for [`realloc`].
pub unsafe fn reallocarray(block: *mut c_void, count: usize, size: usize) -> *mut c_void {
    match count.checked_mul(size) {
        // SAFETY: the caller's contract.
        Some(bytes) => unsafe { realloc(block, bytes) },
        None => or_enomem(ptr::null_mut()).cast(),
    }
}

fn aligned(align: usize, bytes: usize) -> *mut c_void {
    served(malloc::malloc_aligned(bytes, align), bytes).cast()
}

/// posix_memalign(3): 0, EINVAL or ENOMEM; leaves `errno` alone, and `*place` on an error.
///
/// # Safety
/// `place` is valid for writes.
pub unsafe fn posix_memalign(place: *mut *mut c_void, align: usize, bytes: usize) -> c_int {
    if !align.is_power_of_two() || !align.is_multiple_of(size_of::<*mut c_void>()) {
        return libc::EINVAL;
    }
    let saved = os::errno();
    let block = served(malloc::malloc_aligned(bytes, align), bytes);
    os::set_errno(saved);
    if block.is_null() {
        return libc::ENOMEM;
    }
    // SAFETY: the caller's contract.
    unsafe { *place = block.cast() };
    0
}

/// aligned_alloc(3): NULL and EINVAL unless the alignment is a power of two.
pub fn aligned_alloc(align: usize, bytes: usize) -> *mut c_void {
    if !align.is_power_of_two() {
        os::set_errno(libc::EINVAL);
        return ptr::null_mut();
    }
    aligned(align, bytes)
}

/// memalign(3): rounds the alignment up to a power of two.
pub fn memalign(align: usize, bytes: usize) -> *mut c_void {
    match align.checked_next_power_of_two() {
        Some(align) => aligned(align, bytes),
        None => {
            os::set_errno(libc::EINVAL);
            ptr::null_mut()
        }
    }
}

/// valloc(3): at a multiple of the page size.
pub fn valloc(bytes: usize) -> *mut c_void {
    aligned(os::page_size(), bytes)
}

/// pvalloc(3): whole pages, ENOMEM where rounding up overflows.
pub fn pvalloc(bytes: usize) -> *mut c_void {
    match os::round_up(bytes, os::page_size()) {
        Some(bytes) => aligned(os::page_size(), bytes),
        None => or_enomem(ptr::null_mut()).cast(),
    }
}

/// malloc_usable_size(3): 0 for null.
///
/// # Safety
/// The block is null or in use by the caller.
pub unsafe fn malloc_usable_size(block: *mut c_void) -> usize {
    if block.is_null() {
        return 0;
    }
    // SAFETY: the caller's contract.
    unsafe { malloc::usable_size(block.cast(), Misuse::InvalidSize) }
}

/// malloc_trim(3): 1 if memory went back to the kernel. After many in some milliseconds, 0 where little is free.
pub fn malloc_trim(pad: usize) -> c_int {
    thread::come_back();
    c_int::from(purge::trim_on_demand(pad) > 0)
}

/// mallopt(3): 1 when the parameter is known and the value allowed. `M_MXFAST`, `M_CHECK_ACTION`
/// and `M_ARENA_TEST` are accepted and change nothing. `M_PERTURB` takes effect for the calling
/// thread and for threads that start later.
pub fn mallopt(parameter: c_int, value: c_int) -> c_int {
    const M_TRIM_THRESHOLD: c_int = -1;
    const M_TOP_PAD: c_int = -2;
    const M_MMAP_THRESHOLD: c_int = -3;
    const M_MMAP_MAX: c_int = -4;
    const M_CHECK_ACTION: c_int = -5;
    const M_PERTURB: c_int = -6;
    const M_ARENA_TEST: c_int = -7;
    const M_ARENA_MAX: c_int = -8;
    const M_MXFAST: c_int = 1;
    // glibc takes the value as a size_t: -1 means "never".
    let amount = usize::try_from(value).unwrap_or(usize::MAX);
    let (key, amount) = match parameter {
        M_TRIM_THRESHOLD => (Key::TrimThreshold, amount),
        M_TOP_PAD => (Key::TopPad, amount),
        M_MMAP_THRESHOLD => (Key::MmapThreshold, amount),
        M_MMAP_MAX => (Key::MmapMax, usize::try_from(value).unwrap_or(0)),
        M_ARENA_MAX if value >= 0 => (Key::Arenas, amount),
        M_PERTURB => (Key::Perturb, usize::from(value as u8)),
        M_MXFAST if (0..=160).contains(&value) => return 1,
        M_ARENA_TEST | M_CHECK_ACTION => return 1,
        _ => return 0,
    };
    let done = config::set(key, amount, Origin::Mallopt);
    if key == Key::Perturb {
        thread::drop_cache();
    }
    c_int::from(done)
}
