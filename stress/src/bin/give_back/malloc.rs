//! The malloc of this process, and whose it is.

use std::alloc::{GlobalAlloc, Layout};
use std::ffi::{CStr, c_void};
use std::mem::MaybeUninit;

/// C's `malloc` and `free`, as they are bound in this process: the preloaded library's, or
/// libc's. Alignments beyond C's are not served.
pub struct Malloc;

/// The largest alignment that C's malloc gives by itself.
const ALIGNMENT: usize = 16;

// SAFETY: malloc gives blocks of the size and alignment asked for, or null, and keeps them until
// they are freed.
unsafe impl GlobalAlloc for Malloc {
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        assert!(layout.align() <= ALIGNMENT, "malloc aligns to {ALIGNMENT}");
        // SAFETY: malloc has no precondition.
        unsafe { libc::malloc(layout.size()) }.cast()
    }

    unsafe fn dealloc(&self, block: *mut u8, _: Layout) {
        // SAFETY: the caller's promise: the block is malloc's, and ends here.
        unsafe { libc::free(block.cast()) };
    }
}

/// The path of the object that this process's `malloc` is in; empty if unknown.
pub fn object() -> String {
    object_of(c"malloc").map(lossy).unwrap_or_default()
}

/// Gives free memory back, if the allocator that serves `malloc` also defines `malloc_trim`.
/// False if it does not; libc's, which would be called otherwise, knows nothing of its memory.
pub fn trim() -> bool {
    let own = object_of(c"malloc_trim").is_some_and(|object| Some(object) == object_of(c"malloc"));
    if own {
        // SAFETY: malloc_trim has no precondition.
        unsafe { libc::malloc_trim(0) };
    }
    own
}

fn lossy(name: &CStr) -> String {
    name.to_string_lossy().into_owned()
}

/// The path of the object that defines a symbol as this process sees it.
fn object_of(symbol: &CStr) -> Option<&'static CStr> {
    let mut found = MaybeUninit::<libc::Dl_info>::zeroed();
    // SAFETY: the name is a string.
    let address: *mut c_void = unsafe { libc::dlsym(libc::RTLD_DEFAULT, symbol.as_ptr()) };
    // SAFETY: `found` is a valid place.
    if address.is_null() || unsafe { libc::dladdr(address, found.as_mut_ptr()) } == 0 {
        return None;
    }
    // SAFETY: on success dladdr filled it, and the name in it is a string of an object that stays
    // loaded, as nothing here unloads any.
    unsafe { Some(CStr::from_ptr(found.assume_init().dli_fname)) }
}
