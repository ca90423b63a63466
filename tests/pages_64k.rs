//! The allocator as it is on a machine whose kernel has pages of 64 KiB.

use std::sync::atomic::Ordering::Relaxed;

#[path = "global_alloc.rs"]
mod global_alloc;
#[path = "pages/mod.rs"]
mod pages;

/// Bytes of a page.
const PAGE: usize = 64 * 1024;

extern "C" fn simulate() {
    arenite::SIMULATED_PAGE.store(PAGE, Relaxed);
}

/// Before the first allocation, which the runtime makes.
#[used]
#[unsafe(link_section = ".init_array")]
static SIMULATE: extern "C" fn() = simulate;
