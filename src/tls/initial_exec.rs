//! The word as an initial-exec variable: two instructions. One such access marks the whole of a library, and
//! puts all its thread-local variables into glibc's reserve if it comes by `dlopen`.

use crate::tcache::Tcache;
use core::arch::asm;
use core::sync::atomic::AtomicPtr;

/// The thread's cache, or the empty cache before the thread's first slow path and after its
/// end.
#[inline(always)]
pub fn get() -> *mut Tcache {
    let tcache: *mut Tcache;
    // SAFETY: reads the thread's own word; it has no other effect. Not `pure`: it changes.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "mov {0}, qword ptr [rip + arenite_tcache_slot@GOTTPOFF]",
            "mov {0}, qword ptr fs:[{0}]",
            out(reg) tcache,
            options(nostack, preserves_flags, readonly)
        );
        #[cfg(target_arch = "aarch64")]
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
pub fn address() -> *mut AtomicPtr<Tcache> {
    let address: *mut AtomicPtr<Tcache>;
    // SAFETY: computes an address; %fs:0 holds that of the thread's TLS (psABI), as tpidr_el0 does.
    unsafe {
        #[cfg(target_arch = "x86_64")]
        asm!(
            "mov {0}, qword ptr [rip + arenite_tcache_slot@GOTTPOFF]",
            "add {0}, qword ptr fs:[0]",
            out(reg) address,
            options(nostack, readonly)
        );
        #[cfg(target_arch = "aarch64")]
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
