//! The command's own allocator: Arenite, or the system's where the demonstration measures that.

use arenite_core::Arenite;
use std::alloc::{GlobalAlloc, Layout, System};
use std::sync::atomic::{AtomicU8, Ordering::Relaxed};

/// The environment variable that chooses: `system` is the system's allocator, all else Arenite.
pub const VARIABLE: &str = "ARENITE_DEMO_ALLOCATOR";
const VARIABLE_C: &std::ffi::CStr = c"ARENITE_DEMO_ALLOCATOR";

/// What serves this process.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Choice {
    Arenite,
    System,
}

impl Choice {
    /// The name in the environment variable.
    pub fn name(self) -> &'static str {
        match self {
            Self::Arenite => "arenite",
            Self::System => "system",
        }
    }

    /// The name in what people read.
    pub fn title(self) -> &'static str {
        match self {
            Self::Arenite => "Arenite",
            Self::System => "system",
        }
    }
}

const UNDECIDED: u8 = 0;
const ARENITE: u8 = 1;
const SYSTEM: u8 = 2;

/// Decided at the first allocation, and never again: a block goes back to where it came from.
static CHOICE: AtomicU8 = AtomicU8::new(UNDECIDED);

/// The allocator that serves this process. Decides if that is open yet.
pub fn choice() -> Choice {
    if is_system() { Choice::System } else { Choice::Arenite }
}

#[inline(always)]
fn is_system() -> bool {
    match CHOICE.load(Relaxed) {
        UNDECIDED => decide() == SYSTEM,
        decided => decided == SYSTEM,
    }
}

#[cold]
fn decide() -> u8 {
    // Not std::env::var, which allocates.
    // SAFETY: the name is a C string. The first allocation is made before main, where no other
    // thread exists that could change the environment.
    let value = unsafe { libc::getenv(VARIABLE_C.as_ptr()) };
    let system = !value.is_null()
        // SAFETY: getenv returns a C string, and nobody changes the environment, as above.
        && unsafe { std::ffi::CStr::from_ptr(value) }.to_bytes() == b"system";
    let wanted = if system { SYSTEM } else { ARENITE };
    match CHOICE.compare_exchange(UNDECIDED, wanted, Relaxed, Relaxed) {
        Ok(_) => wanted,
        Err(decided) => decided,
    }
}

/// The global allocator of the command.
pub struct Chosen {
    arenite: Arenite,
}

impl Chosen {
    pub const fn new() -> Self {
        Self { arenite: Arenite::new() }
    }
}

// SAFETY: both allocators keep the contract, and the choice between them does not change once a
// block exists.
unsafe impl GlobalAlloc for Chosen {
    #[inline]
    unsafe fn alloc(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe { if is_system() { System.alloc(layout) } else { self.arenite.alloc(layout) } }
    }

    #[inline]
    unsafe fn dealloc(&self, block: *mut u8, layout: Layout) {
        // SAFETY: the caller's contract is the same; the block came from the same allocator.
        unsafe {
            if is_system() {
                System.dealloc(block, layout);
            } else {
                self.arenite.dealloc(block, layout);
            }
        }
    }

    #[inline]
    unsafe fn alloc_zeroed(&self, layout: Layout) -> *mut u8 {
        // SAFETY: the caller's contract is the same.
        unsafe {
            if is_system() {
                System.alloc_zeroed(layout)
            } else {
                self.arenite.alloc_zeroed(layout)
            }
        }
    }

    #[inline]
    unsafe fn realloc(&self, block: *mut u8, layout: Layout, new_size: usize) -> *mut u8 {
        // SAFETY: the caller's contract is the same; the block came from the same allocator.
        unsafe {
            if is_system() {
                System.realloc(block, layout, new_size)
            } else {
                self.arenite.realloc(block, layout, new_size)
            }
        }
    }
}
