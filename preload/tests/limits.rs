//! What happens where there is little: limits on address space, data and stack, a break that can
//! not move, a library opened late, and how much a tiny program peaks at.

mod common;

use common::{Outcome, compile, finish, library, on_system, passes, run_limited};
use std::process::Command;

const MIB: u64 = 1 << 20;

#[track_caller]
fn limited(args: &[&str], resource: libc::__rlimit_resource_t, bytes: u64) -> Outcome {
    let outcome = run_limited(&compile("limits.c"), args, resource, bytes);
    outcome.expect_done();
    outcome
}

#[test]
fn starts_and_runs_in_256_mib_of_address_space() {
    limited(&["ordinary"], libc::RLIMIT_AS, 256 * MIB);
}

#[test]
fn reaches_the_address_space_limit_and_goes_on() {
    // Most of the limit is the program's to have, whatever the size of its blocks.
    limited(&["until_null", "128"], libc::RLIMIT_AS, 256 * MIB);
}

#[test]
fn threads_reach_the_address_space_limit_and_go_on() {
    limited(&["threads_at_the_limit"], libc::RLIMIT_AS, 100 * MIB);
}

#[test]
fn threads_start_at_the_address_space_limit() {
    limited(&["thread_without_memory"], libc::RLIMIT_AS, 128 * MIB);
}

#[test]
fn reaches_the_data_limit_and_goes_on() {
    limited(&["until_null", "24"], libc::RLIMIT_DATA, 64 * MIB);
}

#[test]
fn runs_with_odd_stack_limits() {
    // The stack limit decides where the kernel lets mappings begin, and with no limit it lays
    // them out the old way, from below.
    for bytes in [1_000_001, 200 * 1024 + 1, 3 * 1024 * MIB + 17, libc::RLIM_INFINITY] {
        limited(&["ordinary"], libc::RLIMIT_STACK, bytes);
    }
}

#[test]
fn refuses_what_the_machine_could_never_fill() {
    passes("limits.c", &["more_than_the_machine"]).expect_done();
}

#[test]
fn locked_memory_is_little() {
    passes("limits.c", &["locked"]).expect_done();
}

#[test]
fn goes_on_if_the_break_can_not_move() {
    passes("limits.c", &["blocked_break"]).expect_done();
}

#[test]
fn goes_on_with_the_break_when_it_can_move_again() {
    passes("limits.c", &["unblocked_break"]);
}

#[test]
fn a_break_that_moves_while_there_is_no_memory_is_the_programs() {
    passes("limits.c", &["break_without_memory"]);
}

#[test]
fn a_break_that_was_lowered_elsewhere_is_noticed() {
    passes("limits.c", &["lowered_break"]);
}

/// Runs a program that is not preloaded and opens the library itself.
#[track_caller]
fn opens(args: &[&str]) {
    let mut command = Command::new(compile("limits.c"));
    command.arg("opens");
    if on_system() {
        command.arg("-");
    } else {
        command.arg(library());
    }
    command.args(args);
    finish(command).expect_done();
}

#[test]
fn opened_by_a_running_program() {
    opens(&["alone"]);
}

#[test]
fn opened_by_a_running_program_with_threads() {
    for _ in 0..5 {
        opens(&["threads"]);
    }
}

#[test]
fn opened_and_closed() {
    opens(&["alone", "close"]);
    opens(&["threads", "close"]);
}

/// The median of some runs, in KiB, of the memory that is no page of a file. How many pages of files are
/// resident depends on where these lie in the page cache.
fn footprint(mode: &str, preloaded: bool) -> u64 {
    const RUNS: usize = 9;
    let mut footprints: Vec<u64> = (0..RUNS)
        .map(|_| {
            let mut command = Command::new(compile("limits.c"));
            command.arg(mode);
            if preloaded {
                command.env("LD_PRELOAD", library());
            }
            let outcome = finish(command);
            outcome.expect_success();
            outcome.number("anonymous_kib")
        })
        .collect();
    footprints.sort_unstable();
    footprints[RUNS / 2]
}

#[test]
fn a_tiny_program_holds_at_most_96_kib_more_than_on_glibc() {
    let footprints = ["tiny", "tiny_idle"]
        .map(|mode| (mode, footprint(mode, !on_system()), footprint(mode, false)));
    let too_much: Vec<_> =
        footprints.iter().filter(|(_, ours, glibcs)| *ours > glibcs + 96).collect();
    assert!(too_much.is_empty(), "mode, KiB, KiB on glibc: {footprints:?}");
}
