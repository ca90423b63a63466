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

/// Runs at the normal end of the process, after the handlers of atexit(3).
extern "C" fn at_exit() {
    arenite_core::stats::write_report_if_asked();
}

#[used]
#[unsafe(link_section = ".fini_array")]
static AT_EXIT: extern "C" fn() = at_exit;
