//! The end of a run that found something.

use std::fmt::{self, Write};

/// A buffer on the stack: the allocator can not be trusted any more.
struct Line {
    bytes: [u8; 512],
    len: usize,
}

impl Write for Line {
    fn write_str(&mut self, s: &str) -> fmt::Result {
        let room = &mut self.bytes[self.len..];
        let n = s.len().min(room.len());
        room[..n].copy_from_slice(&s.as_bytes()[..n]);
        self.len += n;
        Ok(())
    }
}

/// Writes one line to stderr and ends the process with status 1.
///
/// It allocates nothing, takes no lock and runs no destructor, so it can be called from signal
/// handlers, in children of a fork, and with a broken allocator.
pub fn fail(what: fmt::Arguments<'_>) -> ! {
    let mut line = Line { bytes: [0; 512], len: 0 };
    let pid = std::process::id();
    let _ = writeln!(line, "stress: process {pid}: VIOLATION: {what}");
    // SAFETY: the buffer is valid for its length; _exit has no precondition.
    unsafe {
        libc::write(2, line.bytes.as_ptr().cast(), line.len);
        libc::_exit(1)
    }
}

/// [`fail`] with a format string.
#[macro_export]
macro_rules! fail {
    ($($arg:tt)*) => { $crate::fail::fail(format_args!($($arg)*)) };
}
