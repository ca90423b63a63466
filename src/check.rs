//! Messages, the mark of free blocks, and how a misuse ends the process.
//!
//! No formatting machinery: a message is put together in a stack buffer and written with one
//! `write(2)`.

use crate::os;
use core::fmt::Debug;

/// A short text built on the stack. What does not fit is cut.
///
/// Of one size, and not inlined: most of its callers run once in a process or never, and every
/// process has their code resident.
#[derive(Debug)]
pub struct Text {
    bytes: [u8; 1024],
    length: usize,
}

impl Text {
    /// An empty text.
    pub const fn new() -> Self {
        Self { bytes: [0; 1024], length: 0 }
    }

    /// Appends `text`.
    #[inline(never)]
    pub fn str(&mut self, text: &str) -> &mut Self {
        self.bytes(text.as_bytes())
    }

    /// Appends bytes.
    #[inline(never)]
    pub fn bytes(&mut self, text: &[u8]) -> &mut Self {
        for &byte in text {
            self.byte(byte);
        }
        self
    }

    /// Appends one byte.
    #[inline(never)]
    pub fn byte(&mut self, byte: u8) -> &mut Self {
        if let Some(place) = self.bytes.get_mut(self.length) {
            *place = byte;
            self.length += 1;
        }
        self
    }

    /// Appends a number in the given base, 2 to 16.
    #[inline(never)]
    fn digits(&mut self, mut value: u64, base: u64) -> &mut Self {
        let mut reversed = [0u8; 64];
        let mut used = 0;
        loop {
            let digit = (value % base) as u8;
            if let Some(place) = reversed.get_mut(used) {
                *place = if digit < 10 { b'0' + digit } else { b'a' + digit - 10 };
            }
            used += 1;
            value /= base;
            if value == 0 {
                break;
            }
        }
        for &digit in reversed.iter().take(used).rev() {
            self.byte(digit);
        }
        self
    }

    /// Appends a decimal number.
    pub fn number(&mut self, value: u64) -> &mut Self {
        self.digits(value, 10)
    }

    /// Appends an address as `0x…`.
    pub fn address(&mut self, value: usize) -> &mut Self {
        self.str("0x").digits(value as u64, 16)
    }

    /// What was built.
    pub fn as_bytes(&self) -> &[u8] {
        self.bytes.get(..self.length).unwrap_or_default()
    }
}

impl Default for Text {
    fn default() -> Self {
        Self::new()
    }
}

/// What a caller did wrong.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Misuse {
    /// The block is free already.
    DoubleFree,
    /// The address is not one that the allocator gave out.
    InvalidFree,
    /// `realloc` of such an address or of a free block.
    InvalidRealloc,
    /// `malloc_usable_size` of such an address.
    InvalidSize,
}

/// Ends the process with one line: what, where, which thread.
#[cold]
#[inline(never)]
pub fn misuse(kind: Misuse, address: usize, block_bytes: usize) -> ! {
    let mut line = Text::new();
    line.str("arenite: ");
    line.str(match kind {
        Misuse::DoubleFree => "double free of ",
        Misuse::InvalidFree => "invalid free of ",
        Misuse::InvalidRealloc => "invalid realloc of ",
        Misuse::InvalidSize => "invalid malloc_usable_size of ",
    });
    line.address(address);
    if block_bytes > 0 {
        line.str(" (block size ").number(block_bytes as u64).str(")");
    }
    // SAFETY: gettid has no precondition.
    let thread = unsafe { libc::syscall(libc::SYS_gettid) };
    line.str(" in thread ").number(thread as u64).str("\n");
    os::write_all(2, line.as_bytes());
    // SAFETY: abort has no precondition; it takes no lock that malloc's callers could hold
    // (glibc 2.27 and later does not flush streams in it).
    unsafe { libc::abort() }
}

/// Ends the process when the allocator's own state contradicts itself. Only debug builds check.
#[inline(always)]
pub fn invariant(holds: bool, what: &str) {
    if cfg!(debug_assertions) && !holds {
        broken(what);
    }
}

#[cold]
#[inline(never)]
fn broken(what: &str) -> ! {
    let mut line = Text::new();
    line.str("arenite: internal error: ").str(what).str("\n");
    os::write_all(2, line.as_bytes());
    // SAFETY: no precondition.
    unsafe { libc::abort() }
}
