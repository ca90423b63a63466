//! How urgently free memory should go back to the kernel, by what the process's control group
//! says about it.
//!
//! Two things are looked at, and the more urgent one counts:
//!
//! - How close a group is to its limit, for the process's own group and all above it: each has a
//!   limit of its own. `memory.high` is where the kernel begins to throttle and to reclaim,
//!   `memory.max` where it kills (kernel, Documentation/admin-guide/cgroup-v2.rst, "Memory
//!   Interface Files"); the lower one counts. A group's `memory.current` has the page cache in it,
//!   which grows up to the limit of any group that reads files; so the part of it that the kernel
//!   drops first, `inactive_file` of `memory.stat`, is taken off. Nothing is urgent below 80 % of
//!   the limit, all is from 97 % on, and between them it rises evenly.
//! - `some avg10` of the own group's `memory.pressure`: the percentage of the last ten seconds in
//!   which at least one of its tasks waited for memory (kernel,
//!   Documentation/accounting/psi.rst). It also tells of a machine that is short of memory without
//!   any limit. Five times that percentage is the urgency: 10 % of the time lost is half of what
//!   can be urgent, 20 % is all. Purging costs page faults, a percent at worst, so that it pays
//!   well before the program stands still for a fifth of its time.
//!
//! What can not be read says nothing: version 1 of control groups, no limit, a kernel without PSI.

use crate::config::{self, FilePath};
use crate::os;
use core::sync::atomic::Ordering::Relaxed;
use core::sync::atomic::{AtomicU8, AtomicU64};

/// Milliseconds for which an answer is kept.
const KEPT_MS: u64 = 250;
/// Milliseconds after that in which it still counts: who looked may have ended.
const STALE_MS: u64 = 750;

/// When the files are read again, in milliseconds of the coarse clock.
static NEXT_READ: AtomicU64 = AtomicU64::new(0);
/// The last answer.
static LEVEL: AtomicU8 = AtomicU8::new(0);

/// How urgent it is to give memory back, 0 to 100, by the last look; 0 where nobody looked lately.
pub fn level() -> u8 {
    level_at(os::coarse_milliseconds())
}

fn level_at(now: u64) -> u8 {
    if is_stale(now, NEXT_READ.load(Relaxed)) { 0 } else { LEVEL.load(Relaxed) }
}

/// Whether an answer says nothing any more that was to be kept until `due`. In a child with a time namespace of its own the
/// clock may be behind.
fn is_stale(now: u64, due: u64) -> bool {
    now > due.saturating_add(STALE_MS) || due.saturating_sub(now) > KEPT_MS
}

/// As [`level`], after a look at the files, four times a second at most, whatever the number of threads that
/// ask.
///
/// They are opened for an instant, by the lowest descriptor that is free: no other thread of the program
/// may open or close one meanwhile and count on its number, as with close(2) and dup2(2).
pub fn look() -> u8 {
    look_at(os::coarse_milliseconds(), config::cgroup_path)
}

fn look_at<P: AsRef<core::ffi::CStr>>(now: u64, group: impl FnOnce() -> P) -> u8 {
    let due = NEXT_READ.load(Relaxed);
    let stale = is_stale(now, due);
    if stale {
        // Others may take it for a new one while the files are read.
        LEVEL.store(0, Relaxed);
    }
    let is_due = now >= due || stale;
    // Relaxed: one number, by which nothing else is ordered.
    if is_due && NEXT_READ.compare_exchange(due, now + KEPT_MS, Relaxed, Relaxed).is_ok() {
        LEVEL.store(read(group().as_ref().to_bytes()), Relaxed);
    }
    level_at(now)
}

/// The urgency in the group whose files lie in the directory.
#[cold]
fn read(group: &[u8]) -> u8 {
    let mut urgency = stalls(group);
    let mut group = Some(group);
    while let Some(directory) = group {
        urgency = urgency.max(fullness(directory));
        // The group above; at the top are directories that are no groups, and have no such file.
        group = directory.iter().rposition(|&byte| byte == b'/').and_then(|at| directory.get(..at));
    }
    urgency
}

/// How near a group is to its limit.
fn fullness(group: &[u8]) -> u8 {
    // "max" is no number.
    let limits = (number(group, b"memory.high"), number(group, b"memory.max"));
    let limit = match limits {
        (Some(high), Some(max)) => high.min(max),
        (None, None) => return 0,
        (high, max) => high.or(max).unwrap_or(u64::MAX),
    };
    let Some(used) = number(group, b"memory.current") else { return 0 };
    // memory.stat costs the kernel more, so that it is read only where it can matter.
    match nearness(used, limit) {
        0 => 0,
        _ => nearness(used.saturating_sub(cache(group)), limit),
    }
}

/// 0 up to 80 % of the limit, 100 from 97 % on.
fn nearness(used: u64, limit: u64) -> u8 {
    let from = limit - limit / 5;
    let to = limit - limit / 100 * 3;
    if used >= to {
        return 100;
    }
    // Below a hundred parts, so that it fits.
    (used.saturating_sub(from) / ((to - from) / 100).max(1)).min(100) as u8
}

/// Bytes of files that the kernel drops before anything else.
fn cache(group: &[u8]) -> u64 {
    let mut buffer = [0u8; 2048];
    let stat = contents(group, b"memory.stat", &mut buffer);
    os::line_behind(stat, b"inactive_file ").and_then(config::decimal).unwrap_or(0)
}

/// Five times `some avg10`: "some avg10=1.23 avg60=…".
fn stalls(group: &[u8]) -> u8 {
    let mut buffer = [0u8; 64];
    let some = contents(group, b"memory.pressure", &mut buffer).strip_prefix(b"some avg10=");
    let number = some.and_then(|text| text.split(|&byte| byte == b' ').next());
    let mut parts = number.unwrap_or_default().splitn(2, |&byte| byte == b'.');
    let (whole, hundredths) = (parts.next(), parts.next());
    let Some(whole) = whole.and_then(config::decimal) else { return 0 };
    // The kernel always writes two digits.
    let rest = hundredths.filter(|digits| digits.len() == 2).and_then(config::decimal);
    (whole.saturating_mul(5).saturating_add(rest.unwrap_or(0) / 20)).min(100) as u8
}

/// The number that is all of a file.
fn number(group: &[u8], file: &[u8]) -> Option<u64> {
    let mut buffer = [0u8; 32];
    config::decimal(contents(group, file, &mut buffer).trim_ascii_end())
}

/// The start of a file of the group, empty when it can not be read.
fn contents<'a>(group: &[u8], file: &[u8], buffer: &'a mut [u8]) -> &'a [u8] {
    let mut path = FilePath::EMPTY;
    path.put(group).put(b"/").put(file);
    os::read_file(path.as_c_str(), buffer)
}

#[cfg(test)]
mod tests {
    extern crate std;

    use super::*;
    use std::ffi::CString;
    use std::format;
    use std::os::unix::ffi::OsStrExt;
    use std::path::{Path, PathBuf};
    use std::string::{String, ToString};

    /// A tree of control groups of its own: `outer`, and `inner` in it.
    struct Tree(PathBuf);

    impl Tree {
        fn new(name: &str) -> Self {
            let root = std::env::temp_dir().join(format!("arenite-{}-{name}", std::process::id()));
            std::fs::create_dir_all(root.join("outer/inner")).expect("a directory");
            Self(root)
        }

        fn put(&self, group: &str, file: &str, text: impl ToString) -> &Self {
            std::fs::write(self.0.join(group).join(file), text.to_string()).expect("a file");
            self
        }

        fn inner(&self) -> PathBuf {
            self.0.join("outer/inner")
        }

        fn read(&self) -> u8 {
            read(bytes(&self.inner()))
        }
    }

    impl Drop for Tree {
        fn drop(&mut self) {
            let _ = std::fs::remove_dir_all(&self.0);
        }
    }

    fn bytes(path: &Path) -> &[u8] {
        path.as_os_str().as_bytes()
    }

    const GIB: u64 = 1 << 30;

    #[test]
    fn without_files_there_is_no_pressure() {
        assert_eq!(Tree::new("none").read(), 0);
        assert_eq!(read(b""), 0);
        assert_eq!(read(&[b'x'; 3 * 512]), 0);
    }

    #[test]
    fn without_a_limit_there_is_no_pressure() {
        let tree = Tree::new("max");
        tree.put("outer/inner", "memory.current", format!("{GIB}\n"));
        tree.put("outer/inner", "memory.max", "max\n").put("outer/inner", "memory.high", "max\n");
        assert_eq!(tree.read(), 0);
    }

    #[test]
    fn urgency_rises_from_80_to_97_percent_of_the_limit() {
        let tree = Tree::new("near");
        tree.put("outer/inner", "memory.max", format!("{GIB}\n"));
        let at = |percent: u64| {
            tree.put("outer/inner", "memory.current", format!("{}\n", GIB * percent / 100));
            tree.read()
        };
        assert_eq!([at(0), at(50), at(79), at(80)], [0; 4]);
        let rising: std::vec::Vec<u8> = (81..97).map(at).collect();
        assert!(rising.is_sorted_by(|a, b| a < b), "{rising:?}");
        assert!((5..7).contains(&rising[0]) && (93..95).contains(&rising[15]), "{rising:?}");
        assert_eq!([at(97), at(100), at(150)], [100; 3]);
        tree.put("outer/inner", "memory.max", "0\n");
        assert_eq!(at(1), 100);
    }

    #[test]
    fn the_lower_limit_counts() {
        let tree = Tree::new("high");
        tree.put("outer/inner", "memory.current", GIB);
        tree.put("outer/inner", "memory.max", 4 * GIB).put("outer/inner", "memory.high", GIB);
        assert_eq!(tree.read(), 100);
        tree.put("outer/inner", "memory.high", 8 * GIB);
        assert_eq!(tree.read(), 0);
        tree.put("outer/inner", "memory.max", "max\n").put("outer/inner", "memory.high", GIB);
        assert_eq!(tree.read(), 100);
    }

    #[test]
    fn the_limit_of_a_group_above_counts() {
        let tree = Tree::new("above");
        tree.put("outer/inner", "memory.current", GIB / 2);
        tree.put("outer/inner", "memory.max", "max\n");
        tree.put("outer", "memory.current", 2 * GIB).put("outer", "memory.max", 2 * GIB);
        assert_eq!(tree.read(), 100, "others in the outer group filled it");
        tree.put("outer", "memory.current", GIB);
        assert_eq!(tree.read(), 0);
    }

    #[test]
    fn page_cache_that_can_go_is_no_pressure() {
        let tree = Tree::new("cache");
        tree.put("outer/inner", "memory.current", GIB).put("outer/inner", "memory.max", GIB);
        assert_eq!(tree.read(), 100);
        let stat = format!("anon 4096\nfile 1\ninactive_anon 1\ninactive_file {}\n", GIB / 2);
        tree.put("outer/inner", "memory.stat", stat);
        assert_eq!(tree.read(), 0);
        tree.put("outer/inner", "memory.stat", "inactive_file many\n");
        assert_eq!(tree.read(), 100);
    }

    fn psi(avg10: &str) -> String {
        format!("some avg10={avg10} avg60=0.00 avg300=0.00 total=1\nfull avg10=99.00 avg60=0.00\n")
    }

    #[test]
    fn stalls_are_pressure_without_a_limit() {
        let tree = Tree::new("psi");
        let at = |avg10: &str| {
            tree.put("outer/inner", "memory.pressure", psi(avg10));
            tree.read()
        };
        assert_eq!(at("0.00"), 0);
        assert_eq!(at("1.20"), 6);
        assert_eq!(at("10.00"), 50);
        assert_eq!(at("19.99"), 99);
        assert_eq!(at("20.00"), 100);
        assert_eq!(at("100.00"), 100);
    }

    #[test]
    fn malformed_files_say_nothing() {
        let tree = Tree::new("malformed");
        for text in ["", "\n", "x", "-1\n", "1 2\n", "99999999999999999999999\n", "0x10\n"] {
            tree.put("outer/inner", "memory.max", 100).put("outer/inner", "memory.current", text);
            assert_eq!(tree.read(), 0, "{text:?} used");
            tree.put("outer/inner", "memory.max", text).put("outer/inner", "memory.current", 100);
            assert_eq!(tree.read(), 0, "{text:?} at most");
        }
        for text in ["", "some", "some avg10=", "some avg10=x.yz ", "full avg10=99.00 ", "99.00"] {
            tree.put("outer/inner", "memory.pressure", text);
            assert_eq!(tree.read(), 0, "{text:?}");
        }
        for avg10 in ["", "-5.00", "9999999999999999999999.00", ".50"] {
            tree.put("outer/inner", "memory.pressure", psi(avg10));
            assert_eq!(tree.read(), 0, "{avg10:?}");
        }
    }

    #[test]
    fn an_answer_is_kept_for_a_while_and_errno_for_ever() {
        let tree = Tree::new("kept");
        let group = CString::new(bytes(&tree.inner())).expect("no zero in it");
        tree.put("outer/inner", "memory.current", GIB).put("outer/inner", "memory.max", GIB);
        os::set_errno(1234);
        assert_eq!(look_at(1_000_000, || &group), 100);
        tree.put("outer/inner", "memory.current", 0);
        assert_eq!(look_at(1_000_249, || &group), 100);
        assert_eq!(look_at(1_000_250, || &group), 0);
        assert_eq!(os::errno(), 1234);
        // It is no more than a second old where nobody looks any more.
        tree.put("outer/inner", "memory.current", GIB);
        assert_eq!(look_at(1_000_500, || &group), 100);
        assert_eq!([1_000_750, 1_001_500, 1_001_501].map(level_at), [100, 100, 0]);
        // Nor where the clock is behind.
        assert_eq!([1_000_500, 1_000_499].map(level_at), [100, 0]);
    }
}
