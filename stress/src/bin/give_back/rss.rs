//! Resident memory, read without an allocation.

use crate::books::Books;
use std::ffi::CStr;
use std::thread;
use std::time::{Duration, Instant};
use stress::fail;

/// Resident memory of this process now, in bytes.
///
/// The kernel's counters, which statm and status show, may lag by some pages per CPU;
/// smaps_rollup counts the pages themselves. Where it is not to be had, statm serves.
pub fn now() -> usize {
    let mut buffer = [0; 4096];
    let exact = read(c"/proc/self/smaps_rollup", &mut buffer).and_then(|text| kib(text, b"Rss:"));
    exact.or_else(|| statm(&mut buffer)).unwrap_or_else(|| fail!("no resident size in /proc"))
}

/// Lets [`peak`] begin anew.
pub fn reset_peak() {
    // SAFETY: the path is a string, the bytes are valid for their length; the descriptor is ours.
    unsafe {
        let file = libc::open(c"/proc/self/clear_refs".as_ptr(), libc::O_WRONLY | libc::O_CLOEXEC);
        if file < 0 || libc::write(file, b"5".as_ptr().cast(), 1) != 1 {
            fail!("the peak can not be reset: /proc/self/clear_refs");
        }
        libc::close(file);
    }
}

/// The most that was resident since [`reset_peak`], in bytes.
pub fn peak() -> usize {
    let mut buffer = [0; 4096];
    let text = read(c"/proc/self/status", &mut buffer);
    text.and_then(|text| kib(text, b"VmHWM:")).unwrap_or_else(|| fail!("no peak in /proc"))
}

/// What `field` says in kB, in bytes.
fn kib(text: &[u8], field: &[u8]) -> Option<usize> {
    let line = text.split(|&byte| byte == b'\n').find_map(|line| line.strip_prefix(field))?;
    Some(number(line)? * 1024)
}

/// Resident bytes by statm, whose second number counts pages.
fn statm(buffer: &mut [u8]) -> Option<usize> {
    let text = read(c"/proc/self/statm", buffer)?;
    let pages = number(text.splitn(2, |&byte| byte == b' ').nth(1)?)?;
    Some(pages * page_size())
}

/// The first number in the text.
fn number(text: &[u8]) -> Option<usize> {
    let digits = text.iter().skip_while(|byte| !byte.is_ascii_digit());
    let digits = digits.take_while(|byte| byte.is_ascii_digit());
    digits.fold(None, |sum, byte| Some(sum.unwrap_or(0) * 10 + usize::from(byte - b'0')))
}

/// The beginning of a file.
fn read<'a>(path: &CStr, buffer: &'a mut [u8]) -> Option<&'a [u8]> {
    // SAFETY: the path is a string, the buffer is valid for its length; the descriptor is ours.
    let len = unsafe {
        let file = libc::open(path.as_ptr(), libc::O_RDONLY | libc::O_CLOEXEC);
        if file < 0 {
            return None;
        }
        let len = libc::read(file, buffer.as_mut_ptr().cast(), buffer.len());
        libc::close(file);
        len
    };
    buffer.get(..usize::try_from(len).ok()?)
}

/// The kernel's page, in bytes.
pub fn page_size() -> usize {
    // SAFETY: sysconf has no precondition.
    usize::try_from(unsafe { libc::sysconf(libc::_SC_PAGESIZE) }).unwrap_or(4096)
}

/// Time between two readings of a [`Series`].
const INTERVAL: Duration = Duration::from_millis(50);

/// Readings of resident memory at fixed intervals.
pub struct Series(Books<usize>);

/// The extremes of a number of readings, in bytes.
#[derive(Debug, Clone, Copy)]
pub struct Spread {
    pub min: usize,
    pub max: usize,
}

impl Series {
    /// Room for readings over this time.
    pub fn new(time: Duration) -> Self {
        let readings = time.as_millis() / INTERVAL.as_millis();
        Self(Books::new(readings as usize + 2))
    }

    /// Reads until the time is over.
    pub fn record(&mut self, time: Duration) {
        let start = Instant::now();
        self.0.push(now());
        while start.elapsed() + INTERVAL < time {
            thread::sleep(INTERVAL);
            self.0.push(now());
        }
        thread::sleep(time.saturating_sub(start.elapsed()));
        self.0.push(now());
    }

    /// The extremes of all readings.
    pub fn spread(&self) -> Spread {
        Spread::of(&self.0)
    }

    /// The extremes of the later half.
    pub fn later_half(&self) -> Spread {
        Spread::of(&self.0[self.0.len() / 2..])
    }
}

impl Spread {
    fn of(readings: &[usize]) -> Self {
        let min = readings.iter().copied().min().unwrap_or(0);
        let max = readings.iter().copied().max().unwrap_or(0);
        Self { min, max }
    }

    /// From the smallest to the largest, as a part of the middle between them, each beyond `base`.
    pub fn relative(self, base: usize) -> f64 {
        let middle = usize::midpoint(self.min, self.max).saturating_sub(base);
        (self.max - self.min) as f64 / middle.max(1) as f64
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_becomes_resident_is_read() {
        const BYTES: usize = 32 << 20;
        let before = now();
        let books: Books<u8> = Books::new(BYTES);
        let with = now();
        drop(books);
        let after = now();
        // Other tests run beside this one, but not with that much.
        assert!(with >= before + BYTES / 2, "{before} {with}");
        assert!(after <= with - BYTES / 2, "{with} {after}");
        assert!(peak() >= with / 2);
    }

    #[test]
    fn fields_are_found() {
        assert_eq!(kib(b"Foo: 1 kB\nRss:     12 kB\n", b"Rss:"), Some(12 * 1024));
        assert_eq!(kib(b"Foo: 1 kB\n", b"Rss:"), None);
        assert_eq!(number(b"none"), None);
        let statm = statm(&mut [0; 4096]).expect("statm");
        assert!(statm > 100 << 10, "{statm}");
    }

    #[test]
    fn a_spread_is_relative_to_what_grew() {
        let spread = Spread { min: 190, max: 210 };
        assert!((spread.relative(100) - 0.2).abs() < 1e-9);
    }
}
