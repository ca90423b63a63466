//! The thread's word: a pointer to its thread cache. Beside it lies a count that slow paths use.
//!
//! A symbol of 16 bytes, since `thread_local!` in a cdylib would call `__tls_get_addr` on every access, and
//! static TLS is scarce in a library that may come by `dlopen`. The feature `dynamic_tls` chooses how it is accessed.
//! Its initial value points at a constant empty cache, so readers never check for null: everything misses in
//! the empty cache and ends in the slow path, which starts the thread.
//!
//! Another thread may turn the word of one that sleeps to the empty cache (`tcache/drain.rs`).

#[cfg(feature = "dynamic_tls")]
mod general_dynamic;
#[cfg(not(feature = "dynamic_tls"))]
mod initial_exec;
pub mod key;

#[cfg(feature = "dynamic_tls")]
pub use general_dynamic::{address, get};
#[cfg(not(feature = "dynamic_tls"))]
pub use initial_exec::{address, get};

use crate::tcache::{EMPTY, Tcache};
use core::arch::global_asm;
use core::sync::atomic::Ordering::Relaxed;

// The initial image of the TLS block holds the address of EMPTY; the dynamic loader relocates
// the image before any thread is made from it.
global_asm!(
    ".pushsection .tdata.arenite_tcache,\"awT\",@progbits",
    ".globl arenite_tcache_slot",
    ".hidden arenite_tcache_slot",
    ".type arenite_tcache_slot, @tls_object",
    ".size arenite_tcache_slot, 16",
    ".p2align 3",
    "arenite_tcache_slot:",
    ".quad {empty}",
    ".quad 0",
    ".popsection",
    empty = sym EMPTY,
);

/// Sets the thread's cache.
///
/// # Safety
/// `tcache` is the calling thread's alone, or one of the constant empty caches.
pub unsafe fn set(tcache: *mut Tcache) {
    // SAFETY: the thread's own word. Relaxed: the thread itself reads it.
    unsafe { (*address()).store(tcache, Relaxed) };
}

/// How many blocks the calling thread has freed before it had a cache.
pub fn early_frees() -> *mut usize {
    // SAFETY: the symbol has two words.
    unsafe { address().add(1).cast() }
}

#[cfg(not(any(target_arch = "x86_64", target_arch = "aarch64")))]
compile_error!("arenite knows the thread-local access of x86_64 and aarch64 only");
