//! C++'s replaceable operators new and delete (the standard's [new.delete]), under the names of
//! the Itanium ABI for 64-bit `size_t`.
//!
//! The throwing forms call the new-handler until memory is found, and without one throw
//! `std::bad_alloc`. Handler and throw are libstdc++'s or libc++'s own, looked up only when
//! memory is out, since a C program has neither.

use arenite_core::c_api;
use core::ffi::{CStr, c_void};

/// The C++ runtime's function of this name, if the process has one.
fn runtime(name: &CStr) -> *mut c_void {
    // SAFETY: the name is a C string. (dlsym may allocate for its error message; then malloc is
    // entered anew, which is fine: no lock is held.)
    unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) }
}

/// The new-handler in force, or null.
extern "C" fn new_handler() -> *mut c_void {
    let get = runtime(c"_ZSt15get_new_handlerv");
    if get.is_null() {
        return get;
    }
    // SAFETY: std::get_new_handler() has this type, no precondition, and throws nothing.
    unsafe {
        let get: unsafe extern "C" fn() -> *mut c_void = core::mem::transmute(get);
        get()
    }
}

/// The runtime's helper that throws `std::bad_alloc`; what ends the process without one.
extern "C" fn bad_alloc_thrower() -> *mut c_void {
    let throw = runtime(c"_ZSt17__throw_bad_allocv");
    if throw.is_null() { libc::abort as *mut c_void } else { throw }
}

/// memalign(3) with the arguments in operator new's order.
extern "C" fn allocate_aligned(bytes: usize, align: usize) -> *mut c_void {
    c_api::memalign(align, bytes)
}

extern "C" fn allocate(bytes: usize, _: usize) -> *mut c_void {
    c_api::malloc(bytes)
}

/// The way of a throwing operator new that found no memory: calls the new-handler and tries
/// again until there is memory or no handler is left, then throws.
///
/// In assembly because handler and thrower unwind through these frames, which Rust's own can
/// not let pass when panics abort; and so that the frames have unwind information.
macro_rules! retry {
    ($name:ident, $allocate:ident) => {
        #[cfg(target_arch = "x86_64")]
        #[unsafe(naked)]
        unsafe extern "C" fn $name(bytes: usize, align: usize) -> *mut c_void {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "push rbx",
                ".cfi_adjust_cfa_offset 8",
                ".cfi_rel_offset rbx, 0",
                "push rbp",
                ".cfi_adjust_cfa_offset 8",
                ".cfi_rel_offset rbp, 0",
                "sub rsp, 8",
                ".cfi_adjust_cfa_offset 8",
                "mov rbx, rdi",
                "mov rbp, rsi",
                "2: call {handler}",
                "test rax, rax",
                "je 3f",
                "call rax",
                "mov rdi, rbx",
                "mov rsi, rbp",
                "call {allocate}",
                "test rax, rax",
                "je 2b",
                "jmp 4f",
                "3:",
                "call {throw}",
                "4: add rsp, 8",
                ".cfi_adjust_cfa_offset -8",
                "pop rbp",
                ".cfi_adjust_cfa_offset -8",
                "pop rbx",
                ".cfi_adjust_cfa_offset -8",
                "ret",
                ".cfi_endproc",
                handler = sym new_handler,
                allocate = sym $allocate,
                throw = sym throw,
            )
        }

        /// Without the assembly, memory that is out ends the process.
        #[cfg(not(target_arch = "x86_64"))]
        unsafe extern "C" fn $name(bytes: usize, align: usize) -> *mut c_void {
            let block = $allocate(bytes, align);
            if block.is_null() {
                // SAFETY: no precondition.
                unsafe { libc::abort() }
            }
            block
        }
    };
}

/// Calls the thrower, which does not return.
#[cfg(target_arch = "x86_64")]
#[unsafe(naked)]
unsafe extern "C" fn throw() {
    core::arch::naked_asm!(
        ".cfi_startproc",
        "sub rsp, 8",
        ".cfi_adjust_cfa_offset 8",
        "call {thrower}",
        "add rsp, 8",
        ".cfi_adjust_cfa_offset -8",
        "jmp rax",
        ".cfi_endproc",
        thrower = sym bad_alloc_thrower,
    )
}

retry!(retry_or_throw, allocate);
retry!(retry_aligned_or_throw, allocate_aligned);

/// The way of a nothrow operator new that found no memory: the C++ runtime's own operator of
/// this name, which calls the throwing form and returns null for whatever that throws. Null
/// without a runtime.
macro_rules! retry_nothrow {
    ($($name:ident($($align:ident)?) = $symbol:literal;)*) => {$(
        unsafe extern "C" fn $name(bytes: usize, _align: usize) -> *mut c_void {
            // SAFETY: the name is a C string; an operator of this name has this type, and
            // throws nothing.
            unsafe {
                let next = libc::dlsym(libc::RTLD_NEXT, $symbol.as_ptr());
                if next.is_null() {
                    return next;
                }
                type Operator = unsafe extern "C" fn(
                    usize $(, retry_nothrow!(@type $align))?, *const u8
                ) -> *mut c_void;
                let next: Operator = core::mem::transmute(next);
                // The nothrow_t is an empty object; only its type counts.
                let nothrow = 0u8;
                next(bytes $(, retry_nothrow!(@value $align _align))?, &raw const nothrow)
            }
        }
    )*};
    (@type $align:ident) => { usize };
    (@value $align:ident $value:ident) => { $value };
}

retry_nothrow! {
    retry_new() = c"_ZnwmRKSt9nothrow_t";
    retry_new_array() = c"_ZnamRKSt9nothrow_t";
    retry_aligned_new(align) = c"_ZnwmSt11align_val_tRKSt9nothrow_t";
    retry_aligned_new_array(align) = c"_ZnamSt11align_val_tRKSt9nothrow_t";
}

macro_rules! new {
    ($($name:ident($($align:ident)?) = $allocate:ident or $retry:ident;)*) => {$(
        /// An operator new.
        ///
        /// # Safety
        /// May throw; otherwise none.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(bytes: usize $(, $align: usize)?) -> *mut c_void {
            let align = 0 $(+ $align)?;
            let block = $allocate(bytes, align);
            if block.is_null() {
                // The last thing this function does: a jump, so that no frame of it is in the
                // way of an exception.
                // SAFETY: no precondition.
                return unsafe { $retry(bytes, align) };
            }
            block
        }
    )*};
}

// The nothrow_t of the nothrow forms comes last and is not looked at.
new! {
    _Znwm() = allocate or retry_or_throw;
    _Znam() = allocate or retry_or_throw;
    _ZnwmSt11align_val_t(align) = allocate_aligned or retry_aligned_or_throw;
    _ZnamSt11align_val_t(align) = allocate_aligned or retry_aligned_or_throw;
    _ZnwmRKSt9nothrow_t() = allocate or retry_new;
    _ZnamRKSt9nothrow_t() = allocate or retry_new_array;
    _ZnwmSt11align_val_tRKSt9nothrow_t(align) = allocate_aligned or retry_aligned_new;
    _ZnamSt11align_val_tRKSt9nothrow_t(align) = allocate_aligned or retry_aligned_new_array;
}

macro_rules! delete {
    ($($name:ident)*) => {$(
        /// An operator delete. Sizes and alignments are not needed to find the block.
        ///
        /// # Safety
        /// The block is null or came from the matching operator new, and is not used any more.
        #[unsafe(no_mangle)]
        pub unsafe extern "C" fn $name(block: *mut c_void) {
            // SAFETY: the caller's contract.
            unsafe { c_api::free(block) }
        }
    )*};
}

delete! {
    _ZdlPv _ZdaPv _ZdlPvm _ZdaPvm
    _ZdlPvSt11align_val_t _ZdaPvSt11align_val_t _ZdlPvmSt11align_val_t _ZdaPvmSt11align_val_t
    _ZdlPvRKSt9nothrow_t _ZdaPvRKSt9nothrow_t
    _ZdlPvSt11align_val_tRKSt9nothrow_t _ZdaPvSt11align_val_tRKSt9nothrow_t
}
