//! Where huge pages are asked for, by policy; each in a process of its own. The kernel says of
//! each mapping whether it was asked (`hg` in the VmFlags of proc_pid_smaps(5)).

mod process;

use arenite::{Arenite, HUGE_PAGES};
use process::in_a_process;
use std::alloc::{GlobalAlloc, Layout};
use std::io::Read;
use std::os::fd::AsRawFd;
use std::sync::atomic::Ordering::Relaxed;

/// Not this program's global allocator, so that only the test allocates.
static ARENITE: Arenite = Arenite::new();

const MIB: usize = 1 << 20;
const HUGE_PAGE: usize = 2 * MIB;

const NEVER: u8 = 0;
const DENSE: u8 = 1;
const ALWAYS: u8 = 2;

fn main() {
    if !std::fs::exists("/sys/kernel/mm/transparent_hugepage/enabled").unwrap_or(false) {
        println!("this kernel has no transparent huge pages: nothing to test");
        return;
    }
    with_policy(NEVER, "never", || {
        for size in [MIB, 3 * MIB, 20 * MIB, 64 * MIB] {
            assert!(!is_asked(allocate(size)), "{size}");
        }
        assert!(fill_heap(40 * MIB).into_iter().all(|block| !is_asked(block)));
    });
    with_policy(NEVER, "the tables", || {
        allocate(100);
        assert!(refused_mib() >= 32, "little of them is touched");
    });
    with_policy(NEVER, "what the program asks for itself", || {
        // As x264 does with its frames.
        let layout = Layout::from_size_align(HUGE_PAGE - 100_000, HUGE_PAGE);
        let layout = layout.expect("a valid layout");
        for _ in 0..8 {
            // SAFETY: the layout is not empty; the memory is this program's up to the end of the mapping.
            unsafe {
                let block = ARENITE.alloc(layout);
                assert!(!block.is_null());
                assert_eq!(libc::madvise(block.cast(), HUGE_PAGE, libc::MADV_HUGEPAGE), 0);
            }
        }
    });
    with_policy(DENSE, "dense, huge blocks", || {
        assert!(!is_asked(allocate(4 * MIB)), "few bytes in all");
        let large = allocate(20 * MIB);
        assert!(is_asked(large) && large.addr().is_multiple_of(HUGE_PAGE));
        assert!(is_asked(allocate(4 * MIB)));
        assert!(!is_asked(allocate(3 * MIB)), "a small one");
    });
    with_policy(ALWAYS, "always, huge blocks", || {
        assert!(!is_asked(allocate(MIB)));
        for i in 0..5 {
            // The kernel aligns only mappings of whole huge pages by itself.
            let block = allocate(2 * MIB + i * 300_000);
            assert!(is_asked(block) && block.addr().is_multiple_of(HUGE_PAGE));
        }
    });
    with_policy(ALWAYS, "the report", || {
        let block = allocate(20 * MIB);
        // SAFETY: the block is as long as said.
        unsafe { block.write_bytes(1, 20 * MIB) };
        let (before, report, after) = (in_huge_pages(), report(), in_huge_pages());
        assert!(report.contains("\"huge_page_policy\":\"always\""), "{report}");
        let told: u64 = number_after(&report, "\"anon_huge_page_bytes\":");
        // The kernel may join pages meanwhile.
        assert!((before.min(after)..=before.max(after)).contains(&told), "{before} {told} {after}");
    });
    with_policy(ALWAYS, "a block that is no whole number of them is kept", || {
        let size = 40 * MIB + 7 * 4096;
        for _ in 0..100 {
            let block = allocate(size);
            // SAFETY: allocated with this layout, and used by nobody.
            unsafe { ARENITE.dealloc(block, layout(size)) };
            if arenite::stats::collect().cached_bytes >= size {
                return;
            }
        }
        panic!("none of {size} bytes is kept");
    });
    with_policy(ALWAYS, "a block that becomes large", || {
        let small = allocate(MIB);
        // SAFETY: the block is as long as said.
        let large = unsafe { ARENITE.realloc(small, layout(MIB), 40 * MIB) };
        assert!(is_asked(large.wrapping_add(20 * MIB)));
    });
    // Heaps are the break's as long as there is one thread.
    for mapped in [false, true] {
        let kind = if mapped { "mapped heaps" } else { "the break" };
        with_policy(DENSE, &format!("dense, {kind}"), || {
            start_thread(mapped);
            assert!(fill_heap(12 * MIB).into_iter().all(|block| !is_asked(block)));
            let more = fill_heap(20 * MIB);
            // All but what is no whole huge page at the ends.
            let asked = more.iter().filter(|&&block| is_asked(block)).count();
            assert!(asked >= more.len() / 2, "{asked} of {}", more.len());
        });
        with_policy(ALWAYS, &format!("always, {kind}"), || {
            start_thread(mapped);
            let blocks = fill_heap(12 * MIB);
            let asked = |blocks: &[*mut u8]| blocks.iter().filter(|&&b| is_asked(b)).count();
            assert!(asked(&blocks) >= blocks.len() / 2);
            // Nothing changes when all but the first went back and comes again.
            for block in blocks.into_iter().skip(1) {
                // SAFETY: in use until now.
                unsafe { ARENITE.dealloc(block, layout(BLOCK)) };
            }
            ARENITE.trim();
            let blocks = fill_heap(12 * MIB);
            assert!(asked(&blocks) >= blocks.len() / 2, "after a trim");
        });
    }
}

fn with_policy(policy: u8, what: &str, test: impl FnOnce()) {
    in_a_process(what, || {
        HUGE_PAGES.store(policy, Relaxed);
        test();
    });
}

fn start_thread(wanted: bool) {
    if wanted {
        std::thread::spawn(|| {
            loop {
                std::thread::park();
            }
        });
    }
}

fn layout(bytes: usize) -> Layout {
    Layout::from_size_align(bytes, 8).expect("a valid layout")
}

fn allocate(bytes: usize) -> *mut u8 {
    // SAFETY: the layout is not empty.
    let block = unsafe { ARENITE.alloc(layout(bytes)) };
    assert!(!block.is_null());
    // SAFETY: the block is as long as said.
    unsafe {
        block.write(1);
        block.add(bytes - 1).write(1);
    }
    block
}

/// Bytes of a block from a heap.
const BLOCK: usize = 100_000;

/// Blocks of so many bytes in all.
fn fill_heap(bytes: usize) -> Vec<*mut u8> {
    (0..bytes / BLOCK).map(|_| allocate(BLOCK)).collect()
}

/// What the process would report at its end.
fn report() -> String {
    let (mut reader, writer) = std::io::pipe().expect("a pipe");
    // Shorter than what a pipe holds.
    arenite::stats::collect().write_json(writer.as_raw_fd());
    drop(writer);
    let mut text = String::new();
    reader.read_to_string(&mut text).expect("the report");
    text
}

/// The number in the text behind a name.
fn number_after(text: &str, name: &str) -> u64 {
    let (_, rest) = text.split_once(name).expect(name);
    let rest = rest.trim_start();
    let end = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
    rest[..end].parse().expect(name)
}

/// Bytes of the process in huge pages.
fn in_huge_pages() -> u64 {
    let rollup = std::fs::read_to_string("/proc/self/smaps_rollup").expect("smaps_rollup");
    number_after(&rollup, "AnonHugePages:") * 1024
}

/// MiB of mappings that are to have small pages only (`nh`).
fn refused_mib() -> u64 {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("/proc/self/smaps");
    let mut size = 0;
    let mut refused = 0;
    for line in maps.lines() {
        if line.starts_with("Size:") {
            size = number_after(line, "Size:");
        } else if line.starts_with("VmFlags:") && line.split_whitespace().any(|flag| flag == "nh") {
            refused += size;
        }
    }
    refused / 1024
}

/// Whether the mapping at the address was asked to have huge pages.
fn is_asked(address: *mut u8) -> bool {
    let maps = std::fs::read_to_string("/proc/self/smaps").expect("/proc/self/smaps");
    let mut inside = false;
    for line in maps.lines() {
        let range = line.split_whitespace().next().and_then(|word| word.split_once('-'));
        let range = range
            .map(|(from, to)| (usize::from_str_radix(from, 16), usize::from_str_radix(to, 16)));
        if let Some((Ok(from), Ok(to))) = range {
            inside = (from..to).contains(&address.addr());
        } else if inside && let Some(flags) = line.strip_prefix("VmFlags:") {
            return flags.split_whitespace().any(|flag| flag == "hg");
        }
    }
    panic!("nothing is mapped at {address:?}");
}
