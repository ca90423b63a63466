//! malloc(3) and its kin.

use arenite_core::c_api;
use core::ffi::{c_int, c_void};

/// malloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn malloc(bytes: usize) -> *mut c_void {
    c_api::malloc(bytes)
}

/// free(3).
///
/// # Safety
/// As the man page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free(block: *mut c_void) {
    // SAFETY: the caller's contract.
    unsafe { c_api::free(block) }
}

/// calloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn calloc(count: usize, size: usize) -> *mut c_void {
    c_api::calloc(count, size)
}

/// realloc(3).
///
/// # Safety
/// As the man page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn realloc(block: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: the caller's contract.
    unsafe { c_api::realloc(block, bytes) }
}

/// reallocarray(3).
///
/// # Safety
/// As the man page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn reallocarray(
    block: *mut c_void,
    count: usize,
    size: usize,
) -> *mut c_void {
    // SAFETY: the caller's contract.
    unsafe { c_api::reallocarray(block, count, size) }
}

/// posix_memalign(3).
///
/// # Safety
/// `place` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn posix_memalign(
    place: *mut *mut c_void,
    align: usize,
    bytes: usize,
) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { c_api::posix_memalign(place, align, bytes) }
}

/// glibc's other name of [`posix_memalign`].
///
/// # Safety
/// `place` is valid for writes.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __posix_memalign(
    place: *mut *mut c_void,
    align: usize,
    bytes: usize,
) -> c_int {
    // SAFETY: the caller's contract.
    unsafe { c_api::posix_memalign(place, align, bytes) }
}

/// aligned_alloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn aligned_alloc(align: usize, bytes: usize) -> *mut c_void {
    c_api::aligned_alloc(align, bytes)
}

/// memalign(3).
#[unsafe(no_mangle)]
pub extern "C" fn memalign(align: usize, bytes: usize) -> *mut c_void {
    c_api::memalign(align, bytes)
}

/// valloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn valloc(bytes: usize) -> *mut c_void {
    c_api::valloc(bytes)
}

/// pvalloc(3).
#[unsafe(no_mangle)]
pub extern "C" fn pvalloc(bytes: usize) -> *mut c_void {
    c_api::pvalloc(bytes)
}

/// malloc_usable_size(3).
///
/// # Safety
/// As the man page says.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_usable_size(block: *mut c_void) -> usize {
    // SAFETY: the caller's contract.
    unsafe { c_api::malloc_usable_size(block) }
}

/// cfree(3), free's old other name.
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn cfree(block: *mut c_void) {
    // SAFETY: the caller's contract.
    unsafe { c_api::free(block) }
}

/// C23's free_sized.
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_sized(block: *mut c_void, _bytes: usize) {
    // SAFETY: the caller's contract.
    unsafe { c_api::free(block) }
}

/// C23's free_aligned_sized.
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn free_aligned_sized(block: *mut c_void, _align: usize, _bytes: usize) {
    // SAFETY: the caller's contract.
    unsafe { c_api::free(block) }
}

/// glibc's inner name of [`malloc`].
#[unsafe(no_mangle)]
pub extern "C" fn __libc_malloc(bytes: usize) -> *mut c_void {
    c_api::malloc(bytes)
}

/// glibc's inner name of [`calloc`].
#[unsafe(no_mangle)]
pub extern "C" fn __libc_calloc(count: usize, size: usize) -> *mut c_void {
    c_api::calloc(count, size)
}

/// glibc's inner name of [`realloc`].
///
/// # Safety
/// As for [`realloc`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_realloc(block: *mut c_void, bytes: usize) -> *mut c_void {
    // SAFETY: the caller's contract.
    unsafe { c_api::realloc(block, bytes) }
}

/// glibc's inner name of [`free`].
///
/// # Safety
/// As for [`free`].
#[unsafe(no_mangle)]
pub unsafe extern "C" fn __libc_free(block: *mut c_void) {
    // SAFETY: the caller's contract.
    unsafe { c_api::free(block) }
}

/// glibc's inner name of [`memalign`].
#[unsafe(no_mangle)]
pub extern "C" fn __libc_memalign(align: usize, bytes: usize) -> *mut c_void {
    c_api::memalign(align, bytes)
}

/// glibc's inner name of [`valloc`].
#[unsafe(no_mangle)]
pub extern "C" fn __libc_valloc(bytes: usize) -> *mut c_void {
    c_api::valloc(bytes)
}

/// glibc's inner name of [`pvalloc`].
#[unsafe(no_mangle)]
pub extern "C" fn __libc_pvalloc(bytes: usize) -> *mut c_void {
    c_api::pvalloc(bytes)
}
