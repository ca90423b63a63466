//! mallinfo(3), mallopt(3), malloc_trim(3), malloc_stats(3), malloc_info(3), and the settings.

use arenite_core::{c_api, config, stats};
use core::ffi::{c_char, c_int};

unsafe extern "C" {
    fn fwrite(text: *const c_char, size: usize, count: usize, file: *mut libc::FILE) -> usize;
}

/// mallopt(3).
#[unsafe(no_mangle)]
pub extern "C" fn mallopt(parameter: c_int, value: c_int) -> c_int {
    c_api::mallopt(parameter, value)
}

/// malloc_trim(3).
#[unsafe(no_mangle)]
pub extern "C" fn malloc_trim(pad: usize) -> c_int {
    c_api::malloc_trim(pad)
}

/// malloc_stats(3).
#[unsafe(no_mangle)]
pub extern "C" fn malloc_stats() {
    stats::write_summary();
}

/// malloc_info(3).
///
/// # Safety
/// `file` is an open stream.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn malloc_info(options: c_int, file: *mut libc::FILE) -> c_int {
    if options != 0 {
        return libc::EINVAL;
    }
    stats::write_xml(|text| {
        // SAFETY: the caller's contract; no lock of the allocator is held.
        unsafe { fwrite(text.as_ptr().cast(), 1, text.len(), file) };
    });
    0
}

/// mallinfo2(3).
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo2() -> libc::mallinfo2 {
    let figures = stats::collect();
    let (cached_blocks, cached_bytes) = figures.cached_in_heaps();
    libc::mallinfo2 {
        arena: figures.heap_bytes,
        ordblks: figures.free_chunks,
        smblks: cached_blocks,
        hblks: figures.huge_blocks,
        hblkhd: figures.huge_bytes,
        usmblks: 0,
        fsmblks: cached_bytes,
        uordblks: figures.in_use_bytes - figures.huge_bytes.min(figures.in_use_bytes),
        fordblks: figures.free_heap_bytes(),
        keepcost: figures.top_bytes,
    }
}

/// mallinfo(3): as [`mallinfo2`], with figures that wrap beyond an int, as the man page says.
#[unsafe(no_mangle)]
pub extern "C" fn mallinfo() -> libc::mallinfo {
    let wide = mallinfo2();
    libc::mallinfo {
        arena: wide.arena as c_int,
        ordblks: wide.ordblks as c_int,
        smblks: wide.smblks as c_int,
        hblks: wide.hblks as c_int,
        hblkhd: wide.hblkhd as c_int,
        usmblks: wide.usmblks as c_int,
        fsmblks: wide.fsmblks as c_int,
        uordblks: wide.uordblks as c_int,
        fordblks: wide.fordblks as c_int,
        keepcost: wide.keepcost as c_int,
    }
}

/// Writes the settings in force to a file descriptor, one a line: name, default, value, source and
/// meaning, with tabs between. `arenite config` asks for them so.
#[unsafe(no_mangle)]
pub extern "C" fn arenite_write_settings(fd: c_int) {
    config::write_lines(fd);
}
