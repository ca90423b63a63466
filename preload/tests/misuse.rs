//! Misuse ends the process at once: one line on stderr that names what was done, the address and
//! the thread, then SIGABRT. Each misuse runs in a child of its own.

mod common;

use common::{Outcome, compile, on_system, passes, run};
use std::os::unix::process::ExitStatusExt;

const DOUBLE_FREE: &str = "double free of ";
const INVALID_FREE: &str = "invalid free of ";
const INVALID_REALLOC: &str = "invalid realloc of ";
const INVALID_SIZE: &str = "invalid malloc_usable_size of ";

/// A size of each kind: slabs of one granule, larger slabs, runs of pages, a mapping of its own.
const SIZES: &[usize] = &[
    1, 16, 24, 100, 128, 500, 1000, 2048, 2049, 4096, 5000, 16384, 30000, 32768, 32769, 40_960,
    65_536, 102_400, 131_072, 200_000, 1_048_576, 5_000_000,
];

/// One size in each class of the first tens of KiB, and then in each doubling.
fn one_per_class() -> Vec<usize> {
    let small = (1..=8).map(|n| n * 16);
    let doublings = (7..15).flat_map(|log| (5..=8).map(move |quarter| (quarter << log) / 4));
    small.chain(doublings).chain(SIZES.iter().copied()).collect()
}

/// What is wrong with how the child ended, or nothing.
fn judge(outcome: &Outcome, kinds: &[&str]) -> Result<(), String> {
    if outcome.status.signal() != Some(libc::SIGABRT) {
        return Err(format!("no SIGABRT: {outcome}"));
    }
    let mut lines = outcome.stderr.lines();
    let (Some(line), None) = (lines.next(), lines.next()) else {
        return Err(format!("not exactly one line: {outcome}"));
    };
    let Some(what) = line.strip_prefix("arenite: ") else {
        return Err(format!("not from the allocator: {outcome}"));
    };
    let Some(rest) = kinds.iter().find_map(|kind| what.strip_prefix(kind)) else {
        return Err(format!("not one of {kinds:?}: {outcome}"));
    };
    let address = format!("{:#x}", outcome.number("address"));
    if rest.split(' ').next() != Some(&address) {
        return Err(format!("not the address {address}: {outcome}"));
    }
    let thread = format!(" in thread {}", outcome.number("thread"));
    if !rest.ends_with(&thread) {
        return Err(format!("does not end with `{thread}`: {outcome}"));
    }
    Ok(())
}

/// Runs the misuse in all variants and reports every one that did not end as it must.
#[track_caller]
fn all_abort(kinds: &[&str], variants: impl IntoIterator<Item = Vec<String>>) {
    let program = compile("misuse.c");
    if on_system() {
        return;
    }
    let mut tried = 0;
    let failures: Vec<String> = variants
        .into_iter()
        .inspect(|_| tried += 1)
        .filter_map(|args| {
            let verdict = judge(&run(&program, &args), kinds).err()?;
            Some(format!("misuse {}: {verdict}", args.join(" ")))
        })
        .collect();
    assert!(tried > 0, "no variant ran");
    assert!(
        failures.is_empty(),
        "{} of {tried} variants:\n{}",
        failures.len(),
        failures.join("\n")
    );
}

fn variant(mode: &str, size: impl ToString, offset: impl ToString) -> Vec<String> {
    vec![mode.to_owned(), size.to_string(), offset.to_string()]
}

#[track_caller]
fn in_all_sizes(kinds: &[&str], mode: &str) {
    all_abort(kinds, SIZES.iter().map(|size| variant(mode, size, 0)));
}

#[test]
fn double_free_at_once() {
    let sizes = one_per_class();
    all_abort(&[DOUBLE_FREE], sizes.iter().map(|size| variant("at_once", size, 0)));
}

#[test]
fn double_free_with_another_free_between() {
    in_all_sizes(&[DOUBLE_FREE], "with_another_between");
}

#[test]
fn double_free_after_many_others() {
    // The memory may be unmapped or merged by then, which makes it an invalid free.
    let sizes = SIZES.iter().filter(|size| **size <= 4096);
    all_abort(
        &[DOUBLE_FREE, INVALID_FREE],
        sizes.flat_map(|size| {
            [0, 1, 100, 2500, 4998].map(|k| variant("after_many_others", size, k))
        }),
    );
}

#[test]
fn double_free_among_live_blocks() {
    let sizes = SIZES.iter().filter(|size| **size <= 40_960);
    all_abort(&[DOUBLE_FREE], sizes.map(|size| variant("among_live", size, 0)));
}

#[test]
fn double_free_of_a_block_in_a_magazine() {
    let sizes = [48, 64, 112, 256, 1024, 2048, 4096, 8192];
    all_abort(&[DOUBLE_FREE], sizes.iter().map(|size| variant("in_a_magazine", size, 0)));
}

#[test]
fn double_free_of_a_block_of_a_closed_slab() {
    let sizes = [48, 112, 500, 1024];
    all_abort(&[DOUBLE_FREE], sizes.iter().map(|size| variant("of_a_closed_slab", size, 0)));
}

#[test]
fn double_free_of_a_kept_block() {
    let sizes = [40_000, 100_000, 40_000_000];
    all_abort(&[DOUBLE_FREE], sizes.iter().map(|size| variant("of_a_kept_block", size, 0)));
}

#[test]
fn double_free_from_another_thread() {
    in_all_sizes(&[DOUBLE_FREE], "from_another_thread");
}

#[test]
fn double_free_of_a_block_of_a_thread_that_ended() {
    in_all_sizes(&[DOUBLE_FREE], "of_a_gone_threads_block");
}

#[test]
fn double_free_after_a_free_by_a_thread_that_ended() {
    in_all_sizes(&[DOUBLE_FREE], "first_by_a_gone_thread");
}

#[test]
fn double_free_after_a_remote_free() {
    // 1 allocated the block, 0 freed it, 5 never had it.
    all_abort(
        &[DOUBLE_FREE, INVALID_FREE],
        [16, 100, 1000, 5000]
            .into_iter()
            .flat_map(|size| [0, 1, 5].map(|who| variant("after_a_remote_free", size, who))),
    );
}

#[test]
fn free_of_stack_and_static_memory() {
    all_abort(
        &[INVALID_FREE],
        ["of_stack", "of_static", "of_code"]
            .into_iter()
            .flat_map(|mode| [0, 8, 16, 1].map(|offset| variant(mode, 100, offset))),
    );
}

#[test]
fn free_of_an_interior_pointer() {
    let sizes = one_per_class();
    all_abort(
        &[INVALID_FREE],
        sizes.iter().flat_map(|&size| {
            let last = (size - 1) / 16 * 16;
            [1, 8, 16, size / 2, last]
                .into_iter()
                // A multiple of 16 that is not inside the block is another block.
                .filter(move |&offset| offset % 16 != 0 || (offset > 0 && offset < size))
                .flat_map(move |offset| {
                    ["interior", "interior_of_many"].map(|mode| variant(mode, size, offset))
                })
        }),
    );
}

#[test]
fn free_of_what_was_never_allocated() {
    // A few pages and many megabytes behind a block.
    all_abort(
        &[INVALID_FREE],
        [16, 100, 1000, 40_960].into_iter().flat_map(|size| {
            [16 << 10, 64 << 10, 100 << 10, 1 << 20, 30 << 20, 1 << 30, 1 << 40]
                .into_iter()
                .filter(move |far: &u64| *far > 3 * size)
                .map(move |far| variant("never_allocated", size, far))
        }),
    );
}

#[test]
fn free_of_numbers() {
    let numbers = [
        "0x1",
        "0x8",
        "0x10",
        "0x1000",
        "0xdeadbeef",
        "0xdeadbeefdeadbeef",
        "0x7fffffffffff",
        "0x7ffffffffff0",
        "0x800000000000",
        "0xffff800000000000",
        "0xfffffffffffffff0",
        "0xffffffffffffffff",
    ];
    all_abort(&[INVALID_FREE], numbers.iter().map(|number| variant("of_number", number, 0)));
    all_abort(
        &[INVALID_REALLOC],
        numbers.iter().map(|number| variant("realloc_number", number, 0)),
    );
}

#[test]
fn free_of_memory_the_program_mapped_itself() {
    all_abort(
        &[INVALID_FREE],
        ["of_foreign_mapping", "of_closed_mapping"]
            .into_iter()
            .flat_map(|mode| [0, 16, 24, 4096, 16384].map(|offset| variant(mode, 100, offset))),
    );
    all_abort(&[INVALID_FREE], [variant("of_foreign_break", 100, 0)]);
}

#[test]
fn realloc_of_a_freed_block() {
    in_all_sizes(&[INVALID_REALLOC, DOUBLE_FREE], "realloc_freed");
    in_all_sizes(&[INVALID_REALLOC, DOUBLE_FREE], "realloc_to_zero_of_freed");
}

#[test]
fn realloc_of_what_is_no_block() {
    all_abort(
        &[INVALID_REALLOC],
        SIZES.iter().flat_map(|&size| {
            [8, 16]
                .into_iter()
                .filter(move |&offset| offset < size)
                .map(move |offset| variant("realloc_interior", size, offset))
        }),
    );
    all_abort(&[INVALID_REALLOC], [variant("realloc_stack", 100, 0)]);
}

#[test]
fn malloc_usable_size_of_what_is_no_block() {
    all_abort(&[INVALID_SIZE], [variant("usable_stack", 100, 0)]);
}

#[test]
fn valid_programs_are_not_accused() {
    let outcome = passes("misuse.c", &["valid"]);
    assert!(outcome.stderr.is_empty(), "{outcome}");
}

#[test]
fn a_live_block_that_looks_free_is_no_double_free() {
    let outcome = passes("misuse.c", &["valid_looking_free"]);
    assert!(outcome.stderr.is_empty(), "{outcome}");
}

#[test]
fn stale_bytes_in_a_live_block_are_no_double_free() {
    passes("misuse.c", &["valid_stale_marks"]);
    let outcome = passes("misuse.c", &["valid_stale_bytes"]);
    assert!(outcome.stderr.is_empty(), "{outcome}");
}
