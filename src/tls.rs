//! The thread's word: a pointer to its thread cache. Beside it lies a count that slow paths use.
//!
//! A 16-byte initial-exec TLS symbol, since `thread_local!` in a cdylib would call
//! `__tls_get_addr` on every access, and static TLS is scarce in a library that may come by
//! `dlopen`. Its initial value points at a constant empty cache, so readers never check for
//! null: everything misses in the empty cache and ends in the slow path, which starts the
//! thread.
//!
//! With the feature `dynamic_tls` it is a general-dynamic one, which needs nothing of glibc's reserve: for a
//! Rust library that comes by `dlopen`. One initial-exec access marks the whole of it, and puts all its
//! thread-local variables there. What glibc allocates at a thread's first access comes from the process's
//! own malloc, which such a library is not.
//!
//! Another thread may turn the word of one that sleeps to the empty cache (`tcache/drain.rs`).

use crate::tcache::{EMPTY, Tcache};
use core::arch::{asm, global_asm};
use core::sync::atomic::AtomicPtr;
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

/// The thread's cache, or the empty cache before the thread's first slow path and after its
/// end.
#[cfg(feature = "dynamic_tls")]
#[inline(always)]
pub fn get() -> *mut Tcache {
    // SAFETY: the thread's own word. Relaxed: the thread itself reads it.
    unsafe { (*address()).load(Relaxed) }
}

/// Where the calling thread's word lies: for others to write, too, until the thread ends.
#[cfg(all(feature = "dynamic_tls", target_arch = "x86_64"))]
pub fn address() -> *mut AtomicPtr<Tcache> {
    let address: *mut AtomicPtr<Tcache>;
    // SAFETY: calls `__tls_get_addr` by the sequence of the psABI, which linkers know.
    unsafe {
        asm!(
            ".byte 0x66",
            "lea rdi, [rip + arenite_tcache_slot@TLSGD]",
            ".byte 0x66, 0x66",
            "rex64",
            "call __tls_get_addr@PLT",
            out("rax") address,
            clobber_abi("C"),
        );
    }
    address
}

/// Where the calling thread's word lies: for others to write, too, until the thread ends.
#[cfg(all(feature = "dynamic_tls", target_arch = "aarch64"))]
pub fn address() -> *mut AtomicPtr<Tcache> {
    let address: *mut AtomicPtr<Tcache>;
    // SAFETY: calls the descriptor's function by the sequence of the ABI for it, which returns an offset in
    // x0 and changes no other register but x1 and the link.
    unsafe {
        asm!(
            "adrp x0, :tlsdesc:arenite_tcache_slot",
            "ldr x1, [x0, :tlsdesc_lo12:arenite_tcache_slot]",
            "add x0, x0, :tlsdesc_lo12:arenite_tcache_slot",
            ".tlsdesccall arenite_tcache_slot",
            "blr x1",
            "mrs x1, tpidr_el0",
            "add x0, x0, x1",
            out("x0") address,
            out("x1") _,
            out("x30") _,
        );
    }
    address
}

/// The thread's cache, or the empty cache before the thread's first slow path and after its
/// end.
#[cfg(all(not(feature = "dynamic_tls"), target_arch = "x86_64"))]
#[inline(always)]
pub fn get() -> *mut Tcache {
    let tcache: *mut Tcache;
    // SAFETY: reads the thread's own word; it has no other effect. Not `pure`: it changes.
    unsafe {
        asm!(
            "mov {0}, qword ptr [rip + arenite_tcache_slot@GOTTPOFF]",
            "mov {0}, qword ptr fs:[{0}]",
            out(reg) tcache,
            options(nostack, preserves_flags, readonly)
        );
    }
    tcache
}

/// Where the calling thread's word lies: for others to write, too, until the thread ends.
#[cfg(all(not(feature = "dynamic_tls"), target_arch = "x86_64"))]
pub fn address() -> *mut AtomicPtr<Tcache> {
    let address: *mut AtomicPtr<Tcache>;
    // SAFETY: computes an address; %fs:0 holds that of the thread's TLS (psABI).
    unsafe {
        asm!(
            "mov {0}, qword ptr [rip + arenite_tcache_slot@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) address,
            options(nostack, readonly)
        );
    }
    address
}

/// The thread's cache, or the empty cache before the thread's first slow path and after its
/// end.
#[cfg(all(not(feature = "dynamic_tls"), target_arch = "aarch64"))]
#[inline(always)]
pub fn get() -> *mut Tcache {
    let tcache: *mut Tcache;
    // SAFETY: as on x86_64.
    unsafe {
        asm!(
            "mrs {1}, tpidr_el0",
            "adrp {0}, :gottprel:arenite_tcache_slot",
            "ldr {0}, [{0}, :gottprel_lo12:arenite_tcache_slot]",
            "ldr {0}, [{1}, {0}]",
            out(reg) tcache,
            out(reg) _,
            options(nostack, preserves_flags, readonly)
        );
    }
    tcache
}

/// Where the calling thread's word lies: for others to write, too, until the thread ends.
#[cfg(all(not(feature = "dynamic_tls"), target_arch = "aarch64"))]
pub fn address() -> *mut AtomicPtr<Tcache> {
    let address: *mut AtomicPtr<Tcache>;
    // SAFETY: as on x86_64.
    unsafe {
        asm!(
            "mrs {1}, tpidr_el0",
            "adrp {0}, :gottprel:arenite_tcache_slot",
            "ldr {0}, [{0}, :gottprel_lo12:arenite_tcache_slot]",
            "add {0}, {1}, {0}",
            out(reg) address,
            out(reg) _,
            options(nostack, preserves_flags, readonly)
        );
    }
    address
}

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
