//! C++'s replaceable operators new and delete (the standard's [new.delete]), under the names of
//! the Itanium ABI for 64-bit `size_t`.
//!
//! The throwing forms call the new-handler until memory is found, and without one throw
//! `std::bad_alloc`. Handler and throw are libstdc++'s or libc++'s own, looked up only when
//! memory is out, since a C program has neither.

use arenite_core::c_api;
use core::ffi::{CStr, c_void};

/// The C++ runtime's function of this name, if the process has one: in the scope that all objects share, else
/// in that of the code at `caller`. A plug-in of a C program, as an extension of Python is, comes by dlopen(3)
/// with a scope of its own, and brings the runtime with it.
fn runtime(name: &CStr, caller: *const c_void) -> *mut c_void {
    // SAFETY: the name is a C string. (dlsym may allocate for its error message; then malloc is
    // entered anew, which is fine: no lock is held.)
    let shared = unsafe { libc::dlsym(libc::RTLD_DEFAULT, name.as_ptr()) };
    if shared.is_null() { in_scope_of(caller, name) } else { shared }
}

/// The function of this name that the object with the code at `caller`, or one that it needs, has; null if there is none,
/// or if it is this library's.
fn in_scope_of(caller: *const c_void, name: &CStr) -> *mut c_void {
    let of_caller = object_of(caller);
    // SAFETY: the path is a string of the dynamic linker's, valid while the object is loaded, which is
    // being executed; so is the name.
    let found = unsafe {
        if of_caller.dli_fname.is_null() {
            return core::ptr::null_mut();
        }
        let object = libc::dlopen(of_caller.dli_fname, libc::RTLD_LAZY | libc::RTLD_NOLOAD);
        if object.is_null() {
            return object;
        }
        let found = libc::dlsym(object, name.as_ptr());
        libc::dlclose(object);
        found
    };
    let is_own = object_of(found).dli_fbase == object_of(in_scope_of as *const c_void).dli_fbase;
    if is_own { core::ptr::null_mut() } else { found }
}

/// The object that an address lies in; all null if there is none.
fn object_of(address: *const c_void) -> libc::Dl_info {
    // SAFETY: all null is valid; dladdr(3) fills it, or leaves it.
    unsafe {
        let mut object = core::mem::zeroed();
        libc::dladdr(address, &raw mut object);
        object
    }
}

/// The new-handler in force for the code at `caller`, or null.
extern "C" fn new_handler(caller: *const c_void) -> *mut c_void {
    let get = runtime(c"_ZSt15get_new_handlerv", caller);
    if get.is_null() {
        return get;
    }
    // SAFETY: std::get_new_handler() has this type, no precondition, and throws nothing.
    unsafe {
        let get: unsafe extern "C" fn() -> *mut c_void = core::mem::transmute(get);
        get()
    }
}

/// The runtime's helper that throws `std::bad_alloc` in the code at `caller`; what ends the process without one.
extern "C" fn bad_alloc_thrower(caller: *const c_void) -> *mut c_void {
    let throw = runtime(c"_ZSt17__throw_bad_allocv", caller);
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
                // What called the operator: this was jumped to.
                "2: mov rdi, [rsp + 24]",
                "call {handler}",
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
                "mov rdi, [rsp + 24]",
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

        #[cfg(target_arch = "aarch64")]
        #[unsafe(naked)]
        unsafe extern "C" fn $name(bytes: usize, align: usize) -> *mut c_void {
            core::arch::naked_asm!(
                ".cfi_startproc",
                "stp x29, x30, [sp, #-48]!",
                ".cfi_adjust_cfa_offset 48",
                ".cfi_rel_offset x29, 0",
                ".cfi_rel_offset x30, 8",
                "stp x19, x20, [sp, #16]",
                ".cfi_rel_offset x19, 16",
                ".cfi_rel_offset x20, 24",
                "str x21, [sp, #32]",
                ".cfi_rel_offset x21, 32",
                "mov x19, x0",
                "mov x20, x1",
                // What called the operator: this was jumped to.
                "mov x21, x30",
                "2: mov x0, x21",
                "bl {handler}",
                "cbz x0, 3f",
                "blr x0",
                "mov x0, x19",
                "mov x1, x20",
                "bl {allocate}",
                "cbz x0, 2b",
                "ldr x21, [sp, #32]",
                "ldp x19, x20, [sp, #16]",
                "ldp x29, x30, [sp], #48",
                ".cfi_remember_state",
                ".cfi_adjust_cfa_offset -48",
                ".cfi_restore x29",
                ".cfi_restore x30",
                ".cfi_restore x19",
                ".cfi_restore x20",
                ".cfi_restore x21",
                "ret",
                ".cfi_restore_state",
                "3: mov x0, x21",
                "bl {throw}",
                "brk #1",
                ".cfi_endproc",
                handler = sym new_handler,
                allocate = sym $allocate,
                throw = sym throw,
            )
        }
    };
}

/// Calls the thrower for the code at the address that it is given, which does not return.
#[unsafe(naked)]
unsafe extern "C" fn throw() {
    #[cfg(target_arch = "x86_64")]
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
    );
    #[cfg(target_arch = "aarch64")]
    core::arch::naked_asm!(
        ".cfi_startproc",
        "stp x29, x30, [sp, #-16]!",
        ".cfi_adjust_cfa_offset 16",
        ".cfi_rel_offset x29, 0",
        ".cfi_rel_offset x30, 8",
        "bl {thrower}",
        "ldp x29, x30, [sp], #16",
        ".cfi_adjust_cfa_offset -16",
        ".cfi_restore x29",
        ".cfi_restore x30",
        "br x0",
        ".cfi_endproc",
        thrower = sym bad_alloc_thrower,
    );
}

retry!(retry_or_throw, allocate);
retry!(retry_aligned_or_throw, allocate_aligned);

/// The block, or what `retry` finds. The last thing of an operator new: a jump, so that no frame of it is in the way of an
/// exception.
#[inline(always)]
unsafe fn or_retry(
    block: *mut c_void,
    retry: unsafe extern "C" fn(usize, usize) -> *mut c_void,
    bytes: usize,
    align: usize,
) -> *mut c_void {
    // SAFETY: no precondition.
    if block.is_null() { unsafe { retry(bytes, align) } } else { block }
}

/// operator new(size_t).
///
/// # Safety
/// May throw; otherwise none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _Znwm(bytes: usize) -> *mut c_void {
    // SAFETY: no precondition.
    c_api::malloc_or(bytes, |bytes| unsafe { new_slow(bytes) })
}

/// Jumped to by operator new(size_t).
#[cold]
#[inline(never)]
unsafe extern "C" fn new_slow(bytes: usize) -> *mut c_void {
    // SAFETY: no precondition.
    unsafe { or_retry(c_api::malloc_slow(bytes), retry_or_throw, bytes, 0) }
}

/// operator new(size_t, align_val_t).
///
/// # Safety
/// May throw; otherwise none.
#[unsafe(no_mangle)]
pub unsafe extern "C" fn _ZnwmSt11align_val_t(bytes: usize, align: usize) -> *mut c_void {
    // SAFETY: no precondition.
    unsafe { or_retry(allocate_aligned(bytes, align), retry_aligned_or_throw, bytes, align) }
}

macro_rules! delete {
    ($($name:ident)*) => {$(
        /// An operator delete. The alignment is not needed to find the block.
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

delete! { _ZdlPv _ZdlPvSt11align_val_t }

/// The other forms call these, as the standard has it: a program may have replaced them by its own, and them alone.
/// So the jump leads to whatever the dynamic linker found under the name.
macro_rules! forward {
    ($($name:ident = $other:literal $($arguments:ident)?;)*) => {$(
        /// An operator new or delete that calls another one.
        ///
        /// # Safety
        /// That one's.
        #[unsafe(no_mangle)]
        #[unsafe(naked)]
        pub unsafe extern "C" fn $name() {
            #[cfg(target_arch = "x86_64")]
            core::arch::naked_asm!(
                $(forward!(@$arguments "mov rsi, rdx"),)?
                concat!("jmp qword ptr [rip + ", $other, "@GOTPCREL]"),
            );
            #[cfg(target_arch = "aarch64")]
            core::arch::naked_asm!(
                $(forward!(@$arguments "mov x1, x2"),)?
                concat!("adrp x16, :got:", $other),
                concat!("ldr x16, [x16, :got_lo12:", $other, "]"),
                "br x16",
            );
        }
    )*};
    // The third argument, an alignment, becomes the second one, which was a size.
    (@without_size $move:literal) => { $move };
}

// libstdc++ and libc++ have the nothrow forms of new: they catch what the throwing form throws, and call that of the
// same name.
forward! {
    _Znam = "_Znwm";
    _ZnamSt11align_val_t = "_ZnwmSt11align_val_t";
    _ZdaPv = "_ZdlPv";
    _ZdlPvm = "_ZdlPv";
    _ZdaPvm = "_ZdaPv";
    _ZdlPvRKSt9nothrow_t = "_ZdlPv";
    _ZdaPvRKSt9nothrow_t = "_ZdaPv";
    _ZdaPvSt11align_val_t = "_ZdlPvSt11align_val_t";
    _ZdlPvmSt11align_val_t = "_ZdlPvSt11align_val_t" without_size;
    _ZdaPvmSt11align_val_t = "_ZdaPvSt11align_val_t" without_size;
    _ZdlPvSt11align_val_tRKSt9nothrow_t = "_ZdlPvSt11align_val_t";
    _ZdaPvSt11align_val_tRKSt9nothrow_t = "_ZdaPvSt11align_val_t";
}
