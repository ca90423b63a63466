//! The helper thread: when it sleeps, where it runs, and what else depends on where threads run.

mod common;

use common::{compile, on_system, passes, run_in};

const QUICK: [(&str, &str); 1] = [("ARENITE_CONF", "decay_ms:160")];

#[test]
fn sleeps_beside_memory_that_the_kernel_does_not_take() {
    run_in(&compile("helper.c"), &["sleeps_beside_locked"], &QUICK).expect_done();
}

#[test]
fn sleeps_in_children_of_a_busy_process() {
    run_in(&compile("helper.c"), &["sleeps_in_children"], &QUICK).expect_done();
}

#[test]
fn runs_as_the_program_not_as_who_started_it() {
    passes("helper.c", &["runs_as_the_program"]).expect_done();
}

#[test]
fn is_tried_again_when_no_thread_was_to_be_had() {
    run_in(&compile("helper.c"), &["starts_later"], &QUICK).expect_done();
}

#[test]
fn is_not_there_for_the_last_thread() {
    run_in(&compile("helper.c"), &["none_for_the_last_thread"], &QUICK).expect_done();
}

#[test]
fn is_there_beside_threads_without_blocks() {
    run_in(&compile("helper.c"), &["starts_beside_threads_without_blocks"], &QUICK).expect_done();
}

#[test]
fn is_started_by_the_process_and_not_by_a_child_in_its_memory() {
    run_in(&compile("helper.c"), &["starts_after_a_vfork"], &QUICK).expect_done();
}

#[test]
fn is_one_in_the_child_of_a_handler_that_interrupted_its_start() {
    run_in(&compile("helper.c"), &["starts_one_where_a_handler_forks"], &QUICK).expect_done();
}

#[test]
fn a_thread_with_one_cpu_is_no_measure_of_the_process() {
    let outcome = passes("helper.c", &["counts_cpus_before_pins"]);
    let arenas = outcome.stderr.lines().find_map(|line| line.strip_prefix("arenas         = "));
    assert!(on_system() || outcome.number("cpus") == 1 || arenas == Some("2"), "{outcome}");
}
