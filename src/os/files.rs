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

/// The number behind `prefix` in a file of lines, among its first 2 KiB (proc(5)); 0 when there is none, or it can not be
/// read.
#[inline(never)]
pub fn number_behind(path: &CStr, prefix: &[u8]) -> u64 {
    let mut buffer = [0u8; 2048];
    let line = line_behind(read_file(path, &mut buffer), prefix).unwrap_or_default();
    let digits = line.iter().filter(|byte| byte.is_ascii_digit());
    digits.fold(0u64, |sum, &digit| sum.wrapping_mul(10).wrapping_add(u64::from(digit - b'0')))
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
