//! `libarenite.so`: the C allocation functions, and C++'s operators new and delete, on Arenite.
//!
//! Everything here forwards to the core. The library links nothing but libc.
// Under `cargo test` the crate is compiled with unwinding, where a crate without std can not be.
#![cfg_attr(panic = "abort", no_std)]

use core::cell::UnsafeCell;
use core::ffi::{CStr, c_char};

mod c;
mod cxx;
mod deepbind;
mod info;

#[cfg(panic = "abort")]
#[panic_handler]
fn panic(_: &core::panic::PanicInfo<'_>) -> ! {
    // SAFETY: abort has no precondition.
    unsafe { libc::abort() }
}

#[link(name = "c")]
unsafe extern "C" {}

/// Whether this library's `malloc` is the process's: it was preloaded, or the program is linked
/// with it. One that dlopen(3) brought stands beside another malloc.
fn is_process_malloc() -> bool {
    unsafe extern "C" {
        // Where the library's own code begins and ends; the linker defines them.
        static __ehdr_start: u8;
        static etext: u8;
    }
    // Through the dynamic symbol table, like any caller's.
    let malloc = libc::malloc as *const () as usize;
    ((&raw const __ehdr_start).addr()..(&raw const etext).addr()).contains(&malloc)
}

/// Runs when the library is loaded.
extern "C" fn at_start() {
    if is_process_malloc() {
        // SAFETY: it was looked up just now.
        unsafe { arenite_core::c_api::set_process_malloc() };
    }
    remember_report();
}

/// Where the report goes: a C string, empty for none. A copy of the environment's, since programs free that, as
/// php does, or write over it; not in a block, since the report counts those.
struct Pattern(UnsafeCell<[u8; 1024]>);

// SAFETY: written by `at_start` alone, before the program runs, and read by `at_exit`.
unsafe impl Sync for Pattern {}

static REPORT: Pattern = Pattern(UnsafeCell::new([0; 1024]));

fn remember_report() {
    unsafe extern "C" {
        /// secure_getenv(3).
        fn secure_getenv(name: *const c_char) -> *const c_char;
    }
    // SAFETY: the name is a C string, and so is what is found; nobody changes the environment yet.
    unsafe {
        // Null in a set-user-ID program: it writes no file for who started it.
        let pattern = secure_getenv(c"ARENITE_REPORT".as_ptr());
        if pattern.is_null() {
            return;
        }
        let pattern = CStr::from_ptr(pattern).to_bytes_with_nul();
        // What is too long names no file.
        if let Some(place) = (&mut *REPORT.0.get()).get_mut(..pattern.len()) {
            place.copy_from_slice(pattern);
        }
    }
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

/// Runs at the normal end of the process, after the handlers of atexit(3).
extern "C" fn at_exit() {
    // SAFETY: nobody writes to it any more.
    if let Ok(pattern) = CStr::from_bytes_until_nul(unsafe { &*REPORT.0.get() })
        && !pattern.is_empty()
    {
        arenite_core::stats::write_report(pattern);
    }
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;
