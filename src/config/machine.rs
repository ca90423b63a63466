//! What the process may use of the machine: its CPUs, and its control group (cgroups(7), v2).

use crate::os;
use core::cell::UnsafeCell;
use core::ffi::CStr;
use core::sync::atomic::Ordering::{Acquire, Relaxed, Release};
use core::sync::atomic::{AtomicU8, AtomicU32};

/// CPUs in the affinity mask at the program's start, or 0.
static CPUS_AT_START: AtomicU32 = AtomicU32::new(0);
static CPUS: AtomicU32 = AtomicU32::new(0);

/// Looks at the affinity mask, before threads choose CPUs of their own.
pub fn count_cpus_at_start() {
    CPUS_AT_START.store(affinity_cpus(), Relaxed);
}

/// CPUs the process may use: its affinity mask, and the CPU quota of its cgroup (v2's
/// `cpu.max`, rounded up), whichever is less. At least 1. The latter is read once, when a thread begins beside
/// another one.
pub fn usable_cpus() -> u32 {
    let known = CPUS.load(Relaxed);
    if known != 0 {
        return known;
    }
    let affinity = match CPUS_AT_START.load(Relaxed) {
        0 => affinity_cpus(),
        cpus => cpus,
    };
    let cpus = affinity.min(cgroup_cpus().unwrap_or(u32::MAX)).max(1);
    CPUS.store(cpus, Relaxed);
    cpus
}

// What follows is done by any thread, also one with the smallest stack that there may be (16 KiB,
// of which glibc takes some): frames are small, and not there all at once.

/// CPUs in the affinity mask.
#[inline(never)]
fn affinity_cpus() -> u32 {
    let mut mask = [0u64; 128];
    // SAFETY: the buffer is as long as said; a raw system call, since glibc's wrapper needs a
    // `cpu_set_t` of its own size.
    let bytes = unsafe {
        libc::syscall(libc::SYS_sched_getaffinity, 0, size_of_val(&mask), mask.as_mut_ptr())
    };
    let words = if bytes > 0 { bytes as usize / 8 } else { 0 };
    mask.iter().take(words).map(|word| word.count_ones()).sum()
}

/// Bytes of the longest path of a control group's file, with the zero at its end.
pub const PATH_BYTES: usize = 512;

/// A path in the making: text that is cut before its last byte, so that a zero ends it always.
#[derive(Debug, Clone, Copy)]
pub struct FilePath {
    bytes: [u8; PATH_BYTES],
    used: usize,
    cut: bool,
}

impl FilePath {
    /// No text.
    pub const EMPTY: Self = Self { bytes: [0; PATH_BYTES], used: 0, cut: false };

    /// A file of the directory.
    pub fn file(directory: &CStr, name: &[u8]) -> Self {
        let mut path = Self::EMPTY;
        path.put(directory.to_bytes()).put(b"/").put(name);
        path
    }

    /// Adds text.
    pub fn put(&mut self, text: &[u8]) -> &mut Self {
        for &byte in text {
            match self.bytes.get_mut(self.used) {
                Some(place) if self.used + 1 < PATH_BYTES => *place = byte,
                _ => {
                    self.cut = true;
                    break;
                }
            }
            self.used += 1;
        }
        self
    }

    /// Takes away what lies behind the first `used` bytes.
    fn truncate(&mut self, used: usize) {
        for place in self.bytes.iter_mut().take(self.used).skip(used) {
            *place = 0;
        }
        self.used = self.used.min(used);
        self.cut = false;
    }

    /// The path; the empty one if it was cut.
    pub fn as_c_str(&self) -> &CStr {
        match CStr::from_bytes_until_nul(&self.bytes) {
            Ok(path) if !self.cut => path,
            _ => c"",
        }
    }
}

/// No path yet.
const NONE: u8 = 0;
/// A thread writes the path.
const WRITING: u8 = 1;
/// The path stays what it is.
const WRITTEN: u8 = 2;

/// The directory of the process's control group, written once.
struct Group {
    state: AtomicU8,
    path: UnsafeCell<[u8; PATH_BYTES]>,
}

// SAFETY: the path is written by the one thread that moved `state` from NONE to WRITING, and
// read after it was seen to be WRITTEN.
unsafe impl Sync for Group {}

static GROUP: Group = Group { state: AtomicU8::new(NONE), path: UnsafeCell::new([0; PATH_BYTES]) };

impl Group {
    fn get(&self) -> Option<&CStr> {
        if self.state.load(Acquire) != WRITTEN {
            return None;
        }
        // SAFETY: nobody writes it any more.
        CStr::from_bytes_until_nul(unsafe { &*self.path.get() }).ok()
    }

    /// Whether the path was written now; the first one stays.
    fn set(&self, path: &FilePath) -> bool {
        let is_first = self.state.compare_exchange(NONE, WRITING, Acquire, Relaxed).is_ok();
        if is_first {
            // SAFETY: this thread alone moved the state to WRITING.
            unsafe { *self.path.get() = path.bytes };
            self.state.store(WRITTEN, Release);
        }
        is_first
    }
}

/// Sets the directory of the process's control group, before its first use. False if it was
/// used already.
pub fn set_cgroup_path(path: &FilePath) -> bool {
    GROUP.set(path)
}

/// Whether that directory is set, or was used already.
pub fn knows_cgroup_path() -> bool {
    // Relaxed: nothing behind it is read.
    GROUP.state.load(Relaxed) != NONE
}

/// Where control groups are mounted.
const MOUNT: &CStr = c"/sys/fs/cgroup";

/// The directory of the process's control group: that of the setting `cgroup`, or its own. Does
/// not end in a slash.
pub fn cgroup_path() -> &'static CStr {
    if let Some(known) = GROUP.get() {
        return known;
    }
    find_own_group();
    // None only while another thread writes it at this instant, or did when this process was
    // forked from its.
    GROUP.get().unwrap_or(MOUNT)
}

#[inline(never)]
fn find_own_group() {
    let mut path = FilePath::EMPTY;
    own_group(&mut path);
    GROUP.set(&path);
}

/// A container sees its own group at the root of the mount (cgroup_namespaces(7)); outside one,
/// the path is in /proc/self/cgroup.
#[inline(never)]
fn own_group(path: &mut FilePath) {
    path.put(MOUNT.to_bytes());
    let root = path.used;
    let mut buffer = [0u8; PATH_BYTES];
    let own = os::read_file(c"/proc/self/cgroup", &mut buffer);
    // Version 2 has the one line "0::/path".
    let line = os::line_behind(own, b"0::");
    let Some(group) = line.filter(|&group| group != b"/") else { return };
    path.put(group);
    let group = path.used;
    path.put(b"/cgroup.procs");
    let mut probe = [0u8; 1];
    // The path can be the host's while the mount is the container's own.
    let exists = !os::read_file(path.as_c_str(), &mut probe).is_empty();
    path.truncate(if exists { group } else { root });
}

/// The CPU quota of the process's cgroup in whole CPUs, or `None` without one.
fn cgroup_cpus() -> Option<u32> {
    cpu_quota(cgroup_path())
}

/// The quota of the group with this directory.
#[inline(never)]
fn cpu_quota(directory: &CStr) -> Option<u32> {
    let mut buffer = [0u8; 64];
    let file = FilePath::file(directory, b"cpu.max");
    parse_cpu_max(os::read_file(file.as_c_str(), &mut buffer))
}

/// Whole CPUs, rounded up, in a `cpu.max` of "QUOTA PERIOD" microseconds; `None` for "max".
fn parse_cpu_max(text: &[u8]) -> Option<u32> {
    let mut words = text.split(|b| b.is_ascii_whitespace()).map(super::parse::decimal);
    let quota = words.next()??;
    let period = words.next()??;
    let cpus = quota.div_ceil(core::cmp::max(period, 1));
    Some(u32::try_from(cpus).unwrap_or(u32::MAX).max(1))
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

    #[test]
    fn a_path_that_does_not_fit_is_none() {
        let mut path = FilePath::EMPTY;
        path.put(&[b'a'; PATH_BYTES - 1]);
        assert_eq!(path.as_c_str().count_bytes(), PATH_BYTES - 1);
        path.put(b"b");
        assert_eq!(path.as_c_str(), c"");
    }
}
