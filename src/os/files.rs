//! Files: small ones that tell something, and the one line that ends a process.

use super::{errno, keeping_errno};
use core::ffi::{CStr, c_int, c_long, c_void};

/// Reads the start of a small file, such as those of /proc and /sys, into `buffer`; the part
/// read, empty when the file can not be read.
pub fn read_file<'a>(path: &CStr, buffer: &'a mut [u8]) -> &'a [u8] {
    let got = keeping_errno(|| {
        // SAFETY: the buffer is as long as said.
        with_file(path, libc::O_RDONLY, |fd| unsafe {
            libc::syscall(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len())
        })
    });
    // What could not be read is of negative length.
    buffer.get(..usize::try_from(got).unwrap_or(0)).unwrap_or_default()
}

/// What a system call on a file returns that is opened for it; negative when that can not be. Raw calls
/// are no cancellation points.
fn with_file(path: &CStr, flags: c_int, call: impl FnOnce(c_long) -> c_long) -> c_long {
    let flags = flags | libc::O_CLOEXEC;
    // SAFETY: the path ends in a zero byte; the file is this function's.
    unsafe {
        let fd = libc::syscall(libc::SYS_openat, libc::AT_FDCWD, path.as_ptr(), flags);
        if fd < 0 {
            return fd;
        }
        let result = call(fd);
        libc::syscall(libc::SYS_close, fd);
        result
    }
}

/// Gives the calling thread a table of file descriptors of its own, an empty one; whether the kernel did so
/// (close_range(2), Linux 5.9). What the thread opens then takes no number that the program counts on, and
/// it keeps no file of the program open.
pub fn leave_open_files() -> bool {
    const UNSHARE: c_int = 1 << 1;
    // SAFETY: closes files for this thread alone.
    keeping_errno(|| unsafe { libc::syscall(libc::SYS_close_range, 0, c_int::MAX, UNSHARE) == 0 })
}

/// What stands behind `prefix` in the first line of the text that begins with it.
pub fn line_behind<'a>(text: &'a [u8], prefix: &[u8]) -> Option<&'a [u8]> {
    text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(prefix))
}

/// The number behind `prefix` in the first line that begins with it, of a file of lines however long (proc(5)); 0 when
/// there is none, or it can not be read.
#[inline(never)]
pub fn number_behind(path: &CStr, prefix: &[u8]) -> u64 {
    /// The line begins with something else.
    const OTHER: usize = usize::MAX;
    let mut number = 0u64;
    // Bytes of the prefix that the line begins with.
    let mut matched = 0;
    let mut look_at = |byte: u8| {
        if matched == prefix.len() {
            if byte.is_ascii_digit() {
                number = number.wrapping_mul(10).wrapping_add(u64::from(byte - b'0'));
            }
            return byte == b'\n';
        }
        matched = match prefix.get(matched) {
            _ if byte == b'\n' => 0,
            Some(&next) if next == byte => matched + 1,
            _ => OTHER,
        };
        false
    };
    keeping_errno(|| {
        with_file(path, libc::O_RDONLY, |fd| {
            let mut buffer = [0u8; 512];
            loop {
                // SAFETY: the buffer is as long as said.
                let got =
                    unsafe { libc::syscall(libc::SYS_read, fd, buffer.as_mut_ptr(), buffer.len()) };
                // What could not be read is of negative length.
                let piece = buffer.get(..usize::try_from(got).unwrap_or(0)).unwrap_or_default();
                if piece.is_empty() || piece.iter().any(|&byte| look_at(byte)) {
                    return 0;
                }
            }
        })
    });
    number
}

/// Figures of the process (proc_pid_status(5)).
pub const STATUS: &CStr = c"/proc/self/status";

/// As [`number_behind`], in bytes, of a figure in kB (proc(5)).
pub fn bytes_behind(path: &CStr, prefix: &[u8]) -> u64 {
    number_behind(path, prefix).wrapping_mul(1024)
}

/// Writes all of `text` to `fd`, as far as the file takes it.
pub fn write_all(fd: c_int, mut text: &[u8]) {
    keeping_errno(|| {
        while !text.is_empty() {
            // SAFETY: the slice is readable.
            let wrote = unsafe {
                libc::syscall(libc::SYS_write, fd, text.as_ptr().cast::<c_void>(), text.len())
            };
            if wrote <= 0 {
                if wrote < 0 && errno() == libc::EINTR {
                    continue;
                }
                if wrote < 0 && errno() == libc::EBADF && fd == 2 {
                    write_to_standard_error_of_process(text);
                }
                return;
            }
            text = text.get(wrote as usize..).unwrap_or_default();
        }
    });
}

/// For a thread that left the program's files ([`leave_open_files`]).
#[cold]
fn write_to_standard_error_of_process(text: &[u8]) {
    // SAFETY: the slice is readable.
    with_file(c"/proc/self/fd/2", libc::O_WRONLY | libc::O_APPEND, |fd| unsafe {
        libc::syscall(libc::SYS_write, fd, text.as_ptr(), text.len())
    });
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::ffi::CString;
    use std::os::unix::ffi::OsStrExt;
    use std::string::String;

    fn found_in(text: &str) -> u64 {
        let name = std::format!("arenite-number-{}-{}", std::process::id(), text.len());
        let path = std::env::temp_dir().join(name);
        std::fs::write(&path, text).expect("a file");
        let name = CString::new(path.as_os_str().as_bytes()).expect("no zero in it");
        let number = number_behind(&name, b"Rss:");
        std::fs::remove_file(&path).expect("the file");
        number
    }

    #[test]
    fn a_number_is_found_in_a_line_of_a_long_file() {
        let long: String = "12 ".repeat(5000);
        assert_eq!(
            found_in(&std::format!("RssAnon: 1\nGroups: {long}\nRss:\t  345 kB\nRss: 6\n")),
            345
        );
        assert_eq!(found_in(&std::format!("{}\nRss: 7", "x".repeat(511 - 5))), 7);
        assert_eq!(found_in(&std::format!("{long}Rss: 8\n Rss: 9\nRs\ns: 1\n")), 0);
        assert_eq!([found_in(""), found_in("Rss:"), found_in("Rss: none\n1\n")], [0; 3]);
        assert_eq!(number_behind(c"/no/such/file", b"Rss:"), 0);
    }
}
