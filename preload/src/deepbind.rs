//! dlopen(3) without `RTLD_DEEPBIND`.
//!
//! An object that is opened with this flag finds names in what it needs itself before it finds those of the
//! program and of what was preloaded. It needs libc, and so calls libc's `free`, also for what libc's `strdup` took
//! from here. PHP opens its extensions so. No `malloc` can be found there; so the flag goes, and
//! everything else is as the caller wants it.

use core::ffi::{c_char, c_int, c_void};

/// The dlopen that follows this library's.
extern "C" fn next_dlopen() -> *mut c_void {
    // SAFETY: the name is a C string.
    let next = unsafe { libc::dlsym(libc::RTLD_NEXT, c"dlopen".as_ptr()) };
    // Before glibc 2.34 a process may have none.
    if next.is_null() { no_dlopen as *mut c_void } else { next }
}

extern "C" fn no_dlopen(_file: *const c_char, _mode: c_int) -> *mut c_void {
    core::ptr::null_mut()
}

/// dlopen(3), for which `RTLD_DEEPBIND` is nothing.
///
/// In assembly because it ends with a jump: libc looks at where it is called from to know whose search path
/// and namespace count.
///
/// # Safety
/// As for libc's.
#[unsafe(naked)]
#[unsafe(no_mangle)]
pub unsafe extern "C" fn dlopen(file: *const c_char, mode: c_int) -> *mut c_void {
    #[cfg(target_arch = "x86_64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "push rdi",
        ".cfi_adjust_cfa_offset 8",
        "push rsi",
        ".cfi_adjust_cfa_offset 8",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call {next}",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "pop rsi",
        ".cfi_adjust_cfa_offset -8",
        "pop rdi",
        ".cfi_adjust_cfa_offset -8",
        "and esi, {kept}",
        "jmp rax",
        ".cfi_endproc",
        next = sym next_dlopen,
        kept = const !libc::RTLD_DEEPBIND,
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-32]!",
        ".cfi_adjust_cfa_offset 32",
        ".cfi_rel_offset x29, 0",
        ".cfi_rel_offset x30, 8",
        "stp x0, x1, [sp, #16]",
        "bl {next}",
        "mov x16, x0",
        "ldp x0, x1, [sp, #16]",
        "ldp x29, x30, [sp], #32",
        ".cfi_adjust_cfa_offset -32",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "and w1, w1, #{kept}",
        "br x16",
        ".cfi_endproc",
        next = sym next_dlopen,
        kept = const !libc::RTLD_DEEPBIND as u32,
    );
}
