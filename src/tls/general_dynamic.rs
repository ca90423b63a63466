//! The word as a general-dynamic variable, which needs nothing of glibc's reserve: for a Rust library that comes by
//! `dlopen`. What glibc allocates at a thread's first access comes from the process's own malloc, which such
//! a library is not.

use crate::tcache::Tcache;
use core::arch::asm;
use core::sync::atomic::AtomicPtr;
use core::sync::atomic::Ordering::Relaxed;

/// The thread's cache, or the empty cache before the thread's first slow path and after its
/// end.
#[inline(always)]
pub fn get() -> *mut Tcache {
    // SAFETY: the thread's own word. Relaxed: the thread itself reads it.
    unsafe { (*address()).load(Relaxed) }
}

/// Where the calling thread's word lies: for others to write, too, until the thread ends.
pub fn address() -> *mut AtomicPtr<Tcache> {
    let address: *mut AtomicPtr<Tcache>;
    // SAFETY: on x86_64, calls `__tls_get_addr` by the sequence of the psABI, which linkers know; on aarch64 the
    // descriptor's function by the sequence of the ABI for it, which returns an offset in x0 and changes no other
    // register but x1 and the link.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            ".byte 0x66",
            "lea rdi, [rip + arenite_tcache_slot@TLSGD]",
            ".byte 0x66, 0x66",
            "rex64",
            "call __tls_get_addr@PLT",
            out("rax") address,
            clobber_abi("C"),
        );
        #[cfg(target_arch = "aarch64")]
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
