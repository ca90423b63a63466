//! Limits and thresholds, and the two facts about the process that decide how it is served.

use crate::os;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicUsize};

/// First growth of the break, in bytes: 132 KiB, as glibc's (`top_pad` 128 KiB and a page).
pub const FIRST_BRK: usize = 0x21000;

/// Bytes kept above the last block when the break grows or the top is trimmed.
pub static TOP_PAD: AtomicUsize = AtomicUsize::new(128 * 1024);

/// Requests of at least so many bytes get a mapping of their own. Grows as glibc's does: the
/// free of a mapped block of up to [`MMAP_THRESHOLD_MAX`] raises it to that block's size.
pub static MMAP_THRESHOLD: AtomicUsize = AtomicUsize::new(128 * 1024);

/// Free bytes at the top from which the top is given back; twice the mmap threshold once that
/// has moved (mallopt(3), M_TRIM_THRESHOLD).
pub static TRIM_THRESHOLD: AtomicUsize = AtomicUsize::new(128 * 1024);

/// Whether the thresholds still follow the program; `mallopt` of either ends that.
pub static DYNAMIC_THRESHOLDS: AtomicBool = AtomicBool::new(true);

/// Upper end of the dynamic mmap threshold in bytes (glibc's `DEFAULT_MMAP_THRESHOLD_MAX`).
pub const MMAP_THRESHOLD_MAX: usize = 32 * 1024 * 1024;

/// Settable ceiling of the number of arenas; 0: from the CPUs.
pub static ARENA_MAX: AtomicUsize = AtomicUsize::new(0);

/// Byte with which the C functions fill blocks that they take back, and whose complement they
/// fill those with that they give out; 0: off (mallopt(3), M_PERTURB). Threads that start, or
/// make the setting, while it is not 0 do without a cache, so that every call is a slow one.
pub static PERTURB: AtomicU8 = AtomicU8::new(0);

/// Milliseconds after which free memory that was not needed goes back to the kernel; 0: at the next
/// opportunity; `usize::MAX`: never.
pub static DECAY_MS: AtomicUsize = AtomicUsize::new(1000);

/// Whether the helper thread may be started.
pub static PURGE_THREAD: AtomicBool = AtomicBool::new(true);

static CPUS: AtomicU32 = AtomicU32::new(0);

static PROCESS_MALLOC: AtomicBool = AtomicBool::new(false);

/// Says that Arenite is the process's `malloc`, so that nothing else but a program's own calls
/// moves the break.
pub fn set_process_malloc() {
    PROCESS_MALLOC.store(true, Relaxed);
}

/// Whether the main arena may move the break now: Arenite is the process's malloc, or no other
/// thread exists that could be inside the process's malloc.
pub fn may_move_break() -> bool {
    PROCESS_MALLOC.load(Relaxed) || os::is_single_threaded()
}

/// Learns from the free of a mapped block of `bytes` (malloc.c, `free_mmapped_chunk` caller).
pub fn note_mapped_free(bytes: usize) {
    if DYNAMIC_THRESHOLDS.load(Relaxed)
        && bytes >= MMAP_THRESHOLD.load(Relaxed)
        && bytes <= MMAP_THRESHOLD_MAX
    {
        // Above that size: requests of it come from the heap from now on. (glibc stores the size
        // of its chunk, which is the page that holds its header larger than the request.)
        MMAP_THRESHOLD.store(bytes + os::PAGE, Relaxed);
        TRIM_THRESHOLD.store(2 * bytes, Relaxed);
    }
}

/// CPUs the process may use: its affinity mask, and the CPU quota of its cgroup (v2's
/// `cpu.max`, rounded up), whichever is less. At least 1. Read once, when the first thread
/// wants a second arena.
pub fn usable_cpus() -> u32 {
    let known = CPUS.load(Relaxed);
    if known != 0 {
        return known;
    }
    let mut mask = [0u64; 128];
    // SAFETY: the buffer is as long as said; a raw system call, since glibc's wrapper needs a
    // `cpu_set_t` of its own size.
    let bytes = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&mask), mask.as_mut_ptr())
    };
    let words = if bytes > 0 { bytes as usize / 8 } else { 0 };
    let mut cpus: u32 = mask.iter().take(words).map(|word| word.count_ones()).sum();
    if let Some(quota) = cgroup_cpus() {
        cpus = cpus.min(quota);
    }
    let cpus = cpus.max(1);
    CPUS.store(cpus, Relaxed);
    cpus
}

/// The CPU quota of the process's cgroup in whole CPUs, or `None` without one. A container sees
/// its own cgroup at the root of /sys/fs/cgroup (cgroup_namespaces(7)); outside one, the path
/// is in /proc/self/cgroup.
fn cgroup_cpus() -> Option<u32> {
    let mut path = [0u8; 512];
    let mut used = 0;
    let mut put = |bytes: &[u8]| {
        for &byte in bytes {
            // The last byte stays 0, so that the path always ends.
            if used + 1 < path.len() {
                if let Some(place) = path.get_mut(used) {
                    *place = byte;
                }
                used += 1;
            }
        }
    };
    put(b"/sys/fs/cgroup");
    let mut buffer = [0u8; 512];
    let own = os::read_file(c"/proc/self/cgroup", &mut buffer);
    // Version 2 has the one line "0::/path".
    let line = own.split(|&b| b == b'\n').find_map(|line| line.strip_prefix(b"0::"));
    match line {
        Some(b"/") | None => {}
        Some(group) => put(group),
    }
    put(b"/cpu.max");
    let path = core::ffi::CStr::from_bytes_until_nul(&path).ok()?;
    let mut buffer = [0u8; 64];
    parse_cpu_max(os::read_file(path, &mut buffer))
}

/// Whole CPUs, rounded up, in a `cpu.max` of "QUOTA PERIOD" microseconds; `None` for "max".
fn parse_cpu_max(text: &[u8]) -> Option<u32> {
    let mut words = text.split(|b| b.is_ascii_whitespace()).map(parse_number);
    let quota = words.next()??;
    let period = words.next()??;
    let cpus = quota.div_ceil(core::cmp::max(period, 1));
    Some(u32::try_from(cpus).unwrap_or(u32::MAX).max(1))
}

fn parse_number(digits: &[u8]) -> Option<u64> {
    if digits.is_empty() {
        return None;
    }
    digits.iter().try_fold(0u64, |sum, &digit| {
        let digit = digit.checked_sub(b'0').filter(|&d| d < 10)?;
        sum.checked_mul(10)?.checked_add(u64::from(digit))
    })
}

/// The most arenas the process opens: the setting, or 8 per usable CPU.
pub fn arena_ceiling() -> usize {
    match ARENA_MAX.load(Relaxed) {
        0 => 8 * usable_cpus() as usize,
        set => set,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn cpu_max_is_rounded_up_to_whole_cpus() {
        assert_eq!(parse_cpu_max(b"max 100000\n"), None);
        assert_eq!(parse_cpu_max(b"150000 100000\n"), Some(2));
        assert_eq!(parse_cpu_max(b"50000 100000\n"), Some(1));
        assert_eq!(parse_cpu_max(b"400000 100000\n"), Some(4));
        assert_eq!(parse_cpu_max(b""), None);
        assert_eq!(parse_cpu_max(b"12"), None);
    }

    #[test]
    fn the_process_has_a_cpu() {
        assert!(usable_cpus() >= 1);
    }
}
