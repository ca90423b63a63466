//! `libarenite.so`: the C allocation functions, and C++'s operators new and delete, on Arenite.
//!
//! Everything here forwards to the core. The library links nothing but libc.
// Under `cargo test` the crate is compiled with unwinding, where a crate without std can not be.
#![cfg_attr(panic = "abort", no_std)]

mod c;
mod cxx;
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
}

#[used]
#[unsafe(link_section = ".init_array")]
static AT_START: extern "C" fn() = at_start;

/// Runs at the normal end of the process, after the handlers of atexit(3).
extern "C" fn at_exit() {
    arenite_core::stats::write_report_if_asked();
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;
